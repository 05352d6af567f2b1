"""The return of a policy in a learned world, as a function whose gradient teaches the policy.

What is maximised from each start is the mean over all horizons ``t_1 < ... < t_K`` of what the policy earns
until then and what the value says is still to come::

    J = 1/K sum_k [ sum_{j<k} exp(-rho t_j) S_j w_j r_j  +  v exp(-rho t_k) S_k V(z_k) ]

r_j is the reward integral of interval j, w_j the mean discount within it relative to a native step, S_j the
chance that the task goes on until t_j and v the weight of the value, ramped in while it is young. The
objective is that of Yildiz, Heinonen, Lahdesmaki, ICML 2021 (arXiv 2102.04764), there without termination.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ode_rl.agents.actor import Actor
from ode_rl.agents.interval import reward_weight
from ode_rl.types import Segment
from ode_rl.world_model import WorldModel


class Course(NamedTuple):
    """Where a policy went and what it earned: K intervals from each of ``[E, N]`` starts.

    States ``z [K+1, E, N, Z]``; ``reward [K, E, N]``, discounted within its interval; ``onward [K, E, N]``,
    the discount of an interval times the chance to survive it; ``mask [K, E, N]``, 1 where there was such an
    interval (then 0 to the end); ``ok [E, N]``, whether all numbers are finite.
    """

    z: Tensor
    reward: Tensor
    onward: Tensor
    mask: Tensor
    ok: Tensor


class Discount(NamedTuple):
    """`rho` per second, for a task with a native step of `native_dt` seconds."""

    rho: float
    native_dt: float

    @property
    def seconds_of_ever(self) -> float:
        """What a reward of 1 per second adds up to, paid at every native step for ever; infinite without
        discount."""
        if self.rho <= 0:
            return math.inf
        return self.native_dt / -math.expm1(-self.rho * self.native_dt)

    def over(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Weight of the reward of intervals of `dt` seconds, and their discounts; shapes as `dt`."""
        weight = reward_weight(dt.cpu().numpy(), self.rho, self.native_dt)
        return torch.from_numpy(weight).to(dt), torch.exp(-self.rho * dt)


def imagined(
    model: WorldModel, actor: Actor, z: Tensor, memory: Tensor, dt: Tensor, discount: Discount
) -> Course:
    """The policy in the world model: ``z [E, N, Z]``, ``memory [E, N, M]``, ``dt [K, E, N]`` seconds."""
    weight, fade = discount.over(dt)
    states, rewards, onward = [z], [], []
    ok = torch.ones(z.shape[:-1], dtype=torch.bool, device=z.device)
    for k in range(len(dt)):
        action, memory = actor(z, dt[k], memory)
        outcome = model.step(z, action, dt[k])
        z, ok = outcome.z, ok & outcome.ok
        states.append(z)
        rewards.append(weight[k] * outcome.reward)
        alive = None if outcome.log_survival is None else outcome.log_survival.exp()
        onward.append(fade[k] if alive is None else fade[k] * alive)
    return Course(torch.stack(states), torch.stack(rewards), torch.stack(onward), torch.ones_like(dt), ok)


def decoupled(
    model: WorldModel, actor: Actor, memory: Tensor, segment: Segment, discount: Discount
) -> Course:
    """The policy on the course that the real task took, with the derivatives of the model along it.

    Every number has the value that was recorded; ``d z_{k+1} / d (z_k, a_k)``, the derivatives of reward and
    survival are those of the model there, and each recorded action is the policy's plus noise that does not
    depend on it. This is the return in the model that is corrected by what it missed in each interval::

        a_k = pi(z_k) + xi_k,   z_{k+1} = F(z_k, a_k) + c_k

    with the constants xi_k and c_k that reproduce the record. No error of the model builds up along the
    course. ``segment [E, N, L]`` should be young: its actions are taken for the policy's. Sources: Heess et
    al. 2015 (arXiv 1510.09142); states from a simulator, gradients from a model: arXiv 2509.00215.
    """
    weight, fade = (x.movedim(-1, 0) for x in discount.over(segment.dt))
    z = segment.obs[..., 0, :]
    states, rewards, onward = [z], [], []
    ok = torch.ones(z.shape[:-1], dtype=torch.bool, device=z.device)
    for k in range(segment.dt.shape[-1]):
        dt = segment.dt[..., k]
        action, memory = actor(z, dt, memory)
        outcome = model.step(z, _valued(action, segment.action[..., k, :]), dt)
        ok = ok & outcome.ok
        z = _valued(outcome.z, segment.obs[..., k + 1, :])
        states.append(z)
        rewards.append(weight[k] * _valued(outcome.reward, segment.reward[..., k]))
        alive = (~segment.terminated[..., k]).to(z)
        if outcome.log_survival is not None:
            alive = _valued(outcome.log_survival.exp(), alive)
        onward.append(fade[k] * alive)
    mask = segment.mask.movedim(-1, 0)
    return Course(torch.stack(states), torch.stack(rewards), torch.stack(onward), mask, ok)


def _valued(x: Tensor, value: Tensor) -> Tensor:
    """`value`, with the derivatives of `x`."""
    return value + (x - x.detach())


def mean_over_horizons(course: Course, value: Tensor, weight: float = 1.0) -> Tensor:
    """J ``[K, E, N]`` from every state but the last on, over the horizons that are left from there.

    ``value [K+1, E, N]`` is V of `course.z`, `weight` the v of J. 0 where nothing is left. The first row is
    what a policy maximises; all rows, with ``v = 1``, are the n-step targets of V, averaged over n.
    """
    # The sum over the horizons behind j is (their number) r_j + onward_j (v V_{j+1} + the sum behind j+1).
    count = course.mask.flip(0).cumsum(0).flip(0)
    total, found = torch.zeros_like(course.reward[0]), []
    for k in reversed(range(len(course.reward))):
        later = course.onward[k] * (weight * value[k + 1] + total)
        total = course.mask[k] * (count[k] * course.reward[k] + later)
        found.append(total / count[k].clamp_min(1))
    return torch.stack(found[::-1])


@contextmanager
def constant(*modules: nn.Module) -> Iterator[None]:
    """Let gradients pass through the modules without reaching their parameters."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)
