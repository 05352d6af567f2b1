"""Planners: maximisers of ``f(plans) -> scores`` that know no model, one method a file."""

from __future__ import annotations

from ode_rl.agents.planners.config import PlannerConfig
from ode_rl.agents.planners.deadline import Deadline, OutOfTime
from ode_rl.agents.planners.intervals import interval_grid
from ode_rl.agents.planners.knots import Knots, held_actions
from ode_rl.agents.planners.sampling import Score
from ode_rl.agents.planners.search import Found, search
from ode_rl.agents.planners.warm import Warm, cold_start, renewed, shift

__all__ = [
    "Deadline",
    "Found",
    "Knots",
    "OutOfTime",
    "PlannerConfig",
    "Score",
    "Warm",
    "cold_start",
    "held_actions",
    "interval_grid",
    "renewed",
    "search",
    "shift",
]
