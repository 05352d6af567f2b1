"""Settings of a policy that a world model teaches."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ode_rl.agents.actor import ACTORS
from ode_rl.agents.policy_search import SearchConfig
from ode_rl.errors import UsageError
from ode_rl.settings import check_counts, check_widths
from ode_rl.timing import positive_seconds

SOURCES = ("imagined", "decoupled", "searched")
# Control intervals of a roll-out where no horizon in seconds is given.
DEFAULT_INTERVALS = 20


@dataclass(frozen=True)
class PolicyConfig:
    """The policy that a world model teaches."""

    actor: str = "mlp"
    """The actor: mlp (a plain network), or ode (a hidden state flows between observations)."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers of the actor."""
    n_memory: int = 32
    """Width of the hidden state of the actor ode."""
    burn_in: float = 0.5
    """Seconds of recorded observations, at most, that fill the hidden state before a roll-out begins."""
    source: str = "imagined"
    """Where gradients come from: imagined (roll-outs of the model from recorded states) or decoupled (the
    states of the real task, the derivatives of the model), which bears models that miss contacts but takes
    the record for the policy's own: it wants few updates a round, rounds often, and few recent steps. Or
    searched: no gradients and no value, but the returns of whole roll-outs; it wants few parameters."""
    horizon: float | None = None
    """Seconds of a roll-out; None means 20 control intervals."""
    growth: float = 1.05
    """Factor by which intervals of imagined roll-outs get longer along the horizon; 1 keeps them."""
    dt_spread: float = 1.5
    """Imagined intervals are recorded ones, longer or shorter by up to this factor; 1 keeps them."""
    recent: int = 1000
    """Transitions, of the newest, from which decoupled courses are taken."""
    updates: int = 150
    """Gradient steps of the actor after each fit of the world model."""
    starts: int = 100
    """Starts per gradient step, each on one member of the ensemble."""
    learning_rate: float = 1e-3
    """Rate of Adam for the actor."""
    max_grad_norm: float = 1.0
    """Gradients of the actor are clipped to this norm; returns are in units of their spread."""
    most_skipped: int = 20
    """Gradients in a row that may be not finite before it is an error."""
    ramp: int = 5
    """Rounds over which the weight of the value rises to 1."""
    value_hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of the value."""
    value_members: int = 3
    """Members of the value."""
    pessimism: float = 0.0
    """Spreads of the members below their mean at which a roll-out ends: where the data say little."""
    value_updates: int = 8
    """Gradient steps of the value for each of the actor."""
    value_batch: int = 256
    """States per gradient step of the value."""
    value_learning_rate: float = 2e-3
    """Rate of Adam for the value."""
    target_every: int = 25
    """Updates of the actor between two copies of the value for its targets."""
    search: SearchConfig = field(default_factory=SearchConfig)
    """The search of the source searched."""

    def __post_init__(self) -> None:
        check_widths("hidden", self.hidden)
        for name, kinds in (("actor", ACTORS), ("source", SOURCES)):
            if getattr(self, name) not in kinds:
                remedy = f"Write {name}='{kinds[0]}'."
                raise UsageError(f"{name}: {' or '.join(kinds)}", repr(getattr(self, name)), remedy)
        if self.source == "searched" and self.actor != "mlp":
            remedy = "Write actor='mlp', or leave it out."
            raise UsageError("source 'searched' with the actor 'mlp'", repr(self.actor), remedy)
        check_counts(
            self,
            ("updates", "starts", "recent", "most_skipped", "target_every", "value_batch"),
            100,
            "policy",
        )
        if self.horizon is not None:
            positive_seconds(self.horizon, "horizon")
        for name, usual in (("dt_spread", 1.5), ("growth", 1.05)):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 1):
                remedy = f"Write policy={{'{name}': {usual}}}."
                raise UsageError(f"{name} >= 1", getattr(self, name), remedy)

    def intervals(self, interval: float) -> int:
        """Control intervals of `interval` seconds in a roll-out.

        Raises:
            UsageError: for a horizon shorter than one of them.
        """
        if self.horizon is None:
            return DEFAULT_INTERVALS
        if self.horizon < interval * (1 - 1e-6):
            remedy = f"Write policy={{'horizon': {DEFAULT_INTERVALS * interval:g}}}, or leave it out."
            want = f"a horizon of at least one control interval, {interval:g} s"
            raise UsageError(want, f"{self.horizon:g} s", remedy)
        return max(1, round(self.horizon / interval))
