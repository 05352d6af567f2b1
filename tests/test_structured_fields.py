"""Fields that know mechanics: exact velocities, conserved energies, passivity, and that they learn."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ode_rl.buffer import ReplayBuffer
from ode_rl.errors import UsageError
from ode_rl.fields.derivatives import forward
from ode_rl.fields.lagrangian import LagrangianField
from ode_rl.fields.mechanics import MechanicalField
from ode_rl.fields.nominal import NominalResidualField
from ode_rl.fields.observed import STRUCTURES, ObservedField, observed_field
from ode_rl.fields.port_hamiltonian import PortHamiltonianField
from ode_rl.fields.second_order import SecondOrderField
from ode_rl.fit import FitConfig, fit
from ode_rl.integrate import integrate
from ode_rl.normalize import Scale
from ode_rl.state import STATE_SPECS, Layout
from ode_rl.types import Solver, Transition
from ode_rl.world_model import WorldModel, WorldModelConfig

pytestmark = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")

F64 = torch.float64
PENDULUM = Layout(n_angle=1)
# A cart, two links, a heading without position, and two others, the second constant.
ROBOT = Layout(n_position=1, n_angle=2, n_free=1, n_rest=2, constant=(1,))
E, N, A = 2, 5, 2
Field = SecondOrderField | LagrangianField | PortHamiltonianField | NominalResidualField


def known(z: Tensor, a: Tensor) -> Tensor:
    """``dq/dt = v`` and nothing else, for `ROBOT`."""
    return torch.cat([z[..., 3:6], torch.sin(z[..., :1]) * a[..., :1], 0.0 * z[..., :5]], -1)


def make(kind: str, layout: Layout = ROBOT, n_action: int = A, damped: bool = True) -> Field:
    g, hidden = torch.Generator().manual_seed(0), (16, 16)
    if kind == "second-order":
        return SecondOrderField(E, layout, n_action, hidden, g)
    if kind == "nominal-residual":
        return NominalResidualField(known, E, layout, n_action, hidden, g)
    if kind == "lagrangian":
        return LagrangianField(E, layout, n_action, hidden, g, damped)
    return PortHamiltonianField(E, layout, n_action, hidden, g, damped)


def grown(kind: str, damped: bool = True) -> Field:
    """A field in double precision whose weights, scales and state are far from where they start."""
    field = make(kind, damped=damped).to(F64)
    g = torch.Generator().manual_seed(5)
    field.rescale(some_scale(1), some_scale(2), keep_function=False)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=g, dtype=F64))
    return field


def some_scale(seed: int, layout: Layout = ROBOT) -> Scale:
    g = torch.Generator().manual_seed(seed)
    n = layout.n_state
    return Scale(torch.randn(n, generator=g, dtype=F64), 0.5 + torch.rand(n, generator=g, dtype=F64))


def some_state(layout: Layout = ROBOT, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(E, N, layout.n_state, generator=g, dtype=F64)
    return z, 2 * torch.rand(E, N, A, generator=g, dtype=F64) - 1


def mechanical(kind: str, damped: bool) -> MechanicalField:
    field = grown(kind, damped)
    assert isinstance(field, MechanicalField)
    return field


# -- what all of them promise -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STRUCTURES)
def test_positions_move_by_their_velocities_exactly_and_constants_not_at_all(kind: str) -> None:
    z, a = some_state()
    dz = grown(kind)(z, a).detach()
    assert dz.shape == z.shape
    assert torch.equal(dz[..., :3], z[..., 3:6])
    assert float(dz[..., -1].abs().max()) == 0.0
    assert float(dz[..., 3:-1].abs().amax((0, 1)).min()) > 0.0


@pytest.mark.parametrize("kind", STRUCTURES)
def test_angles_wrap(kind: str) -> None:
    field = grown(kind)
    z, a = some_state()
    turned = z.clone()
    turned[..., 1:3] += torch.tensor([2 * math.pi, -4 * math.pi], dtype=F64)
    assert torch.allclose(field(turned, a), field(z, a), atol=1e-9)
    turned[..., 1] += 1.0
    assert not torch.allclose(field(turned, a), field(z, a), atol=1e-3)


@pytest.mark.parametrize("kind", STRUCTURES)
def test_planning_in_inference_mode_and_fitting_see_the_same_field(kind: str) -> None:
    field = grown(kind)
    z, a = some_state()
    plan = torch.stack([a, -a, 0.5 * a], 2)
    with torch.inference_mode():
        planned = [held(z) for held in field.hold_plan(plan)]
    for k, rate in enumerate(planned):
        assert torch.allclose(rate, field.hold(plan[:, :, k])(z))
        assert torch.allclose(rate, field(z, plan[:, :, k]))


@pytest.mark.parametrize("kind", STRUCTURES)
def test_members_do_not_see_each_other(kind: str) -> None:
    field = grown(kind)
    z, a = some_state()
    before = field(z, a)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter[1] += 1.0
    after = field(z, a)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


@pytest.mark.parametrize("kind", STRUCTURES)
def test_new_scales_keep_the_function(kind: str) -> None:
    field = grown(kind)
    z, a = some_state()
    before = field(z, a)
    field.rescale(some_scale(7), some_scale(8))
    assert torch.allclose(field(z, a), before, atol=1e-9)
    assert torch.equal(field.out_spread[:-1], some_scale(8).spread[:-1])


@pytest.mark.parametrize("kind", STRUCTURES)
def test_the_adjoint_misses_no_gradient(kind: str) -> None:
    field = grown(kind)
    z, a = some_state()
    a.requires_grad_()
    wanted = [a, *field.parameters()]
    found = []
    for adjoint in (False, True):
        solver = Solver("dopri5", rtol=1e-9, atol=1e-11, adjoint=adjoint)
        end = integrate(field, z, a, 0.2, solver, strict=True)
        found.append(torch.autograd.grad(end.z.square().sum(), wanted, allow_unused=True))
    for direct, adjoint_gradient in zip(*found, strict=True):
        assert direct is not None
        assert torch.allclose(direct, adjoint_gradient, rtol=1e-5, atol=1e-6 * float(direct.abs().max()))


@pytest.mark.parametrize("kind", STRUCTURES)
def test_the_semi_implicit_method_runs_on_all_and_converges(kind: str) -> None:
    field = grown(kind)
    z, a = some_state()
    want = integrate(field, z, a, 0.1, Solver("rk4", max_step=0.005)).z
    errors = [
        float((integrate(field, z, a, 0.1, Solver("semi_implicit", max_step=h)).z - want).detach().norm())
        for h in (0.01, 0.005)
    ]
    assert errors[0] / errors[1] == pytest.approx(2.0, abs=0.3)


def test_a_state_of_the_wrong_rank_or_width_is_refused() -> None:
    field = make("lagrangian")
    z, a = (x.float() for x in some_state())
    for bad_z, bad_a in ((z[0], a[0]), (z[..., :-1], a), (z, a[..., :1]), (z[:1], a[:1])):
        with pytest.raises(UsageError, match="expected"):
            integrate(field, bad_z, bad_a, 0.1, Solver())


# -- mechanics ----------------------------------------------------------------------------------------


def test_hand_written_derivatives_are_those_of_autograd() -> None:
    g = torch.Generator().manual_seed(0)
    widths = (3, 7, 6, 4)
    layers = [
        (torch.randn(E, i, o, generator=g, dtype=F64), torch.randn(E, 1, o, generator=g, dtype=F64))
        for i, o in pairwise(widths)
    ]
    x, dx = (torch.randn(E, N, 3, generator=g, dtype=F64) for _ in range(2))
    by_out = torch.randn(E, N, 4, generator=g, dtype=F64)
    run = lambda x: forward(layers, x).out  # noqa: E731
    seen = forward(layers, x)
    assert torch.allclose(seen.push(dx), torch.autograd.functional.jvp(run, x, dx)[1])
    assert torch.allclose(seen.pull(by_out), torch.autograd.functional.vjp(run, x, by_out)[1])


@pytest.mark.parametrize("kind", ["lagrangian", "port-hamiltonian"])
def test_the_mass_matrix_is_symmetric_and_positive_definite(kind: str) -> None:
    m = mechanical(kind, True).mass_matrix(some_state()[0]).detach()
    assert m.shape == (E, N, 4, 4)
    assert torch.allclose(m, m.mT)
    assert float(torch.linalg.eigvalsh(m).min()) > 0.0
    assert float(m.std(1).max()) > 0.01  # it depends on where the robot is


def test_a_lagrangian_field_solves_the_equations_of_euler_and_lagrange() -> None:
    field = mechanical("lagrangian", damped=False)
    state, _ = some_state()
    rest = state[..., 7:]

    def lagrangian(q: Tensor, v: Tensor) -> Tensor:
        z = torch.cat([q, v, rest], -1)
        rest_energy = field.energy(torch.cat([q, torch.zeros_like(v), rest], -1))  # V
        return field.energy(z) - 2 * rest_energy

    q, v = state[..., :3].requires_grad_(), state[..., 3:7].requires_grad_()
    by_q, momentum = torch.autograd.grad(lagrangian(q, v).sum(), (q, v), create_graph=True)
    dv = field(torch.cat([q, v, rest], -1), torch.zeros(E, N, A, dtype=F64))[..., 3:7]
    for j in range(4):  # d/dt of each momentum, by the chain rule
        dp_q, dp_v = torch.autograd.grad(momentum[..., j].sum(), (q, v), retain_graph=True)
        change = (dp_q * v[..., :3]).sum(-1) + (dp_v * dv).sum(-1)
        force = by_q[..., j] if j < 3 else torch.zeros_like(change)
        assert torch.allclose(change, force, atol=1e-8)


def energies(field: MechanicalField, max_step: float) -> Tensor:
    z, a = some_state()
    seen = [field.energy(z)]
    for _ in range(20):
        z = integrate(field, z, 0 * a, 0.05, Solver("rk4", max_step=max_step), strict=True).z.detach()
        seen.append(field.energy(z))
    return torch.stack(seen).detach()


@pytest.mark.parametrize("kind", ["lagrangian", "port-hamiltonian"])
def test_without_friction_and_action_rk4_conserves_the_energy(kind: str) -> None:
    field = mechanical(kind, damped=False)
    drift = [float((e - e[0]).abs().max()) for e in (energies(field, 0.005), energies(field, 0.0025))]
    assert drift[0] < 1e-4
    assert drift[1] < drift[0] / 8  # what is lost is the solver's: it falls with the fourth power


@pytest.mark.parametrize("kind", ["lagrangian", "port-hamiltonian"])
def test_friction_only_takes_energy(kind: str) -> None:
    e = energies(mechanical(kind, damped=True), 0.005)
    assert float((e[1:] - e[:-1]).max()) < 1e-7
    assert float((e[0] - e[-1]).min()) > 1e-3


@pytest.mark.parametrize("damped", [False, True])
def test_a_port_hamiltonian_field_is_passive(damped: bool) -> None:
    field = mechanical("port-hamiltonian", damped)
    assert isinstance(field, PortHamiltonianField)
    z, a = some_state()
    z.requires_grad_()
    (by_z,) = torch.autograd.grad(field.energy(z).sum(), z)
    gained = (by_z * field(z, a)).sum(-1)
    supplied = (field.output(z) * a).sum(-1)
    assert float((gained - supplied).max()) < 1e-9
    if damped:
        assert float((gained - supplied).max()) < -1e-4
    else:
        assert torch.allclose(gained, supplied, atol=1e-9)


@pytest.mark.parametrize("kind", ["lagrangian", "port-hamiltonian"])
def test_mechanics_without_positions_is_refused(kind: str) -> None:
    with pytest.raises(UsageError, match="positions"):
        make(kind, Layout(n_free=2, n_rest=1))


# -- learning -----------------------------------------------------------------------------------------


def pendulum_rate(z: Tensor, a: Tensor) -> Tensor:
    """A damped pendulum with a torque."""
    q, v = z[..., :1], z[..., 1:]
    return torch.cat([v, -15.0 * torch.sin(q) - 0.5 * v + 6.0 * a], -1)


def no_gravity(z: Tensor, a: Tensor) -> Tensor:
    """What a first guess at the pendulum may be: a torque on twice the mass."""
    return torch.cat([z[..., 1:], 3.0 * a], -1)


def pendulum_samples(n: int, seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    q, v = 4 * torch.randn(E, n, 1, generator=g), 5 * torch.randn(E, n, 1, generator=g)
    return torch.cat([q, v], -1), 2 * torch.rand(E, n, 1, generator=g) - 1


def learn(field: nn.Module, rate: Callable[[Tensor, Tensor], Tensor], steps: int) -> float:
    """Fit accelerations at 100 states a member; the share of their variance explained at new ones."""
    z, a = pendulum_samples(100, 0)
    dz = rate(z, a)
    out = Scale(torch.zeros(2), dz.flatten(0, 1).std(0))
    field.rescale(Scale.of(z.flatten(0, 1)), out, keep_function=False)  # type: ignore[operator]
    optimiser = torch.optim.Adam(field.parameters(), 1e-2)
    for _ in range(steps):
        loss = ((field(z, a) - dz) / out.spread).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return explained(field, rate)


def explained(field: Callable[[Tensor, Tensor], Tensor], rate: Callable[[Tensor, Tensor], Tensor]) -> float:
    z, a = pendulum_samples(1000, 1)
    with torch.inference_mode():
        want, got = rate(z, a)[..., 1], field(z, a)[..., 1]
    return float(1 - (got - want).square().mean() / want.var())


@pytest.mark.parametrize("kind", ["second-order", "lagrangian", "port-hamiltonian"])
def test_a_pendulum_is_learned_from_a_hundred_samples(kind: str) -> None:
    field = make(kind, PENDULUM, n_action=1)
    assert explained(field, pendulum_rate) < 0.2
    assert learn(field, pendulum_rate, 200) > 0.97


def test_a_residual_field_starts_at_its_nominal_field_and_learns_the_rest() -> None:
    g = torch.Generator().manual_seed(0)
    field = NominalResidualField(no_gravity, E, PENDULUM, 1, (16, 16), g)
    z, a = pendulum_samples(10, 3)
    assert torch.equal(field(z, a), no_gravity(z, a))
    assert explained(field, pendulum_rate) < 0.5
    assert learn(field, pendulum_rate, 200) > 0.97


def test_the_parameters_of_a_nominal_field_are_fitted_with_it() -> None:
    class Cart(nn.Module):
        """``m x'' = a - x``, with the mass wrong by a half."""

        def __init__(self) -> None:
            super().__init__()
            self.mass = nn.Parameter(torch.tensor(3.0))

        def forward(self, z: Tensor, a: Tensor) -> Tensor:
            return torch.cat([z[..., 1:], (a - z[..., :1]) / self.mass], -1)

    cart, g = Cart(), torch.Generator().manual_seed(0)
    field = NominalResidualField(cart, E, Layout(n_position=1), 1, (8,), g)
    for parameter in field.net.parameters():
        parameter.requires_grad_(False)
    true = Cart()
    true.mass.data.fill_(2.0)
    learn(field, lambda z, a: true(z, a).detach(), 300)
    assert float(cart.mass) == pytest.approx(2.0, rel=0.02)


# -- observations -------------------------------------------------------------------------------------


def observed(structure: str) -> ObservedField:
    g = torch.Generator().manual_seed(0)
    nominal = no_gravity if structure == "nominal-residual" else None
    return observed_field(structure, STATE_SPECS["Pendulum-v1"], E, 1, (16, 16), g, nominal)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_roll_out_of_observations_stays_on_the_circle_and_follows_the_rate(structure: str) -> None:
    field = observed(structure)
    z, a = pendulum_samples(N, 0)
    obs = field.spec.decode(z)
    end = integrate(field, obs, a, 0.3, Solver("midpoint")).z
    assert torch.allclose(end[..., :2].square().sum(-1), torch.ones(E, N), atol=1e-5)
    inner = integrate(field.inner, z, a, 0.3, Solver("midpoint")).z
    assert torch.allclose(end, field.spec.decode(inner), atol=1e-4)
    soon = integrate(field, obs, a, 1e-2, Solver("rk4")).z
    assert torch.allclose((soon - obs) / 1e-2, field(0.5 * (obs + soon), a), atol=0.05)


def pendulum_buffer(n: int) -> ReplayBuffer:
    buffer = ReplayBuffer(n, 3, 1)
    spec, rng = STATE_SPECS["Pendulum-v1"], np.random.default_rng(0)
    z = torch.tensor([[[1.0, 0.0]]])
    for i in range(n):
        action = rng.uniform(-1, 1, 1).astype(np.float32)
        after = integrate(pendulum_rate, z, torch.tensor(action)[None, None], 0.05, Solver("rk4")).z
        obs, next_obs = (spec.decode(x)[0, 0].numpy() for x in (z, after))
        buffer.add(Transition(obs, action, float(obs[0]) * 0.05, next_obs, 0.05, False, i % 50 == 49))
        z = torch.tensor(rng.normal(0, [[[2.0, 3.0]]]), dtype=torch.float32) if i % 50 == 49 else after
    return buffer


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_world_model_is_fitted_with_a_structured_field_as_with_a_plain_one(structure: str) -> None:
    config = WorldModelConfig(n_members=E, hidden=(16, 16), head_hidden=(8,), solver=Solver("midpoint"))
    model = WorldModel(3, 1, 0.05, config, torch.Generator().manual_seed(0))
    model.dynamics = observed(structure)
    buffer = pendulum_buffer(400)
    settings = FitConfig(updates=120, warm_start_updates=120, batch_size=32, segment_length=3)
    fit(model, buffer, settings, np.random.default_rng(0), "cpu")
    segment = buffer.segments(np.broadcast_to(buffer.serials()[:40], (E, 40)), 5)
    with torch.inference_mode():
        *_, last = model.roll(segment.obs[:, :, 0], segment.action, segment.dt)
    error = (last.z - segment.obs[:, :, 5]).square().mean()
    stays = (segment.obs[:, :, 0] - segment.obs[:, :, 5]).square().mean()
    assert float(error) < 0.03 * float(stays)
    # A later fit takes new scales and goes on from what it knows.
    fit(model, buffer, FitConfig(updates=1), np.random.default_rng(0), "cpu")
    with torch.inference_mode():
        *_, again = model.roll(segment.obs[:, :, 0], segment.action, segment.dt)
    assert float((again.z - last.z).abs().max()) < 0.2


def test_unknown_structures_and_nominal_fields_in_the_wrong_place_are_refused() -> None:
    spec, g = STATE_SPECS["Pendulum-v1"], torch.Generator()
    with pytest.raises(UsageError, match="a structure among second-order"):
        observed_field("hamiltonian", spec, E, 1, (8,), g)
    with pytest.raises(UsageError, match="nominal"):
        observed_field("nominal-residual", spec, E, 1, (8,), g)
    with pytest.raises(UsageError, match="nominal"):
        observed_field("lagrangian", spec, E, 1, (8,), g, nominal=no_gravity)
