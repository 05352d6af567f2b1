"""Actuators that fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ode_rl.envs.time_wrapper import Env, Step, TimeWrapper, flat_box, range_of_seconds, step_seconds
from ode_rl.errors import UsageError


class ActuatorFault(TimeWrapper):
    """Act with weakened, reversed or stuck actuators.

    `gain` multiplies the action: a number, or one per actuator. `gain_range` ``(lo, hi)`` draws it anew for
    each actuator and episode instead. `stuck` holds actuators, by number, at a value: ``{0: 0.0}`` is a dead
    first motor. The fault is there with probability `p`, drawn per episode, from the first interval that
    starts `after` seconds or more into it. What acts stays within the bounds of the action space.
    ``info["fault"]`` says whether it was there in this interval.

    Raises:
        UsageError: where there is no such actuator, for a value outside its bounds, both kinds of gain, or
            numbers that are not such.
    """

    def __init__(
        self,
        env: Env,
        gain: Any = 1.0,
        stuck: Mapping[Any, float] | None = None,
        gain_range: tuple[float, float] | None = None,
        p: float = 1.0,
        after: float = 0.0,
    ) -> None:
        super().__init__(env, gain=gain, stuck=stuck, gain_range=gain_range, p=p, after=after)
        self._space = flat_box(env.action_space, "actions")
        self._gain = _gains(gain, self._space.shape[0])
        self._gain_range = None if gain_range is None else _range(gain_range, gain)
        self._stuck = self._positions(stuck or {})
        if not 0 <= p <= 1:
            raise UsageError("a probability 0 <= p <= 1", p, "Write p=1.0.")
        self._p, self._after = float(p), range_of_seconds(after, "after")[0]
        self._dt = step_seconds(env)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        obs, info = self._reset_env(seed, options)
        self._now = 0.0
        self._faulty = bool(self._generator.random() < self._p)
        if self._gain_range is not None:
            self._gain = self._generator.uniform(*self._gain_range, len(self._gain))
        return obs, info

    def step(self, action: Any) -> Step:
        fault = self._faulty and self._now >= self._after - 1e-6 * self._dt
        obs, reward, terminated, truncated, info = self.env.step(self._acting(action) if fault else action)
        info = {"dt": self._dt, **info, "fault": fault}
        self._now += info["dt"]
        return obs, reward, terminated, truncated, info

    def _acting(self, action: Any) -> npt.NDArray[Any]:
        acting: npt.NDArray[Any] = self._gain * np.asarray(action)
        for i, value in self._stuck.items():
            acting[i] = value
        np.clip(acting, self._space.low, self._space.high, out=acting)
        return acting.astype(self._space.dtype)

    def _positions(self, stuck: Mapping[Any, float]) -> dict[int, float]:
        """Numbers come back as text from an environment's spec in JSON."""
        n, low, high = self._space.shape[0], self._space.low, self._space.high
        try:
            positions = {int(i): float(value) for i, value in stuck.items()}
        except (AttributeError, TypeError, ValueError):
            positions = {-1: 0.0}
        if not all(0 <= i < n and low[i] <= value <= high[i] for i, value in positions.items()):
            want = f"stuck actuators from 0 to {n - 1} at values within the action space"
            raise UsageError(want, repr(stuck), "Write stuck={0: 0.0}.")
        return positions


def _gains(gain: Any, n: int) -> npt.NDArray[np.float64]:
    try:
        values = np.asarray(gain, float)
    except (TypeError, ValueError):
        values = np.full(1, np.nan)
    if values.shape not in ((), (n,)) or not np.isfinite(values).all():
        raise UsageError(f"a gain that is a number, or {n} of them", repr(gain), "Write gain=0.5.")
    return np.full(n, values)


def _range(gain_range: Any, gain: Any) -> tuple[float, float]:
    values = np.asarray(gain_range, float).reshape(-1)
    if not (len(values) == 2 and np.isfinite(values).all() and values[0] < values[1]):
        raise UsageError(
            "a gain_range (lo, hi) with lo < hi", repr(gain_range), "Write gain_range=(0.5, 1.0)."
        )
    if not np.all(np.asarray(gain, float) == 1.0):
        raise UsageError("a gain or a gain_range", "both", "Leave one of them out.")
    return float(values[0]), float(values[1])
