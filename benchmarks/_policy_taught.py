"""Swing-ups by a policy that a planner teaches: the planner collects, the policy alone is tested.

Of the cart-pole and the acrobot the reward is known, as in the source of the tasks: with a learned one the
planner finds the upright in some seeds alone (dynamics are learned as ever).
"""

from __future__ import annotations

import time
from typing import Any

from _policy_swing_up import (
    FIRST_SEED,
    FRESH_SEED,
    KNOWN,
    NATIVE,
    SECONDS,
    TASKS,
    TESTS,
    Task,
    allowed,
    made,
    settled,
)
from _rows import Table
from stable_baselines3.common.callbacks import BaseCallback

from ode_rl.agents import MPC, ODEPolicy
from ode_rl.known import NOTHING_KNOWN

# The planner's preset for a task that has none of its own.
PRESETS = {"ode_rl/Pendulum-v0": "Pendulum-v1"}
# Shares of the experience allowed at which a policy is distilled and tested.
SHARES = (0.5, 0.75, 1.0)


class Teaching(BaseCallback):
    """Distil a policy from the planner now and then, test it, and end the training when one has solved."""

    def __init__(self, task: Task, sampling: str, t_s: float, most: float) -> None:
        super().__init__()
        self.task, self.sampling, self.t_s = task, sampling, t_s
        self.marks = [share * most for share in SHARES]
        self.experience = self.outside = self.distilling = 0.0
        self.solved_at: float | None = None
        self.policy: Any = None
        self.slowest = SECONDS

    def _on_training_start(self) -> None:
        self.began, self.worked = time.perf_counter(), time.process_time()

    def _on_step(self) -> bool:
        self.experience += float(self.locals["infos"][0]["dt"])
        if self.marks and self.experience >= self.marks[0] - 1e-6:
            self.marks.pop(0)
            self.teach()
        return self.solved_at is None and bool(self.marks)

    def teach(self) -> None:
        """Distil from what the planner knows now, and test."""
        start = time.perf_counter()
        planner: Any = self.model
        self.policy = ODEPolicy.distilled(planner)
        self.distilling += time.perf_counter() - start
        start, worked = time.perf_counter(), time.process_time()
        found = settled(self.policy, self.task, self.sampling, FIRST_SEED)
        self.outside += time.perf_counter() - start
        self.worked += time.process_time() - worked
        self.slowest, n_up = float(found.max()), int((found <= self.t_s).sum())
        print(
            f"  {self.task.env_id} {self.sampling}: {n_up} of {TESTS} after {self.experience:.0f} s, slowest "
            f"{self.slowest:.1f} s ({self.wall():.0f} s)",
            flush=True,
        )
        if n_up == TESTS:
            self.solved_at = self.experience

    def wall(self) -> float:
        """Seconds of acting, learning and distilling so far."""
        return time.perf_counter() - self.began - self.outside

    def work(self) -> float:
        """Seconds of the processor in the same time: those of an idle machine, on one thread."""
        return time.process_time() - self.worked


def taught(table: Table, seed: int) -> None:
    """At the native control interval."""
    _taught(table, seed, "fixed", 1.0)


def taught_uniform(table: Table, seed: int) -> None:
    """Control intervals drawn uniformly, tests too."""
    _taught(table, seed, "uniform", 1.5)


def taught_exponential(table: Table, seed: int) -> None:
    """Control intervals drawn from an exponential distribution, tests too."""
    _taught(table, seed, "exponential", 1.5)


def _taught(table: Table, seed: int, sampling: str, share: float) -> None:
    for task in TASKS:
        if not table.wants(task.env_id, "ode", seed):
            continue
        most = share * task.seconds
        watch = Teaching(task, sampling, allowed(table, task), most)
        preset = PRESETS.get(task.env_id, "auto")
        known = KNOWN.get(task.env_id, NOTHING_KNOWN)
        planner = MPC(made(task, sampling), preset, seed=seed, device="cpu", known=known)
        # Drawn intervals are as long as the native one on the mean; the callback ends it in time.
        planner.learn(round(1.5 * most / NATIVE), callback=watch)
        wall, work = watch.wall(), watch.work()
        fresh = settled(watch.policy, task, sampling, FRESH_SEED)
        solved = watch.solved_at is not None
        at = watch.solved_at if watch.solved_at is not None else float("inf")

        def number(metric: str, value: float, unit: str, asked: str = "", ok: bool | None = None) -> Any:
            return table.number(task.env_id, "ode", seed, metric, value, unit, "1", asked, ok)  # noqa: B023

        numbers = [
            number("experience until solved", at, "s", f"<= {most:g}", at <= most + 0.25),
            number("wall clock until solved", wall, "s", "<= 600", solved and wall <= 600),
            number("processor time until solved", work, "s"),
            number("distilling, of the wall clock", watch.distilling, "s"),
            number("t_s", watch.t_s, "s"),
            number("slowest of 10 tests", watch.slowest, "s"),
            number("fresh starts that are solved", float((fresh <= watch.t_s).mean()), ""),
        ]
        table.write(task.env_id, "ode", seed, numbers)
