"""Options of the command line that several commands share; each refuses bad input in the project's words."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from typing import Any

import click

from ode_rl.errors import UsageError
from ode_rl.names import PLANNERS

DEVICES = ("auto", "cpu", "cuda")

Decorator = Callable[[Any], Any]


def number(
    flag: str,
    kind: type[int] | type[float],
    least: float,
    what: str,
    example: str,
    below: float = math.inf,
    **more: Any,
) -> Decorator:
    """An option that takes a number, and names itself and an example when it refuses one."""

    def check(context: click.Context, param: click.Parameter, value: str | None) -> float | None:
        try:
            number = None if value is None else kind(value)
        except ValueError:
            number = math.nan
        if number is not None and not least <= number < below:
            raise UsageError(f"{what} for {flag}", repr(value), f"Write {flag} {example}.")
        return number

    metavar = more.pop("metavar", "N" if kind is int else "P" if below < math.inf else "SECONDS")
    return click.option(flag, type=str, callback=check, metavar=metavar, show_default=True, **more)


def choice(flag: str, names: Sequence[str], default: str | None, **more: Any) -> Decorator:
    """An option that takes one of a few names, and lists them when it refuses another."""

    def check(context: click.Context, param: click.Parameter, value: Any) -> Any:
        for each in value if isinstance(value, tuple) else (value,):
            if each is not None and each not in names:
                closest = (difflib.get_close_matches(each, names, 1, 0.5) or [default or names[0]])[0]
                raise UsageError(f"{' or '.join(names)} for {flag}", repr(each), f"Write {flag} {closest}.")
        return value

    metavar = "|".join(names)
    shown = default is not None
    return click.option(flag, callback=check, metavar=metavar, default=default, show_default=shown, **more)


steps = number(
    "--steps", int, 1, "a whole number > 0", "2000", help="Environment steps. [default: the preset's]"
)
held_seconds = number(
    "--dt",
    float,
    1e-9,
    "seconds > 0",
    "0.05",
    help="Seconds that an action is held; the step of a task that does not say it. [default: the task's]",
)
device = choice("--device", DEVICES, "auto", help="Where to compute.")
planner = choice("--planner", PLANNERS, None, help="How plans are searched. [default: the preset's, icem]")
known = click.option(
    "--known",
    metavar="MODULE:OBJECT",
    help="A Known: the task's own reward, termination or nominal dynamics, not to be learned.",
)
preset = click.option(
    "--preset", default="auto", metavar="NAME|none", help="Tuned settings. [default: the task's]"
)


def episodes(flag: str) -> Decorator:
    help = "Episodes to evaluate, each from a start seed of its own."
    return number(flag, int, 1, "a whole number > 0", "10", default="10", help=help)


def seed(default: str | None, help: str) -> Decorator:
    return number("--seed", int, 0, "a whole number >= 0", "0", default=default, help=help)


def _dt_range(context: click.Context, param: click.Parameter, value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    try:
        lo, hi = (float(part) for part in value)
    except ValueError:
        lo = hi = math.nan
    if not (0 < lo < hi < math.inf):
        given = " ".join(value)
        raise UsageError("seconds 0 < LO < HI for --dt-range", given, "Write --dt-range 0.01 0.05.")
    return lo, hi


def ratios(context: click.Context, param: click.Parameter, value: str) -> tuple[float, ...]:
    """Positive numbers, separated by commas."""
    try:
        found = tuple(float(part) for part in value.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < ratio < math.inf for ratio in found):
        raise UsageError(
            f"ratios above 0 for {param.opts[0]}", repr(value), f"Write {param.opts[0]} 0.5,1,2."
        )
    return found


def thresholds(context: click.Context, param: click.Parameter, value: Any) -> Any:
    """One return for all tasks, or returns by id."""
    by_id: dict[str, float] = {}
    for given in value:
        env_id, _, number = given.rpartition("=")
        try:
            by_id[env_id] = float(number)
        except ValueError:
            by_id[env_id] = math.nan
        if not math.isfinite(by_id[env_id]):
            raise UsageError("a return for --threshold", repr(given), "Write --threshold -200.")
    if "" in by_id and len(by_id) > 1:
        raise UsageError("one --threshold for all tasks, or ENV_ID=RETURN", "both", "Leave one of them out.")
    return by_id.get("", by_id or None)


def seeds(context: click.Context, param: click.Parameter, value: str) -> list[int]:
    """Whole numbers and ranges of them, separated by commas."""
    seeds: dict[int, None] = {}
    for part in value.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash) and int(first) <= int(last or first)):
            raise UsageError("seeds as 0-4,7 for --seeds", repr(value), "Write --seeds 0-2.")
        seeds |= dict.fromkeys(range(int(first), int(last or first) + 1))
    return list(seeds)


def timing(unsaid: str | None) -> Decorator:
    """The options of `TaskTiming`; `unsaid` is their default in words where it is not that of the task."""
    default = None if unsaid else "0"
    note = f" [default: {unsaid}]" if unsaid else ""
    options = (
        held_seconds,
        click.option(
            "--dt-range",
            nargs=2,
            type=str,
            metavar="LO HI",
            callback=_dt_range,
            help="Draw the seconds of every action uniformly from this range.",
        ),
        number(
            "--action-delay",
            float,
            0.0,
            "seconds >= 0",
            "0.05",
            default=default,
            help=f"Seconds until an action acts.{note}",
        ),
        number(
            "--obs-delay",
            float,
            0.0,
            "seconds >= 0",
            "0.05",
            default=default,
            help=f"Seconds until an observation is seen.{note}",
        ),
        number(
            "--obs-dropout",
            float,
            0.0,
            "a probability 0 <= P < 1",
            "0.1",
            default=default,
            below=1.0,
            help=f"Probability that an observation is lost.{note}",
        ),
    )

    def decorated(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated
