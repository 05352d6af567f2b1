"""Coloured noise: variance one at every length, power that falls as asked."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from ode_rl.agents import MPC, ODEPolicy
from ode_rl.agents.noise import STRETCH, coloured_noise, exploration_noise


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


@pytest.mark.parametrize("interval", [0.05, 0.008, 3.0])
def test_mirrored_exploration_brings_a_mass_that_it_pushes_back_to_rest_where_it_was(interval: float) -> None:
    push = exploration_noise(3, 2, interval, 2.0, np.random.default_rng(0), mirrored=True).double()
    assert push.shape == (4 * max(2, round(STRETCH / interval)), 3, 2)
    speed, place = torch.zeros(3, 2).double(), torch.zeros(3, 2).double()
    furthest = 0.0
    for force in push:
        place = place + speed * interval + force * interval**2 / 2
        speed = speed + force * interval
        furthest = max(furthest, float(place.abs().max()))
    assert float(speed.abs().max()) < 1e-9 * furthest / interval
    assert float(place.abs().max()) < 1e-9 * furthest


def test_exploration_noise_that_is_not_mirrored_is_one_stretch() -> None:
    mirrored, plain = (
        exploration_noise(1, 1, 0.05, 1.0, np.random.default_rng(0), each) for each in (True, False)
    )
    assert len(plain) == round(STRETCH / 0.05)
    assert torch.equal(mirrored[: len(plain)], plain)


@pytest.mark.parametrize("agent", [MPC, ODEPolicy])
def test_a_mirrored_warm_up_begins_with_every_episode(agent: Any) -> None:
    stretch = round(STRETCH / 0.05)
    # One whole set of four stretches and a part of the next.
    env = gymnasium.make("ode_rl/CartPoleSwingUp-v0", max_episode_steps=4 * stretch + 20)
    learned = agent(env, None, 0, "cpu", warmup_steps=500, warmup_mirrored=True).learn(400)
    actions = learned.buffer.arrays().action[:, 0]
    for begin in (0, 4 * stretch + 20):
        first, second, third, fourth = actions[begin : begin + 4 * stretch].reshape(4, stretch)
        assert np.abs(first).max() > 0.5
        for other, sign in ((second, -1), (third, -1), (fourth, 1)):
            np.testing.assert_allclose(other, sign * first, atol=1e-6)
    assert not np.allclose(actions[:stretch], actions[4 * stretch + 20 : 5 * stretch + 20])
