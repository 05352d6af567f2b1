"""Swing-ups: how much experience a policy needs until it has the task up and keeps it there.

Solved is, as in Yildiz et al. (ICML 2021, arXiv 2102.04764), what every one of 10 tests of 30 s shows after
the swing: here from t_s on, the slowest settling time of the planner on the true dynamics from the same
starts plus a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from _rows import Table
from _table import Result, read
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

from ode_rl.agents import ODEPolicy
from ode_rl.agents.true_mpc import TrueMPC
from ode_rl.envs import ControlInterval, TrueDynamics
from ode_rl.envs.intervals import Intervals
from ode_rl.envs.smooth import SmoothTask
from ode_rl.evaluate import Watcher
from ode_rl.known import NOTHING_KNOWN, Known

TESTS, SECONDS, FIRST_SEED, FRESH_SEED = 10, 30.0, 1000, 2000
NATIVE = 0.05
SAMPLINGS: dict[str, Intervals | None] = {
    "fixed": None,
    "uniform": Intervals("uniform", 0.005, 0.095),
    "exponential": Intervals("exponential", 0.005, 0.25, scale=0.0465),
}

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Task:
    """A swing-up, asked for within `seconds` of experience. It is up where the reward of an interval, in
    units of a native step, is at least `least`, or the cosine of its first angle."""

    env_id: str
    seconds: float
    aim: float
    least: float = 0.8
    by_cosine: bool = False
    horizon: float = 2.0
    """Of the planner on the true dynamics."""


TASKS = (
    Task("ode_rl/Pendulum-v0", 40.0, 20.0, 0.89, by_cosine=True, horizon=1.5),
    Task("ode_rl/CartPoleSwingUp-v0", 120.0, 60.0),
    Task("ode_rl/Acrobot-v0", 200.0, 100.0),
)


def made(task: Task, sampling: str) -> Any:
    """The task, sampled in this way."""
    env, drawn = gymnasium.make(task.env_id), SAMPLINGS[sampling]
    return env if drawn is None else ControlInterval(env, dt=drawn)


def settled(agent: Any, task: Task, sampling: str, first_seed: int, seconds: float = SECONDS) -> Floats:
    """Seconds ``[TESTS]`` after which the task is up and stays so to the end; `seconds` where it is not."""
    envs = [gymnasium.make(task.env_id).unwrapped for _ in range(TESTS)]
    tasks: list[Any] = [env for env in envs if isinstance(env, SmoothTask)]
    for i, env in enumerate(tasks):
        env.reset(seed=first_seed + i)
    if isinstance(agent, Watcher):
        agent.watch(tasks)
    rng, drawn = np.random.default_rng(first_seed), SAMPLINGS[sampling]
    state = np.stack([env.get_state() for env in tasks])
    clock, up_since, memory = np.zeros(TESTS), np.zeros(TESTS), None
    while (going := clock < seconds - 1e-9).any():
        dt = np.array([NATIVE if drawn is None else drawn.sample(rng) for _ in range(TESTS)])
        obs, starts = tasks[0].observe(state), np.full(TESTS, not clock.any())
        actions, memory = agent.predict(obs, memory, starts, dt=dt)
        # All tests in one solve, which is what their steps would be one by one.
        state, reward = tasks[0].simulate(state, actions, dt)
        clock = clock + dt
        after = tasks[0].observe(state)
        quality = after[:, 0] if task.by_cosine else reward * NATIVE / dt
        up_since = np.where(going & (quality < task.least), np.minimum(clock, seconds), up_since)
        for env, one in zip(tasks, state, strict=True):
            env.set_state(one)
    return up_since


def settling(table: Table, seed: int) -> None:
    """How soon the planner on the true dynamics has each task up, from the ten starts of the tests."""
    for task in TASKS:
        if table.wants(task.env_id, "true", seed):
            _measure_settling(table, task, seed)


def _measure_settling(table: Table, task: Task, seed: int) -> float:
    env = made(task, "fixed")
    space: Any = env.action_space
    planner = {"candidates": 100, "iterations": 4, "init_std": 0.7, "noise_exponent": 2.0}
    plan: dict[str, Any] = {
        "horizon": task.horizon,
        "knots": "linear",
        "n_knots": 11,
        "growth": 1.05,
        "planner": planner,
    }
    agent = TrueMPC(TrueDynamics(env), task.env_id, space.low, space.high, None, seed, **plan)
    began = time.perf_counter()
    found = settled(agent, task, "fixed", FIRST_SEED, 10.0)
    numbers = [
        table.number(task.env_id, "true", seed, "settling time, slowest of 10", float(found.max()), "s"),
        table.number(task.env_id, "true", seed, "settling time, mean of 10", float(found.mean()), "s"),
        table.number(task.env_id, "true", seed, "wall clock", time.perf_counter() - began, "s"),
    ]
    table.write(task.env_id, "true", seed, numbers)
    return float(found.max())


def allowed(table: Table, task: Task) -> float:
    """t_s: the slowest settling time of the planner plus a second, measured now if it was not before."""
    for row in read(table.path):
        if (row["row"], row["task"]) == ("settling", task.env_id) and row["metric"].endswith("slowest of 10"):
            return float(row["value"]) + 1.0
    own = Table(table.path, "settling", table.command, None)
    return _measure_settling(own, task, 0) + 1.0


class UntilSolved(BaseCallback):
    """Test the policy after every round of learning, and end the training when it has solved the task."""

    def __init__(self, task: Task, sampling: str, t_s: float) -> None:
        super().__init__()
        self.task, self.sampling, self.t_s = task, sampling, t_s
        self.rounds, self.outside = 0, 0.0
        self.solved_at: float | None = None
        self.slowest = SECONDS

    def _on_training_start(self) -> None:
        self.began, self.worked = time.perf_counter(), time.process_time()

    def _on_step(self) -> bool:
        agent: Any = self.model
        if agent.rounds > self.rounds:
            self.rounds = agent.rounds
            # What was learned just before this step belongs to the experience before it.
            self.test(agent, float(agent.buffer.arrays().dt[:-1].sum()))
        return self.solved_at is None

    def test(self, agent: Any, experience: float) -> None:
        """Let the policy alone be tested."""
        start, worked = time.perf_counter(), time.process_time()
        found = settled(agent, self.task, self.sampling, FIRST_SEED)
        self.outside += time.perf_counter() - start
        self.worked += time.process_time() - worked
        self.slowest = float(found.max())
        n_up = int((found <= self.t_s).sum())
        print(
            f"  {self.task.env_id} {self.sampling}: {n_up} of {TESTS} after {experience:.0f} s, slowest "
            f"{self.slowest:.1f} s ({self.wall():.0f} s)",
            flush=True,
        )
        if n_up == TESTS:
            self.solved_at = experience

    def wall(self) -> float:
        """Seconds of learning and acting so far."""
        return time.perf_counter() - self.began - self.outside

    def work(self) -> float:
        """Seconds of the processor in the same time: those of an idle machine, on one thread."""
        return time.process_time() - self.worked

    def numbers(self, table: Table, seed: int, policy: Any, most: float, grace: float = 0.0) -> list[Result]:
        """What was reached, with `policy` tested from fresh starts; asked is `most` seconds of experience."""
        wall, work, task = self.wall(), self.work(), self.task
        fresh = settled(policy, task, self.sampling, FRESH_SEED)
        at = float("inf") if self.solved_at is None else self.solved_at

        def number(metric: str, value: float, unit: str, asked: str = "", ok: bool | None = None) -> Result:
            return table.number(task.env_id, "ode", seed, metric, value, unit, "1", asked, ok)

        return [
            number("experience until solved", at, "s", f"<= {most:g}", at <= most + grace),
            number("wall clock until solved", wall, "s", "<= 600", at < float("inf") and wall <= 600),
            number("processor time until solved", work, "s"),
            number("t_s", self.t_s, "s"),
            number("slowest of 10 tests", self.slowest, "s"),
            number("fresh starts that are solved", float((fresh <= self.t_s).mean()), ""),
        ]


def _cart_pole(z: Tensor) -> Tensor:
    x, cos, sin, speed, spin = z.unbind(-1)
    return torch.exp(-((x + sin) ** 2) - (cos - 1) ** 2 - 0.01 * (speed**2 + spin**2))


def _acrobot(z: Tensor) -> Tensor:
    cos1, sin1, cos2, sin2, spin1, spin2 = z.unbind(-1)
    x = sin1 + sin1 * cos2 + cos1 * sin2
    y = -(cos1 + cos1 * cos2 - sin1 * sin2)
    return torch.exp(-((y - 2) ** 2) - x**2 - 0.01 * (spin1**2 + spin2**2))


def _known(near: Callable[[Tensor], Tensor], effort: float) -> Known:
    """The reward of an interval by the trapezoidal rule; `effort` weighs the squared action."""

    def reward(obs: Tensor, action: Tensor, after: Tensor, dt: Tensor) -> Tensor:
        rate = (near(obs) + near(after)) / 2 - effort * action.square().sum(-1)
        return dt / NATIVE * rate

    return Known(reward=reward)


KNOWN = {
    "ode_rl/CartPoleSwingUp-v0": _known(_cart_pole, 0.09),
    "ode_rl/Acrobot-v0": _known(_acrobot, 25e-4),
}


def known_reward(table: Table, seed: int) -> None:
    """With the reward known, as in the source of the tasks; the dynamics are learned as ever."""
    _swing_up(table, seed, "fixed", KNOWN)


def fixed(table: Table, seed: int) -> None:
    """At the native control interval."""
    _swing_up(table, seed, "fixed")


def uniform(table: Table, seed: int) -> None:
    """Control intervals drawn uniformly, tests too."""
    _swing_up(table, seed, "uniform")


def exponential(table: Table, seed: int) -> None:
    """Control intervals drawn from an exponential distribution, tests too."""
    _swing_up(table, seed, "exponential")


def _swing_up(table: Table, seed: int, sampling: str, known: dict[str, Known] | None = None) -> None:
    share = 1.0 if sampling == "fixed" else 1.5
    for task in TASKS:
        told = NOTHING_KNOWN if known is None else known.get(task.env_id)
        if told is None or not table.wants(task.env_id, "ode", seed):
            continue
        most = share * task.seconds
        watch = UntilSolved(task, sampling, allowed(table, task))
        agent = ODEPolicy(made(task, sampling), seed=seed, device="cpu", known=told)
        agent.learn(round(most / NATIVE), callback=watch)
        if watch.solved_at is None:
            watch.test(agent, float(agent.buffer.arrays().dt.sum()))
        numbers = watch.numbers(table, seed, agent, most)
        skipped = table.number(task.env_id, "ode", seed, "gradients skipped", agent.skipped, "", "1")
        table.write(task.env_id, "ode", seed, [*numbers, skipped])
