"""The ensemble of perceptrons: many networks in one tensor are still many networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ode_rl.ensemble import EnsembleMLP


def net(hidden: tuple[int, ...] = (7, 6), seed: int = 0) -> EnsembleMLP:
    made = EnsembleMLP(3, 4, hidden, 2, torch.Generator().manual_seed(seed)).double()
    for bias in made.biases:  # zero at the start, which would hide a bias that is never added
        torch.nn.init.normal_(bias, generator=torch.Generator().manual_seed(9))
    return made


def by_hand(weights: list[Tensor], biases: list[Tensor], x: Tensor) -> Tensor:
    """One perceptron, one row at a time."""
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        if i:
            x = x / (1 + torch.exp(-x))
        x = torch.stack([torch.stack([(row * w[:, j]).sum() + b[j] for j in range(len(b))]) for row in x])
    return x


@pytest.mark.parametrize("hidden", [(), (5,), (7, 6)])
def test_each_member_is_the_perceptron_written_by_hand(hidden: tuple[int, ...]) -> None:
    ensemble = net(hidden)
    x = torch.randn(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    out = ensemble(x)
    assert out.shape == (3, 5, 2)
    for e in range(3):
        single = by_hand([w[e] for w in ensemble.weights], [b[e, 0] for b in ensemble.biases], x[e])
        torch.testing.assert_close(out[e], single)


def test_the_output_of_a_member_depends_on_its_own_weights_alone() -> None:
    ensemble = net()
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    ensemble(x)[1].square().sum().backward()
    for parameter in ensemble.parameters():
        assert parameter.grad is not None
        touched = parameter.grad.flatten(1).abs().sum(1) > 0
        assert touched.tolist() == [False, True, False]


def test_members_start_different_and_the_same_generator_gives_the_same_ensemble() -> None:
    one, again, other = net(seed=0), net(seed=0), net(seed=1)
    for w, v, u in zip(one.weights, again.weights, other.weights, strict=True):
        assert torch.equal(w, v)
        assert not torch.equal(w, u)
        assert not torch.equal(w[0], w[1])


def test_first_weights_have_the_spread_of_their_fan_in_and_the_last_layer_is_small() -> None:
    ensemble = EnsembleMLP(50, 40, (60,), 10, torch.Generator().manual_seed(0), out_gain=0.1)
    first, last = (w.detach() for w in ensemble.weights)
    assert math.isclose(float(first.std()), 1 / math.sqrt(40), rel_tol=0.02)
    assert math.isclose(float(last.std()), 0.1 / math.sqrt(60), rel_tol=0.02)
    assert ensemble.n_members == 50
