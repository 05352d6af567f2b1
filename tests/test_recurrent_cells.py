"""Continuous-time cells: hand-computed steps, flows that compose, order, sequences, gradients."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from ode_rl.agents.cfc import CfCCell
from ode_rl.agents.gru_ode import GRUODECell
from ode_rl.agents.recurrence import Recurrence
from ode_rl.errors import UsageError


def constant(layer: nn.Module, *values: float) -> None:
    """Let a linear layer answer `values`, whatever it is asked."""
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor(values))


def random_cell(n_substeps: int = 1, seed: int = 0) -> GRUODECell:
    torch.manual_seed(seed)
    return GRUODECell(3, 8, n_substeps).double()


def hidden_states(n: int = 5) -> Tensor:
    return torch.rand(n, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 1.8 - 0.9


# --- closed-form continuous-time cell ----------------------------------------------------------------------


def test_a_cfc_step_is_that_of_a_pencil() -> None:
    pytest.importorskip("ncps")
    cell = CfCCell(1, 1, backbone_layers=0)
    for name, value in {"ff1": 0.5, "ff2": -1.0, "time_a": 2.0, "time_b": -0.25}.items():
        constant(getattr(cell.closed, name), value)
    for time in (0.0, 0.5, 3.0):
        share = 1 / (1 + math.exp(-(2.0 * time - 0.25)))
        expected = (1 - share) * math.tanh(0.5) + share * math.tanh(-1.0)
        found = cell(torch.ones(1, 1), torch.ones(1, 1), torch.full((1, 1), time))
        assert found.item() == pytest.approx(expected, abs=1e-6)


def test_each_row_of_a_cfc_batch_has_its_own_time() -> None:
    pytest.importorskip("ncps")
    torch.manual_seed(0)
    cell = CfCCell(3, 8)
    x, h, time = torch.randn(4, 3), torch.randn(4, 8), torch.tensor([[0.0], [0.3], [1.0], [9.0]])
    rows = [cell(x[i : i + 1], h[i : i + 1], time[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(cell(x, h, time), torch.cat(rows))


def test_an_unknown_mode_of_the_cfc_cell_is_refused() -> None:
    with pytest.raises(UsageError, match="no_gate"):
        CfCCell(1, 1, mode="fast")


# --- gated unit with a flow --------------------------------------------------------------------------------


def test_with_constant_gates_the_flow_is_an_exponential_decay_to_its_aim() -> None:
    cell = GRUODECell(1, 1).double()
    constant(cell.gates, 1.0, 0.0)
    constant(cell.candidate, 0.7)
    rate, aim = 1 - 1 / (1 + math.exp(-1.0)), math.tanh(0.7)
    for time in (0.0, 0.1, 2.0, 50.0):
        expected = aim + (0.2 - aim) * math.exp(-rate * time)
        found = cell.flow(torch.full((1, 1), 0.2).double(), torch.full((1, 1), time).double())
        assert found.item() == pytest.approx(expected, abs=1e-7)


def test_where_the_flow_is_exact_two_halves_are_the_whole() -> None:
    cell = random_cell()
    with torch.no_grad():
        for layer in (cell.gates, cell.candidate):
            layer.weight.zero_()
    h, time = hidden_states(), torch.full((5, 1), 1.3, dtype=torch.float64)
    torch.testing.assert_close(cell.flow(cell.flow(h, time / 2), time / 2), cell.flow(h, time))


def test_two_halves_in_one_substep_each_are_the_whole_in_two() -> None:
    once, twice = random_cell(1), random_cell(2)
    h, time = hidden_states(), torch.full((5, 1), 1.3, dtype=torch.float64)
    torch.testing.assert_close(once.flow(once.flow(h, time / 2), time / 2), twice.flow(h, time))


def test_the_flow_is_of_second_order_towards_the_solution_of_its_equation() -> None:
    from torchdiffeq import odeint

    cell = random_cell()

    def rate(_: Tensor, h: Tensor) -> Tensor:
        keep, reset = torch.sigmoid(cell.gates(h)).chunk(2, -1)
        return (1 - keep) * (torch.tanh(cell.candidate(reset * h)) - h)

    h = hidden_states()
    with torch.no_grad():
        for layer in (cell.gates, cell.candidate):
            layer.weight.mul_(3.0)  # so that the gates change on the way
        exact = odeint(rate, h, torch.tensor([0.0, 2.0]).double(), rtol=1e-10, atol=1e-12)[-1]
        errors = []
        for cell.n_substeps in (4, 8, 16):
            found = cell.flow(h, torch.full((5, 1), 2.0).double())
            errors.append(float((found - exact).abs().max()))
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert orders == pytest.approx([2, 2], abs=0.25)


def test_no_time_is_no_flow_and_any_pause_leaves_the_state_within_one() -> None:
    cell, h = random_cell(), hidden_states()
    with torch.no_grad():
        cell.gates.weight.mul_(20.0)
        cell.candidate.weight.mul_(20.0)
    torch.testing.assert_close(cell.flow(h, torch.zeros(5, 1).double()), h)
    assert bool((cell.flow(h, torch.full((5, 1), 1e4).double()).abs() <= 1).all())


def test_the_step_of_an_observation_is_that_of_a_gru() -> None:
    cell, h = random_cell(), hidden_states()
    x, time = torch.randn(5, 3).double(), torch.full((5, 1), 0.4).double()
    torch.testing.assert_close(cell(x, h, time), cell.jump(x, cell.flow(h, time)))


def test_fewer_than_one_substep_is_refused() -> None:
    with pytest.raises(UsageError, match="n_substeps"):
        GRUODECell(1, 1, 0)


# --- along sequences ---------------------------------------------------------------------------------------


def test_a_batch_of_sequences_is_each_of_them_step_by_step() -> None:
    recurrence = Recurrence(random_cell(), 3, 8)
    x = torch.rand(6, 4, 3).double()
    h, c = hidden_states(4)[None], torch.rand(1, 4, 8).double()
    out, (end, unused) = recurrence(x, (h, c))
    assert out.shape == (6, 4, 8)
    torch.testing.assert_close(out[-1], end[0])
    assert unused is c
    for n in range(4):
        state = h[:, n : n + 1], c[:, n : n + 1]
        for step in range(6):
            one, state = recurrence(x[step : step + 1, n : n + 1], state)
            torch.testing.assert_close(one[0, 0], out[step, n])


def test_the_last_feature_is_the_time() -> None:
    recurrence = Recurrence(random_cell(), 3, 8)
    x, h = torch.rand(1, 2, 3).double(), hidden_states(2)
    found, _ = recurrence(x, (h[None], h[None]))
    torch.testing.assert_close(found[0], recurrence.cell(x[0], h, x[0, :, -1:]))


@pytest.mark.parametrize("kind", ["cfc", "gru-ode"])
def test_the_gradient_reaches_the_first_step_and_the_time_and_agrees_with_differences(kind: str) -> None:
    pytest.importorskip("ncps")
    torch.manual_seed(0)
    cell = (CfCCell(2, 3, backbone_units=4) if kind == "cfc" else GRUODECell(2, 3)).double()
    recurrence = Recurrence(cell, 2, 3)
    x = torch.rand(3, 1, 2).double().requires_grad_()
    zero = torch.zeros(1, 1, 3).double()
    assert torch.autograd.gradcheck(lambda x: recurrence(x, (zero, zero))[0][-1], x)
    recurrence(x, (zero, zero))[0][-1].sum().backward()
    assert x.grad is not None
    assert bool((x.grad[0].abs() > 0).all())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in cell.parameters())
