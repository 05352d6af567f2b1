"""The figures of a report."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ode_rl.calibration import bands
from ode_rl.open_loop import OpenLoop

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito (2008): colours that the colour-blind can tell apart.
TRUTH, MODEL, NOTHING, SPREAD, THIRD = "#000000", "#0072B2", "#7f7f7f", "#D55E00", "#009E73"
LEVEL_COLOURS = (THIRD, MODEL, SPREAD)
MOST_DIMENSIONS, COLUMNS, MOST_POINTS = 24, 4, 2000
BAND = 0.9
# Digits at the ticks of a logarithmic axis, the fewest that give enough of them.
TICKS = ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), tuple(np.arange(1, 10, 0.1).round(1)))
FEWEST_TICKS = 3


def plot_horizon(path: Path, quality: dict[str, Any], title: str) -> Path:
    """Error against horizon, beside that of predicting no change and the spread of the ensemble."""
    sources = quality["sources"]
    figure = _figure(4.6 * len(sources), 4.2)
    all_axes = figure.subplots(1, len(sources), sharey=True, squeeze=False)[0]
    for axes, (name, found) in zip(all_axes, sources.items(), strict=True):
        lines = (
            ("no_change", "predicting no change", NOTHING, "--", "s"),
            ("error", "ensemble mean", MODEL, "-", "o"),
            ("spread", "spread of the ensemble", SPREAD, ":", "^"),
        )
        for key, label, colour, style, marker in lines:
            _line(axes, found["times"], found[key], label, colour, style, marker)
        axes.set_xscale("log")
        labels = [
            f"{t:g} s\nn = {n}" + (f"\n{failed} failed" if failed else "")
            for t, n, failed in zip(found["times"], found["n"], found["failed"], strict=True)
        ]
        _ticks(axes, found["times"], labels)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("time since the true observation")
    for axes in all_axes:  # which share their heights
        _log_y(axes)
    all_axes[0].set_ylabel("RMSE / spread of the observation")
    all_axes[0].legend(frameon=False, fontsize=9)
    figure.suptitle(f"Open-loop error  ·  {title}", fontsize=11)
    return _save(figure, path)


def plot_returns(path: Path, returns: dict[str, list[float]], title: str) -> Path:
    """Returns of single episodes and their means, side by side."""
    figure = _figure(4.6, 4.2)
    axes = figure.subplots()
    for i, (colour, found) in enumerate(zip((MODEL, TRUTH), returns.values(), strict=True)):
        spots = i + np.linspace(-0.15, 0.15, len(found))
        axes.plot(spots, found, "o", color=colour, alpha=0.5, markersize=4)
        axes.hlines(float(np.mean(found)), i - 0.25, i + 0.25, color=colour, linewidth=2)
    axes.set_xticks(range(len(returns)), [f"{name}\n{np.mean(x):.1f}" for name, x in returns.items()])
    axes.set_xlim(-0.5, len(returns) - 0.5)
    axes.set_ylabel("return of an episode")
    figure.suptitle(f"Imagined and real return  ·  {title}", fontsize=11)
    return _save(figure, path)


def plot_dt(path: Path, quality: dict[str, Any], title: str) -> Path:
    """Error of one interval against its length; ratios seen in training are filled."""
    rows = [row for row in quality["rows"] if row["error"] is not None]
    figure = _figure(7.2, 4.4)
    axes = figure.subplots()
    ratios = [row["ratio"] for row in rows]
    _line(axes, ratios, [row["no_change"] for row in rows], "predicting no change", NOTHING, "--", "s")
    axes.plot(ratios, [row["error"] for row in rows], color=MODEL, linewidth=1.8)
    for seen, label, face in ((True, "seen in training", MODEL), (False, "not seen in training", "white")):
        own = [row for row in rows if row["seen"] is seen]
        if own:
            x, y = [row["ratio"] for row in own], [row["error"] for row in own]
            style: dict[str, Any] = {
                "markerfacecolor": face,
                "markeredgecolor": MODEL,
                "markersize": 8,
                "zorder": 4,
            }
            axes.plot(x, y, "o", color=MODEL, label=f"ensemble mean, {label}", **style)
    lo, hi = quality["training_ratios"]
    if hi > lo * 1.01:
        axes.axvspan(lo, hi, color=MODEL, alpha=0.08, linewidth=0)
    axes.set_xscale("log")
    _ticks(axes, ratios, [f"{row['ratio']:.3g}x\n{1e3 * row['dt']:.3g} ms" for row in rows])
    axes.set_xlim(min([*ratios, 1]) / 1.2, max([*ratios, 1]) * 1.2)
    _log_y(axes)
    axes.set_ylabel("RMSE / standard deviation of the change")
    missing = ", ".join(f"{row['ratio']:g}x" for row in quality["left_out"])
    note = f"   (does not exist in this task: {missing})" if missing else ""
    axes.set_xlabel(f"length of the interval, in native ones{note}")
    axes.legend(frameon=False, fontsize=9)
    axes.set_title(f"Error of one interval  ·  {title}", fontsize=11)
    return _save(figure, path)


def plot_changes(
    path: Path, loop: OpenLoop, names: Sequence[str], errors: Sequence[float | None], title: str
) -> Path:
    """Predicted against true change within one interval, for every dimension that moves."""
    true = loop.truth[:, 0] - loop.start
    predicted = loop.mean()[:, 0] - loop.start
    some = np.linspace(0, len(true) - 1, min(MOST_POINTS, len(true))).astype(int)

    def draw(axes: Axes, i: int) -> None:
        axes.scatter(true[some, i], predicted[some, i], s=4, alpha=0.35, color=MODEL, linewidths=0)
        ends = [float(true[:, i].min()), float(true[:, i].max())]
        axes.plot(ends, ends, color=TRUTH, linewidth=0.8, zorder=1)
        axes.set_title(f"{names[i]}   error {_number(errors[i])}", fontsize=9)

    shown = [i for i, error in enumerate(errors) if error is not None]
    heading = f"Change in one interval: predicted (up) against true (right)  ·  {title}"
    return _small_multiples(path, shown, draw, heading, 2.4)


def plot_open_loop(
    path: Path, loop: OpenLoop, row: int, temperature: float, names: Sequence[str], title: str
) -> Path:
    """One recorded piece and its prediction with 90 % bands, for every dimension that moves."""
    one = loop.rows(np.array([row]))
    low, high = (edge[0] for edge in bands(one, BAND, temperature))
    mean, mask = one.mean()[0], one.mask[0]
    time = np.concatenate([[0.0], one.time[0][mask]])

    def with_start(values: npt.NDArray[Any], i: int) -> npt.NDArray[Any]:
        return np.concatenate([one.start[0, i : i + 1], values[mask, i]])

    def draw(axes: Axes, i: int) -> None:
        lower, upper = with_start(low, i), with_start(high, i)
        axes.fill_between(time, lower, upper, color=MODEL, alpha=0.2, linewidth=0, label="90 % band")
        axes.plot(time, with_start(one.truth[0], i), color=TRUTH, linewidth=1.6, label="truth")
        axes.plot(time, with_start(mean, i), color=MODEL, linewidth=1.4, linestyle="--", label="prediction")
        axes.set_title(names[i], fontsize=9)

    moved = np.abs(one.truth[0] - one.start[0])[mask].max(0) if mask.any() else np.zeros(len(names))
    shown = [int(i) for i in np.flatnonzero(moved > 0)]
    heading = f"Open-loop prediction from one true observation, against seconds  ·  {title}"
    return _small_multiples(path, shown, draw, heading, 1.9, legend=True)


def plot_outcomes(
    path: Path,
    loop: OpenLoop,
    reward: dict[str, Any],
    termination: dict[str, Any],
    title: str,
) -> Path:
    """Predicted against true rewards; how often the task ended against how often it was said to."""
    ever = termination["model"] != "never" or termination["ends"] > 0
    figure = _figure(9.4 if ever else 5.4, 4.4)
    left, *others = figure.subplots(1, 2 if ever else 1, squeeze=False)[0]
    use = ~loop.terminated[:, 0] & loop.all_ok[:, 0]
    true, predicted = loop.true_reward[use, 0], loop.reward.mean(0)[use, 0]
    some = np.linspace(0, max(0, len(true) - 1), min(MOST_POINTS, len(true))).astype(int)
    left.scatter(true[some], predicted[some], s=5, alpha=0.35, color=MODEL, linewidths=0)
    if len(true):
        left.plot([true.min(), true.max()], [true.min(), true.max()], color=TRUTH, linewidth=0.8)
    left.set_xlabel("true reward of an interval")
    left.set_ylabel("predicted reward")
    left.set_title(
        f"rewards: error {_number(reward['nrmse'])} of their spread, bias {_number(reward['bias'])}",
        fontsize=9,
    )
    for axes in others:
        _draw_reliability(axes, termination)
    _plain_axes(left)
    what = "Reward and termination" if ever else "Reward (the task never ended)"
    figure.suptitle(f"{what}  ·  {title}", fontsize=11)
    return _save(figure, path)


def plot_calibration(path: Path, quality: dict[str, Any], title: str) -> Path:
    """Coverage of bands against horizon, before and after the temperature."""
    figure = _figure(9.4, 4.2)
    pairs = zip(figure.subplots(1, 2, sharey=True), ("before", "after"), strict=True)
    for axes, name in pairs:
        axes.axhspan(0.85, 0.95, color=MODEL, alpha=0.08, linewidth=0)
        for level, colour, found in zip(quality["levels"], LEVEL_COLOURS, quality[name], strict=True):
            axes.axhline(level, color=colour, linewidth=0.9, linestyle="--")
            _line(axes, quality["times"], found, f"{100 * level:.0f} % band", colour, "-", "o")
        axes.set_xscale("log")
        _ticks(axes, quality["times"], [f"{t:g} s" for t in quality["times"]])
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("time since the true observation")
        axes.set_title(
            "as learned" if name == "before" else f"with temperature {_number(quality['temperature'])}",
            fontsize=10,
        )
        _plain_axes(axes)
        if name == "before":
            axes.set_ylabel("share of the truth inside")
            axes.legend(frameon=False, fontsize=9, loc="best")
    figure.suptitle(f"Coverage of predictive bands (dashed: wanted)  ·  {title}", fontsize=11)
    return _save(figure, path)


# --- parts -------------------------------------------------------------------------------------------------


def _draw_reliability(axes: Axes, termination: dict[str, Any]) -> None:
    bins = termination["reliability"]
    ends, intervals = termination["ends"], termination["intervals"]
    axes.set_title(f"terminations: {ends} in {intervals} intervals", fontsize=9)
    axes.plot([0, 1], [0, 1], color=TRUTH, linewidth=0.8)
    x, y = [each["predicted"] for each in bins], [each["ended"] for each in bins]
    axes.plot(x, y, color=MODEL, marker="o", markersize=6)
    for each in bins:
        axes.annotate(
            f"{each['intervals']}",
            (each["predicted"], each["ended"]),
            textcoords="offset points",
            xytext=(5, -11),
            fontsize=8,
        )
    likelihoods = (termination["log_likelihood"], termination["base_rate_log_likelihood"])
    text = (
        f"log-likelihood {_number(likelihoods[0])}, of the base rate {_number(likelihoods[1])}\n"
        f"precision {_number(termination['precision'])}, recall {_number(termination['recall'])}"
    )
    axes.text(0.03, 0.97, text, va="top", fontsize=8, transform=axes.transAxes)
    axes.set_xlabel("predicted probability of an end (number of intervals)")
    axes.set_ylabel("share that ended")
    axes.set_xlim(-0.04, 1.08)
    axes.set_ylim(-0.09, 1.2)
    _plain_axes(axes)


def _small_multiples(
    path: Path,
    shown: Sequence[int],
    draw: Callable[[Axes, int], None],
    title: str,
    height: float,
    legend: bool = False,
) -> Path:
    left_out, shown = len(shown) - MOST_DIMENSIONS, shown[:MOST_DIMENSIONS]
    columns = min(COLUMNS, max(1, len(shown)))
    rows = max(1, math.ceil(len(shown) / columns))
    figure = _figure(max(7.2, 2.7 * columns), height * rows + 0.9)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    for axes, i in zip(grid, shown, strict=False):
        draw(axes, i)
        axes.tick_params(labelsize=7)
        axes.ticklabel_format(style="sci", scilimits=(-3, 4), useMathText=True)
        axes.xaxis.offsetText.set_fontsize(7)
        axes.yaxis.offsetText.set_fontsize(7)
        _plain_axes(axes)
    more = f"\n{left_out} more dimensions in report.json" if left_out > 0 else ""
    figure.suptitle(title + more, fontsize=11)
    if legend and shown:
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return _save(figure, path)


def _line(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float | None],
    label: str,
    colour: str,
    style: str,
    marker: str,
) -> None:
    heights = [math.nan if value is None else value for value in y]
    axes.plot(
        x, heights, style, color=colour, label=label, linewidth=1.8, marker=marker, markersize=5, zorder=3
    )


def _ticks(axes: Axes, places: Sequence[float], labels: Sequence[str]) -> None:
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(list(places), labels=list(labels), fontsize=9)


def _log_y(axes: Axes) -> None:
    """A logarithmic axis whose few ticks are plain numbers."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in TICKS:
        places = [m * 10.0**d for d in decades for m in steps]
        if sum(low <= place <= high for place in places) >= FEWEST_TICKS:
            break
    axes.yaxis.set_major_locator(FixedLocator(places))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(low, high)
    _plain_axes(axes)


def _plain_axes(axes: Axes) -> None:
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["right", "top"]].set_visible(False)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, format="png")
    return path
