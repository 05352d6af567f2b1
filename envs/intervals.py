"""Random control intervals: how many seconds an action is held."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ode_rl.errors import UsageError
from ode_rl.timing import positive_seconds

KINDS = ("uniform", "log-uniform", "exponential", "two-tail")


@dataclass(frozen=True)
class Intervals:
    """A distribution of seconds on ``[lo, hi]``.

    - ``uniform``, and ``log-uniform``: uniform in ``log(dt)``.
    - ``exponential``: density ``~ exp(-(dt - lo) / scale)``, the waiting times of a Poisson process.
    - ``two-tail``: with probability `tails` one of the ends (`lo` with probability `short`), else uniform
      between them, as in the irregular tasks of Nguyen, arXiv 2602.14587.

    Raises:
        UsageError: for an unknown kind, ``lo >= hi``, or a probability outside [0, 1].
    """

    kind: str
    lo: float
    """Shortest interval in seconds."""
    hi: float
    """Longest interval in seconds."""
    scale: float | None = None
    """Decay of `exponential` in seconds; a quarter of ``hi - lo`` where it is not said."""
    tails: float = 0.99
    """`two-tail`: probability of one of the ends."""
    short: float = 0.9
    """`two-tail`: probability of `lo` among the ends."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"one of {', '.join(KINDS)}", repr(self.kind), "Write kind='uniform'.")
        if not positive_seconds(self.lo) < positive_seconds(self.hi):
            raise UsageError(
                "a shortest interval below the longest", f"{self.lo:g} and {self.hi:g}", "Write lo < hi."
            )
        if self.scale is not None:
            positive_seconds(self.scale, "scale")
        for name in ("tails", "short"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"a probability {name}", getattr(self, name), f"Write {name}=0.9.")

    @property
    def mean(self) -> float:
        """Expected seconds."""
        lo, hi = self.lo, self.hi
        if self.kind == "log-uniform":
            return (hi - lo) / math.log(hi / lo)
        if self.kind == "exponential":
            kept = -math.expm1(-(hi - lo) / self._scale)
            return lo + self._scale - (hi - lo) * (1 - kept) / kept
        middle = (lo + hi) / 2
        if self.kind == "uniform":
            return middle
        return self.tails * (self.short * lo + (1 - self.short) * hi) + (1 - self.tails) * middle

    def sample(self, generator: np.random.Generator) -> float:
        """Draw one interval in seconds."""
        lo, hi = self.lo, self.hi
        if self.kind == "two-tail" and generator.random() < self.tails:
            return lo if generator.random() < self.short else hi
        u = generator.random()
        if self.kind == "log-uniform":
            return float(lo * (hi / lo) ** u)
        if self.kind == "exponential":
            kept = -math.expm1(-(hi - lo) / self._scale)
            return lo - self._scale * math.log1p(-u * kept)
        return float(lo + u * (hi - lo))

    @property
    def _scale(self) -> float:
        return (self.hi - self.lo) / 4 if self.scale is None else self.scale


def as_intervals(dt: Any) -> float | Intervals:
    """Read what a user may write for an interval: seconds, ``(lo, hi)`` for a uniform draw, or `Intervals`.

    A mapping holds the fields of `Intervals`, which is how they come back from an environment's spec.

    Raises:
        UsageError: if it is none of these.
    """
    if isinstance(dt, Intervals):
        return dt
    if isinstance(dt, Mapping):
        try:
            return Intervals(**dt)
        except TypeError as error:
            raise UsageError("the fields of Intervals", f"{dict(dt)} ({error})", "See Intervals.") from error
    if isinstance(dt, tuple | list | np.ndarray) and np.ndim(dt) == 1:
        if len(dt) != 2:
            raise UsageError("a range (lo, hi) in seconds", dt, "Write dt=(0.01, 0.05).")
        return Intervals("uniform", positive_seconds(dt[0]), positive_seconds(dt[1]))
    return positive_seconds(dt)
