"""How a task is timed: its control interval, delays and lost observations, as one value."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ode_rl.envs.action_delay import ActionDelay
from ode_rl.envs.control_interval import ControlInterval
from ode_rl.envs.observation_delay import ObservationDelay
from ode_rl.envs.observation_dropout import ObservationDropout
from ode_rl.envs.time_aware import TimeAware
from ode_rl.envs.time_wrapper import Env, range_of_seconds
from ode_rl.errors import UsageError
from ode_rl.settings import build
from ode_rl.timing import native_dt, positive_seconds

# Of 20 runs of lost observations, 19 are covered by the actions that are shown; and no more than so many.
UNCOVERED, MOST_FOR_DROPOUT = 0.05, 8


@dataclass(frozen=True)
class TaskTiming:
    """How a task is timed; the default leaves it as it was made.

    Raises:
        UsageError: for what is no time, ``lo >= hi``, a negative delay, or a probability outside [0, 1).
    """

    dt: float | None = None
    """Control interval in seconds; the native step of a task that does not say its own."""
    dt_range: tuple[float, ...] | None = None
    """Draw each control interval uniformly from ``(lo, hi)`` seconds instead."""
    action_delay: float = 0.0
    """Seconds until an action acts."""
    obs_delay: float = 0.0
    """Seconds until an observation is shown."""
    obs_dropout: float = 0.0
    """Probability that an observation is lost; the last that arrived is shown instead."""
    native: float | None = None
    """Seconds of a step of a task that does not say it."""
    history: int | None = None
    """Last actions behind the observation; None: as many as are still on their way."""
    time_aware: bool | None = None
    """Whether the observation tells its age; None: where it is not the same all the time."""

    def __post_init__(self) -> None:
        for name in ("dt", "native"):
            if getattr(self, name) is not None:
                positive_seconds(getattr(self, name), "dt")
        if self.dt_range is not None:
            _check_range(self.dt_range)
        for name, flag in (("action_delay", "--action-delay"), ("obs_delay", "--obs-delay")):
            seconds = getattr(self, name)
            if not (math.isfinite(seconds) and seconds >= 0):
                raise UsageError(f"seconds >= 0 for {flag}", repr(seconds), f"Write {flag} 0.05.")
        if not 0 <= self.obs_dropout < 1:
            raise UsageError(
                "a probability 0 <= p < 1 for --obs-dropout",
                repr(self.obs_dropout),
                "Write --obs-dropout 0.1.",
            )

    @property
    def disturbs(self) -> bool:
        """Whether anything is late or lost, or shown besides the observation of the task."""
        lost = self.action_delay or self.obs_delay or self.obs_dropout
        return bool(lost or self.history or self.time_aware)

    @classmethod
    def of(cls, timing: Timing) -> TaskTiming:
        """A `TaskTiming` of what a caller gave: one, a control interval in seconds, or None."""
        return timing if isinstance(timing, cls) else cls(dt=timing)  # type: ignore[arg-type]

    @classmethod
    def read(cls, settings: Any, native: float) -> TaskTiming:
        """What a run's configuration holds: the fields by name; a run of old has only its native step."""
        return replace(build(cls, settings or {}), native=native)

    def resolved(self, env: Env) -> TaskTiming:
        """The same with every choice made, for a task: what evaluations of other delays have to keep.

        Raises:
            UsageError: if the length of its step is unknown, or `dt` and `dt_range` both say the interval.
        """
        known = self.native
        if known is None:
            known = self.dt
        native = native_dt(env, known)
        dt = self.dt
        if dt is not None and math.isclose(dt, native, rel_tol=1e-6):
            dt = None
        if dt is not None and self.dt_range is not None:
            raise UsageError("--dt or --dt-range", "both", "Leave one of them out.")
        shortest = self.dt_range[0] if self.dt_range is not None else dt or native
        history = self._in_flight(shortest) if self.history is None else self.history
        aware = self.time_aware
        if aware is None:
            aware = bool(self.obs_dropout or (self.obs_delay and self.dt_range is not None))
        return replace(self, dt=dt, native=native, history=history, time_aware=aware)

    def _in_flight(self, interval: float) -> int:
        """Actions whose effect no observation has shown yet, if intervals last `interval` seconds."""
        delays = (self.action_delay, self.obs_delay)
        pending = sum(math.ceil(seconds / interval - 1e-6) for seconds in delays)
        if not self.obs_dropout:
            return pending
        return pending + min(MOST_FOR_DROPOUT, math.ceil(math.log(UNCOVERED) / math.log(self.obs_dropout)))


Timing = TaskTiming | float | None
# What puts a task into other conditions: a sensor or an actuator that fails, another body.
Disturb = Callable[[Env], Env]


def with_timing(env: Env, timing: TaskTiming, disturb: Disturb | None = None) -> Env:
    """Wrap a task so that it is timed in this way; unchanged where that is as it was made.

    From the inside out: `ControlInterval` (rewards and episode limits stay those of the same seconds);
    `ObservationDropout`, which shows the last observation that arrived; `ObservationDelay`; `ActionDelay`,
    which shows the last actions behind the observation, as many as have not shown their effect, so that the
    task stays Markov; and `TimeAware` with the age of the observation, where that varies. Agents that plan
    are told the next interval besides. `disturb` wraps what is nearest to the task, above `ControlInterval`.

    Raises:
        UsageError: for what the task cannot take, naming the nearest that it can.
    """
    timing = timing.resolved(env)
    interval = timing.dt_range or timing.dt
    if interval is None and not timing.disturbs:
        return env if disturb is None else disturb(env)
    env = control = ControlInterval(env, dt=interval, native=timing.native)
    if disturb is not None:
        env = disturb(env)
    if timing.obs_dropout:
        env = ObservationDropout(env, timing.obs_dropout)
    if timing.obs_delay:
        env = ObservationDelay(env, timing.obs_delay)
    if timing.action_delay:
        control.grid.ticks(timing.action_delay)  # refuses what would be rounded
    if timing.action_delay or timing.history:
        env = ActionDelay(env, timing.action_delay, history=timing.history or 0)
    return TimeAware(env, since_valid=True) if timing.time_aware else env


def next_interval(env: Env) -> float | None:
    """Seconds that the next step of a task will last; None for a task that does not know."""
    return float(env.get_wrapper_attr("interval")) if env.has_wrapper_attr("interval") else None


def _check_range(dt_range: Any) -> None:
    lo = range_of_seconds(dt_range, "dt_range")[0]
    if len(dt_range) != 2 or lo <= 0:
        raise UsageError("two numbers LO < HI for --dt-range", dt_range, "Write --dt-range 0.01 0.05.")
