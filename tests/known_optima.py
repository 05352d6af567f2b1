"""Functions of plans whose best plan is known, for tests of planners."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ode_rl.agents.planners import Found, PlannerConfig, Score, Warm, cold_start, search


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def solve(
    score: Score,
    shape: tuple[int, int, int],
    config: PlannerConfig,
    seed: int = 0,
    warm: Warm | None = None,
    **how: Any,
) -> Found:
    """Search from a cold start, or from `warm`."""
    g = generator(seed)
    return search(score, cold_start(shape, config, g) if warm is None else warm, config, g, **how)


def quadratic(target: Tensor) -> Score:
    """Minus the squared distance to plans ``target [B, K, A]``."""
    return lambda plans: -(plans - target.unsqueeze(1)).square().sum((-1, -2))


def targets(*shape: int, seed: int = 3) -> Tensor:
    """Plans with actions in [-0.8, 0.8]."""
    return 1.6 * torch.rand(*shape, generator=generator(seed)) - 0.8


def rastrigin(plans: Tensor) -> Tensor:
    """Many local maxima of depth 0.2 on a bowl; the best value is 0 at 0.3 everywhere."""
    x = plans - 0.3
    return -(x.square() + 0.1 * (1 - torch.cos(6 * math.pi * x))).sum((-1, -2))


def lost(plans: Tensor) -> Tensor:
    """Every plan diverges."""
    return torch.full(plans.shape[:2], -torch.inf)


class Counted:
    """A score that remembers what it was asked."""

    def __init__(self, score: Score) -> None:
        self.score = score
        self.asked: list[Tensor] = []

    def __call__(self, plans: Tensor) -> Tensor:
        self.asked.append(plans.detach().clone())
        return self.score(plans)

    @property
    def sizes(self) -> list[int]:
        return [plans.shape[1] for plans in self.asked]

    @property
    def n(self) -> int:
        return sum(self.sizes)
