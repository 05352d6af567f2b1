"""Coloured noise: variance one at every length, power that falls as asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ode_rl.agents.noise import coloured_noise


def noise(n_rows: int, length: int, exponent: float, seed: int = 0) -> torch.Tensor:
    return coloured_noise((n_rows, length), exponent, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("length", [1, 2, 3, 12, 31])
def test_noise_has_mean_zero_and_variance_one_at_every_point(length: int, exponent: float) -> None:
    drawn = noise(20_000, length, exponent)
    assert drawn.shape == (20_000, length)
    # Standard errors are 0.007 of the mean and 0.01 of the variance.
    assert float(drawn.mean(0).abs().max()) < 0.04
    assert float((drawn.var(0) - 1).abs().max()) < 0.06


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("length", [128, 129])
def test_power_falls_with_frequency_by_the_exponent(exponent: float, length: int) -> None:
    drawn = noise(2000, length, exponent).numpy()
    power = (np.abs(np.fft.rfft(drawn)) ** 2).mean(0)[1:-1]
    frequency = np.fft.rfftfreq(length)[1:-1]
    slope = np.polyfit(np.log(frequency), np.log(power), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.03)


def test_coloured_noise_keeps_its_direction_longer_than_white_noise() -> None:
    def turn(exponent: float) -> float:
        drawn = noise(2000, 12, exponent)
        return float((drawn[:, 1:] * drawn[:, :-1]).mean())

    assert abs(turn(0.0)) < 0.03
    assert turn(1.0) > 0.3
    assert turn(2.0) > 0.7


def test_leading_axes_are_independent_draws() -> None:
    drawn = coloured_noise((300, 3, 40), 2.0, torch.Generator().manual_seed(0))
    correlation = np.corrcoef(drawn.transpose(0, 1).reshape(3, -1).numpy())
    assert np.abs(correlation - np.eye(3)).max() < 0.1


def test_the_same_generator_gives_the_same_noise() -> None:
    assert torch.equal(noise(3, 12, 2.0, seed=1), noise(3, 12, 2.0, seed=1))
    assert not torch.equal(noise(3, 12, 2.0, seed=1), noise(3, 12, 2.0, seed=2))
