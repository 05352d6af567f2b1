"""What the wrappers of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, SupportsFloat, TypeVar
from zlib import crc32

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from ode_rl.errors import UsageError
from ode_rl.timing import native_dt

Env = gymnasium.Env[Any, Any]
Step = tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]
W = TypeVar("W")


class TimeWrapper(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """A wrapper with a generator of its own, which `reset(seed=...)` seeds.

    Its draws are the same for the same seed, and take nothing from the generator of the task or of another
    wrapper, so that a fault more or less does not change the start states.
    """

    adds_exact = False
    """Whether the observation has entries that are no sensor's: times, actions, a mask."""

    def __init__(self, env: Env, **arguments: Any) -> None:
        plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
        RecordConstructorArgs.__init__(self, **plain)
        gymnasium.Wrapper.__init__(self, env)
        alike = sum(type(below) is type(self) for below in wrappers_of(env))
        self._stream = (crc32(type(self).__name__.encode()), alike)
        self._generator = np.random.default_rng()

    def _reset_env(self, seed: int | None, options: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._generator = np.random.default_rng([seed, *self._stream])
        return self.env.reset(seed=seed, options=options)


def wrappers_of(env: Env) -> Iterator[Env]:
    """Yield an environment and all below it, from the outside in."""
    while True:
        yield env
        if not isinstance(env, gymnasium.Wrapper):
            return
        env = env.env


def find(env: Env, kind: type[W]) -> W | None:
    """Return the outermost wrapper of a class, or None."""
    return next((each for each in wrappers_of(env) if isinstance(each, kind)), None)


def step_seconds(env: Env) -> float:
    """Nominal seconds of a step, for an environment whose steps do not say theirs in ``info["dt"]``.

    Raises:
        UsageError: if it is not known.
    """
    try:
        return native_dt(env)
    except UsageError as error:
        remedy = "Put ControlInterval(env, native=SECONDS) on the task first."
        raise UsageError(error.expected, error.got, remedy) from error


def check_sensors(wrapper: TimeWrapper) -> None:
    """Check that what disturbs sensors has nothing below it that is no sensor.

    Raises:
        UsageError: naming the wrapper that belongs on top.
    """
    name = type(wrapper).__name__
    for below in wrappers_of(wrapper.env):
        if isinstance(below, TimeWrapper) and below.adds_exact:
            exact = type(below).__name__
            raise UsageError(
                f"{name} below what adds times, actions or masks to the observation",
                f"on top of {exact}",
                f"Write {exact}({name}(env, ...), ...).",
            )


def flat_box(space: spaces.Space[Any], what: str) -> spaces.Box:
    """Return a space if it is a Box of one axis, with floats.

    Raises:
        UsageError: naming the space that it is.
    """
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating):
        return space
    remedy = "Wrap the task in gymnasium.wrappers.FlattenObservation first."
    raise UsageError(f"{what} in a Box of floats of shape (n,)", space, remedy)


def extended(space: spaces.Box, low: Any, high: Any) -> spaces.Box:
    """Return a Box with further components behind its own."""
    dtype: Any = space.dtype
    low, high = (np.asarray(bound, dtype) for bound in (low, high))
    return spaces.Box(np.concatenate([space.low, low]), np.concatenate([space.high, high]), dtype=dtype)


def range_of_seconds(value: Any, name: str) -> tuple[float, float]:
    """Read a duration that may be zero: seconds, or ``(lo, hi)`` for a uniform draw.

    Raises:
        UsageError: if it is negative, not finite, or ``lo >= hi``.
    """
    try:
        numbers = np.asarray(value, float).reshape(-1)
    except (TypeError, ValueError):
        numbers = np.full(1, np.nan)
    if not (len(numbers) in (1, 2) and np.isfinite(numbers).all() and (numbers >= 0).all()):
        raise UsageError(f"{name} >= 0 in seconds, or a range (lo, hi)", repr(value), f"Write {name}=0.05.")
    lo, hi = float(numbers[0]), float(numbers[-1])
    if len(numbers) == 2 and not lo < hi:
        raise UsageError(f"a range of {name} with lo < hi", repr(value), f"Write {name}=(0.0, 0.1).")
    return lo, hi
