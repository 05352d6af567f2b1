"""Draw the learning curves of the suite: python benchmarks/plot_suite.py writes docs/suite.png."""

from __future__ import annotations

import argparse
import csv
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _suite_plan import TASKS, Task
from _suite_unit import threshold_of
from _table import RESULTS, read
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by all readers; agent and model, colour, dashes, label.
LINES = {
    ("mpc", "ode"): ("#0072B2", "-", "ours: MPC on a neural-ODE world model"),
    ("dyna", "ode"): ("#009E73", "-", "ours: Dyna on a neural-ODE world model"),
    ("ode-policy", "ode"): ("#CC79A7", "-", "ours: policy search in a neural-ODE world model"),
    ("mpc", "residual-mlp"): ("#56B4E9", "--", "MPC on a residual MLP"),
    ("dyna", "residual-mlp"): ("#56B4E9", ":", "Dyna on a residual MLP"),
    ("sac", "none"): ("#D55E00", "-", "Stable-Baselines3 SAC"),
}


class Curves(NamedTuple):
    """Steps ``[P]`` and mean returns ``[seeds, P]``."""

    steps: np.ndarray
    returns: np.ndarray


def read_curves(folder: Path, env_id: str, agent: str, model: str) -> Curves | None:
    """All stored curves, at the steps that all of them have; None if there are none."""
    stem = f"{env_id}__{agent}__{model}__".replace("/", "-")
    paths = [
        path for path in sorted(folder.glob("*.csv")) if re.fullmatch(re.escape(stem) + r"\d+", path.stem)
    ]
    curves = []
    for path in paths:
        with path.open(newline="", encoding="utf-8") as file:
            curves.append(
                {float(row["env_steps"]): float(row["mean_return"]) for row in csv.DictReader(file)}
            )
    steps = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    if not steps:
        return None
    return Curves(np.array(steps), np.array([[curve[step] for step in steps] for curve in curves]))


def draw(panel: Axes, task: Task, folder: Path, threshold: float | None) -> None:
    """One task: the mean of the seeds, and the band between the worst and the best."""
    for (agent, model), (colour, dashes, label) in LINES.items():
        found = read_curves(folder, task.env_id, agent, model)
        if found is None:
            continue
        shown = found.steps <= task.steps
        steps, returns = found.steps[shown], found.returns[:, shown]
        panel.plot(steps, returns.mean(0), dashes, color=colour, label=label, lw=2)
        panel.fill_between(steps, returns.min(0), returns.max(0), color=colour, alpha=0.15, lw=0)
    if threshold is not None:
        panel.axhline(threshold, color="0.45", ls="--", lw=1)
        panel.text(
            0.02,
            threshold,
            f"asked: {threshold:.4g}",
            fontsize=8,
            color="0.35",
            va="bottom",
            transform=panel.get_yaxis_transform(),
        )
    if not panel.lines:
        panel.text(0.5, 0.5, "not measured yet", ha="center", color="0.4", transform=panel.transAxes)
    panel.set(title=task.env_id, xlabel="environment steps", xlim=(0, task.steps))
    panel.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Draw one panel a task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--results", type=Path, default=RESULTS / "suite.csv")
    parser.add_argument("--out", type=Path, default=RESULTS.parent.parent / "docs" / "suite.png")
    args = parser.parse_args()
    n_rows = math.ceil(len(args.tasks) / 4)
    columns = math.ceil(len(args.tasks) / n_rows)
    figure = Figure(figsize=(3.4 * columns, 2.9 * n_rows + 0.5), layout="constrained")
    panels = figure.subplots(n_rows, columns, squeeze=False)
    numbers = read(args.results)
    shown: dict[str, Any] = {}
    for panel, name in zip(panels.flat, args.tasks, strict=False):
        draw(panel, TASKS[name], args.results.parent / "curves", threshold_of(TASKS[name], numbers))
        shown |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    for panel in panels.flat[len(args.tasks) :]:
        panel.set_axis_off()
    for row in panels:
        row[0].set_ylabel("return of 10 episodes")
    if shown:
        figure.legend(list(shown.values()), list(shown), loc="outside upper center", ncols=3, frameon=False)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=130)
    print(args.out)


if __name__ == "__main__":
    main()
