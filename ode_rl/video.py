"""Video of episodes, played back in real time."""

from __future__ import annotations

import ctypes.util
import importlib
import logging
import math
import os
import sys
from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from ode_rl.envs.stage import CannotRender
from ode_rl.envs.task import make_task
from ode_rl.envs.task_timing import TaskTiming, Timing
from ode_rl.evaluate import EVALUATION_SEED, Watcher, asks_interval, told_interval
from ode_rl.types import Agent

Env = gymnasium.Env[Any, Any]
Frame = npt.NDArray[np.uint8]

MOST_EPISODES, MOST_FRAMES_PER_SECOND, MOST_WIDTH = 9, 60.0, 1920

logger = logging.getLogger(__name__)


def record_video(
    agent: Agent,
    env_id: str,
    path: Path,
    seed: int = EVALUATION_SEED,
    timing: Timing = None,
    episodes: int = 1,
) -> Path | None:
    """Record episodes as an mp4, in a grid if there are several (at most 9), played back in real time.

    Episode i starts from seed ``seed + i``. A second of the video is a simulated second at any control
    interval, drawn ones included. An episode that is over stays, darkened, until all are.

    Returns None, and logs why, where the task or the machine cannot render.
    """
    _render_without_display()
    envs: list[Env] = []
    try:
        for _ in range(min(episodes, MOST_EPISODES)):
            envs.append(_made_to_render(env_id, timing))
        fps = _frames_per_second(envs[0], timing)
        streams = [in_real_time(_episode(agent, env, seed + i), fps) for i, env in enumerate(envs)]
        _write(path, streams[0] if len(streams) == 1 else _grid(streams), fps)
    except CannotRender as reason:
        logger.warning("no video: %s", reason)
        return None
    finally:
        for env in envs:
            env.close()
    return path


def in_real_time(frames: Iterator[tuple[Frame, float]], fps: float) -> Iterator[Frame]:
    """Frames that are shown for so many seconds each, as frames at a constant rate; the last one once."""
    end, count = 0.0, 0
    for frame, seconds in frames:
        end += seconds
        while count / fps < end - 1e-6 / fps:
            count += 1
            yield frame
    yield frame


def _frames_per_second(env: Env, timing: Timing) -> float:
    """One frame per interval, the shortest where they vary; no more than players show."""
    drawn = TaskTiming.of(timing).dt_range
    shortest = drawn[0] if drawn is not None else float(env.metadata["dt"])
    return float(min(MOST_FRAMES_PER_SECOND, 1 / shortest))


def _grid(streams: list[Iterator[Frame]]) -> Iterator[Frame]:
    """All episodes side by side, thinned out to a size that players show."""
    columns = math.ceil(math.sqrt(len(streams)))
    rows = math.ceil(len(streams) / columns)
    last: list[Frame] = []
    for pictures in zip_longest(*streams):
        ended = [new is None for new in pictures]
        last = [
            before if new is None else new for new, before in zip(pictures, last or pictures, strict=True)
        ]
        shown = [frame // 2 if over else frame for frame, over in zip(last, ended, strict=True)]
        blank = np.full_like(last[0], 255)
        cells = shown + [blank] * (rows * columns - len(shown))
        lines = [np.concatenate(cells[i : i + columns], 1) for i in range(0, len(cells), columns)]
        whole = np.concatenate(lines, 0)
        thin = math.ceil(whole.shape[1] / MOST_WIDTH)
        yield _even(whole[::thin, ::thin])


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


def _write(path: Path, frames: Iterator[Frame], fps: float) -> None:
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


def _episode(agent: Agent, env: Env, seed: int) -> Iterator[tuple[Frame, float]]:
    """Act for one episode; yields the frame before each step with the seconds of it, and the last one."""
    obs, _ = env.reset(seed=seed)
    state, start, over = None, np.ones(1, bool), False
    asks = asks_interval(agent)
    while not over:
        frame = _frame(env)
        if isinstance(agent, Watcher):  # which may have looked at another episode in between
            agent.watch([env])
        told = told_interval(asks, [env])
        actions, state = agent.predict(np.asarray(obs)[None], state, start, True, **told)
        action = np.asarray(actions).reshape(env.action_space.shape or ())
        obs, _, terminated, truncated, info = env.step(action)
        start, over = np.zeros(1, bool), terminated or truncated
        yield frame, float(info["dt"])
    yield _frame(env), 0.0


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
