"""Predictive bands: known coverage of Gaussians, total variance, a temperature despite heavy tails."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ode_rl.calibration import (
    LEVELS,
    Bands,
    bands,
    coverage,
    coverage_at,
    fit_temperature,
    total_std,
)
from ode_rl.errors import UsageError
from ode_rl.open_loop import OpenLoop
from ode_rl.types import FloatArray

N, H = 4000, 3
TIME = np.array([0.1, 0.2, 0.4])


def predicted(error: FloatArray, std: float = 1.0, means: tuple[float, ...] = (0.0, 0.0)) -> OpenLoop:
    """Members at `means`, each with noise `std`, while the truth is at `error` ``[n, H]``."""
    n, h = error.shape
    members = np.broadcast_to(np.array(means)[:, None, None, None], (len(means), n, h, 1))
    return OpenLoop(
        start=np.zeros((n, 1)),
        time=np.tile(TIME[:h], (n, 1)),
        dt=np.tile(np.diff(TIME[:h], prepend=0.0), (n, 1)),
        truth=error[..., None],
        members=members,
        noise_std=np.full(members.shape, std),
        true_reward=np.zeros((n, h)),
        reward=np.zeros((len(means), n, h)),
        terminated=np.zeros((n, h), np.bool_),
        log_survival=None,
        mask=np.ones((n, h), np.bool_),
        ok=np.ones((len(means), n, h), np.bool_),
        until=np.full(n, TIME[h - 1]),
        trajectory=np.arange(n),
    )


def gaussian(std: float = 1.0, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).normal(0, std, (N, H))


def heavy(seed: int) -> FloatArray:
    """One error in twenty is thirty times as large."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (N, H)) * np.where(rng.uniform(size=(N, H)) < 0.05, 30.0, 1.0)


def covered(loop: OpenLoop, probability: float, temperature: float = 1.0) -> float:
    return coverage(bands(loop, probability, temperature), loop.truth, loop.mask)


@pytest.mark.parametrize("probability", LEVELS)
def test_bands_of_the_true_spread_cover_their_probability(probability: float) -> None:
    loop = predicted(gaussian(0.7), std=0.7)
    assert covered(loop, probability) == pytest.approx(probability, abs=0.01)
    # A normal variable lies within z of its mean with probability erf(z / sqrt(2)).
    low, high = bands(loop, probability)
    z = (high - low).max() / 2 / 0.7
    assert math.erf(z / math.sqrt(2)) == pytest.approx(probability)


def test_too_narrow_bands_cover_what_the_error_function_says() -> None:
    loop = predicted(gaussian(2.0), std=1.0)
    assert covered(loop, 0.9) == pytest.approx(math.erf(1.6449 / 2 / math.sqrt(2)), abs=0.01)


def test_disagreement_of_members_widens_the_bands() -> None:
    loop = predicted(gaussian(), std=3.0, means=(-4.0, 4.0))
    np.testing.assert_allclose(total_std(loop), 5.0)
    np.testing.assert_allclose(sum(bands(loop, 0.9)), 0.0, atol=1e-12)


def test_a_member_that_failed_has_no_part_in_the_bands() -> None:
    loop = predicted(gaussian(), std=1.0, means=(0.0, math.nan))
    loop.ok[1] = False
    np.testing.assert_allclose(total_std(loop), 1.0)
    loop.ok[0, 0] = False
    assert np.isnan(total_std(loop)[0]).all()
    assert covered(loop, 0.5) == pytest.approx(0.5, abs=0.02)
    first = coverage(Bands(*(edge[:1] for edge in bands(loop, 0.5))), loop.truth[:1], loop.mask[:1])
    assert first == 0


@pytest.mark.parametrize(("true", "said"), [(2.0, 1.0), (0.1, 1.0), (1.0, 3.0)])
def test_the_temperature_of_gaussian_errors_is_their_ratio_to_what_was_said(true: float, said: float) -> None:
    temperature = fit_temperature(predicted(gaussian(true), std=said))
    assert temperature == pytest.approx(true / said, rel=0.02)


@pytest.mark.parametrize("probability", [0.5, 0.9])
def test_the_temperature_brings_bands_right_on_other_data_despite_heavy_tails(probability: float) -> None:
    temperature = fit_temperature(predicted(heavy(0)), probability)
    other = predicted(heavy(1))
    assert covered(other, probability, temperature) == pytest.approx(probability, abs=0.015)
    likeliest = math.sqrt(np.square(heavy(0)).mean())
    assert covered(other, probability, likeliest) > probability + 0.04


def test_what_is_masked_or_does_not_move_does_not_count() -> None:
    error = gaussian()
    error[N // 2 :] = 1e6
    loop = predicted(error)
    loop.mask[N // 2 :] = False
    assert fit_temperature(loop) == pytest.approx(1.0, rel=0.03)
    assert covered(loop, 0.9) == pytest.approx(0.9, abs=0.01)
    still = predicted(np.zeros((5, 2)), std=0.0)
    assert math.isnan(covered(still, 0.9))
    with pytest.raises(UsageError, match="predictions with a spread"):
        fit_temperature(still)


def test_coverage_at_a_time_looks_at_that_time_alone() -> None:
    error = gaussian()
    error[:, 1] = 100.0
    loop = predicted(error)
    assert coverage_at(loop, 0.9, 0.15) == pytest.approx(0.9, abs=0.02)
    assert coverage_at(loop, 0.9, 0.2) == 0
    assert math.isnan(coverage_at(loop, 0.9, 0.05))
    assert math.isnan(coverage_at(loop, 0.9, 0.5))


def test_bad_probabilities_and_temperatures_are_refused() -> None:
    loop = predicted(gaussian())
    with pytest.raises(UsageError, match=r"probability in \(0, 1\)"):
        bands(loop, 90)
    with pytest.raises(UsageError, match="temperature > 0"):
        bands(loop, 0.9, 0.0)
    lost = predicted(gaussian(), means=(math.nan, math.nan))
    lost.ok[:] = False
    with pytest.raises(UsageError, match="finite predictions"):
        fit_temperature(lost)
