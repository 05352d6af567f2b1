"""Swing-ups by a policy that a planner teaches: the planner collects, the policy alone is tested.

Of the cart-pole and the acrobot the reward is known, as in the source of the tasks; dynamics are learned as
ever.
"""

from __future__ import annotations

import time
from typing import Any

from _policy_swing_up import KNOWN, NATIVE, TASKS, Task, UntilSolved, allowed, made
from _rows import Table

from ode_rl.agents import MPC, ODEPolicy
from ode_rl.known import NOTHING_KNOWN

# The planner's preset for a task that has none of its own.
PRESETS = {"ode_rl/Pendulum-v0": "Pendulum-v1"}
# Shares of the experience allowed at which a policy is distilled and tested.
SHARES = (0.75, 1.0)


class Teaching(UntilSolved):
    """Distil a policy from the planner now and then, test it, and end the training when one has solved."""

    def __init__(self, task: Task, sampling: str, t_s: float, most: float) -> None:
        super().__init__(task, sampling, t_s)
        self.marks = [share * most for share in SHARES]
        self.experience = self.distilling = 0.0
        self.policy: Any = None

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
        self.test(self.policy, self.experience)


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
        # Where the reward is known there is less to be curious about.
        planner = MPC(made(task, sampling), preset, seed=seed, device="cpu", known=known, curiosity=0.0)
        # Drawn intervals are as long as the native one on the mean; the callback ends it in time.
        planner.learn(round(1.5 * most / NATIVE), callback=watch)
        # The last interval may reach over the end of what is allowed.
        numbers = watch.numbers(table, seed, watch.policy, most, grace=0.25)
        spent = table.number(
            task.env_id, "ode", seed, "distilling, of the wall clock", watch.distilling, "s", "1"
        )
        table.write(task.env_id, "ode", seed, [*numbers, spent])
