"""The cross-entropy method.

Rubinstein and Kroese (2004), The Cross-Entropy Method; for planning Chua et al. (2018), arXiv 1805.12114:
white noise, a population of one size, nothing tried twice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ode_rl.agents.planners.config import PlannerConfig
from ode_rl.agents.planners.sampling import Belief, Sampler, draw, merged, moved, take


def sizes(config: PlannerConfig) -> list[int]:
    """Plans per iteration: always as many."""
    return [config.candidates] * config.iterations


def propose(belief: Belief, n: int, last: bool, config: PlannerConfig, generator: torch.Generator) -> Tensor:
    """Draws with white noise."""
    return draw(belief.mean, belief.std, n, 0.0, generator)


def update(belief: Belief, plans: Tensor, scores: Tensor, config: PlannerConfig) -> Belief:
    """Fit to the elites of this iteration; the best plans are those of all."""
    elites = take(plans, scores.topk(min(config.elites, scores.shape[1]), 1).indices)
    return Belief(*moved(belief, elites, config.momentum), *merged(belief, plans, scores))


CEM = Sampler(sizes, propose, update)
