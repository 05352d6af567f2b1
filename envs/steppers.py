"""The three ways in which a task can be advanced by another duration than its own step."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import gymnasium

from ode_rl.envs.time_grid import TimeGrid
from ode_rl.errors import UsageError
from ode_rl.timing import native_dt, positive_seconds

Env = gymnasium.Env[Any, Any]


class Advanced(NamedTuple):
    """What a task returned after it was advanced; `ticks` says how far it came before it ended."""

    obs: Any
    reward: Any
    terminated: bool
    truncated: bool
    info: dict[str, Any]
    ticks: float


class Stepper(Protocol):
    """Advances a task by a duration on its grid, one action held."""

    grid: TimeGrid

    def advance(self, env: Env, action: Any, ticks: float) -> Advanced:
        """Step `env`; the reward is that of the whole duration."""


class PhysicsSubsteps:
    """MuJoCo: another number of physics substeps in one step, by the task's own ``frame_skip``.

    Rewards are paid per step, and the velocities in them are means over the step, which the tasks compute
    from their `dt`, so that ``r * dt / native`` is right for each of their parts.
    """

    def __init__(self, base: Any) -> None:
        self._base, self._native = base, int(base.frame_skip)
        unit = float(base.model.opt.timestep)
        self.grid = TimeGrid(native=float(base.dt), unit=unit)

    def advance(self, env: Env, action: Any, ticks: float) -> Advanced:
        with _set_for_now(self._base, "frame_skip", int(ticks)):
            obs, reward, terminated, truncated, info = env.step(action)
        scaled = float(reward) * (ticks / self._native)
        return Advanced(obs, scaled, terminated, truncated, info, ticks)


class AnyDuration:
    """A task that solves its equations for any duration, and pays for that whole duration.

    The duration of the next step is its attribute ``interval``, in seconds.
    """

    def __init__(self, base: Any, native: float) -> None:
        self._base = base
        self.grid = TimeGrid(native=native, unit=None)

    def advance(self, env: Env, action: Any, ticks: float) -> Advanced:
        with _set_for_now(self._base, "interval", ticks):
            obs, reward, terminated, truncated, info = env.step(action)
        # A task that ends at a time of its own may have cut the interval there.
        return Advanced(obs, reward, terminated, truncated, info, float(info.get("dt", ticks)))


class Repeats:
    """Any other task: whole repetitions of its step, rewards summed, stopped where the episode ends.

    With `physics_dt` its attribute ``dt`` is set for the time of a step, and each of these shorter steps
    pays its share ``physics_dt / native``.
    """

    def __init__(self, base: Any, native: float, physics_dt: float | None = None) -> None:
        self._base, self._physics_dt = base, physics_dt
        unit = native if physics_dt is None else physics_dt
        self.grid = TimeGrid(native, unit, "native steps" if physics_dt is None else "steps")

    def advance(self, env: Env, action: Any, ticks: float) -> Advanced:
        total: Any = None
        done = 0
        while done < ticks:
            with _set_for_now(self._base, "dt", self._physics_dt):
                obs, reward, terminated, truncated, info = env.step(action)
            total = reward if total is None else total + reward
            done += 1
            if terminated or truncated:
                break
        shorter = self.grid.native_ticks
        return Advanced(obs, total if shorter == 1 else total / shorter, terminated, truncated, info, done)


def stepper_for(env: Env, native: float | None = None, physics_dt: float | None = None) -> Stepper:
    """Choose how a task is advanced.

    `native` is for tasks that do not say how long their step is; `physics_dt` for those whose own `dt`
    attribute is the step of their physics and may be another one.

    Raises:
        UsageError: if the length of a step is unknown, or if `physics_dt` cannot be set.
    """
    base: Any = env.unwrapped
    if physics_dt is not None:
        return Repeats(base, native_dt(env, native), _settable(base, native_dt(env, native), physics_dt))
    if _counts_frames(base):
        return PhysicsSubsteps(base)
    if hasattr(base, "interval") and (hasattr(base, "simulate") or hasattr(base, "set_interval")):
        return AnyDuration(base, native_dt(env, native))
    return Repeats(base, native_dt(env, native))


def has_own_physics_dt(base: Any) -> bool:
    """Whether `dt` is a plain attribute of a task, as in the classic Pendulum, so that it could be set."""
    found = inspect.getattr_static(base, "dt", None)
    return isinstance(found, float | int) and not _counts_frames(base)


def _counts_frames(base: Any) -> bool:
    timestep = getattr(getattr(getattr(base, "model", None), "opt", None), "timestep", None)
    frames = getattr(base, "frame_skip", None)
    if timestep is None or frames is None or getattr(base, "dt", None) is None:
        return False
    return math.isclose(timestep * frames, base.dt, rel_tol=1e-9)


def _settable(base: Any, native: float, physics_dt: Any) -> float:
    seconds = positive_seconds(physics_dt, "physics_dt")
    if not has_own_physics_dt(base):
        raise UsageError(
            "physics_dt only where the task's own `dt` attribute is the step of its physics",
            type(base).__name__,
            "Leave physics_dt out: its physics keep their own step.",
        )
    ratio = native / seconds
    if round(ratio) < 1 or abs(ratio - round(ratio)) > 1e-6:
        nearest = sorted({native / max(1, n) for n in (math.floor(ratio), math.ceil(ratio))})
        remedy = f"Write {' or '.join(f'{dt:g}' for dt in nearest)}."
        raise UsageError(f"a whole fraction of the native step of {native:g} s", f"{seconds:g}", remedy)
    return native / round(ratio)


@contextmanager
def _set_for_now(base: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of the task and put back what was there, so that its native step stays visible."""
    if value is None:
        yield
        return
    before = getattr(base, name)
    setattr(base, name, value)
    try:
        yield
    finally:
        setattr(base, name, before)
