"""True dynamics of Gymnasium's MuJoCo tasks, on MuJoCo itself."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import mujoco
import mujoco.rollout
import numpy as np
import numpy.typing as npt

from ode_rl.envs.engine import Env, Float64Array, TrueOutcome, same_kind, whole_steps
from ode_rl.envs.mujoco_rewards import RULES, Trajectories
from ode_rl.envs.time_grid import TimeGrid
from ode_rl.errors import UsageError
from ode_rl.types import FloatArray

_FULL = mujoco.mjtState.mjSTATE_FULLPHYSICS.value
_INTEGRATION = mujoco.mjtState.mjSTATE_INTEGRATION.value
_INPUTS = mujoco.mjtState.mjSTATE_USER.value & ~mujoco.mjtState.mjSTATE_CTRL.value
_CHUNK = 4_000_000
"""Numbers (float64) that the trajectories of one chunk of plans may take."""


class _Start(NamedTuple):
    """Start states ``[M, *]``: as MuJoCo writes them, the solver's warm start, and what rewards look at.

    `pushed` says that something other than the controls acts on one of them, such as an outer force.
    """

    integration: Float64Array
    full: Float64Array
    warm: Float64Array
    qpos: Float64Array
    qvel: Float64Array
    derived: dict[str, Float64Array]
    pushed: bool

    def rows(self, index: npt.NDArray[np.int64]) -> _Start:
        derived = {name: values[index] for name, values in self.derived.items()}
        integration, full, warm, qpos, qvel = (values[index] for values in self[:5])
        return _Start(integration, full, warm, qpos, qvel, derived, self.pushed)


class MujocoEngine:
    """A state is MuJoCo's integration state, followed by the derived quantities that the task looks at.

    Tasks that look only at joint positions and velocities run in ``mujoco.rollout``. It returns nothing
    derived, and under RK4 the bodies' positions that `step` looks at belong to the last stage of the method
    and cannot be found afterwards; so tasks that look at those are stepped one by one.
    """

    def __init__(self, base: Any, kind: str, grid: TimeGrid, threads: int) -> None:
        self._task, self._model, self._threads = base, base.model, threads
        self._rules = RULES[kind]
        self._scratch = [mujoco.MjData(self._model) for _ in range(threads)]
        self._pool = mujoco.rollout.Rollout(nthread=threads if threads > 1 else 0)
        self._size = mujoco.mj_stateSize(self._model, _INTEGRATION)
        self._default_inputs = _get(self._model, self._scratch[0], _INPUTS)
        self._native_count = grid.native_ticks
        self.native_dt = grid.native
        self.n_state = self._size + sum(view.size for _, view in self._derived(self._scratch[0]))
        self.n_action: int = self._model.nu

    def snapshot(self, env: Env) -> Float64Array:
        base = self._same_model(env)
        derived = [view.ravel() for _, view in self._derived(base.data)]
        return np.concatenate([_get(base.model, base.data, _INTEGRATION), *derived])

    def restore(self, env: Env, state: Float64Array) -> None:
        base = self._same_model(env)
        physics, derived = self._split(state)
        mujoco.mj_setState(base.model, base.data, physics, _INTEGRATION)
        mujoco.mj_forward(base.model, base.data)  # what is drawn should fit the state
        mujoco.mj_setState(base.model, base.data, physics, _INTEGRATION)  # the solver's warm start
        for name, view in self._derived(base.data):
            view[:] = derived[name]

    def rollout(self, states: Float64Array, plans: FloatArray, dt: Float64Array) -> TrueOutcome:
        """Roll out all plans, a chunk at a time so that memory stays bounded."""
        b, n, h, a = plans.shape
        counts = whole_steps(dt, self._model.opt.timestep)
        start = self._start(states)
        actions = plans.reshape(b * n, h, a)
        rolled = not (self._rules.derived or start.pushed)
        outcomes = []
        for rows in self._chunks(b * n, counts, rolled):
            begin = start.rows(rows // n)
            simulate = self._rolled if rolled else self._stepped
            outcomes.append(self._rules.outcome(self._task, simulate(begin, actions[rows], counts)))
        reward, terminated, obs = (np.concatenate(parts) for parts in zip(*outcomes, strict=True))
        reward = reward.astype(np.float64) * (counts / self._native_count)
        return TrueOutcome(reward.reshape(b, n, h), terminated.reshape(b, n, h), obs.reshape(b, n, h, -1))

    def _rolled(self, start: _Start, actions: FloatArray, counts: npt.NDArray[np.int64]) -> Trajectories:
        data = self._scratch[: max(1, self._pool.nthread)]
        control = np.repeat(actions, counts, axis=1).astype(np.float64)
        path, _ = self._pool.rollout(self._model, data, start.full, control, initial_warmstart=start.warm)
        path = np.concatenate([start.full[:, None], path[:, counts.cumsum() - 1]], axis=1)
        nq, nv = self._model.nq, self._model.nv  # they follow the time
        qpos, qvel = path[..., 1 : 1 + nq], path[..., 1 + nq : 1 + nq + nv]
        return Trajectories(qpos, qvel, {}, actions, counts * self._model.opt.timestep)

    def _stepped(self, start: _Start, actions: FloatArray, counts: npt.NDArray[np.int64]) -> Trajectories:
        m, h = actions.shape[:2]
        first = {"qpos": start.qpos, "qvel": start.qvel, **start.derived}
        path = {name: np.empty((m, h + 1, *value.shape[1:])) for name, value in first.items()}
        for name, value in first.items():
            path[name][:, 0] = value
        shares = np.array_split(np.arange(m), self._threads)

        def step_share(data: Any, share: npt.NDArray[np.int64]) -> None:
            self._step_rows(data, share, start.integration, actions, counts, path)

        if self._threads == 1:
            step_share(self._scratch[0], shares[0])
        else:
            with ThreadPoolExecutor(self._threads) as pool:  # MuJoCo lets other threads run while it steps
                list(pool.map(step_share, self._scratch, shares))
        seconds = counts * self._model.opt.timestep
        return Trajectories(path.pop("qpos"), path.pop("qvel"), path, actions, seconds)

    def _step_rows(
        self,
        data: Any,
        rows: npt.NDArray[np.int64],
        integration: Float64Array,
        actions: FloatArray,
        counts: npt.NDArray[np.int64],
        path: dict[str, Float64Array],
    ) -> None:
        """Step `rows` one after another as the task's own `step` does, and fill in their paths."""
        model, nsteps = self._model, counts.tolist()
        views = [(getattr(data, name), path[name]) for name in path]
        needs_forces = "cfrc_ext" in path
        for row in rows:
            mujoco.mj_setState(model, data, integration[row], _INTEGRATION)
            for k, nstep in enumerate(nsteps):
                data.ctrl[:] = actions[row, k]
                mujoco.mj_step(model, data, nstep=nstep)
                if needs_forces:
                    mujoco.mj_rnePostConstraint(model, data)
                for view, values in views:
                    values[row, k + 1] = view

    def _start(self, states: Float64Array) -> _Start:
        model, data = self._model, self._scratch[0]
        found, pushed = [], False
        for state in states:
            physics, derived = self._split(state)
            mujoco.mj_setState(model, data, physics, _INTEGRATION)
            parts = (data.qacc_warmstart.copy(), data.qpos.copy(), data.qvel.copy())
            found.append((physics, _get(model, data, _FULL), *parts, derived))
            # `mujoco.rollout` would set these to their defaults.
            pushed |= not np.array_equal(_get(model, data, _INPUTS), self._default_inputs)
        *arrays, rows = zip(*found, strict=True)
        derived = {name: np.stack([row[name] for row in rows]) for name in self._rules.derived}
        integration, full, warm, qpos, qvel = (np.stack(values) for values in arrays)
        return _Start(integration, full, warm, qpos, qvel, derived, pushed)

    def _same_model(self, env: Env) -> Any:
        base = same_kind(env, self._task)
        if _sizes(base.model) != _sizes(self._model):
            remedy = "Make one TrueDynamics for each model."
            raise UsageError("a running environment with the same MuJoCo model", base.fullpath, remedy)
        return base

    def _split(self, state: Float64Array) -> tuple[Float64Array, dict[str, Float64Array]]:
        derived, at = {}, self._size
        for name, view in self._derived(self._scratch[0]):
            derived[name] = state[at : at + view.size].reshape(view.shape)
            at += view.size
        return np.ascontiguousarray(state[: self._size]), derived

    def _derived(self, data: Any) -> list[tuple[str, Float64Array]]:
        return [(name, getattr(data, name)) for name in self._rules.derived]

    def _chunks(self, m: int, counts: npt.NDArray[np.int64], rolled: bool) -> Iterator[npt.NDArray[np.int64]]:
        width = int(counts.sum()) if rolled else len(counts)
        per_plan = width * (self.n_state + self.n_action)
        size = max(self._threads, _CHUNK // per_plan)
        for begin in range(0, m, size):
            yield np.arange(begin, min(begin + size, m))


def _sizes(model: Any) -> tuple[int, ...]:
    return (model.nq, model.nv, model.nbody, model.nsite, mujoco.mj_stateSize(model, _INTEGRATION))


def _get(model: Any, data: Any, spec: int) -> Float64Array:
    state = np.empty(mujoco.mj_stateSize(model, spec))
    mujoco.mj_getState(model, data, state, spec)
    return state
