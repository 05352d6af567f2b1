"""Fitting a world model to a replay buffer."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ode_rl.buffer import IntArray, ReplayBuffer
from ode_rl.errors import Stopped, UsageError
from ode_rl.losses import BETA, LIKELIHOODS, SMALLEST_LOG_NOISE, Losses, derivative_losses, segment_losses
from ode_rl.settings import check_counts
from ode_rl.types import Segment
from ode_rl.world_model import WorldModel


@dataclass(frozen=True)
class FitConfig:
    """How the world model is fitted each time that new data has come."""

    updates: int = 400
    """Gradient steps on segments, at most."""
    warm_start_updates: int = 400
    """Gradient steps on rates of change before the first fit."""
    batch_size: int = 128
    """Segments per member and gradient step."""
    segment_length: int = 2
    """Control intervals per segment."""
    curriculum: float = 0.0
    """Share of the updates over which segments grow from one interval to `segment_length`."""
    likelihood: str = "gaussian"
    """How errors of the dynamics count: gaussian, student-t or huber (the latter two forgive contacts)."""
    learning_rate: float = 3e-3
    """Peak rate of AdamW; it rises over the first twentieth and falls along a cosine to a tenth."""
    weight_decay: float = 1e-5
    """Decoupled weight decay."""
    max_grad_norm: float = 10.0
    """Gradients are clipped to this norm, part by part."""
    held_out: float = 0.1
    """Share of the data, in blocks of consecutive transitions, where no training segment starts."""
    patience: int = 4
    """The fit stops after this many checks without gain on the held-out data."""
    check_every: int = 50
    """Gradient steps between two checks."""

    def __post_init__(self) -> None:
        check_counts(self, ("updates", "batch_size", "segment_length", "check_every", "patience"), 5, "fit")
        if self.likelihood not in LIKELIHOODS:
            known = ", ".join(LIKELIHOODS)
            raise UsageError(f"a likelihood among {known}", repr(self.likelihood), "Write 'gaussian'.")
        if not 0 <= self.curriculum <= 1:
            remedy = "Write fit={'curriculum': 0.5}."
            raise UsageError("a curriculum between 0 and 1", self.curriculum, remedy)


@dataclass(frozen=True)
class FitReport:
    """What a fit did; losses are means over members, on held-out data where there is any.

    `end` is the loss of the hazard (or of the only way to end), `boundary` that of the classifier where both
    are fitted, `ends_by` the one that is used. `n_evals` counts evaluations of the vector field for one
    batch each, `n_failed` intervals that the solver could not solve, `rolled_back` how often losses exploded
    and the last good weights were taken up again.
    """

    updates: int
    stopped_early: bool
    dynamics: float
    reward: float
    end: float | None
    skipped: int
    boundary: float | None = None
    ends_by: str = "hazard"
    n_evals: int = 0
    n_failed: int = 0
    rolled_back: int = 0

    def scalars(self) -> dict[str, float]:
        """The numbers for a logger."""
        found = {"updates": float(self.updates), "dynamics_loss": self.dynamics, "reward_loss": self.reward}
        if self.end is not None:
            found["end_loss"] = self.end
        if self.boundary is not None:
            found["boundary_loss"] = self.boundary
            found["ends_by_boundary"] = float(self.ends_by == "boundary")
        return found | {
            "skipped_updates": float(self.skipped),
            "function_evaluations": float(self.n_evals),
            "solver_failures": float(self.n_failed),
            "rolled_back": float(self.rolled_back),
        }


# Held-out segments below which chance would choose among the checks: young dynamics keep their last weights.
ENOUGH_TO_CHOOSE = 128
SMALLEST_UNIT = 1e-30
# The share of errors that the band of the noise holds, and its half width in standard deviations.
BAND, BAND_WIDTH = 0.9, 1.6449
SMALLEST_SQUARE = math.exp(2 * SMALLEST_LOG_NOISE)
# A logarithm has to cover orders of magnitude in the updates in which a weight moves by its own size.
NOISE_SPEED = 10.0
Watch = Callable[[int, Losses], bool]
BLOCK = 16
# So many updates without a finite gradient, one after another, and the weights have blown up. They go back to
# the last good ones, and the rate falls to this share; after so many times what is there has to do.
BLOWN_UP, SLOWER, MOST_ROLLBACKS = 10, 0.3, 4

log = logging.getLogger(__name__)


class SegmentSource:
    """Draws training segments, resampled with replacement for each member, and held-out ones."""

    def __init__(
        self, buffer: ReplayBuffer, n_members: int, config: FitConfig, rng: np.random.Generator
    ) -> None:
        self.buffer, self.config, self.rng = buffer, config, rng
        serials = buffer.serials()
        # Blocks are numbered by serial: what is held out stays held out in all later fits.
        every = max(2, round(1 / config.held_out)) if config.held_out > 0 else 0
        held = (serials // BLOCK) % every == every - 1 if every else np.zeros(len(serials), bool)
        self.train = serials[~held] if not held.all() else serials
        self.held_out = serials[held]
        self.bootstrap = rng.choice(self.train, (n_members, len(self.train)))
        self.n_members = n_members

    def draw(self, length: int | None = None) -> Segment:
        """A batch ``[E, B, L]`` of training segments, `length` intervals each (None: as configured)."""
        at = self.rng.integers(self.bootstrap.shape[1], size=(self.n_members, self.config.batch_size))
        starts = np.take_along_axis(self.bootstrap, at, 1)
        return self.buffer.segments(starts, length or self.config.segment_length)

    def check(self, most: int = 512) -> Segment | None:
        """The newest held-out segments, the same for all members; None where there are too few."""
        if len(self.held_out) < BLOCK // 2:
            return None
        starts: IntArray = np.broadcast_to(
            self.held_out[-most:], (self.n_members, min(most, len(self.held_out)))
        )
        return self.buffer.segments(starts, self.config.segment_length)


def fit(
    model: WorldModel,
    buffer: ReplayBuffer,
    config: FitConfig,
    rng: np.random.Generator,
    device: torch.device | str,
    watch: Watch | None = None,
    stop: Callable[[], bool] | None = None,
) -> FitReport:
    """Fit `model` in place to all of `buffer`; what it learned before is its start.

    Updates whose gradient is not finite are skipped and counted. The weights of the best check on
    held-out data are kept. `watch(updates, losses)` is called at each check of the fit of segments, which
    stops when it returns True.

    Raises:
        Stopped: as soon as `stop()` says True, asked at each update; `model` is half way then.
    """
    end_weight = _take_scales(model, buffer)
    source = SegmentSource(buffer, model.n_members, config, rng)
    if int(model.n_fits) == 0 and config.warm_start_updates:
        _descend(model, source, config, config.warm_start_updates, device, derivative=True, stop=stop)
    report = _descend(
        model, source, config, config.updates, device, end_weight=end_weight, watch=watch, stop=stop
    )
    if report.boundary is not None and report.end is not None:
        model.choose_termination("boundary" if report.boundary < report.end else "hazard")
        report = replace(report, ends_by=model.ends_by)
    model.n_fits += 1
    return report


def _take_scales(model: WorldModel, buffer: ReplayBuffer) -> float:
    data = buffer.arrays()
    device = model.n_fits.device
    dt = torch.from_numpy(data.dt).float()
    obs = torch.from_numpy(data.next_obs)
    rate = (obs - torch.from_numpy(data.obs)) / dt[:, None]
    alive = torch.from_numpy(~data.terminated)
    reward_rate = (torch.from_numpy(data.reward) / dt)[alive] if bool(alive.any()) else torch.zeros(1)
    n_ends = int(data.terminated.sum())
    model.rescale(obs.to(device), rate.to(device), reward_rate.to(device), n_ends > 0)
    # The square root of the imbalance: rare ends count, and one odd end does not rule the fit.
    return math.sqrt(max(1.0, (len(buffer) - n_ends) / max(1, n_ends)))


class _Part:
    """Parameters with a loss of their own, and what they were at their best check on held-out data.

    With `keeps_last` the last check counts as the best one.

    Parts share no weights. Each keeps its own best: a well fitted reward is not thrown back because the
    dynamics were better earlier.
    """

    def __init__(self, name: str, parameters: list[nn.Parameter], keeps_last: bool = False) -> None:
        self.name, self.parameters, self.keeps_last = name, parameters, keeps_last
        self.best, self.since_best = math.inf, 0
        self.kept: list[Tensor] | None = None
        self.start = [p.detach().clone() for p in parameters]

    def check(self, losses: Losses) -> None:
        """Keep the parameters if their held-out loss is the lowest yet."""
        score = self._score(losses)
        self.since_best += 1
        finite = math.isfinite(score) and self.is_finite()
        if finite and (score < self.best or self.keeps_last):
            self.best, self.since_best = score, 0
            self.kept = [p.detach().clone() for p in self.parameters]

    def _score(self, losses: Losses) -> float:
        if self.name == "dynamics" and losses.square is not None:
            # The likelihood of the held-out data under the noise that suits them best, whatever noise the
            # training data have led to: 0.5 log(mean square), over dimensions and members.
            return float(losses.square.clamp_min(SMALLEST_SQUARE).log().sum()) / 2
        loss = getattr(losses, self.name)
        return math.inf if loss is None else float(loss.sum())

    def is_finite(self) -> bool:
        """Whether all parameters are numbers."""
        return all(bool(p.isfinite().all()) for p in self.parameters)

    @torch.no_grad()
    def restore(self, blown_up: bool = False) -> None:
        """Go back to the best check, if there was one; else, if the weights have blown up, to the start."""
        good = self.kept or (self.start if blown_up or not self.is_finite() else ())
        for parameter, kept in zip(self.parameters, good, strict=False):
            parameter.copy_(kept)

    def clip(self, most: float) -> bool:
        """Clip the gradient to norm `most`; False if it is not finite."""
        graded = [p for p in self.parameters if p.grad is not None]
        return not graded or bool(nn.utils.clip_grad_norm_(graded, most).isfinite())


def _descend(
    model: WorldModel,
    source: SegmentSource,
    config: FitConfig,
    updates: int,
    device: torch.device | str,
    derivative: bool = False,
    end_weight: float = 1.0,
    watch: Watch | None = None,
    stop: Callable[[], bool] | None = None,
) -> FitReport:
    held_out = source.check()
    few = held_out is not None and held_out.obs.shape[1] < ENOUGH_TO_CHOOSE
    parts = [
        _Part("dynamics", [*model.dynamics.parameters(), model.log_noise], keeps_last=few),
        _Part("reward", list(model.reward.parameters())),
        _Part("end", list(model.end.parameters())),
    ]
    if model.boundary is not None:
        parts.append(_Part("boundary", list(model.boundary.parameters())))
    weights = [p for part in parts for p in part.parameters if p is not model.log_noise]
    rate, decay = config.learning_rate, config.weight_decay
    groups = [
        {"params": weights, "weight_decay": decay, "speed": 1.0},
        {"params": [model.log_noise], "weight_decay": 0.0, "speed": NOISE_SPEED},
    ]
    optimiser = torch.optim.AdamW(groups, rate, foreach=True)

    def losses_of(segment: Segment, beta: float = BETA) -> Losses:
        segment = Segment(*(x.to(device) for x in segment))
        if derivative:
            return derivative_losses(model, segment)
        return segment_losses(model, segment, end_weight, config.likelihood, beta)

    skipped, done, n_evals, in_a_row, rolled_back = 0, 0, 0, 0, 0
    n_failed = torch.zeros((), device=device)
    for done in range(1, updates + 1):
        if stop is not None and stop():
            raise Stopped
        for group in optimiser.param_groups:
            group["lr"] = rate * group["speed"] * _rate_factor(done / updates)
        optimiser.zero_grad(set_to_none=True)
        losses = losses_of(source.draw(1 if derivative else _length(config, done / updates)))
        losses.total().backward()
        n_evals += losses.n_evals
        n_failed += 0 if losses.n_failed is None else losses.n_failed.detach()
        if all([part.clip(config.max_grad_norm) for part in parts]):
            optimiser.step()
            in_a_row = 0
        else:
            skipped, in_a_row = skipped + 1, in_a_row + 1
        if in_a_row == BLOWN_UP:
            for part in parts:
                part.restore(blown_up=True)
            optimiser.state.clear()
            rate, in_a_row, rolled_back = rate * SLOWER, 0, rolled_back + 1
            log.warning("losses exploded at update %d: back to the last good weights, rate %.2g", done, rate)
            if rolled_back == MOST_ROLLBACKS:
                break
        if held_out is not None and (done % config.check_every == 0 or done == updates):
            with torch.no_grad():
                found = losses_of(held_out, beta=0.0)
            for part in parts:
                part.check(found)
            if min(part.since_best for part in parts) >= config.patience or (watch and watch(done, found)):
                break
    for part in parts:
        part.restore()
    with torch.no_grad():
        last = source.draw() if held_out is None else held_out
        if not derivative:
            _take_noise(model, Segment(*(x.to(device) for x in last)))
        final = losses_of(last, beta=0.0)
    return FitReport(
        done,
        done < updates,
        float(final.dynamics.mean()),
        float(final.reward.mean()),
        None if final.end is None else float(final.end.mean()),
        skipped,
        None if final.boundary is None else float(final.boundary.mean()),
        model.ends_by,
        n_evals,
        int(n_failed),
        rolled_back,
    )


@torch.no_grad()
def _take_noise(model: WorldModel, segment: Segment) -> None:
    """Let the noise of the model be that of its errors after one interval of data it was not trained on.

    ``sigma = quantile_90(|error|) / 1.645``, the Gaussian whose 90 % band holds 90 % of the errors: contacts
    and joint limits make a few of them so large that the root mean square would say nothing of the others.
    """
    first = Segment(segment.obs[..., :2, :], *(x[:, :, :1] for x in segment[1:]))
    outcome = next(iter(model.roll(first.obs[..., 0, :], first.action, first.dt, fitting=True)))
    unit = model.dynamics.out_spread * model.native_dt
    age = (first.dt / model.native_dt).sqrt()
    error = (outcome.z - first.obs[..., 1, :]).abs() / (unit.clamp_min(SMALLEST_UNIT) * age)
    shown = (outcome.ok & (first.mask[..., 0] > 0)).unsqueeze(-1)
    noise = torch.where(shown, error, torch.nan).nanquantile(BAND, 1, keepdim=True) / BAND_WIDTH
    known = (unit > 0) & noise.isfinite()
    noise = noise.clamp_min(math.exp(SMALLEST_LOG_NOISE)).log()
    model.log_noise.copy_(torch.where(known, noise, model.log_noise))


def _length(config: FitConfig, progress: float) -> int:
    """Intervals per segment, after this share of the updates."""
    if progress >= config.curriculum:
        return config.segment_length
    return 1 + int(progress / config.curriculum * config.segment_length)


def _rate_factor(progress: float) -> float:
    return min(1.0, progress / 0.05) * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))
