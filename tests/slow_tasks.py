"""A task that takes its time, for tests that kill its training, and whose training is tiny in every process.

Workers import this module with the task, and have no other way to be told.
"""

from __future__ import annotations

import time
from typing import Any

import gymnasium

import ode_rl.train
from tests.own_tasks import SpringCart, Vector
from tests.tiny_runs import TINY


class SlowCart(SpringCart):
    """`SpringCart`, a hundredth of a second of real time for each step."""

    def step(self, action: Vector) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        time.sleep(0.01)
        return super().step(action)


chosen = ode_rl.train._chosen
ode_rl.train._chosen = lambda config: {**chosen(config), **TINY}
gymnasium.register("own/SlowCart-v0", entry_point=f"{__name__}:SlowCart", max_episode_steps=20)
