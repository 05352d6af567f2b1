"""The suite: sample efficiency on standard tasks, with the baselines of the same machine beside each row.

    python benchmarks/suite.py                              # everything that is not there yet (days)
    python benchmarks/suite.py --tasks Pendulum-v1 --agents mpc sac --seeds 0
    python benchmarks/suite.py --table                      # print the table, measure nothing
    python benchmarks/suite.py --quick                      # seed 0 of mpc on Pendulum-v1 again, minutes

Each task, agent, model and seed is one unit. It trains in a run folder of its own (in --runs), from where it
goes on if it was cut off; then its curve and its numbers are stored, and it is skipped from then on. Every
evaluation is of 10 episodes (deterministic, start seeds of their own); the wall clock counts learning and
acting, not these evaluations. Missing units are marked in the table.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from _suite_plan import TASKS, Task, Unit, units_of
from _suite_unit import FINAL, measure, threshold_of
from _table import RESULTS, is_done, read

from ode_rl.agents.registry import AGENTS
from ode_rl.compare import Run, solved
from ode_rl.errors import UsageError
from ode_rl.run import RUNS


def chosen(task: Task, args: argparse.Namespace) -> list[Unit]:
    """The units of a task that are asked for."""
    found = units_of(task, args.seeds, args.steps, args.agents or ())
    if args.agents is not None:
        found = [unit for unit in found if unit.agent in args.agents or unit.is_reference]
    if args.models is not None:
        found = [unit for unit in found if unit.model in args.models or unit.is_reference]
    return found


def is_measured(unit: Unit, out: Path) -> bool:
    """Whether the numbers of a unit are there, and its curve."""
    return is_done(out, metric=FINAL, **unit.key) and (unit.is_reference or unit.curve(out).is_file())


def mean_curve(units: list[Unit], out: Path) -> Run | None:
    """The mean of the seeds, where all have evaluations, as a run of its own; None if there is none."""
    curves = []
    for unit in units:
        with unit.curve(out).open(newline="", encoding="utf-8") as file:
            curves.append({float(row["env_steps"]): row for row in csv.DictReader(file)})
    steps = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    if not steps:
        return None

    def column(name: str) -> np.ndarray:
        return np.array([[float(curve[step][name]) for step in steps] for curve in curves])

    errors = column("std_return") / np.sqrt(column("n_episodes"))
    first = units[0]
    return Run(
        path="",
        env_id=first.env_id,
        agent=first.agent,
        seed=-1,
        settings={},
        env_steps=np.array(steps),
        sim_seconds=np.zeros(len(steps)),
        wall_s=column("wall_s").max(0),
        returns=column("mean_return").mean(0),
        errors=np.sqrt(np.square(errors).sum(0)) / len(curves),
    )


def line(task: Task, units: list[Unit], out: Path, rows: list[dict[str, str]]) -> str:
    """One line of the table: the seeds of one agent with one model."""
    first, there = units[0], [unit for unit in units if is_measured(unit, out)]
    missing = [str(unit.seed) for unit in units if unit not in there]
    run, threshold = mean_curve(there, out), threshold_of(task, rows)
    asked = "not measured" if threshold is None else f"{threshold:.4g} by {task.must} ({task.aim})"
    cells = [task.env_id, first.agent, first.model, asked]
    if run is None:
        return "| " + " | ".join([*cells, "**missing**", "", "", f"seeds {' '.join(missing)}"]) + " |"
    at = int(np.flatnonzero(run.env_steps <= max(task.must, run.env_steps[0]))[-1])
    each = [r["value"] for r in rows if r["row"] == first.row and r["metric"] == "wall clock per step"]
    reached = None if threshold is None else solved(run, threshold).env_steps
    cells.append(f"{run.returns[at]:.4g} at {run.env_steps[at]:.0f}")
    cells.append("" if threshold is None else "not reached" if reached is None else f"{reached:.0f}")
    cells.append(f"{1e3 * np.mean([float(value) for value in each]):.0f} ms" if each else "")
    cells.append(f"{len(there)} seeds" + (f", **missing** {' '.join(missing)}" if missing else ""))
    return "| " + " | ".join(cells) + " |"


def table(out: Path, args: argparse.Namespace) -> str:
    """A Markdown table of what was asked for; missing units are marked."""
    rows = read(out)
    lines = [
        "| task | agent | model | asked, by steps (aim) | mean of the seeds | steps to it | per step | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in args.tasks:
        task = TASKS[name]
        units = [unit for unit in chosen(task, args) if not unit.is_reference]
        for row in dict.fromkeys(unit.row for unit in units):
            lines.append(line(task, [unit for unit in units if unit.row == row], out, rows))
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--agents", nargs="+", default=None, choices=AGENTS, help="[all of the table]")
    parser.add_argument("--models", nargs="+", default=None, choices=("ode", "residual-mlp", "none"))
    parser.add_argument("--seeds", nargs="+", type=int, default=None, help="[0 1 2, of locomotion 0 1]")
    parser.add_argument("--steps", type=int, default=None, help="train for so many steps instead")
    parser.add_argument("--quick", action="store_true", help="seed 0 of mpc on Pendulum-v1 again")
    parser.add_argument("--table", action="store_true", help="print the table, measure nothing")
    parser.add_argument("--out", type=Path, default=RESULTS / "suite.csv")
    parser.add_argument("--runs", type=Path, default=RUNS / "suite", help="where run folders lie")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    if args.steps is not None and args.out == RESULTS / "suite.csv":
        parser.error("--steps is for trials: write --out FILE with it, so that they stay out of the table")
    return args


def main() -> int:
    """Measure what is asked for and not there yet."""
    args = arguments()
    torch.set_num_threads(args.threads)
    if args.quick:
        args.tasks, args.agents, args.models, args.seeds = ["Pendulum-v1"], ["mpc"], ["ode"], [0]
        args.out, args.runs = RESULTS / "curves_quick" / "suite_quick.csv", args.runs / "quick"
        args.out.unlink(missing_ok=True)
        shutil.rmtree(args.runs, ignore_errors=True)
    units = [(TASKS[name], unit) for name in args.tasks for unit in chosen(TASKS[name], args)]
    due = [] if args.table else [each for each in units if not is_measured(each[1], args.out)]
    for i, (task, unit) in enumerate(due):
        print(f"{unit.row}, seed {unit.seed} ({i + 1} of {len(due)})", flush=True)
        command = f"python benchmarks/suite.py --threads {args.threads} --tasks {unit.env_id}"
        command += f" --agents {unit.agent} --models {unit.model} --seeds {unit.seed}"
        try:
            measure(unit, task, args.out, args.runs, command)
        except UsageError as error:  # the others can still be measured
            print(f"{unit.row}, seed {unit.seed}: {error}", file=sys.stderr, flush=True)
        except KeyboardInterrupt as stop:
            print(stop, file=sys.stderr)
            return int(getattr(stop, "exit_code", 130))
    print(table(args.out, args))
    return 0 if all(is_measured(unit, args.out) for _, unit in units) or args.table else 1


if __name__ == "__main__":
    sys.exit(main())
