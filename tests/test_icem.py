"""The planner as a plain maximiser: it is tested on functions whose best plan is known."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ode_rl.agents.icem import ICEMConfig, Score, Warm, cold_start, icem, shift
from ode_rl.errors import UsageError

WHITE = ICEMConfig(candidates=300, iterations=25, elites=40, shrink=1.02, noise_exponent=0.0, init_std=0.5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def solve(
    score: Score,
    shape: tuple[int, int, int],
    config: ICEMConfig,
    seed: int = 0,
    judge: Score | None = None,
    warm: Warm | None = None,
) -> tuple[Tensor, Warm]:
    g = generator(seed)
    start = cold_start(shape, config, g) if warm is None else warm
    return icem(score, start, config, g, judge)


def quadratic(target: Tensor) -> Score:
    """Minus the squared distance to plans ``target [B, H, A]``."""
    return lambda plans: -(plans - target.unsqueeze(1)).square().sum((-1, -2))


def targets(*shape: int, seed: int = 3) -> Tensor:
    return 1.6 * torch.rand(*shape, generator=generator(seed)) - 0.8


class Counted:
    """A score that remembers what it was asked."""

    def __init__(self, score: Score) -> None:
        self.score = score
        self.asked: list[Tensor] = []

    def __call__(self, plans: Tensor) -> Tensor:
        self.asked.append(plans.clone())
        return self.score(plans)

    @property
    def n(self) -> int:
        return sum(plans.shape[1] for plans in self.asked)


# --- optima ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("h", "a"), [(1, 1), (2, 1), (5, 1), (1, 6), (12, 1), (12, 2), (20, 3), (12, 5)])
def test_the_best_plan_of_a_quadratic_is_found_in_1_to_60_dimensions(h: int, a: int) -> None:
    target = targets(1, h, a)
    plan, _ = solve(quadratic(target), (1, h, a), WHITE)
    assert plan.shape == (1, h, a)
    assert float((plan - target).square().mean().sqrt()) < 0.05


def test_a_smooth_plan_is_found_sooner_with_coloured_noise() -> None:
    time = torch.linspace(0, 1, 30)
    target = (0.6 * torch.cos(2.5 * time)).reshape(1, 30, 1)

    def left(exponent: float) -> float:
        config = ICEMConfig(candidates=100, iterations=4, elites=10, noise_exponent=exponent)
        found = [solve(quadratic(target), (1, 30, 1), config, seed)[0] for seed in range(5)]
        return sum(float((plan - target).square().sum()) for plan in found)

    assert left(2.0) < 0.5 * left(0.0)


def test_an_optimum_outside_the_bounds_is_met_at_the_bound() -> None:
    target = torch.tensor([[[3.0], [-3.0], [0.2]]])
    plan, _ = solve(quadratic(target), (1, 3, 1), WHITE)
    assert plan.flatten().tolist() == pytest.approx([1.0, -1.0, 0.2], abs=0.02)


def rastrigin(plans: Tensor) -> Tensor:
    """Many local maxima of depth 0.2 on a bowl; the best value is 0 at 0.3 everywhere."""
    x = plans - 0.3
    return -(x.square() + 0.1 * (1 - torch.cos(6 * math.pi * x))).sum((-1, -2))


def test_among_many_local_optima_it_beats_random_search_with_as_many_evaluations() -> None:
    config = ICEMConfig(candidates=100, iterations=12, elites=10, noise_exponent=0.0, init_std=0.5)
    for seed in range(5):
        counted = Counted(rastrigin)
        plan, _ = solve(counted, (1, 6, 2), config, seed)
        mine = float(rastrigin(plan.unsqueeze(1)))
        random = 2 * torch.rand(1, counted.n, 6, 2, generator=generator(100 + seed)) - 1
        theirs = float(rastrigin(random).max())
        assert mine > 0.4 * theirs  # both are negative: the loss is less than half
        assert mine > -0.8


# --- batches -----------------------------------------------------------------------------------------------


def test_each_row_of_a_batch_is_best_for_its_own_objective() -> None:
    target = targets(4, 5, 2)
    plan, warm = solve(quadratic(target), (4, 5, 2), WHITE)
    assert float((plan - target).square().mean((-1, -2)).max().sqrt()) < 0.05
    nearest = (plan.unsqueeze(1) - target).square().sum((-1, -2)).argmin(1)
    assert nearest.tolist() == [0, 1, 2, 3]
    assert float((warm.mean - target).abs().max()) < 0.2


def test_a_row_does_not_depend_on_the_objectives_of_the_others() -> None:
    target = targets(3, 5, 1)
    other = target.clone()
    other[1:] = -target[1:]
    one, warm_one = solve(quadratic(target), (3, 5, 1), WHITE)
    two, warm_two = solve(quadratic(other), (3, 5, 1), WHITE)
    assert torch.equal(one[0], two[0])
    assert torch.equal(warm_one.elites[0], warm_two.elites[0])
    assert not torch.equal(one[1], two[1])


# --- how it searches ---------------------------------------------------------------------------------------


def test_plans_stay_within_bounds_and_the_population_shrinks_as_configured() -> None:
    config = ICEMConfig(candidates=100, iterations=4, elites=20, shrink=2.0, init_std=2.0)
    counted = Counted(quadratic(targets(2, 6, 1)))
    solve(counted, (2, 6, 1), config)
    assert [plans.shape[1] for plans in counted.asked] == [100, 50, 40, 41]  # the last one with the mean
    assert max(float(plans.abs().max()) for plans in counted.asked) == 1.0


def test_without_a_judge_the_best_of_the_last_scores_is_returned() -> None:
    counted = Counted(quadratic(targets(1, 6, 1)))
    plan, _ = solve(counted, (1, 6, 1), ICEMConfig(iterations=3))
    last = counted.asked[-1]
    assert torch.equal(plan[0], last[0, int(counted.score(last)[0].argmax())])


def test_the_best_plans_of_an_iteration_are_tried_again_in_the_next() -> None:
    config = ICEMConfig(iterations=4)
    counted = Counted(rastrigin)
    plan, warm = solve(counted, (1, 4, 1), config)

    def best(plans: Tensor) -> Tensor:
        return plans[0, rastrigin(plans)[0].topk(config.n_kept).indices]

    for before, after in pairwise(counted.asked):
        for kept in best(before):
            assert bool((after[0] == kept).all((-1, -2)).any())
    assert torch.equal(warm.elites[0], best(counted.asked[-1]))
    assert float(rastrigin(plan.unsqueeze(1))) == max(float(rastrigin(p).max()) for p in counted.asked)


def test_the_mean_of_the_elites_is_tried_in_the_last_iteration() -> None:
    counted = Counted(quadratic(targets(1, 6, 1)))
    config = ICEMConfig(iterations=2, momentum=0.1)
    g = generator()
    icem(counted, cold_start((1, 6, 1), config, g), config, g)
    first, last = counted.asked
    elites = first[0, counted.score(first)[0].topk(config.elites).indices]
    torch.testing.assert_close(last[0, -1], 0.9 * elites.mean(0))


def test_scores_of_minus_infinity_are_survived() -> None:
    target = targets(1, 5, 1)

    def half(plans: Tensor) -> Tensor:
        scores = quadratic(target)(plans)
        return torch.where(plans[..., 0, 0] > 0, scores, -torch.inf)

    target[0, 0, 0] = -0.5  # the best start that is allowed is 0
    plan, warm = solve(half, (1, 5, 1), WHITE)
    assert 0 < float(plan[0, 0, 0]) < 0.05
    assert plan[0, 1:].flatten().tolist() == pytest.approx(target[0, 1:].flatten().tolist(), abs=0.06)
    assert bool(warm.mean.isfinite().all())


@pytest.mark.parametrize("judged", [False, True])
def test_when_every_plan_diverges_a_finite_plan_within_bounds_is_returned(judged: bool) -> None:
    def lost(plans: Tensor) -> Tensor:
        return torch.full(plans.shape[:2], -torch.inf)

    plan, warm = solve(lost, (2, 5, 1), WHITE, judge=lost if judged else None)
    for found in (plan, *warm):
        assert bool(found.isfinite().all())
        assert float(found.abs().max()) <= 1.0


# --- warm starts -------------------------------------------------------------------------------------------


def test_a_warm_start_improves_what_one_iteration_finds() -> None:
    target = targets(8, 12, 1)
    short = ICEMConfig(iterations=1)
    cold, _ = solve(quadratic(target), (8, 12, 1), short)
    _, warm = solve(quadratic(target), (8, 12, 1), WHITE)
    warmed, _ = solve(quadratic(target), (8, 12, 1), short, seed=5, warm=warm)
    before = (cold - target).square().sum((-1, -2))
    after = (warmed - target).square().sum((-1, -2))
    assert bool((after < 0.2 * before).all())


def test_a_cold_start_has_mean_zero_and_as_many_elites_as_are_kept() -> None:
    config = ICEMConfig(elites=10, keep=0.35)
    warm = cold_start((2, 7, 3), config, generator())
    assert torch.equal(warm.mean, torch.zeros(2, 7, 3))
    assert warm.elites.shape == (2, config.n_kept, 7, 3) == (2, 4, 7, 3)
    assert not torch.equal(warm.elites[0], warm.elites[1])


def test_a_call_leaves_as_many_elites_as_it_took() -> None:
    config = ICEMConfig()
    warm = cold_start((2, 7, 1), config, generator())
    _, after = solve(quadratic(targets(2, 7, 1)), (2, 7, 1), config, warm=warm)
    assert after.mean.shape == warm.mean.shape
    assert after.elites.shape == warm.elites.shape


def test_shifted_plans_begin_one_interval_later_and_repeat_their_last_action() -> None:
    plans = torch.arange(24.0).reshape(2, 4, 3)
    moved = shift(Warm(plans, plans.unsqueeze(1)))
    for found in (moved.mean, moved.elites[:, 0]):
        assert torch.equal(found[:, :3], plans[:, 1:])
        assert torch.equal(found[:, 3], plans[:, 3])


def test_plans_of_one_interval_can_be_shifted() -> None:
    plans = torch.arange(6.0).reshape(2, 1, 3)
    assert torch.equal(shift(Warm(plans, plans.unsqueeze(1))).mean, plans)


# --- the judge ---------------------------------------------------------------------------------------------


def test_the_judge_decides_among_the_finalists() -> None:
    target = targets(2, 5, 1)
    judge = Counted(quadratic(-target))  # of quite another taste
    config = ICEMConfig(finalists=4)
    plan, warm = solve(quadratic(target), (2, 5, 1), config, judge=judge)
    (finalists,) = judge.asked
    assert finalists.shape == (2, 5, 5, 1)  # four of the best, and the mean
    torch.testing.assert_close(finalists[:, -1], warm.mean)
    order = quadratic(target)(finalists)[:, :4]
    assert torch.equal(order, order.sort(1, descending=True).values)
    for row in range(2):
        assert torch.equal(plan[row], finalists[row, int(judge.score(finalists)[row].argmax())])


def test_a_plan_that_the_judge_knows_to_diverge_is_not_chosen() -> None:
    def third_alone(plans: Tensor) -> Tensor:
        return torch.where(torch.arange(plans.shape[1]) == 2, 0.0, -torch.inf).expand(plans.shape[:2])

    judge = Counted(third_alone)
    plan, _ = solve(quadratic(targets(1, 5, 1)), (1, 5, 1), ICEMConfig(), judge=judge)
    assert torch.equal(plan, judge.asked[0][:, 2])


# --- repetition --------------------------------------------------------------------------------------------


def test_the_same_generator_gives_the_same_plan() -> None:
    score = quadratic(targets(1, 12, 1))
    short = ICEMConfig(iterations=2)
    (one, warm_one), (again, warm_again), (other, _) = (
        solve(score, (1, 12, 1), short, seed) for seed in (0, 0, 1)
    )
    assert torch.equal(one, again)
    assert torch.equal(warm_one.elites, warm_again.elites)
    assert not torch.equal(one, other)


def test_the_warm_start_that_was_given_is_not_changed() -> None:
    config = ICEMConfig()
    warm = cold_start((1, 5, 1), config, generator())
    before = [x.clone() for x in warm]
    solve(quadratic(targets(1, 5, 1)), (1, 5, 1), config, warm=warm)
    assert all(torch.equal(x, y) for x, y in zip(warm, before, strict=True))


@pytest.mark.parametrize(
    ("setting", "named"),
    [({"elites": 0}, "elites"), ({"elites": 200}, "120"), ({"iterations": 0}, "iteration")],
)
def test_a_search_that_cannot_be_is_refused(setting: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        ICEMConfig(**setting)
