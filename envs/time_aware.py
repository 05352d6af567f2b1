"""Time as a part of the observation."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from ode_rl.envs.time_wrapper import Env, Step, TimeWrapper, extended, find, flat_box, step_seconds
from ode_rl.errors import UsageError

KEY = "dt"
OBSERVATION = "observation"
"""Key of a vector that becomes a part of a Dict."""


class TimeAware(TimeWrapper):
    """Show the seconds of the last interval, zero at the start of an episode, with the observation.

    `since_valid` adds a second number: the seconds since what is shown was taken
    (``info["observation_age"]`` of `ObservationDelay` and `ObservationDropout`, else zero). The numbers stand
    behind the components of a vector. In a Dict, or where `key` is given, they are an entry ``"dt"`` or `key`
    of their own, float32, that normalisers of the others leave alone; a vector becomes the entry
    ``"observation"``.

    Raises:
        UsageError: if the key is taken, if observations are neither vectors nor a Dict, below another wrapper
            that depends on time, or if the task does not say how long a step is.
    """

    def __init__(self, env: Env, since_valid: bool = False, key: str | None = None) -> None:
        super().__init__(env, since_valid=since_valid, key=key)
        if find(env, TimeAware) is not None:
            raise UsageError(
                "one TimeAware", "a second one", "Use one alone, with since_valid=True for both."
            )
        self.adds_exact = True
        self._dt = step_seconds(env)
        self._n = 2 if since_valid else 1
        is_dict = isinstance(env.observation_space, spaces.Dict)
        self._key = KEY if key is None and is_dict else key
        self.observation_space = self._space(env.observation_space)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        obs, info = self._reset_env(seed, options)
        return self._with_time(obs, 0.0, 0.0), info

    def step(self, action: Any) -> Step:
        obs, reward, terminated, truncated, info = self.env.step(action)
        info = {"dt": self._dt, **info}
        obs = self._with_time(obs, info["dt"], info.get("observation_age", 0.0))
        return obs, reward, terminated, truncated, info

    def _with_time(self, obs: Any, dt: float, age: float) -> Any:
        times = [dt, age][: self._n]
        if self._key is None:
            return np.concatenate([obs, np.asarray(times, obs.dtype)])
        entries = obs if isinstance(obs, dict) else {OBSERVATION: obs}
        return {**entries, self._key: np.asarray(times, np.float32)}

    def _space(self, space: spaces.Space[Any]) -> spaces.Space[Any]:
        low, high = np.zeros(self._n), np.full(self._n, np.inf)
        if self._key is None:
            return extended(flat_box(space, "observations"), low, high)
        entries = dict(space.spaces) if isinstance(space, spaces.Dict) else {OBSERVATION: space}
        if self._key in entries:
            raise UsageError(f"a key besides {', '.join(entries)}", repr(self._key), "Write key='seconds'.")
        return spaces.Dict({**entries, self._key: spaces.Box(0.0, np.inf, (self._n,), np.float32)})
