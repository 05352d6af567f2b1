"""Two tasks of a user, registered when this module is imported.

They say how long a step lasts in two ways: one in ``metadata["dt"]``, one as an attribute.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]
Env = gymnasium.Env[Vector, Vector]


class SpringCart(Env):
    """Push a damped spring-cart to a target position that needs a constant force.

    ``m x'' = -k x - d x' + F``, observations ``[x (m), x' (m/s)]``, one force in newtons. The force is
    held for a step, and the step is solved exactly. Reward ``-(x - target)^2 - 0.001 F^2``, after it.
    """

    metadata = {"dt": 0.05, "render_modes": []}  # noqa: RUF012
    mass, stiffness, damping, target = 1.0, 2.0, 0.5, 1.0

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-10.0, 10.0, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-3.0, 3.0, (1,), np.float32)
        generator = np.array([[0.0, 1.0], [-self.stiffness, -self.damping]]) / [[1.0], [self.mass]]
        self._decay = _exponential(generator * self.metadata["dt"])
        self._state = np.zeros(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Vector, dict[str, Any]]:
        super().reset(seed=seed)
        self._state = self.np_random.uniform(-1.0, 1.0, 2)
        return self._state.astype(np.float32), {}

    def step(self, action: Vector) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        force = float(np.clip(action, -3.0, 3.0)[0])
        rest = np.array([force / self.stiffness, 0.0])
        self._state = rest + self._decay @ (self._state - rest)
        reward = -((self._state[0] - self.target) ** 2) - 1e-3 * force**2
        return self._state.astype(np.float32), float(reward), False, False, {}


class Balance(Env):
    """Keep an unstable point near the middle: +1 per step, terminated when ``|x|`` passes 1 m.

    ``x'' = 16 x - x' + 10 u``, observations ``[x (m), x' (m/s)]``, one acceleration ``u`` in [-1, 1].
    """

    metadata = {"render_modes": []}  # noqa: RUF012
    dt = 0.04
    bound = 1.0

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        # The action is a third state with derivative zero, so that one exponential solves the step.
        self._flow = _exponential(np.array([[0.0, 1.0, 0.0], [16.0, -1.0, 10.0], [0.0, 0.0, 0.0]]) * self.dt)
        self._state = np.zeros(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Vector, dict[str, Any]]:
        super().reset(seed=seed)
        self._state = self.np_random.uniform(-0.2, 0.2, 2)
        return self._state.astype(np.float32), {}

    def step(self, action: Vector) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        held = float(np.clip(action, -1.0, 1.0)[0])
        self._state = (self._flow @ [*self._state, held])[:2]
        terminated = bool(abs(self._state[0]) > self.bound)
        return self._state.astype(np.float32), 1.0, terminated, False, {}


def _exponential(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Matrix exponential by its power series, which converges fast for one short step."""
    result = term = np.eye(len(matrix))
    for n in range(1, 20):
        term = term @ matrix / n
        result = result + term
    return result


gymnasium.register("own/SpringCart-v0", entry_point=f"{__name__}:SpringCart", max_episode_steps=100)
gymnasium.register("own/ShortCart-v0", entry_point=f"{__name__}:SpringCart", max_episode_steps=20)
gymnasium.register("own/Balance-v0", entry_point=f"{__name__}:Balance", max_episode_steps=200)
