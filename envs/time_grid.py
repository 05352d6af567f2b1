"""The moments at which a task can take another action."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ode_rl.errors import UsageError

TOLERANCE = 1e-6
"""How far, in grid points, an interval may be from a whole number of them."""


@dataclass(frozen=True)
class TimeGrid:
    """Durations are counted in ticks: whole substeps, or seconds where a task takes any duration.

    Whole numbers add up exactly, so that a thousand intervals still end where they should.
    """

    native: float
    """Seconds of a step of the task as it was made."""
    unit: float | None
    """Seconds of a substep; None: any duration."""
    noun: str = "physics substeps"

    @property
    def native_ticks(self) -> float:
        """Ticks of a native step."""
        return self.native if self.unit is None else round(self.native / self.unit)

    @property
    def slack(self) -> float:
        """Ticks that count as none: rounding errors where ticks are seconds."""
        return TOLERANCE * self.native if self.unit is None else 0

    @property
    def shortest(self) -> float:
        """Seconds of the shortest interval."""
        return TOLERANCE * self.native if self.unit is None else self.unit

    def seconds(self, ticks: float) -> float:
        """Seconds of a number of ticks; exactly `native` for a native step."""
        if self.unit is None or ticks == self.native_ticks:
            return ticks if self.unit is None else self.native
        return ticks * self.unit

    def nearest(self, seconds: float, at_least: float = 0) -> float:
        """Ticks nearest to a duration in seconds."""
        return seconds if self.unit is None else max(round(seconds / self.unit), int(at_least))

    def ticks(self, seconds: float) -> float:
        """Ticks of an interval.

        Raises:
            UsageError: if it is not a whole number of substeps, naming the two nearest.
        """
        if self.unit is None:
            return seconds
        ratio = seconds / self.unit
        ticks = round(ratio)
        if ticks < 1 or abs(ratio - ticks) > TOLERANCE:
            below, above = math.floor(ratio) * self.unit, math.ceil(ratio) * self.unit
            nearest = f"{below:g} or {above:g}" if below > 0 else f"{above:g}"
            raise UsageError(
                f"an interval of whole {self.noun} of {self.unit:g} s", f"{seconds:g}", f"Write {nearest}."
            )
        return ticks

    def within(self, lo: float, hi: float) -> tuple[float, float]:
        """Least and greatest ticks of a range of intervals in seconds.

        Raises:
            UsageError: if it starts below one substep, or lies between two.
        """
        if self.unit is None:
            return lo, hi
        if lo < self.unit * (1 - TOLERANCE):
            raise UsageError(
                f"intervals of at least one of the {self.noun} of {self.unit:g} s",
                f"{lo:g} to {hi:g}",
                f"Start the range at {self.unit:g}.",
            )
        least, most = math.ceil(lo / self.unit - TOLERANCE), math.floor(hi / self.unit + TOLERANCE)
        if least > most:
            below, above = most * self.unit, least * self.unit
            raise UsageError(
                f"a range that holds whole {self.noun} of {self.unit:g} s",
                f"{lo:g} to {hi:g}",
                f"Let it reach {below:g} or {above:g}.",
            )
        return least, most

    def ticks_up(self, seconds: float) -> float:
        """Ticks that last at least so many seconds."""
        return seconds if self.unit is None else max(1, math.ceil(seconds / self.unit - TOLERANCE))
