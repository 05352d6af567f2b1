"""Comparison of runs: what was learned how soon, with intervals over seeds."""

from __future__ import annotations

import csv
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from ode_rl.envs.task import bare_id
from ode_rl.errors import UsageError
from ode_rl.files import read_json
from ode_rl.run import CONFIG, RunFolder
from ode_rl.statistics import (
    bootstrap_interval,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    standard_error,
)

SCHEMA = 1
PROFILE_POINTS = 101
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


@dataclass(frozen=True)
class Solved:
    """When a run first reached a threshold, for good; None: never."""

    seed: int
    env_steps: float | None
    sim_seconds: float | None
    wall_s: float | None


Groups = dict[str, dict[str, list[Run]]]
"""Task to name of the group to its runs, one per seed."""


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


def group(runs: Sequence[Run]) -> Groups:
    """Put runs together that differ in their seed alone; a group is named by what sets it apart."""
    groups: Groups = {}
    for env_id in dict.fromkeys(run.env_id for run in runs):
        mine = [run for run in runs if run.env_id == env_id]
        names = {id(run): _name(run, [r for r in mine if r.agent == run.agent]) for run in mine}
        by_name: dict[str, list[Run]] = {}
        for run in mine:
            by_name.setdefault(names[id(run)], []).append(run)
        groups[env_id] = {name: sorted(own, key=lambda run: run.seed) for name, own in by_name.items()}
    return groups


def compare(
    runs: Sequence[Run], thresholds: Mapping[str, float] | float | None = None
) -> tuple[dict[str, Any], Groups]:
    """What ``comparison.json`` holds, and the groups that it is about.

    `thresholds` is a return for all tasks or one per id; a task that is not named has that of its Gymnasium
    registration, or none.
    """
    groups = group(runs)
    tasks = {}
    for env_id, by_name in groups.items():
        threshold = _threshold(env_id, thresholds)
        about = {name: _about(own, threshold) for name, own in by_name.items()}
        tasks[env_id] = {"threshold": threshold, "groups": about}
    scores, axis = _scores(groups)
    return {
        "schema": SCHEMA,
        "tasks": tasks,
        "score": axis,
        "profiles": _profiles(scores),
        "improvement": _improvements(scores),
    }, groups


def solved(run: Run, threshold: float) -> Solved:
    """The first evaluation at or above the threshold that no later one is below by more than its error."""
    low = run.returns + run.errors < threshold
    for k in np.flatnonzero(run.returns >= threshold):
        if not low[k + 1 :].any():
            return Solved(run.seed, float(run.env_steps[k]), float(run.sim_seconds[k]), float(run.wall_s[k]))
    return Solved(run.seed, None, None, None)


def curve(runs: Sequence[Run]) -> tuple[Floats, Floats, Floats | None, Floats | None]:
    """Environment steps, interquartile mean over runs there, and its interval, where all have evaluations.

    Between its evaluations a run is taken to be linear.
    """
    first, last = max(run.env_steps[0] for run in runs), min(run.env_steps[-1] for run in runs)
    every = np.unique(np.concatenate([run.env_steps for run in runs]))
    steps = every[(every >= first) & (every <= last)]
    values = np.stack([np.interp(steps, run.env_steps, run.returns) for run in runs])
    band = None
    if len(runs) > 1 and len(steps):
        drawn = [bootstrap_interval([column]) for column in values.T]
        band = np.array([(float(each[0]), float(each[1])) for each in drawn if each is not None])
    middle = interquartile_mean(values, axis=0)
    return steps, middle, None if band is None else band[:, 0], None if band is None else band[:, 1]


# --- statistics --------------------------------------------------------------------------------------------


def _about(runs: list[Run], threshold: float | None) -> dict[str, Any]:
    steps, middle, low, high = curve(runs)
    finals = [run.final for run in runs]
    interval = bootstrap_interval([finals])
    reached = [] if threshold is None else [solved(run, threshold) for run in runs]
    return {
        "runs": [run.path for run in runs],
        "seeds": [run.seed for run in runs],
        "final": finals,
        "interquartile_mean": float(interquartile_mean(finals)),
        "interval": None if interval is None else [float(bound) for bound in interval],
        "curve": {
            "env_steps": steps.tolist(),
            "interquartile_mean": middle.tolist(),
            "low": None if low is None else low.tolist(),
            "high": None if high is None else high.tolist(),
        },
        "to_threshold": [vars(each) for each in reached],
        "median_to_threshold": {
            name: _median([getattr(each, name) for each in reached])
            for name in ("env_steps", "sim_seconds", "wall_s")
        },
    }


def _median(values: Sequence[float | None]) -> float | None:
    """The median, where a run that never got there took for ever; None if that is the median."""
    middle = float(np.median([math.inf if each is None else each for each in values])) if values else math.inf
    return middle if math.isfinite(middle) else None


def _scores(groups: Groups) -> tuple[dict[str, dict[str, Floats]], str]:
    """Group to task to final scores ``[n]``: returns of one task, shares of the range seen of several."""
    scores: dict[str, dict[str, Floats]] = {}
    for env_id, by_name in groups.items():
        everything = np.array([run.final for runs in by_name.values() for run in runs])
        low, width = (everything.min(), np.ptp(everything)) if len(groups) > 1 else (0.0, 1.0)
        for name, runs in by_name.items():
            finals = np.array([run.final for run in runs])
            scores.setdefault(name, {})[env_id] = (finals - low) / (width or 1.0)
    axis = "return" if len(groups) == 1 else "return, 0 to 1 from the worst to the best run of each task"
    return scores, axis


def _profiles(scores: dict[str, dict[str, Floats]]) -> dict[str, Any]:
    tasks = _common(scores.values())
    if not tasks:
        return {"tasks": [], "thresholds": [], "groups": {}}
    everything = np.concatenate([own[task] for own in scores.values() for task in tasks])
    margin = 0.05 * (np.ptp(everything) or 1.0)
    at = np.linspace(everything.min() - margin, everything.max() + margin, PROFILE_POINTS)
    groups = {}
    for name, own in scores.items():
        strata = [own[task] for task in tasks]
        band = bootstrap_interval(strata, lambda drawn: performance_profile(drawn, at))
        groups[name] = {
            "share_above": performance_profile(strata, at).tolist(),
            "low": None if band is None else band[0].tolist(),
            "high": None if band is None else band[1].tolist(),
        }
    return {"tasks": tasks, "thresholds": at.tolist(), "groups": groups}


def _improvements(scores: dict[str, dict[str, Floats]]) -> list[dict[str, Any]]:
    """Each pair of groups: how probable it is that a run of the first ends better than one of the second."""
    rows = []
    names = list(scores)
    for i, x in enumerate(names):
        for y in names[i + 1 :]:
            tasks = _common([scores[x], scores[y]])
            if not tasks:
                continue
            strata = [scores[x][task] for task in tasks] + [scores[y][task] for task in tasks]
            band = bootstrap_interval(strata, _first_half_better)
            rows.append(
                {
                    "x": x,
                    "y": y,
                    "tasks": tasks,
                    "probability": float(_first_half_better(strata)),
                    "interval": None if band is None else [float(bound) for bound in band],
                }
            )
    return rows


def _first_half_better(strata: list[Floats]) -> Floats:
    """Probability of improvement of the strata of one group over those of another behind them."""
    half = len(strata) // 2
    return probability_of_improvement(strata[:half], strata[half:])


def _common(owns: Any) -> list[str]:
    """Tasks that all have, in the order of the first."""
    owns = list(owns)
    return [task for task in owns[0] if all(task in own for own in owns)]


def _threshold(env_id: str, thresholds: Mapping[str, float] | float | None) -> float | None:
    if isinstance(thresholds, Mapping):
        if env_id in thresholds:
            return thresholds[env_id]
    elif thresholds is not None:
        return thresholds
    spec = gymnasium.registry.get(bare_id(env_id))
    return None if spec is None else spec.reward_threshold


# --- reading -----------------------------------------------------------------------------------------------


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
        with np.load(folder.evaluations, allow_pickle=False) as log:
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


def _name(run: Run, others: Sequence[Run]) -> str:
    """The agent, and in what its settings differ from those of other runs of it."""
    names = dict.fromkeys(key for other in others for key in other.settings)
    differing = [key for key in names if len({repr(other.settings.get(key)) for other in others}) > 1]
    apart = [f"{key.rpartition('.')[2]}={run.settings.get(key)}" for key in differing]
    return " ".join([run.agent, *apart])
