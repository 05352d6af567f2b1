"""The few types that flow: env.step -> Transition -> Trajectory -> Segment -> model -> action.

Shape letters, everywhere in the package: ``B`` batch, ``L`` segment length, ``H`` plan length,
``N`` candidates, ``E`` ensemble members, ``O`` observation, ``A`` action, ``Z`` model state.
Times are in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ode_rl.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

FloatArray = npt.NDArray[np.floating[Any]]


class Transition(NamedTuple):
    """One control interval: `action` held for `dt` seconds took `obs` to `next_obs`.

    `reward` belongs to the whole interval. `terminated` means that the task ended in this
    interval; `truncated` means that only the recording ended (a time limit).
    """

    obs: FloatArray
    action: FloatArray
    reward: float
    next_obs: FloatArray
    dt: float
    terminated: bool
    truncated: bool


@dataclass(frozen=True)
class Trajectory:
    """One episode of T control intervals.

    Shapes: ``obs [T+1, O]``, ``action [T, A]``, ``reward [T]``, ``dt [T]`` (float64 seconds, because
    differences of float32 times lose short intervals).
    """

    obs: FloatArray
    action: FloatArray
    reward: FloatArray
    dt: npt.NDArray[np.float64]
    terminated: bool
    truncated: bool

    def __len__(self) -> int:
        return len(self.dt)

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """Seconds since the start of the episode at every observation, ``[T+1]``."""
        return np.concatenate([[0.0], np.cumsum(self.dt)])


class Segment(NamedTuple):
    """A torch batch of sub-sequences; numpy becomes torch here and only here.

    Shapes: ``obs [*, L+1, O]``, ``action [*, L, A]``, ``reward``, ``dt``, ``terminated`` and ``mask``
    ``[*, L]``, where ``*`` is ``B`` or ``E, B``. `mask` is 1 where the interval lies inside its episode.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    dt: Tensor
    terminated: Tensor
    mask: Tensor


class VectorField(Protocol):
    """An ensemble of right-hand sides ``dz/dt = f(z, a)`` with actions held constant.

    ``z [E, N, Z]`` and ``a [E, N, A]`` give ``dz/dt [E, N, Z]`` in units of z per second.
    """

    def __call__(self, z: Tensor, a: Tensor) -> Tensor: ...


class Held(NamedTuple):
    """The autonomous field ``z -> f(z, a)`` of one interval of held action.

    A field may have a method ``hold(a) -> Held`` that does the action's share of the work once per
    interval, and ``hold_plan(a [E, N, H, A]) -> list[Held]`` that does it once per plan.
    `tensors` are all tensors that `flow` closes over: the adjoint method returns gradients for these.
    `kick_drift` says that z has positions and velocities: ``(z, dz/dt, h) -> z'`` takes the velocities h
    seconds further along dz/dt, then the positions along the new velocities (the semi-implicit method).
    `chart` names coordinates that suit the solver better than those of z.
    """

    flow: Callable[[Tensor], Tensor]
    tensors: tuple[Tensor, ...]
    kick_drift: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    chart: Chart | None = None

    def __call__(self, z: Tensor) -> Tensor:
        return self.flow(z)


class Chart(NamedTuple):
    """The same field in other coordinates ``y = encode(z)``, ``z = decode(y)``, such as angles for cosines.

    An interval is solved in y; only its ends are in z.
    """

    held: Held
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Solver:
    """How one control interval is integrated; a value, so that it can be stored in a config."""

    method: str = "midpoint"
    """Fixed-step: euler, semi_implicit, midpoint, bosh3_fixed, rk4. Adaptive: those of torchdiffeq, such
    as dopri5."""
    max_step: float = math.inf
    """Longest substep in seconds; an interval takes ceil(max(dt) / max_step) substeps (adaptive: at
    least as many)."""
    rtol: float = 1e-4
    """Relative tolerance of adaptive methods."""
    atol: float = 1e-6
    """Absolute tolerance of adaptive methods, in units of the state."""
    adjoint: bool = False
    """Hold no memory per substep: adaptive methods solve the adjoint ODE backwards, fixed-step ones compute
    each again."""
    max_steps: int = 1000
    """Adaptive methods: a row whose tolerance asks for more steps than this in one `max_step` has failed."""

    def __post_init__(self) -> None:
        if not self.max_step > 0:
            raise UsageError("max_step > 0 seconds", self.max_step, "Write Solver(max_step=0.05).")
        if not (self.rtol > 0 and self.atol > 0):
            raise UsageError(
                "positive tolerances",
                f"rtol={self.rtol}, atol={self.atol}",
                "Write Solver(rtol=1e-4, atol=1e-6).",
            )
        if self.max_steps < 1:
            raise UsageError("max_steps >= 1", self.max_steps, "Write Solver(max_steps=1000).")


class Agent(Protocol):
    """Anything that acts; Stable-Baselines3's `evaluate_policy` needs no more than this."""

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[npt.NDArray[Any], Any]: ...


class TrueCourse(Protocol):
    """What the true task makes of plans: ``reward, terminated [B, N, H]``, ``next_obs [B, N, H, O]``."""

    @property
    def reward(self) -> npt.NDArray[np.float64]: ...

    @property
    def terminated(self) -> npt.NDArray[np.bool_]: ...

    @property
    def next_obs(self) -> FloatArray: ...


class Simulator(Protocol):
    """The true dynamics of a task, for planners: what `ode_rl.envs.TrueDynamics` is."""

    @property
    def native_dt(self) -> float: ...

    def snapshot(self, env: Any) -> npt.NDArray[np.float64]: ...

    def rollout(
        self, states: npt.ArrayLike, plans: npt.ArrayLike, dt: npt.ArrayLike | None = None
    ) -> TrueCourse: ...
