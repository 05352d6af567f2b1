"""The figures of a comparison of runs."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ode_rl.compare import Groups
from ode_rl.files import replace_file

# Okabe & Ito (2008): colours that the colour-blind can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")
COLUMNS = 3


def plot_curves(path: Path, comparison: dict[str, Any], groups: Groups) -> Path:
    """Interquartile mean of the return against environment steps, a panel per task, with 95 % intervals.

    Thin lines are single runs; a dotted line is the threshold.
    """
    looks = _looks([name for by_name in groups.values() for name in by_name])
    columns = min(COLUMNS, len(groups))
    rows = math.ceil(len(groups) / columns)
    figure = _figure(max(6.4, 4.6 * columns), 3.8 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (env_id, by_name) in zip(panels, groups.items(), strict=False):
        task = comparison["tasks"][env_id]
        for name, runs in by_name.items():
            for run in runs:
                axes.plot(run.env_steps, run.returns, linewidth=0.6, alpha=0.5, **looks[name])
            curve = task["groups"][name]["curve"]
            label = f"{name} ({len(runs)} seed{'s' if len(runs) > 1 else ''})"
            at = curve["env_steps"]
            axes.plot(
                at,
                curve["interquartile_mean"],
                linewidth=2,
                marker="o",
                markersize=3.5,
                label=label,
                **looks[name],
            )
            if curve["low"] is not None:
                axes.fill_between(
                    at, curve["low"], curve["high"], color=looks[name]["color"], alpha=0.18, linewidth=0
                )
        if task["threshold"] is not None:
            axes.axhline(task["threshold"], color="#000000", linewidth=0.9, linestyle=":")
        axes.set_title(env_id, fontsize=10)
        axes.set_xlabel("environment steps")
        axes.legend(frameon=False, fontsize=8)
        _tidy(axes)
    for axes in panels[len(groups) :]:
        axes.set_axis_off()
    panels[0].set_ylabel("return")
    return _save(figure, path)


def plot_profiles(path: Path, comparison: dict[str, Any]) -> Path:
    """Share of the runs whose final score is above each value, with 95 % intervals."""
    profiles = comparison["profiles"]
    looks = _looks(list(profiles["groups"]))
    figure = _figure(6.4, 4.2)
    axes = figure.subplots()
    for name, own in profiles["groups"].items():
        axes.plot(profiles["thresholds"], own["share_above"], linewidth=2, label=name, **looks[name])
        if own["low"] is not None:
            axes.fill_between(
                profiles["thresholds"],
                own["low"],
                own["high"],
                color=looks[name]["color"],
                alpha=0.18,
                linewidth=0,
            )
    axes.set_xlabel(f"score t ({comparison['score']})", fontsize=9)
    axes.set_ylabel("share of runs with a score above t")
    axes.legend(frameon=False, fontsize=9)
    _tidy(axes)
    return _save(figure, path)


def plot_improvement(path: Path, comparison: dict[str, Any]) -> Path:
    """Probability that a run of one group ends better than one of another, with 95 % intervals."""
    rows = comparison["improvement"]
    figure = _figure(6.8, 1.4 + 0.5 * len(rows))
    axes = figure.subplots()
    for i, row in enumerate(rows):
        p, interval = row["probability"], row["interval"] or [row["probability"]] * 2
        error = [[p - interval[0]], [interval[1] - p]]
        axes.errorbar([p], [i], xerr=error, fmt="o", color=COLOURS[0], capsize=4)
    axes.axvline(0.5, color="#7f7f7f", linewidth=0.9, linestyle=":")
    axes.set_yticks(range(len(rows)), [f"{row['x']}  >  {row['y']}" for row in rows], fontsize=8)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(-0.02, 1.02)
    axes.invert_yaxis()
    axes.set_xlabel("probability of improvement")
    _tidy(axes)
    return _save(figure, path)


def _looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A colour and a line for each name."""
    return {
        name: {"color": COLOURS[i % len(COLOURS)], "linestyle": STYLES[i // len(COLOURS) % len(STYLES)]}
        for i, name in enumerate(dict.fromkeys(names))
    }


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _tidy(axes: Any) -> None:
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["right", "top"]].set_visible(False)


def _save(figure: Figure, path: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    replace_file(path, buffer.getvalue())
    return path
