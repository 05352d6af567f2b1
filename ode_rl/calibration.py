"""Whether a model knows how wrong it is: predictive bands, their coverage, and a temperature for them."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from ode_rl.errors import UsageError
from ode_rl.open_loop import OpenLoop
from ode_rl.recorded import TIME_TOLERANCE, BoolArray
from ode_rl.types import FloatArray

LEVELS = (0.5, 0.9, 0.95)


class Bands(NamedTuple):
    """The central range that should hold the truth with some probability, ``low, high [*, O]``.

    Dimensions of no width are those that do not move.
    """

    low: FloatArray
    high: FloatArray


def total_std(loop: OpenLoop) -> FloatArray:
    """Standard deviation of the ensemble taken as a mixture of Gaussians, ``[n, H, O]``.

    ``sqrt(mean_e noise_e^2 + var_e mean_e)``: what is noise, and what the members do not agree on.
    """
    weight = loop.ok[..., None]
    noise = np.where(weight, np.square(loop.noise_std), 0.0).sum(0) / np.maximum(weight.sum(0), 1)
    std: FloatArray = np.sqrt(noise + np.square(loop.spread()))
    return std


def bands(loop: OpenLoop, probability: float, temperature: float = 1.0) -> Bands:
    """``mean -+ z_p * temperature * total_std`` with ``z_p`` the two-sided normal quantile.

    Raises:
        UsageError: for a probability outside (0, 1) or a temperature that is not positive.
    """
    half = _normal_half_width(probability) * _positive(temperature) * total_std(loop)
    mean = loop.mean()
    return Bands(mean - half, mean + half)


def coverage(bands: Bands, truth: FloatArray, mask: BoolArray) -> float:
    """Share of the truth ``[*, O]`` inside the bands where ``mask [*]``, over dimensions that move.

    A prediction that failed covers nothing. NaN where there is nothing to count.
    """
    inside = (bands.low <= truth) & (truth <= bands.high)
    counts = mask[..., None] & ~(bands.high == bands.low)
    return float(inside[counts].mean()) if counts.any() else math.nan


def coverage_at(loop: OpenLoop, probability: float, seconds: float, temperature: float = 1.0) -> float:
    """Coverage at the last recorded time not later than `seconds` after the starts."""
    column = loop.column_at(seconds)
    at = np.flatnonzero(column >= 0)
    low, high = (edge[at, column[at]] for edge in bands(loop, probability, temperature))
    return coverage(Bands(low, high), loop.truth[at, column[at]], np.ones(len(at), np.bool_))


def fit_temperature(loop: OpenLoop, probability: float = 0.9, horizon_s: float = math.inf) -> float:
    """The factor on `total_std` with which bands of `probability` cover just that share of `loop`.

    Over all intervals that end within `horizon_s` seconds of their start.

    ``temperature = quantile_p(|truth - mean| / total_std) / z_p``. The factor of highest Gaussian likelihood
    is the root mean square of these ratios instead, and a few large errors (contacts, unstable states) decide
    it: the bands of heavy-tailed errors would then be too wide nearly everywhere. The quantile does not care
    how far the outermost errors lie. Fit it on other episodes than those it is judged on.

    Raises:
        UsageError: if nothing that moves was recorded, or no prediction is finite.
    """
    std = total_std(loop)
    early = loop.mask & (loop.time <= horizon_s + TIME_TOLERANCE)
    counts = early[..., None] & (std != 0)  # NaN, a prediction that failed, counts
    ratio = np.abs(loop.truth - loop.mean())[counts] / std[counts]
    if not len(ratio):
        raise UsageError("predictions with a spread", "none", "Fit the model, and record episodes that move.")
    ratio = np.where(np.isfinite(ratio), ratio, math.inf)
    at_quantile = float(np.quantile(ratio, probability, method="higher"))
    if not math.isfinite(at_quantile):
        got = f"more than {100 * (1 - probability):.0f} % that failed"
        raise UsageError("finite predictions", got, "Fit the model for longer, or shorten the horizon.")
    return at_quantile / _normal_half_width(probability)


def _normal_half_width(probability: float) -> float:
    if not 0 < probability < 1:
        raise UsageError("a probability in (0, 1)", probability, "Write probability=0.9.")
    return NormalDist().inv_cdf(0.5 + probability / 2)


def _positive(temperature: float) -> float:
    if not (math.isfinite(temperature) and temperature > 0):
        raise UsageError("a temperature > 0", temperature, "Write temperature=1.0.")
    return temperature
