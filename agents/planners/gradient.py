"""Gradient ascent on plans: refines the best of a sampling planner through a differentiable score."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ode_rl.agents.planners.config import PlannerConfig
from ode_rl.agents.planners.deadline import Deadline, OutOfTime
from ode_rl.agents.planners.sampling import Score, scored
from ode_rl.errors import UsageError

# Adam's, Kingma and Ba (2015), with a shorter memory of the squares: there are few steps.
BETAS = (0.9, 0.99)
EPS = 1e-8


class Ascent(NamedTuple):
    """The best plans ``[B, R, K, A]`` seen from each start, with their ``scores [B, R]``."""

    plans: Tensor
    scores: Tensor
    n_scored: int = 0
    n_steps: int = 0
    out_of_time: bool = False


def ascend(
    score: Score,
    starts: Tensor,
    n_steps: int,
    config: PlannerConfig,
    deadline: Deadline,
    reserve: float = 0.0,
) -> Ascent:
    """Ascend the score from ``starts [B, R, K, A]`` by projected Adam, within [-1, 1].

    ``n_steps + 1`` times all R plans are scored; what is returned of each start is never worse than the
    start itself. The last `reserve` seconds before the deadline are left to others. Rows whose gradient is
    not finite stand still.

    Raises:
        RuntimeError: under `torch.inference_mode`.
        UsageError: for a score that cannot be differentiated.
    """
    check_mode()
    x = starts.detach().clone()
    seen = Ascent(x, x.new_full(x.shape[:2], -torch.inf))
    moments = torch.zeros_like(x), torch.zeros_like(x)
    begun, longest = deadline.clock(), 0.0
    for step in range(n_steps + 1):
        if deadline.left() <= longest + reserve:
            return seen._replace(out_of_time=True)
        try:
            scores, slope = _slope(score, x)
        except OutOfTime:
            return seen._replace(out_of_time=True)
        better = scores > seen.scores
        seen = Ascent(
            torch.where(better[..., None, None], x, seen.plans),
            torch.where(better, scores, seen.scores),
            seen.n_scored + x.shape[1],
            step,
        )
        rate = config.gradient_rate * (1 - step / n_steps) if n_steps else 0.0
        x, moments = _adam(x, slope, moments, rate, step + 1)
        now = deadline.clock()
        begun, longest = now, max(longest, now - begun)
    return seen


def check_mode() -> None:
    """Raise a RuntimeError where no gradient can be taken."""
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "the gradient planner cannot differentiate under torch.inference_mode; call it under "
            "torch.no_grad, or choose another planner"
        )


def _slope(score: Score, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        scores = scored(score, x)
        if not scores.requires_grad:
            raise UsageError(
                "a score that can be differentiated",
                "one without a gradient",
                "Write planner={'method': 'icem'}.",
            )
        finite = scores.isfinite()
        (slope,) = torch.autograd.grad(torch.where(finite, scores, 0.0).sum(), x)
    sound = finite & slope.isfinite().all(-1).all(-1)
    return scores.detach(), torch.where(sound[..., None, None], slope, 0.0)


def _adam(
    x: Tensor, slope: Tensor, moments: tuple[Tensor, Tensor], rate: float, step: int
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    # What points out of the bounds must not gather momentum.
    outward = ((x >= 1) & (slope > 0)) | ((x <= -1) & (slope < 0))
    slope = torch.where(outward, 0.0, slope)
    one, two = BETAS
    first = one * moments[0] + (1 - one) * slope
    second = two * moments[1] + (1 - two) * slope.square()
    stride = (first / (1 - one**step)) / ((second / (1 - two**step)).sqrt() + EPS)
    return (x + rate * stride).clamp(-1, 1), (first, second)
