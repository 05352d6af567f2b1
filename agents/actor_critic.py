"""An actor and its value, taught by the gradient of a world model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ode_rl.agents.actor import MLPActor, make_actor
from ode_rl.agents.courses import Courses
from ode_rl.agents.model_gradient import Course, Discount, constant, mean_over_horizons
from ode_rl.agents.planners import interval_grid
from ode_rl.agents.policy_config import PolicyConfig
from ode_rl.agents.policy_search import Record, SearchReport, search
from ode_rl.agents.terminal_value import TerminalValue, ValueConfig
from ode_rl.buffer import ReplayBuffer
from ode_rl.errors import Stopped, UsageError
from ode_rl.normalize import Scale
from ode_rl.world_model import WorldModel

# Share of the updates of a round over which the learning rate rises.
WARM_UP = 0.05
# States per gradient step of an imitation.
IMITATED = 256


class PolicyReport(NamedTuple):
    """What a round did: the objective and the loss of the value at its end, both in units of the spread of
    returns, the mean norm of the gradients before clipping, and how many were not finite and skipped."""

    objective: float
    value_loss: float
    gradient_norm: float
    skipped: int

    def scalars(self) -> dict[str, float]:
        """The numbers for a logger."""
        return {name: float(number) for name, number in self._asdict().items()}


class ActorCritic(nn.Module):
    """An actor, its value, and how many rounds of learning they have seen.

    `interval` are the nominal seconds between two decisions, `discount` is that of the value.
    """

    rounds: Tensor

    def __init__(
        self,
        n_obs: int,
        n_action: int,
        interval: float,
        discount: Discount,
        config: PolicyConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.config, self.interval, self.discount = config, interval, discount
        self.n_intervals = config.intervals(interval)
        grid = interval_grid(self.n_intervals * interval, interval, growth=config.growth)
        self.stretch = np.array(grid) / interval
        self.actor = make_actor(
            config.actor, n_obs, n_action, config.hidden, config.n_memory, interval, generator
        )
        value = ValueConfig(
            "always",
            config.value_hidden,
            config.value_members,
            config.pessimism,
            batch_size=config.value_batch,
        )
        self.value = TerminalValue(n_obs, value, generator)
        self.register_buffer("rounds", torch.zeros((), dtype=torch.int64))
        if config.source == "searched":
            n_parameters = sum(each.numel() for each in self.actor.parameters())
            self.record = Record(config.search.heirs, n_parameters)

    def take_scale(self, scale: Scale) -> None:
        """Let the actor, and actors on record, normalise by `scale` from now on; what they do stays."""
        if self.config.source == "searched" and isinstance(self.actor, MLPActor):
            self.record.take_scale(self.actor, scale)
        self.actor.take_scale(scale)

    def improve(
        self,
        model: WorldModel,
        buffer: ReplayBuffer,
        rng: np.random.Generator,
        stop: Callable[[], bool] | None = None,
    ) -> PolicyReport | SearchReport:
        """One round of learning from `model`, with starts or courses from `buffer`.

        Gradients that are not finite are skipped and counted.

        Raises:
            UsageError: after `most_skipped` of them in a row.
            Stopped: as soon as `stop()` says True, asked at each update; the networks are half way then.
        """
        if self.config.source == "searched":
            return search(self, model, buffer, rng, stop)
        config = self.config
        draw = Courses(self, model, buffer, rng)
        self._begin_round(draw)
        weight = min(1.0, int(self.rounds) / config.ramp) if config.ramp else 1.0
        actor_parameters = list(self.actor.parameters())
        actor_adam = torch.optim.Adam(actor_parameters, config.learning_rate)
        value_adam = torch.optim.Adam(self.value.parameters(), config.value_learning_rate)
        target = copy.deepcopy(self.value)
        norms, skipped, in_a_row, objective, loss = 0.0, 0, 0, math.nan, math.nan
        for i in range(config.updates):
            if stop is not None and stop():
                raise Stopped
            for group in actor_adam.param_groups:
                group["lr"] = config.learning_rate * min(1.0, (i + 1) / max(1.0, WARM_UP * config.updates))
            with constant(model, self.value):
                course = draw()
                found = self._objective(course, weight)
                gradient = torch.autograd.grad(-found, actor_parameters, allow_unused=True)
            norm = _take(actor_parameters, gradient, config.max_grad_norm)
            if math.isfinite(norm):
                actor_adam.step()
                norms, objective, in_a_row = norms + norm, float(found.detach()), 0
                loss = self._regress(course, target, value_adam, rng)
            else:
                skipped, in_a_row = skipped + 1, in_a_row + 1
                if in_a_row >= config.most_skipped:
                    raise _no_gradient(in_a_row)
            if (i + 1) % config.target_every == 0:
                self._rescale(course)
                target.load_state_dict(self.value.state_dict())
        self.rounds += 1
        return PolicyReport(objective, loss, norms / max(1, config.updates - skipped), skipped)

    @torch.no_grad()
    def plans(self, model: WorldModel, z: Tensor, dt: Tensor) -> Tensor:
        """What the policy does from ``z [B, Z]`` in the world of each member: ``[B, E, H, A]``.

        ``dt [H]`` are the intervals in seconds; a hidden state begins anew.
        """
        z = z.expand(model.n_members, *z.shape)
        memory, actions = z.new_zeros(*z.shape[:-1], self.actor.n_memory), []
        for seconds in dt:
            action, memory = self.actor(z, seconds.expand(z.shape[:-1]), memory)
            actions.append(action)
            z = model.step(z, action, seconds).z
        return torch.stack(actions, 2).transpose(0, 1)

    def imitate(self, z: Tensor, actions: Tensor, dt: Tensor, rng: np.random.Generator, updates: int) -> None:
        """Regress the actor on scaled actions ``[n, A]`` in the states ``z [n, Z]``, held for ``dt [n]``
        seconds.

        A hidden state begins anew at every example.
        """
        if not len(z):
            raise UsageError("states to imitate a planner in", "none", "Let the planner learn first.")
        self.actor.take_scale(Scale.of(z))
        adam = torch.optim.Adam(self.actor.parameters(), self.config.learning_rate)
        n = min(len(z), IMITATED)
        memory = z.new_zeros(n, self.actor.n_memory)
        # To nothing at the end: noise in the examples is averaged out.
        fading = torch.optim.lr_scheduler.CosineAnnealingLR(adam, updates)
        for _ in range(updates):
            at = torch.from_numpy(rng.choice(len(z), n, replace=False)).to(z.device)
            error = (self.actor(z[at], dt[at], memory)[0] - actions[at]).square().mean()
            adam.zero_grad(set_to_none=True)
            error.backward()
            adam.step()
            fading.step()

    def _objective(self, course: Course, weight: float) -> Tensor:
        j = mean_over_horizons(course, self.value(course.z), weight)[0]
        counts = course.ok & (course.mask[0] > 0)
        return torch.where(counts, j, 0.0).sum() / counts.sum().clamp_min(1) / self.value.out[1]

    @torch.no_grad()
    def _begin_round(self, draw: Courses) -> None:
        """Take the scales of the data and of the returns; what was learned stays."""
        scale = Scale.of(draw.observations())
        self.actor.take_scale(scale)
        self.value.take_input_scale(scale)
        self.value.bound(torch.tensor(draw.reward_rates), self.discount.seconds_of_ever)
        if not int(self.value.n_fits):
            # The best guess at the return of an unknown policy: the data go on for ever.
            self.value.out.copy_(torch.tensor([draw.mean_reward_rate() * self._seconds_ahead(), 1.0]))
        self._rescale(draw())
        self.value.n_fits += 1

    @torch.no_grad()
    def _rescale(self, course: Course) -> None:
        """Let the value be in units of the returns; what it says stays."""
        targets = mean_over_horizons(course, self.value.mean(course.z))[:, course.ok]
        if targets.numel():
            self.value.rescale(float(targets.mean()), float(targets.std(correction=0)))

    def _seconds_ahead(self) -> float:
        """Over how many seconds a steady reward adds up in a return."""
        for_ever = self.discount.seconds_of_ever
        return for_ever if math.isfinite(for_ever) else self.n_intervals * self.interval

    def _regress(
        self, course: Course, target: TerminalValue, adam: torch.optim.Optimizer, rng: np.random.Generator
    ) -> float:
        """Some steps of the value towards its averaged n-step targets; the last loss."""
        config, value = self.config, self.value
        with torch.no_grad():
            z = course.z.detach()
            returns = mean_over_horizons(course, target.mean(z))
            counts = course.ok & (course.mask > 0) & returns.isfinite()
            z, returns = z[:-1][counts], returns[counts]
        return value.regress(adam, z, returns, config.value_updates if len(z) else 0, rng)


def _take(parameters: list[nn.Parameter], gradient: tuple[Tensor | None, ...], most: float) -> float:
    """Let this be the gradient of the parameters, clipped to norm `most`; its norm before."""
    for p, g in zip(parameters, gradient, strict=True):
        p.grad = g
    return float(nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], most))


def _no_gradient(n: int) -> UsageError:
    remedy = "Shorten policy={'horizon': ...}, give the solver a max_step, or collect more warmup_steps."
    return UsageError("finite gradients through the world model", f"{n} in a row that are not", remedy)
