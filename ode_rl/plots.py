"""The learning curve of a run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ode_rl.checkpoint import read_arrays
from ode_rl.files import read_json, replace_file
from ode_rl.run import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito (2008): colours that the colour-blind can tell apart.
TRAINING, EVALUATION, FINAL = "#7f7f7f", "#0072B2", "#D55E00"
STYLE: dict[str, Any] = {"capsize": 4, "markersize": 7, "linewidth": 1.8, "zorder": 4}


def plot_learning_curve(run: RunFolder) -> Path:
    """Draw the returns of a run against environment steps and simulated time; returns the PNG's path.

    Thin: training episodes. Thick: mean of each evaluation within one standard deviation of its
    episodes. Diamond: the final evaluation.
    """
    config = run.read_config()
    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw_training(axes, run)
    _draw_evaluations(axes, run)
    _draw_final(axes, run, int(config["steps"]))
    axes.set_xlim(0, config["steps"] * 1.02)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("episode return (sum of rewards)")
    axes.set_title(f"{config['env_id']}  ·  {config['agent']}  ·  seed {config['seed']}", fontsize=11, pad=10)
    _time_axis(axes, _seconds_per_step(run, config))
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines["right"].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, loc="best")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    replace_file(run.learning_curve, buffer.getvalue())
    return run.learning_curve


def _draw_training(axes: Axes, run: RunFolder) -> None:
    episodes = run.read_episodes()
    if episodes:
        axes.plot(
            [e.env_steps for e in episodes],
            [e.episode_return for e in episodes],
            color=TRAINING,
            linewidth=0.9,
            marker="o",
            markersize=2.5,
            alpha=0.8,
            label="training episode",
        )


def _draw_evaluations(axes: Axes, run: RunFolder) -> None:
    if not run.evaluations.is_file():
        return
    log = read_arrays(run.evaluations)
    steps, results = log["timesteps"], log["results"]
    mean, std = results.mean(1), results.std(1)
    label = f"evaluation: mean ± std of {results.shape[1]} episodes"
    axes.plot(steps, mean, color=EVALUATION, linewidth=2, marker="o", markersize=5, label=label, zorder=3)
    axes.fill_between(steps, mean - std, mean + std, color=EVALUATION, alpha=0.18, linewidth=0, zorder=2)


def _draw_final(axes: Axes, run: RunFolder, steps: int) -> None:
    if not run.evaluation.is_file():
        return
    final = read_json(run.evaluation)
    mean, std = final["mean_return"], final["std_return"]
    label = f"final: {mean:.1f} ± {std:.1f} over {final['n_episodes']} episodes"
    axes.errorbar([steps], [mean], yerr=[std], color=FINAL, fmt="D", label=label, clip_on=False, **STYLE)


def _time_axis(axes: Axes, seconds: float) -> None:
    functions = (lambda steps: np.asarray(steps) * seconds, lambda time: np.asarray(time) / seconds)
    top = axes.secondary_xaxis("top", functions=functions)
    top.set_xlabel("simulated time (s)")


def _seconds_per_step(run: RunFolder, config: dict[str, Any]) -> float:
    episodes = run.read_episodes()
    return episodes[-1].sim_seconds / episodes[-1].env_steps if episodes else float(config["dt"])
