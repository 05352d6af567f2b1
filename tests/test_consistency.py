"""The check that a model's predictions do not live off its solver's step."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ode_rl.consistency import check_solver_consistency
from ode_rl.errors import UsageError
from ode_rl.types import Segment, Solver
from ode_rl.world_model import WorldModel
from tests.known_worlds import known_world

F64 = torch.float64
OSCILLATOR = torch.tensor([[0.0, 1.0], [-20.0, -0.2]], dtype=F64)
H = 0.1


def segments(n: int = 30, length: int = 4) -> Segment:
    """Exact segments of the oscillator, intervals of `H` seconds."""
    g = torch.Generator().manual_seed(0)
    obs = [torch.randn(n, 2, generator=g, dtype=F64)]
    for _ in range(length):
        obs.append(obs[-1] @ torch.linalg.matrix_exp(OSCILLATOR * H).T)
    zero = torch.zeros(n, length, dtype=F64)
    return Segment(
        obs=torch.stack(obs, 1),
        action=zero[..., None],
        reward=zero,
        dt=zero + H,
        terminated=zero > 0,
        mask=zero + 1,
    )


def world(matrix: Tensor, solver: Solver) -> WorldModel:
    model = known_world(lambda z, a: z @ matrix.T, lambda z, a: z[..., :1], n_obs=2)
    model.config = replace(model.config, solver=solver)
    return model


def made_for_euler() -> Tensor:
    """A field that is right where Euler takes one step of `H`, and nowhere else."""
    return (torch.linalg.matrix_exp(OSCILLATOR * H) - torch.eye(2, dtype=F64)) / H


@pytest.mark.parametrize("solver", [Solver("rk4"), Solver("midpoint", max_step=H / 4), Solver("dopri5")])
def test_a_field_with_errors_of_its_own_is_consistent(solver: Solver) -> None:
    report = check_solver_consistency(world(0.9 * OSCILLATOR, solver), segments())
    assert report.consistent
    assert report.ratio < 0.1
    assert report.finer_error == pytest.approx(report.error, rel=0.1)
    assert "consistent: " in str(report)


def test_a_network_that_makes_up_for_its_step_is_found_out() -> None:
    report = check_solver_consistency(world(made_for_euler(), Solver("euler")), segments())
    assert report.error < 1e-9  # it predicts the data, and would pass any test at this step
    assert report.finer_error > 1.0
    assert not report.consistent
    assert "training step" in str(report)


@pytest.mark.parametrize("max_step", [math.inf, H, H / 3])
def test_the_change_is_that_from_twice_the_substeps(max_step: float) -> None:
    data = segments(length=1)
    model = world(OSCILLATOR, Solver("euler", max_step=max_step))
    n = 3 if max_step == H / 3 else 1

    def euler(steps: int) -> Tensor:
        growth = torch.linalg.matrix_power(torch.eye(2, dtype=F64) + OSCILLATOR * H / steps, steps)
        return data.obs[:, 0] @ growth.T

    report = check_solver_consistency(model, data)
    change = (euler(2 * n) - euler(n)).square().mean().sqrt() / H
    error = (euler(n) - data.obs[:, 1]).square().mean().sqrt() / H
    assert report.change == pytest.approx(float(change), rel=1e-9)
    assert report.error == pytest.approx(float(error), rel=1e-9)
    assert report.worst_column == 1
    assert report.reward_change > 0.0


def test_the_model_of_the_caller_stays_as_it_is() -> None:
    model = world(OSCILLATOR, Solver("euler"))
    config, state = model.config, {k: v.clone() for k, v in model.state_dict().items()}
    check_solver_consistency(model, segments())
    assert model.config is config
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_what_is_masked_out_has_no_say() -> None:
    model, data = world(0.9 * OSCILLATOR, Solver("midpoint")), segments()
    obs, mask = data.obs.clone(), data.mask.clone()
    obs[:, 3:], mask[:, 2:] = 1e6, 0.0
    seen = check_solver_consistency(model, data._replace(obs=obs, mask=mask))
    short = Segment(*(x[:, : 2 + (x is data.obs)] for x in data))
    assert seen.error == pytest.approx(check_solver_consistency(model, short).error)
    assert seen.change == pytest.approx(check_solver_consistency(model, short).change)


def test_segments_for_each_member_are_taken_as_they_are() -> None:
    model, data = world(0.9 * OSCILLATOR, Solver("midpoint")), segments()
    twice = Segment(*(x.expand(2, *x.shape) for x in data))
    assert check_solver_consistency(model, twice) == check_solver_consistency(model, data)


def test_predictions_that_are_not_finite_are_counted_and_fail_the_check() -> None:
    model = known_world(lambda z, a: z**9 * 1e9, n_obs=2)
    report = check_solver_consistency(model, segments())
    assert report.n_failures > 0
    assert not report.consistent
    assert math.isfinite(report.change)


def test_bad_arguments_are_refused() -> None:
    model, data = world(OSCILLATOR, Solver("rk4")), segments()
    for bad in (data._replace(obs=data.obs[..., :1]), data._replace(mask=0 * data.mask)):
        with pytest.raises(UsageError, match=r"segments \[B, L\]"):
            check_solver_consistency(model, bad)
    with pytest.raises(UsageError, match="threshold"):
        check_solver_consistency(model, data, threshold=0.0)
