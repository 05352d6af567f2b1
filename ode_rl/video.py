"""Video of an episode, played back in real time."""

from __future__ import annotations

import ctypes.util
import importlib
import logging
import os
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from ode_rl.envs.stage import CannotRender
from ode_rl.envs.task import make_task
from ode_rl.envs.task_timing import Timing
from ode_rl.evaluate import EVALUATION_SEED, Watcher, asks_interval, told_interval
from ode_rl.types import Agent

Env = gymnasium.Env[Any, Any]
Frame = npt.NDArray[np.uint8]

logger = logging.getLogger(__name__)


def record_video(
    agent: Agent, env_id: str, path: Path, seed: int = EVALUATION_SEED, timing: Timing = None
) -> Path | None:
    """Record one episode as an mp4 with ``1 / dt`` frames per second, dt the (mean) control interval.

    Returns None, and logs why, where the task or the machine cannot render.
    """
    _render_without_display()
    try:
        env = _made_to_render(env_id, timing)
    except CannotRender as reason:
        logger.warning("no video: %s", reason)
        return None
    try:
        fps = max(1, round(1 / env.metadata["dt"]))
        _write(path, _episode(agent, env, seed), fps)
    finally:
        env.close()
    return path


def _made_to_render(env_id: str, timing: Timing) -> Env:
    """Return the task, reset and rendered once.

    Raises:
        CannotRender: if any of this fails.
    """
    plain = make_task(env_id, timing)
    plain.close()
    if "rgb_array" not in plain.metadata.get("render_modes", []):
        raise CannotRender(f"{env_id} has no render mode rgb_array")
    try:
        importlib.import_module("imageio_ffmpeg")
        env = make_task(env_id, timing, render_mode="rgb_array")
        env.reset(seed=0)
        shape = _frame(env).shape
    except Exception as error:  # graphics drivers fail in as many ways as there are drivers
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise CannotRender(f"{env_id} cannot render here ({text})") from error
    if len(shape) != 3 or shape[2] != 3:
        raise CannotRender(f"{env_id} renders no RGB image")
    return env


def _write(path: Path, frames: Iterator[Frame], fps: int) -> None:
    import imageio_ffmpeg

    partial = path.with_name(f"{path.stem}.new{path.suffix}")
    first = next(frames)
    size = first.shape[1::-1]
    writer = imageio_ffmpeg.write_frames(
        str(partial), size, fps=fps, macro_block_size=1, ffmpeg_log_level="error"
    )
    try:
        writer.send(None)
        for frame in chain([first], frames):
            writer.send(frame)
        writer.close()
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _episode(agent: Agent, env: Env, seed: int) -> Iterator[Frame]:
    """Act for one episode; yields the frame before each step and the last one."""
    obs, _ = env.reset(seed=seed)
    if isinstance(agent, Watcher):
        agent.watch([env])
    yield _frame(env)
    state, start, over = None, np.ones(1, bool), False
    asks = asks_interval(agent)
    while not over:
        told = told_interval(asks, [env])
        actions, state = agent.predict(np.asarray(obs)[None], state, start, True, **told)
        obs, _, terminated, truncated, _ = env.step(np.asarray(actions).reshape(env.action_space.shape or ()))
        start, over = np.zeros(1, bool), terminated or truncated
        yield _frame(env)


def _frame(env: Env) -> Frame:
    return _even(np.asarray(env.render(), np.uint8))


def _even(frame: Frame) -> Frame:
    """The picture with even width and height, which yuv420p needs."""
    height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
    return np.ascontiguousarray(frame[:height, :width])


def _render_without_display() -> None:
    # Without the library, MUJOCO_GL=egl would break `import mujoco` itself, not only rendering.
    if sys.platform == "linux" and not os.environ.get("DISPLAY") and ctypes.util.find_library("EGL"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
