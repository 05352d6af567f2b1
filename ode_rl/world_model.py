"""The learned world: dynamics, reward and termination in continuous time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ode_rl.errors import UsageError
from ode_rl.fields import GRUField, MLPField, ObservedField, observed_field
from ode_rl.integrate import check_method, hold, integrate_held
from ode_rl.known import NOTHING_KNOWN, Known
from ode_rl.names import DISCRETE_MODELS, MODELS, PLAIN_MODELS, TERMINATIONS
from ode_rl.normalize import Scale
from ode_rl.settings import check_widths
from ode_rl.state import StateSpec
from ode_rl.types import Held, Solver

ONE_STEP = Solver("euler")


@dataclass(frozen=True)
class WorldModelConfig:
    """What the world model is made of."""

    n_members: int = 5
    """Members of the ensemble."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers of the vector field."""
    head_hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of the reward rate and the termination."""
    solver: Solver = field(default_factory=Solver)
    """How an interval is integrated."""
    termination: str = "auto"
    """How episodes end: hazard (a rate along the interval), boundary (a test of its end state), or auto
    (both are fitted, and the one that makes held-out data likelier is used)."""
    structure: str = "ode"
    """The vector field: ode (plain), second-order, lagrangian, port-hamiltonian, nominal-residual; or a
    rival without one: residual-mlp (the change of a native interval, blind to dt), dt-mlp (dt is an input)
    or gru-dt (so it is, and a gated unit remembers the plan so far)."""

    def __post_init__(self) -> None:
        check_method(self.solver.method)
        check_widths("hidden", self.hidden)
        check_widths("head_hidden", self.head_hidden)
        if self.structure not in MODELS:
            raise UsageError(f"a model among {', '.join(MODELS)}", repr(self.structure), "Write --model ode.")
        if self.n_members < 1:
            raise UsageError("at least one member", self.n_members, "Write n_members=5.")
        if self.termination not in TERMINATIONS:
            raise UsageError(
                f"a termination among {', '.join(TERMINATIONS)}",
                repr(self.termination),
                "Write termination='hazard'.",
            )


class Outcome(NamedTuple):
    """What one interval brings: ``z [E, N, Z]`` at its end, ``reward [E, N]`` of the whole interval,
    ``log_survival [E, N]`` (log of the chance that the task did not end in it; None where tasks never
    end), ``ok [E, N]`` (all numbers finite, an adaptive method met its tolerance) and how often the
    vector field was evaluated for it."""

    z: Tensor
    reward: Tensor
    log_survival: Tensor | None
    ok: Tensor
    n_evals: int = 0


class Rollout(NamedTuple):
    """A plan's course: ``z [E, M, Z]`` at its end, ``reward [H, E, M]`` of the intervals, ``log_survival
    [H, E, M]`` of each interval alone (None where tasks never end), ``ok [E, M]`` (all numbers finite)."""

    z: Tensor
    reward: Tensor
    log_survival: Tensor | None
    ok: Tensor


class WorldModel(nn.Module):
    """An ensemble of vector fields with the reward rate and the termination hazard as extra states.

    ``dz/dt = f(z, a)``, ``dR/dt = r(z, a)``, ``dH/dt = h(z, a)``: one solve of an interval gives the next
    state, its reward and its survival ``exp(-H)``, for any `dt`. The state z is the observation in its own
    units; networks see normalised inputs. Models with structure need to know which observations are
    positions, velocities and angles: `spec`. With ``termination="boundary"`` an interval ends the task with
    the probability that a classifier gives to its end state, as tasks do that test a threshold there.
    What is `known` is not learned; its functions take actions in [-1, 1] here.
    """

    def __init__(
        self,
        n_obs: int,
        n_action: int,
        native_dt: float,
        config: WorldModelConfig,
        generator: torch.Generator,
        spec: StateSpec | None = None,
        known: Known = NOTHING_KNOWN,
    ) -> None:
        super().__init__()
        self.config, self.known = config, known
        self.native_dt = native_dt
        e, heads = config.n_members, config.head_hidden
        n_inputs = n_action + self._dt_is_input
        n_end_inputs = 0 if config.termination == "boundary" else n_inputs
        self.dynamics = _dynamics(n_obs, n_inputs, config, generator, spec, known)
        self.reward = MLPField(e, n_obs, n_inputs, 1, heads, generator)
        self.end = MLPField(e, n_obs, n_end_inputs, 1, heads, generator)
        self.boundary: MLPField | None = None
        if config.termination == "auto":
            own = torch.Generator().manual_seed(generator.initial_seed() + 1)
            self.boundary = MLPField(e, n_obs, 0, 1, heads, own)
            self.register_buffer("boundary_is_likelier", torch.zeros((), dtype=torch.bool))
        # Log of the noise of one native interval, in units of the typical change within it.
        self.log_noise = nn.Parameter(torch.zeros(e, 1, n_obs))
        self.register_buffer("n_fits", torch.zeros((), dtype=torch.int64))
        self.register_buffer("may_end", torch.zeros((), dtype=torch.bool))
        self.ends = known.termination is not None
        self.ends_by = "boundary" if config.termination == "boundary" else "hazard"

    n_fits: Tensor
    may_end: Tensor
    boundary_is_likelier: Tensor

    @property
    def n_members(self) -> int:
        return self.config.n_members

    @property
    def is_discrete(self) -> bool:
        """Whether the model steps over an interval instead of integrating it (the rivals of the ODE)."""
        return self.config.structure in DISCRETE_MODELS

    @property
    def _dt_is_input(self) -> bool:
        return self.config.structure in ("dt-mlp", "gru-dt")

    def inputs(self, a: Tensor, dt: Tensor) -> Tensor:
        """What the networks see beside z: the action ``a [*, A]``, and ``log(dt / native dt)`` for rivals."""
        if not self._dt_is_input:
            return a
        return torch.cat([a, (dt / self.native_dt).log().expand(a.shape[:-1]).unsqueeze(-1)], -1)

    def rescale(self, obs: Tensor, rate: Tensor, reward_rate: Tensor, ends: bool) -> None:
        """Take the scales of the data: ``obs [n, O]``, its rate of change ``[n, O]``, ``reward_rate [n]``.

        `ends` says whether the task was ever seen to terminate; until then survival is certain.
        """
        z = Scale.of(obs)
        spread = rate.std(0, correction=0)
        change = Scale(torch.zeros_like(spread), torch.where(spread > 1e-6 * z.spread, spread, 0.0))
        fitted = bool(self.n_fits > 0)
        self.dynamics.rescale(z, change, fitted)
        self.reward.rescale(z, Scale.of(reward_rate[:, None]), fitted)
        unit = Scale(*(x.to(obs) for x in Scale.unit(1)))
        self.end.rescale(z, unit, fitted)
        if self.boundary is not None:
            self.boundary.rescale(z, unit, fitted)
        self.may_end.fill_(ends)
        self.ends = ends or self.known.termination is not None

    def choose_termination(self, by: str) -> None:
        """Let episodes end by ``"hazard"`` or ``"boundary"`` from now on (a model with both heads)."""
        self.boundary_is_likelier.fill_(by == "boundary")
        self.ends_by = by

    def heads(self, a: Tensor, fitting: bool = False) -> Held:
        """Reward rate, and hazard where it applies, under a held action: ``z -> [E, N, 1 or 2]``."""
        reward = self.reward.hold(a)
        return self._with_hazard(reward, self.end.hold(a)) if self._has_hazard(fitting) else reward

    def step(self, z: Tensor, a: Tensor, dt: Tensor) -> Outcome:
        """One interval: ``z [E, N, Z]``, ``a [E, N, A]`` in [-1, 1], ``dt`` seconds (broadcast to [E, N])."""
        inputs = self.inputs(a, dt)
        return self._outcome(hold(self.dynamics, inputs), self.heads(inputs), z, a, dt, fitting=False)

    def roll(self, z: Tensor, plan: Tensor, dt: Tensor, fitting: bool = False) -> Iterator[Outcome]:
        """The outcomes of a plan, interval by interval.

        Shapes: ``z [E, N, Z]``, ``plan [E, N, H, A]``, ``dt [H]`` or ``[E, N, H]`` in seconds. With `fitting`
        the losses of reward and termination do not reach the dynamics, and a model with both ways to end
        survives by its hazard.
        """
        inputs = self.inputs(plan, dt)
        flows = self.dynamics.hold_plan(inputs)
        heads = self.reward.hold_plan(inputs)
        if self._has_hazard(fitting):
            heads = [self._with_hazard(r, h) for r, h in zip(heads, self.end.hold_plan(inputs), strict=True)]
        for k, (flow, head) in enumerate(zip(flows, heads, strict=True)):
            outcome = self._outcome(flow, head, z, plan[..., k, :], dt[..., k], fitting)
            z = outcome.z
            yield outcome

    def rollout(self, z: Tensor, plan: Tensor, dt: Tensor, stop: Callable[[], None] | None = None) -> Rollout:
        """The whole course of plans: ``z [E, M, Z]``, ``plan [E, M, H, A]``, ``dt [H]`` seconds.

        `stop` is called after every interval and may raise.
        """
        rewards, survivals, ok = [], [], torch.ones(z.shape[:-1], dtype=torch.bool, device=z.device)
        for outcome in self.roll(z, plan, dt):
            z, ok = outcome.z, ok & outcome.ok
            rewards.append(outcome.reward)
            survivals.append(outcome.log_survival)
            if stop is not None:
                stop()
        ends = [s for s in survivals if s is not None]
        return Rollout(z, torch.stack(rewards), torch.stack(ends) if ends else None, ok)

    @property
    def reward_unit(self) -> Tensor:
        """A typical reward rate, per second."""
        return self.reward.out_mean.abs() + self.reward.out_spread

    @property
    def state_spread(self) -> Tensor:
        """Standard deviations of the recorded states, ``[Z]``."""
        return self.reward.z_spread

    def _has_hazard(self, fitting: bool) -> bool:
        if not self.ends or self.known.termination is not None:
            return False
        return self.ends_by == "hazard" or (fitting and self.boundary is not None)

    def _with_hazard(self, reward: Held, hazard: Held) -> Held:
        per_native = 1.0 / self.native_dt

        def flow(z: Tensor) -> Tensor:
            return torch.cat([reward(z), F.softplus(hazard(z)) * per_native], -1)

        return Held(flow, (*reward.tensors, *hazard.tensors))

    def _outcome(self, flow: Held, heads: Held, z: Tensor, a: Tensor, dt: Tensor, fitting: bool) -> Outcome:
        solver = self.config.solver
        if fitting:
            heads = Held(lambda z, flow=heads.flow: flow(z.detach()), heads.tensors)  # type: ignore[misc]
        seconds = dt
        if self.is_discrete:
            # One Euler step is "now + dt * net"; the blind rival takes every interval for a native one.
            solver = ONE_STEP
            seconds = dt if self._dt_is_input else torch.full_like(dt, self.native_dt)
        end = integrate_held(flow, z, seconds, solver, heads)
        if end.integrals is None:
            raise RuntimeError("the heads were not integrated")
        reward, before, after = end.integrals[..., 0], z, end.z
        if fitting:
            before, after = z.detach(), torch.where(end.ok.unsqueeze(-1), end.z.detach(), 0.0)
        if self.known.reward is not None:
            reward = self.known.reward(before, a, after, dt.expand(z.shape[:-1]))
        log_survival: Tensor | None = None
        if self.known.termination is not None:
            log_survival = torch.where(self.known.termination(after), -torch.inf, torch.zeros_like(reward))
        elif self._has_hazard(fitting):
            log_survival = -end.integrals[..., 1]
        elif self.ends:
            log_survival = F.logsigmoid(-self.end_logit(after))
        return Outcome(end.z, reward, log_survival, end.ok, end.n_evals)

    def end_logit(self, z: Tensor) -> Tensor:
        """Log-odds ``[E, N]`` that an interval with end state ``z [E, N, Z]`` ends the task."""
        classifier = self.end if self.boundary is None else self.boundary
        logit: Tensor = classifier(z, z[..., :0])[..., 0]
        return logit

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.ends = bool(self.may_end) or self.known.termination is not None
        if self.boundary is not None:
            self.ends_by = "boundary" if bool(self.boundary_is_likelier) else "hazard"


def _dynamics(
    n_obs: int,
    n_action: int,
    config: WorldModelConfig,
    generator: torch.Generator,
    spec: StateSpec | None,
    known: Known,
) -> MLPField | GRUField | ObservedField:
    plain = (config.n_members, n_obs, n_action, n_obs, config.hidden, generator)
    if config.structure == "gru-dt":
        return GRUField(*plain)
    if config.structure in PLAIN_MODELS:
        return MLPField(*plain)
    if spec is None:
        raise UsageError(
            f"a state specification for the model {config.structure}", "none", "Give spec=StateSpec(...)."
        )
    if config.structure == "nominal-residual" and known.nominal is None:
        raise UsageError(
            "a nominal vector field for the model nominal-residual",
            "none",
            "Give known=Known(nominal=f), on the command line --known my_task:known.",
        )
    nominal = known.nominal if config.structure == "nominal-residual" else None
    return observed_field(
        config.structure, spec, config.n_members, n_action, config.hidden, generator, nominal
    )
