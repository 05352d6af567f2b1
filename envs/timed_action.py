"""Actions that say for how long they are held."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ode_rl.envs.action_delay import ActionDelay
from ode_rl.envs.control_interval import ControlInterval
from ode_rl.envs.time_wrapper import Env, Step, TimeWrapper, extended, find, flat_box
from ode_rl.errors import UsageError
from ode_rl.timing import positive_seconds


class TimedAction(TimeWrapper):
    """One more action component chooses how long the others are held.

    It is in [-1, 1] and stands for ``min_dt + (max_dt - min_dt) (u + 1) / 2`` seconds, rounded to the nearest
    interval that the task can take. Every action costs `switch_cost` reward, so that holding longer pays. As
    in Treven et al., "When to sense and control?" (arXiv 2406.01163). Needs a `ControlInterval` below.

    Raises:
        UsageError: without a `ControlInterval` below, for ``min_dt >= max_dt``, for a range that the task
            cannot take, or for a cost that is not a number.
    """

    def __init__(self, env: Env, min_dt: float, max_dt: float, switch_cost: float = 0.0) -> None:
        super().__init__(env, min_dt=min_dt, max_dt=max_dt, switch_cost=switch_cost)
        self._interval = _interval_below(env)
        lo, hi = positive_seconds(min_dt, "min_dt"), positive_seconds(max_dt, "max_dt")
        if lo >= hi:
            raise UsageError("min_dt < max_dt", f"{min_dt:g} and {max_dt:g}", "Swap them or widen the range.")
        if not math.isfinite(switch_cost):
            raise UsageError("a switch_cost that is a number", switch_cost, "Write switch_cost=0.1.")
        self._range, self._ticks = (lo, hi), self._interval.grid.within(lo, hi)
        self._cost = float(switch_cost)
        self.action_space = extended(flat_box(env.action_space, "actions"), [-1.0], [1.0])

    def seconds(self, u: float) -> float:
        """Seconds for which the last component `u` of an action holds it."""
        lo, hi = self._range
        grid = self._interval.grid
        ticks = grid.nearest(lo + (hi - lo) * (float(np.clip(u, -1.0, 1.0)) + 1) / 2)
        return grid.seconds(min(max(ticks, self._ticks[0]), self._ticks[1]))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if options and "dt" in options:
            remedy = "Leave options['dt'] out."
            raise UsageError("intervals that the actions choose", "another in reset()", remedy)
        return self._reset_env(seed, options)

    def step(self, action: Any) -> Step:
        action = np.asarray(action)
        self._interval.set_interval(self.seconds(action[-1]))
        obs, reward, terminated, truncated, info = self.env.step(action[:-1])
        return obs, float(reward) - self._cost, terminated, truncated, info


def _interval_below(env: Env) -> ControlInterval:
    interval = find(env, ControlInterval)
    if interval is None:
        remedy = "Write TimedAction(ControlInterval(env), min_dt=..., max_dt=...)."
        raise UsageError("a ControlInterval below TimedAction", "none", remedy)
    if find(env, TimedAction) is not None:
        raise UsageError("one TimedAction", "a second one", "Use one alone.")
    delay = find(env, ActionDelay)
    if delay is not None and delay.history:
        remedy = "Write ActionDelay(TimedAction(...), history=...), which also shows the durations."
        raise UsageError("a history of the whole actions", "an ActionDelay below TimedAction", remedy)
    return interval
