"""Observations that are lost on the way."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium import spaces

from ode_rl.envs.time_wrapper import Env, Step, TimeWrapper, check_sensors, extended, flat_box, step_seconds
from ode_rl.errors import UsageError

MODES = ("hold", "nan", "zero")


class ObservationDropout(TimeWrapper):
    """Lose each observation with probability `p`, independently; the first of an episode always arrives.

    In its place comes the last that arrived (``mode="hold"``), NaN (``"nan"``: for algorithms that expect it,
    no space contains it), or zeros (``"zero"``). `mask` puts a component behind the observation that is 1
    where it arrived and 0 where it was lost; by default with zeros alone, which could be a state.
    ``info["observation_age"]`` is the seconds since what is known was taken.

    Raises:
        UsageError: for another mode, a probability outside [0, 1), or observations that are not vectors where
            the mode or the mask needs them.
    """

    def __init__(self, env: Env, p: float, mode: str = "hold", mask: bool | None = None) -> None:
        super().__init__(env, p=p, mode=mode, mask=mask)
        check_sensors(self)
        if mode not in MODES:
            raise UsageError(f"one of {', '.join(MODES)}", repr(mode), "Write mode='hold'.")
        if not (isinstance(p, int | float) and 0 <= p < 1):
            raise UsageError("a probability 0 <= p < 1 of losing an observation", p, "Write p=0.1.")
        self._p, self._mode = float(p), mode
        self._mask = mode == "zero" if mask is None else mask
        self.adds_exact = self._mask
        self._dt = step_seconds(env)
        if mode != "hold" or self._mask:
            self.observation_space = self._space(flat_box(env.observation_space, "observations"))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        obs, info = self._reset_env(seed, options)
        self._last, self._age = deepcopy(obs), 0.0
        return self._shown(obs, True), info

    def step(self, action: Any) -> Step:
        obs, reward, terminated, truncated, info = self.env.step(action)
        info = {"dt": self._dt, "observation_age": 0.0, **info}
        arrived = bool(self._generator.random() >= self._p)
        if arrived:
            self._last, self._age = deepcopy(obs), info["observation_age"]
        else:
            self._age += info["dt"]
        info["observation_age"] = self._age
        return self._shown(obs, arrived), reward, terminated, truncated, info

    def _shown(self, obs: Any, arrived: bool) -> Any:
        if not arrived:
            obs = deepcopy(self._last) if self._mode == "hold" else self._blank(obs)
        if self._mask:
            obs = np.append(obs, np.asarray(arrived, obs.dtype))
        return obs

    def _blank(self, obs: Any) -> Any:
        return np.full_like(obs, np.nan if self._mode == "nan" else 0.0)

    def _space(self, space: spaces.Box) -> spaces.Box:
        dtype: Any = space.dtype
        if self._mode == "zero":
            space = spaces.Box(np.minimum(space.low, 0), np.maximum(space.high, 0), dtype=dtype)
        return extended(space, [0.0], [1.0]) if self._mask else space
