"""The gated recurrent field: equal to torch's own unit, with one memory along a plan and none beyond it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ode_rl.fields import GRUField
from ode_rl.normalize import Scale

E, N, Z, A, OUT, H = 3, 4, 2, 1, 2, 5
WIDTH, MEMORY = 6, 7
F64 = torch.float64


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def scale(seed: int, width: int = Z) -> Scale:
    return Scale(draw(width, seed=seed), 0.5 + draw(width, seed=seed + 1).abs())


def grown(n_members: int = E) -> GRUField:
    """A field whose weights and scales are far from where they start."""
    field = GRUField(n_members, Z, A, OUT, (WIDTH, 9, MEMORY), torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        for seed, parameter in enumerate(field.parameters()):
            parameter.add_(0.5 * draw(E, *parameter.shape[1:], seed=seed)[:n_members])
    field.rescale(scale(40), scale(50), keep_function=False)
    return field


def cell_of(field: GRUField, member: int) -> nn.GRUCell:
    """torch's unit with the weights of a member, which torch keeps in another order."""
    cell = nn.GRUCell(WIDTH, MEMORY).double()

    def in_its_order(w: Tensor) -> Tensor:
        u, r, n = w.chunk(3, -1)
        return torch.cat([r, u, n], -1)

    with torch.no_grad():
        cell.weight_ih.copy_(in_its_order(field.from_input[member]).T)
        cell.weight_hh.copy_(in_its_order(field.from_memory[member]).T)
        cell.bias_ih.copy_(in_its_order(field.bias[member, 0]))
        cell.bias_hh.zero_()
    return cell


def by_torch(field: GRUField, z: Tensor, a: Tensor) -> Tensor:
    """Rates ``[E, N, H, D]`` along ``z [E, N, H, Z]`` and ``a [E, N, H, A]``, member by member."""
    w, b = field.encode.net.weights[0], field.encode.net.biases[0]
    members = []
    for e in range(E):
        cell, h, rates = cell_of(field, e), torch.zeros(N, MEMORY, dtype=F64), []
        for k in range(z.shape[2]):
            seen = torch.cat([(z[e, :, k] - field.encode.z_mean) / field.encode.z_spread, a[e, :, k]], -1)
            h = cell(nn.functional.silu(seen @ w[e] + b[e]), h)
            out = h @ field.decode.net.weights[0][e] + field.decode.net.biases[0][e]
            rates.append(field.decode.out_mean + field.decode.out_spread * out)
        members.append(torch.stack(rates, 1))
    return torch.stack(members)


def along(field: GRUField, z: Tensor, a: Tensor) -> Tensor:
    return torch.stack([held(z[:, :, k]) for k, held in enumerate(field.hold_plan(a))], 2)


def test_a_plan_is_followed_as_torchs_unit_follows_it_member_by_member() -> None:
    field, z, a = grown(), draw(E, N, H, Z, seed=1), draw(E, N, H, A, seed=2)
    torch.testing.assert_close(along(field, z, a), by_torch(field, z, a))


def test_the_batched_field_equals_a_loop_over_its_members() -> None:
    field, z, a = grown(), draw(E, N, H, Z, seed=1), draw(E, N, H, A, seed=2)
    together = along(field, z, a)
    for e in range(E):
        alone = grown(1)
        own = {k: v if v.dim() < 3 else v[e : e + 1] for k, v in field.state_dict().items()}
        alone.load_state_dict(own)
        torch.testing.assert_close(along(alone, z[e : e + 1], a[e : e + 1])[0], together[e])


def test_a_held_action_and_a_call_begin_with_an_empty_memory() -> None:
    field, z, a = grown(), draw(E, N, Z, seed=1), draw(E, N, A, seed=2)
    first = by_torch(field, z.unsqueeze(2), a.unsqueeze(2))[:, :, 0]
    for _ in range(2):
        torch.testing.assert_close(field(z, a), first)
        torch.testing.assert_close(field.hold(a)(z), first)


def test_plans_share_no_memory_with_one_another() -> None:
    field, z, a = grown(), draw(E, N, H, Z, seed=1), draw(E, N, H, A, seed=2)
    one, other = field.hold_plan(a), field.hold_plan(a)
    crossed = [(one[k](z[:, :, k]), other[k](z[:, :, k])) for k in range(H)]  # in turns
    expected = along(field, z, a)
    for k, (mine, theirs) in enumerate(crossed):
        torch.testing.assert_close(mine, expected[:, :, k])
        torch.testing.assert_close(theirs, expected[:, :, k])


def test_a_rate_remembers_the_actions_before_it_and_none_that_follow() -> None:
    field, z = grown(), draw(E, N, H, Z, seed=1)
    a = draw(E, N, H, A, seed=2).requires_grad_()
    middle = along(field, z, a)[:, :, 2]
    (gradient,) = torch.autograd.grad(middle.sum(), a)
    assert (gradient.abs().sum((0, 1, 3)) > 0).tolist() == [True, True, True, False, False]
    assert int((gradient[:, :, 0].abs() > 0).sum()) == E * N  # through the memory alone


def test_rows_and_members_do_not_see_each_other() -> None:
    field, z, a = grown(), draw(E, N, H, Z, seed=1), draw(E, N, H, A, seed=2)
    before = along(field, z, a)
    moved = a.clone()
    moved[1, 2, 0] += 1
    changed = (along(field, z, moved) != before).flatten(2).any(-1)
    assert changed.nonzero().tolist() == [[1, 2]]


def test_new_scales_leave_the_function_as_it_was() -> None:
    field, z, a = grown(), draw(E, N, H, Z, seed=1), draw(E, N, H, A, seed=2)
    before = along(field, z, a)
    field.rescale(scale(60), scale(70))
    torch.testing.assert_close(along(field, z, a), before)
    field.rescale(scale(80), scale(90), keep_function=False)
    assert not torch.allclose(along(field, z, a), before)


def test_a_dimension_without_spread_has_exactly_its_mean_rate() -> None:
    field, z, a = grown(), draw(E, N, H, Z, seed=1), draw(E, N, H, A, seed=2)
    constant = Scale(torch.tensor([0.0, 0.3], dtype=F64), torch.tensor([0.0, 2.0], dtype=F64))
    field.rescale(scale(60), constant)
    rates = along(field, z, a)
    assert bool((rates[..., 0] == 0).all())
    assert bool((rates[..., 1] != 0.3).all())


def test_what_a_held_field_depends_on_is_all_said() -> None:
    field, z, a = grown(), draw(E, N, Z, seed=1), draw(E, N, A, seed=2).requires_grad_()
    held = field.hold(a)
    gradients = torch.autograd.grad(held(z).sum(), held.tensors, allow_unused=True)
    # From an empty memory, its weights have no say.
    assert [g is None or not bool(g.any()) for g in gradients].count(True) == 1
    said = {id(t) for t in held.tensors}
    own = [*field.decode.parameters(), field.from_input, field.from_memory, field.bias]
    assert all(id(p) in said for p in own)
