"""Draw the learning curves of the main job: python benchmarks/plot_main_job.py writes docs/main_job.png."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from _table import RESULTS
from main_job import TASKS
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by all readers.
COLOURS = {
    "mpc": ("#0072B2", "ours: MPC on a neural-ODE world model"),
    "sac": ("#D55E00", "Stable-Baselines3 SAC"),
}


def read_curves(folder: Path, env_id: str, agent: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps ``[P]`` and mean returns ``[seeds, P]`` of all stored curves."""
    curves = []
    for path in sorted(folder.glob(f"{env_id}__{agent}__*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            curves.append([(float(r["env_steps"]), float(r["mean_return"])) for r in csv.DictReader(file)])
    data = np.array(curves)
    return data[0, :, 0], data[:, :, 1]


def main() -> None:
    """Draw one panel a task: the mean of the seeds, each seed as a dot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--curves", type=Path, default=RESULTS / "curves" / "main_job")
    parser.add_argument("--out", type=Path, default=RESULTS.parent.parent / "docs" / "main_job.png")
    args = parser.parse_args()
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    panels = figure.subplots(1, len(TASKS))
    for panel, task in zip(panels, TASKS.values(), strict=True):
        for agent, (colour, label) in COLOURS.items():
            steps, returns = read_curves(args.curves, task.env_id, agent)
            panel.plot(steps, returns.mean(0), color=colour, label=label, lw=2)
            for seed in returns:
                panel.plot(steps, seed, "o", color=colour, ms=3.5, alpha=0.6)
        panel.axhline(task.threshold, color="0.45", ls="--", lw=1)
        panel.text(
            0.02,
            task.threshold,
            f"asked: {task.threshold:g}",
            fontsize=8,
            color="0.35",
            va="bottom",
            transform=panel.get_yaxis_transform(),
        )
        panel.set(title=task.env_id, xlabel="environment steps", ylabel="return of 10 episodes")
        panel.spines[["top", "right"]].set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=130)
    print(args.out)


if __name__ == "__main__":
    main()
