"""The improved cross-entropy method.

Pinneri et al. (2020), arXiv 2008.06389: coloured noise, elites kept between iterations and shifted
between calls, a shrinking population, the mean tried in the last iteration.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ode_rl.agents.planners.config import PlannerConfig
from ode_rl.agents.planners.sampling import Belief, Sampler, draw, moved, take


def sizes(config: PlannerConfig) -> list[int]:
    """Plans per iteration: shrinking, and the mean in the last."""
    n = [max(config.least, int(config.candidates * config.shrink**-i)) for i in range(config.iterations)]
    return [*n[:-1], n[-1] + 1]


def propose(belief: Belief, n: int, last: bool, config: PlannerConfig, generator: torch.Generator) -> Tensor:
    """Draws, the kept elites, and in the last iteration the mean."""
    fixed = [belief.best[:, : config.n_kept]]
    if last:
        fixed.append(belief.mean.unsqueeze(1))
    n_drawn = n - sum(plans.shape[1] for plans in fixed)
    return torch.cat([draw(belief.mean, belief.std, n_drawn, config.noise_exponent, generator), *fixed], 1)


def update(belief: Belief, plans: Tensor, scores: Tensor, config: PlannerConfig) -> Belief:
    """Fit to the elites. They are those of this iteration: the kept ones were scored again in it."""
    top = scores.topk(config.elites, 1)
    elites = take(plans, top.indices)
    return Belief(*moved(belief, elites, config.momentum), elites, top.values)


ICEM = Sampler(sizes, propose, update)
