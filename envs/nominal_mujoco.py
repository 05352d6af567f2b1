"""A MuJoCo model, right or wrong, as the vector field that a learned one starts from."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import mujoco
import mujoco.rollout
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ode_rl.envs.engine import Env, Float64Array
from ode_rl.envs.task import bare_id, make_task
from ode_rl.errors import UsageError
from ode_rl.state import Layout, state_spec

_FULL = mujoco.mjtState.mjSTATE_FULLPHYSICS.value
_STEP = 1e-6
"""Half the width of a finite difference."""
_MOST = 1e4
"""No robot gets here; further out MuJoCo's own numbers overflow."""


class _Rest(NamedTuple):
    """What stands in `rest`: the positions of the last joints, which never move, then the way from there
    to a body, in as many dimensions."""

    n_still: int = 0
    body: str | None = None


_REST = {"InvertedDoublePendulum-v5": _Rest(), "Reacher-v5": _Rest(2, "fingertip")}


class NominalMuJoCo:
    """``dq/dt = v``, ``dv/dt = qacc``: the forward dynamics of MuJoCo as a nominal vector field.

    ``f(z [*, Z], a [*, A]) -> dz/dt [*, Z]`` per second, in the order of
    ``state_spec(env_id, O).layout``, actions in the units of the task and clipped to their range. Give it as
    ``Known(nominal=f)`` to the model ``nominal-residual``, which learns what the MuJoCo model gets wrong.
    `mass` multiplies masses and inertias of all bodies of the task's own model, `damping` that of all
    joints, `gravity` the gravity; then ``edit(model)`` may change the ``mujoco.MjModel`` in place.

    - Of what is neither position nor velocity, Reacher's way from target to fingertip moves with the
      fingertip, its target stands still, and the constraint force of InvertedDoublePendulum has the rate 0.
    - Where a robot walks away, its place along the track is not observed and set to 0: floor and fluid are
      the same everywhere, so that no force depends on it.
    - It is the field of continuous time, without what the task's integrator adds (HalfCheetah takes damping
      implicitly), and it sees velocities as the task shows them (some are clipped to 10 per second).
    - An angle shown as cosine and sine lies within half a turn: where Reacher's elbow gives way to more than
      that, it is taken for bent the other way.
    - A row that is not finite, or too far out for any robot, gets the rate NaN.

    Gradients to z and action are central differences, taken only where torch asks for them; of a clipped
    action they are 0. There is no second derivative. Every state costs one forward dynamics of MuJoCo on the
    CPU, its gradient two more for each position, velocity and action that needs one, shared among `threads`:
    fits and plans take many times as long as with a network alone, the longer the more contacts there are.

    Raises:
        UsageError: for a task without a MuJoCo model or whose observation does not show all of its state, for
            factors that no physics has, and for rows of another width.
    """

    def __init__(
        self,
        env_id: str,
        mass: float = 1.0,
        damping: float = 1.0,
        gravity: float = 1.0,
        edit: Callable[[Any], object] | None = None,
        threads: int = 1,
    ) -> None:
        _check_factors(mass, damping, gravity, threads)
        env = make_task(env_id)
        env.close()
        self.model = _model_of(env, env_id)
        n_obs = (env.observation_space.shape or (0,))[0]
        self.layout = state_spec(env_id, n_obs).layout
        self._rest = _REST.get(bare_id(env_id), _Rest())
        _check_covered(env_id, self.model, self.layout, self._rest)
        _change(self.model, mass, damping, gravity, edit)
        self._scratch = [mujoco.MjData(self.model) for _ in range(threads)]
        self._pool = mujoco.rollout.Rollout(nthread=threads if threads > 1 else 0)
        self._at_rest = np.empty(mujoco.mj_stateSize(self.model, _FULL))
        mujoco.mj_getState(self.model, self._scratch[0], self._at_rest, _FULL)
        free, n_q = self.layout.n_free, self.layout.n_q
        # Joints in the order of z: those not observed come first in MuJoCo, and last among the velocities.
        self._joint_of_q = np.arange(free, free + n_q)
        self._joint_of_v = np.concatenate([self._joint_of_q, np.arange(free)])
        limited = self.model.actuator_ctrllimited.astype(bool)
        self._low = np.where(limited, self.model.actuator_ctrlrange[:, 0], -np.inf)
        self._high = np.where(limited, self.model.actuator_ctrlrange[:, 1], np.inf)

    def __call__(self, z: Tensor, a: Tensor) -> Tensor:
        width, n_action = self.layout.n_state, self.model.nu
        if z.shape[-1:] != (width,) or a.shape != (*z.shape[:-1], n_action):
            raise UsageError(
                f"z [*, {width}] and a [*, {n_action}]",
                f"{tuple(z.shape)} and {tuple(a.shape)}",
                "Give each state, in the order of state_spec(env_id, O).layout, its action.",
            )
        rates: Tensor = _Rates.apply(z, a, self)
        return rates

    def rates(self, z: Float64Array, action: Float64Array) -> Float64Array:
        """``z [M, Z], action [M, A] -> dz/dt [M, Z]``."""
        n_q = self.layout.n_q
        return np.concatenate([z[:, n_q : 2 * n_q], self._other_rates(z, action)], -1)

    def pull_back(
        self, z: Float64Array, action: Float64Array, weight: Float64Array, by_z: bool, by_action: bool
    ) -> tuple[Float64Array, Float64Array]:
        """Gradients ``[M, Z], [M, A]`` of ``sum(weight * rates(z, action))``, 0 where not asked for."""
        n_q, n_moving = self.layout.n_q, self.layout.n_q + self.layout.n_v
        lost = ~self._is_sane(z, action)
        x, weight = np.concatenate([z, action], -1), np.where(lost, 0.0, weight)
        low = np.concatenate([np.full(z.shape[-1], -np.inf), self._low])
        high = np.concatenate([np.full(z.shape[-1], np.inf), self._high])
        gradient = np.zeros_like(x)
        # No rate depends on what is neither position nor velocity.
        columns = [*range(n_moving)] * by_z + [*range(z.shape[-1], x.shape[-1])] * by_action
        if columns:
            # Both sides within the range: at its end the difference is one-sided, beyond it there is none.
            sides = np.tile(x, (2, len(columns), 1, 1))
            for i, c in enumerate(columns):
                for side, h in ((0, _STEP), (1, -_STEP)):
                    sides[side, i, :, c] = np.clip(x[:, c] + h, low[c], high[c])
            rows = sides.reshape(-1, x.shape[-1])
            found = self._other_rates(rows[:, : z.shape[-1]], rows[:, z.shape[-1] :])
            up, down = np.einsum("sikm,km->sik", found.reshape(2, len(columns), len(x), -1), weight[:, n_q:])
            gap = (sides[0] - sides[1])[np.arange(len(columns)), :, columns]
            gradient[:, columns] = np.divide(up - down, gap, out=np.zeros_like(gap), where=gap > 0).T
        if by_z:
            gradient[:, n_q : 2 * n_q] += weight[:, :n_q]
        gradient = np.where(lost, 0.0, gradient)
        return gradient[:, : z.shape[-1]], gradient[:, z.shape[-1] :]

    def _other_rates(self, z: Float64Array, action: Float64Array) -> Float64Array:
        """The rates of all that are no positions, ``[M, Z - n_q]``."""
        sane = self._is_sane(z, action)
        states, n_v = self._states(np.where(sane, z, 0.0)), self.layout.n_v
        control = np.where(sane, np.clip(action, self._low, self._high), 0.0)
        found = np.zeros((len(z), n_v + self.layout.n_rest))
        found[:, :n_v] = self._accelerations(states, control)[:, self._joint_of_v]
        if self._rest.body is not None:
            n = self._rest.n_still
            found[:, n_v + n : n_v + 2 * n] = self._velocities(self._rest.body, states)[:, :n]
        return np.where(sane, found, np.nan)

    def _accelerations(self, states: Float64Array, control: Float64Array) -> Float64Array:
        """``qacc [M, nv]``, read off one explicit Euler step: ``mujoco.rollout`` returns nothing else."""
        model = self.model
        if not len(states):
            return np.zeros((0, model.nv))
        data = self._scratch[: max(1, self._pool.nthread)]
        # What is found for a state should not depend on the one before it.
        warm = np.zeros((len(states), model.nv))
        after, _ = self._pool.rollout(model, data, states, control[:, None], initial_warmstart=warm)
        velocities = slice(1 + model.nq, 1 + model.nq + model.nv)  # positions follow the time
        found: Float64Array = (after[:, 0, velocities] - states[:, velocities]) / model.opt.timestep
        return found

    def _velocities(self, body: str, states: Float64Array) -> Float64Array:
        """Velocity ``[M, 3]`` of a body's origin."""
        model, data = self.model, self._scratch[0]
        number, jacobian = model.body(body).id, np.empty((3, model.nv))
        found = np.empty((len(states), 3))
        for i, state in enumerate(states):
            mujoco.mj_setState(model, data, state, _FULL)
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            mujoco.mj_jacBody(model, data, jacobian, None, number)
            found[i] = jacobian @ data.qvel
        return found

    def _states(self, z: Float64Array) -> Float64Array:
        """MuJoCo's states ``[M, *]``: time, positions, velocities."""
        n_q, n_moving, still = self.layout.n_q, self.layout.n_q + self.layout.n_v, self._rest.n_still
        states = np.tile(self._at_rest, (len(z), 1))
        states[:, 1 + np.arange(self.layout.n_free)] = 0.0
        states[:, 1 + self._joint_of_q] = z[:, :n_q]
        states[:, 1 + self.model.nq - still : 1 + self.model.nq] = z[:, n_moving : n_moving + still]
        states[:, 1 + self.model.nq + self._joint_of_v] = z[:, n_q:n_moving]
        return states

    def _is_sane(self, z: Float64Array, action: Float64Array) -> npt.NDArray[np.bool_]:
        """``[M, 1]``: whether MuJoCo can work with a row."""
        within = (np.abs(z) < _MOST).all(-1, keepdims=True) & np.isfinite(action).all(-1, keepdims=True)
        return np.asarray(within)


class _Rates(torch.autograd.Function):
    """`NominalMuJoCo.rates` with its gradient."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, action: Tensor, nominal: NominalMuJoCo) -> Tensor:
        ctx.save_for_backward(z, action)
        ctx.nominal = nominal
        return torch.from_numpy(nominal.rates(_rows(z), _rows(action))).to(z).reshape(z.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        z, action = ctx.saved_tensors
        rows = (_rows(x) for x in (z, action, gradient))
        by_z, by_action = ctx.nominal.pull_back(*rows, *ctx.needs_input_grad[:2])
        return (
            torch.from_numpy(by_z).to(z).reshape(z.shape),
            torch.from_numpy(by_action).to(action).reshape(action.shape),
            None,
        )


def _rows(x: Tensor) -> Float64Array:
    rows: Float64Array = x.detach().double().cpu().reshape(-1, x.shape[-1]).numpy()
    return rows


def _model_of(env: Env, env_id: str) -> Any:
    model = getattr(env.unwrapped, "model", None)
    if not isinstance(model, mujoco.MjModel):
        remedy = "Write the nominal field as a function of (z, action) in torch, and give Known(nominal=f)."
        raise UsageError("a task with a MuJoCo model", repr(env_id), remedy)
    return model


def _check_covered(env_id: str, model: Any, layout: Layout, rest: _Rest) -> None:
    shown = layout.n_free + layout.n_q + rest.n_still
    if model.nq != shown or model.nv != shown or model.na:
        raise UsageError(
            "a task that shows positions and velocities of all of its joints",
            f"{env_id!r}, where {model.nv} joints move and {layout.n_v} velocities are observed",
            "Write the nominal field as a function of (z, action), or take the model 'second-order'.",
        )


def _check_factors(mass: float, damping: float, gravity: float, threads: int) -> None:
    factors = (("mass", mass, 1e-9), ("damping", damping, 0.0), ("gravity", gravity, -1e9))
    for name, factor, least in factors:
        number = isinstance(factor, (int, float)) and not isinstance(factor, bool)
        if not (number and least <= factor < math.inf):
            kind = {"mass": "above 0", "damping": "of at least 0"}.get(name, "that is finite")
            raise UsageError(f"a factor {name} {kind}", repr(factor), f"Write {name}=1.2 for 20 % more.")
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise UsageError("threads >= 1", repr(threads), "Write threads=2.")


def _change(
    model: Any, mass: float, damping: float, gravity: float, edit: Callable[[Any], object] | None
) -> None:
    model.body_mass *= mass
    model.body_inertia *= mass
    model.dof_damping *= damping
    model.opt.gravity *= gravity
    if edit is not None:
        edit(model)
    # What MuJoCo derives from masses, such as the softness of contacts, follows them.
    mujoco.mj_setConst(model, mujoco.MjData(model))
    model.opt.integrator = mujoco.mjtIntegrator.mjINT_EULER
    flags = mujoco.mjtDisableBit
    # An explicit step, so that it shows qacc; and a state too wild is to be seen, not replaced by another.
    model.opt.disableflags |= flags.mjDSBL_EULERDAMP.value | flags.mjDSBL_AUTORESET.value
