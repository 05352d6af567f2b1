"""The neural vector field: one perceptron a member, in the units of the task, however it is evaluated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ode_rl.fields import MLPField
from ode_rl.integrate import integrate
from ode_rl.normalize import Scale
from ode_rl.types import Solver

E, N, Z, A, D = 3, 5, 4, 2, 4


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scale(width: int, seed: int) -> Scale:
    return Scale(3 * tensor(width, seed=seed), tensor(width, seed=seed + 1).abs() + 0.3)


def field(n_action: int = A) -> MLPField:
    """A field with odd scales and no zero bias."""
    made = MLPField(E, Z, n_action, D, (8, 6), torch.Generator().manual_seed(0)).double()
    for i, bias in enumerate(made.net.biases):
        with torch.no_grad():
            bias.copy_(tensor(*bias.shape, seed=20 + i))
    made.rescale(scale(Z, 30), scale(D, 40), keep_function=False)
    return made


def test_each_member_is_its_own_perceptron_of_normalised_states_and_scaled_actions() -> None:
    f, z, a = field(), tensor(E, N, Z, seed=1), tensor(E, N, A, seed=2)
    out = f(z, a)
    for e in range(E):
        x = torch.cat([(z[e] - f.z_mean) / f.z_spread, a[e]], -1)
        for i, (w, b) in enumerate(zip(f.net.weights, f.net.biases, strict=True)):
            x = (F.silu(x) if i else x) @ w[e] + b[e]
        torch.testing.assert_close(out[e], f.out_mean + f.out_spread * x)


def test_the_output_of_a_member_depends_on_its_own_weights_and_rows_alone() -> None:
    f, z, a = field(), tensor(E, N, Z, seed=1).requires_grad_(), tensor(E, N, A, seed=2).requires_grad_()
    f(z, a)[2, 3].sum().backward()
    for parameter in f.parameters():
        assert parameter.grad is not None
        assert (parameter.grad.flatten(1).abs().sum(1) > 0).tolist() == [False, False, True]
    for given in (z, a):
        assert given.grad is not None
        assert given.grad.abs().sum(-1).nonzero().tolist() == [[2, 3]]


def test_a_field_that_holds_an_action_is_the_field_at_that_action() -> None:
    f, a = field(), tensor(E, N, A, seed=2)
    held = f.hold(a)
    for seed in (1, 5):
        torch.testing.assert_close(held(tensor(E, N, Z, seed=seed)), f(tensor(E, N, Z, seed=seed), a))


@pytest.mark.parametrize("n_action", [0, 1, A])
def test_a_held_plan_is_its_actions_held_one_by_one(n_action: int) -> None:
    f, plan = field(n_action), tensor(E, N, 4, n_action, seed=3)
    flows = f.hold_plan(plan)
    assert len(flows) == 4
    for k, flow in enumerate(flows):
        z = tensor(E, N, Z, seed=10 + k)
        torch.testing.assert_close(flow(z), f(z, plan[:, :, k]))


def test_the_adjoint_gives_the_same_gradient_as_back_propagation_through_the_solver() -> None:
    f, z = field(), tensor(E, N, Z, seed=1).requires_grad_()
    a, dt = (
        tensor(E, N, A, seed=2).requires_grad_(),
        torch.full((E, N), 0.3, dtype=torch.float64).requires_grad_(),
    )

    def gradient(adjoint: bool) -> tuple[Tensor, ...]:
        solver = Solver("dopri5", rtol=1e-9, atol=1e-10, adjoint=adjoint)
        end = integrate(f, z, a, dt, solver)
        return torch.autograd.grad(end.z.square().sum(), [z, a, dt, *f.parameters()])

    for plain, by_adjoint in zip(gradient(False), gradient(True), strict=True):
        torch.testing.assert_close(by_adjoint, plain, rtol=1e-5, atol=1e-6)


def test_new_scales_keep_the_function_that_was_learned() -> None:
    f, z, a = field(), tensor(E, N, Z, seed=1), tensor(E, N, A, seed=2)
    before = f(z, a)
    f.rescale(scale(Z, 50), scale(D, 60))
    torch.testing.assert_close(f(z, a), before)
    assert torch.equal(f.z_mean, scale(Z, 50).mean)
    assert torch.equal(f.out_spread, scale(D, 60).spread)


def test_new_scales_keep_the_function_in_single_precision_over_many_fits() -> None:
    f, z, a = field().float(), tensor(E, N, Z, seed=1).float(), tensor(E, N, A, seed=2).float()
    before = f(z, a)
    for seed in range(100, 200):
        f.rescale(Scale(*(x.float() for x in scale(Z, seed))), Scale(*(x.float() for x in scale(D, seed))))
    torch.testing.assert_close(f(z, a), before, rtol=1e-3, atol=1e-3)


def test_without_keeping_the_function_the_weights_stay_and_the_function_follows_the_scales() -> None:
    f, z, a = field(), tensor(E, N, Z, seed=1), tensor(E, N, A, seed=2)
    weights = [w.detach().clone() for w in f.parameters()]
    normal = (z - f.z_mean) / f.z_spread
    before = (f(z, a) - f.out_mean) / f.out_spread
    f.rescale(scale(Z, 50), scale(D, 60), keep_function=False)
    assert all(torch.equal(w, v) for w, v in zip(f.parameters(), weights, strict=True))
    after = f(f.z_mean + f.z_spread * normal, a)
    torch.testing.assert_close((after - f.out_mean) / f.out_spread, before)


@pytest.mark.parametrize("keep_function", [False, True])
def test_a_dimension_without_spread_is_exactly_constant(keep_function: bool) -> None:
    f = field()
    out = Scale(torch.zeros(D), torch.tensor([1.0, 0.0, 2.0, 0.0]))
    f.rescale(Scale.unit(Z), out, keep_function)
    z = tensor(E, N, Z, seed=1)
    end = integrate(f, z, tensor(E, N, A, seed=2), 0.3, Solver("rk4")).z
    assert torch.equal(end[..., [1, 3]], z[..., [1, 3]])
    assert bool((end[..., [0, 2]] != z[..., [0, 2]]).all())


def test_a_dimension_that_begins_to_move_begins_at_rest_and_can_be_learned() -> None:
    f, z, a = field(), tensor(E, N, Z, seed=1), tensor(E, N, A, seed=2)
    f.rescale(Scale.unit(Z), Scale(torch.zeros(D), torch.tensor([1.0, 0.0, 2.0, 1.0])))
    before = f(z, a)
    f.rescale(Scale.unit(Z), Scale(torch.zeros(D), torch.tensor([1.0, 0.5, 2.0, 1.0])))
    after = f(z, a)
    torch.testing.assert_close(after, before)
    assert bool((after[..., 1] == 0).all())
    after[..., 1].sum().backward()
    last = f.net.weights[-1].grad
    assert last is not None
    assert bool((last[..., 1] != 0).any())


def test_scales_of_data_are_its_mean_and_deviation_and_a_constant_dimension_has_spread_one() -> None:
    x = torch.tensor([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0]])
    mean, spread = Scale.of(x)
    assert mean.tolist() == [2.0, 5.0]
    torch.testing.assert_close(spread, torch.tensor([(8 / 3) ** 0.5, 1.0]))
