"""The renderer of a task, set to states that are read off observations."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ode_rl.envs.smooth import SmoothTask
from ode_rl.envs.task import bare_id
from ode_rl.errors import UsageError
from ode_rl.state import StateSpec, state_spec
from ode_rl.types import FloatArray

PENDULUM = "Pendulum-v1"
# How far a state may be from the one whose observation it was read from.
CLOSE = 1e-4


class CannotRender(Exception):
    """The task or the machine makes no pictures; the message says why in one line."""


class Stage:
    """A rendering environment whose state is set from observations.

    Raises:
        CannotRender: if observations do not say the state, or the task has no way to set it.
    """

    def __init__(self, env: Any, env_id: str, seed: int) -> None:
        self.env, self.base = env, env.unwrapped
        self._refusal = f"the state of {env_id} cannot be read off its observations"
        try:
            self.spec: StateSpec = state_spec(env_id, env.observation_space.shape[0])
        except UsageError as error:
            raise CannotRender(self._refusal) from error
        obs, _ = env.reset(seed=seed)
        if bare_id(env_id) == PENDULUM:
            self._set = self._set_pendulum
        elif isinstance(self.base, SmoothTask):
            self._set = self._set_smooth
        elif hasattr(self.base, "set_state") and hasattr(self.base, "data"):
            self._set = self._set_mujoco
            self._check_mujoco(np.asarray(obs, np.float64))
        else:
            raise CannotRender(f"{env_id} has no set_state(qpos, qvel)")

    def _check_mujoco(self, obs: FloatArray) -> None:
        """Compare the pose read off an observation with the one that the task is in."""
        pose, qpos = self.poses(obs[None], np.zeros(0))[0], np.array(self.base.data.qpos)
        if len(pose) != len(qpos) or np.abs(pose - qpos)[self.spec.layout.n_free :].max() > CLOSE:
            raise CannotRender(self._refusal)

    def _set_pendulum(self, pose: FloatArray) -> None:
        self.base.state, self.base.last_u = np.array([pose[0], 0.0]), None

    def _set_smooth(self, pose: FloatArray) -> None:
        self.base.set_state(np.concatenate([pose, np.zeros_like(pose)]))

    def _set_mujoco(self, pose: FloatArray) -> None:
        self.base.set_state(pose, np.zeros_like(self.base.data.qvel))

    def poses(self, obs: FloatArray, dt: FloatArray, way: FloatArray | None = None) -> FloatArray:
        """Positions ``[T+1, n]`` in the order of the task's own state, for observations ``[T+1, O]``.

        Positions that are not observed, such as the way along a track, are summed up from their velocities,
        from ``way [n_free]`` on.
        """
        layout = self.spec.layout
        z = self.spec.encode(torch.from_numpy(obs)).numpy()
        q, speed = z[:, : layout.n_q], z[:, layout.n_q + layout.n_q : layout.n_q + layout.n_v]
        start = np.zeros(layout.n_free) if way is None else way
        steps = np.cumsum(0.5 * (speed[1:] + speed[:-1]) * dt[:, None], 0)
        free = start + np.concatenate([np.zeros((1, layout.n_free)), steps])
        constant = z[:, [layout.n_q + layout.n_v + i for i in layout.constant]]
        poses: FloatArray = np.concatenate([free, q, constant], 1)
        return poses

    def draw(self, pose: FloatArray) -> npt.NDArray[np.uint8]:
        """A picture ``[height, width, 3]`` of the task in a pose ``[n]``."""
        self._set(pose)
        return np.asarray(self.env.render(), np.uint8)
