"""The improved cross-entropy method: a maximiser of ``f(plans) -> scores`` that knows no model.

Pinneri et al. (2020), arXiv 2008.06389: coloured noise, elites kept between iterations and shifted
between calls, a shrinking population, the mean tried in the last iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ode_rl.agents.noise import coloured_noise
from ode_rl.errors import UsageError

Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ICEMConfig:
    """How many plans are tried, and how they are drawn."""

    candidates: int = 120
    """Plans drawn in the first iteration."""
    iterations: int = 3
    """Iterations per decision."""
    elites: int = 12
    """Best plans that the next distribution is fitted to."""
    keep: float = 0.3
    """Share of the elites that the next iteration, or the next decision, tries again."""
    shrink: float = 1.25
    """The population shrinks by this factor per iteration, not below twice the elites."""
    noise_exponent: float = 1.0
    """Colour of the noise: 0 white, 2 brown."""
    init_std: float = 0.3
    """Spread of the first iteration, on actions scaled to [-1, 1]."""
    momentum: float = 0.1
    """Share of the old mean and spread kept per iteration."""
    finalists: int = 10
    """Best plans among which the judge chooses."""

    def __post_init__(self) -> None:
        if not 1 <= self.elites <= self.candidates:
            raise UsageError(
                f"1 <= elites <= candidates ({self.candidates})", self.elites, "Write planner={'elites': 10}."
            )
        if not (0 < self.keep <= 1 and self.shrink >= 1 and 0 <= self.momentum < 1 and self.init_std > 0):
            got = (
                f"keep={self.keep}, shrink={self.shrink}, momentum={self.momentum}, init_std={self.init_std}"
            )
            expected = "0 < keep <= 1, shrink >= 1, 0 <= momentum < 1, init_std > 0"
            raise UsageError(expected, got, "Write planner={'keep': 0.3, 'shrink': 1.25}.")
        if self.iterations < 1:
            raise UsageError("at least one iteration", self.iterations, "Write planner={'iterations': 3}.")

    @property
    def n_kept(self) -> int:
        """Elites that are tried again."""
        return max(1, round(self.keep * self.elites))


class Warm(NamedTuple):
    """What one call leaves for the next: ``mean [B, H, A]`` and ``elites [B, K, H, A]``."""

    mean: Tensor
    elites: Tensor


def cold_start(shape: tuple[int, int, int], config: ICEMConfig, generator: torch.Generator) -> Warm:
    """The warm start of nobody: mean 0 and random elites, for ``shape = (B, H, A)``."""
    mean = torch.zeros(shape, device=generator.device)
    return Warm(mean, _draw(mean, torch.full_like(mean, config.init_std), config.n_kept, config, generator))


def shift(warm: Warm) -> Warm:
    """Move the plans one interval on; the last action is repeated."""
    return Warm(*(torch.cat([x[..., 1:, :], x[..., -1:, :]], -2) for x in warm))


def icem(
    score: Score, warm: Warm, config: ICEMConfig, generator: torch.Generator, judge: Score | None = None
) -> tuple[Tensor, Warm]:
    """Maximise ``score(plans [B, N, H, A]) -> [B, N]`` over plans in [-1, 1].

    Returns the best plans ``[B, H, A]`` and what the next call starts from. `judge`, a score that may
    cost more, chooses among the finalists (the best candidates and the mean of the elites). Scores of
    -inf are never elite while others exist.
    """
    mean, std = warm.mean, torch.full_like(warm.mean, config.init_std)
    kept = warm.elites
    for i in range(config.iterations):
        n = max(2 * config.elites, int(config.candidates * config.shrink**-i))
        plans = torch.cat([_draw(mean, std, n - kept.shape[1], config, generator), kept], 1)
        if i == config.iterations - 1:
            plans = torch.cat([plans, mean.unsqueeze(1)], 1)
        scores = score(plans)
        top = scores.topk(config.elites, 1).indices
        elites = _take(plans, top)
        mean = config.momentum * mean + (1 - config.momentum) * elites.mean(1)
        std = config.momentum * std + (1 - config.momentum) * elites.std(1, correction=0)
        kept = elites[:, : config.n_kept]
    if judge is None:
        return elites[:, 0], Warm(mean, kept)
    finalists = torch.cat([elites[:, : config.finalists], mean.unsqueeze(1)], 1)
    best = judge(finalists).argmax(1, keepdim=True)
    return _take(finalists, best)[:, 0], Warm(mean, kept)


def _draw(mean: Tensor, std: Tensor, n: int, config: ICEMConfig, generator: torch.Generator) -> Tensor:
    b, h, a = mean.shape
    noise = coloured_noise((b, n, a, h), config.noise_exponent, generator).transpose(-1, -2)
    return torch.addcmul(mean.unsqueeze(1), std.unsqueeze(1), noise).clamp_(-1, 1)


def _take(plans: Tensor, index: Tensor) -> Tensor:
    return plans.gather(1, index[..., None, None].expand(*index.shape, *plans.shape[2:]))
