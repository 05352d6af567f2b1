"""The soft value of a policy, some tenths of a second of which run through the world model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ode_rl.agents.model_gradient import Discount, constant
from ode_rl.errors import UsageError
from ode_rl.timing import positive_seconds
from ode_rl.world_model import WorldModel

# Control intervals of an expansion where no length in seconds is given.
DEFAULT_INTERVALS = 3


@dataclass(frozen=True)
class ExpansionConfig:
    """Gradient steps of the actor through the world model, besides those of SAC."""

    updates: int = 0
    """Such steps each time that SAC has learned; 0: none."""
    seconds: float | None = None
    """How far the value is expanded; None means 3 control intervals."""
    starts: int = 250
    """Recorded states per gradient step, dealt out to the members of the world model."""
    max_grad_norm: float = 10.0
    """Gradients of the actor are clipped to this norm."""

    def __post_init__(self) -> None:
        if self.updates < 0 or self.starts < 1:
            got = f"updates={self.updates}, starts={self.starts}"
            raise UsageError("updates >= 0 and starts >= 1", got, "Write expansion={'updates': 1}.")
        if self.seconds is not None:
            positive_seconds(self.seconds, "seconds")
        positive_seconds(self.max_grad_norm, "max_grad_norm")

    def intervals(self, interval: float) -> int:
        """Control intervals of `interval` seconds in an expansion, at least one."""
        return DEFAULT_INTERVALS if self.seconds is None else max(1, round(self.seconds / interval))


def expanded_value(
    model: WorldModel, policy: Any, z: Tensor, dt: Tensor, entropy_weight: Tensor | float, discount: Discount
) -> Tensor:
    """The soft value ``[E, N]`` of states ``z [E, N, O]``, over intervals of ``dt [K, E, N]`` seconds::

        V = sum_{k<K} D_k (w_k r_k - alpha l_k) + D_K (min_i Q_i(z_K, a_K) - alpha l_K)

    with ``l_k = log pi(a_k | z_k)``, ``D_k = prod_{j<k} exp(-rho dt_j) S_j``, S the chance to survive an
    interval and w the weight of its reward. `policy` is that of SAC in Stable-Baselines3. Sources: Feinberg
    et al. 2018 (arXiv 1803.00101), Clavera et al. 2020 (arXiv 2005.08068), whose gradient through the model
    this has.
    """
    weight, fade = discount.over(dt)
    value, onward = torch.zeros_like(z[..., 0]), torch.ones_like(z[..., 0])
    for k in range(len(dt)):
        action, log_chance = _acted(policy, z)
        outcome = model.step(z, action, dt[k])
        value = value + onward * (weight[k] * outcome.reward - entropy_weight * log_chance)
        onward = onward * fade[k]
        if outcome.log_survival is not None:
            onward = onward * outcome.log_survival.exp()
        z = outcome.z
    action, log_chance = _acted(policy, z)
    flat = (x.reshape(-1, x.shape[-1]).float() for x in (z, action))
    least = torch.cat(policy.critic(*flat), 1).min(1).values.reshape(z.shape[:-1]).to(z)
    return value + onward * (least - entropy_weight * log_chance)


def improve_actor(
    model: WorldModel,
    policy: Any,
    z: Tensor,
    dt: Tensor,
    entropy_weight: Tensor | float,
    discount: Discount,
    max_grad_norm: float,
) -> float | None:
    """One gradient step of the actor up the mean expanded value, which is returned.

    None, and no step, if the gradient is not finite.
    """
    with constant(model, policy.critic):
        mean = expanded_value(model, policy, z, dt, entropy_weight, discount).mean()
        policy.actor.optimizer.zero_grad()
        (-mean).backward()
    norm = torch.nn.utils.clip_grad_norm_(policy.actor.parameters(), max_grad_norm)
    if not bool(norm.isfinite()):
        policy.actor.optimizer.zero_grad()
        return None
    policy.actor.optimizer.step()
    return float(mean.detach())


def _acted(policy: Any, z: Tensor) -> tuple[Tensor, Tensor]:
    """Random actions ``[E, N, A]`` in [-1, 1] and the logarithms of their densities ``[E, N]``."""
    action, log_chance = policy.actor.action_log_prob(z.reshape(-1, z.shape[-1]).float())
    return action.reshape(*z.shape[:-1], -1).to(z), log_chance.reshape(z.shape[:-1]).to(z)
