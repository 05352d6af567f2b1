"""True dynamics of tasks that are formulas, evaluated for all plans at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from ode_rl.envs.engine import Env, Float64Array, TrueOutcome, same_kind, whole_steps
from ode_rl.envs.time_grid import TimeGrid
from ode_rl.errors import UsageError
from ode_rl.types import FloatArray

PENDULUM = "gymnasium.envs.classic_control.pendulum:PendulumEnv"


class PendulumEngine:
    """Gymnasium's classic Pendulum; a state is its angle and angular velocity, ``[2]``.

    Its step is that of its physics: a longer interval is several of them, and their rewards are summed.
    Shorter steps (the `physics_dt` of a `ControlInterval`) pay their share.
    Source: gymnasium/envs/classic_control/pendulum.py.
    """

    n_state, n_action = 2, 1

    def __init__(self, base: Any, grid: TimeGrid) -> None:
        self._task, self._grid = base, grid
        self._step = grid.native if grid.unit is None else grid.unit
        self.native_dt = grid.native

    def snapshot(self, env: Env) -> Float64Array:
        state = getattr(same_kind(env, self._task), "state", None)
        if state is None:
            raise UsageError("a running environment", "one that was never reset", "Call env.reset() first.")
        return np.array(state, np.float64)

    def restore(self, env: Env, state: Float64Array) -> None:
        same_kind(env, self._task).state = state.copy()

    def rollout(self, states: Float64Array, plans: FloatArray, dt: Float64Array) -> TrueOutcome:
        counts = whole_steps(dt, self._step)
        angle, speed = (np.repeat(part[:, None], plans.shape[1], axis=1) for part in states.T)
        reward = np.zeros(plans.shape[:-1])
        obs = np.empty((*plans.shape[:-1], 3), np.float32)
        for k, count in enumerate(counts):
            torque = np.clip(plans[..., k, 0], -self._task.max_torque, self._task.max_torque)
            for _ in range(count):
                reward[..., k] -= self._cost(angle, speed, torque)
                angle, speed = self._advance(angle, speed, torque)
            obs[..., k, :] = np.stack([np.cos(angle), np.sin(angle), speed], -1)
        return TrueOutcome(reward / self._grid.native_ticks, np.zeros(reward.shape, np.bool_), obs)

    def _cost(self, angle: Float64Array, speed: Float64Array, torque: FloatArray) -> Float64Array:
        upright = (angle + np.pi) % (2 * np.pi) - np.pi
        cost: Float64Array = upright**2 + 0.1 * speed**2 + 0.001 * torque**2
        return cost

    def _advance(
        self, angle: Float64Array, speed: Float64Array, torque: FloatArray
    ) -> tuple[Float64Array, Float64Array]:
        g, m, length = self._task.g, self._task.m, self._task.l
        push = 3 * g / (2 * length) * np.sin(angle) + 3.0 / (m * length**2) * torque
        speed = np.clip(speed + push * self._step, -self._task.max_speed, self._task.max_speed)
        return angle + speed * self._step, speed


class SimulateEngine:
    """Tasks that can be asked what would follow.

    They have ``simulate(state [*, S], action [*, A], dt [*]) -> (state [*, S], reward [*])`` for intervals of
    any length, ``get_state()``, ``set_state(state)`` and ``observe(state [*, S]) -> obs [*, O]``; they never
    terminate.
    """

    METHODS = ("simulate", "get_state", "set_state", "observe")

    def __init__(self, base: Any, grid: TimeGrid) -> None:
        self._task = base
        self.native_dt = grid.native
        self.n_state = int(np.size(base.get_state()))
        self.n_action = int(base.action_space.shape[0])

    @classmethod
    def suits(cls, base: Any) -> bool:
        return all(callable(getattr(base, name, None)) for name in cls.METHODS)

    def snapshot(self, env: Env) -> Float64Array:
        return np.array(same_kind(env, self._task).get_state(), np.float64)

    def restore(self, env: Env, state: Float64Array) -> None:
        same_kind(env, self._task).set_state(state.copy())

    def rollout(self, states: Float64Array, plans: FloatArray, dt: Float64Array) -> TrueOutcome:
        b, n, h, _ = plans.shape
        state: Any = np.repeat(states[:, None], n, axis=1)
        rewards, observations = [], []
        for k in range(h):
            state, reward = self._task.simulate(state, plans[:, :, k], np.full((b, n), dt[k]))
            rewards.append(reward)
            observations.append(self._task.observe(state))
        never = np.zeros((b, n, h), np.bool_)
        return TrueOutcome(np.stack(rewards, 2).astype(np.float64), never, np.stack(observations, 2))
