"""One row of a benchmark: writes its numbers, knows which are there."""

from __future__ import annotations

from pathlib import Path

from _table import Result, append, is_done, setting


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
