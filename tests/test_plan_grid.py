"""How a plan lies in time: knots as fine as asked for, intervals as long as the steps really are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ode_rl.agents.plan_grid import DEFAULT_PLAN_LENGTH, PlanGrid, unique_seconds
from ode_rl.agents.planners import Knots, Warm
from ode_rl.errors import UsageError

DT = 0.05


def grid(
    horizon: float | None = None, kind: str = "held", n_knots: int | None = None, growth: float = 1.0
) -> PlanGrid:
    return PlanGrid.of(DT, horizon, kind, n_knots, growth)


def plans(n: int, seed: int = 0) -> Tensor:
    return 2 * torch.rand(2, 3, n, 1, generator=torch.Generator().manual_seed(seed)) - 1


def warm(n: int) -> Warm:
    return Warm(plans(n)[:, 0], plans(n, seed=1))


def moved(g: PlanGrid, seconds: float) -> Warm:
    return g.shifted(warm(g.knots.n), seconds)


# --- behind the horizon ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "n_knots", "growth"), [("held", None, 1.0), ("linear", 3, 1.5)])
def test_behind_its_horizon_a_plan_coasts_with_the_middle_action(
    kind: str, n_knots: int | None, growth: float
) -> None:
    g, plain = PlanGrid.of(DT, 0.4, kind, n_knots, growth, coast=0.2), grid(0.4, kind, n_knots, growth)
    given = plans(g.knots.n)
    assert g.intervals(0.03) == pytest.approx([*plain.intervals(0.03), *[DT] * 4])
    actions = g.spread_out(g.intervals(0.03), given)(given)
    assert torch.equal(actions[..., :-4, :], plain.spread_out(plain.intervals(0.03), given)(given))
    assert not actions[..., -4:, :].any()


def test_what_is_searched_does_not_grow_with_the_coast() -> None:
    g = PlanGrid.of(DT, 0.4, "held", None, 1.0, coast=1.0)
    assert (g.horizon, g.knots) == (grid(0.4).horizon, grid(0.4).knots)
    for mine, theirs in zip(moved(g, DT), moved(grid(0.4), DT), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("coast", [-0.1, float("nan"), float("inf")])
def test_a_coast_that_is_no_time_is_refused(coast: float) -> None:
    with pytest.raises(UsageError, match="Write coast"):
        PlanGrid.of(DT, 0.4, "held", None, 1.0, coast)


# --- one knot for each interval ----------------------------------------------------------------------------


def test_left_to_itself_a_plan_has_twelve_intervals_and_a_knot_for_each() -> None:
    g = grid()
    assert g.intervals() == pytest.approx([DT] * DEFAULT_PLAN_LENGTH)
    assert g.knots == Knots("held", DEFAULT_PLAN_LENGTH, g.horizon)
    assert g.horizon == pytest.approx(DEFAULT_PLAN_LENGTH * DT)


def test_a_plan_with_a_knot_for_each_interval_is_its_actions() -> None:
    g = grid(0.4)
    given = plans(8)
    assert g.spread_out(g.intervals(), given)(given) is given
    after = moved(g, DT)
    for mine, theirs in zip(after, warm(8), strict=True):
        assert torch.equal(mine, torch.cat([theirs[..., 1:, :], theirs[..., -1:, :]], -2))


@pytest.mark.parametrize("horizon", [0.38, 0.4, 0.42])
def test_without_growth_a_horizon_is_rounded_to_whole_intervals(horizon: float) -> None:
    g = grid(horizon)
    assert g.horizon == pytest.approx(0.4)
    assert g.intervals() == pytest.approx([DT] * 8)


# --- knots of another spacing ------------------------------------------------------------------------------


def test_fewer_knots_than_intervals_hold_their_value_for_several() -> None:
    g = grid(0.4, n_knots=4)
    given = plans(4)
    torch.testing.assert_close(
        g.spread_out(g.intervals(), given)(given), given.repeat_interleave(2, dim=2), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(("kind", "n_knots"), [("held", 4), ("held", 16), ("linear", 8), ("cubic", 5)])
def test_after_a_step_a_plan_is_its_own_rest(kind: str, n_knots: int) -> None:
    # Not moved on by a whole knot: a step is over, not the time between two knots.
    g = grid(0.4, kind, n_knots)
    matrix = g.knots.shift_matrix(DT)
    for mine, before in zip(moved(g, DT), warm(n_knots), strict=True):
        torch.testing.assert_close(mine, (matrix @ before).clamp(-1, 1))


def test_a_held_plan_of_few_knots_is_over_after_its_horizon_and_not_before() -> None:
    g = grid(0.4, n_knots=4)
    before = Warm(torch.tensor([0.0, 0.0, 0.0, 1.0]).reshape(1, 4, 1), torch.zeros(1, 1, 4, 1))
    after = before
    for _ in range(2):  # half of the time between two knots each
        after = g.shifted(after, DT)
    assert float(after.mean[0, 2, 0]) > 0.5
    assert float(after.mean[0, 0, 0]) == 0.0


def test_a_step_of_another_length_moves_the_plan_by_that_length() -> None:
    g = grid(0.4)
    two = moved(g, 2 * DT)
    for mine, before in zip(two, warm(8), strict=True):
        torch.testing.assert_close(mine[..., :6, :], before[..., 2:, :])
    half = moved(g, DT / 2)
    first = warm(8).mean
    torch.testing.assert_close(half.mean[:, :7], (first[:, :7] + first[:, 1:]) / 2)


# --- intervals ---------------------------------------------------------------------------------------------


def test_the_first_interval_is_the_next_step_and_the_horizon_stays() -> None:
    g = grid(0.4)
    for seconds in (0.02, 0.05, 0.13):
        found = g.intervals(seconds)
        assert found[0] == seconds
        assert sum(found) == pytest.approx(0.4)


def test_a_step_longer_than_the_plan_is_the_plan() -> None:
    g = grid(0.2)
    assert g.intervals(0.7) == pytest.approx([0.7])
    given = plans(4)
    found = g.spread_out(g.intervals(0.7), given)(given)
    assert found.shape == (2, 3, 1, 1)


def test_a_plan_stands_where_it_stood_in_time_whatever_the_next_step() -> None:
    g = grid(0.4)
    given = plans(8)
    dt = g.intervals(0.02)
    found = g.spread_out(dt, given)(given)
    ends = torch.tensor(dt).cumsum(0)
    middles = ends - torch.tensor(dt) / 2
    for k, at in enumerate(middles.tolist()):
        torch.testing.assert_close(found[:, :, k], given[:, :, int(at / DT)])


def test_growing_intervals_cover_the_same_horizon_with_fewer_of_them() -> None:
    g, even = grid(2.0, growth=1.3), grid(2.0)
    dt = g.intervals()
    assert dt[0] == DT
    assert sum(dt) == pytest.approx(2.0)
    assert len(dt) < len(even.intervals()) / 2
    assert dt[:-1] == sorted(dt[:-1])
    assert g.knots.n == even.knots.n == 40  # the resolution of the plan is another matter
    given = plans(40)
    assert g.spread_out(dt, given)(given).shape == (2, 3, len(dt), 1)


def test_actions_between_knots_stay_within_bounds() -> None:
    g = grid(0.4, "cubic", 4)
    given = torch.tensor([-1.0, 1.0, 1.0, -1.0]).reshape(1, 1, 4, 1)
    assert float(g.spread_out(g.intervals(), given)(given).abs().max()) <= 1.0


@pytest.mark.parametrize("horizon", [0.01, 0.049, 0.0])
def test_a_horizon_shorter_than_an_interval_is_refused_with_one_that_is_not(horizon: float) -> None:
    with pytest.raises(UsageError, match=r"at least one control interval, 0\.05 s.*horizon=0\.6"):
        grid(horizon)
    assert grid(DT).knots.n == 1


def test_an_unknown_kind_and_too_few_knots_are_refused() -> None:
    with pytest.raises(UsageError, match="Did you mean cubic"):
        grid(0.4, "cubik")
    with pytest.raises(UsageError, match="at least 2 linear knots"):
        grid(0.4, "linear", 1)


# --- how long the next step is -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dt", "expected"),
    [
        (None, [(DT, [0, 1, 2])]),
        (0.1, [(0.1, [0, 1, 2])]),
        ([0.1], [(0.1, [0, 1, 2])]),
        ([0.2, 0.1, 0.2], [(0.1, [1]), (0.2, [0, 2])]),
        (torch.tensor([0.3, 0.3, 0.3], dtype=torch.float64), [(0.3, [0, 1, 2])]),
    ],
)
def test_robots_are_grouped_by_how_long_their_next_step_is(dt: Any, expected: Any) -> None:
    assert [(seconds, rows.tolist()) for seconds, rows in unique_seconds(dt, 3, DT)] == expected


@pytest.mark.parametrize(
    "dt", [0.0, -0.1, float("nan"), float("inf"), [0.1, 0.2], [0.1, 0.2, 0.0], [], "soon", object()]
)
def test_durations_that_are_none_are_refused(dt: Any) -> None:
    with pytest.raises(UsageError, match=r"one number or 3.*predict\(obs, dt=0\.05\)"):
        unique_seconds(dt, 3, DT)
