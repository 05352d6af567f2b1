"""Video of what was recorded beside what the model imagined, drawn by the task's own renderer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ode_rl.envs.smooth import SmoothTask
from ode_rl.envs.task import bare_id
from ode_rl.envs.task_timing import Timing
from ode_rl.errors import UsageError
from ode_rl.open_loop import OpenLoop
from ode_rl.state import StateSpec, state_spec
from ode_rl.types import FloatArray
from ode_rl.video import CannotRender, _frame, _made_to_render, _render_without_display, _write

MOST_FRAMES_PER_SECOND = 30
STRIP_HEIGHT, GAP = 40, 8
PENDULUM = "Pendulum-v1"
# How far a state may be from the one whose observation it was read from.
CLOSE = 1e-4


def write_imagined_video(path: Path, loop: OpenLoop, env_id: str, timing: Timing, seed: int) -> None:
    """Write the pieces of `loop`, one after the other: left as recorded, right as imagined from their starts.

    Raises:
        CannotRender: where the task cannot be drawn here, or its state cannot be read off its observations.
    """
    _render_without_display()
    env = _made_to_render(env_id, timing)
    try:
        stage = Stage(env, env_id, seed)
        shortest = float(loop.dt[loop.mask].min())
        every = max(1, math.ceil(1 / (MOST_FRAMES_PER_SECOND * shortest) - 1e-6))
        fps = max(1, round(1 / (shortest * every)))
        _write(path, _frames(stage, loop, every), fps)
    finally:
        env.close()


def _frames(stage: Stage, loop: OpenLoop, every: int) -> Iterator[npt.NDArray[np.uint8]]:
    mean = loop.mean()
    for row in range(len(loop.start)):
        n = int(loop.mask[row].sum())
        dt = loop.dt[row, :n]
        real = stage.poses(np.concatenate([loop.start[row : row + 1], loop.truth[row, :n]]), dt)
        imagined = stage.poses(np.concatenate([loop.start[row : row + 1], mean[row, :n]]), dt)
        times = np.concatenate([[0.0], loop.time[row, :n]])
        for k in range(0, n + 1, every):
            if not np.isfinite(imagined[k]).all():
                break
            left, right = stage.draw(real[k]), stage.draw(imagined[k])
            yield _beside(left, right, times[k])


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

    def poses(self, obs: FloatArray, dt: FloatArray) -> FloatArray:
        """Positions ``[T+1, n]`` in the order of the task's own state, for observations ``[T+1, O]``.

        Positions that are not observed, such as the way along a track, are summed up from their velocities.
        """
        layout = self.spec.layout
        z = self.spec.encode(torch.from_numpy(obs)).numpy()
        q, speed = z[:, : layout.n_q], z[:, layout.n_q + layout.n_q : layout.n_q + layout.n_v]
        way = np.cumsum(0.5 * (speed[1:] + speed[:-1]) * dt[:, None], 0)
        free = np.concatenate([np.zeros((1, layout.n_free)), way])
        constant = z[:, [layout.n_q + layout.n_v + i for i in layout.constant]]
        poses: FloatArray = np.concatenate([free, q, constant], 1)
        return poses

    def draw(self, pose: FloatArray) -> npt.NDArray[np.uint8]:
        """A picture of the task in a pose ``[n]``."""
        self._set(pose)
        return _frame(self.env)


def _beside(left: Any, right: Any, seconds: float) -> npt.NDArray[np.uint8]:
    gap = np.full((left.shape[0], GAP, 3), 255, np.uint8)
    row = np.concatenate([left, gap, right], 1)
    strip = _strip(row.shape[1], f"{seconds:.2f} s")
    return np.ascontiguousarray(np.concatenate([strip, row], 0))


def _strip(width: int, time: str) -> npt.NDArray[np.uint8]:
    figure = Figure(figsize=(width / 100, STRIP_HEIGHT / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    for x, text in ((0.25, "recorded"), (0.5, time), (0.75, "imagined")):
        figure.text(x, 0.5, text, ha="center", va="center", fontsize=12)
    canvas.draw()
    image = np.asarray(canvas.buffer_rgba())[:STRIP_HEIGHT, :width, :3]
    return np.array(image, np.uint8)
