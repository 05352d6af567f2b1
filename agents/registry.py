"""The agents by name, as strings, and what each can be asked for: tables that load nothing by themselves."""

from __future__ import annotations

import importlib
from typing import Any

AGENTS: dict[str, str] = {
    "mpc": "ode_rl.agents.mpc:MPC",
    "ode-policy": "ode_rl.agents.ode_policy:ODEPolicy",
    "dyna": "ode_rl.agents.dyna:Dyna",
    "sac": "ode_rl.agents.model_free:SAC",
    "td3": "ode_rl.agents.model_free:TD3",
    "ppo": "ode_rl.agents.model_free:PPO",
    "tqc": "ode_rl.agents.model_free:TQC",
    "crossq": "ode_rl.agents.model_free:CrossQ",
}

# Those that leave a step out whose numbers are none to learn from; the others cannot, and stop.
LEAVE_OUT = ("mpc", "ode-policy")

# The flags of `ode-rl train` that only some agents have a use for; an agent that is not here takes none.
CHOICES = ("model", "termination", "planner", "proposals", "precision", "known")
TAKES: dict[str, tuple[str, ...]] = {
    "mpc": CHOICES,
    "ode-policy": ("model", "termination", "known"),
    "dyna": ("model", "termination", "known"),
}


def agent_class(name: str) -> Any:
    """The class of the agent with this name."""
    module, _, cls = AGENTS[name].partition(":")
    return getattr(importlib.import_module(module), cls)
