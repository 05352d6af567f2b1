"""A policy that learns from a planner what to do where the policy itself would come.

The planner is asked about recorded states first; then, round by round, about states that the policy came to
in the world model, and the policy is regressed on all answers so far. This is dataset aggregation (Ross,
Gordon, Bagnell 2011, arXiv 1011.0686) in imagination: it costs no step of the real task. Regressed on
recorded states alone, a policy is soon where nobody told it what to do.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ode_rl.agents.model_gradient import imagined
from ode_rl.settings import check_counts
from ode_rl.types import FloatArray

if TYPE_CHECKING:
    from ode_rl.agents.actor_critic import ActorCritic
    from ode_rl.agents.mpc import MPC

# Roll-outs of the policy per member and round: half from where episodes began, half from recorded states.
COURSES = 40


@dataclass(frozen=True)
class Distillation:
    """How a planner teaches a policy."""

    rounds: int = 12
    """Rounds of questions; the first are about recorded states."""
    states: int = 300
    """States per round about which the planner is asked."""
    steps: int = 4
    """Intervals of each plan that are answers: it goes on in the states to which it leads."""
    updates: int = 500
    """Gradient steps of the policy after each round."""
    intervals: int = 100
    """Control intervals for which the policy is followed in the world model."""

    def __post_init__(self) -> None:
        check_counts(self, ("rounds", "states", "steps", "updates", "intervals"), 10, "distillation")


def distil(
    planner: MPC, policy: ActorCritic, how: Distillation, rng: np.random.Generator, improve: int = 0
) -> list[float]:
    """Teach `policy`, and let it improve by the gradient of the planner's model for so many rounds.

    What remains is the policy that earned most in the world model of all rounds. Returns what each round's
    policy earned there: the discounted return over the intervals for which it is followed.
    """
    recorded = planner.buffer.arrays().obs
    # The newest half: what the planner came to when it knew more.
    recent = recorded[len(recorded) // 2 :]
    asked: list[Tensor] = []
    told: list[Tensor] = []
    earned: list[float] = []
    obs, best = recent[rng.choice(len(recent), how.states)], policy.state_dict()
    for k in range(how.rounds + improve):
        if k < how.rounds:
            states, actions = _answers(planner, obs, how.steps)
            asked.append(states)
            told.append(actions)
            policy.imitate(torch.cat(asked), torch.cat(told), rng, how.updates)
        else:
            policy.improve(planner.model, planner.buffer, rng)
        visited, found = _followed(planner, policy, how, rng)
        if found >= max(earned, default=-math.inf):
            best = copy.deepcopy(policy.state_dict())
        earned.append(found)
        obs = visited[rng.choice(len(visited), how.states)] if len(visited) else obs
    policy.load_state_dict(best)
    return earned


@torch.no_grad()
def _answers(planner: MPC, obs: FloatArray, steps: int) -> tuple[Tensor, Tensor]:
    """States ``[n, Z]`` and what the planner does there ``[n, A]``, along the first `steps` of its plans."""
    plans, ok = planner.best_plans(obs)
    model, z = planner.model, torch.from_numpy(obs).to(plans)
    states, actions = [], []
    for k, seconds in enumerate(planner.grid.intervals(planner.interval)[:steps]):
        # Plans may get coarser: then these are no actions for an interval of the policy.
        if seconds > 1.5 * planner.interval:
            break
        states.append(z[ok])
        actions.append(plans[ok, k])
        together = z.expand(model.n_members, -1, -1)
        outcome = model.step(together, plans[:, k].expand(model.n_members, -1, -1), z.new_tensor(seconds))
        ok = ok & outcome.ok.all(0)
        if outcome.log_survival is not None:
            ok = ok & (outcome.log_survival.exp() > 0.5).all(0)
        z = outcome.z.mean(0)
    return torch.cat(states), torch.cat(actions)


@torch.no_grad()
def _followed(
    planner: MPC, policy: ActorCritic, how: Distillation, rng: np.random.Generator
) -> tuple[FloatArray, float]:
    """States to which the policy comes in the world model, within the box of what was recorded, and the mean
    discounted return from where episodes began."""
    buffer, model = planner.buffer, planner.model
    recorded, serials = buffer.arrays().obs, buffer.serials()
    begins = np.setdiff1d(serials, buffer.following(serials)) - serials[0]
    first = recorded[rng.choice(begins, COURSES // 2)]
    starts = torch.from_numpy(np.concatenate([first, recorded[rng.choice(len(recorded), COURSES // 2)]]))
    z = starts.to(planner.device).expand(model.n_members, -1, -1)
    dt = z.new_full((how.intervals, *z.shape[:2]), planner.interval)
    memory = z.new_zeros(*z.shape[:2], policy.actor.n_memory)
    course = imagined(model, policy.actor, z, memory, dt, policy.discount)
    worth, (_, fade) = course.onward.cumprod(0), policy.discount.over(dt)
    earned = course.reward[0] + (worth[:-1] * course.reward[1:]).sum(0)
    earned = torch.where(course.ok, earned, -torch.inf)[:, : COURSES // 2].mean()
    # `onward` fades by the discount alone as long as nothing ends.
    alive = (course.onward / fade).cumprod(0) > 0.5
    low, high = (torch.from_numpy(edge).to(z) for edge in (recorded.min(0), recorded.max(0)))
    after = course.z[1:]
    inside = ((after >= low) & (after <= high)).all(-1) & alive
    found: Tensor = after[inside]
    return found.cpu().numpy(), float(earned)
