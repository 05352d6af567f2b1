"""What a plan is worth in the learned world."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ode_rl.world_model import Rollout

# Rows of each member that a processor rolls out at a time. Beyond it the activations leave the cache, and
# time grows faster than the number of plans (benchmarks/planner.py, row growth).
ROWS_AT_A_TIME = 256


class Roller(Protocol):
    """Anything that rolls plans out: `WorldModel`, or its fast form, `FastModel`."""

    @property
    def n_members(self) -> int: ...

    @property
    def reward_unit(self) -> Tensor: ...

    @property
    def state_spread(self) -> Tensor: ...

    def rollout(
        self, z: Tensor, plan: Tensor, dt: Tensor, stop: Callable[[], None] | None = None
    ) -> Rollout: ...


class Objective(NamedTuple):
    """The terms of a plan's score.

    `rho` discounts per second. `value` maps end states ``[E, N, Z]`` to the return still to come (None:
    nothing comes). `action_cost` weighs the squared change of the scaled action from one interval to the
    next, in shares of the task's typical reward rate; it breaks ties between plans that all do well.
    Where all members score a plan, `uncertainty` weighs the spread of its scores, below 0 a penalty, above 0
    a bonus, and `curiosity` how far they are apart at its end: `disagreement` times a typical reward rate
    times its seconds. `stop` is called after every interval of a roll-out and may raise.
    """

    rho: float
    value: Callable[[Tensor], Tensor] | None = None
    action_cost: float = 0.0
    uncertainty: float = 0.0
    curiosity: float = 0.0
    stop: Callable[[], None] | None = None


def assigned_scores(
    model: Roller, z: Tensor, plans: Tensor, dt: Tensor, objective: Objective, generator: torch.Generator
) -> Tensor:
    """Scores ``[B, N]`` of plans ``[B, N, H, A]`` from states ``z [B, Z]``, each plan on one member.

    Members are dealt out anew at every call, equally often and alike for all start states; plans are padded
    where N is no multiple of E. ``dt [H]`` in seconds.
    """
    b, n = plans.shape[:2]
    e = model.n_members
    deal = torch.rand(n, generator=generator, device=generator.device).argsort()
    per_member = -(-n // e)
    padded = deal[torch.arange(per_member * e, device=deal.device) % n]
    # As cards are dealt: position j goes to member j mod E, so that no member has two plans more.
    hands = plans[:, padded].reshape(b, per_member, e, *plans.shape[2:])
    dealt = hands.permute(2, 0, 1, 3, 4).flatten(1, 2)
    starts = z.repeat_interleave(per_member, 0).expand(e, -1, -1)
    scores = plan_scores(model, starts, dealt, dt, objective)
    in_order = scores.reshape(e, b, per_member).permute(1, 2, 0).flatten(1)[:, :n]
    return in_order[:, deal.argsort()]


def ensemble_scores(model: Roller, z: Tensor, plans: Tensor, dt: Tensor, objective: Objective) -> Tensor:
    """As `assigned_scores`, each plan on all members: the mean of its scores, and what their disagreement
    counts for."""
    b, n = plans.shape[:2]
    e = model.n_members
    starts = z.repeat_interleave(n, 0).expand(e, -1, -1)
    scores, ends = _scored(model, starts, plans.flatten(0, 1).expand(e, *([-1] * 3)), dt, objective)
    score = scores.mean(0)
    if objective.uncertainty:
        score = score + objective.uncertainty * scores.std(0, correction=0)
    if objective.curiosity:
        most = objective.curiosity * model.reward_unit * dt.sum()
        score = score + most * disagreement(ends, model.state_spread)
    return torch.where(scores.isfinite().all(0), score, -torch.inf).reshape(b, n)


def plan_scores(model: Roller, z: Tensor, plans: Tensor, dt: Tensor, objective: Objective) -> Tensor:
    """``sum_k exp(-rho t_k) S_{k+1} R_k + exp(-rho t_H) S_H V(z_H) - cost`` for every row.

    Shapes: ``z [E, M, Z]``, ``plans [E, M, H, A]``, ``dt [H]`` seconds, result ``[E, M]``. S is the
    chance to be alive. A roll-out that is not finite scores -inf.
    """
    return _scored(model, z, plans, dt, objective)[0]


def disagreement(z: Tensor, spread: Tensor) -> Tensor:
    """How far the members are apart in the states ``z [E, M, Z]``: ``[M]`` between 0 and 1.

    The mean over the coordinates of their standard deviation in units of ``spread [Z]``, at most 1 for each.
    """
    return (z.std(0, correction=0) / spread).clamp(max=1.0).mean(-1)


def _scored(
    model: Roller, z: Tensor, plans: Tensor, dt: Tensor, objective: Objective
) -> tuple[Tensor, Tensor]:
    """Scores ``[E, M]`` and the states at the end ``[E, M, Z]``, part by part."""
    if z.device.type != "cpu" or z.shape[1] <= ROWS_AT_A_TIME:
        return _scored_at_once(model, z, plans, dt, objective)
    n_parts = -(-z.shape[1] // ROWS_AT_A_TIME)
    parts = zip(z.tensor_split(n_parts, 1), plans.tensor_split(n_parts, 1), strict=True)
    found = [_scored_at_once(model, *part, dt, objective) for part in parts]
    return torch.cat([score for score, _ in found], 1), torch.cat([end for _, end in found], 1)


def _scored_at_once(
    model: Roller, z: Tensor, plans: Tensor, dt: Tensor, objective: Objective
) -> tuple[Tensor, Tensor]:
    discount = torch.exp(-objective.rho * torch.cat([dt.new_zeros(1), dt.cumsum(0)]))
    course = model.rollout(z, plans, dt, objective.stop)
    reward, alive = course.reward, None
    if course.log_survival is not None:
        alive = course.log_survival.cumsum(0).exp()
        reward = reward * alive
    score = torch.tensordot(discount[:-1].to(reward), reward, 1)
    if objective.value is not None:
        value = objective.value(course.z) * discount[-1]
        score = score + (value if alive is None else value * alive[-1])
    if objective.action_cost:
        change = plans[..., 1:, :] - plans[..., :-1, :]
        cost = (change.square().mean(-1) * dt[1:]).sum(-1)
        score = score - objective.action_cost * model.reward_unit * cost
    return torch.where(course.ok & score.isfinite(), score, -torch.inf), course.z
