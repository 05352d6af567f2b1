"""Plans in continuous time: what their curves reproduce, and how they move on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ode_rl.agents.planners import Knots, held_actions, interval_grid
from ode_rl.errors import UsageError
from tests.known_optima import targets

KINDS = ("held", "linear", "cubic")
every_kind = pytest.mark.parametrize("kind", KINDS)


def curve(knots: Knots, values: Tensor, times: list[float]) -> Tensor:
    """The curve through ``values [n]`` at rising times, read as middles of very short intervals."""
    found = []
    for time in times:
        grid = [time, 1e-7] if time else [1e-7]
        found.append(knots.weights(grid, torch.float64)[-1] @ values)
    return torch.stack(found)


# --- interpolation -----------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("n", [2, 3, 6, 20])
def test_constants_are_reproduced(kind: str, n: int) -> None:
    knots = Knots(kind, n, 1.5)
    grid = interval_grid(1.5, 0.05, 0.031, growth=1.2)
    for matrix in (knots.weights(grid, torch.float64), knots.shift_matrix(0.037, torch.float64)):
        torch.testing.assert_close(
            matrix.sum(1), torch.ones(len(matrix), dtype=torch.float64), atol=1e-14, rtol=0
        )


@pytest.mark.parametrize("kind", ["linear", "cubic"])
@pytest.mark.parametrize("n", [2, 3, 7])
def test_straight_lines_are_reproduced(kind: str, n: int) -> None:
    knots = Knots(kind, n, 1.2)
    dt = torch.tensor(interval_grid(1.2, 0.05, 0.02, growth=1.3), dtype=torch.float64)
    middles = dt.cumsum(0) - dt / 2
    torch.testing.assert_close(knots.weights(dt, torch.float64) @ (3 * knots.times - 1), 3 * middles - 1)


@every_kind
def test_the_curve_goes_through_its_knots(kind: str) -> None:
    knots = Knots(kind, 5, 2.0)
    values = targets(5, seed=1).double()
    torch.testing.assert_close(curve(knots, values, knots.times.tolist()), values, atol=1e-5, rtol=0)


def test_held_knots_give_each_interval_the_piece_of_its_middle() -> None:
    knots = Knots("held", 3, 0.6)
    # Middles at 0.05, 0.15, 0.25, 0.4 (a boundary: the later piece), 0.55 and, behind the horizon, 0.65.
    weights = knots.weights([0.1, 0.1, 0.1, 0.2, 0.1, 0.1])
    assert weights.argmax(1).tolist() == [0, 0, 1, 2, 2, 2]
    assert weights.sum(1).tolist() == [1.0] * 6


def test_as_many_held_knots_as_intervals_are_the_actions_themselves() -> None:
    knots = Knots("held", 12, 12 * 0.05)
    assert torch.equal(knots.weights([0.05] * 12), torch.eye(12))
    expected = torch.eye(12)[[*range(1, 12), 11]]
    assert torch.equal(knots.shift_matrix(0.05), expected)


def test_the_cubic_through_0_1_0_is_the_natural_spline() -> None:
    """Its closed form is 1.5 x - 0.5 x^3 up to the middle, and symmetric."""
    knots = Knots("cubic", 3, 2.0)
    values = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    x = [0.1 * k for k in range(11)]
    expected = torch.tensor([1.5 * t - 0.5 * t**3 for t in x], dtype=torch.float64)
    torch.testing.assert_close(curve(knots, values, x), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(curve(knots, values, [2 - t for t in x]), expected, atol=1e-6, rtol=0)


def test_the_cubic_is_twice_smooth_and_ends_without_curvature() -> None:
    """With interpolation this defines the natural spline; derivatives by differences."""
    knots = Knots("cubic", 6, 2.5)
    values = targets(6, seed=4).double()
    h = 1e-3

    def second(t: float) -> float:
        before, at, after = curve(knots, values, [t - h, t, t + h])
        return float(before - 2 * at + after) / h**2

    for j in range(1, 5):
        t = 0.5 * j
        slope = [
            float(b - a) / h for a, b in ((curve(knots, values, [x, x + h])) for x in (t - 2 * h, t + h))
        ]
        assert slope[0] == pytest.approx(slope[1], abs=0.1)
        assert second(t - 2 * h) == pytest.approx(second(t + 2 * h), abs=0.3)
    assert second(2 * h) == pytest.approx(0.0, abs=0.2)
    assert second(2.5 - 2 * h) == pytest.approx(0.0, abs=0.2)
    assert abs(second(1.0)) > 2.0  # it does bend in between


def test_a_smooth_plan_needs_fewer_cubic_knots_than_linear_than_held() -> None:
    dt = [0.02] * 50
    middles = 0.02 * (torch.arange(50) + 0.5)
    wanted = torch.sin(2 * math.pi * middles)

    def error(kind: str) -> float:
        weights = Knots(kind, 9, 1.0).weights(dt)
        best = torch.linalg.lstsq(weights, wanted.unsqueeze(1)).solution
        return float((weights @ best - wanted.unsqueeze(1)).abs().max())

    assert error("cubic") < 0.2 * error("linear")
    assert error("linear") < 0.5 * error("held")


def test_actions_of_a_batch_of_plans_are_within_bounds() -> None:
    knots = Knots("cubic", 4, 1.0)
    weights = knots.weights([0.05] * 20)
    plans = torch.tensor([-1.0, 1.0, 1.0, -1.0]).reshape(1, 1, 4, 1).expand(2, 3, 4, 2)
    assert float((weights @ plans).max()) > 1.05  # between the knots
    actions = held_actions(weights, plans)
    assert actions.shape == (2, 3, 20, 2)
    assert float(actions.max()) == 1.0


# --- moving on ---------------------------------------------------------------------------------------------


@every_kind
def test_a_shift_by_one_spacing_moves_the_knots_by_one(kind: str) -> None:
    knots = Knots(kind, 6, 1.5)
    shifted = knots.shift_matrix(knots.spacing, torch.float64)
    torch.testing.assert_close(
        shifted, torch.eye(6, dtype=torch.float64)[[1, 2, 3, 4, 5, 5]], atol=1e-9, rtol=0
    )


@every_kind
def test_a_shift_by_the_horizon_or_more_leaves_the_end(kind: str) -> None:
    knots = Knots(kind, 4, 1.0)
    expected = torch.zeros(4, 4)
    expected[:, 3] = 1.0
    for seconds in (1.0, 7.0):
        torch.testing.assert_close(knots.shift_matrix(seconds), expected)


@pytest.mark.parametrize("kind", ["linear", "cubic"])
def test_a_shifted_plan_has_at_its_knots_the_value_of_the_old_one_later(kind: str) -> None:
    knots = Knots(kind, 6, 1.5)
    values = targets(6, seed=2).double()
    later = [min(t + 0.11, 1.5 - 1e-6) for t in knots.times.tolist()]
    expected = curve(knots, values, later)
    torch.testing.assert_close(knots.shift_matrix(0.11, torch.float64) @ values, expected, atol=1e-5, rtol=0)


def test_a_held_piece_becomes_the_mean_of_the_old_plan_over_it() -> None:
    knots = Knots("held", 3, 0.6)
    moved = knots.shift_matrix(0.05, torch.float64) @ torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64)
    assert moved.tolist() == pytest.approx([0.25, 0.5, -1.0])


def test_many_small_shifts_of_held_knots_do_not_stand_still() -> None:
    knots = Knots("held", 4, 0.8)
    values = torch.tensor([1.0, 0.0, 0.0, 0.0])
    for _ in range(8):  # two pieces in all
        values = knots.shift_matrix(0.05) @ values
    assert float(values[0]) < 0.15


# --- intervals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [0.05, 0.06, 0.6, 0.613, 1.0, 3.0])
@pytest.mark.parametrize("next_dt", [0.05, 0.013, 0.0499])
@pytest.mark.parametrize(
    "how", [{}, {"growth": 1.2}, {"growth": 2.0}, {"n_intervals": 6}, {"n_intervals": 2}]
)
def test_intervals_begin_with_the_next_rise_in_multiples_of_dt_and_sum_to_the_horizon(
    horizon: float, next_dt: float, how: dict[str, float]
) -> None:
    grid = interval_grid(horizon, 0.05, next_dt, **how)  # type: ignore[arg-type]
    assert math.fsum(grid) == pytest.approx(horizon, abs=1e-13)
    assert grid[0] == pytest.approx(next_dt)
    assert min(grid) > 0
    multiples = [d / 0.05 for d in grid[1:-1]]
    assert multiples == pytest.approx([round(m) for m in multiples])
    assert multiples == pytest.approx(sorted(multiples))
    assert len(grid) <= how.get("n_intervals", math.inf)
    if "growth" in how:
        uniform = interval_grid(horizon, 0.05, next_dt)
        assert len(grid) <= len(uniform)


def test_without_growth_all_intervals_are_alike() -> None:
    assert interval_grid(0.6, 0.05) == pytest.approx([0.05] * 12)
    assert interval_grid(0.6, 0.05, 0.02) == pytest.approx([0.02, *[0.05] * 11, 0.03])


def test_growth_covers_the_horizon_with_fewer_intervals() -> None:
    # 1 + 1 + 2 + 4 + 8 = 16 intervals of 0.1 s.
    assert interval_grid(1.6, 0.1, growth=2.0) == pytest.approx([0.1, 0.1, 0.2, 0.4, 0.8])
    assert interval_grid(1.6, 0.1, n_intervals=5) == pytest.approx([0.1, 0.1, 0.2, 0.4, 0.8])
    assert len(interval_grid(1.6, 0.1, n_intervals=9)) == 9
    assert len(interval_grid(1.6, 0.1, n_intervals=40)) == 16


def test_a_horizon_of_one_interval_is_that_interval() -> None:
    assert interval_grid(0.05, 0.05) == [0.05]
    assert interval_grid(0.05, 0.05, n_intervals=1) == [0.05]


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ({"horizon": 0.04, "dt": 0.05}, "at least one interval"),
        ({"horizon": 0.06, "dt": 0.05, "next_dt": 0.07}, "at least one interval"),
        ({"horizon": -1.0, "dt": 0.05}, "horizon > 0"),
        ({"horizon": 1.0, "dt": 0.0}, "dt > 0"),
        ({"horizon": 1.0, "dt": 0.05, "next_dt": math.nan}, "next_dt > 0"),
        ({"horizon": 1.0, "dt": 0.05, "growth": 0.5}, "growth >= 1"),
        ({"horizon": 1.0, "dt": 0.05, "n_intervals": 1}, "at least 2 intervals"),
    ],
)
def test_intervals_that_cannot_be_are_refused(args: dict[str, float], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        interval_grid(**args)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("cubik", 4, 1.0), "Did you mean cubic"),
        (("linear", 1, 1.0), "at least 2 linear knots"),
        (("held", 0, 1.0), "at least 1 held knots"),
        (("held", 4, 0.0), "horizon > 0"),
    ],
)
def test_knots_that_cannot_be_are_refused(args: tuple[str, int, float], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Knots(*args)


def test_durations_and_shifts_that_cannot_be_are_refused() -> None:
    knots = Knots("linear", 4, 1.0)
    for dt in ([], [0.1, 0.0], [0.1, math.nan], [0.1, math.inf], torch.ones(2, 2)):
        with pytest.raises(UsageError, match=r"durations dt \[H\]"):
            knots.weights(dt)
    with pytest.raises(UsageError, match="dt > 0"):
        knots.shift_matrix(0.0)
