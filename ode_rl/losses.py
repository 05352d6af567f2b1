"""What a world model is fitted to: likelihood of segments, of rewards, of ends; rates of change."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ode_rl.types import Segment
from ode_rl.world_model import WorldModel

# beta of the beta-NLL (Seitzer et al., 2022, arXiv 2203.09168): 0 is the plain likelihood, whose well
# predicted dimensions starve the others; 1 weighs all dimensions alike.
BETA = 0.5
SMALLEST_LOG_NOISE = -7.0
# Reward errors, in spreads of the reward: beyond this they count linearly, so that the small ones near an
# optimum are heard beside the large ones far from it.
REWARD_HUBER = 0.1


LIKELIHOODS = ("gaussian", "student-t", "huber")
# Degrees of freedom of the Student-t: heavy tails, as contacts have, and still a finite variance.
DEGREES = 4.0


class Losses(NamedTuple):
    """Losses per member ``[E]``, means over what the mask shows; `end` is None for endless tasks.

    `end` belongs to the hazard (or to the only way to end), `boundary` to the classifier of a model with
    both. ``square [E, O]`` are mean squares of the errors of the dynamics, taken back to one native interval.
    `n_evals` counts evaluations of the vector field, `n_failed` intervals that could not be solved.
    """

    dynamics: Tensor
    reward: Tensor
    end: Tensor | None
    boundary: Tensor | None = None
    square: Tensor | None = None
    n_evals: int = 0
    n_failed: Tensor | None = None

    def total(self) -> Tensor:
        """Sum of all parts and members; the parts share no weights."""
        loss = self.dynamics.sum() + self.reward.sum()
        for part in (self.end, self.boundary):
            loss = loss if part is None else loss + part.sum()
        return loss


def segment_losses(
    model: WorldModel,
    segment: Segment,
    end_weight: float = 1.0,
    likelihood: str = "gaussian",
    beta: float = BETA,
) -> Losses:
    """Losses of model roll-outs from the first observation of segments ``[E, B, L]``.

    The error after t seconds has the variance ``noise^2 t / native dt`` in units of the typical change: it
    grows as a diffusion does, which also weighs late intervals less. `likelihood` is one of `LIKELIHOODS`:
    Gaussian, Student-t, or Huber with the noise fitted beside it. Rewards count by Huber. Terminal
    intervals tell nothing of the reward rate (tasks pay 0 in them); ends are scored by ``-log(1 - S)``,
    other intervals by ``-log S``, with ends weighted by `end_weight`. Intervals that the solver could not
    solve are left out. Models are compared with `beta` 0: weighted, the likelihood is no score, for its least
    value lies at a noise of 1/e whatever the errors.
    """
    z = segment.obs[..., 0, :]
    unit = model.dynamics.out_spread * model.native_dt
    moving = (unit > 0).to(z.dtype)
    unit = torch.where(unit > 0, unit, torch.ones_like(unit))
    reward_unit = model.reward.out_spread * model.native_dt
    log_noise = model.log_noise.clamp_min(SMALLEST_LOG_NOISE)
    age = (segment.dt.cumsum(-1) / model.native_dt).log().unsqueeze(-1) * 0.5
    dynamics, reward, end, boundary = (z.new_zeros(()) for _ in range(4))
    square = z.new_zeros(())
    n, n_paid = z.new_zeros(()), z.new_zeros(())
    n_evals, n_failed = 0, z.new_zeros(())
    ends = model.ends and model.known.termination is None
    for k, outcome in enumerate(model.roll(z, segment.action, segment.dt, fitting=True)):
        n_evals += outcome.n_evals
        n_failed = n_failed + ((~outcome.ok) * segment.mask[..., k]).sum()
        mask = segment.mask[..., k] * outcome.ok
        # Hidden before the likelihood: 0 times the gradient of a number that is none is none either.
        shown = mask > 0
        error = torch.where(shown.unsqueeze(-1), (outcome.z - segment.obs[..., k + 1, :]) / unit, 0.0)
        nll = _nll(error, log_noise + age[..., k, :], likelihood, beta) * moving
        dynamics = dynamics + _sum(nll.sum(-1) / moving.sum().clamp_min(1), mask)
        with torch.no_grad():
            off = error * (-age[..., k, :]).exp()
            square = square + (off.square() * mask.unsqueeze(-1)).sum(-2)
        ended = segment.terminated[..., k].to(z.dtype)
        paid = mask * (1 - ended)
        reward_error = torch.where(shown, (outcome.reward - segment.reward[..., k]) / reward_unit, 0.0)
        reward = reward + _sum(huber(reward_error, REWARD_HUBER), paid)
        n, n_paid = n + mask.sum(-1), n_paid + paid.sum(-1)
        if ends and outcome.log_survival is not None:
            log_survival = torch.where(shown, outcome.log_survival, -1.0)
            end = end + _sum(_end_score(log_survival, ended, end_weight), mask)
        if ends and model.boundary is not None:
            after = torch.where(shown.unsqueeze(-1), outcome.z.detach(), 0.0)
            log_survival = F.logsigmoid(-model.end_logit(after))
            boundary = boundary + _sum(_end_score(log_survival, ended, end_weight), mask)
    n = n.clamp_min(1)
    return Losses(
        dynamics / n,
        reward / n_paid.clamp_min(1),
        end / n if ends else None,
        boundary / n if ends and model.boundary is not None else None,
        square / n.unsqueeze(-1),
        n_evals,
        n_failed,
    )


def _sum(loss: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask > 0, loss * mask, 0.0).sum(-1)


def _end_score(log_survival: Tensor, ended: Tensor, end_weight: float) -> Tensor:
    return torch.where(ended > 0, -log1mexp(log_survival) * end_weight, -log_survival)


def _nll(error: Tensor, log_std: Tensor, likelihood: str, beta: float) -> Tensor:
    if likelihood == "gaussian":
        return gaussian_nll(error, log_std, beta)
    if likelihood == "student-t":
        return student_t_nll(error, log_std, beta)
    # The noise learns from the errors, the dynamics from their Huber loss alone.
    return huber(error) + gaussian_nll(error.detach(), log_std, beta)


def derivative_losses(model: WorldModel, segment: Segment) -> Losses:
    """Losses of the rates of change at the middle of the first interval, without solving anything.

    ``f((z + z') / 2, a) = (z' - z) / dt`` and ``r((z + z') / 2, a) = R / dt`` hold up to O(dt^2): a cheap
    start for the fit of segments. A discrete model is matched where its step starts.
    """
    z, after, a = segment.obs[..., 0, :], segment.obs[..., 1, :], segment.action[..., 0, :]
    dt, mask = segment.dt[..., 0].unsqueeze(-1), segment.mask[..., 0]
    a = model.inputs(a, segment.dt[..., 0])
    middle = z if model.is_discrete else 0.5 * (z + after)
    spread = model.dynamics.out_spread
    moving = (spread > 0).to(z.dtype)
    error = (model.dynamics(middle, a) - (after - z) / dt) / torch.where(
        spread > 0, spread, torch.ones_like(spread)
    )
    dynamics = (huber(error) * moving).sum(-1) / moving.sum().clamp_min(1)
    dynamics = (dynamics * mask).mean(-1)
    if model.known.reward is not None:
        return Losses(dynamics, torch.zeros_like(dynamics), None)
    paid = mask * (1 - segment.terminated[..., 0].to(z.dtype))
    reward_error = (
        model.reward(middle, a)[..., 0] - segment.reward[..., 0] / dt[..., 0]
    ) / model.reward.out_spread
    return Losses(dynamics, (huber(reward_error, REWARD_HUBER) * paid).mean(-1), None)


def gaussian_nll(error: Tensor, log_std: Tensor, beta: float = BETA) -> Tensor:
    """NLL of `error` under a Gaussian of standard deviation ``exp(log_std)``, without constants.

    With ``beta > 0`` its gradient to the error is multiplied by ``exp(2 beta log_std)``; the noise itself,
    which is no network here, learns from the plain likelihood.
    """
    return _weighted(error, log_std, beta, lambda e, s: 0.5 * e.square() * (-2 * s).exp() + s)


def student_t_nll(error: Tensor, log_scale: Tensor, beta: float = BETA) -> Tensor:
    """As `gaussian_nll`, under a Student-t of scale ``exp(log_scale)`` with `DEGREES` degrees of freedom.

    ``log_scale + (nu + 1) / 2 * log(1 + e^2 / (nu scale^2))``.
    """
    half = 0.5 * (DEGREES + 1)
    return _weighted(
        error, log_scale, beta, lambda e, s: half * torch.log1p(e.square() * (-2 * s).exp() / DEGREES) + s
    )


def _weighted(
    error: Tensor, log_scale: Tensor, beta: float, nll: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    if beta == 0:
        return nll(error, log_scale)
    fixed = log_scale.detach()
    return (2 * beta * fixed).exp() * nll(error, fixed) + nll(error.detach(), log_scale)


def huber(error: Tensor, width: float = 1.0) -> Tensor:
    """``0.5 e^2`` within `width`, linear beyond: contacts do not dominate."""
    return F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=width)


def log1mexp(log_p: Tensor) -> Tensor:
    """``log(1 - exp(log_p))`` for ``log_p < 0`` without cancellation (Maechler, 2012)."""
    x = log_p.clamp_max(-1e-7)
    return torch.where(x > -0.693, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))
