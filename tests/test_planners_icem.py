"""The improved cross-entropy method, and what cem does otherwise."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ode_rl.agents.planners import PlannerConfig, cold_start, search, shift
from tests.known_optima import Counted, generator, quadratic, rastrigin, solve, targets


def test_a_smooth_plan_is_found_sooner_with_coloured_noise() -> None:
    time = torch.linspace(0, 1, 30)
    target = (0.6 * torch.cos(2.5 * time)).reshape(1, 30, 1)

    def left(config: PlannerConfig) -> float:
        found = [solve(quadratic(target), (1, 30, 1), config, seed).plan for seed in range(5)]
        return sum(float((plan - target).square().sum()) for plan in found)

    few: dict[str, Any] = {"candidates": 100, "iterations": 4, "elites": 10}
    coloured = left(PlannerConfig(**few, noise_exponent=2.0))
    assert coloured < 0.5 * left(PlannerConfig(**few, noise_exponent=0.0))
    # cem's noise is white whatever the exponent.
    assert coloured < 0.5 * left(PlannerConfig("cem", **few, noise_exponent=2.0))


def test_plans_stay_within_bounds_and_the_population_shrinks_as_configured() -> None:
    config = PlannerConfig(candidates=100, iterations=4, elites=20, shrink=2.0, init_std=2.0)
    counted = Counted(quadratic(targets(2, 6, 1)))
    found = solve(counted, (2, 6, 1), config)
    assert counted.sizes == [100, 50, 40, 41]  # the last one with the mean
    assert (found.n_scored, found.n_iterations) == (231, 4)
    assert max(float(plans.abs().max()) for plans in counted.asked) == 1.0


def test_without_a_judge_the_best_of_the_last_scores_is_returned() -> None:
    counted = Counted(quadratic(targets(1, 6, 1)))
    found = solve(counted, (1, 6, 1), PlannerConfig(iterations=3))
    last = counted.asked[-1]
    assert torch.equal(found.plan[0], last[0, int(counted.score(last)[0].argmax())])


def test_the_best_plans_of_an_iteration_are_tried_again_in_the_next() -> None:
    config = PlannerConfig(iterations=4)
    counted = Counted(rastrigin)
    found = solve(counted, (1, 4, 1), config)

    def best(plans: Tensor) -> Tensor:
        return plans[0, rastrigin(plans)[0].topk(config.n_kept).indices]

    for before, after in pairwise(counted.asked):
        for kept in best(before):
            assert bool((after[0] == kept).all((-1, -2)).any())
    assert torch.equal(found.warm.elites[0], best(counted.asked[-1]))
    score = float(rastrigin(found.plan.unsqueeze(1)))
    assert score == max(float(rastrigin(p).max()) for p in counted.asked)


def test_the_mean_of_the_elites_is_tried_in_the_last_iteration() -> None:
    counted = Counted(quadratic(targets(1, 6, 1)))
    config = PlannerConfig(iterations=2, momentum=0.1)
    g = generator()
    search(counted, cold_start((1, 6, 1), config, g), config, g)
    first, last = counted.asked
    elites = first[0, counted.score(first)[0].topk(config.elites).indices]
    torch.testing.assert_close(last[0, -1], 0.9 * elites.mean(0))


def test_a_warm_start_improves_what_one_iteration_finds() -> None:
    target = targets(8, 12, 1)
    short = PlannerConfig(iterations=1)
    cold = solve(quadratic(target), (8, 12, 1), short).plan
    long = PlannerConfig(candidates=300, iterations=25, elites=40, shrink=1.02, noise_exponent=0.0)
    warm = solve(quadratic(target), (8, 12, 1), long).warm
    warmed = solve(quadratic(target), (8, 12, 1), short, seed=5, warm=warm).plan
    before = (cold - target).square().sum((-1, -2))
    after = (warmed - target).square().sum((-1, -2))
    assert bool((after < 0.2 * before).all())


def test_a_cold_start_has_mean_zero_and_as_many_elites_as_are_kept() -> None:
    config = PlannerConfig(elites=10, keep=0.35)
    warm = cold_start((2, 7, 3), config, generator())
    assert torch.equal(warm.mean, torch.zeros(2, 7, 3))
    assert warm.elites.shape == (2, config.n_kept, 7, 3) == (2, 4, 7, 3)
    assert not torch.equal(warm.elites[:, 0], warm.elites[:, 1])


def test_a_robot_finds_the_plan_that_it_finds_alone() -> None:
    wanted, config = targets(3, 5, 2), PlannerConfig(candidates=30, iterations=3)
    together = search(quadratic(wanted), cold_start((3, 5, 2), config, generator()), config, generator(1))
    for i in range(3):
        warm = cold_start((1, 5, 2), config, generator())
        alone = search(quadratic(wanted[i : i + 1]), warm, config, generator(1))
        torch.testing.assert_close(together.plan[i], alone.plan[0])
        torch.testing.assert_close(together.warm.elites[i], alone.warm.elites[0])


def test_a_plan_that_the_judge_knows_to_diverge_is_not_chosen() -> None:
    def third_alone(plans: Tensor) -> Tensor:
        return torch.where(torch.arange(plans.shape[1]) == 2, 0.0, -torch.inf).expand(plans.shape[:2])

    judge = Counted(third_alone)
    found = solve(quadratic(targets(1, 5, 1)), (1, 5, 1), PlannerConfig(), judge=judge)
    assert torch.equal(found.plan, judge.asked[0][:, 2])


def test_two_decisions_repeat_recorded_ones() -> None:
    """Stored learning curves depend on it. The score draws from the same generator, as real ones do."""
    config = PlannerConfig(candidates=24, iterations=3, elites=5, keep=0.4, finalists=3)
    target = torch.tensor([[[0.5, -0.2], [0.1, 0.9], [-0.7, 0.3]]])
    g = generator(7)

    def score(plans: Tensor) -> Tensor:
        return quadratic(target)(plans) * (0.5 + torch.rand(plans.shape[:2], generator=g))

    def judge(plans: Tensor) -> Tensor:
        return -(plans - 0.8 * target.unsqueeze(1)).abs().sum((-1, -2))

    first = search(score, cold_start((1, 3, 2), config, g), config, g)
    assert first.plan.flatten().tolist() == pytest.approx(FIRST_PLAN, abs=1e-6)
    second = search(score, shift(first.warm), config, g, judge)
    assert second.plan.flatten().tolist() == pytest.approx(SECOND_PLAN, abs=1e-6)
    assert second.warm.mean.flatten().tolist() == pytest.approx(SECOND_MEAN, abs=1e-6)
    assert second.warm.elites.sum((0, 1)).flatten().tolist() == pytest.approx(SECOND_ELITES, abs=5e-6)


FIRST_PLAN = [0.33254486, -0.15086158, -0.09202435, 0.38795447, -0.34381634, -0.01519739]
SECOND_PLAN = [0.49012288, -0.17801452, 0.03046068, 0.31824833, -0.37264770, 0.15117706]
SECOND_MEAN = [0.58185518, -0.05927513, -0.16848777, 0.32121834, -0.42627186, 0.25613272]
SECOND_ELITES = [1.16089547, -0.47626758, -0.07734344, 0.80980647, -0.86937523, 0.47169167]


# --- cem ---------------------------------------------------------------------------------------------------


def test_cem_draws_as_many_plans_in_every_iteration_and_tries_none_twice() -> None:
    counted = Counted(rastrigin)
    found = solve(counted, (1, 4, 1), PlannerConfig("cem", candidates=50, iterations=4))
    assert counted.sizes == [50] * 4
    tried = torch.cat(counted.asked, 1)[0].flatten(1)
    assert len(tried.unique(dim=0)) == 200
    assert torch.equal(found.plan[0].flatten(), tried[int(rastrigin(tried[None, :, :, None])[0].argmax())])
