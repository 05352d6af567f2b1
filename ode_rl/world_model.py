"""The learned world: dynamics, reward and termination in continuous time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ode_rl.errors import UsageError
from ode_rl.fields import MLPField, ObservedField, observed_field
from ode_rl.integrate import check_method, hold, integrate_held
from ode_rl.names import DISCRETE_MODELS, MODELS, TERMINATIONS
from ode_rl.normalize import Scale
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
    termination: str = "hazard"
    """How episodes end: hazard (a rate along the interval) or boundary (a test of its end state)."""
    structure: str = "ode"
    """The vector field: ode (plain), second-order, lagrangian, port-hamiltonian; or a rival without one:
    residual-mlp (the change of a native interval, blind to dt) or dt-mlp (dt is an input)."""

    def __post_init__(self) -> None:
        check_method(self.solver.method)
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
    end) and ``ok [E, N]`` (all numbers finite)."""

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
    """

    def __init__(
        self,
        n_obs: int,
        n_action: int,
        native_dt: float,
        config: WorldModelConfig,
        generator: torch.Generator,
        spec: StateSpec | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.native_dt = native_dt
        e, heads = config.n_members, config.head_hidden
        n_inputs = n_action + self._dt_is_input
        n_end_inputs = 0 if config.termination == "boundary" else n_inputs
        self.dynamics = _dynamics(n_obs, n_inputs, config, generator, spec)
        self.reward = MLPField(e, n_obs, n_inputs, 1, heads, generator)
        self.end = MLPField(e, n_obs, n_end_inputs, 1, heads, generator)
        # Log of the noise of one native interval, in units of the typical change within it.
        self.log_noise = nn.Parameter(torch.zeros(e, 1, n_obs))
        self.register_buffer("n_fits", torch.zeros((), dtype=torch.int64))
        self.register_buffer("may_end", torch.zeros((), dtype=torch.bool))
        self.ends = False

    n_fits: Tensor
    may_end: Tensor

    @property
    def n_members(self) -> int:
        return self.config.n_members

    @property
    def is_discrete(self) -> bool:
        """Whether the model steps over an interval instead of integrating it (the rivals of the ODE)."""
        return self.config.structure in DISCRETE_MODELS

    @property
    def _dt_is_input(self) -> bool:
        return self.config.structure == "dt-mlp"

    def inputs(self, a: Tensor, dt: Tensor) -> Tensor:
        """What the networks see beside z: the action ``a [*, A]``, and ``log(dt / native dt)`` for dt-mlp."""
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
        known = bool(self.n_fits > 0)
        self.dynamics.rescale(z, change, known)
        self.reward.rescale(z, Scale.of(reward_rate[:, None]), known)
        self.end.rescale(z, Scale.unit(1), known)
        self.may_end.fill_(ends)
        self.ends = ends

    def heads(self, a: Tensor) -> Held:
        """Reward rate, and hazard where it applies, under a held action: ``z -> [E, N, 1 or 2]``."""
        reward = self.reward.hold(a)
        return self._with_hazard(reward, self.end.hold(a)) if self._has_hazard else reward

    def step(self, z: Tensor, a: Tensor, dt: Tensor, detach_heads: bool = False) -> Outcome:
        """One interval: ``z [E, N, Z]``, ``a [E, N, A]`` in [-1, 1], ``dt`` seconds, broadcast to ``[E, N]``.

        With `detach_heads` the losses of reward and termination do not reach the dynamics.
        """
        a = self.inputs(a, dt)
        heads = self.heads(a)
        if detach_heads:
            heads = Held(lambda z, flow=heads.flow: flow(z.detach()), heads.tensors)  # type: ignore[misc]
        return self._outcome(hold(self.dynamics, a), heads, z, dt, detach_heads)

    def roll(self, z: Tensor, plan: Tensor, dt: Tensor) -> Iterator[Outcome]:
        """The outcomes of a plan, interval by interval.

        Shapes: ``z [E, N, Z]``, ``plan [E, N, H, A]``, ``dt [H]`` or ``[E, N, H]`` in seconds.
        """
        plan = self.inputs(plan, dt)
        flows = self.dynamics.hold_plan(plan)
        heads = self.reward.hold_plan(plan)
        if self._has_hazard:
            heads = [self._with_hazard(r, h) for r, h in zip(heads, self.end.hold_plan(plan), strict=True)]
        for k, (flow, head) in enumerate(zip(flows, heads, strict=True)):
            outcome = self._outcome(flow, head, z, dt[..., k])
            z = outcome.z
            yield outcome

    @property
    def _has_hazard(self) -> bool:
        return self.ends and self.config.termination == "hazard"

    def _with_hazard(self, reward: Held, hazard: Held) -> Held:
        per_native = 1.0 / self.native_dt

        def flow(z: Tensor) -> Tensor:
            return torch.cat([reward(z), F.softplus(hazard(z)) * per_native], -1)

        return Held(flow, (*reward.tensors, *hazard.tensors))

    def _outcome(self, flow: Held, heads: Held, z: Tensor, dt: Tensor, detach: bool = False) -> Outcome:
        solver = self.config.solver
        if self.is_discrete:
            # One Euler step is "now + dt * net"; the blind rival takes every interval for a native one.
            solver = ONE_STEP
            dt = dt if self._dt_is_input else torch.full_like(dt, self.native_dt)
        end = integrate_held(flow, z, dt, solver, heads)
        if end.integrals is None:
            raise RuntimeError("the heads were not integrated")
        log_survival: Tensor | None = None
        if self._has_hazard:
            log_survival = -end.integrals[..., 1]
        elif self.ends:
            log_survival = F.logsigmoid(-self.end_logit(end.z.detach() if detach else end.z))
        return Outcome(end.z, end.integrals[..., 0], log_survival, end.ok)

    def end_logit(self, z: Tensor) -> Tensor:
        """Log-odds ``[E, N]`` that an interval with end state ``z [E, N, Z]`` ends the task."""
        logit: Tensor = self.end(z, z[..., :0])[..., 0]
        return logit

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.ends = bool(self.may_end)


def _dynamics(
    n_obs: int, n_action: int, config: WorldModelConfig, generator: torch.Generator, spec: StateSpec | None
) -> MLPField | ObservedField:
    if config.structure in ("ode", *DISCRETE_MODELS):
        return MLPField(config.n_members, n_obs, n_action, n_obs, config.hidden, generator)
    if spec is None:
        raise UsageError(
            f"a state specification for the model {config.structure}", "none", "Give spec=StateSpec(...)."
        )
    return observed_field(config.structure, spec, config.n_members, n_action, config.hidden, generator)
