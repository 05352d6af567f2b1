"""The true task as something that plans can be scored with: the upper bound of every learned model."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from ode_rl.envs.closed_form_engine import PENDULUM, PendulumEngine, SimulateEngine
from ode_rl.envs.copy_engine import CopyEngine
from ode_rl.envs.engine import Engine, Env, Float64Array, TrueOutcome, grid_of, kind_of
from ode_rl.envs.task import make_task
from ode_rl.errors import UsageError
from ode_rl.timing import positive_seconds
from ode_rl.types import FloatArray


class TrueDynamics:
    """What plans earn in the task itself, from any state that it has been in.

    - Gymnasium's MuJoCo tasks (v5) run on MuJoCo, in `threads` threads, with vectorised rewards;
    - classic Pendulum is a formula, and a task that has ``simulate(state, action, dt)`` is asked;
    - of any other task copies are stepped one after another, which is slow.

    All but the last see through wrappers to the task: its own actions, observations and rewards. Rewards
    equal those of ``env.step``, bit for bit if plans have the same type of float as the actions there.

    `env` is an id or a made environment, which is not stepped. One rollout at a time.

    Raises:
        UsageError: if the spaces are no flat Boxes, the length of a step is unknown, or the environment
            cannot be copied where it would have to be.
    """

    def __init__(self, env: str | Env, threads: int = 1) -> None:
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise UsageError("threads >= 1", repr(threads), "Write threads=2.")
        if isinstance(env, str):
            env = make_task(env)
        if not isinstance(env, gymnasium.Env):
            remedy = "Write TrueDynamics('Hopper-v5'); a vector environment has one for all its tasks."
            raise UsageError("an environment's id or a gymnasium.Env", type(env).__name__, remedy)
        self._engine = _engine(env, threads)

    @property
    def native_dt(self) -> float:
        """Seconds of a step of the task as it was made."""
        return self._engine.native_dt

    @property
    def n_state(self) -> int:
        """Length S of a state."""
        return self._engine.n_state

    def snapshot(self, env: Env) -> Float64Array:
        """State ``[S]`` of a running environment of the same task, whatever wrappers are around it.

        It holds the physics, bit for bit, not what wrappers count.

        Raises:
            UsageError: if it is another task or was never reset.
        """
        return self._engine.snapshot(env)

    def restore(self, env: Env, state: npt.ArrayLike) -> None:
        """Let `env` go on from ``state [S]``, bit for bit as the environment that it was taken of would.

        Raises:
            UsageError: if it is another task or the state has another length.
        """
        self._engine.restore(env, self._states(np.asarray(state)[None])[0])

    def rollout(
        self, states: npt.ArrayLike, plans: npt.ArrayLike, dt: npt.ArrayLike | None = None
    ) -> TrueOutcome:
        """Follow ``plans [B, N, H, A]`` from ``states [B, S]``, holding actions for ``dt [H]`` seconds.

        Actions are in the task's own units, `dt` defaults to the native one. In MuJoCo an interval has the
        nearest whole number of physics steps, and its reward is that of `step` times ``dt / native``; where
        the task's step is all there is, an interval is whole repetitions of it, and rewards are summed.
        Returns ``reward [B, N, H]``, ``terminated [B, N, H]`` and ``next_obs [B, N, H, O]``, of which those
        after the first end of a plan have no meaning: callers mask them.

        Raises:
            UsageError: if shapes do not fit, or an interval is shorter than one physics step.
        """
        starts = self._states(states)
        actions = self._plans(plans, len(starts))
        return self._engine.rollout(starts, actions, self._seconds(dt, actions.shape[2]))

    def _states(self, states: npt.ArrayLike) -> Float64Array:
        rows = np.ascontiguousarray(states, np.float64)
        if rows.ndim != 2 or rows.shape[1] != self.n_state or not len(rows):
            raise UsageError(f"states [B, {self.n_state}]", rows.shape, "Stack what snapshot(env) returns.")
        return rows

    def _plans(self, plans: npt.ArrayLike, b: int) -> FloatArray:
        actions = np.asarray(plans)
        if not np.issubdtype(actions.dtype, np.floating):
            actions = actions.astype(np.float64)
        width = self._engine.n_action
        if actions.ndim != 4 or len(actions) != b or actions.shape[3] != width or not actions.size:
            expected = f"plans [{b}, N, H, {width}] for {b} states"
            raise UsageError(expected, actions.shape, "Give every state N >= 1 plans of H >= 1 actions.")
        return np.ascontiguousarray(actions)

    def _seconds(self, dt: npt.ArrayLike | None, h: int) -> Float64Array:
        seconds = np.asarray(self.native_dt if dt is None else dt, np.float64)
        if seconds.shape not in ((), (h,)):
            raise UsageError(f"dt [{h}] in seconds", seconds.shape, "Give every action its interval.")
        for value in np.unique(seconds):
            positive_seconds(value)
        return np.broadcast_to(seconds, (h,))


def _engine(env: Env, threads: int) -> Engine:
    base: Any = env.unwrapped
    kind, grid = kind_of(env), grid_of(env)
    if kind == PENDULUM:
        return PendulumEngine(base, grid)
    if kind.startswith("gymnasium.envs.mujoco."):
        from ode_rl.envs.mujoco_engine import MujocoEngine
        from ode_rl.envs.mujoco_rewards import RULES

        if kind in RULES:
            return MujocoEngine(base, kind, grid, threads)
    if SimulateEngine.suits(base):
        return SimulateEngine(base, grid)
    return CopyEngine(env, grid)
