"""Observations that arrive late."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple

from ode_rl.envs.action_history import ActionHistory
from ode_rl.envs.channel import Channel
from ode_rl.envs.time_wrapper import Env, Step, TimeWrapper, check_sensors, range_of_seconds, step_seconds


class _Message(NamedTuple):
    obs: Any
    taken: float
    """Seconds since the start of the episode."""


class ObservationDelay(TimeWrapper):
    """Show each observation `delay` seconds after it was taken; until then the one before it.

    `delay` is a number of seconds, or ``(lo, hi)`` for a uniform draw per observation; one that is overtaken
    by a newer one is dropped. Observations are taken at the ends of intervals alone, so what is shown is the
    newest that is *at least* `delay` old, whatever the intervals; ``info["observation_age"]`` is its age in
    seconds. The first observation of an episode is shown at once. ``history=n`` puts the last n actions,
    newest first, behind the observation; they are not delayed.

    Raises:
        UsageError: for a negative delay, or if the task does not say how long a step is.
    """

    def __init__(self, env: Env, delay: Any, history: int = 0) -> None:
        super().__init__(env, delay=delay, history=history)
        check_sensors(self)
        self._delay = range_of_seconds(delay, "delay")
        self._dt = step_seconds(env)
        self._history = ActionHistory(env, history)
        self.observation_space = self._history.observation_space
        self.adds_exact = self._history.length > 0
        lo, hi = self._delay
        self.metadata = {**env.metadata, "observation_delay": lo if lo == hi else [lo, hi]}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        obs, info = self._reset_env(seed, options)
        self._now = 0.0
        self._line = Channel(_Message(deepcopy(obs), 0.0), slack=1e-6 * self._dt)
        self._history.clear()
        return self._history.behind(obs), info

    def step(self, action: Any) -> Step:
        obs, reward, terminated, truncated, info = self.env.step(action)
        info = {"dt": self._dt, "observation_age": 0.0, **info}
        self._now += info["dt"]
        lo, hi = self._delay
        delay = lo if lo == hi else self._generator.uniform(lo, hi)
        self._line.send(_Message(deepcopy(obs), self._now - info["observation_age"]), self._now + delay)
        shown = self._line.receive(self._now)
        info["observation_age"] = self._now - shown.taken
        self._history.record(action)
        return self._history.behind(deepcopy(shown.obs)), reward, terminated, truncated, info
