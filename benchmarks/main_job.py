"""The main job: learn a world model, plan with it, evaluate; Stable-Baselines3 SAC beside it.

    python benchmarks/main_job.py                     # all rows, seeds 0 1 2 (about an hour on 2 cores)
    python benchmarks/main_job.py --quick             # one seed of Pendulum, a few minutes
    python benchmarks/main_job.py --rows reacher/mpc --seeds 0

Every run evaluates 10 episodes (deterministic, start seeds of their own) along the way; the wall clock
counts learning and acting, not these evaluations. Results that are there already are skipped.
"""

from __future__ import annotations

import argparse
import csv
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _table import RESULTS, Result, append, is_done, read, setting
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback

from ode_rl.agents import MPC
from ode_rl.evaluate import evaluate_agent

EPISODES = 10


@dataclass(frozen=True)
class Task:
    """What is asked of a task: `threshold` after at most `steps` within `minutes`; evaluated at `points`."""

    env_id: str
    points: tuple[int, ...]
    steps: int
    aim_steps: int
    threshold: float
    aim: float
    minutes: float


TASKS = {
    "pendulum": Task("Pendulum-v1", (200, 300, 400, 600), 600, 200, -200.0, -200.0, 2.0),
    "inverted-pendulum": Task("InvertedPendulum-v5", (1000, 2000, 3000), 5000, 1000, 950.0, 950.0, 15.0),
    "reacher": Task("Reacher-v5", (1000, 2500, 5000), 10_000, 5000, -5.0, -3.75, 30.0),
}
# The learning rate of rl-baselines3-zoo for Pendulum; elsewhere the defaults of Stable-Baselines3.
SAC_SETTINGS: dict[str, dict[str, Any]] = {"Pendulum-v1": {"learning_rate": 1e-3}}


class Curve(BaseCallback):
    """Evaluate at the given steps, outside the clock."""

    def __init__(self, task: Task, path: Path) -> None:
        super().__init__()
        self.task, self.path = task, path
        self.points = list(task.points)
        self.outside = 0.0
        self.rows: list[dict[str, float]] = []

    def _on_training_start(self) -> None:
        self.began = time.perf_counter()

    def wall(self) -> float:
        """Seconds of learning and acting so far."""
        return time.perf_counter() - self.began - self.outside

    def _on_step(self) -> bool:
        # One step late: what was fitted after step n belongs to n steps.
        if self.points and self.num_timesteps > self.points[0]:
            self.evaluate(self.points.pop(0))
        return True

    def evaluate(self, env_steps: int) -> float:
        """Append a row of the curve and return its mean."""
        wall, start = self.wall(), time.perf_counter()
        found = evaluate_agent(self.model, self.task.env_id, EPISODES)
        self.outside += time.perf_counter() - start
        row = {
            "env_steps": env_steps,
            "wall_s": round(wall, 1),
            "mean_return": round(found.mean_return, 4),
            "std_return": round(found.std_return, 4),
            "n_episodes": EPISODES,
        }
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        print(f"  {self.path.stem}: {row}", flush=True)
        return found.mean_return


def run(row: str, seed: int, out: Path, curves: Path) -> None:
    """Measure one row with one seed."""
    name, agent_name = row.split("/")
    task = TASKS[name]
    model = "ode" if agent_name == "mpc" else "none"
    curve = Curve(task, curves / f"{task.env_id}__{agent_name}__{model}__{seed}.csv")
    if agent_name == "mpc":
        agent: Any = MPC(task.env_id, seed=seed)
    else:
        agent = SAC("MlpPolicy", task.env_id, seed=seed, device="cpu", **SAC_SETTINGS.get(task.env_id, {}))
    last = max(task.points)
    agent.learn(last, callback=curve)
    wall = curve.wall()
    for point in curve.points:
        curve.evaluate(point)
    command = f"python benchmarks/main_job.py --threads {torch.get_num_threads()} --rows {row} --seeds {seed}"
    about = dict(row=row, task=task.env_id, agent=agent_name, model=model, seed=str(seed), dt_ratio="1")
    about |= dict(command=command, versions=setting())
    asked = agent_name == "mpc"
    results = [
        _result(about, f"return at {int(r['env_steps'])} steps", r["mean_return"], "return")
        for r in curve.rows
    ]
    results[-1] = _result(
        about,
        "final return",
        curve.rows[-1]["mean_return"],
        "return",
        f">= {task.threshold:g}" if asked else "",
    )
    results.insert(-1, _result(about, f"return at {last} steps", curve.rows[-1]["mean_return"], "return"))
    results.append(_result(about, "environment steps", last, "steps", f"<= {task.steps}" if asked else ""))
    results.append(_result(about, "wall clock", wall, "s", f"<= {task.minutes * 60:g}" if asked else ""))
    append(out, results)


def _result(about: dict[str, str], metric: str, value: float, unit: str, asked: str = "") -> Result:
    met = ""
    if asked:
        bound = float(asked.split()[1])
        met = str(value >= bound if asked.startswith(">=") else value <= bound)
    return Result(metric=metric, value=value, unit=unit, asked=asked, ok=met, **about)


def summary(out: Path) -> str:
    """A Markdown table: means over seeds."""
    rows = read(out)
    lines = ["| task | agent | seeds | steps | return, mean of the seeds (each) | wall clock, worst seed |"]
    lines.append("|---|---|---|---|---|---|")
    for row in dict.fromkeys(r["row"] for r in rows):
        mine = [r for r in rows if r["row"] == row]
        finals = [float(r["value"]) for r in mine if r["metric"] == "final return"]
        walls = [float(r["value"]) for r in mine if r["metric"] == "wall clock"]
        steps = next(r["value"] for r in mine if r["metric"] == "environment steps")
        each = ", ".join(f"{value:.1f}" for value in finals)
        mean = sum(finals) / len(finals)
        lines.append(
            f"| {mine[0]['task']} | {mine[0]['agent']} | {len(finals)} | {float(steps):.0f} "
            f"| {mean:.1f} ({each}) | {max(walls):.0f} s |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure what is asked for and not there yet."""
    every = [f"{task}/{agent}" for task in TASKS for agent in ("mpc", "sac")]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", default=every, choices=every)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="measure seed 0 of pendulum/mpc again")
    parser.add_argument("--out", type=Path, default=RESULTS / "main_job.csv")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.quick:
        args.rows, args.seeds = ["pendulum/mpc"], [0]
        args.out = args.out.with_name("main_job_quick.csv")
        args.out.unlink(missing_ok=True)
    curves = args.out.parent / ("curves_quick" if args.quick else "curves") / "main_job"
    for row in args.rows:
        for seed in args.seeds:
            if not is_done(args.out, row=row, seed=str(seed), metric="final return"):
                print(f"{row}, seed {seed}", flush=True)
                run(row, seed, args.out, curves)
    print(summary(args.out))


if __name__ == "__main__":
    main()
