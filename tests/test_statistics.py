"""Statistics of returns, against SciPy, rliable and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap, mannwhitneyu, trim_mean

from ode_rl.statistics import (
    bootstrap_interval,
    interquartile_mean,
    performance_profile,
    pooled_interquartile_mean,
    probability_of_improvement,
    standard_error,
    wilson_interval,
)
from ode_rl.tally import Tally, action_shares

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 10, 30])
def test_the_interquartile_mean_is_scipys_trimmed_mean(n: int) -> None:
    values = RNG.normal(size=(5, n))
    np.testing.assert_allclose(interquartile_mean(values, axis=-1), trim_mean(values, 0.25, axis=-1))


def test_the_interquartile_mean_ignores_one_wild_value_in_ten() -> None:
    values = np.arange(10.0)
    assert interquartile_mean(values) == interquartile_mean([*values[:-1], 1e9]) == 4.5


def test_the_interval_of_a_mean_is_that_of_scipys_stratified_bootstrap() -> None:
    strata = (RNG.normal(0, 1, 12), RNG.normal(5, 3, 9))

    def mean_of_means(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.mean([sample.mean(axis) for sample in samples], axis=0)

    theirs = bootstrap(strata, mean_of_means, n_resamples=20_000, method="percentile", rng=1)
    ours = bootstrap_interval(strata, lambda drawn: mean_of_means(*drawn), resamples=20_000)
    assert ours is not None
    np.testing.assert_allclose(ours, theirs.confidence_interval, atol=0.03)


def test_strata_are_drawn_from_on_their_own() -> None:
    """Two tasks whose runs agree exactly leave nothing uncertain, however far apart the tasks are."""
    interval = bootstrap_interval([[1.0, 1.0, 1.0], [1e6, 1e6, 1e6]])
    assert interval is not None
    assert interval[0] == interval[1] == 500_000.5


def test_nothing_is_said_of_a_stratum_of_one_value() -> None:
    assert bootstrap_interval([[1.0, 2.0], [3.0]]) is None
    assert bootstrap_interval([]) is None


def test_the_95_percent_interval_holds_the_truth_in_nearly_95_of_100_experiments() -> None:
    held = 0
    for k in range(300):
        values = np.random.default_rng(k).normal(size=30)
        interval = bootstrap_interval([values], resamples=400, seed=k)
        assert interval is not None
        held += bool(interval[0] <= 0 <= interval[1])
    assert 0.88 < held / 300 < 0.99


def test_aggregates_agree_with_rliable() -> None:
    metrics = pytest.importorskip("rliable.metrics", reason="rliable is not installed")
    x, y = RNG.normal(0.3, 1, (8, 3)), RNG.normal(0, 1, (6, 3))
    assert pooled_interquartile_mean(list(x.T)) == pytest.approx(metrics.aggregate_iqm(x))
    found = probability_of_improvement(list(x.T), list(y.T))
    assert found == pytest.approx(metrics.probability_of_improvement(x, y))


def test_a_profile_is_the_share_of_runs_above_each_threshold_each_task_weighing_the_same() -> None:
    one, two = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 10.0])
    profile = performance_profile([one, two], [-1.0, 1.0, 3.5, 11.0])
    np.testing.assert_allclose(profile, [1.0, (0.75 + 0.5) / 2, (0.25 + 0.5) / 2, 0.0])


def test_the_probability_of_improvement_is_mann_whitneys_u_and_ties_count_half() -> None:
    x, y = RNG.integers(0, 5, 7).astype(float), RNG.integers(0, 5, 9).astype(float)
    assert probability_of_improvement([x], [y]) == pytest.approx(mannwhitneyu(x, y).statistic / 63)
    assert probability_of_improvement([np.ones(3)], [np.ones(4)]) == 0.5


def test_a_perfect_record_is_no_proof_of_a_rate_of_one() -> None:
    lo, hi = wilson_interval(10, 10)
    assert lo == pytest.approx(10 / (10 + 1.959964**2))  # Wilson's closed form for n of n
    assert hi == 1.0


def test_the_standard_error_of_one_value_is_zero() -> None:
    assert standard_error([3.0]) == 0.0
    assert standard_error([1.0, 3.0]) == pytest.approx(1.0)


# --- what is counted in an episode -------------------------------------------------------------------------


def tally_of(actions: list[list[float]], dt: list[float]) -> Tally:
    tally = Tally()
    for action, seconds in zip(actions, dt, strict=True):
        tally.add(np.array(action), 2.0, seconds, {})
    return tally


def test_sums_of_an_episode_are_those_by_hand() -> None:
    tally = tally_of([[0.0, 1.0], [0.6, 0.2], [0.6, 0.2]], [0.1, 0.2, 0.4])
    assert (tally.episode_return, tally.length) == (6.0, 3)
    assert tally.seconds == pytest.approx(0.7)
    assert tally.fluctuation == pytest.approx((1.0 + 0.0) / 2)
    assert tally.energy == pytest.approx(0.1 * 1.0 + 0.6 * 0.4)


def test_a_held_action_does_not_fluctuate_and_its_energy_does_not_depend_on_the_interval() -> None:
    coarse, fine = tally_of([[0.5]] * 5, [0.2] * 5), tally_of([[0.5]] * 20, [0.05] * 20)
    assert coarse.fluctuation == fine.fluctuation == 0.0
    assert coarse.energy == pytest.approx(fine.energy) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("infos", "success"),
    [
        ([{}, {}], None),
        ([{"is_success": True}, {"is_success": False}], False),
        ([{"is_success": 0.0}, {"is_success": 1.0}], True),
        ([{"success": 1.0}, {"success": 0.0}], True),
        ([{"success": 0.0}, {"success": 0.0}], False),
    ],
)
def test_success_is_that_of_the_last_step_or_with_meta_worlds_name_of_any(
    infos: list[dict[str, float]], success: bool | None
) -> None:
    tally = Tally()
    for info in infos:
        tally.add(np.zeros(1), 0.0, 0.1, info)
    assert tally.success is success


def test_actions_are_shares_of_the_largest_one() -> None:
    shares = action_shares([[3.0, -1.0], [0.0, 0.5]], [-2.0, -4.0], [2.0, 1.0])
    np.testing.assert_allclose(shares, [[1.0, -0.25], [0.0, 0.125]])
    np.testing.assert_allclose(action_shares([[3.0]], [-np.inf], [np.inf]), [[3.0]])
