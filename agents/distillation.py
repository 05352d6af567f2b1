"""A policy that learns from a planner what to do where the policy itself would come.

The planner is asked about recorded states first; then, round by round, about states that the policy came to
in the world model, and the policy is regressed on all answers so far. An answer is what the planner does
there and in the steps after, as it would in the task: plans that begin where the last one ended are better,
and less at odds with one another, than those of single searches. This is dataset aggregation (Ross, Gordon,
Bagnell 2011, arXiv 1011.0686) in imagination: it costs no step of the real task. Regressed on recorded states
alone, a policy is soon where nobody told it what to do. Random pushes show what the planner does when it
comes off its path (Laskey et al. 2017, arXiv 1703.09327).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ode_rl.agents.model_gradient import imagined
from ode_rl.agents.planning import Decision
from ode_rl.errors import UsageError
from ode_rl.settings import check_counts, merged, plain
from ode_rl.types import FloatArray

if TYPE_CHECKING:
    from ode_rl.agents.actor_critic import ActorCritic
    from ode_rl.agents.mpc import MPC
    from ode_rl.agents.ode_policy import ODEPolicy

log = logging.getLogger(__name__)

Seconds: TypeAlias = npt.NDArray[np.float64]

# States about which the planner is asked in a round: how long an action is held is one more thing to learn.
STATES, DRAWN_STATES = 60, 100
# Roll-outs of the policy per member and round: half from where episodes began, half from recorded states.
COURSES = 40
# How far beside a recorded start others are tried, in spreads of what was recorded: further away may be no
# state of the task (cosines and sines).
NEAR = 0.1
# Hidden layers of a policy that is taught: examples by the thousand bear more than gradients do.
HIDDEN = (256, 256, 256)
# Different sequences of control intervals along which the planner is asked in a round, at most, or one for
# each ratio: the robots of one sequence are planned for together.
SEQUENCES = 6


@dataclass(frozen=True)
class Distillation:
    """How a planner teaches a policy."""

    rounds: int = 8
    """Rounds of questions; the first are about recorded states."""
    states: int | None = None
    """States per round about which the planner is asked; None: 60, or 100 where recorded intervals differ."""
    steps: int = 20
    """Decisions from each of these states: the planner goes on in the world model from where it comes."""
    push: float = 0.6
    """Random pushes that the planner gets there: their spread, half of the range of actions being 1, is drawn
    for each state, up to this."""
    updates: int = 1500
    """Gradient steps of the policy after each round."""
    last_updates: int = 10_000
    """Gradient steps after the last one."""
    intervals: int = 100
    """Control intervals for which the policy is followed in the world model."""
    ratios: tuple[float, ...] = (1.0,)
    """What is asked about: control intervals drawn from the recorded ones, times each of these; a policy that
    shall act at other rates than that of its training needs to be told how."""

    def __post_init__(self) -> None:
        counts = ["rounds", "steps", "updates", "last_updates", "intervals"]
        check_counts(self, counts if self.states is None else [*counts, "states"], 10, "distillation")
        if not 0 <= self.push <= 1:
            raise UsageError("a push between 0 and 1", self.push, "Write distillation={'push': 0.6}.")
        if not self.ratios or not all(math.isfinite(ratio) and ratio > 0 for ratio in self.ratios):
            remedy = "Write distillation={'ratios': (0.5, 1, 2, 4)}, or leave them out."
            raise UsageError("ratios of control intervals above 0", self.ratios, remedy)


def student(
    kind: type[ODEPolicy], planner: MPC, improve: int, how: Distillation, settings: Mapping[str, Any]
) -> ODEPolicy:
    """The agent that `ODEPolicy.distilled` gives: of this `kind`, with the planner's model, data and clock.

    Raises:
        UsageError: if the planner has no environment or has not learned anything yet.
    """
    if planner.env is None:
        raise UsageError("a planner with an environment", "one without", "Call planner.set_env(env).")
    if not planner.fits:
        raise UsageError("a planner that has learned", "a new one", "Write planner.learn(1000) first.")
    own: dict[str, Any] = {
        "gamma": planner.settings.gamma,
        "model": plain(planner.settings.model),
        "policy": {"hidden": HIDDEN},
    }
    device, wanted = str(planner.device), merged(own, settings)
    agent = kind(planner.env, None, planner.seed, device, planner.dt, known=planner.known, **wanted)
    agent.model.load_state_dict(planner.model.state_dict())
    agent.buffer.restore(planner.buffer.state())
    agent.num_timesteps = agent._round_at = planner.num_timesteps
    earned = distil(planner, agent.policy, how, agent.rng, improve)
    log.info("distilled, earning in the world model: %s", " ".join(f"{e:.4g}" for e in earned))
    agent.rounds = 1
    return agent


def distil(
    planner: MPC, policy: ActorCritic, how: Distillation, rng: np.random.Generator, improve: int = 0
) -> list[float]:
    """Teach `policy`, and let it improve by the gradient of the planner's model for so many rounds.

    Returns what each round's policy earned in the world model: the discounted return over the intervals for
    which it is followed. The policy of the last round remains, whatever that is: earlier ones earn more where
    the model is wrong, and nobody told them better.
    """
    recorded = planner.buffer.arrays().obs
    n_states = how.states or (STATES if np.ptp(planner.buffer.arrays().dt) < 1e-6 else DRAWN_STATES)
    # The newest half: what the planner came to when it knew more.
    recent = recorded[len(recorded) // 2 :]
    asked: list[Decision] = []
    earned: list[float] = []
    obs = recent[rng.choice(len(recent), n_states)]
    for k in range(how.rounds + improve):
        if k < how.rounds:
            asked += _answers(planner, obs, how, rng)
            told = Decision(*(torch.cat(part) for part in zip(*asked, strict=True)))
            updates = how.updates if k < how.rounds - 1 else how.last_updates
            policy.imitate(told.z, told.actions, told.dt, rng, updates)
        else:
            policy.improve(planner.model, planner.buffer, rng)
        visited, found = _followed(planner, policy, how, rng)
        earned.append(found)
        obs = visited[rng.choice(len(visited), n_states)] if len(visited) else obs
    return earned


def _durations(planner: MPC, how: Distillation, n: int, rng: np.random.Generator) -> Seconds:
    """Sequences ``[S, n]`` of control intervals in seconds, as recorded times one ratio each."""
    share = max(1, SEQUENCES // len(how.ratios))
    recorded = rng.choice(planner.buffer.arrays().dt, (len(how.ratios), share, n))
    found = recorded * np.reshape(how.ratios, (-1, 1, 1))
    sequences: Seconds = np.unique(found.reshape(-1, n), axis=0)
    return sequences


def _answers(planner: MPC, obs: FloatArray, how: Distillation, rng: np.random.Generator) -> list[Decision]:
    """What the planner does in ``obs [n, Z]``, and where that leads, and pushes that it gets."""
    found: list[Decision] = []
    sequences = _durations(planner, how, how.steps, rng)[: len(obs)]
    for i, seconds in enumerate(sequences):
        z = torch.from_numpy(obs[i :: len(sequences)]).to(planner.device)
        spread = rng.uniform(0, how.push, (1, len(z), 1))
        pushes = spread * rng.standard_normal((how.steps, len(z), planner.planning.n_action))
        found += planner.planning.course(z, torch.from_numpy(pushes).to(z), seconds.tolist())
    return found


@torch.no_grad()
def _followed(
    planner: MPC, policy: ActorCritic, how: Distillation, rng: np.random.Generator
) -> tuple[FloatArray, float]:
    """States to which the policy comes in the world model, within the box of what was recorded, and the mean
    discounted return from where episodes began."""
    buffer, model = planner.buffer, planner.model
    recorded = buffer.arrays().obs
    begins = buffer.firsts() - buffer.serials()[0]
    one, other = (recorded[rng.choice(begins, COURSES // 2)] for _ in range(2))
    # Near these, as they differ: a policy that is followed from the same few starts learns them by heart.
    most = NEAR * recorded.std(0)
    first = one + np.clip(rng.uniform(-0.5, 0.5, (len(one), 1)) * (other - one), -most, most)
    starts = np.concatenate([first, recorded[rng.choice(len(recorded), COURSES // 2)]])
    z = torch.from_numpy(starts).float().to(planner.device).expand(model.n_members, -1, -1)
    sequences = _durations(planner, how, how.intervals, rng)
    each = np.resize(np.arange(len(sequences)), COURSES)
    dt = torch.from_numpy(sequences[each].T[:, None]).to(z).expand(-1, len(z), -1)
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
