"""Sampling of plans: what icem, cem, mppi and shooting have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ode_rl.agents.noise import coloured_noise
from ode_rl.agents.planners.config import PlannerConfig
from ode_rl.agents.planners.deadline import Deadline, OutOfTime
from ode_rl.errors import UsageError

Score = Callable[[Tensor], Tensor]


class Belief(NamedTuple):
    """Where good plans are thought to be.

    A Gaussian with ``mean`` and ``std [B, K, A]``, and the best plans ``best [B, elites, K, A]`` in falling
    order of their ``scores [B, elites]``; those not scored yet have -inf.
    """

    mean: Tensor
    std: Tensor
    best: Tensor
    scores: Tensor


class Sampler(NamedTuple):
    """What tells one sampling method from another.

    ``sizes(config)`` are the plans of each iteration. ``propose(belief, n, last, config, generator)`` gives
    n of them, ``[B, n, K, A]``. ``update(belief, plans, scores, config)`` learns from finite scores and
    -inf, where each row has a finite one. With `mean_acts` the mean is executed, not the best plan.
    """

    sizes: Callable[[PlannerConfig], list[int]]
    propose: Callable[[Belief, int, bool, PlannerConfig, torch.Generator], Tensor]
    update: Callable[[Belief, Tensor, Tensor, PlannerConfig], Belief]
    mean_acts: bool = False


# Of a few plans each takes longer than of many: the judge's by about half (benchmarks/planner.py, anytime).
FEW_PLANS = 1.5


class Sampled(NamedTuple):
    """The end of a run of iterations: ``ok [B]`` says which rows had a finite score."""

    belief: Belief
    ok: Tensor
    n_scored: int = 0
    n_iterations: int = 0
    seconds_per_plan: float = 0.0
    out_of_time: bool = False

    def seconds_for(self, load: int) -> float:
        """How long a judge takes over `load` plans, by the pace of the last iteration."""
        return FEW_PLANS * load * self.seconds_per_plan


def prior(mean: Tensor, elites: Tensor, config: PlannerConfig) -> Belief:
    """The belief before the first iteration; the old mean stands in for elites that there are not."""
    kept = elites[:, : config.n_kept]
    others = mean.unsqueeze(1).expand(-1, config.elites - kept.shape[1], -1, -1)
    scores = mean.new_full((len(mean), config.elites), -torch.inf)
    return Belief(mean, torch.full_like(mean, config.init_std), torch.cat([kept, others], 1), scores)


def affordable(sizes: list[int], budget: int, least: int) -> list[int]:
    """`sizes` cut to `budget` plans in all; an iteration of fewer than `least` is left out."""
    cut = []
    for wanted in sizes:
        n = min(wanted, budget)
        if n < min(least, wanted):
            break
        cut.append(n)
        budget -= n
    return cut


@torch.no_grad()
def sample(
    score: Score,
    start: Belief,
    sampler: Sampler,
    sizes: list[int],
    config: PlannerConfig,
    generator: torch.Generator,
    deadline: Deadline,
    judge_load: int = 0,
    proposals: Tensor | None = None,
) -> Sampled:
    """Propose, score and learn until all iterations are done or the next one would not fit.

    An iteration fits if one like the longest so far, and then a judge of `judge_load` plans, end in time.
    Rows without a finite score keep their belief.
    """
    run = Sampled(start, start.mean.new_zeros(len(start.mean), dtype=torch.bool))
    begun, longest = deadline.clock(), 0.0
    for i, n in enumerate(sizes):
        if deadline.left() <= longest + run.seconds_for(judge_load):
            return run._replace(out_of_time=True)
        injected = proposals if i == 0 else None
        n_own = n if injected is None else n - injected.shape[1]
        plans = sampler.propose(run.belief, n_own, i == len(sizes) - 1, config, generator)
        if injected is not None:
            plans = torch.cat([plans, injected], 1)
        try:
            scores = scored(score, plans)
        except OutOfTime:
            return run._replace(out_of_time=True)
        found = scores.isfinite().any(1)
        belief = learnt(sampler.update(run.belief, plans, scores, config), run.belief, found)
        now = deadline.clock()
        begun, lasted = now, now - begun
        longest = max(longest, lasted)
        run = Sampled(belief, run.ok | found, run.n_scored + n, i + 1, lasted / n)
    return run


def scored(score: Score, plans: Tensor) -> Tensor:
    """Scores ``[B, N]`` of plans ``[B, N, K, A]``, -inf where they are not finite.

    Raises:
        UsageError: for a score of another shape.
    """
    scores = score(plans)
    if scores.shape != plans.shape[:2]:
        want, got = tuple(plans.shape[:2]), tuple(scores.shape)
        raise UsageError(f"scores of shape {want}", got, "Return one score for each plan.")
    return torch.where(scores.isfinite(), scores, -torch.inf)


def draw(mean: Tensor, std: Tensor, n: int, exponent: float, generator: torch.Generator) -> Tensor:
    """Plans ``[B, n, K, A]`` around ``mean [B, K, A]`` with noise of colour `exponent`, within bounds.

    The noise is the same for all rows: robots in like states get like plans, and the plan of one does not
    depend on who stands beside it.
    """
    h, a = mean.shape[1:]
    noise = coloured_noise((1, n, a, h), exponent, generator).transpose(-1, -2)
    return torch.addcmul(mean.unsqueeze(1), std.unsqueeze(1), noise).clamp_(-1, 1)


def take(plans: Tensor, index: Tensor) -> Tensor:
    """Plans ``[B, n, K, A]`` at ``index [B, n]``."""
    return plans.gather(1, index[..., None, None].expand(*index.shape, *plans.shape[2:]))


def moved(belief: Belief, elites: Tensor, momentum: float) -> tuple[Tensor, Tensor]:
    """Mean and spread on their way to those of the elites."""
    mean = momentum * belief.mean + (1 - momentum) * elites.mean(1)
    std = momentum * belief.std + (1 - momentum) * elites.std(1, correction=0)
    return mean, std


def merged(belief: Belief, plans: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The best plans, with their scores, of those known before and new ones; new ones first at a tie."""
    top = torch.cat([scores, belief.scores], 1).topk(belief.scores.shape[1], 1)
    return take(torch.cat([plans, belief.best], 1), top.indices), top.values


def learnt(new: Belief, old: Belief, found: Tensor) -> Belief:
    """The belief `new` in rows where something was ``found [B]``, else the `old` one."""
    pick = [torch.where(found.view(-1, *[1] * (n.dim() - 1)), n, o) for n, o in zip(new, old, strict=True)]
    return Belief(*pick)
