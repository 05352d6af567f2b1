"""Random shooting: the best of one large draw."""

from __future__ import annotations

import torch
from torch import Tensor

from ode_rl.agents.planners.config import PlannerConfig
from ode_rl.agents.planners.sampling import Belief, Sampler, draw, merged

# Spread of a uniform action in [-1, 1].
UNIFORM_STD = 3**-0.5


def sizes(config: PlannerConfig) -> list[int]:
    """All plans that the iterations of the others would try, at once."""
    return [config.candidates * config.iterations]


def propose(belief: Belief, n: int, last: bool, config: PlannerConfig, generator: torch.Generator) -> Tensor:
    """The plan so far, draws around it, and as many around zero, as wide as uniform actions."""
    n_near = (n - 1) // 2
    near = draw(belief.mean, belief.std, n_near, config.noise_exponent, generator)
    zero = torch.zeros_like(belief.mean)
    wide = torch.full_like(belief.std, UNIFORM_STD)
    far = draw(zero, wide, n - 1 - n_near, config.noise_exponent, generator)
    return torch.cat([belief.mean.unsqueeze(1), near, far], 1)


def update(belief: Belief, plans: Tensor, scores: Tensor, config: PlannerConfig) -> Belief:
    """Nothing is fitted: the next decision starts from the best plan."""
    best, values = merged(belief, plans, scores)
    return Belief(best[:, 0], belief.std, best, values)


SHOOTING = Sampler(sizes, propose, update)
