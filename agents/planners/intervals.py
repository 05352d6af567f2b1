"""The control intervals of a plan: fine at its beginning, coarser late in the horizon."""

from __future__ import annotations

import math
from itertools import pairwise

from ode_rl.errors import UsageError
from ode_rl.timing import positive_seconds


def interval_grid(
    horizon: float,
    dt: float,
    next_dt: float | None = None,
    n_intervals: int | None = None,
    growth: float = 1.0,
) -> list[float]:
    """Durations in seconds that sum to `horizon`.

    The first is `next_dt` (the real duration of the next step; None means `dt`). The others are multiples
    of `dt` near the geometric series ``dt, g dt, g^2 dt, ...``, rising; the last one takes up the rest, at
    least about half a `dt`. `growth` is the largest g. With `n_intervals` g is what makes that
    many of them, or 1 where fewer suffice.

    Raises:
        UsageError: for a horizon shorter than one interval, durations that are not positive, a growth below
            1, or so few intervals that the first one would have to be longer than the next step.
    """
    first = positive_seconds(dt if next_dt is None else next_dt, "next_dt")
    unit, horizon = positive_seconds(dt), positive_seconds(horizon, "horizon")
    if horizon < max(first, unit) * (1 - 1e-9):
        got = f"{horizon:g} s with intervals of {max(first, unit):g} s"
        raise UsageError("a horizon of at least one interval", got, f"Write horizon={12 * unit:g}.")
    if not (math.isfinite(growth) and growth >= 1):
        raise UsageError("growth >= 1", growth, "Write growth=1.2.")
    rest = (horizon - first) / unit
    if rest < 1e-6:
        return [horizon]
    n = max(1, round(rest))
    if n_intervals is not None:
        if n_intervals < 2:
            raise UsageError(
                "at least 2 intervals", n_intervals, "Write n_intervals=8, or a shorter horizon."
            )
        n = min(n, n_intervals - 1)
    elif growth > 1:
        n = min(n, math.ceil(math.log1p(rest * (growth - 1)) / math.log(growth) - 1e-9))
    ends = [first + unit * units for units in _ends(n, rest)] + [horizon]
    return [first, *(b - a for a, b in pairwise([first, *ends]))]


def _ends(n: int, rest: float) -> list[int]:
    """Where the first n - 1 of n intervals end, in whole units, if all n cover `rest` of them."""
    if n == 1:
        return []
    ratio = _ratio(n, rest)
    ends = [round(_series(ratio, k)) for k in range(n)]
    rising = sorted(b - a for a, b in pairwise(ends))
    return [sum(rising[:k]) for k in range(1, n)]


def _series(ratio: float, n: int) -> float:
    return math.fsum(ratio**k for k in range(n))


def _ratio(n: int, total: float) -> float:
    """The ratio >= 1 at which n terms from 1 on sum to `total`, by bisection; 1 if they need not grow."""
    low, high = 1.0, max(2.0, total)
    if n >= total:
        return low
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _series(middle, n) < total else (low, middle)
    return low
