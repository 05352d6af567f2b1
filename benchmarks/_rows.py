"""Benchmarks of many rows: their command line, and where the numbers of a row go."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from pathlib import Path

import torch
from _table import RESULTS, Result, append, is_done, setting


class Table:
    """Where the numbers of one row of a benchmark go; `tasks` limits it to some."""

    def __init__(self, path: Path, row: str, command: str, tasks: list[str] | None = None) -> None:
        self.path, self.row, self.command, self.tasks = path, row, command, tasks

    def wants(self, task: str, model: str, seed: int) -> bool:
        """Whether this is asked for and not yet there."""
        if self.tasks is not None and task not in self.tasks:
            return False
        return not is_done(self.path, row=self.row, task=task, model=model, seed=str(seed))

    def write(self, task: str, model: str, seed: int, numbers: list[Result]) -> None:
        """Append the numbers of one fit and print them."""
        append(self.path, numbers)
        for n in numbers:
            where = f" x{n.dt_ratio}" if n.dt_ratio else ""
            print(
                f"{self.row} {task} {model} seed {seed}{where}: {n.metric} {n.value:.4g} {n.unit}", flush=True
            )

    def number(
        self,
        task: str,
        model: str,
        seed: int,
        metric: str,
        value: float,
        unit: str = "",
        dt_ratio: str = "",
        asked: str = "",
        ok: bool | None = None,
    ) -> Result:
        """One measured number of this row."""
        passed = "" if ok is None else str(ok).lower()
        return Result(
            self.row,
            task,
            "",
            model,
            str(seed),
            dt_ratio,
            metric,
            float(value),
            unit,
            asked,
            passed,
            self.command,
            setting(),
        )


Row = Callable[[Table, int], None]


def run_rows(
    topic: str,
    about: str | None,
    rows: dict[str, Row],
    once: Collection[str],
    threads: int,
    quick: str,
    quick_tasks: list[str] | None,
    quick_help: str,
) -> None:
    """The command line of ``benchmarks/<topic>.py``: measure the rows asked for, seed by seed.

    Rows in `once` are measured for the first seed alone; ``--quick`` is the row `quick` of `quick_tasks`.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=rows, default=list(rows))
    parser.add_argument("--tasks", nargs="+", default=None, help="only these tasks")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--quick", action="store_true", help=quick_help)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    names, seeds, tasks, file = args.rows, args.seeds, args.tasks, f"{topic}.csv"
    if args.quick:
        names, seeds, tasks, file = [quick], [0], quick_tasks or tasks, f"quick_{topic}.csv"
    out = args.out or RESULTS / file
    torch.set_num_threads(args.threads)
    for seed in seeds:
        for name in names:
            if name not in once or seed == seeds[0]:
                command = (
                    f"python benchmarks/{topic}.py --rows {name} --seeds {seed} --threads {args.threads}"
                )
                rows[name](Table(out, name, command, tasks), seed)
