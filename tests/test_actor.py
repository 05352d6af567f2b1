"""Actors: what they see, and the hidden state that flows between observations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ode_rl.agents.actor import MLPActor, ODEActor, make_actor
from ode_rl.errors import UsageError
from ode_rl.normalize import Scale

N_OBS, A, M = 3, 2, 5
INTERVAL = 0.1


def actor(kind: str, seed: int = 0) -> MLPActor | ODEActor:
    made = make_actor(kind, N_OBS, A, (16, 16), M, INTERVAL, torch.Generator().manual_seed(seed)).double()
    with torch.no_grad():  # an untrained actor hardly acts
        for i, p in enumerate(made.parameters()):
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i), dtype=p.dtype))
    return made


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", ["mlp", "ode"])
def test_rows_of_any_leading_shape_are_acted_on_one_by_one(kind: str) -> None:
    made = actor(kind)
    z, memory = draw(4, 6, N_OBS), draw(4, 6, made.n_memory, seed=2)
    dt = 0.05 + 0.1 * torch.rand(4, 6, generator=torch.Generator().manual_seed(3)).double()
    action, after = made(z, dt, memory)
    assert action.shape == (4, 6, A)
    assert after.shape == (4, 6, made.n_memory)
    assert float(action.detach().abs().max()) <= 1
    one, one_after = made(z[2, 3], dt[2, 3], memory[2, 3])
    torch.testing.assert_close(action[2, 3], one)
    torch.testing.assert_close(after[2, 3], one_after)


@pytest.mark.parametrize("hidden", [(), (16, 16)])
def test_a_crowd_acts_as_its_members_would_alone(hidden: tuple[int, ...]) -> None:
    made = MLPActor(N_OBS, A, hidden, INTERVAL, torch.Generator().manual_seed(0)).double()
    made.take_scale(Scale(draw(N_OBS, seed=4), draw(N_OBS, seed=5).abs() + 0.5))
    before, several = made.vector(), draw(4, len(made.vector()), seed=6)
    z, dt = draw(4, 2, 3, N_OBS), 0.05 + draw(4, 2, 3, seed=7).abs()
    together, _ = made.crowd(several)(z, dt, z[..., :0])
    assert together.shape == (4, 2, 3, A)
    assert torch.equal(made.vector(), before)
    for p, parameters in enumerate(several):
        made.take_vector(parameters)
        assert torch.equal(made.vector(), parameters)
        torch.testing.assert_close(together[p], made(z[p], dt[p], z[p][..., :0])[0])


@pytest.mark.parametrize("kind", ["mlp", "ode"])
def test_an_actor_sees_how_long_its_action_will_be_held(kind: str) -> None:
    made = actor(kind)
    z, memory = draw(1, N_OBS), draw(1, made.n_memory)
    short, long = (made(z, torch.tensor([dt], dtype=z.dtype), memory)[0] for dt in (0.05, 0.2))
    assert float((short - long).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("kind", ["mlp", "ode"])
def test_new_scales_of_the_data_leave_what_was_learned(kind: str) -> None:
    made = actor(kind)
    scales = (Scale(draw(N_OBS, seed=i), draw(N_OBS, seed=i + 1).abs() + 0.5) for i in (4, 6))
    made.take_scale(next(scales))
    z, memory, dt = draw(7, N_OBS), draw(7, made.n_memory), torch.full((7,), 0.1, dtype=torch.float64)
    before = made(z, dt, memory)
    made.take_scale(next(scales))
    for mine, theirs in zip(before, made(z, dt, memory), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_the_first_scale_is_taken_as_it_is() -> None:
    made = actor("mlp")
    z, dt = draw(7, N_OBS), torch.full((7,), 0.1, dtype=torch.float64)
    before = made(z, dt, z[..., :0])[0]
    made.take_scale(Scale(torch.full((N_OBS,), 2.0), torch.full((N_OBS,), 3.0)))
    torch.testing.assert_close(made(2 + 3 * z, dt, z[..., :0])[0], before)


@pytest.mark.parametrize("dt", [0.05, 0.2, 1.0])
def test_a_hidden_state_without_drive_fades_with_its_rate_for_as_long_as_the_action_is_held(
    dt: float,
) -> None:
    made = actor("ode")
    assert isinstance(made, ODEActor)
    with torch.no_grad():
        for p in made.flow.parameters():
            p.zero_()
        made.log_rate.fill_(math.log(math.e - 1))  # 1 per second
        made.jump.weights[0][:, N_OBS] = 0  # the jump sees dt too
    z, memory = draw(6, N_OBS), draw(6, M)
    ends = [made(z, torch.full((6,), held, dtype=torch.float64), memory)[1] for held in (1e-9, dt)]
    torch.testing.assert_close(ends[1], ends[0] * math.exp(-dt), rtol=2e-2, atol=1e-6)


def test_a_jump_goes_from_the_hidden_state_towards_what_was_observed() -> None:
    made = actor("ode")
    assert isinstance(made, ODEActor)
    z, memory, moment = draw(1, N_OBS), 0.3 * torch.ones(1, M).double(), torch.tensor([1e-9]).double()
    with torch.no_grad():
        made.jump.biases[0][..., :M] = -50.0  # a closed gate
        torch.testing.assert_close(made(z, moment, memory)[1], memory)
        made.jump.biases[0][..., :M] = 50.0  # an open one
        made.jump.biases[0][..., M:] = 50.0
        torch.testing.assert_close(made(z, moment, memory)[1], torch.ones_like(memory))


def test_an_unknown_actor_and_a_memory_of_nothing_are_refused() -> None:
    generator = torch.Generator()
    with pytest.raises(UsageError, match="mlp, ode"):
        make_actor("lstm", N_OBS, A, (8,), M, INTERVAL, generator)
    with pytest.raises(UsageError, match="n_memory >= 1"):
        make_actor("ode", N_OBS, A, (8,), 0, INTERVAL, generator)
