"""What a plan is worth: discounted, weighed by the chance to be alive, -inf where the world breaks."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ode_rl.agents.plan_score import (
    Objective,
    assigned_scores,
    disagreement,
    ensemble_scores,
    plan_scores,
)
from ode_rl.world_model import WorldModel
from tests.known_worlds import known_world

DT = torch.tensor([0.1, 0.3, 0.2], dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plans_of(*rows: list[float]) -> Tensor:
    """One plan per row, for two members: ``[2, n, H, 1]``."""
    return torch.tensor(rows, dtype=torch.float64)[None, :, :, None].expand(2, -1, -1, -1)


def starts(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[None, :, None].expand(2, -1, -1)


# --- the sum -----------------------------------------------------------------------------------------------


def moving(hazard: float | None = None) -> WorldModel:
    """x' = a and r = x."""
    return known_world(
        lambda z, a: a, lambda z, a: z, hazard=None if hazard is None else lambda z, a: 0 * z + hazard
    )


def by_hand(x: float, plan: list[float], rho: float, hazard: float, value: float) -> float:
    """The score of a plan in a moving world."""
    time, score = 0.0, 0.0
    for a, dt in zip(plan, DT.tolist(), strict=True):
        reward = x * dt + a * dt**2 / 2
        score += math.exp(-rho * time) * math.exp(-hazard * (time + dt)) * reward
        x, time = x + a * dt, time + dt
    return score + math.exp(-(rho + hazard) * time) * value * x


@pytest.mark.parametrize("hazard", [None, 0.6])
@pytest.mark.parametrize("rho", [0.0, 0.9])
@pytest.mark.parametrize("value", [0.0, 5.0])
def test_the_score_is_the_discounted_sum_of_rewards_while_alive(
    rho: float, hazard: float | None, value: float
) -> None:
    world = moving(hazard)
    rows = [[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]]
    objective = Objective(rho, (lambda z: value * z[..., 0]) if value else None)
    found = plan_scores(world, starts(2.0, -1.0), plans_of(*rows), DT, objective)
    expected = [by_hand(x, row, rho, hazard or 0.0, value) for x, row in zip((2.0, -1.0), rows, strict=True)]
    assert found.shape == (2, 2)
    assert found[0].tolist() == found[1].tolist() == pytest.approx(expected)


def test_survival_is_weighed_along_the_plan_that_it_belongs_to() -> None:
    # The boundary lies at x = 1: the first plan crosses it in its second interval, the other never does.
    world = known_world(lambda z, a: a, lambda z, a: 0 * z + 1, end_logit=lambda z, a: 1000 * (z - 1))
    found = plan_scores(world, starts(0.9, 0.9), plans_of([0, 1, 1], [0, 0, 0]), DT, Objective(0.0))
    assert found[0].tolist() == pytest.approx([0.1, 0.6])


def test_a_constant_reward_rate_is_worth_its_integral_however_the_plan_is_cut() -> None:
    # Undiscounted within an interval, so that the score approaches the integral from above as dt falls.
    world = known_world(lambda z, a: 0 * z, lambda z, a: 0 * z + 1, hazard=lambda z, a: 0 * z + 0.5)
    found = []
    for n in (10, 40, 160):
        dt = torch.full((n,), 2.0 / n, dtype=torch.float64)
        plans = torch.zeros(2, 1, n, 1, dtype=torch.float64)
        found.append(float(plan_scores(world, starts(0.0), plans, dt, Objective(0.7))[0, 0]))
    limit = (1 - math.exp(-1.2 * 2)) / 1.2
    errors = [abs(score - limit) for score in found]
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(4.0, rel=0.2)
    assert errors[-1] < 0.01


def test_changes_of_the_action_cost_per_second_in_units_of_the_reward_rate() -> None:
    world = known_world(lambda z, a: 0 * z, n_action=2)
    world.reward.out_mean.fill_(-3.0)
    world.reward.out_spread.fill_(2.0)
    plan = torch.tensor([[0.0, 0.0], [1.0, -1.0], [1.0, 0.0]], dtype=torch.float64).expand(2, 1, 3, 2)
    found = plan_scores(world, starts(0.0), plan, DT, Objective(0.0, action_cost=0.1))
    # Mean squares of the changes are 1 and 0.5, weighed by the interval that they begin.
    assert float(found[0, 0]) == pytest.approx(-0.1 * 5 * (1 * 0.3 + 0.5 * 0.2))


def test_a_plan_of_one_interval_has_no_change_of_action_to_pay_for() -> None:
    world = moving()
    plan = torch.ones(2, 1, 1, 1, dtype=torch.float64)
    found = plan_scores(world, starts(1.0), plan, DT[:1], Objective(0.0, action_cost=9.0))
    assert float(found[0, 0]) == pytest.approx(1.0 * 0.1 + 0.1**2 / 2)


# --- members -----------------------------------------------------------------------------------------------

HORIZON = torch.full((2,), 0.5, dtype=torch.float64)


def opinionated(n_members: int) -> WorldModel:
    """The score of a plan is its action, 10 for its start and 1000 for the number of the member."""
    number = 1000 * torch.arange(n_members, dtype=torch.float64).reshape(-1, 1, 1)
    return known_world(lambda z, a: 0 * z, lambda z, a: a + z + number, n_members=n_members)


def candidates(b: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Starts ``[B, 1]``, constant plans ``[B, N, 2, 1]`` and the score of each without a member."""
    z = 10 * torch.arange(b, dtype=torch.float64).reshape(b, 1)
    action = torch.linspace(-1, 1, n, dtype=torch.float64) + 0.001 * z
    return z, action[:, :, None, None].expand(b, n, 2, 1), z + action


@pytest.mark.parametrize("n_members", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [2, 6, 7, 12, 13, 24])
@pytest.mark.parametrize("b", [1, 3])
def test_every_plan_is_scored_by_one_member_and_scores_keep_the_order_of_the_plans(
    n_members: int, n: int, b: int
) -> None:
    z, plans, own = candidates(b, n)
    found = assigned_scores(opinionated(n_members), z, plans, HORIZON, Objective(0.0), generator())
    assert found.shape == (b, n)
    member = ((found - own) / 1000).round()
    torch.testing.assert_close(found - 1000 * member, own)
    for row in member.long():
        load = torch.bincount(row, minlength=n_members)
        assert len(load) == n_members
        assert int(load.max()) == math.ceil(n / n_members)


@pytest.mark.parametrize(("n", "n_members"), [(12, 3), (13, 3), (10, 4), (6, 5)])
def test_members_score_equally_many_plans_give_or_take_one(n: int, n_members: int) -> None:
    z, plans, own = candidates(2, n)
    found = assigned_scores(opinionated(n_members), z, plans, HORIZON, Objective(0.0), generator())
    for row in ((found - own) / 1000).round().long():
        load = torch.bincount(row, minlength=n_members)
        assert int(load.max() - load.min()) <= 1


def test_members_are_dealt_out_anew_at_every_call_and_alike_for_all_starts() -> None:
    z, plans, own = candidates(2, 24)
    world, g = opinionated(3), generator()
    deals = []
    for _ in range(2):
        found = assigned_scores(world, z, plans, HORIZON, Objective(0.0), g)
        deals.append(((found - own) / 1000).round().long().tolist())
    assert deals[0] != deals[1]
    assert deals[0][0] == deals[0][1]
    again = assigned_scores(world, z, plans, HORIZON, Objective(0.0), generator())
    assert ((again - own) / 1000).round().long().tolist() == deals[0]


def test_the_judges_score_is_the_mean_over_all_members() -> None:
    z, plans, own = candidates(3, 7)
    found = ensemble_scores(opinionated(4), z, plans, HORIZON, Objective(0.0))
    torch.testing.assert_close(found, own + 1000 * 1.5)
    world = opinionated(4)
    alone = plan_scores(world, z[1].expand(4, 7, 1), plans[1].expand(4, 7, 2, 1), HORIZON, Objective(0.0))
    torch.testing.assert_close(found[1], alone.mean(0))


@pytest.mark.parametrize("uncertainty", [-0.5, 0.5, 2.0])
def test_the_spread_over_the_members_counts_by_its_weight(uncertainty: float) -> None:
    z, plans, own = candidates(3, 7)
    world = opinionated(4)  # whose members differ by 1000: a spread of 1000 * sqrt(5) / 2 around the mean
    found = ensemble_scores(world, z, plans, HORIZON, Objective(0.0, uncertainty=uncertainty))
    torch.testing.assert_close(found, own + 1500 + uncertainty * 1000 * math.sqrt(5) / 2)


def test_what_members_agree_on_has_no_spread_to_pay_for() -> None:
    z, plans, own = candidates(2, 5)
    world = known_world(lambda z, a: 0 * z, lambda z, a: a + z, n_members=3)
    found = ensemble_scores(world, z, plans, HORIZON, Objective(0.0, uncertainty=-9.0))
    torch.testing.assert_close(found, own)


def test_a_single_member_has_no_spread() -> None:
    z, plans, own = candidates(2, 5)
    found = ensemble_scores(opinionated(1), z, plans, HORIZON, Objective(0.0, uncertainty=-9.0))
    torch.testing.assert_close(found, own)


def test_members_disagree_by_their_mean_distance_in_spreads_of_the_data_at_most_one_a_coordinate() -> None:
    z = torch.tensor([[[1.0, 5.0], [0.0, 0.0]], [[3.0, 5.0], [0.0, 900.0]]])  # [E, M, Z]
    found = disagreement(z, torch.tensor([4.0, 1.0]))
    assert found.tolist() == pytest.approx([(1 / 4 + 0) / 2, (0 + 1) / 2])


def test_curiosity_counts_how_far_the_members_are_apart_at_the_end_of_a_plan() -> None:
    speed = torch.tensor([-1.0, 1.0], dtype=torch.float64).reshape(2, 1, 1)
    world = known_world(lambda z, a: speed * a, lambda z, a: 0 * z)  # x = x0 -+ the sum of a dt
    z, plans = torch.zeros(1, 1, dtype=torch.float64), torch.tensor([0.0, 0.5, 10.0], dtype=torch.float64)
    plans = plans[None, :, None, None].expand(1, 3, 3, 1)
    found = ensemble_scores(world, z, plans, DT, Objective(0.0, curiosity=2.0))
    unit = float(world.reward_unit) * float(DT.sum())
    assert world.state_spread.tolist() == [1.0]
    assert found[0].tolist() == pytest.approx([0.0, 2.0 * unit * 0.5 * 0.6, 2.0 * unit])


# --- divergence --------------------------------------------------------------------------------------------


def test_plans_that_break_the_world_score_minus_infinity_and_spoil_no_other() -> None:
    world = known_world(lambda z, a: torch.where(a > 0.5, z**3 * 1e200, -z), lambda z, a: z)
    z = torch.ones(1, 1, dtype=torch.float64)
    plans = torch.tensor([0.0, 1.0, 0.2, 0.9], dtype=torch.float64)[None, :, None, None].expand(1, 4, 3, 1)
    found = assigned_scores(world, z, plans, DT, Objective(0.1), generator())
    assert (found == -torch.inf).tolist() == [[False, True, False, True]]
    assert not bool(found.isnan().any())
    judged = ensemble_scores(world, z, plans, DT, Objective(0.1, lambda z: z[..., 0], 0.1))
    assert (judged == -torch.inf).tolist() == [[False, True, False, True]]


def test_a_plan_that_breaks_the_world_of_one_member_is_out_for_the_judge() -> None:
    wild = torch.tensor([0.0, torch.inf], dtype=torch.float64).reshape(2, 1, 1)
    world = known_world(lambda z, a: 0 * z, lambda z, a: torch.where(a > 0.5, wild, z))
    z = torch.ones(1, 1, dtype=torch.float64)
    plans = torch.tensor([0.0, 1.0], dtype=torch.float64)[None, :, None, None].expand(1, 2, 3, 1)
    found = ensemble_scores(world, z, plans, DT, Objective(0.0))
    assert found[0].tolist() == pytest.approx([0.6, -math.inf])


@pytest.mark.parametrize("uncertainty", [0.0, 1.0])
def test_a_plan_whose_last_state_is_no_number_is_out_also_where_nothing_values_that_state(
    uncertainty: float,
) -> None:
    # By Euler's method the reward of the last interval is that of its finite start.
    world = known_world(
        lambda z, a: torch.where(a > 0.5, torch.inf, 0.0), lambda z, a: 0 * z + 1, method="euler"
    )
    z = torch.ones(1, 1, dtype=torch.float64)
    rows = [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    plans = torch.tensor(rows, dtype=torch.float64).reshape(1, 2, 3, 1)
    objective = Objective(0.0, uncertainty=uncertainty)
    assert ensemble_scores(world, z, plans, DT, objective)[0].tolist() == pytest.approx([-math.inf, 0.6])
    one_each = assigned_scores(world, z, plans, DT, objective, generator())
    assert one_each[0].tolist() == pytest.approx([-math.inf, 0.6])
