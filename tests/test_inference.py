"""The fast path of planning gives what the world model gives, and says which numbers it computes with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ode_rl.agents.planners import OutOfTime
from ode_rl.errors import UsageError
from ode_rl.inference import LEAST_ROWS, LEAST_WIDTH, FastModel, resolve_precision
from ode_rl.known import NOTHING_KNOWN, Known
from ode_rl.state import StateSpec
from ode_rl.types import Solver
from ode_rl.world_model import Rollout, WorldModel, WorldModelConfig

E, M, H, Z, A = 3, 7, 5, 4, 2
DT = torch.tensor([0.07, 0.1, 0.1, 0.3, 0.05])
SPEC = StateSpec(position=(0, 1), velocity=(2, 3))


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def world(known: Known = NOTHING_KNOWN, ends: bool = True, **settings: Any) -> WorldModel:
    """A world with odd weights and scales, in float32."""
    config = WorldModelConfig(**{"n_members": E, "hidden": (16, 12), "head_hidden": (8, 6), **settings})
    model = WorldModel(Z, A, 0.1, config, torch.Generator().manual_seed(0), SPEC, known)
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            parameter.add_(0.3 * draw(*parameter.shape, seed=seed))
    data = draw(60, Z, seed=70) * torch.tensor([0.1, 1.0, 10.0, 3.0]) + torch.tensor([5.0, 0.0, -30.0, 1.0])
    model.rescale(data, 2 * draw(60, Z, seed=71), draw(60, seed=72) - 4, ends)
    return model


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    spread = torch.tensor([0.1, 1.0, 10.0, 3.0])
    z = draw(E, M, Z, seed=1) * spread + torch.tensor([5.0, 0.0, -30.0, 1.0])
    return z, draw(E, M, H, A, seed=2).clamp(-1, 1), DT


def assert_same(fast: Rollout, slow: Rollout, tolerance: float = 1e-5) -> None:
    for mine, theirs in zip(fast, slow, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            assert mine.dtype == theirs.dtype
            torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


def check(model: WorldModel, fast: bool = True) -> Rollout:
    planner = FastModel(model)
    assert planner.is_fast == fast
    with torch.no_grad():
        slow = model.rollout(*inputs())
        found = planner.rollout(*inputs())
        assert_same(found, slow)
        assert_same(planner.rollout(*inputs()), found, tolerance=0)  # nothing is left of the call before
    assert bool(found.ok.all())
    assert found.reward.shape == (H, E, M)
    return found


# --- the same roll-outs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4"])
@pytest.mark.parametrize("max_step", [torch.inf, 0.04])
@pytest.mark.parametrize("termination", ["hazard", "boundary", "auto"])
def test_every_plain_method_gives_the_roll_outs_of_the_model(
    method: str, max_step: float, termination: str
) -> None:
    found = check(world(solver=Solver(method, max_step), termination=termination))
    assert found.log_survival is not None


def test_of_two_ways_to_end_the_chosen_one_is_followed() -> None:
    model = world(termination="auto")
    by_hazard = check(model).log_survival
    model.choose_termination("boundary")
    by_boundary = check(model).log_survival
    assert by_hazard is not None
    assert by_boundary is not None
    assert not torch.allclose(by_hazard, by_boundary)


@pytest.mark.parametrize("termination", ["hazard", "boundary", "auto"])
def test_endless_tasks_have_no_survival(termination: str) -> None:
    assert check(world(ends=False, termination=termination)).log_survival is None


@pytest.mark.parametrize("structure", ["residual-mlp", "dt-mlp"])
@pytest.mark.parametrize("termination", ["hazard", "boundary"])
def test_rivals_that_are_plain_networks_are_fast_too(structure: str, termination: str) -> None:
    # The solver of the config has no meaning for them.
    check(world(structure=structure, termination=termination, solver=Solver("rk4", 0.01)))


def reward(obs: Tensor, action: Tensor, after: Tensor, dt: Tensor) -> Tensor:
    return obs[..., 0] + 10 * action[..., 1] + after[..., 1] + 100 * dt


def over(after: Tensor) -> Tensor:
    return after[..., 1] > 0


@pytest.mark.parametrize("known", [Known(reward), Known(termination=over), Known(reward, over)])
@pytest.mark.parametrize("termination", ["hazard", "boundary"])
@pytest.mark.parametrize("structure", ["ode", "dt-mlp"])
def test_what_is_known_is_used_as_the_model_uses_it(known: Known, termination: str, structure: str) -> None:
    found = check(world(known, termination=termination, structure=structure))
    if known.termination is not None:
        assert found.log_survival is not None
        assert set(found.log_survival.flatten().tolist()) == {0.0, -torch.inf}


@pytest.mark.parametrize(
    "settings",
    [
        {"structure": "second-order"},
        {"structure": "gru-dt"},
        {"solver": Solver("dopri5", rtol=1e-3)},
        {"solver": Solver("bosh3_fixed")},
        {"structure": "second-order", "solver": Solver("semi_implicit")},
    ],
)
def test_other_fields_and_solvers_take_the_way_of_the_model(settings: dict[str, Any]) -> None:
    check(world(**settings), fast=False)


def test_a_row_that_leaves_the_numbers_says_so_and_spoils_no_other() -> None:
    model, (z, plan, dt) = world(), inputs()
    z[1, 2] = torch.inf
    for found in (FastModel(model).rollout(z, plan, dt), model.rollout(z, plan, dt)):
        assert (~found.ok).nonzero().tolist() == [[1, 2]]
    for e in (0, 2):
        fast, slow = FastModel(model).rollout(z, plan, dt), model.rollout(z, plan, dt)
        assert_same(_member(fast, e), _member(slow, e))


def _member(course: Rollout, e: int) -> Rollout:
    assert course.log_survival is not None
    return Rollout(course.z[e], course.reward[:, e], course.log_survival[:, e], course.ok[e])


def test_a_row_whose_last_state_is_no_number_says_so_although_its_rewards_are() -> None:
    model, (z, plan, dt) = world(solver=Solver("euler")), inputs()
    with torch.no_grad():
        model.dynamics.get_parameter("net.biases.2")[1] = 3e38
    for roller in (FastModel(model), model):
        course = roller.rollout(z, plan[:, :, :1], dt[:1])
        assert bool(course.reward.isfinite().all())
        assert course.ok.all(1).tolist() == [True, False, True]


def test_a_method_that_the_field_does_not_suit_is_refused_and_not_replaced() -> None:
    fast = FastModel(world(solver=Solver("semi_implicit")))
    assert not fast.is_fast
    with pytest.raises(UsageError, match="positions and velocities"):
        fast.rollout(*inputs())


def test_a_later_fit_is_not_followed_so_that_a_plan_is_scored_by_one_model() -> None:
    model = world()
    fast = FastModel(model)
    before = fast.rollout(*inputs())
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.dynamics.buffers(), *model.reward.buffers()):
            tensor.add_(1.0)
    assert_same(fast.rollout(*inputs()), before, tolerance=0)


# --- the clock ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", ["ode", "second-order"])
def test_the_clock_is_asked_after_every_interval_and_may_end_the_roll_out(structure: str) -> None:
    fast, calls = FastModel(world(structure=structure)), 0

    def look() -> None:
        nonlocal calls
        calls += 1

    fast.rollout(*inputs(), look)
    assert calls == H

    def late() -> None:
        look()
        if calls == H + 3:
            raise OutOfTime

    with pytest.raises(OutOfTime):
        fast.rollout(*inputs(), late)
    assert calls == H + 3


# --- precision ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", ["ode", "dt-mlp"])
@pytest.mark.parametrize("termination", ["hazard", "boundary"])
def test_bfloat16_errs_by_no_more_than_ten_of_its_own_roundings(structure: str, termination: str) -> None:
    model = world(structure=structure, termination=termination)
    z, plan, dt = inputs()
    exact, rough = (FastModel(model, name).rollout(z, plan, dt) for name in ("float32", "bfloat16"))
    assert rough.z.dtype == rough.reward.dtype == torch.float32
    rounding = 2.0**-8
    moved = (exact.z - z).square().mean((0, 1)).sqrt()
    error = (rough.z - exact.z).square().mean((0, 1)).sqrt()
    assert bool((error > 0).all())
    assert bool((error < 10 * rounding * moved).all()), error / moved
    off = (rough.reward - exact.reward).abs().mean() / exact.reward.std()
    assert 0 < float(off) < 10 * rounding
    assert rough.log_survival is not None
    assert exact.log_survival is not None
    assert float((rough.log_survival - exact.log_survival).abs().mean()) < 10 * rounding * float(
        exact.log_survival.abs().mean()
    )


def test_a_small_rate_on_a_large_mean_does_not_drown_in_bfloat16() -> None:
    model = world()
    model.reward.out_mean.fill_(1000.0)
    model.reward.out_spread.fill_(0.01)
    with torch.no_grad():
        exact, rough = (roller.rollout(*inputs()) for roller in (model, FastModel(model, "bfloat16")))
    # The mean alone would be rounded to steps of 4.
    assert float((rough.reward - exact.reward).abs().max()) < 1e-3


def test_a_precision_that_was_named_is_taken_and_an_unknown_one_refused() -> None:
    assert [resolve_precision(name, "cpu") for name in ("float32", "bfloat16")] == ["float32", "bfloat16"]
    with pytest.raises(UsageError, match="auto, float32, bfloat16"):
        resolve_precision("half", "cpu")


@pytest.mark.parametrize("able", [False, True])
def test_auto_is_bfloat16_where_the_processor_has_units_for_it(
    able: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = "bfloat16" if able else "float32"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: able)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert resolve_precision("auto", "cpu") == best
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0) if able else (7, 5))
    assert resolve_precision("auto", "cuda") == best


@pytest.mark.parametrize(
    ("width", "rows", "best"),
    [
        (LEAST_WIDTH, LEAST_ROWS, "bfloat16"),
        (LEAST_WIDTH - 1, 999, "float32"),
        (999, LEAST_ROWS - 1, "float32"),
    ],
)
def test_auto_is_float32_where_products_are_too_small_to_be_worth_a_conversion(
    width: int, rows: int, best: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert resolve_precision("auto", "cpu", width, rows) == best
    assert resolve_precision("bfloat16", "cpu", width, rows) == "bfloat16"  # who names it gets it


def test_auto_is_float32_without_a_library_that_uses_the_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert resolve_precision("auto", "cpu") == "float32"
