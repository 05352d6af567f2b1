"""What every planner keeps to, on functions whose best plan is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ode_rl.agents.planners import PlannerConfig, Warm, cold_start, search, shift
from ode_rl.agents.planners.mppi import weights
from ode_rl.agents.planners.search import SAMPLERS
from ode_rl.errors import UsageError
from ode_rl.names import PLANNERS
from ode_rl.settings import build, plain
from tests.known_optima import Counted, generator, lost, quadratic, rastrigin, solve, targets

LONG = PlannerConfig(
    candidates=400, iterations=25, elites=40, shrink=1.02, noise_exponent=0.0, init_std=0.5, finalists=10
)
ITERATIVE = [method for method in PLANNERS if method != "shooting"]
every_method = pytest.mark.parametrize("method", PLANNERS)


# --- optima ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ITERATIVE)
@pytest.mark.parametrize(("k", "a"), [(1, 1), (5, 1), (1, 6), (12, 2), (12, 5)])
def test_the_best_plan_of_a_quadratic_is_found_in_1_to_60_dimensions(method: str, k: int, a: int) -> None:
    target = targets(1, k, a)
    found = solve(quadratic(target), (1, k, a), replace(LONG, method=method))
    assert found.plan.shape == (1, k, a)
    assert float((found.plan - target).square().mean().sqrt()) < 0.05


@pytest.mark.parametrize(("k", "a"), [(1, 1), (2, 1), (1, 2)])
def test_shooting_finds_the_best_plan_of_a_quadratic_in_few_dimensions(k: int, a: int) -> None:
    target = targets(1, k, a)
    found = solve(quadratic(target), (1, k, a), replace(LONG, method="shooting"))
    assert float((found.plan - target).abs().max()) < 0.03


@every_method
def test_an_optimum_outside_the_bounds_is_met_at_the_bound(method: str) -> None:
    target = torch.tensor([[[3.0], [-3.0], [0.2]]])
    found = solve(quadratic(target), (1, 3, 1), replace(LONG, method=method))
    assert found.plan.flatten().tolist() == pytest.approx([1.0, -1.0, 0.2], abs=0.15)
    assert float(found.plan.abs().max()) <= 1.0


@pytest.mark.parametrize("method", ["icem", "gradient"])
def test_among_many_local_optima_it_beats_random_search_with_as_many_evaluations(method: str) -> None:
    config = PlannerConfig(
        method, candidates=100, iterations=12, elites=10, noise_exponent=0.0, init_std=0.5, finalists=10
    )
    for seed in range(5):
        counted = Counted(rastrigin)
        found = solve(counted, (1, 6, 2), config, seed)
        mine = float(rastrigin(found.plan.unsqueeze(1)))
        random = 2 * torch.rand(1, counted.n, 6, 2, generator=generator(100 + seed)) - 1
        theirs = float(rastrigin(random).max())
        assert mine > 0.4 * theirs  # both are negative: the loss is less than half
        assert mine > -0.8


@every_method
def test_the_higher_of_two_hills_is_found_where_a_local_search_climbs_the_nearer(method: str) -> None:
    def hills(plans: Tensor) -> Tensor:
        near = 0.3 * torch.exp(-20 * (plans + 0.1).square().sum((-1, -2)))
        return near + torch.exp(-8 * (plans - 0.7).square().sum((-1, -2)))

    x = torch.zeros(1, 2, 1, requires_grad=True)
    for _ in range(300):
        (slope,) = torch.autograd.grad(hills(x.unsqueeze(1)).sum(), x)
        x = (x + 0.02 * slope).detach().requires_grad_()
    assert float(hills(x.detach().unsqueeze(1))) == pytest.approx(0.3, abs=0.01)  # from zero, uphill only
    config = PlannerConfig(method, candidates=200, iterations=10, elites=10, init_std=0.5)
    assert float(hills(solve(hills, (1, 2, 1), config).plan.unsqueeze(1))) > 0.7


# --- batches -----------------------------------------------------------------------------------------------


@every_method
def test_a_row_does_not_depend_on_the_objectives_of_the_others(method: str) -> None:
    target = targets(3, 5, 1)
    other = target.clone()
    other[1:] = -target[1:]
    config = PlannerConfig(method)
    one = solve(quadratic(target), (3, 5, 1), config)
    two = solve(quadratic(other), (3, 5, 1), config)
    assert torch.equal(one.plan[0], two.plan[0])
    assert torch.equal(one.warm.elites[0], two.warm.elites[0])
    assert not torch.equal(one.plan[1], two.plan[1])
    nearest = (one.plan.unsqueeze(1) - target).square().sum((-1, -2)).argmin(1)
    assert nearest.tolist() == [0, 1, 2]


# --- scores that are no help -------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("bad", [-torch.inf, torch.inf, torch.nan])
def test_plans_whose_score_is_not_finite_are_avoided(method: str, bad: float) -> None:
    target = targets(1, 2, 1)
    target[0, 0, 0] = -0.5  # the best start that is allowed is 0

    def half(plans: Tensor) -> Tensor:
        return torch.where(plans[..., 0, 0] > 0, quadratic(target)(plans), bad)

    # The weighted mean of allowed plans is one here, since they form a convex set.
    found = solve(half, (1, 2, 1), replace(LONG, method=method))
    assert 0 < float(found.plan[0, 0, 0]) < 0.1
    assert float(found.plan[0, 1, 0]) == pytest.approx(float(target[0, 1, 0]), abs=0.1)
    assert bool(found.ok.all())
    assert all(bool(x.isfinite().all()) for x in found.warm)


@every_method
@pytest.mark.parametrize("judged", [False, True])
@pytest.mark.parametrize("bad", [-torch.inf, torch.inf, torch.nan])
def test_a_row_in_which_every_plan_diverges_keeps_its_plan(method: str, judged: bool, bad: float) -> None:
    target = targets(3, 5, 2)

    def second_lost(plans: Tensor) -> Tensor:
        scores = quadratic(target)(plans)
        row = torch.arange(len(scores)).unsqueeze(1)
        return torch.where(row == 1, bad, scores)

    config = PlannerConfig(method)
    g = generator(8)
    warm = Warm(targets(3, 5, 2, seed=9), cold_start((3, 5, 2), config, g).elites)
    how: dict[str, Any] = {"judge": second_lost} if judged else {}
    found = solve(second_lost, (3, 5, 2), config, warm=warm, **how)
    how = {"judge": quadratic(target)} if judged else {}
    sound = solve(quadratic(target), (3, 5, 2), config, warm=warm, **how)
    assert found.ok.tolist() == [True, False, True]
    assert torch.equal(found.plan[1], warm.mean[1])
    assert torch.equal(found.warm.mean[1], warm.mean[1])
    assert torch.equal(found.warm.elites[1], warm.elites[1])
    for x, y in zip((found.plan, *found.warm), (sound.plan, *sound.warm), strict=True):
        assert torch.equal(x[[0, 2]], y[[0, 2]])


@every_method
def test_a_plan_found_before_all_scores_are_lost_is_not_forgotten(method: str) -> None:
    target = targets(1, 3, 1)
    calls = Counted(quadratic(target))

    def once(plans: Tensor) -> Tensor:
        scores = calls(plans)
        return scores if len(calls.asked) == 1 else scores - torch.inf

    found = solve(once, (1, 3, 1), PlannerConfig(method))
    assert bool(found.ok.all())
    first = calls.asked[0]
    best = first[0, int(quadratic(target)(first)[0].argmax())]
    if method == "mppi":
        assert float((found.plan[0] - best).abs().max()) < 0.5
    else:
        assert torch.equal(found.plan[0], best)
    assert all(bool(x.isfinite().all()) for x in found.warm)


@every_method
def test_plans_that_all_score_alike_give_a_finite_plan_within_bounds(method: str) -> None:
    found = solve(lambda plans: 0.0 * plans.sum((-1, -2)), (2, 4, 1), PlannerConfig(method))
    assert bool(found.ok.all())
    for x in (found.plan, *found.warm):
        assert bool(x.isfinite().all())
        assert float(x.abs().max()) <= 1.0


def test_a_score_of_another_shape_is_refused() -> None:
    with pytest.raises(UsageError, match=r"scores of shape \(1, 120\)"):
        solve(lambda plans: plans.sum(-1), (1, 4, 1), PlannerConfig())


# --- proposals ---------------------------------------------------------------------------------------------


@every_method
def test_proposals_are_tried_in_the_first_iteration_in_place_of_draws(method: str) -> None:
    proposals = targets(2, 3, 5, 1, seed=5)
    config = PlannerConfig(method)
    without, with_them = Counted(quadratic(targets(2, 5, 1))), Counted(quadratic(targets(2, 5, 1)))
    solve(without, (2, 5, 1), config)
    solve(with_them, (2, 5, 1), config, proposals=proposals)
    assert with_them.sizes == without.sizes
    assert torch.equal(with_them.asked[0][:, -3:], proposals)


@every_method
def test_a_proposal_that_no_draw_comes_near_is_taken(method: str) -> None:
    """A needle in 24 dimensions, at the corner."""

    def needle(plans: Tensor) -> Tensor:
        return torch.exp(-4 * (plans - 1).square().sum((-1, -2)))

    proposals = torch.full((1, 1, 12, 2), 0.95)
    config = PlannerConfig(method, init_std=0.2, temperature=0.05)
    found = solve(needle, (1, 12, 2), config, proposals=proposals)
    assert float(needle(found.plan.unsqueeze(1))) > 0.3  # 0.8 itself; a draw has less than 1e-9
    assert float(needle(found.warm.elites)[0, 0]) > 0.5


def test_proposals_are_brought_within_bounds_and_those_with_nan_replaced() -> None:
    proposals = torch.full((1, 2, 3, 1), 4.0)
    proposals[0, 1, 2, 0] = torch.nan
    counted = Counted(quadratic(targets(1, 3, 1)))
    solve(counted, (1, 3, 1), PlannerConfig(), proposals=proposals)
    assert counted.asked[0][0, -2:].flatten().tolist() == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("shape", "named"), [((1, 2, 4, 1), "proposals of shape"), ((1, 116, 3, 1), "at most 115 proposals")]
)
def test_proposals_that_do_not_fit_are_refused(shape: tuple[int, ...], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        solve(quadratic(targets(1, 3, 1)), (1, 3, 1), PlannerConfig(), proposals=torch.zeros(shape))


def test_a_warm_start_of_another_shape_is_refused() -> None:
    config = PlannerConfig()
    warm = Warm(torch.zeros(1, 4, 1), torch.zeros(1, 4, 5, 1))
    with pytest.raises(UsageError, match="elites of shape"):
        search(lost, warm, config, generator())


# --- the judge ---------------------------------------------------------------------------------------------


@every_method
def test_the_judge_decides_among_the_best_plans_and_the_mean(method: str) -> None:
    target = targets(2, 5, 1)
    judge = Counted(quadratic(-target))  # of quite another taste
    found = solve(quadratic(target), (2, 5, 1), PlannerConfig(method, finalists=4), judge=judge)
    (finalists,) = judge.asked
    assert finalists.shape == (2, 5, 5, 1)
    torch.testing.assert_close(finalists[:, -1], found.warm.mean)
    order = quadratic(target)(finalists)[:, :4]
    assert torch.equal(order, order.sort(1, descending=True).values)
    for row in range(2):
        assert torch.equal(found.plan[row], finalists[row, int(judge.score(finalists)[row].argmax())])


@every_method
def test_a_judge_that_likes_no_plan_leaves_the_choice_as_it_was(method: str) -> None:
    score = quadratic(targets(2, 5, 1))
    alone = solve(score, (2, 5, 1), PlannerConfig(method))
    judged = solve(score, (2, 5, 1), PlannerConfig(method), judge=lost)
    assert torch.equal(judged.plan, alone.plan)
    assert bool(judged.ok.all())


# --- warm starts -------------------------------------------------------------------------------------------


@every_method
def test_a_search_is_a_function_of_its_arguments(method: str) -> None:
    config = PlannerConfig(method)
    score = quadratic(targets(1, 6, 1))
    warm = cold_start((1, 6, 1), config, generator())
    before = [x.clone() for x in warm]
    one, again, other = (solve(score, (1, 6, 1), config, seed, warm=warm) for seed in (0, 0, 1))
    assert torch.equal(one.plan, again.plan)
    assert torch.equal(one.warm.elites, again.warm.elites)
    assert not torch.equal(one.plan, other.plan)
    assert all(torch.equal(x, y) for x, y in zip(warm, before, strict=True))
    assert [x.shape for x in one.warm] == [x.shape for x in warm]


@every_method
def test_each_decision_goes_on_from_the_one_before(method: str) -> None:
    target = targets(8, 12, 1)
    config = PlannerConfig(method)
    first = solve(quadratic(target), (8, 12, 1), config)
    found = first
    for seed in range(3):
        found = solve(quadratic(target), (8, 12, 1), config, seed, warm=found.warm)
    before = (first.plan - target).square().sum()
    assert float((found.plan - target).square().sum()) < 0.5 * float(before)


def test_warm_starts_go_from_one_method_to_another() -> None:
    target = targets(4, 12, 1)
    first = solve(quadratic(target), (4, 12, 1), PlannerConfig("cem"))
    then = solve(quadratic(target), (4, 12, 1), PlannerConfig("gradient"), warm=first.warm)
    assert bool(
        (quadratic(target)(then.plan.unsqueeze(1)) > quadratic(target)(first.plan.unsqueeze(1))).all()
    )


def test_shifted_plans_begin_one_interval_later_and_repeat_their_last_action() -> None:
    plans = torch.arange(24.0).reshape(2, 4, 3)
    moved = shift(Warm(plans, plans.unsqueeze(1)))
    for found in (moved.mean, moved.elites[:, 0]):
        assert torch.equal(found[:, :3], plans[:, 1:])
        assert torch.equal(found[:, 3], plans[:, 3])


def test_plans_of_one_interval_can_be_shifted() -> None:
    plans = torch.arange(6.0).reshape(2, 1, 3)
    assert torch.equal(shift(Warm(plans, plans.unsqueeze(1))).mean, plans)


def test_the_matrix_of_one_interval_shifts_as_none_does() -> None:
    plans = targets(2, 4, 3)
    warm = Warm(plans, plans.unsqueeze(1))
    matrix = torch.eye(4)[[1, 2, 3, 3]]
    for one, two in zip(shift(warm, matrix), shift(warm), strict=True):
        torch.testing.assert_close(one, two)


# --- the weights of mppi -----------------------------------------------------------------------------------


def test_mppi_weights_are_those_of_the_formula() -> None:
    scores = torch.tensor([[0.0, -1.0, -2.0, -10.0, -torch.inf]])
    # Of the four finite scores the lower median is -2, the unit therefore 0.5 * 2.
    raw = torch.cat([torch.exp(torch.tensor([0.0, -1.0, -2.0, -10.0])), torch.zeros(1)])
    torch.testing.assert_close(weights(scores, 0.5)[0], raw / raw.sum())


def test_mppi_weights_do_not_change_with_the_scale_of_the_scores_nor_with_one_terrible_plan() -> None:
    scores = torch.randn(2, 51, generator=generator())
    torch.testing.assert_close(weights(scores, 0.2), weights(1e6 * scores - 5e6, 0.2), atol=1e-4, rtol=1e-2)
    spoilt = scores.clone()
    worst = scores.argmin(1, keepdim=True)
    spoilt.scatter_(1, worst, -1e30)
    torch.testing.assert_close(weights(spoilt, 0.2), weights(scores, 0.2), atol=1e-3, rtol=1e-3)


def test_mppi_weights_of_equal_scores_are_equal_and_huge_scores_are_survived() -> None:
    torch.testing.assert_close(weights(torch.zeros(1, 4), 0.2), torch.full((1, 4), 0.25))
    huge = weights(torch.tensor([[3e38, -3e38, 0.0]]), 0.2)
    assert bool(huge.isfinite().all())
    assert int(huge.argmax()) == 0


# --- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"elites": 0}, "elites"),
        ({"elites": 200}, "120"),
        ({"iterations": 0}, "iteration"),
        ({"finalists": 0}, "finalist"),
        ({"method": "mpi"}, "Did you mean mppi"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"temperature": float("nan")}, "temperature > 0"),
        ({"keep": 0.0}, "keep"),
        ({"shrink": 0.9}, "shrink"),
        ({"momentum": 1.0}, "momentum"),
        ({"noise_exponent": float("inf")}, "noise_exponent"),
        ({"restarts": 0}, "restarts"),
        ({"gradient_steps": 0}, "gradient_steps"),
        ({"gradient_rate": -0.1}, "gradient_rate"),
        ({"sampling_share": 1.0}, "sampling_share"),
        ({"budget_ms": 0.0}, "budget_ms > 0"),
        ({"budget_ms": -5.0}, "budget_ms > 0"),
        ({"budget_evaluations": 0}, "budget_evaluations >= 24"),
        ({"budget_evaluations": 23}, "budget_evaluations >= 24"),
    ],
)
def test_a_search_that_cannot_be_is_refused(setting: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        PlannerConfig(**setting)


def test_every_method_has_a_sampler_and_settings_survive_json() -> None:
    assert tuple(SAMPLERS) == PLANNERS
    config = PlannerConfig("mppi", candidates=64, budget_ms=12.5, budget_evaluations=500)
    assert build(PlannerConfig, plain(config)) == config
    assert build(PlannerConfig, {"candidates": 200}).method == "icem"
