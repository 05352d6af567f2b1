"""What every way of computing the true dynamics of a task offers."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
import numpy.typing as npt

from ode_rl.envs.control_interval import ControlInterval
from ode_rl.envs.steppers import stepper_for
from ode_rl.envs.time_grid import TimeGrid
from ode_rl.envs.time_wrapper import find
from ode_rl.errors import UsageError
from ode_rl.types import FloatArray

Env = gymnasium.Env[Any, Any]
Float64Array = npt.NDArray[np.float64]


class TrueOutcome(NamedTuple):
    """What the true task makes of plans: ``reward [*, H]`` per interval, ``terminated [*, H]`` (the task
    ended in this interval), ``next_obs [*, H, O]`` in the task's own type of float.

    What stands after the first end of a plan has no meaning, and callers mask it.
    """

    reward: Float64Array
    terminated: npt.NDArray[np.bool_]
    next_obs: FloatArray


class Engine(Protocol):
    """Snapshots, restores and rolls out one kind of task; the arguments have been checked."""

    native_dt: float
    n_state: int
    n_action: int

    def snapshot(self, env: Env) -> Float64Array: ...

    def restore(self, env: Env, state: Float64Array) -> None: ...

    def rollout(self, states: Float64Array, plans: FloatArray, dt: Float64Array) -> TrueOutcome: ...


def grid_of(env: Env) -> TimeGrid:
    """Intervals that a task can take, and its native one, whatever a `ControlInterval` makes of them."""
    control = find(env, ControlInterval)
    return stepper_for(env).grid if control is None else control.grid


def kind_of(env: Env) -> str:
    """``module:class`` of an environment; a subclass may pay differently, so it is another kind."""
    cls = type(env.unwrapped)
    return f"{cls.__module__}:{cls.__qualname__}"


def same_kind(env: Env, base: Env) -> Any:
    """Return ``env.unwrapped`` if it is of the class of `base`.

    Raises:
        UsageError: if it is not.
    """
    if not isinstance(env, gymnasium.Env) or kind_of(env) != kind_of(base):
        got = type(getattr(env, "unwrapped", env)).__name__
        remedy = "Make one TrueDynamics for each task."
        raise UsageError(f"a running environment of the task {type(base).__name__}", got, remedy)
    return env.unwrapped


def whole_steps(dt: Float64Array, step: float) -> npt.NDArray[np.int64]:
    """Nearest whole number of steps of `step` seconds in each interval of ``dt [H]`` seconds.

    Raises:
        UsageError: if an interval asks for less than one.
    """
    counts = np.rint(dt / step).astype(np.int64)
    if (counts < 1).any():
        raise UsageError(
            f"intervals of at least one physics step, {step:g} s",
            f"dt={dt.min():g} s",
            f"Write dt={step:g} or more.",
        )
    return counts
