"""An actor and its value, taught by the gradient of a world model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ode_rl.agents.actor import ACTORS, make_actor
from ode_rl.agents.model_gradient import Course, Discount, constant, decoupled, imagined, mean_over_horizons
from ode_rl.agents.planners import interval_grid
from ode_rl.agents.terminal_value import TerminalValue, ValueConfig
from ode_rl.buffer import IntArray, ReplayBuffer
from ode_rl.errors import Stopped, UsageError
from ode_rl.normalize import Scale
from ode_rl.settings import check_counts, check_widths
from ode_rl.timing import positive_seconds
from ode_rl.world_model import WorldModel

SOURCES = ("imagined", "decoupled")
# Control intervals of a roll-out where no horizon in seconds is given.
DEFAULT_INTERVALS = 20
# Share of the updates of a round over which the learning rate rises.
WARM_UP = 0.05
# States per gradient step of an imitation.
IMITATED = 256


@dataclass(frozen=True)
class PolicyConfig:
    """The policy that a world model teaches."""

    actor: str = "mlp"
    """The actor: mlp (a plain network), or ode (a hidden state flows between observations)."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers of the actor."""
    n_memory: int = 32
    """Width of the hidden state of the actor ode."""
    burn_in: float = 0.5
    """Seconds of recorded observations, at most, that fill the hidden state before a roll-out begins."""
    source: str = "imagined"
    """Where gradients come from: imagined (roll-outs of the model from recorded states) or decoupled (the
    states of the real task, the derivatives of the model), which bears models that miss contacts but takes
    the record for the policy's own: it wants few updates a round, rounds often, and few recent steps."""
    horizon: float | None = None
    """Seconds of a roll-out; None means 20 control intervals."""
    growth: float = 1.05
    """Factor by which intervals of imagined roll-outs get longer along the horizon; 1 keeps them."""
    dt_spread: float = 1.5
    """Imagined intervals are recorded ones, longer or shorter by up to this factor; 1 keeps them."""
    recent: int = 1000
    """Transitions, of the newest, from which decoupled courses are taken."""
    updates: int = 150
    """Gradient steps of the actor after each fit of the world model."""
    starts: int = 100
    """Starts per gradient step, each on one member of the ensemble."""
    learning_rate: float = 1e-3
    """Rate of Adam for the actor."""
    max_grad_norm: float = 1.0
    """Gradients of the actor are clipped to this norm; returns are in units of their spread."""
    most_skipped: int = 20
    """Gradients in a row that may be not finite before it is an error."""
    ramp: int = 5
    """Rounds over which the weight of the value rises to 1."""
    value_hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of the value."""
    value_members: int = 3
    """Members of the value."""
    pessimism: float = 0.0
    """Spreads of the members below their mean at which a roll-out ends: where the data say little."""
    value_updates: int = 8
    """Gradient steps of the value for each of the actor."""
    value_batch: int = 256
    """States per gradient step of the value."""
    value_learning_rate: float = 2e-3
    """Rate of Adam for the value."""
    target_every: int = 25
    """Updates of the actor between two copies of the value for its targets."""

    def __post_init__(self) -> None:
        check_widths("hidden", self.hidden)
        for name, kinds in (("actor", ACTORS), ("source", SOURCES)):
            if getattr(self, name) not in kinds:
                remedy = f"Write {name}='{kinds[0]}'."
                raise UsageError(f"{name}: {' or '.join(kinds)}", repr(getattr(self, name)), remedy)
        check_counts(
            self,
            ("updates", "starts", "recent", "most_skipped", "target_every", "value_batch"),
            100,
            "policy",
        )
        if self.horizon is not None:
            positive_seconds(self.horizon, "horizon")
        for name, usual in (("dt_spread", 1.5), ("growth", 1.05)):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 1):
                remedy = f"Write policy={{'{name}': {usual}}}."
                raise UsageError(f"{name} >= 1", getattr(self, name), remedy)

    def intervals(self, interval: float) -> int:
        """Control intervals of `interval` seconds in a roll-out.

        Raises:
            UsageError: for a horizon shorter than one of them.
        """
        if self.horizon is None:
            return DEFAULT_INTERVALS
        if self.horizon < interval * (1 - 1e-6):
            remedy = f"Write policy={{'horizon': {DEFAULT_INTERVALS * interval:g}}}, or leave it out."
            want = f"a horizon of at least one control interval, {interval:g} s"
            raise UsageError(want, f"{self.horizon:g} s", remedy)
        return max(1, round(self.horizon / interval))


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
        value = ValueConfig("always", config.value_hidden, config.value_members, config.pessimism)
        self.value = TerminalValue(n_obs, value, generator)
        self.register_buffer("rounds", torch.zeros((), dtype=torch.int64))
        self._most = -math.inf, math.inf

    def improve(
        self,
        model: WorldModel,
        buffer: ReplayBuffer,
        rng: np.random.Generator,
        stop: Callable[[], bool] | None = None,
    ) -> PolicyReport:
        """One round of learning from `model`, with starts or courses from `buffer`.

        Gradients that are not finite are skipped and counted.

        Raises:
            UsageError: after `most_skipped` of them in a row.
            Stopped: as soon as `stop()` says True, asked at each update; the networks are half way then.
        """
        config = self.config
        draw = _Courses(self, model, buffer, rng)
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

    def imitate(
        self, z: Tensor, actions: Tensor, dt: Tensor, rng: np.random.Generator, updates: int = 500
    ) -> None:
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
        for _ in range(updates):
            at = torch.from_numpy(rng.choice(len(z), n, replace=False)).to(z.device)
            error = (self.actor(z[at], dt[at], memory)[0] - actions[at]).square().mean()
            adam.zero_grad(set_to_none=True)
            error.backward()
            adam.step()

    def _returns(self, course: Course, value: Tensor, weight: float = 1.0) -> Tensor:
        """`mean_over_horizons` of a value that promises no more than its bounds."""
        return mean_over_horizons(course, value.clamp(*self._most), weight)

    def _objective(self, course: Course, weight: float) -> Tensor:
        j = self._returns(course, self.value(course.z), weight)[0]
        counts = course.ok & (course.mask[0] > 0)
        return torch.where(counts, j, 0.0).sum() / counts.sum().clamp_min(1) / self.value.out[1]

    @torch.no_grad()
    def _begin_round(self, draw: _Courses) -> None:
        """Take the scales of the data and of the returns; what was learned stays."""
        scale = Scale.of(draw.observations())
        self.actor.take_scale(scale)
        self.value.take_input_scale(scale)
        low, high = draw.reward_rates
        for_ever = self.discount.seconds_of_ever
        # Nothing earns more for ever than the best that was recorded.
        self._most = (min(0.0, low * for_ever), max(0.0, high * for_ever))
        if not int(self.value.n_fits):
            # The best guess at the return of an unknown policy: the data go on for ever.
            self.value.out.copy_(torch.tensor([draw.mean_reward_rate() * self._seconds_ahead(), 1.0]))
        self._rescale(draw())
        self.value.n_fits += 1

    @torch.no_grad()
    def _rescale(self, course: Course) -> None:
        """Let the value be in units of the returns; what it says stays."""
        targets = self._returns(course, self.value.mean(course.z))[:, course.ok]
        if targets.numel():
            self.value.rescale(float(targets.mean()), float(targets.std(correction=0)))

    def _seconds_ahead(self) -> float:
        """Over how many seconds a steady reward adds up in a return."""
        rho = self.discount.rho
        return 1 / rho if rho > 0 else self.n_intervals * self.interval

    def _regress(
        self, course: Course, target: TerminalValue, adam: torch.optim.Optimizer, rng: np.random.Generator
    ) -> float:
        """Some steps of the value towards its averaged n-step targets; the last loss."""
        config, value = self.config, self.value
        with torch.no_grad():
            z = course.z.detach()
            returns = self._returns(course, target.mean(z))
            counts = course.ok & (course.mask > 0) & returns.isfinite()
            z, returns = z[:-1][counts], (returns[counts] - value.out[0]) / value.out[1]
        loss = z.new_zeros(())
        for _ in range(config.value_updates if len(z) else 0):
            at = torch.from_numpy(rng.integers(len(z), size=(config.value_members, config.value_batch)))
            x = (z[at] - value.z_mean) / value.z_spread
            loss = nn.functional.smooth_l1_loss(value.net(x)[..., 0], returns[at])
            adam.zero_grad(set_to_none=True)
            loss.backward()
            adam.step()
        return float(loss.detach())


class _Courses:
    """Draws the courses from which a round learns."""

    def __init__(
        self, policy: ActorCritic, model: WorldModel, buffer: ReplayBuffer, rng: np.random.Generator
    ) -> None:
        self.policy, self.model, self.buffer, self.rng = policy, model, buffer, rng
        self.device = policy.rounds.device
        self.data = buffer.arrays()
        # The least and the most that was earned per second in a recorded interval.
        rates = self.data.reward / self.data.dt
        self.reward_rates = float(rates.min()), float(rates.max())
        config = policy.config
        self.shape = (model.n_members, -(-config.starts // model.n_members))
        serials = buffer.serials()
        self.serials = serials[-config.recent :] if config.source == "decoupled" else serials

    def observations(self) -> Tensor:
        return torch.from_numpy(self.data.obs).to(self.device)

    def mean_reward_rate(self) -> float:
        return float(self.data.reward.sum() / self.data.dt.sum())

    def __call__(self) -> Course:
        policy = self.policy
        starts = self.rng.choice(self.serials, self.shape)
        if policy.config.source == "decoupled":
            segment = self.buffer.segments(starts, policy.n_intervals)
            segment = segment._replace(**{k: v.to(self.device) for k, v in segment._asdict().items()})
            memory = segment.obs.new_zeros(*self.shape, policy.actor.n_memory)
            return decoupled(self.model, policy.actor, memory, segment, policy.discount)
        z, memory = self._starts(starts)
        dt = self._intervals()
        course = imagined(self.model, policy.actor, z, memory, dt, policy.discount)
        weight, _ = policy.discount.over(dt)
        low, high = (rate * dt * weight for rate in self.reward_rates)
        # Where the data say little the model promises too much, and a gradient finds it.
        return course._replace(reward=torch.minimum(torch.maximum(course.reward, low), high))

    def _intervals(self) -> Tensor:
        """Seconds ``[K, E, N]``: recorded ones, times a factor of each start, growing along the horizon."""
        stretch = self.policy.stretch[:, None, None]
        dt = self.rng.choice(self.data.dt, (len(stretch), *self.shape)) * stretch
        dt = dt * self.policy.config.dt_spread ** self.rng.uniform(-1, 1, self.shape)
        return torch.from_numpy(dt).float().to(self.device)

    def _starts(self, serials: IntArray) -> tuple[Tensor, Tensor]:
        """States ``[E, N, Z]``, and the memory ``[E, N, M]`` of an actor that came there as recorded.

        It looks back over some of the burn-in, or not at all: episodes begin without a past.
        """
        actor, config = self.policy.actor, self.policy.config
        if not actor.n_memory:
            z = torch.from_numpy(self.buffer.obs[serials % self.buffer.capacity]).to(self.device)
            return z, z[..., :0]
        n = max(1, round(config.burn_in / self.policy.interval))
        segment = self.buffer.segments(serials, n)
        obs, dt, mask = (x.to(self.device) for x in (segment.obs, segment.dt, segment.mask))
        memory = obs.new_zeros(*self.shape, actor.n_memory)
        first = torch.from_numpy(self.rng.integers(n + 1, size=(*self.shape, 1))).to(self.device)
        for k in range(n):
            after = actor(obs[..., k, :], dt[..., k], memory)[1]
            memory = torch.where((mask[..., k, None] > 0) & (first <= k), after, memory)
        # Nothing begins where a task has ended.
        over = segment.terminated.any(-1, keepdim=True).to(self.device)
        z = torch.where(over, obs[..., 0, :], obs[..., -1, :])
        return z, torch.where(over, 0.0, memory)


def _take(parameters: list[nn.Parameter], gradient: tuple[Tensor | None, ...], most: float) -> float:
    """Let this be the gradient of the parameters, clipped to norm `most`; its norm before."""
    for p, g in zip(parameters, gradient, strict=True):
        p.grad = g
    return float(nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], most))


def _no_gradient(n: int) -> UsageError:
    remedy = "Shorten policy={'horizon': ...}, give the solver a max_step, or collect more warmup_steps."
    return UsageError("finite gradients through the world model", f"{n} in a row that are not", remedy)
