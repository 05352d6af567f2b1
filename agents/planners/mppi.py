"""Model-predictive path integral control.

Williams et al. (2017), arXiv 1707.02342: the mean of all plans, weighted by the exponential of their
scores, is executed. As in TD-MPC (Hansen et al. 2022, arXiv 2203.04955) several iterations follow each
other, whose spread is the weighted one and has a floor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ode_rl.agents.planners.config import PlannerConfig
from ode_rl.agents.planners.sampling import Belief, Sampler, draw, merged

# Spread below which the search would stand still, on actions scaled to [-1, 1]; TD-MPC's.
LEAST_STD = 0.05


def sizes(config: PlannerConfig) -> list[int]:
    """Plans per iteration: always as many."""
    return [config.candidates] * config.iterations


def propose(belief: Belief, n: int, last: bool, config: PlannerConfig, generator: torch.Generator) -> Tensor:
    """Draws around the weighted mean."""
    return draw(belief.mean, belief.std, n, config.noise_exponent, generator)


def weights(scores: Tensor, temperature: float) -> Tensor:
    """``w ~ exp((s - max s) / (temperature * (max s - median s)))`` for ``[B, N]``, of sum 1 in each row.

    The unit is the distance from best to median of the finite scores: it has the scale of the scores, and
    a few terrible ones do not change it. Weights are 0 at -inf, and equal where all scores are.
    """
    finite = scores.isfinite()
    best = scores.amax(1, keepdim=True)
    median = torch.where(finite, scores, torch.nan).nanmedian(1, keepdim=True).values
    tiny = torch.finfo(scores.dtype).tiny
    unit = (temperature * (best - median)).clamp_min(tiny)
    return torch.softmax(torch.where(finite, (scores - best) / unit, -torch.inf), 1)


def update(belief: Belief, plans: Tensor, scores: Tensor, config: PlannerConfig) -> Belief:
    """Move to the weighted mean and spread."""
    found = scores.isfinite().any(1, keepdim=True)
    # Rows without a finite score keep their belief; equal scores keep their arithmetic finite.
    w = weights(torch.where(found, scores, 0.0), config.temperature)[..., None, None]
    mean = (w * plans).sum(1)
    std = (w * (plans - mean.unsqueeze(1)).square()).sum(1).sqrt()
    m = config.momentum
    return Belief(
        m * belief.mean + (1 - m) * mean,
        (m * belief.std + (1 - m) * std).clamp_min(LEAST_STD),
        *merged(belief, plans, scores),
    )


MPPI = Sampler(sizes, propose, update, mean_acts=True)
