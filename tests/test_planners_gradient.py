"""The gradient planner: it improves what sampling found, and never makes it worse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ode_rl.agents.planners import Deadline, PlannerConfig
from ode_rl.agents.planners.gradient import ascend
from ode_rl.errors import UsageError
from tests.known_optima import Counted, quadratic, rastrigin, solve, targets

GRADIENT = PlannerConfig("gradient")


def pendulum(plans: Tensor) -> Tensor:
    """The return of a damped pendulum that hangs and is pushed: smooth, but no bowl."""
    angle, speed = torch.zeros(plans.shape[:2]), torch.zeros(plans.shape[:2])
    total = torch.zeros(plans.shape[:2])
    for push in plans[..., 0].unbind(-1):
        speed = speed + 0.1 * (6 * push - 9.8 * angle.sin() - 0.1 * speed)
        angle = angle + 0.1 * speed
        total = total - angle.cos() - 0.01 * push.square()
    return total


def test_the_best_sampled_plan_is_improved_on_a_smooth_function() -> None:
    for seed in range(5):
        sampled = solve(pendulum, (3, 15, 1), replace(GRADIENT, method="icem"), seed)
        refined = solve(pendulum, (3, 15, 1), GRADIENT, seed)
        gain = pendulum(refined.plan.unsqueeze(1)) - pendulum(sampled.plan.unsqueeze(1))
        assert bool((gain > 0.05).all())


@pytest.mark.parametrize("rate", [0.05, 1.0, 50.0])
def test_it_is_never_worse_than_the_sampled_plan_at_any_rate(rate: float) -> None:
    for score in (pendulum, rastrigin):
        for seed in range(5):
            config = replace(GRADIENT, gradient_rate=rate)
            sampled = solve(score, (3, 6, 1), replace(config, method="icem"), seed)
            refined = solve(score, (3, 6, 1), config, seed)
            assert bool((score(refined.plan.unsqueeze(1)) >= score(sampled.plan.unsqueeze(1))).all())
            assert float(refined.plan.abs().max()) <= 1.0


def test_of_all_plans_on_the_way_the_best_is_returned() -> None:
    counted = Counted(quadratic(targets(2, 4, 1)))
    end = ascend(counted, targets(2, 3, 4, 1, seed=1), 15, replace(GRADIENT, gradient_rate=0.7), Deadline())
    way = torch.stack([counted.score(plans) for plans in counted.asked])
    assert torch.equal(end.scores, way.amax(0))
    assert not torch.equal(end.scores, way[-1])
    assert torch.equal(counted.score(end.plans), end.scores)


def test_each_start_ends_at_the_optimum_of_its_own_basin() -> None:
    """Two hills: the gradient alone does not leave the one it stands on."""

    def hills(plans: Tensor) -> Tensor:
        x = plans[..., 0, 0]
        return torch.exp(-30 * (x + 0.5).square()) + 2 * torch.exp(-30 * (x - 0.5).square())

    starts = torch.tensor([-0.3, 0.3]).reshape(1, 2, 1, 1)
    end = ascend(hills, starts, 60, replace(GRADIENT, gradient_rate=0.03), Deadline())
    assert end.plans.flatten().tolist() == pytest.approx([-0.5, 0.5], abs=0.01)
    assert end.scores.flatten().tolist() == pytest.approx([1.0, 2.0], abs=0.01)


def test_a_bound_is_followed_to_the_best_plan_on_it() -> None:
    target = torch.tensor([[[2.0], [0.3]]])  # the best within bounds is (1, 0.3)
    starts = torch.tensor([[[[0.9], [-0.5]], [[-1.0], [1.0]]]])
    end = ascend(quadratic(target), starts, 100, replace(GRADIENT, gradient_rate=0.1), Deadline())
    for plan in end.plans[0]:
        assert plan.flatten().tolist() == pytest.approx([1.0, 0.3], abs=0.01)


def test_what_points_out_of_the_bounds_gathers_no_momentum() -> None:
    """The best action is at the bound for five evaluations, then at the other one."""
    sign = Counted(lambda plans: plans.sum((-1, -2)) * (1.0 if len(sign.asked) <= 5 else -1.0))
    config = replace(GRADIENT, gradient_rate=0.2)
    ascend(sign, torch.full((1, 1, 1, 1), 1.0), 10, config, Deadline())
    before, after = sign.asked[5].item(), sign.asked[6].item()
    assert before == 1.0
    assert after < 1.0  # turned at once


def test_rows_without_a_gradient_stand_still_and_do_not_disturb_others() -> None:
    target = targets(3, 4, 1)

    def sick(plans: Tensor) -> Tensor:
        scores = quadratic(target)(plans)
        steep = (0 * plans[1:2]).abs().sqrt().sum((-1, -2))  # 0, with a slope that is not a number
        return torch.cat([scores[:1], scores[1:2] + steep, scores[2:] - torch.inf])

    starts = targets(3, 2, 4, 1, seed=1)
    counted = Counted(sick)
    end = ascend(counted, starts, 10, GRADIENT, Deadline())
    alone = ascend(quadratic(target), starts, 10, GRADIENT, Deadline())
    torch.testing.assert_close(end.plans[0], alone.plans[0])
    assert bool((end.scores[0] > quadratic(target)(starts)[0]).all())
    assert torch.equal(end.plans[1:], starts[1:])
    assert all(bool(plans.isfinite().all()) for plans in counted.asked)


def test_it_works_under_no_grad_and_leaves_no_graph() -> None:
    weight = torch.tensor(1.0, requires_grad=True)

    def score(plans: Tensor) -> Tensor:
        return weight * quadratic(targets(1, 4, 1))(plans)

    with torch.no_grad():
        inside = solve(score, (1, 4, 1), GRADIENT)
    outside = solve(score, (1, 4, 1), GRADIENT)
    assert torch.equal(inside.plan, outside.plan)
    assert not any(x.requires_grad for x in (outside.plan, *outside.warm))
    assert weight.grad is None


def test_inference_mode_is_refused_by_name_and_a_warm_start_from_it_is_not() -> None:
    score = quadratic(targets(1, 4, 1))
    with torch.inference_mode():
        warm = solve(score, (1, 4, 1), PlannerConfig("icem")).warm
        with pytest.raises(RuntimeError, match="inference_mode"):
            solve(score, (1, 4, 1), GRADIENT)
    assert bool(solve(score, (1, 4, 1), GRADIENT, warm=warm).ok.all())


def test_a_score_without_a_gradient_is_refused() -> None:
    with pytest.raises(UsageError, match="can be differentiated"):
        solve(lambda plans: quadratic(targets(1, 4, 1))(plans).detach(), (1, 4, 1), GRADIENT)


def test_the_best_restarts_are_refined_in_as_many_steps_as_configured() -> None:
    counted = Counted(rastrigin)
    config = replace(GRADIENT, restarts=3, gradient_steps=7)
    found = solve(counted, (1, 4, 1), config)
    assert counted.sizes[3:] == [3] * 8  # the starts are scored, too
    assert found.n_steps == 7
    assert found.n_scored == counted.n
    sampled = torch.cat(counted.asked[2:3], 1)
    best = sampled[0, rastrigin(sampled)[0].topk(3).indices]
    assert torch.equal(counted.asked[3][0], best)
    assert float(rastrigin(found.plan.unsqueeze(1))) == max(float(rastrigin(p).max()) for p in counted.asked)
