"""Memories that know the time: CfC and GRU-ODE against an LSTM that sees it too, under RecurrentPPO.

    python benchmarks/recurrent_policy.py                # all rows: Pendulum seeds 0-4, HalfCheetah seeds 0-1
    python benchmarks/recurrent_policy.py --quick        # seed 0 of pendulum/cfc, 20,000 steps, a few minutes
    python benchmarks/recurrent_policy.py --rows pendulum/lstm --seeds 0

Velocities are hidden, half of the observations are lost (what was seen last is shown, with a flag), and every
control interval is drawn from 0.4 to 1.6 native ones; each agent sees how long the last one was, and its
action. All have the same settings, steps and, to one unit of the hidden size, the same number of parameters.
They are trained on rewards per native step: what an interval of unknown length adds up is noise to a critic,
and drowns the rest.
The LSTM is `MultiInputLstmPolicy` of sb3-contrib with all its inputs normalised, the time too. Along the way
10 episodes (deterministic, start seeds of their own) are evaluated, 30 at the end, outside of the clock. Runs
whose results are there are skipped.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from _table import RESULTS, Result, append, is_done, read, setting
from sb3_contrib import RecurrentPPO
from sb3_contrib.ppo_recurrent import MultiInputLstmPolicy
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize, sync_envs_normalization
from torch import nn

from ode_rl.agents import CfCPolicy, GRUODEPolicy
from ode_rl.envs import partly_observed

EVALUATION_SEED = 1_000_000
DROPOUT, DT_RANGE, NATIVE = 0.5, (0.02, 0.08), 0.05
POINTS, EPISODES, LAST_EPISODES = 10, 10, 30
LSTM_HIDDEN = 64
POLICIES: dict[str, Any] = {"lstm": MultiInputLstmPolicy, "cfc": CfCPolicy, "gru-ode": GRUODEPolicy}


@dataclass(frozen=True)
class Task:
    """A task with its PPO settings, which were chosen for the LSTM, on seed 100."""

    env_id: str
    seeds: tuple[int, ...]
    ppo: dict[str, Any]
    policy: dict[str, Any] = field(default_factory=dict)
    n_envs: int = 64

    @property
    def name(self) -> str:
        """Name of the task in tables and of its curves."""
        return f"{self.env_id.replace('/', '-')}-partly-observed"


# No state-dependent exploration (gSDE): its noise grows with the features, and an untrained CfC would explore
# with twice the noise of an LSTM.
# Large batches: sb3-contrib makes them of neighbouring sequences, and 4 of them are too like each other.
COMMON = {"n_steps": 32, "batch_size": 1024, "n_epochs": 10, "gae_lambda": 0.9}
TASKS = {
    "pendulum": Task(
        "ode_rl/Pendulum-v0",
        (0, 1, 2, 3, 4),
        {**COMMON, "learning_rate": 1e-3, "gamma": 0.9},
        {"net_arch": [64], "ortho_init": False, "activation_fn": nn.ReLU},
    ),
    "half-cheetah": Task(
        "HalfCheetah-v5",
        (0, 1),
        {**COMMON, "n_steps": 64, "learning_rate": 1e-3, "gamma": 0.98},
        {"net_arch": [64], "ortho_init": False, "activation_fn": nn.ReLU},
        n_envs=16,
    ),
}


class RewardRate(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Rewards as if every interval lasted as long as a native one."""

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, float(reward) * NATIVE / info["dt"], terminated, truncated, info


class Staggered(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Cuts the first episode after `first` steps.

    Copies that start together and have short roll-outs would show all of them the same part of an episode.
    """

    def __init__(self, env: Any, first: int) -> None:
        super().__init__(env)
        self.left = first

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.left -= 1
        return obs, reward, terminated, truncated or self.left == 0, info


def training_env(task: Task, model: str) -> VecNormalize:
    """Copies of the task, spread over the steps of an episode."""
    env = gymnasium.make(task.env_id)
    steps = env.spec.max_episode_steps if env.spec else None
    # In no order: sb3-contrib makes its batches of neighbours, which would all be in the same part.
    shares = (1 + np.random.default_rng(0).permutation(task.n_envs)) / task.n_envs
    makers: list[Any] = [partial(_make, task, round(share * (steps or 1))) for share in shares]
    return VecNormalize(DummyVecEnv(makers), gamma=task.ppo["gamma"], norm_obs_keys=_normalised(model))


def evaluation_env(task: Task, model: str, n_envs: int) -> VecNormalize:
    """`n_envs` copies of the task that keep the scale of the training."""
    env = DummyVecEnv([partial(_make, task)] * n_envs)
    return VecNormalize(env, training=False, norm_reward=False, norm_obs_keys=_normalised(model))


def _make(task: Task, first: int | None = None) -> Any:
    env = partly_observed(task.env_id, DT_RANGE, DROPOUT)
    return Monitor(env if first is None else Staggered(RewardRate(env), first))


def _normalised(model: str) -> list[str]:
    """What is normalised: for the LSTM the time as well, the other two need seconds."""
    return ["observation", "dt"] if model == "lstm" else ["observation"]


def policy_kwargs(task: Task, model: str, hidden: int) -> dict[str, Any]:
    """Arguments of a policy; the backbone of a CfC is as wide as its hidden state."""
    own: dict[str, dict[str, Any]] = {"cfc": {"backbone_units": hidden}}
    return {**task.policy, "lstm_hidden_size": hidden, **own.get(model, {})}


def make_agent(task: Task, model: str, hidden: int, seed: int) -> RecurrentPPO:
    """An untrained agent on its own environments."""
    return RecurrentPPO(
        POLICIES[model],
        training_env(task, model),
        seed=seed,
        device="cpu",
        policy_kwargs=policy_kwargs(task, model, hidden),
        **task.ppo,
    )


def n_parameters(task: Task, model: str, hidden: int) -> int:
    """Learned numbers of a policy."""
    env = partly_observed(task.env_id, DT_RANGE, DROPOUT)
    policy = POLICIES[model](
        env.observation_space,
        env.action_space,
        lambda _: 0.0,
        **policy_kwargs(task, model, hidden),
    )
    return sum(p.numel() for p in policy.parameters())


def equal_hidden(task: Task, model: str) -> int:
    """The hidden size whose policy has the number of parameters nearest to that of the LSTM's."""
    wanted = n_parameters(task, "lstm", LSTM_HIDDEN)
    lo, hi = LSTM_HIDDEN // 2, 2 * LSTM_HIDDEN
    while hi - lo > 1:  # more hidden units have more parameters
        middle = (lo + hi) // 2
        lo, hi = (middle, hi) if n_parameters(task, model, middle) <= wanted else (lo, middle)
    return min((lo, hi), key=lambda hidden: abs(n_parameters(task, model, hidden) - wanted))


class Curve(BaseCallback):
    """Evaluates at equal numbers of steps, outside of the clock, and writes the curve."""

    def __init__(self, task: Task, model: str, steps: int, path: Path) -> None:
        super().__init__()
        self.path = path
        self.points = [steps * (k + 1) // POINTS for k in range(POINTS - 1)]
        self.env = evaluation_env(task, model, EPISODES)
        self.last_env = evaluation_env(task, model, LAST_EPISODES)
        self.outside = 0.0
        self.rows: list[dict[str, float]] = []

    def _on_training_start(self) -> None:
        self.began = time.perf_counter()

    def _on_step(self) -> bool:
        if self.points and self.num_timesteps >= self.points[0]:
            self.points.pop(0)
            self.evaluate(self.env)
        return True

    def evaluate(self, env: VecNormalize) -> list[float]:
        """Append a row to the curve; return the returns of one episode of each environment."""
        start = time.perf_counter()
        wall = start - self.began - self.outside
        agent: Any = self.model
        sync_envs_normalization(agent.get_env(), env)
        env.seed(EVALUATION_SEED)
        returns: Any = evaluate_policy(agent, env, env.num_envs, return_episode_rewards=True)[0]
        row = {
            "env_steps": self.num_timesteps,
            "wall_s": round(wall, 1),
            "mean_return": round(float(np.mean(returns)), 4),
            "std_return": round(float(np.std(returns)), 4),
            "n_episodes": env.num_envs,
        }
        self.rows.append(row)
        print(f"  {self.path.stem}: {row}", flush=True)
        self.outside += time.perf_counter() - start
        return [float(each) for each in returns]

    def write(self) -> None:
        """Write the curve."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(self.rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)


def run(row: str, seed: int, steps: int, out: Path, curves: Path) -> None:
    """Train and evaluate one policy with one seed."""
    name, model = row.split("/")
    task = TASKS[name]
    hidden = equal_hidden(task, model)
    agent = make_agent(task, model, hidden, seed)
    curve = Curve(task, model, steps, curves / f"{task.name}__recurrent-ppo__{model}__{seed}.csv")
    agent.learn(steps, callback=curve)
    wall = time.perf_counter() - curve.began - curve.outside
    final = curve.evaluate(curve.last_env)
    curve.write()
    measured = {
        "parameters": (n_parameters(task, model, hidden), ""),
        "hidden size": (hidden, ""),
        "environment steps": (agent.num_timesteps, "steps"),
        "wall clock": (wall, "s"),
        "mean return along the curve": (statistics.mean(r["mean_return"] for r in curve.rows), "return"),
        "final return": (statistics.mean(final), "return"),
    }
    command = f"python benchmarks/recurrent_policy.py --threads {torch.get_num_threads()} --rows {row} "
    command += f"--seeds {seed} --steps {steps}"
    lo, hi = (seconds / NATIVE for seconds in DT_RANGE)
    about = dict(row=row, task=task.name, agent="recurrent-ppo", model=model, seed=str(seed))
    about |= dict(dt_ratio=f"{lo:g}-{hi:g}", asked="", ok="", command=command, versions=setting())
    append(out, [Result(metric=m, value=v, unit=unit, **about) for m, (v, unit) in measured.items()])


def summary(out: Path) -> str:
    """A Markdown table: means over the seeds, and how far each policy is from the LSTM."""
    lines = [
        "| task | policy | seeds | parameters | final return (standard error) | against the LSTM | wall |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    rows = read(out)
    finals: dict[str, list[float]] = {}
    for row in dict.fromkeys(r["row"] for r in rows):
        found: dict[str, list[float]] = {}
        for r in rows:
            if r["row"] == row:
                found.setdefault(r["metric"], []).append(float(r["value"]))
        finals[row] = found["final return"]
        task, model = row.split("/")
        lines.append(
            f"| {task} | {model} | {len(finals[row])} | {found['parameters'][0]:.0f} "
            f"| {_mean(finals[row]):.1f} ({_error(finals[row]):.1f}) "
            f"| {_against(finals[row], finals.get(f'{task}/lstm'))} "
            f"| {max(found['wall clock']):.0f} s |"
        )
    return "\n".join(lines)


def _mean(values: list[float]) -> float:
    return statistics.mean(values)


def _error(values: list[float]) -> float:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def _against(mine: list[float], lstm: list[float] | None) -> str:
    if lstm is None or mine is lstm:
        return ""
    return f"{_mean(mine) - _mean(lstm):+.1f} ({(_error(mine) ** 2 + _error(lstm) ** 2) ** 0.5:.1f})"


def main() -> None:
    """Measure what is asked for and not there yet."""
    every = [f"{task}/{model}" for task in TASKS for model in POLICIES]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", default=every, choices=every)
    parser.add_argument("--seeds", nargs="+", type=int, help="default: those of each task")
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--quick", action="store_true", help="seed 0 of pendulum/cfc, 20,000 steps")
    parser.add_argument("--out", type=Path, default=RESULTS / "recurrent_policy.csv")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.quick:
        args.rows, args.seeds, args.steps = ["pendulum/cfc"], [0], 20_000
        args.out = args.out.with_name("quick_recurrent_policy.csv")
        args.out.unlink(missing_ok=True)
    curves = args.out.parent / ("curves_quick" if args.quick else "curves")
    # Seed by seed, so that a table that is cut short has whole comparisons.
    runs = [(seed, row) for row in args.rows for seed in args.seeds or TASKS[row.split("/")[0]].seeds]
    for seed, row in sorted(runs, key=lambda run: run[0]):
        if not is_done(args.out, row=row, seed=str(seed), metric="final return"):
            print(f"{row}, seed {seed}", flush=True)
            run(row, seed, args.steps, args.out, curves)
    print(summary(args.out))


if __name__ == "__main__":
    main()
