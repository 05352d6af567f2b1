"""A guard around a task: what it returns is checked before anybody learns from it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.utils import RecordConstructorArgs

from ode_rl.errors import UsageError

Env = gymnasium.Env[Any, Any]

# So many times the largest number so far (at least 1) is no measurement any more.
OBSERVATION_LEAP, REWARD_LEAP = 1e4, 1e8
# So many faults within so many steps, and the task is not one to learn from.
MOST_FAULTS, WITHIN = 10, 200
# Seconds after the time-out in which a step that hangs in compiled code may still come back.
GRACE = 5.0

log = logging.getLogger(__name__)


class TaskFault(UsageError):
    """A task that failed: the environment, the step and the value are named."""


class Guarded(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Check every observation and reward of a task, and say where and how it failed.

    A step with a NaN, an infinity, or a number that leaps beyond all so far ends the episode (truncated):
    the observation before it is returned once more with reward 0 and ``info["fault"]``, for an agent to leave
    the step out. It is counted in `faults` and logged. Without `leaves_out` it raises, and so does all else:
    an exception of the task, an observation of a wrong shape or type, a reward that is no number, a step of
    more than `timeout` seconds, and too many faults.

    Raises:
        TaskFault: naming the environment, the step and the value.
    """

    def __init__(
        self, env: Env, leaves_out: bool = False, timeout: float | None = None, leaps: bool = True
    ) -> None:
        RecordConstructorArgs.__init__(self, leaves_out=leaves_out, timeout=timeout, leaps=leaps)
        gymnasium.Wrapper.__init__(self, env)
        self._name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
        self._leaves_out, self._timeout, self._leaps = leaves_out, timeout, leaps
        self._steps, self.faults = 0, 0
        self._recent: deque[int] = deque(maxlen=MOST_FAULTS)
        self._largest: npt.NDArray[np.float64] = np.ones(env.observation_space.shape or ())
        self._largest_reward = 1.0
        self._obs: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        with self._failing("reset"), _in_time(self._timeout):
            obs, info = self.env.reset(seed=seed, options=options)
        obs = self._checked(obs, "reset")
        if (odd := _not_finite(obs)) is not None:
            raise self._fault("a finite observation", odd, "reset")
        self._largest = np.maximum(self._largest, np.abs(obs))
        self._obs = obs
        return obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        with self._failing("step"), _in_time(self._timeout):
            obs, reward, terminated, truncated, info = self.env.step(action)
        obs = self._checked(obs, "step")
        try:
            reward = float(reward)
        except (TypeError, ValueError) as error:
            raise self._fault("a reward that is a number", repr(reward), "step") from error
        if (fault := self._what_is_wrong(obs, reward)) is not None:
            return self._left_out(*fault, info)
        self._obs = obs
        return obs, reward, bool(terminated), bool(truncated), info

    def _checked(self, obs: Any, when: str) -> npt.NDArray[Any]:
        shape = self.observation_space.shape
        try:
            found = np.asarray(obs)
        except (TypeError, ValueError) as error:
            raise self._fault(f"an observation of shape {shape}", repr(obs), when) from error
        if found.shape != shape or found.dtype.kind not in "fiub":
            got = f"{found.dtype} of shape {found.shape}"
            raise self._fault(f"an observation of numbers of shape {shape}", got, when)
        return found

    def _what_is_wrong(self, obs: npt.NDArray[Any], reward: float) -> tuple[str, str] | None:
        """What was expected and what came, if the numbers are none to learn from."""
        if (odd := _not_finite(obs)) is not None:
            return "a finite observation", odd
        if not np.isfinite(reward):
            return "a finite reward", str(reward)
        if not self._leaps:
            return None
        size = np.abs(obs)
        if np.any(size > OBSERVATION_LEAP * self._largest):
            at = int(np.argmax(size / self._largest))
            return f"an observation like those before (|x| <= {self._largest.flat[at]:.3g})", _entry(obs, at)
        if abs(reward) > REWARD_LEAP * self._largest_reward:
            return f"a reward like those before (|r| <= {self._largest_reward:.3g})", f"{reward:.6g}"
        self._largest = np.maximum(self._largest, size)
        self._largest_reward = max(self._largest_reward, abs(reward))
        return None

    def _left_out(
        self, expected: str, got: str, info: dict[str, Any]
    ) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not self._leaves_out:
            raise self._fault(expected, got, "step")
        self.faults += 1
        self._recent.append(self._steps)
        if len(self._recent) == MOST_FAULTS and self._steps - self._recent[0] < WITHIN:
            raise self._fault(f"fewer than {MOST_FAULTS} faults in {WITHIN} steps; {expected}", got, "step")
        log.warning(
            "%s, step %d: expected %s, got %s. The step is left out and a new episode begins (%d so far).",
            self._name,
            self._steps,
            expected,
            got,
            self.faults,
        )
        return np.array(self._obs), 0.0, False, True, {**info, "fault": f"expected {expected}, got {got}"}

    def _fault(self, expected: str, got: str, when: str) -> TaskFault:
        where = f"step {self._steps}" if when == "step" else f"the reset after step {self._steps}"
        got = got if len(got) <= 200 else f"{got[:200]}..."
        return TaskFault(f"{expected} from {self._name} at {where}", got, "Mend the task.")

    @contextmanager
    def _failing(self, when: str) -> Iterator[None]:
        try:
            yield
        except UsageError:
            raise
        except _TooLong as error:
            remedy = f"a {when} within {self._timeout:g} s"
            raise self._fault(remedy, "one that hangs", when) from error
        except Exception as error:  # a task fails in ways of its own
            raise self._fault(
                f"no exception in {when}()", f"{type(error).__name__}: {error}", when
            ) from error


class _TooLong(Exception):
    pass


def _not_finite(obs: npt.NDArray[Any]) -> str | None:
    bad = ~np.isfinite(obs)
    return _entry(obs, int(np.argmax(bad))) if bad.any() else None


def _entry(obs: npt.NDArray[Any], at: int) -> str:
    return f"{obs.flat[at]} in entry {at}"


@contextmanager
def _in_time(seconds: float | None) -> Iterator[None]:
    """Raise in what lasts longer; where nothing can be raised, in compiled code, end the process.

    Signals reach the main thread alone; elsewhere nothing is limited.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    _Watchdog.until = time.monotonic() + seconds + GRACE
    _Watchdog.awake()
    try:
        yield
    finally:
        _Watchdog.until = float("inf")
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _too_long(number: int, frame: object) -> None:
    raise _TooLong


class _Watchdog:
    """One thread for all tasks of the process, which sees what no signal interrupts."""

    until = float("inf")
    thread: threading.Thread | None = None

    @classmethod
    def awake(cls) -> None:
        if cls.thread is None:
            cls.thread = threading.Thread(target=cls._watch, daemon=True)
            cls.thread.start()

    @classmethod
    def _watch(cls) -> None:
        while True:
            time.sleep(0.5)
            if time.monotonic() > cls.until:
                remedy = "Mend the task; the newest checkpoint is whole."
                print(
                    f"error: expected a step in time, got one that hangs. {remedy}",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(2)
