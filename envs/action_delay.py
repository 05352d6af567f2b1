"""Actions that reach the actuators late."""

from __future__ import annotations

from typing import Any

import numpy as np

from ode_rl.envs.action_history import ActionHistory, resting
from ode_rl.envs.channel import Channel
from ode_rl.envs.control_interval import ControlInterval
from ode_rl.envs.time_wrapper import Env, Step, TimeWrapper, find, flat_box, range_of_seconds


class ActionDelay(TimeWrapper):
    """Let each action act `delay` seconds after it was chosen; until then the one before it acts.

    `delay` is a number of seconds, or ``(lo, hi)`` for a uniform draw per action; one that is overtaken by a
    newer one is dropped. Before the first arrival the action nearest to zero acts. ``history=n`` puts the
    last n actions, newest first, behind the observation.

    Delays are in seconds whatever the intervals: a `ControlInterval` below (one of the native interval is put
    there if there is none) changes the action in the middle of an interval, where the task can: MuJoCo at
    whole physics substeps, tasks solved for any duration anywhere, others at whole native steps. The delay is
    rounded to the nearest of these; ``metadata["action_delay"]`` says what it is, as a pair if it is drawn.
    The reward of such an interval is the sum over its parts.

    Raises:
        UsageError: for a negative delay, on top of another ActionDelay, or where `ControlInterval` raises it.
    """

    def __init__(self, env: Env, delay: Any, history: int = 0) -> None:
        lo, hi = range_of_seconds(delay, "delay")
        interval = find(env, ControlInterval)
        if interval is None:
            env = interval = ControlInterval(env)
        super().__init__(env, delay=delay, history=history)
        self._delay, self._grid = (lo, hi), interval.grid
        self._rest = resting(flat_box(interval.action_space, "actions"))
        self._history = ActionHistory(env, history)
        self.history = self._history.length
        self.adds_exact = self.history > 0
        self.observation_space = self._history.observation_space
        true = [self._grid.seconds(self._grid.nearest(seconds)) for seconds in (lo, hi)]
        self.metadata = {**env.metadata, "action_delay": true[0] if lo == hi else true}
        self._restart()
        interval.set_actuation(self._actuate)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._restart()
        obs, info = self._reset_env(seed, options)
        return self._history.behind(obs), info

    def step(self, action: Any) -> Step:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._history.record(action)
        return self._history.behind(obs), reward, terminated, truncated, info

    def _restart(self) -> None:
        self._now: float = 0
        self._line: Channel[Any] = Channel(self._rest.copy(), self._grid.slack)
        self._history.clear()

    def _actuate(self, action: Any, ticks: float) -> list[tuple[Any, float]]:
        """Send an action now and return what acts during the coming interval, part by part."""
        lo, hi = self._delay
        delay = lo if lo == hi else self._generator.uniform(lo, hi)
        self._line.send(np.array(action), self._now + self._grid.nearest(delay))
        parts: list[tuple[Any, float]] = []
        end = self._now + ticks
        while True:
            acting = self._line.receive(self._now)
            until = self._line.next_arrival(end)
            parts.append((acting.copy(), until - self._now if parts or until < end else ticks))
            self._now = until
            if until >= end:
                return parts
