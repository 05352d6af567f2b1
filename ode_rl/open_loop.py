"""Open-loop prediction: what a fitted world model says of recorded episodes from their starts alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ode_rl.best_use import BLIND, best_use_step
from ode_rl.buffer import Arrays
from ode_rl.errors import UsageError
from ode_rl.losses import SMALLEST_LOG_NOISE
from ode_rl.recorded import (
    TIME_TOLERANCE,
    BoolArray,
    Recorded,
    even_starts,
    pieces,
    single_intervals,
    transitions,
)
from ode_rl.timing import positive_seconds
from ode_rl.types import FloatArray, Trajectory
from ode_rl.world_model import Outcome, WorldModel

# A dimension moves if its change is more than this share of its spread: less is rounding.
SMALLEST_CHANGE = 1e-6
# Noisy roll-outs from each start and member.
PARTICLES = 16
INTERVALS_AT_ONCE = 32768


@dataclass(frozen=True)
class OpenLoop:
    """Predictions along recorded episodes: n starts, up to H intervals from each, float64 throughout.

    Column k is the end of interval k. Entries where `mask` is false lie beyond an episode or the horizon.
    """

    start: FloatArray
    """True observations at the starts, ``[n, O]``: all that the model is shown."""
    time: FloatArray
    """Seconds since the start, ``[n, H]``."""
    dt: FloatArray
    """Seconds of each interval, ``[n, H]``."""
    truth: FloatArray
    """Recorded observations, ``[n, H, O]``."""
    members: FloatArray
    """Predicted observations, each member along its own way, ``[E, n, H, O]``."""
    noise_std: FloatArray
    """Learned standard deviation of the truth around each member, in units of the observation,
    ``[E, n, H, O]``."""
    true_reward: FloatArray
    """Recorded rewards of the intervals, ``[n, H]``."""
    reward: FloatArray
    """Predicted rewards of the intervals, ``[E, n, H]``."""
    terminated: BoolArray
    """Whether the task ended in the interval, ``[n, H]``."""
    log_survival: FloatArray | None
    """Log of the predicted chance that it did not, for each interval alone, ``[E, n, H]``; None: tasks never
    end."""
    mask: BoolArray
    """Where something was recorded, ``[n, H]``."""
    ok: BoolArray
    """Whether all numbers of a member have been finite so far, ``[E, n, H]``."""
    until: FloatArray
    """Seconds recorded from each start to the end of its episode, ``[n]``."""
    trajectory: npt.NDArray[np.int64]
    """Number of the episode of each start, ``[n]``."""

    def mean(self) -> FloatArray:
        """Mean over the members that did not fail, ``[n, H, O]``; NaN where all failed."""
        return _mean_over(self.members, self.ok)

    def spread(self) -> FloatArray:
        """Standard deviation over the members that did not fail (epistemic), ``[n, H, O]``."""
        with np.errstate(invalid="ignore"):
            squared = np.square(self.members - self.mean())
        spread: FloatArray = np.sqrt(_mean_over(squared, self.ok))
        return spread

    def rows(self, some: npt.NDArray[Any]) -> OpenLoop:
        """Some of the starts: numbers, or ``[n]`` true and false."""
        by_member = ("members", "noise_std", "reward", "log_survival", "ok")
        found: dict[str, Any] = {
            name: None if x is None else x[:, some] if name in by_member else x[some]
            for name, x in vars(self).items()
        }
        return OpenLoop(**found)

    @property
    def any_ok(self) -> BoolArray:
        """Where at least one member has a prediction, ``[n, H]``."""
        found: BoolArray = np.any(self.ok, 0)
        return found

    @property
    def all_ok(self) -> BoolArray:
        """Where every member has one, ``[n, H]``."""
        found: BoolArray = np.all(self.ok, 0)
        return found

    @property
    def n_failures(self) -> int:
        """Recorded intervals of single members that are not `ok`."""
        return int((~self.ok & self.mask).sum())

    def column_at(self, seconds: float) -> npt.NDArray[np.int64]:
        """The last column recorded not later than `seconds` after each start, ``[n]``.

        -1 where there is none: the episode ended before, or its first interval is longer.
        """
        early = self.mask & (self.time <= seconds + TIME_TOLERANCE)
        column = early.sum(1) - 1
        found: npt.NDArray[np.int64] = np.where(self.until >= seconds - TIME_TOLERANCE, column, -1)
        return found


class Nrmse(NamedTuple):
    """A root mean square error over the spread of what was to be predicted.

    ``per_dimension [O]`` is NaN for dimensions that do not move; `mean` is over the others.
    """

    mean: float
    per_dimension: FloatArray


class HorizonError(NamedTuple):
    """Errors of the ensemble mean at T times after the start, each averaged over dimensions that move.

    ``times [T]`` were asked for, ``n [T]`` starts reach them with a prediction, ``failed [T]`` reach them
    with none that is finite. `error`, `no_change` (the start taken for the prediction) and `spread` (root
    mean square over the ensemble) are ``[T]``, ``per_dimension [T, O]``; NaN where n is 0.
    """

    times: FloatArray
    n: npt.NDArray[np.int64]
    failed: npt.NDArray[np.int64]
    error: FloatArray
    no_change: FloatArray
    spread: FloatArray
    per_dimension: FloatArray


# --- prediction --------------------------------------------------------------------------------------------


@torch.no_grad()
def open_loop(
    model: WorldModel,
    trajectories: Sequence[Trajectory],
    horizon_s: float,
    starts_per_trajectory: int = 4,
    starts: Sequence[Sequence[int]] | None = None,
) -> OpenLoop:
    """Let `model` predict episodes for `horizon_s` seconds from some of their observations.

    Each interval has its recorded action and dt. Starts are spread evenly over each episode so that the
    horizon fits into it (a shorter episode has one, its beginning), or given: ``starts[i]`` are numbers of
    observations of episode i. Actions are scaled to [-1, 1], as replay buffers store them.

    Raises:
        UsageError: without episodes, for widths that are not the model's, a horizon that is not positive,
            or starts that are no interval of their episode.
    """
    positive_seconds(horizon_s, "horizon_s")
    _check(model, trajectories)
    if starts is None:
        if starts_per_trajectory < 1:
            got = starts_per_trajectory
            raise UsageError("at least one start", got, "Write starts_per_trajectory=4.")
        starts = [even_starts(t, horizon_s, starts_per_trajectory) if len(t) else [] for t in trajectories]
    return _predict(model, pieces(trajectories, starts, horizon_s, model.native_dt))


@torch.no_grad()
def one_interval(model: WorldModel, data: Sequence[Trajectory] | Arrays) -> OpenLoop:
    """The prediction of every single interval of `data` from its true beginning: an `OpenLoop` with H = 1.

    Raises:
        UsageError: for nothing in the data, or widths that are not the model's.
    """
    if isinstance(data, Arrays):
        number = np.zeros(len(data.dt), np.int64)
        _check_width(model, data.obs, data.action)
    else:
        _check(model, data)
        number = np.repeat(np.arange(len(data)), [len(t) for t in data])
        data = transitions(data)
    if not len(data.dt):
        raise UsageError("at least one interval", "none", "Record some episodes first.")
    return _predict(model, single_intervals(data, number))


# --- error -------------------------------------------------------------------------------------------------


def nrmse(
    prediction: FloatArray, truth: FloatArray, unit: FloatArray, mask: BoolArray | None = None
) -> Nrmse:
    """Root mean square of ``(prediction - truth) / unit``: ``[*, O]`` each, ``unit [O]``, ``mask [*]``.

    A dimension whose unit is 0 does not move and does not count. A prediction that is not finite makes the
    error of its dimensions infinite: mask it, and say how many there are, if that is not wanted.
    """
    error = np.asarray(prediction, np.float64) - np.asarray(truth, np.float64)
    error = error.reshape(-1, error.shape[-1]) if mask is None else error[mask]
    if not len(error):
        return Nrmse(math.nan, np.full(error.shape[-1], math.nan))
    squared = np.where(np.isfinite(error), np.square(error), math.inf).mean(0)
    moves = np.asarray(unit) > 0
    per_dimension = np.where(moves, np.sqrt(squared) / np.where(moves, unit, 1.0), math.nan)
    return Nrmse(float(per_dimension[moves].mean()) if moves.any() else math.nan, per_dimension)


def change_unit(data: Sequence[Trajectory] | Arrays) -> FloatArray:
    """Standard deviation of the true change within an interval, ``[O]``; 0 where a dimension does not move.

    All intervals of `data` should be of one dt, or the unit is that of the mixture.
    """
    data = data if isinstance(data, Arrays) else transitions(data)
    before = np.asarray(data.obs, np.float64)
    unit = (np.asarray(data.next_obs, np.float64) - before).std(0)
    return np.where(unit > SMALLEST_CHANGE * before.std(0), unit, 0.0)


def one_interval_nrmse(
    model: WorldModel, data: Sequence[Trajectory] | Arrays, unit: FloatArray | None = None
) -> Nrmse:
    """Error of the ensemble mean after one interval, over the standard deviation of the true change.

    1 is the error of knowing the mean change and nothing else. Give data of one dt; `unit` ``[O]`` is
    `change_unit(data)` unless given.
    """
    loop = one_interval(model, data)
    return nrmse(loop.mean(), loop.truth, change_unit(data) if unit is None else unit)


def horizon_error(loop: OpenLoop, times: Sequence[float], unit: FloatArray | None = None) -> HorizonError:
    """Errors at `times` (seconds) after the starts, at the last recorded time that is not later.

    In units of the spread of the recorded observations unless `unit` ``[O]`` is given.
    """
    unit = truth_unit(loop) if unit is None else unit
    mean, spread = loop.mean(), loop.spread()
    found = [_error_at(loop, mean, spread, seconds, unit) for seconds in times]
    return HorizonError(*(np.array(x) for x in zip(*found, strict=True)))


def _error_at(
    loop: OpenLoop, mean: FloatArray, spread: FloatArray, seconds: float, unit: FloatArray
) -> tuple[float, int, int, float, float, float, FloatArray]:
    column = loop.column_at(seconds)
    at = np.flatnonzero(column >= 0)
    finite = np.isfinite(mean[at, column[at]]).all(-1)
    failed, at = int((~finite).sum()), at[finite]
    truth = loop.truth[at, column[at]]
    error = nrmse(mean[at, column[at]], truth, unit)
    no_change = nrmse(loop.start[at], truth, unit)
    disagreement = nrmse(spread[at, column[at]], np.zeros_like(truth), unit)
    return seconds, len(at), failed, error.mean, no_change.mean, disagreement.mean, error.per_dimension


def truth_unit(loop: OpenLoop) -> FloatArray:
    """Standard deviation of the recorded observations, ``[O]``; 0 for dimensions that never move."""
    moved = np.abs(loop.truth - loop.start[:, None])[loop.mask].max(0)
    unit = loop.truth[loop.mask].std(0)
    return np.where(moved > SMALLEST_CHANGE * unit, unit, 0.0)


# --- arrays ------------------------------------------------------------------------------------------------


class _Rolled(NamedTuple):
    """``z, noise_std [E, n, H, O]``, ``reward, log_survival, ok [E, n, H]`` of some pieces."""

    z: FloatArray
    noise_std: FloatArray
    reward: FloatArray
    log_survival: FloatArray | None
    ok: FloatArray


def _predict(model: WorldModel, recorded: Recorded) -> OpenLoop:
    n, most = recorded.mask.shape
    at_once = max(1, INTERVALS_AT_ONCE // most)
    parts = [_roll(model, recorded.rows(slice(i, i + at_once))) for i in range(0, n, at_once)]
    ends = [part.log_survival for part in parts if part.log_survival is not None]
    time = np.cumsum(recorded.dt, 1)
    return OpenLoop(
        start=np.asarray(recorded.start, np.float64),
        time=time,
        dt=recorded.dt,
        truth=np.asarray(recorded.obs, np.float64),
        members=np.concatenate([part.z for part in parts], 1),
        noise_std=np.concatenate([part.noise_std for part in parts], 1),
        true_reward=np.asarray(recorded.reward, np.float64),
        reward=np.concatenate([part.reward for part in parts], 1),
        terminated=recorded.terminated,
        log_survival=np.concatenate(ends, 1) if ends else None,
        mask=recorded.mask,
        ok=np.concatenate([part.ok for part in parts], 1) > 0,
        until=recorded.until,
        trajectory=recorded.trajectory,
    )


def _roll(model: WorldModel, recorded: Recorded) -> _Rolled:
    like = model.log_noise

    def tensor(x: FloatArray, dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(np.asarray(x, np.float64)).to(like.device, dtype).expand(len(like), *x.shape)

    z, plan = tensor(recorded.start, like.dtype), tensor(recorded.action, like.dtype)
    dt = tensor(recorded.dt, torch.float64)
    # Only a whole plan shows a recurrent model what went before; only single steps can be composed.
    blind = model.config.structure == BLIND
    outcomes = list(_best_use(model, z, plan, dt) if blind else model.roll(z, plan, dt.to(like.dtype)))
    ends = [outcome.log_survival for outcome in outcomes if outcome.log_survival is not None]
    paths = torch.stack([outcome.z for outcome in outcomes], 2)
    return _Rolled(
        _numpy(paths),
        _numpy(_noise_std(model, recorded, paths)),
        _numpy(torch.stack([outcome.reward for outcome in outcomes], 2)),
        _numpy(torch.stack(ends, 2)) if ends else None,
        _numpy(torch.stack([outcome.ok for outcome in outcomes], 2).cumprod(2)),
    )


def _best_use(model: WorldModel, z: Tensor, plan: Tensor, dt: Tensor) -> Iterator[Outcome]:
    for k in range(dt.shape[-1]):
        outcome = best_use_step(model, z, plan[:, :, k], dt[:, :, k])
        z = outcome.z
        yield outcome


def _noise_std(model: WorldModel, recorded: Recorded, paths: Tensor) -> Tensor:
    """Root mean square distance ``[E, n, H, O]`` of noisy particles from the ``paths [E, n, H, O]`` without.

    The noise that `segment_losses` fits strikes at the end of every interval, ``unit * noise * sqrt(dt /
    native dt)``; the dynamics carry it on, so that noise of a velocity becomes one of the position.
    """
    e, n, h, width = paths.shape
    unit = model.dynamics.out_spread * model.native_dt
    std = unit * model.log_noise.clamp_min(SMALLEST_LOG_NOISE).exp()
    generator = torch.Generator(paths.device).manual_seed(0)

    def repeated(x: FloatArray) -> Tensor:
        one = torch.from_numpy(np.asarray(x, np.float64)).to(paths)
        return one.repeat_interleave(PARTICLES, 0).expand(e, n * PARTICLES, *x.shape[1:])

    def draw(z: Tensor) -> Tensor:
        return torch.randn(z.shape, generator=generator, device=z.device, dtype=z.dtype)

    plan, dt = repeated(recorded.action), repeated(recorded.dt)
    # [E, n P, H, O]
    size = std.unsqueeze(2) * (dt / model.native_dt).sqrt().unsqueeze(-1)
    distances = [size[:, ::PARTICLES, 0]]
    z = paths[:, :, 0].repeat_interleave(PARTICLES, 1)
    z = z + size[:, :, 0] * draw(z)
    for k in range(1, h):
        z = best_use_step(model, z, plan[:, :, k], dt[:, :, k]).z
        z = z + size[:, :, k] * draw(z)
        off = (z.reshape(e, n, PARTICLES, width) - paths[:, :, k].unsqueeze(2)).square()
        distances.append(torch.where(off.isfinite(), off, torch.nan).nanmean(2).sqrt())
    return torch.stack(distances, 2)


def _numpy(x: Tensor) -> FloatArray:
    found: FloatArray = x.detach().to("cpu", torch.float64).numpy()
    return found


def _mean_over(x: FloatArray, ok: BoolArray) -> FloatArray:
    weight = ok[..., None]
    with np.errstate(invalid="ignore"):
        mean: FloatArray = np.where(weight, x, 0.0).sum(0) / np.where(weight.any(0), weight.sum(0), math.nan)
    return mean


def _check(model: WorldModel, trajectories: Sequence[Trajectory]) -> None:
    if not any(len(t) for t in trajectories):
        raise UsageError("episodes of at least one interval", "none", "Record some episodes first.")
    for trajectory in trajectories:
        _check_width(model, trajectory.obs, trajectory.action)


def _check_width(model: WorldModel, obs: FloatArray, action: FloatArray) -> None:
    width = len(model.dynamics.out_spread)
    if obs.ndim != 2 or action.ndim != 2 or obs.shape[1] != width:
        raise UsageError(
            f"observations [T, {width}] and actions [T, A], as the model has",
            f"{obs.shape} and {action.shape}",
            "Give data of the task that it was fitted to.",
        )
