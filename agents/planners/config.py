"""Settings of a search: one dataclass for all methods, so that they carry over from one to another."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ode_rl.errors import UsageError
from ode_rl.names import PLANNERS
from ode_rl.settings import nearest


@dataclass(frozen=True)
class PlannerConfig:
    """How many plans are tried, and how they are drawn."""

    method: str = "icem"
    """How plans are searched: icem, cem, mppi, shooting or gradient."""
    candidates: int = 120
    """Plans drawn in the first iteration."""
    iterations: int = 3
    """Iterations per decision, at most; shooting draws as many plans in a single one."""
    elites: int = 12
    """Best plans that the next distribution is fitted to."""
    keep: float = 0.3
    """Share of the elites that the next iteration, or the next decision, tries again."""
    shrink: float = 1.25
    """icem: the population shrinks by this factor per iteration, not below twice the elites."""
    noise_exponent: float = 1.0
    """Colour of the noise: 0 white, 2 brown; cem's is white."""
    init_std: float = 0.3
    """Spread of the first iteration, on actions scaled to [-1, 1]."""
    momentum: float = 0.1
    """Share of the old mean and spread kept per iteration."""
    finalists: int = 10
    """Best plans among which the judge chooses."""
    temperature: float = 0.2
    """mppi: a plan this share of the way from the best score to the median weighs 1/e of the best."""
    restarts: int = 4
    """gradient: how many of the best plans are refined."""
    gradient_steps: int = 10
    """gradient: steps of ascent, at most."""
    gradient_rate: float = 0.05
    """gradient: length of the first step in each action, on actions scaled to [-1, 1]; falls to 0."""
    sampling_share: float = 0.5
    """gradient: share of a budget that is spent before the ascent begins, at most."""
    budget_ms: float | None = None
    """Milliseconds per decision when acting; the best plan so far is taken when they are over."""
    budget_evaluations: int | None = None
    """Plans scored per decision, at most; unlike a budget in time it repeats exactly."""

    def __post_init__(self) -> None:
        if self.method not in PLANNERS:
            remedy = nearest(str(self.method), PLANNERS)
            raise UsageError(f"a planner among {', '.join(PLANNERS)}", repr(self.method), remedy)
        if not 1 <= self.elites <= self.candidates:
            raise UsageError(
                f"1 <= elites <= candidates ({self.candidates})", self.elites, "Write planner={'elites': 10}."
            )
        if not (0 < self.keep <= 1 and self.shrink >= 1 and 0 <= self.momentum < 1 and self.init_std > 0):
            got = (
                f"keep={self.keep}, shrink={self.shrink}, momentum={self.momentum}, init_std={self.init_std}"
            )
            expected = "0 < keep <= 1, shrink >= 1, 0 <= momentum < 1, init_std > 0"
            raise UsageError(expected, got, "Write planner={'keep': 0.3, 'shrink': 1.25}.")
        if self.iterations < 1:
            raise UsageError("at least one iteration", self.iterations, "Write planner={'iterations': 3}.")
        if self.finalists < 1:
            raise UsageError("at least one finalist", self.finalists, "Write planner={'finalists': 10}.")
        if not math.isfinite(self.noise_exponent):
            raise UsageError("a finite noise_exponent", self.noise_exponent, "Write 'noise_exponent': 1.0.")
        if not self.temperature > 0:
            raise UsageError("temperature > 0", self.temperature, "Write planner={'temperature': 0.2}.")
        self._check_gradient()
        self._check_budgets()

    def _check_gradient(self) -> None:
        if not (self.restarts >= 1 and self.gradient_steps >= 1 and self.gradient_rate > 0):
            raise UsageError(
                "restarts >= 1, gradient_steps >= 1, gradient_rate > 0",
                f"restarts={self.restarts}, gradient_steps={self.gradient_steps}, "
                f"gradient_rate={self.gradient_rate}",
                "Write planner={'restarts': 4, 'gradient_steps': 10, 'gradient_rate': 0.05}.",
            )
        if not 0 < self.sampling_share < 1:
            raise UsageError("0 < sampling_share < 1", self.sampling_share, "Write 'sampling_share': 0.5.")

    def _check_budgets(self) -> None:
        if self.budget_ms is not None and not self.budget_ms > 0:
            remedy = "Write planner={'budget_ms': 20}, or leave it out for no limit."
            raise UsageError("budget_ms > 0 milliseconds", self.budget_ms, remedy)
        if self.budget_evaluations is not None and self.budget_evaluations < self.least:
            raise UsageError(
                f"budget_evaluations >= {self.least}, one iteration with {self.elites} elites",
                self.budget_evaluations,
                f"Write planner={{'budget_evaluations': {self.candidates * self.iterations}}}.",
            )

    @property
    def n_kept(self) -> int:
        """Elites that are tried again."""
        return max(1, round(self.keep * self.elites))

    @property
    def least(self) -> int:
        """Plans below which a distribution is not worth fitting: twice the elites."""
        return 2 * self.elites
