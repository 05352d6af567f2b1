"""The moment at which a decision must be there."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from ode_rl.errors import UsageError


class OutOfTime(Exception):
    """Raised by a score that notices in the middle of its work that the deadline has passed."""


@dataclass(frozen=True)
class Deadline:
    """A reading `at` of a `clock`, both in seconds, after which nothing new is begun.

    The caller starts it (``Deadline.after(budget_ms)``), so that its own work before the search counts
    too; a score may call `check` as often as it likes. Work that a device does behind the clock's back
    (CUDA) needs a clock that waits for it.
    """

    at: float = math.inf
    clock: Callable[[], float] = time.perf_counter

    @classmethod
    def after(cls, ms: float | None, clock: Callable[[], float] = time.perf_counter) -> Deadline:
        """The moment `ms` milliseconds from now; None is never.

        Raises:
            UsageError: for a budget that is not positive.
        """
        if ms is None:
            return cls(clock=clock)
        if not ms > 0:
            raise UsageError("a budget > 0 milliseconds", ms, "Write planner={'budget_ms': 20}.")
        return cls(clock() + ms / 1000, clock)

    def left(self) -> float:
        """Seconds that are left; negative afterwards, infinite where there is no deadline."""
        return self.at - self.clock()

    @property
    def passed(self) -> bool:
        """Whether time is out."""
        return self.left() <= 0

    def check(self) -> None:
        """Raise `OutOfTime` if time is out."""
        if self.passed:
            raise OutOfTime

    def earlier(self, share: float) -> Deadline:
        """The moment when `share` of the time left now is over."""
        now = self.clock()
        return Deadline(now + share * (self.at - now), self.clock)
