"""The courses from which a policy learns in a world model: where they start, and how time runs along them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ode_rl.agents.model_gradient import Course, decoupled, imagined
from ode_rl.buffer import Arrays, IntArray, ReplayBuffer
from ode_rl.world_model import WorldModel

if TYPE_CHECKING:
    from ode_rl.agents.actor_critic import ActorCritic


class Courses:
    """Draws the courses from which a round learns."""

    def __init__(
        self, policy: ActorCritic, model: WorldModel, buffer: ReplayBuffer, rng: np.random.Generator
    ) -> None:
        self.policy, self.model, self.buffer, self.rng = policy, model, buffer, rng
        self.device = policy.rounds.device
        self.data = buffer.arrays()
        self.reward_rates = extreme_rates(self.data)
        config = policy.config
        self.shape = (model.n_members, -(-config.starts // model.n_members))
        serials = buffer.serials()
        self.serials = serials[-config.recent :] if config.source == "decoupled" else serials

    def observations(self) -> Tensor:
        return torch.from_numpy(self.data.obs).to(self.device)

    def mean_reward_rate(self) -> float:
        return float(self.data.reward.sum() / self.data.dt.sum())

    def __call__(self) -> Course:
        policy = self.policy
        starts = self.rng.choice(self.serials, self.shape)
        if policy.config.source == "decoupled":
            segment = self.buffer.segments(starts, policy.n_intervals)
            segment = segment._replace(**{k: v.to(self.device) for k, v in segment._asdict().items()})
            memory = segment.obs.new_zeros(*self.shape, policy.actor.n_memory)
            return decoupled(self.model, policy.actor, memory, segment, policy.discount)
        z, memory = self._starts(starts)
        dt = self._intervals()
        course = imagined(self.model, policy.actor, z, memory, dt, policy.discount)
        weight, _ = policy.discount.over(dt)
        low, high = (rate * dt * weight for rate in self.reward_rates)
        # Where the data say little the model promises too much, and a gradient finds it.
        return course._replace(reward=torch.minimum(torch.maximum(course.reward, low), high))

    def _intervals(self) -> Tensor:
        return drawn_seconds(self.policy, self.data, self.shape, self.rng)

    def _starts(self, serials: IntArray) -> tuple[Tensor, Tensor]:
        """States ``[E, N, Z]``, and the memory ``[E, N, M]`` of an actor that came there as recorded.

        It looks back over some of the burn-in, or not at all: episodes begin without a past.
        """
        actor, config = self.policy.actor, self.policy.config
        if not actor.n_memory:
            z = torch.from_numpy(self.buffer.obs[serials % self.buffer.capacity]).to(self.device)
            return z, z[..., :0]
        n = max(1, round(config.burn_in / self.policy.interval))
        segment = self.buffer.segments(serials, n)
        obs, dt, mask = (x.to(self.device) for x in (segment.obs, segment.dt, segment.mask))
        memory = obs.new_zeros(*self.shape, actor.n_memory)
        first = torch.from_numpy(self.rng.integers(n + 1, size=(*self.shape, 1))).to(self.device)
        for k in range(n):
            after = actor(obs[..., k, :], dt[..., k], memory)[1]
            memory = torch.where((mask[..., k, None] > 0) & (first <= k), after, memory)
        # Nothing begins where a task has ended.
        over = segment.terminated.any(-1, keepdim=True).to(self.device)
        z = torch.where(over, obs[..., 0, :], obs[..., -1, :])
        return z, torch.where(over, 0.0, memory)


def drawn_seconds(
    policy: ActorCritic, data: Arrays, shape: tuple[int, ...], rng: np.random.Generator
) -> Tensor:
    """Intervals ``[K, *shape]`` in seconds: recorded ones, times a factor of each start, growing along the
    horizon."""
    stretch = policy.stretch.reshape(-1, *(1 for _ in shape))
    dt = rng.choice(data.dt, (len(stretch), *shape)) * stretch
    dt = dt * policy.config.dt_spread ** rng.uniform(-1, 1, shape)
    return torch.from_numpy(dt).float().to(policy.rounds.device)


def extreme_rates(data: Arrays) -> tuple[float, float]:
    """The least and the most that was earned per second in a recorded interval."""
    rates = data.reward / data.dt
    return float(rates.min()), float(rates.max())
