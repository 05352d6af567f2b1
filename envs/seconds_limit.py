"""Episodes that end after so many simulated seconds."""

from __future__ import annotations

from typing import Any

from ode_rl.envs.control_interval import ControlInterval
from ode_rl.envs.time_wrapper import Env, Step, TimeWrapper, find, step_seconds
from ode_rl.timing import positive_seconds


class SecondsLimit(TimeWrapper):
    """Truncate an episode after `seconds` of simulated time, however many steps that takes.

    Above a `ControlInterval` the last interval is cut to end there; without one, the episode ends with the
    first step that reaches it. A shorter limit below still fires first: ``gymnasium.make(id,
    max_episode_steps=-1)`` makes a task without one.

    Raises:
        UsageError: if `seconds` is not a positive number, or the task does not say how long a step is.
    """

    def __init__(self, env: Env, seconds: float) -> None:
        super().__init__(env, seconds=seconds)
        self._seconds = positive_seconds(seconds, "seconds")
        self._dt = step_seconds(env)
        self._elapsed = 0.0
        interval = find(env, ControlInterval)
        if interval is not None:
            interval.limit_seconds(self._seconds)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._elapsed = 0.0
        return self._reset_env(seed, options)

    def step(self, action: Any) -> Step:
        obs, reward, terminated, truncated, info = self.env.step(action)
        info = {"dt": self._dt, **info}
        self._elapsed += info["dt"]
        over = self._elapsed >= self._seconds - 1e-6 * self._dt
        return obs, reward, terminated, truncated or over, info
