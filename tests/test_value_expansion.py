"""The value of a policy through the world model, against closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ode_rl.agents.model_gradient import Discount
from ode_rl.agents.value_expansion import ExpansionConfig, expanded_value, improve_actor
from ode_rl.errors import UsageError
from tests.known_worlds import known_world

RHO, DT, ALPHA, LOG_CHANCE = 0.8, 0.1, 0.3, -0.7


class Actor(nn.Module):
    """Always the same action, of a known density."""

    def __init__(self, action: float) -> None:
        super().__init__()
        self.action = nn.Parameter(torch.tensor(action))
        self.optimizer = torch.optim.SGD(self.parameters(), 0.1)

    def action_log_prob(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        return self.action.expand(len(obs), 1), torch.full((len(obs),), LOG_CHANCE)


class Critic(nn.Module):
    """Two critics: ``5 z + a`` and one more."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(5.0))

    def forward(self, obs: Tensor, action: Tensor) -> tuple[Tensor, ...]:
        q = self.slope * obs + action
        return q + 1, q


class Policy(nn.Module):
    def __init__(self, action: float = 0.5) -> None:
        super().__init__()
        self.actor, self.critic = Actor(action), Critic()


def value_of(world: Any, policy: Policy, n_intervals: int, z: float = 2.0, dt: float = DT) -> Tensor:
    start = torch.full((2, 3, 1), z, dtype=torch.float64)
    seconds = torch.full((n_intervals, 2, 3), dt, dtype=torch.float64)
    return expanded_value(world, policy, start, seconds, ALPHA, Discount(RHO, DT))


def drift(z: Tensor, a: Tensor) -> Tensor:
    """``dz/dt = a``."""
    return a


def height(z: Tensor, a: Tensor) -> Tensor:
    """A reward rate: z itself."""
    return z


def by_hand(action: float, n_intervals: int, hazard: float = 0.0) -> float:
    """What `value_of` should be in ``dz/dt = a`` with reward rate z, from z = 2."""
    z, onward, value = 2.0, 1.0, 0.0
    for _ in range(n_intervals):
        value += onward * (z * DT + action * DT**2 / 2 - ALPHA * LOG_CHANCE)
        onward *= math.exp(-(RHO + hazard) * DT)
        z += action * DT
    return value + onward * (5 * z + action - ALPHA * LOG_CHANCE)


@pytest.mark.parametrize("n_intervals", [1, 2, 5])
def test_it_is_the_soft_return_along_the_model_and_the_least_critic_at_its_end(n_intervals: int) -> None:
    found = value_of(known_world(drift, height), Policy(), n_intervals)
    assert found.shape == (2, 3)
    torch.testing.assert_close(found, torch.full_like(found, by_hand(0.5, n_intervals)), rtol=1e-6, atol=0)


def test_what_may_end_is_worth_less_later() -> None:
    found = value_of(known_world(drift, height, hazard=lambda z, a: 2 + 0 * z), Policy(), 3)
    torch.testing.assert_close(found, torch.full_like(found, by_hand(0.5, 3, 2.0)), rtol=1e-6, atol=0)


def test_a_long_interval_is_discounted_by_its_seconds() -> None:
    world = known_world(drift, lambda z, a: 0 * z)
    found = value_of(world, Policy(), 1, dt=0.4)
    soft = -ALPHA * LOG_CHANCE
    want = soft + math.exp(-RHO * 0.4) * (5 * (2 + 0.5 * 0.4) + 0.5 + soft)
    torch.testing.assert_close(found, torch.full_like(found, want), rtol=1e-6, atol=0)


def test_its_gradient_is_that_of_finite_differences() -> None:
    policy, h = Policy(), 1e-3
    value_of(known_world(drift, height), policy, 3).mean().backward()
    want = (by_hand(0.5 + h, 3) - by_hand(0.5 - h, 3)) / (2 * h)
    assert float(policy.actor.action.grad or 0.0) == pytest.approx(want, rel=1e-4)


def step(world: Any, policy: Policy, most: float = 100.0) -> float | None:
    start, seconds = torch.full((2, 3, 1), 2.0).double(), torch.full((2, 2, 3), DT).double()
    return improve_actor(world, policy, start, seconds, ALPHA, Discount(RHO, DT), most)


def test_a_step_moves_the_actor_uphill_and_nothing_else() -> None:
    world, policy = known_world(drift, height), Policy()
    slope = (by_hand(0.501, 2) - by_hand(0.499, 2)) / 0.002
    found = step(world, policy)
    assert found == pytest.approx(by_hand(0.5, 2))
    assert policy.actor.action.item() == pytest.approx(0.5 + 0.1 * slope, rel=1e-4)
    assert policy.critic.slope.grad is None
    assert policy.critic.slope.requires_grad
    assert all(parameter.grad is None for parameter in world.parameters())


def test_gradients_are_clipped() -> None:
    policy = Policy()
    step(known_world(drift, height), policy, most=0.01)
    assert policy.actor.action.item() == pytest.approx(0.5 + 0.1 * 0.01, rel=1e-4)


def test_a_gradient_that_is_no_number_moves_nothing() -> None:
    policy = Policy()
    assert step(known_world(lambda z, a: a * torch.inf), policy) is None
    assert policy.actor.action.item() == 0.5


def test_its_length_is_in_seconds() -> None:
    assert ExpansionConfig().intervals(0.05) == 3
    assert ExpansionConfig(seconds=0.2).intervals(0.05) == 4
    assert ExpansionConfig(seconds=0.01).intervals(0.05) == 1


@pytest.mark.parametrize(
    "settings", [{"updates": -1}, {"starts": 0}, {"seconds": 0.0}, {"max_grad_norm": -1.0}]
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(settings))):
        ExpansionConfig(**settings)
