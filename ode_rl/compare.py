"""Comparison of runs: what was learned how soon, with intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from ode_rl.envs.task import bare_id
from ode_rl.run_results import Run as Run
from ode_rl.run_results import find_runs as find_runs
from ode_rl.run_results import read_runs as read_runs
from ode_rl.statistics import (
    bootstrap_interval,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
)

SCHEMA = 1
PROFILE_POINTS = 101
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Solved:
    """When a run first reached a threshold, for good; None: never."""

    seed: int
    env_steps: float | None
    sim_seconds: float | None
    wall_s: float | None


Groups = dict[str, dict[str, list[Run]]]
"""Task to name of the group to its runs, one per seed."""


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


def _name(run: Run, others: Sequence[Run]) -> str:
    """The agent, and in what its settings differ from those of other runs of it."""
    names = dict.fromkeys(key for other in others for key in other.settings)
    differing = [key for key in names if len({repr(other.settings.get(key)) for other in others}) > 1]
    apart = [f"{key.rpartition('.')[2]}={run.settings.get(key)}" for key in differing]
    return " ".join([run.agent, *apart])
