"""How a sweep is going, as a table that renews itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ode_rl.run import RunFolder
from ode_rl.sweep import Outcome, Watch

STYLES = {"waiting": "dim", "running": "cyan", "done": "green", "failed": "red"}
MOST_ROWS = 40


@contextmanager
def live_table(console: Console | None = None) -> Iterator[Watch]:
    """A function that shows outcomes: a table in a terminal, elsewhere one line for each trial that ends."""
    console = console or Console()
    if not console.is_terminal:
        yield _lines(console)
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda outcomes: live.update(table(outcomes), refresh=True)


def table(outcomes: Sequence[Outcome]) -> Table:
    """The trials, those at work first where there are too many to show."""
    order = ("running", "failed", "waiting", "done")
    shown = (
        sorted(outcomes, key=lambda outcome: order.index(outcome.state))
        if len(outcomes) > MOST_ROWS
        else outcomes
    )
    counts = {state: sum(outcome.state == state for outcome in outcomes) for state in STYLES}
    title = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    found = Table(title=title, title_justify="left")
    for head in ("trial", "state", "steps", "last return"):
        found.add_column(head, justify="left" if head in ("trial", "state") else "right", overflow="fold")
    for outcome in shown[:MOST_ROWS]:
        steps, last = _progress(outcome)
        found.add_row(outcome.trial.name, outcome.state, steps, last, style=STYLES[outcome.state])
    return found


def _lines(console: Console) -> Watch:
    seen: set[str] = set()

    def show(outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            if outcome.state in ("done", "failed") and outcome.trial.name not in seen:
                seen.add(outcome.trial.name)
                text = (
                    f"{outcome.trial.name}: {outcome.state}{_remark(outcome)}  [{len(seen)}/{len(outcomes)}]"
                )
                console.print(text, highlight=False, markup=False, soft_wrap=True)

    return show


def _remark(outcome: Outcome) -> str:
    if outcome.state == "failed":
        return f" ({outcome.message})"
    return f", mean return {outcome.evaluation['mean_return']:.2f}"


def _progress(outcome: Outcome) -> tuple[str, str]:
    """Environment steps and the last return: of the final evaluation, or of training as it goes."""
    if outcome.evaluation:
        return "", f"{outcome.evaluation['mean_return']:.2f} (final)"
    try:
        with open(RunFolder(outcome.trial.run_dir).episodes, encoding="utf-8") as file:
            cells: Any = deque(file, maxlen=1)[0].split(",")
        return cells[1], f"{float(cells[3]):.2f}"
    except (OSError, IndexError, ValueError):  # nothing yet, or a row half written
        return "", ""
