"""How a plan lies in time: its knots, and the control intervals in which the model follows it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ode_rl.agents.planners import Knots, Warm, held_actions, interval_grid, shift
from ode_rl.errors import UsageError

# Control intervals per plan where no horizon in seconds is given.
DEFAULT_PLAN_LENGTH = 12


@dataclass(frozen=True)
class PlanGrid:
    """Plans of `horizon` seconds for a task with control intervals of `dt` seconds.

    The resolution of the plan (`knots`) and the intervals of the roll-out are independent of one another:
    the first interval is the real duration of the next step, and with `growth` above 1 later ones get
    longer, so that fewer of them cover the horizon. Behind its horizon every plan goes on for `n_coast`
    intervals with the middle action: how well the task does when left to itself is what a plan's end is
    worth, as in the rollout algorithm (Bertsekas 2020, Rollout, Policy Iteration, and Distributed
    Reinforcement Learning) with the passive policy.
    """

    dt: float
    horizon: float
    knots: Knots
    growth: float
    n_coast: int = 0

    @classmethod
    def of(
        cls,
        dt: float,
        horizon: float | None,
        kind: str,
        n_knots: int | None,
        growth: float,
        coast: float = 0.0,
    ) -> PlanGrid:
        """The grid for settings of which None leaves a choice: 12 intervals, one knot for each.

        Raises:
            UsageError: for a horizon shorter than one interval, an unknown kind, too few knots, or a
                negative `coast`.
        """
        if not (math.isfinite(coast) and coast >= 0):
            raise UsageError("coast >= 0 seconds", coast, "Write coast=1.0, or leave it out.")
        seconds = DEFAULT_PLAN_LENGTH * dt if horizon is None else horizon
        if seconds < dt * (1 - 1e-6):
            remedy = f"Write horizon={DEFAULT_PLAN_LENGTH * dt:g}, or leave it out."
            raise UsageError(
                f"a horizon of at least one control interval, {dt:g} s", f"{seconds:g} s", remedy
            )
        n = max(1, round(seconds / dt))
        if growth == 1.0:
            seconds = n * dt
        return cls(
            dt, seconds, Knots(kind, n if n_knots is None else n_knots, seconds), growth, round(coast / dt)
        )

    def intervals(self, next_dt: float | None = None) -> list[float]:
        """Durations ``[H]`` in seconds: `next_dt` first, the last `n_coast` behind the horizon."""
        first = self.dt if next_dt is None else next_dt
        # A next step that is longer than the plan: the plan is that step.
        plan = interval_grid(max(self.horizon, first, self.dt), self.dt, first, growth=self.growth)
        return plan + [self.dt] * self.n_coast

    def spread_out(self, dt: list[float], like: Tensor) -> Callable[[Tensor], Tensor]:
        """The map from knots ``[*, K, A]`` to the actions ``[*, H, A]`` held in intervals of `dt` seconds."""
        planned = dt[: len(dt) - self.n_coast]
        if not self.n_coast:
            return self._planned(planned, like)
        actions = self._planned(planned, like)
        return lambda plans: torch.nn.functional.pad(actions(plans), (0, 0, 0, self.n_coast))

    def at_knots(self, dt: list[float]) -> Tensor:
        """In which of the intervals of ``dt [H]`` seconds each knot stands, ``[K]``: the plan that is nearest
        to a course of actions ``[*, H, A]`` takes those of these intervals."""
        ends = torch.tensor(dt, dtype=torch.float64).cumsum(0)
        place = torch.searchsorted(ends, self.knots.times + 1e-9, right=True)
        return place.clamp(max=len(dt) - self.n_coast - 1)

    def _planned(self, dt: list[float], like: Tensor) -> Callable[[Tensor], Tensor]:
        if self._one_knot_each(dt):
            return lambda plans: plans
        weights = self.knots.weights(dt, like.dtype).to(like.device)
        return lambda plans: held_actions(weights, plans)

    def shifted(self, warm: Warm, seconds: float) -> Warm:
        """The plans as they stand when `seconds` of them are over."""
        if self._one_knot_each([self.dt] * self.knots.n) and abs(seconds - self.dt) < 1e-9:
            return shift(warm)
        return shift(warm, self.knots.shift_matrix(seconds, warm.mean.dtype).to(warm.mean.device))

    def _one_knot_each(self, dt: list[float]) -> bool:
        if self.knots.kind != "held" or len(dt) != self.knots.n:
            return False
        return max(abs(x - self.dt) for x in (*dt, self.knots.spacing)) < 1e-9


def unique_seconds(dt: object, n: int, native: float) -> list[tuple[float, Tensor]]:
    """The different durations of the next step among n robots, each with the rows ``[m]`` that have it.

    Raises:
        UsageError: for durations that are not one or n positive numbers.
    """
    try:
        seconds = torch.as_tensor(native if dt is None else dt, dtype=torch.float64).flatten()
    except (TypeError, ValueError, RuntimeError):
        seconds = torch.empty(0)
    if len(seconds) not in (1, n) or not bool(((seconds > 0) & seconds.isfinite()).all()):
        raise UsageError(f"dt > 0 in seconds, one number or {n}", dt, "Write predict(obs, dt=0.05).")
    seconds = seconds.expand(n)
    return [(float(s), (seconds == s).nonzero()[:, 0]) for s in seconds.unique()]
