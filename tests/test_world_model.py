"""The world model: state, reward and survival of an interval come from one ODE, for any duration."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ode_rl.errors import UsageError
from ode_rl.types import Solver
from ode_rl.world_model import Outcome, WorldModel, WorldModelConfig
from tests.known_worlds import known_world

E, N, Z, A = 3, 4, 2, 1
PRECISE = Solver("dopri5", rtol=1e-10, atol=1e-10)
TERMINATIONS = ["never", "hazard", "boundary", "auto"]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def learned(termination: str = "hazard", solver: Solver | None = None) -> WorldModel:
    """An untrained world with odd scales, in float64."""
    kind = "hazard" if termination == "never" else termination
    config = WorldModelConfig(E, (8,), (6,), solver or Solver(), kind)
    model = WorldModel(Z, A, 0.1, config, torch.Generator().manual_seed(0)).double()
    for seed, parameter in enumerate(model.parameters()):
        with torch.no_grad():
            parameter.add_(0.3 * draw(*parameter.shape, seed=seed))
    data = 2 * draw(60, Z, seed=70) + 1
    model.rescale(data, draw(60, Z, seed=71), draw(60, seed=72), ends=termination != "never")
    return model


def column(*values: float) -> Tensor:
    """One row per value, the same for two members: ``[2, n, 1]``."""
    return torch.tensor(values, dtype=torch.float64).reshape(1, -1, 1).expand(2, -1, -1)


def seconds(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def log_survival(outcome: Outcome) -> Tensor:
    assert outcome.log_survival is not None
    return outcome.log_survival


def assert_same(one: Outcome, other: Outcome) -> None:
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine, theirs)


# --- rewards -----------------------------------------------------------------------------------------------


def test_the_reward_is_the_integral_of_its_rate_along_the_way() -> None:
    # x' = a and r = x^2 + a, so that R = ((x + a t)^3 - x^3) / (3 a) + a t.
    world = known_world(lambda z, a: a, lambda z, a: z**2 + a)
    x, a, dt = column(1.0, -0.5, 2.0), column(0.7, 3.0, -1.0), seconds(0.1, 0.5, 2.0)
    outcome = world.step(x, a, dt)
    end = x[..., 0] + a[..., 0] * dt
    torch.testing.assert_close(outcome.z[..., 0], end)
    integral = (end**3 - x[..., 0] ** 3) / (3 * a[..., 0]) + a[..., 0] * dt
    torch.testing.assert_close(outcome.reward, integral)


@pytest.mark.parametrize("dt", [0.01, 0.1, 1.0])
def test_a_constant_reward_rate_pays_in_proportion_to_time(dt: float) -> None:
    world = known_world(lambda z, a: -z, lambda z, a: 0 * z + 3)
    reward = world.step(column(1.0, 5.0), column(0, 0), seconds(dt)).reward
    torch.testing.assert_close(reward, torch.full((2, 2), 3 * dt, dtype=torch.float64))


# --- survival ----------------------------------------------------------------------------------------------


def test_under_a_constant_hazard_the_log_of_survival_falls_with_time() -> None:
    world = known_world(lambda z, a: -z, hazard=lambda z, a: 0 * z + 0.7)
    dt = seconds(0.1, 0.5, 2.0)
    found = log_survival(world.step(column(1, 2, 3), column(0, 0, 0), dt))
    torch.testing.assert_close(found, (-0.7 * dt).expand(2, 3))


def test_a_hazard_is_integrated_along_the_way() -> None:
    # x' = 1 and a hazard of x: H = ((x + t)^2 - x^2) / 2.
    world = known_world(lambda z, a: 0 * z + 1, hazard=lambda z, a: z)
    found = log_survival(world.step(column(0.5, 1.0), column(0, 0), seconds(1.0)))
    expected = torch.tensor([-(1.5**2 - 0.5**2) / 2, -(2.0**2 - 1) / 2], dtype=torch.float64).expand(2, 2)
    torch.testing.assert_close(found, expected)


def test_two_half_intervals_make_one() -> None:
    model = learned("hazard", PRECISE)
    z, a = draw(E, N, Z, seed=1), draw(E, N, A, seed=2)
    whole = model.step(z, a, seconds(0.8))
    half = model.step(z, a, seconds(0.4))
    rest = model.step(half.z, a, seconds(0.4))
    torch.testing.assert_close(rest.z, whole.z, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(half.reward + rest.reward, whole.reward, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        log_survival(half) + log_survival(rest), log_survival(whole), rtol=1e-5, atol=1e-5
    )


def test_a_boundary_is_tested_at_the_end_of_an_interval_and_nowhere_before() -> None:
    # x'' = a: thrown upwards, the first row is beyond 1 at half time and back at 0 at the end.
    def thrown(z: Tensor, a: Tensor) -> Tensor:
        return torch.cat([z[..., 1:], a], -1)

    world = known_world(thrown, end_logit=lambda z, a: 50 * (z[..., :1] - 1), n_obs=2)
    start = torch.tensor([[0.0, 10.0], [0.0, 0.0], [0.0, 2.0]], dtype=torch.float64).expand(2, 3, 2)
    outcome = world.step(start, column(-20, 0, 0), seconds(1.0))
    found = log_survival(outcome)
    torch.testing.assert_close(found, F.logsigmoid(-50 * (outcome.z[..., 0] - 1)))
    assert outcome.z[0, :, 0].tolist() == pytest.approx([0, 0, 2])
    assert found[0].exp().tolist() == pytest.approx([1, 1, 0], abs=1e-9)
    assert world.end_logit(outcome.z)[0].tolist() == pytest.approx([-50, -50, 50])


def test_a_boundary_does_not_care_how_long_the_interval_was() -> None:
    world = known_world(lambda z, a: a, end_logit=lambda z, a: z)
    short = world.step(column(0.0), column(2.0), seconds(0.5))
    long = world.step(column(0.0), column(0.5), seconds(2.0))
    torch.testing.assert_close(log_survival(short), log_survival(long))
    assert float(log_survival(short)[0, 0]) == pytest.approx(-math.log(1 + math.e))


@pytest.mark.parametrize("termination", ["hazard", "boundary"])
def test_survival_is_certain_until_the_task_was_seen_to_end(termination: str) -> None:
    model = learned(termination)
    z, a = draw(E, N, Z, seed=1), draw(E, N, A, seed=2)
    found = log_survival(model.step(z, a, seconds(0.1)))
    assert bool((found < 0).all())
    model.rescale(draw(9, Z, seed=3), draw(9, Z, seed=4), draw(9, seed=5), ends=False)
    assert model.step(z, a, seconds(0.1)).log_survival is None


def test_a_stored_world_remembers_whether_tasks_end() -> None:
    ending, endless = learned("hazard"), learned("never")
    assert not endless.ends
    endless.load_state_dict(ending.state_dict())
    z, a = draw(E, N, Z, seed=1), draw(E, N, A, seed=2)
    assert_same(endless.step(z, a, seconds(0.1)), ending.step(z, a, seconds(0.1)))
    ending.load_state_dict(learned("never").state_dict())
    assert ending.step(z, a, seconds(0.1)).log_survival is None


def both_ways() -> WorldModel:
    model = learned("auto")
    assert model.boundary is not None
    return model


def test_a_world_with_both_ways_to_end_plans_by_the_one_that_was_chosen() -> None:
    model = both_ways()
    z, a, dt = draw(E, N, Z, seed=1), draw(E, N, A, seed=2), seconds(0.1)
    by_hazard = model.step(z, a, dt)
    hazard_alone = learned("hazard")
    hazard_alone.load_state_dict({k: v for k, v in model.state_dict().items() if "boundary" not in k})
    assert_same(by_hazard, hazard_alone.step(z, a, dt))
    model.choose_termination("boundary")
    by_boundary = model.step(z, a, dt)
    assert model.boundary is not None
    logit = model.boundary(by_boundary.z, z[..., :0])[..., 0]
    torch.testing.assert_close(log_survival(by_boundary), F.logsigmoid(-logit))
    assert not torch.allclose(log_survival(by_boundary), log_survival(by_hazard))
    plan = a.unsqueeze(2)
    assert_same(next(iter(model.roll(z, plan, dt))), by_boundary)
    # While it is fitted the hazard is integrated all the same: both have to be scored.
    torch.testing.assert_close(
        log_survival(next(iter(model.roll(z, plan, dt, fitting=True)))), log_survival(by_hazard)
    )
    model.choose_termination("hazard")
    assert_same(model.step(z, a, dt), by_hazard)


@pytest.mark.parametrize("by", ["hazard", "boundary"])
def test_a_stored_world_remembers_which_way_to_end_was_chosen(by: str) -> None:
    one, other = both_ways(), both_ways()
    one.choose_termination(by)
    other.choose_termination("boundary" if by == "hazard" else "hazard")
    other.load_state_dict(one.state_dict())
    assert other.ends_by == by
    z, a, dt = draw(E, N, Z, seed=1), draw(E, N, A, seed=2), seconds(0.1)
    assert_same(one.step(z, a, dt), other.step(z, a, dt))


# --- rows, members, plans ----------------------------------------------------------------------------------


@pytest.mark.parametrize("termination", TERMINATIONS)
def test_a_roll_out_is_its_steps_one_after_the_other(termination: str) -> None:
    model, plan = learned(termination), draw(E, N, 5, A, seed=3)
    z, dt = draw(E, N, Z, seed=1), seconds(0.1, 0.3, 0.05, 0.1, 0.2)
    outcomes = list(model.roll(z, plan, dt))
    assert len(outcomes) == 5
    for k, outcome in enumerate(outcomes):
        step = model.step(z, plan[:, :, k], dt[k])
        assert (step.log_survival is None) == (termination == "never")
        assert_same(outcome, step)
        z = step.z


@pytest.mark.parametrize("termination", TERMINATIONS)
@pytest.mark.parametrize("solver", [Solver(), Solver(max_step=0.07), PRECISE])
def test_a_duration_for_every_sample_is_the_same_as_one_solve_each(termination: str, solver: Solver) -> None:
    model = learned(termination, solver)
    z, a = draw(E, N, Z, seed=1), draw(E, N, A, seed=2)
    dt = 0.05 + 0.2 * draw(E, N, seed=3).abs()
    together = model.step(z, a, dt)
    exact = solver.method == "midpoint" and math.isinf(solver.max_step)
    for e in range(E):
        for n in range(N):
            alone = model.step(z[:, n : n + 1], a[:, n : n + 1], dt[e, n])
            # Substeps follow the longest sample: alone and together agree as far as the method is accurate.
            near = 1e-10 if exact else 2e-3
            for mine, theirs in zip(together[:3], alone[:3], strict=True):
                if mine is not None and theirs is not None:
                    torch.testing.assert_close(mine[e, n], theirs[e, 0], rtol=near, atol=near)


def test_durations_of_plans_may_differ_by_sample_too() -> None:
    model, plan = learned(), draw(E, N, 2, A, seed=3)
    z, dt = draw(E, N, Z, seed=1), 0.05 + 0.1 * draw(E, N, 2, seed=4).abs()
    first, second = model.roll(z, plan, dt)
    assert_same(first, model.step(z, plan[:, :, 0], dt[..., 0]))
    assert_same(second, model.step(first.z, plan[:, :, 1], dt[..., 1]))


@pytest.mark.parametrize("termination", TERMINATIONS)
def test_rows_and_members_do_not_see_each_other(termination: str) -> None:
    model = learned(termination)
    z, a, dt = draw(E, N, Z, seed=1), draw(E, N, A, seed=2), seconds(0.1)
    before = model.step(z, a, dt)
    moved = z.clone()
    moved[1, 2] += 1
    with torch.no_grad():
        for parameter in model.parameters():
            parameter[0] += 0.1  # another member 0
    after = model.step(moved, a, dt)
    same = torch.ones(E, N, dtype=torch.bool)
    same[0], same[1, 2] = False, False
    for mine, theirs in zip(before[:3], after[:3], strict=True):
        if mine is not None and theirs is not None:
            close = torch.isclose(mine, theirs, rtol=1e-12, atol=0).reshape(E, N, -1).all(-1)
            assert torch.equal(close, same)


def test_a_row_that_diverges_says_so_and_spoils_no_other() -> None:
    # x' = x^2 leaves the numbers when it starts large.
    world = known_world(lambda z, a: z**2, lambda z, a: z)
    outcome = world.step(column(0.5, 1e200, -0.5), column(0, 0, 0), seconds(1.0))
    assert outcome.ok.tolist() == [[True, False, True]] * 2
    assert bool(outcome.z[:, [0, 2]].isfinite().all())


def test_ok_speaks_of_the_reward_too() -> None:
    world = known_world(lambda z, a: 0 * z, lambda z, a: z**2)
    outcome = world.step(column(1.0, 1e200), column(0, 0), seconds(1.0))
    assert not bool(outcome.reward[:, 1].isfinite().any())
    assert outcome.ok.tolist() == [[True, False]] * 2


def test_a_constant_observation_stays_exactly_what_it_is() -> None:
    model = learned()
    rate = draw(60, Z, seed=71)
    rate[:, 0] = 0.0
    model.rescale(draw(60, Z, seed=70), rate, draw(60, seed=72), ends=False)
    z = draw(E, N, Z, seed=1)
    *_, last = model.roll(z, draw(E, N, 6, A, seed=3), seconds(*[0.1] * 6))
    assert torch.equal(last.z[..., 0], z[..., 0])
    assert bool((last.z[..., 1] != z[..., 1]).all())


def test_losses_of_the_heads_can_be_kept_from_the_dynamics() -> None:
    for termination in ("hazard", "boundary"):
        model = learned(termination)
        z, a = draw(E, N, Z, seed=1), draw(E, N, A, seed=2)
        for detach in (True, False):
            *_, later = model.roll(z, torch.stack([a, a], 2), seconds(0.1, 0.1), fitting=detach)
            gradients = torch.autograd.grad(
                later.reward.sum() + log_survival(later).sum(),
                list(model.dynamics.parameters()),
                allow_unused=True,
            )
            assert all(g is None or not bool(g.any()) for g in gradients) == detach


# --- configuration -----------------------------------------------------------------------------------------


def test_a_world_that_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one member"):
        WorldModelConfig(n_members=0)
    with pytest.raises(UsageError, match="hazard, boundary"):
        WorldModelConfig(termination="cliff")
    with pytest.raises(UsageError, match="midpoint"):
        WorldModelConfig(solver=Solver("midpiont"))
