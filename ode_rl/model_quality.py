"""How good a world model is, in numbers that JSON can hold (None where there is nothing to say)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ode_rl.buffer import ReplayBuffer
from ode_rl.calibration import LEVELS, coverage_at, fit_temperature
from ode_rl.consistency import check_solver_consistency
from ode_rl.errors import UsageError
from ode_rl.open_loop import OpenLoop, change_unit, horizon_error, nrmse, one_interval, truth_unit
from ode_rl.recorded import transitions
from ode_rl.types import FloatArray, Trajectory, Transition
from ode_rl.world_model import WorldModel

HORIZONS = (0.1, 0.5, 1.0, 2.0)
CALIBRATED = 1.0
# The least probability that counts in a log-likelihood: one surprise must not outweigh all else.
LEAST_PROBABILITY = 1e-6
RELIABILITY_EDGES = (0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
SEGMENT_LENGTH, MOST_SEGMENTS = 5, 512


def horizon_quality(loop: OpenLoop, sources: Mapping[str, npt.NDArray[np.bool_]]) -> dict[str, Any]:
    """Error against horizon, for each source of data (which rows of `loop` are its).

    In units of the spread of the observations of all sources together.
    """
    unit = truth_unit(loop)
    by_source = {}
    for name, which in sources.items():
        found = horizon_error(loop.rows(which), HORIZONS, unit)._asdict()
        by_source[name] = {key: plain(value) for key, value in found.items()}
    return {"unit": plain(unit), "failed_intervals": loop.n_failures, "sources": by_source}


def interval_quality(model: WorldModel, episodes: Sequence[Trajectory]) -> dict[str, Any]:
    """Error of single intervals of one dt, in units of the standard deviation of the change in them."""
    loop, unit = one_interval(model, episodes), change_unit(episodes)
    error = nrmse(loop.mean(), loop.truth, unit, loop.any_ok)
    no_change = nrmse(loop.start[:, None], loop.truth, unit)
    return {
        "dt": float(np.mean(loop.dt)),
        "intervals": len(loop.dt),
        "error": plain(error.mean),
        "no_change": plain(no_change.mean),
        "per_dimension": plain(error.per_dimension),
        **solver_cost(model, episodes),
    }


def reward_quality(loop: OpenLoop) -> dict[str, Any]:
    """Predicted against true rewards of single intervals, the last ones of tasks that ended left out."""
    use = loop.all_ok[:, 0] & ~loop.terminated[:, 0]
    predicted, true = loop.reward.mean(0)[use, 0], loop.true_reward[use, 0]
    if not len(true):
        return {"intervals": 0, "rmse": None, "nrmse": None, "bias": None, "spread": None}
    rmse, spread = float(np.sqrt(np.mean(np.square(predicted - true)))), float(true.std())
    return {
        "intervals": len(true),
        "rmse": plain(rmse),
        "nrmse": plain(rmse / spread if spread > 1e-6 * abs(true.mean()) else math.nan),
        "bias": plain(np.mean(predicted - true)),
        "spread": spread,
    }


def end_probability(loop: OpenLoop) -> FloatArray:
    """Predicted probability that the task ends in each single interval, the mean over members, ``[n]``."""
    if loop.log_survival is None:
        return np.zeros(len(loop.mask))
    probability: FloatArray = -np.expm1(loop.log_survival[..., 0]).mean(0)
    return probability


def termination_quality(model: WorldModel, loop: OpenLoop) -> dict[str, Any]:
    """Log-likelihood of ends beside that of their base rate, precision, recall, and reliability."""
    use = loop.all_ok[:, 0]
    probability, ended = end_probability(loop)[use], loop.terminated[use, 0]
    base = float(ended.mean()) if len(ended) else math.nan
    called = probability >= 0.5
    hits = int((called & ended).sum())
    return {
        "model": model.ends_by if model.ends else "never",
        "intervals": len(ended),
        "ends": int(ended.sum()),
        "predicted_ends": plain(probability.sum()),
        "log_likelihood": plain(_log_likelihood(probability, ended)),
        "base_rate": plain(base),
        "base_rate_log_likelihood": plain(_log_likelihood(np.full(len(ended), base), ended)),
        "precision": plain(hits / called.sum() if called.any() else math.nan),
        "recall": plain(hits / ended.sum() if ended.any() else math.nan),
        "reliability": _reliability(probability, ended),
    }


def calibration_quality(loop: OpenLoop) -> dict[str, Any]:
    """Coverage of bands against horizon, before and after a temperature fitted on every other episode.

    It is fitted up to `CALIBRATED` seconds: further on, some systems forget their start.
    """
    even = loop.trajectory % 2 == 0
    fitted_on, judged_on = loop.rows(even), loop.rows(~even)
    try:
        temperature = fit_temperature(fitted_on, horizon_s=CALIBRATED)
    except UsageError:  # nothing that moves, or too much that failed
        temperature = math.nan
    coverages = {}
    for name, factor in (("before", 1.0), ("after", temperature)):
        known = len(judged_on.mask) > 0 and math.isfinite(factor)
        coverages[name] = [
            [plain(coverage_at(judged_on, p, t, factor)) if known else None for t in HORIZONS] for p in LEVELS
        ]
    return {
        "temperature": plain(temperature),
        "fitted_up_to": CALIBRATED,
        "levels": list(LEVELS),
        "times": list(HORIZONS),
        "fitted_on_episodes": len(np.unique(fitted_on.trajectory)),
        "judged_on_episodes": len(np.unique(judged_on.trajectory)),
        **coverages,
    }


@torch.no_grad()
def solver_cost(model: WorldModel, episodes: Sequence[Trajectory]) -> dict[str, Any]:
    """Evaluations of the field that one batch of intervals takes, and its rows (by member) that fail."""
    data, like = transitions(episodes), model.log_noise

    def tensor(x: FloatArray) -> torch.Tensor:
        some = torch.from_numpy(np.asarray(x[: MOST_SEGMENTS * SEGMENT_LENGTH], np.float64))
        return some.to(like.device, like.dtype).expand(len(like), *some.shape)

    outcome = model.step(tensor(data.obs), tensor(data.action), tensor(data.dt))
    return {
        "evaluations": outcome.n_evals,
        "rows": outcome.ok.numel(),
        "failed_rows": int((~outcome.ok).sum()),
    }


def solver_quality(model: WorldModel, episodes: Sequence[Trajectory]) -> dict[str, Any]:
    """What the solver costs, and whether a finer one would change what is predicted."""
    found: dict[str, Any] = {**solver_cost(model, episodes), "consistency": None}
    if model.is_discrete:
        return {"method": "none: the model steps over an interval", "max_step": None, **found}
    solver = model.config.solver
    buffer = ReplayBuffer(
        sum(len(t) for t in episodes), episodes[0].obs.shape[1], episodes[0].action.shape[1]
    )
    for i, episode in enumerate(episodes):
        _add(buffer, episode, i)
    starts = np.linspace(0, len(buffer) - 1, min(MOST_SEGMENTS, len(buffer))).astype(np.int64)
    report = check_solver_consistency(model, buffer.segments(starts, SEGMENT_LENGTH))
    numbers = {name: plain(value) for name, value in asdict(report).items()}
    found["consistency"] = {
        **numbers,
        "ratio": plain(report.ratio),
        "consistent": report.consistent,
        "verdict": str(report),
    }
    return {"method": solver.method, "max_step": plain(solver.max_step), **found}


def plain(value: Any) -> Any:
    """A number or an array as JSON has it: None for what is not finite."""
    if isinstance(value, np.ndarray):
        return [plain(x) for x in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    return float(value) if math.isfinite(value) else None


def _log_likelihood(probability: FloatArray, ended: npt.NDArray[np.bool_]) -> float:
    """Mean log-likelihood of an interval."""
    if not len(ended):
        return math.nan
    right = np.where(ended, probability, 1 - probability)
    return float(np.log(np.clip(right, LEAST_PROBABILITY, 1)).mean())


def _reliability(probability: FloatArray, ended: npt.NDArray[np.bool_]) -> list[dict[str, float]]:
    """Of the intervals with a probability in each bin: how many, the mean probability, the share of ends."""
    edges = np.array(RELIABILITY_EDGES)
    which = np.clip(np.searchsorted(edges, probability, side="right") - 1, 0, len(edges) - 2)
    return [
        {
            "intervals": int((which == k).sum()),
            "predicted": float(probability[which == k].mean()),
            "ended": float(ended[which == k].mean()),
        }
        for k in range(len(edges) - 1)
        if (which == k).any()
    ]


def _add(buffer: ReplayBuffer, episode: Trajectory, env: int) -> None:
    last = len(episode) - 1
    for k in range(len(episode)):
        buffer.add(
            Transition(
                episode.obs[k],
                episode.action[k],
                float(episode.reward[k]),
                episode.obs[k + 1],
                float(episode.dt[k]),
                k == last and episode.terminated,
                k == last and episode.truncated,
            ),
            env,
        )
