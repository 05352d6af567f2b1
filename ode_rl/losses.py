"""What a world model is fitted to: likelihood of segments, of rewards, of ends; rates of change."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ode_rl.types import Segment
from ode_rl.world_model import WorldModel

# beta of the beta-NLL (Seitzer et al., 2022, arXiv 2203.09168): 0 is the plain likelihood, whose well
# predicted dimensions starve the others; 1 weighs all dimensions alike.
BETA = 0.5
SMALLEST_LOG_NOISE = -7.0
# Reward errors, in spreads of the reward: beyond this they count linearly, so that the small ones near an
# optimum are heard beside the large ones far from it.
REWARD_HUBER = 0.1


class Losses(NamedTuple):
    """Losses per member ``[E]``, means over what the mask shows; `end` is None for endless tasks."""

    dynamics: Tensor
    reward: Tensor
    end: Tensor | None

    def total(self) -> Tensor:
        """Sum of all parts and members; the parts share no weights."""
        loss = self.dynamics.sum() + self.reward.sum()
        return loss if self.end is None else loss + self.end.sum()


def segment_losses(model: WorldModel, segment: Segment, end_weight: float = 1.0) -> Losses:
    """Losses of model roll-outs from the first observation of segments ``[E, B, L]``.

    The error after t seconds is Gaussian with variance ``noise^2 t / native dt`` in units of the typical
    change: it grows as a diffusion does, which also weighs late intervals less. Rewards count by Huber.
    Terminal intervals tell nothing of the reward rate (tasks pay 0 in them); ends are scored by
    ``-log(1 - S)``, other intervals by ``-log S``, with ends weighted by `end_weight`.
    """
    z = segment.obs[..., 0, :]
    unit = model.dynamics.out_spread * model.native_dt
    moving = (unit > 0).to(z.dtype)
    unit = torch.where(unit > 0, unit, torch.ones_like(unit))
    reward_unit = model.reward.out_spread * model.native_dt
    log_noise = model.log_noise.clamp_min(SMALLEST_LOG_NOISE)
    elapsed = torch.zeros_like(segment.dt[..., 0])
    dynamics, reward, end = z.new_zeros(()), z.new_zeros(()), z.new_zeros(())
    n_reward = z.new_zeros(())
    for k in range(segment.dt.shape[-1]):
        mask, dt = segment.mask[..., k], segment.dt[..., k]
        outcome = model.step(z, segment.action[..., k, :], dt, detach_heads=True)
        z = outcome.z
        elapsed = elapsed + dt
        age = (elapsed / model.native_dt).log().unsqueeze(-1) * 0.5
        error = (z - segment.obs[..., k + 1, :]) / unit
        nll = gaussian_nll(error, log_noise + age) * moving
        dynamics = dynamics + (nll.sum(-1) / moving.sum().clamp_min(1) * mask).sum(-1)
        ended = segment.terminated[..., k].to(z.dtype)
        paid = mask * (1 - ended)
        reward_error = (outcome.reward - segment.reward[..., k]) / reward_unit
        reward = reward + (huber(reward_error, REWARD_HUBER) * paid).sum(-1)
        n_reward = n_reward + paid.sum(-1)
        if outcome.log_survival is not None:
            ls = outcome.log_survival
            score = torch.where(ended > 0, -log1mexp(ls) * end_weight, -ls)
            end = end + (score * mask).sum(-1)
    n = segment.mask.sum((-1, -2)).clamp_min(1)
    return Losses(dynamics / n, reward / n_reward.clamp_min(1), end / n if model.ends else None)


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
    paid = mask * (1 - segment.terminated[..., 0].to(z.dtype))
    reward_error = (
        model.reward(middle, a)[..., 0] - segment.reward[..., 0] / dt[..., 0]
    ) / model.reward.out_spread
    return Losses((dynamics * mask).mean(-1), (huber(reward_error, REWARD_HUBER) * paid).mean(-1), None)


def gaussian_nll(error: Tensor, log_std: Tensor) -> Tensor:
    """Beta-NLL of `error` under a Gaussian of standard deviation ``exp(log_std)``."""
    variance = (2 * log_std).exp()
    nll = 0.5 * error.square() / variance + log_std
    weight: Tensor = variance.detach() ** BETA
    return nll * weight


def huber(error: Tensor, width: float = 1.0) -> Tensor:
    """``0.5 e^2`` within `width`, linear beyond: contacts do not dominate."""
    return torch.nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=width)


def log1mexp(log_p: Tensor) -> Tensor:
    """``log(1 - exp(log_p))`` for ``log_p < 0`` without cancellation (Maechler, 2012)."""
    x = log_p.clamp_max(-1e-7)
    return torch.where(x > -0.693, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))
