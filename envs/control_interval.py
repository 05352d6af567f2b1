"""How long an action is held, in seconds: fixed, drawn, or set from outside."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

from gymnasium.wrappers import TimeLimit

from ode_rl.envs.intervals import Intervals, as_intervals
from ode_rl.envs.steppers import Repeats, has_own_physics_dt, stepper_for
from ode_rl.envs.time_grid import TimeGrid
from ode_rl.envs.time_wrapper import Env, Step, TimeWrapper, find, wrappers_of
from ode_rl.errors import UsageError

Actuation = Callable[[Any, float], list[tuple[Any, float]]]
"""``(action, ticks) -> [(action that acts, ticks), ...]``, with the same sum of ticks."""


class ControlInterval(TimeWrapper):
    """Hold each action for `dt` seconds instead of the task's native step.

    `dt` is a number of seconds, ``(lo, hi)`` for a uniform draw per step, or `Intervals` for another
    distribution; left out, it is the native step. ``reset(options={"dt": ...})`` says another for one
    episode, ``env.get_wrapper_attr("set_interval")(dt)`` for one step, and ``interval`` is the seconds that
    the next step will last. Draws are rounded to the nearest duration that the task can take:

    - MuJoCo: whole physics substeps; the reward of a step is ``r * dt / native``.
    - A task that solves its equations for any duration (``simulate`` and ``interval``): any.
    - Others: whole repetitions of the native step, rewards summed, stopped where the episode ends. Where the
      task's own `dt` attribute is the step of its physics, `physics_dt` sets it, openly; nothing else does.

    ``info["dt"]`` is the seconds that really passed, ``metadata["dt"]`` the nominal ones (the mean of a
    draw). Other entries of `info` are left as the task says them. An episode lasts ``max_episode_steps *
    native`` seconds at every `dt`: the limit of a `TimeLimit` below is taken over, and the last interval is
    cut where it ends. `native` (seconds) is for tasks that do not say their own.

    Raises:
        UsageError: for an interval that the task cannot take, naming the two nearest; if the length of a
            native step is unknown; or on top of another wrapper that depends on time.
    """

    def __init__(
        self, env: Env, dt: Any = None, physics_dt: float | None = None, native: float | None = None
    ) -> None:
        _check_order(env)
        super().__init__(env, dt=dt, physics_dt=physics_dt, native=native)
        self._stepper = stepper_for(env, native, physics_dt)
        self.grid: TimeGrid = self._stepper.grid
        self._nominal = self._durations(self.grid.native if dt is None else dt)
        self._episode = self._nominal
        self._next = self._override = None
        self._elapsed: float = 0
        self._limit = _take_over_limit(env) * self.grid.native_ticks
        self._actuation: Actuation | None = None
        self.metadata = _metadata(env.metadata, self.grid.native, _mean_seconds(self._nominal, self.grid))

    _next: float | None
    _override: float | None

    @property
    def interval(self) -> float:
        """Seconds that the next step will last, unless the episode's limit cuts it."""
        return self.grid.seconds(self._due())

    def set_interval(self, dt: float) -> None:
        """Let the next step last `dt` seconds, whatever was drawn for it.

        Raises:
            UsageError: if the task cannot take it, naming the two nearest.
        """
        self._override = self._fixed_ticks(as_intervals(dt))

    def set_actuation(self, actuation: Actuation) -> None:
        """Let another wrapper say which actions really act within an interval.

        Raises:
            UsageError: if one does already.
        """
        if self._actuation is not None:
            raise UsageError("one delay of actions", "a second one", "Add both delays up into one.")
        self._actuation = actuation

    def limit_seconds(self, seconds: float) -> None:
        """End episodes after `seconds` at the latest."""
        self._limit = min(self._limit, self.grid.ticks_up(seconds))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._episode = self._nominal
        if options is not None and "dt" in options:
            options = dict(options)
            self._episode = self._durations(options.pop("dt"))
        obs, info = self._reset_env(seed, options)
        self._elapsed, self._override = 0, None
        self._next = self._draw()
        return obs, info

    def step(self, action: Any) -> Step:
        ticks = self._due()
        if ticks > self._limit - self._elapsed + self.grid.slack:
            ticks = self._limit - self._elapsed
        parts = [(action, ticks)] if self._actuation is None else self._actuation(action, ticks)
        total, passed = None, 0.0 if self.grid.unit is None else 0
        for held, share in parts:
            obs, reward, terminated, truncated, info, done = self._stepper.advance(self.env, held, share)
            total = reward if total is None else total + reward
            passed += done
            if terminated or truncated:
                break
        self._elapsed += passed
        self._override, self._next = None, self._draw()
        over = self._elapsed >= self._limit - self.grid.slack
        info = {**info, "dt": self.grid.seconds(passed)}
        return obs, total, terminated, truncated or over, info  # type: ignore[return-value]

    def _due(self) -> float:
        if self._override is not None:
            return self._override
        if self._next is None:  # before the first reset
            self._next = self._draw()
        return self._next

    def _draw(self) -> float:
        if not isinstance(self._episode, Intervals):
            return self._episode
        least, most = self.grid.within(self._episode.lo, self._episode.hi)
        drawn = self.grid.nearest(self._episode.sample(self._generator))
        return min(max(drawn, least), most)

    def _durations(self, dt: Any) -> float | Intervals:
        """Ticks of a fixed interval, or a distribution that this task can take."""
        intervals = as_intervals(dt)
        if isinstance(intervals, Intervals):
            self.grid.within(intervals.lo, intervals.hi)
            return intervals
        return self._fixed_ticks(intervals)

    def _fixed_ticks(self, dt: float | Intervals) -> float:
        if isinstance(dt, Intervals):
            raise UsageError("one interval in seconds", dt, "Give ranges to ControlInterval or to reset().")
        try:
            return self.grid.ticks(dt)
        except UsageError as error:
            base = self.env.unwrapped
            if isinstance(self._stepper, Repeats) and has_own_physics_dt(base):
                remedy = f"{error.remedy[:-1]}, or set the step of its physics with physics_dt=."
                raise UsageError(error.expected, error.got, remedy) from error
            raise


def _check_order(env: Env) -> None:
    below = find(env, TimeWrapper)
    if below is not None:
        name = type(below).__name__
        again = isinstance(below, ControlInterval)
        raise UsageError(
            "ControlInterval directly on the task, below what depends on its intervals",
            f"on top of {name}",
            "Use one alone." if again else f"Write {name}(ControlInterval(env, dt=...), ...).",
        )


def _take_over_limit(env: Env) -> float:
    """Return the fewest steps of the TimeLimits in an environment, and let them never fire."""
    steps = math.inf
    for each in wrappers_of(env):
        if isinstance(each, TimeLimit):
            steps = min(steps, float(each._max_episode_steps))
            _ = each.spec  # cached with the limit of the task, from which the wrapper is made again
            each._max_episode_steps = sys.maxsize
    return steps


def _mean_seconds(dt: float | Intervals, grid: TimeGrid) -> float:
    return dt.mean if isinstance(dt, Intervals) else grid.seconds(dt)


def _metadata(metadata: dict[str, Any], native: float, nominal: float) -> dict[str, Any]:
    changed = {**metadata, "dt": nominal, "native_dt": native}
    if metadata.get("render_fps"):  # videos keep their speed
        changed["render_fps"] = max(1, round(metadata["render_fps"] * native / nominal))
    return changed
