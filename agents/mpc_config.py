"""Settings of the agent `mpc`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ode_rl.agents.planners import PlannerConfig
from ode_rl.agents.policy_config import PolicyConfig
from ode_rl.agents.terminal_value import ValueConfig
from ode_rl.errors import UsageError
from ode_rl.fit import FitConfig
from ode_rl.inference import resolve_precision
from ode_rl.names import PROPOSALS
from ode_rl.returns import discount_rate
from ode_rl.settings import check_counts
from ode_rl.timing import positive_seconds
from ode_rl.world_model import WorldModelConfig

MEMBERS = ("assigned", "all")


@dataclass(frozen=True)
class MPCConfig:
    """Settings of the agent and, below them, of its parts."""

    horizon: float | None = None
    """Length of a plan in seconds; None means 12 control intervals."""
    gamma: float = 0.99
    """Discount per native step."""
    warmup_steps: int = 200
    """Steps of random actions before the first fit."""
    warmup_exponent: float = 0.0
    """Colour of the random actions of the warm-up: 0 white, 2 brown."""
    warmup_mirrored: bool = False
    """Whether a stretch of them, begun with the episode, is followed by its mirror image, so that what
    integrates them, a cart without friction, comes back instead of running away."""
    fit_every: int = 100
    """Steps between two fits, at least."""
    fit_growth: float = 0.05
    """Fits are also at least this share of all steps apart: each costs the same, and news get rarer."""
    buffer_size: int = 100_000
    """Transitions kept."""
    knots: str = "held"
    """The curve of a plan through its knots: held, linear or cubic."""
    n_knots: int | None = None
    """Knots per plan; None means one per control interval."""
    growth: float = 1.0
    """Factor by which intervals of the roll-out get longer along the horizon; 1 keeps them as they are."""
    coast: float = 0.0
    """Seconds that every plan goes on behind its horizon with the middle action: of plans that end alike
    it prefers those that leave the task where it does well by itself (a pole near its balance)."""
    action_cost: float = 0.01
    """Weight of the squared change of the action, in shares of the typical reward rate."""
    members: str = "assigned"
    """Which members of the ensemble try a plan: assigned (one each, dealt out; the best plans are judged by
    all) or all."""
    uncertainty: float = 0.0
    """Weight of the spread of a plan's score over the members: below 0 a penalty, above 0 a bonus; not 0
    asks all members for every plan."""
    curiosity: float = 0.0
    """Weight of a bonus, while learning, for plans that end where the members are apart (Sekar et al. 2020,
    arXiv 2005.05960): what the data say little about is tried, where rewards are rare. At 1 a spread of the
    data between them is worth a typical reward. Above 0 asks all members for every plan."""
    precision: str = "auto"
    """Precision of planning: float32, bfloat16, or auto (what the processor can do)."""
    explore_std: float = 0.0
    """Gaussian noise on scaled actions while learning."""
    proposals: str = "none"
    """Whose plans are tried among the first: none, or policy (one that the world model teaches after each
    fit; plans end in its value, too)."""
    model: WorldModelConfig = field(default_factory=WorldModelConfig)
    """The world model."""
    fit: FitConfig = field(default_factory=FitConfig)
    """How the world model is fitted."""
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    """How plans are searched."""
    value: ValueConfig = field(default_factory=ValueConfig)
    """The value of where a plan ends."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """The policy that proposes plans."""

    def asks_all_members(self, explores: bool) -> bool:
        """Whether every plan is tried on all members, in decisions that explore and in others."""
        return self.members == "all" or bool(self.uncertainty) or (explores and self.curiosity > 0)

    def __post_init__(self) -> None:
        discount_rate(self.gamma, native_dt=1.0)  # refuses what is no discount
        if self.horizon is not None:
            positive_seconds(self.horizon, "horizon")
        check_counts(self, ("warmup_steps", "fit_every", "buffer_size"), 100)
        if self.buffer_size < self.warmup_steps:
            got = f"buffer_size={self.buffer_size} and warmup_steps={self.warmup_steps}"
            raise UsageError("a buffer that holds the warm-up", got, "Write a larger buffer_size.")
        if not (math.isfinite(self.curiosity) and self.curiosity >= 0):
            raise UsageError("curiosity >= 0", self.curiosity, "Write curiosity=1.0, or leave it out.")
        if self.members not in MEMBERS:
            raise UsageError(" or ".join(MEMBERS), repr(self.members), "Write members='assigned'.")
        if self.proposals not in PROPOSALS:
            raise UsageError(" or ".join(PROPOSALS), repr(self.proposals), "Write proposals='policy'.")
        resolve_precision(self.precision, "cpu")
