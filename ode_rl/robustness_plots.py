"""The figure of a robustness sweep."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ode_rl.conditions import TABLE
from ode_rl.files import replace_file
from ode_rl.robustness import Row, SweepResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito (2008): colours that the colour-blind can tell apart.
AGENT, CHANCE = "#0072B2", "#7f7f7f"


def plot_sweep(path: Path, result: SweepResult) -> Path:
    """Draw the share of the return that is kept, and the return per simulated second, against the condition.

    Bars are 95 % intervals over start seeds.
    """
    figure = Figure(figsize=(10.4, 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    sweep = TABLE[result.sweep]
    numeric = all(row.value is not None for row in result.rows)
    places = [row.value if numeric and row.value is not None else i for i, row in enumerate(result.rows)]
    _draw_shares(left, places, result.rows)
    _draw_returns(right, places, result)
    for axes in (left, right):
        if numeric and sweep.logarithmic:
            axes.set_xscale("log")
        _ticks(axes, places, [row.label for row in result.rows], steep=not numeric)
        axes.set_xlabel(sweep.axis)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["right", "top"]].set_visible(False)
    title = f"{result.sweep}  ·  {result.agent} on {result.env_id}  ·  {result.n_episodes} episodes"
    figure.suptitle(title, fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    replace_file(path, buffer.getvalue())
    return path


def _draw_shares(axes: Axes, places: Sequence[float], rows: Sequence[Row]) -> None:
    known = [(x, row) for x, row in zip(places, rows, strict=True) if row.share_kept is not None]
    axes.axhline(100, color=CHANCE, linewidth=0.8, linestyle=":")
    axes.axhline(0, color=CHANCE, linewidth=0.8, linestyle=":")
    if known:
        x = [place for place, _ in known]
        share = np.array([100 * (row.share_kept or 0.0) for _, row in known])
        bars = np.array([row.share_interval or (row.share_kept, row.share_kept) for _, row in known], float)
        error = np.abs(100 * bars.T - share)
        axes.errorbar(x, share, yerr=error, color=AGENT, marker="o", linewidth=1.8, capsize=3)
    axes.set_ylabel("share kept (%)")
    axes.set_title("0 %: random actions, 100 %: as trained", fontsize=9)


def _draw_returns(axes: Axes, places: Sequence[float], result: SweepResult) -> None:
    seconds = all(row.evaluation.return_per_second is not None for row in result.rows)
    name = "return per simulated second" if seconds else "return"
    own = [_earned(row.evaluation, seconds) for row in result.rows]
    chance = [row.random_return_per_second if seconds else row.random_mean_return for row in result.rows]
    axes.plot(places, own, color=AGENT, marker="o", linewidth=1.8, label="agent")
    axes.plot(places, chance, color=CHANCE, marker="s", linewidth=1.2, label="random actions")  # type: ignore[arg-type]
    axes.axhline(
        _earned(result.reference, seconds),
        color=AGENT,
        linewidth=0.8,
        linestyle="--",
        label="agent as trained",
    )
    axes.set_ylabel(name)
    axes.legend(frameon=False, fontsize=9)


def _earned(evaluation: Any, seconds: bool) -> float:
    return float(evaluation.return_per_second if seconds else evaluation.mean_return)


def _ticks(axes: Axes, places: Sequence[float], labels: Sequence[str], steep: bool) -> None:
    named = dict(zip(places, labels, strict=True))
    axes.xaxis.set_major_locator(FixedLocator(list(named)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: named.get(x, "")))
    if steep:
        axes.tick_params(axis="x", labelrotation=30)
