"""The agents by name, as strings, and what each can be asked for: tables that load nothing."""

from __future__ import annotations

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
