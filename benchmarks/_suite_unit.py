"""One unit of the suite: a training in a run folder that can be resumed, its curve, and its numbers."""

from __future__ import annotations

import csv
import math
import shutil
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from _suite_plan import MODEL_FREE, SHARE, Task, Unit
from _table import Result, append, read, setting

from ode_rl.checkpoint import read_checkpoint
from ode_rl.compare import Run, read_runs, solved
from ode_rl.evaluate import evaluate_agent
from ode_rl.files import read_json
from ode_rl.load_agent import true_agent
from ode_rl.robustness import RandomActions
from ode_rl.run import RunFolder
from ode_rl.train import TrainConfig, resume, train

EPISODES = 10
FINAL = "final return"
# Seconds that one training may take.
MOST_SECONDS = 9000

Number = tuple[str, float, str, str, bool | None]
"""Metric, value, unit, what was asked, whether it was reached."""


def measure(unit: Unit, task: Task, out: Path, runs: Path, command: str) -> None:
    """Measure a unit and store its curve and its numbers; what was cut off goes on from its checkpoint."""
    if unit.is_reference:
        append(out, _results(unit, command, [(FINAL, _reference(unit), "return", "", None)]))
        return
    folder = _trained(unit, task, runs)
    run = read_runs([folder])[0][0]
    meta = read_checkpoint(folder.newest_checkpoint()).meta
    wall = _learning_seconds(folder, run, meta)
    _write_curve(run, wall, unit.curve(out))
    final = read_json(folder.evaluation)
    numbers = _numbers(unit, run, threshold_of(task, read(out)), task.must, final)
    append(out, _results(unit, command, [*_costs(unit, wall[-1], meta, final), *numbers]))


def _reference(unit: Unit) -> float:
    if unit.agent == "mpc":
        agent: Any = true_agent(unit.env_id).agent
    else:
        env = gymnasium.make(unit.env_id)
        agent = RandomActions(env.action_space, unit.seed)
        env.close()
    return evaluate_agent(agent, unit.env_id, EPISODES).mean_return


def _trained(unit: Unit, task: Task, runs: Path) -> RunFolder:
    """The run folder of the unit, with its training at its end."""
    path = runs / f"{unit.name}__{unit.steps}"
    config = path / "config.json"
    if config.is_file() and config.stat().st_size:
        resume(path, video=False, progress=False)
        return RunFolder.open(path)
    if path.exists():  # a run that never began
        shutil.rmtree(path)
    asked = TrainConfig(
        unit.env_id,
        unit.agent,
        model=None if unit.model == "none" else unit.model,
        steps=unit.steps,
        seed=unit.seed,
        run_dir=str(path),
        eval_episodes=EPISODES,
        eval_freq=min(task.eval_freq, unit.steps),
        curve_episodes=EPISODES,
        video=False,
        progress=False,
    )
    return train(asked).run


def _learning_seconds(folder: RunFolder, run: Run, meta: dict[str, Any]) -> np.ndarray:
    """Real seconds of learning and acting until each evaluation of the curve, without evaluations."""
    evaluated, cost = np.zeros(0), np.zeros(0)
    if folder.evaluations.is_file():
        with np.load(folder.evaluations, allow_pickle=False) as log:
            evaluated, cost = log["timesteps"], log["eval_s"]
    episodes = folder.read_episodes()
    at = np.array([0.0, *(e.env_steps for e in episodes), run.env_steps[-1]])
    wall = np.array([0.0, *(e.wall_s for e in episodes), float(meta["run"]["wall_s"])])
    before = np.array([cost[evaluated < step].sum() for step in at])
    before[-1] = cost.sum()
    return np.interp(run.env_steps, at, np.maximum.accumulate(wall - before))


def _write_curve(run: Run, wall: np.ndarray, path: Path) -> None:
    spread = run.errors * math.sqrt(EPISODES)
    rows = [
        {
            "env_steps": int(step),
            "wall_s": round(float(seconds), 1),
            "mean_return": round(float(mean), 4),
            "std_return": round(float(std), 4),
            "n_episodes": EPISODES,
        }
        for step, seconds, mean, std in zip(run.env_steps, wall, run.returns, spread, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _costs(unit: Unit, wall: float, meta: dict[str, Any], final: dict[str, Any]) -> list[Number]:
    """What was spent, as the checkpoint and the clock say it."""
    world, counts = meta.get("world", {}), meta.get("algorithm", {}).get("counts", {})
    spent = {
        "fits": meta.get("fits", world.get("fits")),
        "plans scored": meta.get("plan", {}).get("scored"),
        "gradient steps": counts.get("_n_updates"),
        **{name.replace("_", " "): value for name, value in world.get("spent", {}).items()},
    }
    asked, ok = ("", None) if unit.agent in MODEL_FREE else (f"<= {MOST_SECONDS}", wall <= MOST_SECONDS)
    return [
        ("environment steps", unit.steps, "steps", "", None),
        ("wall clock", wall, "s", asked, ok),
        ("wall clock per step", wall / unit.steps, "s", "", None),
        *((f"{name} per step", n / unit.steps, "", "", None) for name, n in spent.items() if n is not None),
        ("decision", float(final["ms_per_decision"]), "ms", "", None),
    ]


def _numbers(unit: Unit, run: Run, threshold: float | None, must: int, final: dict[str, Any]) -> list[Number]:
    """What was reached, the final return last."""
    reached = float(final["mean_return"])
    if threshold is None:
        return [(FINAL, reached, "return", "", None)]
    first = solved(run, threshold).env_steps
    steps = math.inf if first is None else first
    if unit.agent in MODEL_FREE:  # what others are compared with
        return [("steps to threshold", steps, "steps", "", None), (FINAL, reached, "return", "", None)]
    return [
        ("steps to threshold", steps, "steps", f"<= {must}", steps <= must),
        (FINAL, reached, "return", f">= {threshold:g}", reached >= threshold),
    ]


def threshold_of(task: Task, rows: list[dict[str, str]]) -> float | None:
    """The return that is asked for; None as long as what it depends on was not measured."""
    if task.threshold is not None:
        return task.threshold
    if task.sac_steps:
        mine = [r for r in rows if r["task"] == task.env_id and r["agent"] == "sac"]
        seeds = {
            r["seed"]
            for r in mine
            if r["metric"] == "environment steps" and float(r["value"]) >= task.sac_steps
        }
        found = [float(r["value"]) for r in mine if r["metric"] == FINAL and r["seed"] in seeds]
        return sum(found) / len(found) if found else None
    best, random = (
        _final(rows, task, agent, model) for agent, model in (("mpc", "true"), ("random", "none"))
    )
    if best is None or random is None:
        return None
    return random + SHARE * (best - random)


def _final(rows: list[dict[str, str]], task: Task, agent: str, model: str) -> float | None:
    key = {"task": task.env_id, "agent": agent, "model": model, "metric": FINAL}
    found = [float(r["value"]) for r in rows if all(r[name] == value for name, value in key.items())]
    return found[0] if found else None


def _results(unit: Unit, command: str, numbers: list[Number]) -> list[Result]:
    about = {**unit.key, "row": unit.row, "dt_ratio": "1", "command": command, "versions": setting()}
    return [
        Result(
            metric=metric,
            value=float(value),
            unit=measured_in,
            asked=asked,
            ok="" if ok is None else str(bool(ok)),
            **about,
        )
        for metric, value, measured_in, asked, ok in numbers
    ]
