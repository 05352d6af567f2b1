"""Returns in continuous time: the same task is worth the same at every control interval."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ode_rl.errors import UsageError
from ode_rl.returns import Float64, discount_rate, lambda_returns


def returns(
    reward: list[float],
    *,
    discount: Any,
    mix: Any,
    value: list[float],
    terminated: list[int],
    following: list[int],
) -> list[float]:
    n = len(reward)
    found = lambda_returns(
        np.array(reward),
        np.broadcast_to(np.array(discount, float), n),
        np.broadcast_to(np.array(mix, float), n),
        np.array(value),
        np.array(terminated, bool),
        np.array(following),
    )
    return [round(x, 10) for x in found.tolist()]


def test_three_intervals_of_different_duration_agree_with_the_sum_by_hand() -> None:
    found = returns(
        [1, 2, 3],
        discount=[0.9, 0.8, 0.5],
        mix=[0.6, 0.5, 0.9],
        value=[10, 20, 30],
        terminated=[0, 0, 0],
        following=[1, 2, -1],
    )
    third = 3 + 0.5 * 30
    second = 2 + 0.8 * (0.5 * 20 + 0.5 * third)
    first = 1 + 0.9 * (0.4 * 10 + 0.6 * second)
    assert found == [round(first, 10), round(second, 10), round(third, 10)]


def test_interleaved_episodes_do_not_mix() -> None:
    found = returns(
        [1, 100, 1, 100],
        discount=0.5,
        mix=1.0,
        value=[0, 0, 8, 800],
        terminated=[0, 0, 0, 0],
        following=[2, 3, -1, -1],
    )
    assert found == [1 + 0.5 * (1 + 0.5 * 8), 100 + 0.5 * (100 + 0.5 * 800), 5, 500]


def test_nothing_follows_a_termination_and_the_value_follows_a_truncation() -> None:
    found = returns([1, 1], discount=0.9, mix=0.7, value=[50, 50], terminated=[1, 0], following=[-1, -1])
    assert found == [1, 1 + 0.9 * 50]


def test_lambda_zero_is_one_step_and_lambda_one_is_the_sum_to_the_end() -> None:
    chain: dict[str, Any] = {"value": [5, 6, 7], "terminated": [0, 0, 0], "following": [1, 2, -1]}
    assert returns([1, 2, 3], discount=0.9, mix=0.0, **chain) == [
        round(x, 10) for x in (1 + 0.9 * 5, 2 + 0.9 * 6, 3 + 0.9 * 7)
    ]
    total = 1 + 0.9 * (2 + 0.9 * (3 + 0.9 * 7))
    assert returns([1, 2, 3], discount=0.9, mix=1.0, **chain)[0] == round(total, 10)


def test_where_the_values_are_true_lambda_does_not_matter() -> None:
    gamma, n = 0.9, 6
    truth = [(1 - gamma ** (n - k)) / (1 - gamma) for k in range(n)]
    for mix in (0.0, 0.3, 1.0):
        found = returns(
            [1.0] * n,
            discount=gamma,
            mix=mix,
            value=[*truth[1:], 99.0],
            terminated=[0] * (n - 1) + [1],
            following=[*range(1, n), -1],
        )
        assert found == [round(x, 10) for x in truth]


def constant_rate(refine: int, value: float, rate: float, rho: float, trace: float) -> Float64:
    """Lambda-returns of one second of a constant reward rate in ``10 * refine`` intervals, then the end.

    The reward of an interval is ``int rate exp(-rho t) dt`` over it, as seen from its start.
    """
    n = 10 * refine
    dt = np.full(n, 1.0 / n)
    following = np.append(np.arange(1, n), -1)
    reward = rate * -np.expm1(-rho * dt) / rho
    discount, mix = np.exp(-rho * dt), trace ** (dt / 0.1)
    return lambda_returns(reward, discount, mix, np.full(n, value), np.zeros(n, bool), following)


@pytest.mark.parametrize("refine", [1, 2, 4])
def test_a_constant_reward_rate_is_worth_its_closed_form_at_every_interval_length(refine: int) -> None:
    rate, rho = 3.0, 0.7
    for trace in (0.0, 0.5, 1.0):  # with the true value of an endless stream, lambda does not matter
        found = constant_rate(refine, rate / rho, rate, rho, trace)
        np.testing.assert_allclose(found, rate / rho, rtol=1e-12)
    finite = constant_rate(refine, 0.0, rate, rho, trace=1.0)
    assert math.isclose(finite[0], rate * (1 - math.exp(-rho)) / rho, rel_tol=1e-12)


def test_the_weight_of_a_far_value_fades_per_second_not_per_step() -> None:
    # No reward, no discount, and a value only at the end: what is left of it is lambda^(t / native dt).
    for n in (10, 20, 40):
        value = np.zeros(n)
        value[-1] = 1.0
        mix = np.full(n, 0.9 ** ((1.0 / n) / 0.1))
        following = np.append(np.arange(1, n), -1)
        found = lambda_returns(np.zeros(n), np.ones(n), mix, value, np.zeros(n, bool), following)
        assert math.isclose(found[0], 0.9 ** (10 * (1 - 1 / n)), rel_tol=1e-9)


def test_the_discount_of_a_second_is_the_same_however_it_is_cut() -> None:
    rho = discount_rate(0.99, 0.05)
    assert math.isclose(math.exp(-rho * 0.05), 0.99)
    assert math.isclose(math.exp(-rho * 0.025) ** 2, 0.99)
    assert math.isclose(math.exp(-rho * 1.0), 0.99**20)
    assert discount_rate(1.0, 0.05) == 0.0


@pytest.mark.parametrize("gamma", [0.0, -0.5, 1.01, math.nan])
def test_a_gamma_that_is_no_discount_is_refused(gamma: float) -> None:
    with pytest.raises(UsageError, match="gamma"):
        discount_rate(gamma, 0.05)
