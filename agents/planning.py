"""The search for plans in a learned world, from the states of many robots at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ode_rl.agents.actor_critic import ActorCritic
from ode_rl.agents.mpc_config import MPCConfig
from ode_rl.agents.noise_stream import noise_of_call
from ode_rl.agents.plan_grid import PlanGrid, unique_seconds
from ode_rl.agents.plan_progress import PlanState
from ode_rl.agents.plan_score import Objective, assigned_scores, ensemble_scores
from ode_rl.agents.planners import Deadline, Found, Warm, cold_start, renewed, search
from ode_rl.agents.terminal_value import TerminalValue
from ode_rl.inference import FastModel
from ode_rl.world_model import WorldModel

log = logging.getLogger(__name__)

# Searches from states of which nothing is known, before the first decision.
COLD_SEARCHES = 3


class Decision(NamedTuple):
    """Scaled actions ``[n, A]`` that a planner takes in the states ``z [n, Z]`` and holds for ``dt [n]``
    seconds."""

    z: Tensor
    actions: Tensor
    dt: Tensor


class How(NamedTuple):
    """How plans are searched: with which noise, until when, with which plans ``[B, P, K, A]`` among the
    first, and whether to explore."""

    noise: torch.Generator
    deadline: Deadline = Deadline()
    proposals: Tensor | None = None
    explores: bool = False


class Planning:
    """Plans in `model`, which end in `value`, or in that of `policy`, whose plans are tried among the first.

    `grid` says how plans lie in time, `rho` discounts per second, and noise is a function of `seed` and of
    the number of the call. States are ``z [B, Z]``, actions scaled to [-1, 1].
    """

    def __init__(
        self,
        model: WorldModel,
        value: TerminalValue,
        policy: ActorCritic | None,
        grid: PlanGrid,
        settings: MPCConfig,
        rho: float,
        n_action: int,
        seed: int,
    ) -> None:
        self.model, self.value, self.policy = model, value, policy
        self.grid, self.settings, self.rho = grid, settings, rho
        self.n_action, self.seed = n_action, seed
        self.fallbacks = 0
        self._fast: FastModel | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.log_noise.device

    def actions(self, z: Tensor, warm: Warm, dt: Any, how: How) -> tuple[Tensor, Warm, int]:
        """First actions ``[B, A]`` scaled to [-1, 1], the warm start of the next call, plans scored."""
        groups = unique_seconds(dt, len(z), self.grid.dt)
        if len(groups) == 1:
            return self._search(z, warm, groups[0][0], how)
        action, after, scored = torch.empty(len(z), warm.mean.shape[-1], device=z.device), warm, 0
        mean, elites, beginning = warm.mean.clone(), warm.elites.clone(), how.noise.get_state()
        for seconds, own in groups:
            # The noise that each robot would have alone.
            how.noise.set_state(beginning)
            own = own.to(z.device)
            part = Warm(warm.mean[own], warm.elites[own])
            own_how = how._replace(proposals=None if how.proposals is None else how.proposals[own])
            action[own], after, n = self._search(z[own], part, seconds, own_how)
            mean[own], elites[own], scored = after.mean, after.elites, max(scored, n)
        return action, Warm(mean, elites), scored

    def _search(self, z: Tensor, warm: Warm, seconds: float, how: How) -> tuple[Tensor, Warm, int]:
        """First actions ``[B, A]``, the warm start of the next call, and how many plans were scored."""
        found = self._found(z, warm, seconds, how)
        return self._first(found, seconds), self.grid.shifted(found.warm, seconds), found.n_scored

    def _first(self, found: Found, seconds: float) -> Tensor:
        """What the plans do first, ``[B, A]``."""
        return self.grid.spread_out(self.grid.intervals(seconds), found.plan)(found.plan)[:, 0]

    def _found(self, z: Tensor, warm: Warm, seconds: float, how: How) -> Found:
        config, intervals = self.settings, self.grid.intervals(seconds)
        dt = torch.tensor(intervals, device=self.device)
        actions = self.grid.spread_out(intervals, warm.mean)
        model = self.model if config.planner.method == "gradient" else self._fast_model()
        objective = self._objective(how)
        noise, deadline, proposals = how.noise, how.deadline, how.proposals
        if self.policy is not None and int(self.policy.rounds):
            own = self.policy.plans(self.model, z, dt)[:, :, self.grid.at_knots(intervals)]
            proposals = own if proposals is None else torch.cat([proposals, own], 1)

        def by_all(plans: Tensor) -> Tensor:
            return ensemble_scores(model, z, actions(plans), dt, objective)

        def by_one_each(plans: Tensor) -> Tensor:
            return assigned_scores(model, z, actions(plans), dt, objective, noise)

        if config.asks_all_members(how.explores):
            found = search(by_all, warm, config.planner, noise, None, proposals, deadline)
        else:
            n = config.model.n_members
            found = search(
                by_one_each, warm, config.planner, noise, by_all, proposals, deadline, judge_cost=n
            )
        self._say_if_lost(found)
        return found

    @torch.no_grad()
    def course(self, z: Tensor, pushes: Tensor, seconds: Sequence[float]) -> Iterator[Decision]:
        """The planner at work in its own model, from states ``[B, Z]``: one decision after the other.

        The k-th action is held for ``seconds[k]``. ``pushes [K, B, A]``, one for each decision, are added to
        what the planner does, not to what is returned, so that it comes beside its own path, too. As in the
        task each search begins where the one before ended, the first after a few that know nothing of these
        states: plans get better along the way.
        """
        together, model = (self.model.n_members, -1, -1), self.model
        warm, ok = self.start(len(z)).warm, torch.ones(len(z), dtype=torch.bool, device=z.device)
        for k, (push, held) in enumerate(zip(pushes, seconds, strict=True)):
            for call in range(1 if k else COLD_SEARCHES):
                found = self._found(z, warm, held, How(self.noise(k, call)))
                warm = found.warm
            actions = self._first(found, held)
            ok = ok & found.ok
            yield Decision(z[ok], actions[ok], z.new_full((int(ok.sum()),), held))
            done = (actions + push).clamp(-1, 1)
            outcome = model.step(z.expand(together), done.expand(together), z.new_tensor(held))
            ok = ok & outcome.ok.all(0)
            if outcome.log_survival is not None:
                ok = ok & (outcome.log_survival.exp() > 0.5).all(0)
            z, warm = outcome.z.mean(0), self.grid.shifted(warm, held)

    def renew(self) -> None:
        """Take up what the world model has learned."""
        self._fast = None

    def _objective(self, how: How) -> Objective:
        config = self.settings
        value: TerminalValue | None = None
        if self.policy is not None and int(self.policy.rounds):
            value = self.policy.value
        elif int(self.value.n_fits) and config.value.applies(self.model.ends):
            value = self.value
        stop = None if how.deadline.at == float("inf") else how.deadline.check
        curiosity = config.curiosity if how.explores else 0.0
        return Objective(self.rho, value, config.action_cost, config.uncertainty, curiosity, stop)

    def _fast_model(self) -> FastModel:
        if self._fast is None:
            self._fast = FastModel(self.model, self.settings.precision)
        return self._fast

    def _say_if_lost(self, found: Found) -> None:
        lost = int((~found.ok).sum())
        if lost and not found.out_of_time:
            self.fallbacks += lost
            log.warning(
                "no plan of %d robot(s) has a finite score: the previous plan goes on (%d times so far)",
                lost,
                self.fallbacks,
            )

    def start(self, n: int, state: Any = None, episode_start: Any = None) -> PlanState:
        """What `n` robots begin with: `state`, anew where an episode starts."""
        shape = (n, self.grid.knots.n, self.n_action)
        if not isinstance(state, PlanState) or tuple(state.warm.mean.shape) != shape:
            return PlanState(cold_start(shape, self.settings.planner, self.noise(-1)), 0)
        if episode_start is None or not np.any(episode_start):
            return state
        fresh = cold_start(shape, self.settings.planner, self.noise(state.calls, 1))
        return state._replace(warm=renewed(state.warm, fresh, episode_start))

    def noise(self, call: int, stream: int = 0) -> torch.Generator:
        """The generator of call number `call`."""
        return noise_of_call(self.seed, call, stream, self.device)
