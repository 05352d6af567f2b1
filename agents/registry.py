"""The agents by name, as strings: a table that loads nothing."""

from __future__ import annotations

AGENTS: dict[str, str] = {"mpc": "ode_rl.agents.mpc:MPC"}
