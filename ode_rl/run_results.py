"""What runs left of their evaluations, to be compared."""

from __future__ import annotations

import csv
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ode_rl.checkpoint import read_arrays
from ode_rl.errors import UsageError
from ode_rl.files import read_json
from ode_rl.run import CONFIG, RunFolder
from ode_rl.statistics import standard_error

# What may differ between runs of one group.
IGNORED = {
    *(
        "seed",
        "device",
        "steps",
        "preset",
        "video",
        "progress",
        "eval_episodes",
        "eval_freq",
        "env_id",
        "agent",
    ),
    "checkpoint_seconds",
    "asked",  # all of it as it was typed, which the rest of the configuration resolves
}

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """One training: its evaluations, and when they were."""

    path: str
    env_id: str
    agent: str
    seed: int
    settings: dict[str, Any]
    """Everything that was resolved for it, flat, without what is `IGNORED`."""
    env_steps: Floats
    """``[K]``, with one evaluation at each."""
    sim_seconds: Floats
    """Simulated seconds of training until then ``[K]``."""
    wall_s: Floats
    """Real seconds until then ``[K]``."""
    returns: Floats
    """Mean return of each evaluation ``[K]``."""
    errors: Floats
    """Standard error of the same ``[K]``."""

    @property
    def final(self) -> float:
        """Mean return of the last evaluation."""
        return float(self.returns[-1])


def find_runs(places: Sequence[str]) -> list[RunFolder]:
    """Run folders: those named, those inside a folder named, and those in the column ``run_dir`` of a CSV.

    Raises:
        UsageError: for a place where there is nothing of the kind.
    """
    found: dict[Path, None] = {}
    for place in places:
        path = Path(place)
        inside = _listed(path) if path.is_file() else _below(path)
        if not inside:
            raise UsageError("run folders", f"none in {place}", "Look for them with `ls runs`.")
        found |= dict.fromkeys(inside)
    if not found:
        raise UsageError("at least one run folder", "none", "Write `ode-rl compare runs/*`.")
    return [RunFolder(path) for path in found]


def read_runs(folders: Sequence[RunFolder]) -> tuple[list[Run], list[dict[str, str]]]:
    """Read the runs, and which of them are left out and why.

    Raises:
        UsageError: if none is left.
    """
    runs, left_out = [], []
    for folder in folders:
        try:
            runs.append(_read(folder))
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            why = f"got {error.got}" if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"
            left_out.append({"run": str(folder.path), "why": why})
    if not runs:
        first = left_out[0]
        raise UsageError("runs with evaluations", f"{first['run']} ({first['why']})", "Train for longer.")
    return runs, left_out


def _below(path: Path) -> list[Path]:
    if (path / CONFIG).is_file():
        return [path]
    return sorted(config.parent for config in path.glob(f"*/{CONFIG}")) or sorted(
        config.parent for config in path.glob(f"*/*/{CONFIG}")
    )


def _listed(path: Path) -> list[Path]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [row["run_dir"] for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError, csv.Error) as error:
        got = f"{path} ({type(error).__name__}: {error})"
        raise UsageError("a CSV with a column run_dir", got, "Name the run folders instead.") from error
    # As written, or beside the table, where both were moved together.
    places = [(Path(row), path.parent / Path(row).name) for row in rows if row]
    return [first if first.exists() else second for first, second in places]


def _read(folder: RunFolder) -> Run:
    folder = RunFolder.open(folder.path)
    config = folder.read_config()
    steps, returns, errors = _evaluations(folder, float(config["steps"]))
    episodes = folder.read_episodes()
    at = [0.0, *(episode.env_steps for episode in episodes)]
    seconds = [0.0, *(episode.sim_seconds for episode in episodes)]
    wall = [0.0, *(episode.wall_s for episode in episodes)]
    return Run(
        path=str(folder.path),
        env_id=str(config["env_id"]),
        agent=str(config["agent"]),
        seed=int(config["seed"]),
        settings=_flat({key: value for key, value in config.items() if key not in IGNORED}),
        env_steps=steps,
        sim_seconds=_extended(steps, at, seconds),
        wall_s=_extended(steps, at, wall),
        returns=returns,
        errors=errors,
    )


def _evaluations(folder: RunFolder, steps: float) -> tuple[Floats, Floats, Floats]:
    """Steps, mean return and its error of each evaluation; the final one takes the place of one as late."""
    at, returns, errors = [], [], []
    if folder.evaluations.is_file():
        log = read_arrays(folder.evaluations)
        at = log["timesteps"].astype(float).tolist()
        returns = log["results"].mean(1).tolist()
        errors = [standard_error(row) for row in log["results"]]
    if folder.evaluation.is_file():
        final = read_json(folder.evaluation)
        kept = sum(each < steps for each in at)
        at, returns, errors = at[:kept], returns[:kept], errors[:kept]
        at.append(steps)
        returns.append(float(final["mean_return"]))
        errors.append(standard_error(final["returns"]))
    if not at:
        raise UsageError("a run with evaluations", "no evaluation yet", "Train for longer.")
    return np.array(at), np.array(returns), np.array(errors)


def _extended(steps: Floats, at: list[float], values: list[float]) -> Floats:
    """Interpolate linearly; behind the last episode, time goes on as it did on average."""
    rate = values[-1] / at[-1] if at[-1] else math.nan
    found = np.interp(steps, at, values)
    result: Floats = np.where(steps > at[-1], values[-1] + rate * (steps - at[-1]), found)
    return np.nan_to_num(result)


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{before}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat
