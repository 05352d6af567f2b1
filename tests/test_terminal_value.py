"""The value of where a plan ends: learned from the data, compared with closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from ode_rl.agents.terminal_value import TerminalValue, ValueConfig
from ode_rl.buffer import ReplayBuffer
from ode_rl.errors import UsageError
from ode_rl.returns import Float64, lambda_returns
from ode_rl.types import Transition

NATIVE = 0.1
RHO = 1.5  # per second
SMALL = ValueConfig(hidden=(32, 32), n_members=2, updates=200, batch_size=64, learning_rate=3e-3)


def countdown(buffer: ReplayBuffer, start: float, stop: float, dt: float, *, ends: str) -> None:
    """An episode in which the observed time left falls from `start` to `stop`; it pays 1 per second.

    Rewards are discounted within their interval, so that every cut of an episode is worth the same.
    """
    left = start
    while left > stop + 1e-9:
        last = left - dt <= stop + 1e-9
        reward = -math.expm1(-RHO * dt) / RHO
        flags = (last and ends == "terminated", last and ends == "truncated")
        obs, after = np.array([left], np.float32), np.array([left - dt], np.float32)
        buffer.add(Transition(obs, np.zeros(1, np.float32), reward, after, dt, *flags))
        left -= dt


def learned(buffer: ReplayBuffer, fits: int, config: ValueConfig = SMALL, seed: int = 0) -> TerminalValue:
    value = TerminalValue(1, config, torch.Generator().manual_seed(seed))
    rng = np.random.default_rng(seed)
    for _ in range(fits):
        value.fit(buffer, RHO, NATIVE, rng)
    return value


def at(value: TerminalValue, *left: float) -> list[float]:
    with torch.no_grad():
        return [float(x) for x in value(torch.tensor(left)[:, None])]


LEFT = (0.1, 0.5, 1.0, 1.5, 2.0)


def test_the_value_before_a_termination_is_the_discounted_time_that_is_left() -> None:
    buffer = ReplayBuffer(1000, 1, 1)
    for dt in (0.1, 0.05, 0.2):  # mixed control intervals tell the same story
        for _ in range(5):
            countdown(buffer, 2.0, 0.0, dt, ends="terminated")
    value = learned(buffer, fits=4)
    assert at(value, *LEFT) == pytest.approx([-math.expm1(-RHO * t) / RHO for t in LEFT], abs=0.03)


def test_what_a_truncation_hides_is_learned_from_other_episodes() -> None:
    buffer = ReplayBuffer(1000, 1, 1)
    for _ in range(8):
        countdown(buffer, 2.0, 1.0, 0.1, ends="truncated")
        countdown(buffer, 1.0, 0.0, 0.1, ends="terminated")
    value = learned(buffer, fits=6)
    assert at(value, *LEFT) == pytest.approx([-math.expm1(-RHO * t) / RHO for t in LEFT], abs=0.04)


@pytest.mark.parametrize("ends", ["truncated", "nothing"])
def test_an_endless_stream_that_was_only_cut_is_worth_the_rate_over_the_discount(ends: str) -> None:
    buffer = ReplayBuffer(1000, 1, 1)
    for _ in range(8):
        countdown(buffer, 2.0, 0.0, 0.1, ends=ends)
        buffer.cut()
    value = learned(buffer, fits=12)
    assert at(value, *LEFT) == pytest.approx([1 / RHO] * 5, abs=0.04)


def test_returns_are_asked_for_with_discounts_and_traces_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Float64, ...]] = []

    def spied(*args: Any) -> Float64:
        asked.append(args)
        return lambda_returns(*args)

    monkeypatch.setattr("ode_rl.agents.terminal_value.lambda_returns", spied)
    buffer = ReplayBuffer(5, 1, 1)  # of which two rows are overwritten
    countdown(buffer, 0.4, 0.0, 0.1, ends="terminated")
    countdown(buffer, 0.6, 0.0, 0.2, ends="nothing")
    learned(buffer, fits=1)
    reward, discount, mix, _, terminated, following = asked[0]
    np.testing.assert_allclose(discount, np.exp([-0.1 * RHO] * 2 + [-0.2 * RHO] * 3))
    np.testing.assert_allclose(mix, [SMALL.trace] * 2 + [SMALL.trace**2] * 3)
    assert terminated.tolist() == [False, True, False, False, False]
    assert following.tolist() == [1, -1, 3, 4, -1]
    np.testing.assert_array_equal(reward, buffer.arrays().reward)


def test_the_scale_of_the_rewards_does_not_matter() -> None:
    found = []
    for unit in (1.0, 1000.0):
        buffer = ReplayBuffer(1000, 1, 1)
        countdown(buffer, 2.0, 0.0, 0.1, ends="terminated")
        buffer.reward[:] = -unit * buffer.reward
        found.append(at(learned(buffer, fits=2), *LEFT))
    assert [-x / 1000 for x in found[1]] == pytest.approx([-x for x in found[0]], abs=0.02)


@pytest.mark.parametrize("pessimism", [0.0, 1.5])
def test_a_value_is_the_mean_of_its_members_less_what_they_disagree_about(pessimism: float) -> None:
    config = ValueConfig(hidden=(8,), n_members=4, pessimism=pessimism)
    value = TerminalValue(3, config, torch.Generator().manual_seed(0))
    value.out.copy_(torch.tensor([2.0, 5.0]))
    z = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1))
    found = value(z)
    assert found.shape == (2, 6)  # any leading axes
    members = 2 + 5 * value.net(z[1, 4].expand(4, 1, 3))[:, 0, 0].detach()
    spread = members.std(correction=0)
    assert float(spread) > 0
    torch.testing.assert_close(found[1, 4], members.mean() - pessimism * spread)
    torch.testing.assert_close(value.mean(z)[1, 4], members.mean())


def test_growing_data_do_not_move_what_was_learned_before_the_next_fit_uses_it() -> None:
    buffer = ReplayBuffer(1000, 1, 1)
    for _ in range(5):
        countdown(buffer, 2.0, 0.0, 0.1, ends="terminated")
    value = learned(buffer, fits=4)
    before = at(value, *LEFT)
    countdown(buffer, 40.0, 38.0, 0.1, ends="truncated")  # far away: the scale of the states changes
    still = ValueConfig(**{**SMALL.__dict__, "updates": 1, "refreshes": 1, "learning_rate": 0.0})
    value.config = still
    value.fit(buffer, RHO, NATIVE, np.random.default_rng(0))
    assert at(value, *LEFT) == pytest.approx(before, abs=1e-3)


def test_the_same_seed_learns_the_same_value() -> None:
    buffer = ReplayBuffer(1000, 1, 1)
    countdown(buffer, 2.0, 0.0, 0.1, ends="terminated")
    one, again, other = (at(learned(buffer, 1, seed=seed), *LEFT) for seed in (0, 0, 1))
    assert one == again
    assert one != other


def test_a_stored_value_is_the_same_value() -> None:
    buffer = ReplayBuffer(1000, 1, 1)
    countdown(buffer, 2.0, 0.0, 0.1, ends="terminated")
    one = learned(buffer, 1)
    other = TerminalValue(1, SMALL, torch.Generator().manual_seed(9))
    other.load_state_dict(one.state_dict())
    assert at(other, *LEFT) == at(one, *LEFT)
    assert int(other.n_fits) == int(one.n_fits) > 0


@pytest.mark.parametrize(("sign", "low", "high"), [(1.0, 0.0, 1 / RHO), (-1.0, -1 / RHO, 0.0)])
def test_a_value_far_from_the_data_is_none_that_no_policy_could_reach(
    sign: float, low: float, high: float
) -> None:
    buffer = ReplayBuffer(1000, 1, 1)
    for dt in (0.1, 0.05):
        countdown(buffer, 2.0, 0.0, dt, ends="terminated")
    buffer.reward[:] *= sign
    value = learned(buffer, fits=2)
    # A reward of 1 per second, paid for ever at the native interval.
    assert value.bounds.tolist() == pytest.approx([low, high], rel=0.1)
    far = at(value, -1e4, -10.0, 10.0, 1e4)
    assert all(value.bounds[0] <= each <= value.bounds[1] for each in far)
    assert {min(far), max(far)} == set(value.bounds.tolist())  # the networks alone leave them on both sides


def test_without_a_discount_a_value_has_no_bounds() -> None:
    buffer = ReplayBuffer(1000, 1, 1)
    countdown(buffer, 2.0, 0.0, 0.1, ends="terminated")
    value = TerminalValue(1, SMALL, torch.Generator().manual_seed(0))
    value.fit(buffer, 0.0, NATIVE, np.random.default_rng(0))
    assert value.bounds.tolist() == [-math.inf, math.inf]


@pytest.mark.parametrize(
    ("expectile", "expected"),
    # Returns of 0 and 1, which are -1 and 1 in units of their spread; tails are linear beyond 1.
    [(0.5, 0.5), (0.9, 1 - 0.1 / 0.9 / 2), (0.1, 0.1 / 0.9 / 2)],
)
def test_an_expectile_of_the_returns_leans_to_the_better_or_the_worse_ones(
    expectile: float, expected: float
) -> None:
    buffer = ReplayBuffer(1000, 1, 1)
    zero = np.zeros(1, np.float32)
    for k in range(200):
        buffer.add(Transition(zero, zero, float(k % 2), zero, NATIVE, True, False))
    config = ValueConfig(hidden=(8,), n_members=1, updates=400, learning_rate=1e-2, expectile=expectile)
    assert at(learned(buffer, fits=2, config=config), 0.0)[0] == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("expectile", [0.0, 1.0, 2.0])
def test_an_expectile_lies_between_0_and_1(expectile: float) -> None:
    with pytest.raises(UsageError, match="expectile"):
        ValueConfig(expectile=expectile)
