"""Video of what was recorded beside what the model imagined, drawn by the task's own renderer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ode_rl.envs.stage import Stage
from ode_rl.envs.task_timing import Timing
from ode_rl.open_loop import OpenLoop
from ode_rl.video import _even, _made_to_render, _render_without_display, _write

MOST_FRAMES_PER_SECOND = 30
STRIP_HEIGHT, GAP = 40, 8


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
            left, right = _even(stage.draw(real[k])), _even(stage.draw(imagined[k]))
            yield _beside(left, right, times[k])


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
