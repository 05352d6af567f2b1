"""Whether a model's predictions are those of its vector field, or of its solver's step."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ode_rl.errors import UsageError
from ode_rl.fixed_step import FIXED_STEP
from ode_rl.integrate import least_rtol, n_substeps
from ode_rl.types import Segment, Solver
from ode_rl.world_model import WorldModel


@dataclass(frozen=True)
class ConsistencyReport:
    """What a finer solver changes; root mean squares in units of the typical change per native interval."""

    change: float
    """Change of the predicted observations."""
    error: float
    """Error of the model's predictions against the data."""
    finer_error: float
    """Error of the finer predictions against the data."""
    reward_change: float
    """Change of the predicted rewards, in units of their spread."""
    worst_column: int
    """Column of the observation that changes most."""
    n_failures: int
    """Predictions that are not finite, with either solver."""
    threshold: float
    """Largest ratio of change to error that passes."""

    @property
    def ratio(self) -> float:
        """Change over error."""
        return self.change / max(self.error, 1e-12)

    @property
    def consistent(self) -> bool:
        """Whether the solver's part in the predictions is small beside what the model gets wrong anyway."""
        return self.ratio <= self.threshold and self.n_failures == 0

    def __str__(self) -> str:
        verdict = (
            "consistent"
            if self.consistent
            else "the network holds at its training step alone; lower solver.max_step or raise the order"
        )
        return (
            f"{verdict}: a finer solver changes predictions by {self.change:.3g} "
            f"(most in column {self.worst_column}) and their error from {self.error:.3g} to "
            f"{self.finer_error:.3g}, ratio {self.ratio:.2f} of {self.threshold:g}; "
            f"rewards by {self.reward_change:.3g}; {self.n_failures} failed"
        )


@torch.no_grad()
def check_solver_consistency(
    model: WorldModel, segments: Segment, threshold: float = 0.5
) -> ConsistencyReport:
    """Roll `model` along `segments` with its solver and with a finer one, and compare.

    The finer solver takes twice the substeps (fixed-step methods) or a tenth of the tolerance. A vector
    field changes its predictions by no more than its solver's error; a network that has learned to make up
    for its step changes them by as much. Segments ``[B, L]`` or ``[E, B, L]``, data that was not trained
    on; `model` stays as it is.

    Raises:
        UsageError: for segments of another width or nothing in them, a threshold that is not positive, or
            a discrete model.
    """
    segments = _for_members(model, segments, threshold)
    coarse, coarse_reward = _predict(model, segments, finer=False)
    fine, fine_reward = _predict(model, segments, finer=True)
    spread = model.dynamics.out_spread
    moving = spread > 0
    unit = torch.where(moving, spread * model.native_dt, torch.ones_like(spread))
    reward_unit = model.reward.out_spread * model.native_dt
    finite = torch.isfinite(coarse).all(-1) & torch.isfinite(fine).all(-1)
    seen = segments.mask > 0
    use = (finite & seen).unsqueeze(-1) & moving

    def rms(difference: Tensor) -> Tensor:
        squared = torch.where(use, difference / unit, 0.0).square()
        return (squared.sum((0, 1, 2)) / use.sum((0, 1, 2)).clamp_min(1)).sqrt()

    def total(columns: Tensor) -> float:
        return float((columns.square().sum() / moving.sum().clamp_min(1)).sqrt())

    data = segments.obs[..., 1:, :]
    change = rms(fine - coarse)
    reward_change = ((fine_reward - coarse_reward) / reward_unit)[finite & seen]
    return ConsistencyReport(
        change=total(change),
        error=total(rms(coarse - data)),
        finer_error=total(rms(fine - data)),
        reward_change=float(reward_change.square().mean().sqrt()) if len(reward_change) else 0.0,
        worst_column=int(change.argmax()),
        n_failures=int((seen & ~finite).sum()),
        threshold=threshold,
    )


def _for_members(model: WorldModel, segments: Segment, threshold: float) -> Segment:
    if not threshold > 0:
        raise UsageError("a threshold > 0", threshold, "Write threshold=0.5.")
    if model.is_discrete:
        raise UsageError(
            "a model that integrates a vector field",
            model.config.structure,
            "There is no step to halve in a discrete model; compare its errors at several dt instead.",
        )
    width, rank = len(model.dynamics.out_spread), segments.obs.dim()
    if rank not in (3, 4) or segments.obs.shape[-1] != width or not bool((segments.mask > 0).any()):
        raise UsageError(
            f"segments [B, L] or [{model.n_members}, B, L] of observations of width {width}",
            tuple(segments.obs.shape),
            "Write buffer.segments(starts, length).",
        )
    device, dtype = model.dynamics.out_spread.device, model.dynamics.out_spread.dtype
    moved = [x.to(device) if x.dtype == torch.bool else x.to(device, dtype) for x in segments]
    if rank == 3:
        moved = [x.expand(model.n_members, *x.shape) for x in moved]
    return Segment(*moved)


def _predict(model: WorldModel, segments: Segment, finer: bool) -> tuple[Tensor, Tensor]:
    """Observations ``[E, B, L, O]`` and rewards ``[E, B, L]`` from the first observation on."""
    twin = copy.copy(model)
    z, states, rewards = segments.obs[..., 0, :], [], []
    for k in range(segments.dt.shape[-1]):
        dt = segments.dt[..., k]
        if finer:
            solver = _finer(model.config.solver, float(dt.max()), z.dtype)
            twin.config = replace(model.config, solver=solver)
        outcome = twin.step(z, segments.action[..., k, :], dt)
        z = outcome.z
        states.append(z)
        rewards.append(outcome.reward)
    return torch.stack(states, -2), torch.stack(rewards, -1)


def _finer(solver: Solver, longest: float, dtype: torch.dtype) -> Solver:
    """`solver` with twice the substeps in an interval of `longest` seconds, or a tenth of the tolerance."""
    if solver.method in FIXED_STEP:
        return replace(solver, max_step=longest / (2 * n_substeps(longest, solver)))
    rtol = max(solver.rtol / 10, least_rtol(dtype))
    return replace(solver, rtol=rtol, atol=solver.atol / 10)
