"""The fairest use of a model that is blind to dt, for comparisons at other dt than its own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ode_rl.world_model import Outcome, WorldModel

# Ratios of dt to native dt this close to a whole number are one.
WHOLE = 1e-6
BLIND = "residual-mlp"


def best_use_step(model: WorldModel, z: Tensor, a: Tensor, dt: Tensor) -> Outcome:
    """One interval of any duration, a model that is blind to dt included: ``dt`` broadcasts to ``[E, N]``.

    ``residual-mlp`` takes every interval for a native one. Its best use: native steps one after the other
    where dt is a whole multiple of native dt, and elsewhere its change, reward and hazard scaled by
    ``dt / native dt``. For every other model this is ``model.step``.
    """
    if model.config.structure != BLIND:
        return model.step(z, a, dt.to(z.dtype))
    ratio = (dt.to(torch.float64) / model.native_dt).expand(z.shape[:-1])
    count = ratio.round()
    whole = (count >= 1) & ((ratio - count).abs() <= WHOLE * count.clamp_min(1))
    native = z.new_tensor(model.native_dt)
    first = model.step(z, a, native)
    composed, scaled = first, _scaled(model, z, a, first, ratio.to(z.dtype))
    for k in range(2, int(torch.where(whole, count, 1.0).max()) + 1):
        longer = _then(composed, model.step(composed.z, a, native))
        composed = _chosen(whole & (count >= k), longer, composed)
    return _chosen(whole, composed, scaled)


def _scaled(model: WorldModel, z: Tensor, a: Tensor, step: Outcome, ratio: Tensor) -> Outcome:
    end, reward, log_survival = z + ratio.unsqueeze(-1) * (step.z - z), ratio * step.reward, step.log_survival
    if model.known.reward is not None:
        reward = model.known.reward(z, a, end, ratio * model.native_dt)
    if model.known.termination is not None:
        log_survival = torch.where(model.known.termination(end), -torch.inf, torch.zeros_like(reward))
    elif log_survival is not None:
        at_end = model.ends_by == "boundary"
        log_survival = F.logsigmoid(-model.end_logit(end)) if at_end else ratio * log_survival
    ok = step.ok & torch.isfinite(end).all(-1)
    return step._replace(z=end, reward=reward, log_survival=log_survival, ok=ok)


def _then(first: Outcome, second: Outcome) -> Outcome:
    log_survival = None
    if first.log_survival is not None and second.log_survival is not None:
        log_survival = first.log_survival + second.log_survival
    return Outcome(
        second.z,
        first.reward + second.reward,
        log_survival,
        first.ok & second.ok,
        first.n_evals + second.n_evals,
    )


def _chosen(which: Tensor, yes: Outcome, no: Outcome) -> Outcome:
    log_survival = None
    if yes.log_survival is not None and no.log_survival is not None:
        log_survival = torch.where(which, yes.log_survival, no.log_survival)
    return Outcome(
        torch.where(which.unsqueeze(-1), yes.z, no.z),
        torch.where(which, yes.reward, no.reward),
        log_survival,
        torch.where(which, yes.ok, no.ok),
        max(yes.n_evals, no.n_evals),
    )
