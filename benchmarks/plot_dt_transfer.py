"""Draw the share kept at other intervals: python benchmarks/plot_dt_transfer.py makes docs/dt_transfer.png"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from _table import RESULTS, read
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

# Okabe and Ito's colours, told apart by all readers.
LOOKS = {
    "ode": ("#0072B2", "-", "MPC, neural ODE"),
    "ode-policy": ("#56B4E9", "-", "ODE policy"),
    "dt-mlp": ("#009E73", "--", "MPC, network with dt as input"),
    "residual-mlp-best": ("#E69F00", "--", "MPC, residual network on its own grid"),
    "residual-mlp": ("#E69F00", ":", "MPC, residual network told dt"),
    "sac-dt": ("#D55E00", "--", "SAC, dt observed"),
    "sac": ("#D55E00", ":", "SAC"),
}
ASKED = 0.9


def shares(rows: Sequence[dict[str, str]], name: str) -> dict[float, list[float]]:
    """Share kept of each seed by ratio."""
    found: dict[float, list[float]] = {}
    for row in rows:
        if row["row"] == name and row["metric"] == "share kept":
            found.setdefault(float(row["dt_ratio"]), []).append(float(row["value"]))
    return dict(sorted(found.items()))


def draw(axes: Axes, rows: Sequence[dict[str, str]], task: str) -> None:
    """One panel: lines through the means of the seeds, each seed as a dot."""
    for name, (colour, style, label) in LOOKS.items():
        found = shares(rows, name)
        if not found:
            continue
        means = [100 * sum(each) / len(each) for each in found.values()]
        # Ours on top, where many lines lie on one another.
        ours = {"linewidth": 3, "zorder": 3} if name == "ode" else {"linewidth": 1.8}
        axes.plot(list(found), means, color=colour, linestyle=style, label=label, **ours)
        for ratio, each in found.items():
            axes.plot(
                [ratio] * len(each), [100 * share for share in each], "o", color=colour, ms=3.5, alpha=0.6
            )
    axes.axhline(100 * ASKED, color="0.45", linestyle="--", linewidth=1)
    axes.set_xscale("log")
    ratios = sorted({float(row["dt_ratio"]) for row in rows if row["metric"] == "share kept"})
    axes.xaxis.set_major_locator(FixedLocator(ratios))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"x{x:.3g}"))
    axes.set_ylim(-20, 140)
    axes.set(title=task, xlabel="control interval / that of training")
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Draw one panel a task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS / "dt_transfer.csv")
    parser.add_argument("--out", type=Path, default=RESULTS.parent.parent / "docs" / "dt_transfer.png")
    args = parser.parse_args()
    rows = read(args.results)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    if not tasks:
        parser.exit(
            2, f"expected results in {args.results}, got none. Run benchmarks/dt_transfer.py first.\n"
        )
    figure = Figure(figsize=(max(6.5, 3.9 * len(tasks) + 0.6), 4.4), layout="constrained")
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for panel, task in zip(panels, tasks, strict=True):
        draw(panel, [row for row in rows if row["task"] == task], task)
    panels[0].set_ylabel("share of the return that is kept (%)")
    named = {
        label: line
        for panel in panels
        for line, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    ncols = 2 if len(tasks) < 3 else 4
    figure.legend(
        named.values(), named.keys(), loc="outside lower center", ncols=ncols, frameon=False, fontsize=9
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=130)
    print(args.out)


if __name__ == "__main__":
    main()
