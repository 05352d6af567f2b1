"""Statistics of returns: robust means, and intervals that say how sure they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
RESAMPLES = 2000

Floats = npt.NDArray[np.float64]
# Resampled strata ``[(R, n_0), (R, n_1), ...]`` to ``[R]`` or ``[R, *]``.
Statistic = Callable[[list[Floats]], Floats]


def interquartile_mean(values: npt.ArrayLike, axis: int | None = None) -> Floats:
    """Mean of the middle half: a quarter of the values, rounded down, is left out at either end.

    Source: Agarwal et al., Deep RL at the Edge of the Statistical Precipice, NeurIPS 2021.
    """
    data = np.asarray(values, np.float64)
    data = data.reshape(-1) if axis is None else np.moveaxis(data, axis, -1)
    cut = data.shape[-1] // 4
    middle: Floats = np.sort(data, -1)[..., cut : data.shape[-1] - cut].mean(-1)
    return middle


def pooled_interquartile_mean(strata: list[Floats]) -> Floats:
    """Interquartile mean over all strata together, ``[(R, n_0), ...] -> [R]``."""
    return interquartile_mean(np.concatenate(strata, -1), axis=-1)


def bootstrap_interval(
    strata: Sequence[npt.ArrayLike],
    statistic: Statistic = pooled_interquartile_mean,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Floats, Floats] | None:
    """Percentile interval of a statistic under the stratified bootstrap.

    Each stratum (the runs on one task, say) is drawn from with replacement on its own, so that every resample
    has as many of each. None where one has fewer than two values: nothing tells how much these vary.
    """
    data = [np.asarray(values, np.float64).reshape(-1) for values in strata]
    if not data or min(len(values) for values in data) < 2:
        return None
    rng = np.random.default_rng(seed)
    drawn = [values[rng.integers(len(values), size=(resamples, len(values)))] for values in data]
    tail = 100 * (1 - level) / 2
    lo, hi = np.percentile(statistic(drawn), [tail, 100 - tail], axis=0)
    return lo, hi


def wilson_interval(successes: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Interval of a success rate by Wilson's score: right for few trials, and for none or all of them."""
    from scipy.stats import binomtest  # slow to load

    found = binomtest(successes, n).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


def probability_of_improvement(x: Sequence[Floats], y: Sequence[Floats]) -> Floats:
    """Mean over strata of the probability that a value of `x` exceeds one of `y`, ties counting half.

    ``x[i] [*, n]`` and ``y[i] [*, m]`` to ``[*]``: the Mann-Whitney U statistic over ``n m``.
    """
    pairs = (a[..., :, None] - b[..., None, :] for a, b in zip(x, y, strict=True))
    shares = [((gap > 0) + 0.5 * (gap == 0)).mean((-1, -2)) for gap in pairs]
    mean: Floats = np.mean(shares, axis=0)
    return mean


def performance_profile(strata: Sequence[Floats], thresholds: npt.ArrayLike) -> Floats:
    """Share of the values above each threshold, every stratum weighing the same: ``[*, n_i] -> [*, T]``."""
    at = np.asarray(thresholds, np.float64)
    shares = [(values[..., None] > at).mean(-2) for values in strata]
    mean: Floats = np.mean(shares, axis=0)
    return mean


def standard_error(values: npt.ArrayLike) -> float:
    """Standard deviation over the root of the number of values; 0 for one alone."""
    data = np.asarray(values, np.float64)
    return float(data.std(ddof=1) / math.sqrt(data.size)) if data.size > 1 else 0.0
