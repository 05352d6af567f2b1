"""Sensors that err."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from ode_rl.envs.time_wrapper import Env, Step, TimeWrapper, check_sensors, flat_box, step_seconds
from ode_rl.errors import UsageError
from ode_rl.timing import positive_seconds

KINDS = ("white", "ar1", "bias")
MOST = 5.0
"""Standard deviations at which an error is clipped, so that observations have a space; odds 6e-7."""


class SensorNoise(TimeWrapper):
    """Add Gaussian errors of standard deviation `std` (a number, or one per component) to observations.

    - ``white``: independent from observation to observation.
    - ``ar1``: ``e' = phi e + std sqrt(1 - phi^2) n`` with ``phi = exp(-dt / time_constant)``, correlated over
      `time_constant` seconds at any interval, and as large at the start of an episode as later.
    - ``bias``: drawn at the start of an episode, constant in it.

    The bounds of the observation space are widened by 5 standard deviations, where errors are clipped.

    Raises:
        UsageError: for another kind, a negative `std` or one of the wrong length, ``ar1`` without a time
            constant, or observations that are not vectors.
    """

    def __init__(self, env: Env, std: Any, kind: str = "white", time_constant: float | None = None) -> None:
        super().__init__(env, std=std, kind=kind, time_constant=time_constant)
        if kind not in KINDS:
            raise UsageError(f"one of {', '.join(KINDS)}", repr(kind), "Write kind='white'.")
        if (kind == "ar1") != (time_constant is not None):
            got = f"kind={kind!r} and time_constant={time_constant}"
            raise UsageError("a time_constant in seconds with ar1, and only there", got, "Write kind='ar1'.")
        if time_constant is not None:
            positive_seconds(time_constant, "time_constant")
        self._kind, self._time_constant = kind, time_constant
        space = flat_box(env.observation_space, "observations")
        check_sensors(self)
        self._std = _deviations(std, space)
        self._dt = step_seconds(env)
        # In float64 and rounded once, as observations are, so that none of these lies outside.
        low, high = space.low - MOST * self._std, space.high + MOST * self._std
        dtype: Any = space.dtype
        self.observation_space = spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        obs, info = self._reset_env(seed, options)
        self._error = self._std * self._normal()
        return self._measured(obs), info

    def step(self, action: Any) -> Step:
        obs, reward, terminated, truncated, info = self.env.step(action)
        info = {"dt": self._dt, **info}
        if self._kind != "bias":
            kept = 0.0 if self._time_constant is None else math.exp(-info["dt"] / self._time_constant)
            self._error = kept * self._error + math.sqrt(1 - kept**2) * self._std * self._normal()
        return self._measured(obs), reward, terminated, truncated, info

    def _measured(self, obs: Any) -> Any:
        error = np.clip(self._error, -MOST * self._std, MOST * self._std)
        return (obs + error).astype(obs.dtype)

    def _normal(self) -> npt.NDArray[np.float64]:
        return self._generator.standard_normal(len(self._std))


def _deviations(std: Any, space: spaces.Box) -> npt.NDArray[np.float64]:
    n = space.shape[0]
    try:
        values = np.asarray(std, float)
    except (TypeError, ValueError):
        values = np.full(1, np.nan)
    if values.shape not in ((), (n,)) or not (np.isfinite(values) & (values >= 0)).all():
        raise UsageError(f"std >= 0, a number or {n} of them", repr(std), "Write std=0.01.")
    return np.full(n, values)
