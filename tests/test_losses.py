"""What a world model is fitted to: formulas against closed forms, masks against what they must hide."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ode_rl.losses import (
    BETA,
    DEGREES,
    LIKELIHOODS,
    REWARD_HUBER,
    derivative_losses,
    gaussian_nll,
    huber,
    log1mexp,
    segment_losses,
    student_t_nll,
)
from ode_rl.types import Segment, Solver
from ode_rl.world_model import WorldModel, WorldModelConfig
from tests.known_worlds import known_world, zero

MAGNITUDES = [-(10.0 ** (k / 4)) for k in range(-24, 8)] + [-0.69, -0.693, -0.6932, -0.7]


def closed_log1mexp(x: float) -> float:
    return math.log1p(-math.exp(x)) if x < -1 else math.log(-math.expm1(x))


@pytest.mark.parametrize("x", MAGNITUDES)
def test_log1mexp_and_its_gradient_agree_with_the_closed_form_at_every_magnitude(x: float) -> None:
    at = torch.tensor(x, dtype=torch.float32, requires_grad=True)
    x = float(at.detach())  # what single precision makes of it
    value = log1mexp(at)
    value.backward()
    assert float(value.detach()) == pytest.approx(closed_log1mexp(x), rel=3e-6)
    assert at.grad is not None
    assert float(at.grad) == pytest.approx(-1 / math.expm1(-x), rel=3e-6)


@pytest.mark.parametrize("x", [0.0, -1e-38, -1e-12, -1e-8, -1e-7, -2e-7, -100.0, -1e4, -1e30])
def test_log1mexp_is_finite_with_a_finite_gradient_where_its_formula_is_not(x: float) -> None:
    at = torch.tensor(x, requires_grad=True)
    value = log1mexp(at)
    value.backward()
    assert at.grad is not None
    assert bool(value.isfinite())
    assert bool(at.grad.isfinite())


# Distributions of an error e with scale s, up to constants, and their derivatives to e and to log s.
NLL: dict[str, Any] = {
    "gaussian": (
        gaussian_nll,
        lambda e, s: e**2 / (2 * s**2) + math.log(s),
        lambda e, s: e / s**2,
        lambda e, s: 1 - e**2 / s**2,
    ),
    "student-t": (
        student_t_nll,
        lambda e, s: (DEGREES + 1) / 2 * math.log(1 + e**2 / (DEGREES * s**2)) + math.log(s),
        lambda e, s: (DEGREES + 1) * e / (DEGREES * s**2 + e**2),
        lambda e, s: 1 - (DEGREES + 1) * e**2 / (DEGREES * s**2 + e**2),
    ),
}


@pytest.mark.parametrize("name", NLL)
def test_without_a_weight_the_loss_is_the_likelihood(name: str) -> None:
    loss_of, density, _, _ = NLL[name]
    errors, scales = [0.0, 0.3, -2.0, 9.0], [0.4, 1.6, 1.2, 0.1]
    loss = loss_of(torch.tensor(errors), torch.tensor(scales).log(), beta=0.0)
    assert loss.tolist() == pytest.approx([density(e, s) for e, s in zip(errors, scales, strict=True)])


def test_the_student_t_is_the_density_of_that_name_but_for_its_constant() -> None:
    t = torch.distributions.StudentT(DEGREES, 0.0, 0.7)
    error = torch.tensor([-3.0, 0.0, 0.4, 20.0])
    off = student_t_nll(error, torch.full((4,), math.log(0.7)), beta=0.0) + t.log_prob(error)
    torch.testing.assert_close(off, off[:1].expand(4))  # the constant alone is left out


@pytest.mark.parametrize("name", NLL)
@pytest.mark.parametrize("beta", [0.0, BETA, 1.0])
def test_a_weight_multiplies_the_gradient_to_the_error_and_leaves_that_to_the_noise(
    name: str, beta: float
) -> None:
    loss_of, _, to_error, to_log_scale = NLL[name]
    error = torch.tensor([0.0, 0.3, -2.0, 9.0], dtype=torch.float64, requires_grad=True)
    log_scale = torch.tensor([-1.0, 0.5, 0.2, -2.0], dtype=torch.float64, requires_grad=True)
    loss_of(error, log_scale, beta).sum().backward()
    assert error.grad is not None
    assert log_scale.grad is not None
    for k in range(4):
        e, s = float(error[k].detach()), math.exp(float(log_scale[k].detach()))
        assert float(error.grad[k]) == pytest.approx(s ** (2 * beta) * to_error(e, s))
        assert float(log_scale.grad[k]) == pytest.approx(to_log_scale(e, s))


def test_a_student_t_forgives_an_outlier_that_rules_a_gaussian() -> None:
    error = torch.tensor([1.0, 100.0], requires_grad=True)
    grown = []
    for loss_of in (gaussian_nll, student_t_nll):
        (pull,) = torch.autograd.grad(loss_of(error, torch.zeros(2), 0.0).sum(), error)
        grown.append(float(pull[1] / pull[0]))
    assert grown[0] == pytest.approx(100)
    assert grown[1] < 0.1


def best_scale(loss_of: Any, error: Tensor, beta: float) -> float:
    """The scale at which the loss has no gradient, by bisection."""
    low, high = -6.0, 3.0
    for _ in range(40):
        at = torch.tensor((low + high) / 2, dtype=error.dtype, requires_grad=True)
        (slope,) = torch.autograd.grad(loss_of(error, at, beta).mean(), at)
        low, high = (low, float(at.detach())) if slope > 0 else (float(at.detach()), high)
    return math.exp(low)


@pytest.mark.parametrize("beta", [0.0, BETA])
def test_the_best_noise_is_the_one_that_errors_were_drawn_with(beta: float) -> None:
    error = torch.tensor([0.37, -0.37], dtype=torch.float64)
    assert best_scale(gaussian_nll, error, beta) == pytest.approx(0.37, rel=1e-6)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = torch.distributions.StudentT(DEGREES, 0.0, 0.2).sample((20_000,))
    assert best_scale(student_t_nll, drawn, beta) == pytest.approx(0.2, rel=0.03)


@pytest.mark.parametrize("width", [0.1, 1.0, 2.0])
def test_huber_is_half_the_square_within_its_width_and_goes_on_along_the_tangent(width: float) -> None:
    error = torch.tensor([-3.0, -0.99, 0.0, 0.5, 0.99, 1.01, 3.0], dtype=torch.float64) * width
    size = [abs(e) for e in error.tolist()]
    expected = [0.5 * e**2 if e < width else 0.5 * width**2 + width * (e - width) for e in size]
    assert huber(error, width).tolist() == pytest.approx(expected)


# --- segments ----------------------------------------------------------------------------------------------


def segment(dt: Tensor, obs: Tensor, reward: Tensor, ends: Tensor | None = None) -> Segment:
    """A batch ``[E, B, L]`` of whole segments of a world with one action, which is 0."""
    ended = torch.zeros(dt.shape, dtype=torch.bool) if ends is None else ends
    action = torch.zeros(*dt.shape, 1, dtype=dt.dtype)
    return Segment(obs, action, reward, dt, ended, torch.ones_like(dt))


def drawn(n_members: int = 2, b: int = 3, length: int = 4, seed: int = 0) -> Segment:
    g = torch.Generator().manual_seed(seed)
    shape = (n_members, b, length)
    return segment(
        0.05 + 0.1 * torch.rand(shape, generator=g),
        torch.randn(n_members, b, length + 1, 2, generator=g),
        torch.randn(shape, generator=g),
    )


def learnt_world(termination: str = "hazard", solver: Solver | None = None) -> WorldModel:
    config = WorldModelConfig(2, (8,), (6,), solver or Solver(), termination)
    model = WorldModel(2, 1, 0.1, config, torch.Generator().manual_seed(0))
    g = torch.Generator().manual_seed(1)
    data = torch.randn(50, 2, generator=g)
    model.rescale(data, torch.randn(50, 2, generator=g), torch.randn(50, generator=g), ends=True)
    return model


def test_losses_of_a_constant_world_agree_with_the_sum_by_hand() -> None:
    # x' = 2, reward rate 3, hazard 0.5 per second; two intervals, the second one ends the task.
    world = known_world(lambda z, a: 0 * z + 2, lambda z, a: 0 * z + 3, hazard=lambda z, a: 0 * z + 0.5)
    with torch.no_grad():
        world.log_noise.fill_(-0.3)
    dt = torch.tensor([[[0.1, 0.3]]], dtype=torch.float64).expand(2, 1, 2)
    obs = torch.tensor([0.0, 0.25, 0.7], dtype=torch.float64).reshape(1, 1, 3, 1).expand(2, 1, 3, 1)
    reward = torch.tensor([[[0.36, -50.0]]], dtype=torch.float64).expand(2, 1, 2)
    ends = torch.tensor([[[False, True]]]).expand(2, 1, 2)
    found = segment_losses(world, segment(dt, obs, reward, ends), end_weight=4.0, beta=0.0)

    def nll(error: float, std: float) -> float:
        return error**2 / (2 * std**2) + math.log(std)

    native = 0.1  # spreads are 1 per second, so that the typical change of a native interval is 0.1
    first = nll((0.2 - 0.25) / native, math.exp(-0.3) * math.sqrt(0.1 / native))
    second = nll((0.8 - 0.7) / native, math.exp(-0.3) * math.sqrt(0.4 / native))
    off = (0.36 - 0.3) / native
    paid = REWARD_HUBER * (off - REWARD_HUBER / 2)
    end = 0.5 * 0.1 + 4.0 * -math.log(1 - math.exp(-0.5 * 0.3))
    assert found.dynamics.tolist() == pytest.approx([(first + second) / 2] * 2)
    assert found.reward.tolist() == pytest.approx([paid] * 2)
    assert found.end is not None
    assert found.end.tolist() == pytest.approx([end / 2] * 2)
    total = sum(float(part.sum().detach()) for part in (found.dynamics, found.reward, found.end))
    assert float(found.total().detach()) == pytest.approx(total)


def test_the_likelihood_of_a_segment_is_the_one_that_was_named() -> None:
    world = known_world(lambda z, a: 0 * z, n_members=1)
    with torch.no_grad():
        world.log_noise.fill_(-0.7)
    dt = torch.full((1, 1, 1), 0.1, dtype=torch.float64)
    data = segment(dt, torch.tensor([0.0, -0.3], dtype=torch.float64).reshape(1, 1, 2, 1), 0 * dt)
    error, log_noise = torch.tensor(3.0, dtype=torch.float64), torch.tensor(-0.7, dtype=torch.float64)
    found = {
        name: float(segment_losses(world, data, 1.0, name, 0.0).dynamics.detach()) for name in LIKELIHOODS
    }
    gaussian = float(gaussian_nll(error, log_noise, 0.0))
    assert found == {
        "gaussian": pytest.approx(gaussian),
        "student-t": pytest.approx(float(student_t_nll(error, log_noise, 0.0))),
        "huber": pytest.approx(2.5 + gaussian),
    }


def test_huber_pulls_at_the_dynamics_no_harder_than_its_width_and_tells_the_noise_all() -> None:
    model, data = learnt_world(), drawn(length=1)
    far = data._replace(obs=torch.cat([data.obs[..., :1, :], data.obs[..., 1:, :] + 100], -2))
    further = data._replace(obs=torch.cat([data.obs[..., :1, :], data.obs[..., 1:, :] + 200], -2))
    found = []
    for batch in (far, further):
        loss = segment_losses(model, batch, likelihood="huber").dynamics.sum()
        weights = [*model.dynamics.parameters(), model.log_noise]
        found.append(torch.autograd.grad(loss, weights))
    for mine, theirs in zip(found[0][:-1], found[1][:-1], strict=True):
        torch.testing.assert_close(mine, theirs)
    assert float((found[1][-1] / found[0][-1]).median()) == pytest.approx(4.0, rel=0.2)


def test_a_world_that_never_ends_has_no_loss_of_ends() -> None:
    world = known_world(lambda z, a: 0 * z)
    data = segment(
        torch.full((2, 1, 1), 0.1, dtype=torch.float64),
        torch.zeros(2, 1, 2, 1, dtype=torch.float64),
        torch.zeros(2, 1, 1, dtype=torch.float64),
    )
    assert segment_losses(world, data).end is None


@pytest.mark.parametrize("loss_of", [segment_losses, derivative_losses])
def test_the_reward_of_a_terminal_interval_is_not_learned_and_that_of_others_is(loss_of: type) -> None:
    model, data = learnt_world(), drawn(length=1)
    ends = torch.zeros(2, 3, 1, dtype=torch.bool)
    ends[:, 1] = True
    data = data._replace(terminated=ends)
    before = loss_of(model, data)
    changed = data.reward.clone()
    changed[:, 1] += 100
    after = loss_of(model, data._replace(reward=changed))
    assert torch.equal(before.reward, after.reward)
    changed[:, 0] += 100
    assert not torch.equal(before.reward, loss_of(model, data._replace(reward=changed)).reward)


@pytest.mark.parametrize("termination", ["hazard", "boundary"])
def test_what_the_mask_hides_has_no_gradient_and_what_it_shows_has(termination: str) -> None:
    model, data = learnt_world(termination), drawn()
    mask = torch.ones(2, 3, 4)
    mask[0, 1, 2:] = 0
    mask[1, 2, 1:] = 0
    obs, reward = data.obs.clone().requires_grad_(), data.reward.clone().requires_grad_()
    segment_losses(model, data._replace(obs=obs, reward=reward, mask=mask)).total().backward()
    assert obs.grad is not None
    assert reward.grad is not None
    assert torch.equal(obs.grad[..., 1:, :].abs().sum(-1) > 0, mask > 0)
    assert torch.equal(reward.grad.abs() > 0, mask > 0)


@pytest.mark.parametrize("termination", ["hazard", "boundary"])
def test_losses_do_not_depend_on_what_the_mask_hides(termination: str) -> None:
    model, data = learnt_world(termination), drawn()
    mask = torch.ones(2, 3, 4)
    mask[:, 1, 2:] = 0
    other = drawn(seed=7)
    hidden = data._replace(mask=mask)
    obs, reward, ended = data.obs.clone(), data.reward.clone(), data.terminated.clone()
    obs[:, 1, 3:], reward[:, 1, 2:], ended[:, 1, 2:] = other.obs[:, 1, 3:], other.reward[:, 1, 2:], True
    changed = hidden._replace(obs=obs, reward=reward, terminated=ended)
    for mine, theirs in zip(segment_losses(model, hidden), segment_losses(model, changed), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_mean_over_shown_intervals_does_not_shrink_with_the_hidden_ones() -> None:
    model, data = learnt_world(), drawn(length=2)
    padded = data._replace(mask=torch.tensor([1.0, 0.0]).expand(2, 3, 2))
    cut = Segment(data.obs[..., :2, :], *(x[:, :, :1] for x in data[1:]))
    for mine, theirs in zip(segment_losses(model, padded)[:4], segment_losses(model, cut)[:4], strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("termination", ["hazard", "boundary"])
def test_rewards_and_ends_do_not_shape_the_dynamics(termination: str) -> None:
    model, data = learnt_world(termination), drawn()
    losses = segment_losses(model, data)
    assert losses.end is not None
    (losses.reward.sum() + losses.end.sum()).backward()
    assert all(p.grad is None or not bool(p.grad.any()) for p in model.dynamics.parameters())
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.reward.parameters())
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.end.parameters())


def test_losses_of_a_member_reach_its_own_weights_alone() -> None:
    model, data = learnt_world(), drawn()
    losses = segment_losses(model, data)
    assert losses.end is not None
    (losses.dynamics + losses.reward + losses.end)[1].backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert (p.grad.flatten(1).abs().sum(1) > 0).tolist() == [False, True], name


def test_a_constant_observation_does_not_dilute_the_loss_of_the_moving_ones() -> None:
    model = learnt_world()
    model.dynamics.out_spread[1] = 0.0
    data = drawn()
    before = segment_losses(model, data).dynamics
    changed = data.obs.clone()
    changed[..., 1:, 1] += 5.0  # targets of the dimension that the model holds to be constant
    after = segment_losses(model, data._replace(obs=changed)).dynamics
    torch.testing.assert_close(before, after)


@pytest.mark.parametrize("termination", ["hazard", "boundary", "auto"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_rows_that_the_solver_could_not_solve_are_left_out_and_counted(
    termination: str, likelihood: str
) -> None:
    solver = Solver("dopri5", rtol=1e-3)
    model, data = learnt_world(termination, solver), drawn(length=2)
    broken = data.obs.clone()
    broken[0, 1, 0] = torch.nan  # which no step size mends
    losses = segment_losses(model, data._replace(obs=broken), likelihood=likelihood)
    mask = torch.ones(2, 3, 2)
    mask[0, 1] = 0
    hidden = segment_losses(model, data._replace(mask=mask), likelihood=likelihood)
    assert losses.n_failed is not None
    assert hidden.n_failed is not None
    assert (int(losses.n_failed), int(hidden.n_failed)) == (2, 0)
    for part in ("dynamics", "reward", "end", "boundary"):
        mine, theirs = getattr(losses, part), getattr(hidden, part)
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    losses.total().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert bool(p.grad.isfinite().all()), name


def test_evaluations_of_the_field_are_counted() -> None:
    data = drawn(length=3)
    assert segment_losses(learnt_world(), data).n_evals == 3 * 2  # midpoint
    assert segment_losses(learnt_world(solver=Solver("rk4")), data).n_evals == 3 * 4
    assert segment_losses(learnt_world(solver=Solver("rk4", max_step=0.05)), data).n_evals > 3 * 4


# --- rates of change ---------------------------------------------------------------------------------------


def logistic(dt: float, x0: float = 0.6) -> Segment:
    """One interval of ``x' = x (1 - x)`` with reward rate ``x^2``, from its closed form."""
    grown = x0 * math.exp(dt)
    x1 = grown / (1 - x0 + grown)
    reward = math.log(1 - x0 + grown) - (x1 - x0)  # because x^2 = x - x', and int x dt is the logarithm
    obs = torch.tensor([x0, x1], dtype=torch.float64).reshape(1, 1, 2, 1)
    return segment(
        torch.tensor([[[dt]]], dtype=torch.float64), obs, torch.tensor([[[reward]]], dtype=torch.float64)
    )


def test_the_bias_of_matched_rates_falls_by_four_when_the_interval_is_halved() -> None:
    world = known_world(lambda z, a: z * (1 - z), lambda z, a: z**2, n_members=1)
    found = [derivative_losses(world, logistic(dt)) for dt in (0.2, 0.1, 0.05, 0.025)]
    for part in ("dynamics", "reward"):
        # The loss is half of the squared bias.
        bias = [math.sqrt(2 * float(getattr(losses, part).sum())) for losses in found]
        assert bias[0] > 1e-5
        for coarse, fine in pairwise(bias[1:]):
            assert coarse / fine == pytest.approx(4.0, rel=0.03)


def test_matched_rates_of_a_constant_rate_are_exact_at_any_interval() -> None:
    world = known_world(lambda z, a: 0 * z + 2, lambda z, a: 0 * z - 3, n_members=1)
    for dt in (0.01, 0.5):
        obs = torch.tensor([1.0, 1.0 + 2 * dt], dtype=torch.float64).reshape(1, 1, 2, 1)
        seconds = torch.tensor([[[dt]]], dtype=torch.float64)
        losses = derivative_losses(world, segment(seconds, obs, -3 * seconds))
        assert float(losses.total()) == pytest.approx(0.0, abs=1e-20)


def test_matched_rates_measure_the_error_in_spreads_of_the_rate() -> None:
    world = known_world(zero, zero, n_members=1)
    world.dynamics.out_spread.fill_(4.0)
    world.reward.out_spread.fill_(5.0)
    obs = torch.tensor([0.0, 0.2], dtype=torch.float64).reshape(1, 1, 2, 1)  # a rate of 2 per second
    dt = torch.tensor([[[0.1]]], dtype=torch.float64)
    losses = derivative_losses(world, segment(dt, obs, 0.02 * torch.ones_like(dt)))
    assert float(losses.dynamics) == pytest.approx(0.5 * (2 / 4) ** 2)
    assert float(losses.reward) == pytest.approx(0.5 * (0.2 / 5) ** 2)
