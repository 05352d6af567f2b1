"""Tuned settings: one yaml file an agent, a key per environment id, `default` for all others."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import yaml

from ode_rl.errors import UsageError
from ode_rl.settings import nearest

# Settings of a preset that belong to the run, not to the agent; `n_timesteps` is the zoo's word.
RUN_SETTINGS = ("total_timesteps", "n_timesteps", "eval_freq")


def _table(agent: str) -> dict[str, dict[str, Any]]:
    path = files("ode_rl.agents") / "presets" / f"{agent}.yml"
    if not path.is_file():
        raise UsageError("an agent with presets", repr(agent), "See `ode-rl list`.")
    table: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {str(key): dict(value or {}) for key, value in table.items()}


def preset_ids(agent: str) -> list[str]:
    """Ids of the environments that have tuned settings of their own."""
    return sorted(key for key in _table(agent) if key != "default")


def load_preset(agent: str, env_id: str, preset: str | None = "auto") -> tuple[str, dict[str, Any]]:
    """Name and settings of a preset.

    `preset` is ``"auto"`` (the one of `env_id`, else ``default``), the id of an environment, ``"default"``,
    or None or ``"none"`` for the plain defaults of the code.

    Raises:
        UsageError: for an unknown name, with the nearest ones, and for that of another task if `env_id` has
            a preset of its own.
    """
    if preset is None or preset == "none":
        return "none", {}
    table = _table(agent)
    # "module:id" is how Gymnasium imports a module first; presets go by the id alone.
    own = next((key for key in (env_id, env_id.split(":")[-1]) if key in table), "default")
    if preset == "auto":
        preset = own
    if preset not in table:
        raise UsageError("a preset by the id of its task", repr(preset), nearest(preset, table))
    if preset not in (own, "default") and own != "default":
        remedy = "Leave it out, or write --preset default or preset='default'."
        raise UsageError(f"the preset of {own}", f"{preset}, which is one of another task", remedy)
    return preset, table[preset]


def of_the_agent(tuned: dict[str, Any]) -> dict[str, Any]:
    """What of a preset is the agent's: all but the settings of a run."""
    return {k: v for k, v in tuned.items() if k not in RUN_SETTINGS}
