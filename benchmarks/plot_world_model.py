"""Draw and print the results of the world model.

python benchmarks/plot_world_model.py     # writes docs/off_dt.png and prints tables of means over seeds
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from _table import RESULTS, read
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by all readers.
COLOURS = {"ode": "#0072B2", "dt-mlp": "#D55E00", "residual-mlp": "#009E73", "gru-dt": "#CC79A7"}
TRAINED = (0.7, 1.4)

Rows = list[dict[str, str]]


def off_dt_figure(rows: Rows, out: Path) -> None:
    """One panel a task: error against dt, mean of the seeds and each seed."""
    rows = [r for r in rows if r["row"] == "off-dt" and r["dt_ratio"]]
    tasks = list(dict.fromkeys(r["task"] for r in rows))
    figure = Figure(figsize=(3.0 * max(1, len(tasks)), 3.3), layout="constrained")
    for panel, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        panel.axvspan(*TRAINED, color="0.9", lw=0, label="dt seen in training")
        for model, colour in COLOURS.items():
            found: dict[float, list[float]] = defaultdict(list)
            for r in rows:
                if r["task"] == task and r["model"] == model:
                    found[float(r["dt_ratio"])].append(float(r["value"]))
            x = sorted(found)
            panel.plot(x, [np.mean(found[k]) for k in x], "-", color=colour, label=model, lw=2)
            for k in x:
                panel.plot([k] * len(found[k]), found[k], "o", color=colour, ms=3, alpha=0.6)
        ticks = [0.25, 0.5, 1, 2, 4]
        panel.set(xscale="log", yscale="log", title=task, xlabel="dt / native dt")
        panel.set_xticks(ticks, [f"{t:g}" for t in ticks])
        panel.minorticks_off()
        panel.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("one-interval NRMSE")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    print(out)


def print_means(rows: Rows, row: str, metric: str) -> None:
    """A table of one metric: tasks down, models across, means over the seeds with their number."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for r in rows:
        if r["row"] == row and r["metric"] == metric:
            found[r["task"]][r["model"]].append(float(r["value"]))
    if not found:
        return
    models = list(dict.fromkeys(m for by_model in found.values() for m in by_model))
    print(f"\n{row}: {metric}")
    print("| task | seeds | " + " | ".join(models) + " |")
    print("|---" * (len(models) + 2) + "|")
    for task, by_model in found.items():
        n = max(len(v) for v in by_model.values())
        values = [f"{np.mean(by_model[m]):.3g}" if m in by_model else "" for m in models]
        print(f"| {task} | {n} | " + " | ".join(values) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS / "world_model.csv")
    parser.add_argument("--out", type=Path, default=RESULTS.parent.parent / "docs" / "off_dt.png")
    args = parser.parse_args()
    rows = read(args.results)
    off_dt_figure(rows, args.out)
    for row, metric in dict.fromkeys((r["row"], r["metric"]) for r in rows):
        if row != "off-dt" or metric.startswith("mean"):
            print_means(rows, row, metric)


if __name__ == "__main__":
    main()
