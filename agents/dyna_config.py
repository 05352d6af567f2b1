"""Settings of the agent `dyna`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from ode_rl.agents.model_rollouts import RolloutConfig
from ode_rl.agents.value_expansion import ExpansionConfig
from ode_rl.errors import UsageError
from ode_rl.fit import FitConfig
from ode_rl.world_model import WorldModelConfig


@dataclass(frozen=True)
class DynaConfig:
    """What the agent has beside the settings of SAC, whose update-to-data ratio is `gradient_steps`."""

    real_share: float = 0.1
    """Share of a batch that was recorded; the rest is imagined."""
    layer_norm_critics: bool = False
    """Whether the critics have layer normalisation, which bears many gradient steps per environment step."""
    fit_every: int = 250
    """Environment steps between two fits of the world model, at least; the first is at `learning_starts`."""
    fit_growth: float = 0.0
    """Fits are also at least this share of all steps apart."""
    model: WorldModelConfig = field(default_factory=WorldModelConfig)
    """The world model."""
    fit: FitConfig = field(default_factory=FitConfig)
    """How the world model is fitted."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """The roll-outs of the policy in the world model."""
    expansion: ExpansionConfig = field(default_factory=ExpansionConfig)
    """Steps of the actor along gradients of the world model."""

    def __post_init__(self) -> None:
        if not 0 <= self.real_share <= 1:
            raise UsageError("0 <= real_share <= 1", self.real_share, "Write real_share=0.1.")
        if self.fit_every < 1:
            raise UsageError("fit_every >= 1", self.fit_every, "Write fit_every=250.")
        if self.fit_growth < 0:
            raise UsageError("fit_growth >= 0", self.fit_growth, "Write fit_growth=0.05.")


OWN = tuple(f.name for f in fields(DynaConfig))
# Where the agent differs from what Stable-Baselines3 takes by default.
DEFAULTS: dict[str, Any] = {"gradient_steps": 10, "learning_starts": 500}
# Settings of SAC agents that have but one value here, and why.
FIXED: dict[str, tuple[Any, str]] = {
    "discount": ("time", "each row of a batch has a discount of its own"),
    "n_steps": (1, "imagined intervals come one by one"),
    "normalize": (None, "the world model has scales of its own"),
}
