"""Agents that Stable-Baselines3 saved: which algorithm a file holds, found without running anything in it."""

from __future__ import annotations

import importlib
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ode_rl.errors import UsageError

if TYPE_CHECKING:
    from ode_rl.types import Agent

# The file does not name its algorithm, but what was saved of it does: the module of its policy, or else a
# setting; the first that is found decides.
POLICIES = (("crossq", "sb3_contrib:CrossQ"), ("recurrent", "sb3_contrib:RecurrentPPO"))
SIGNS = (
    ("top_quantiles_to_drop_per_net", "sb3_contrib:TQC"),
    ("target_policy_noise", "stable_baselines3:TD3"),
    ("cg_max_steps", "sb3_contrib:TRPO"),
    ("delta_std_schedule", "sb3_contrib:ARS"),
    ("clip_range", "stable_baselines3:PPO"),
    ("normalize_advantage", "stable_baselines3:A2C"),
    ("target_entropy", "stable_baselines3:SAC"),
)
MOST_BYTES = 64 * 2**20


def holds_sb3(path: Path) -> bool:
    """Whether a file has the parts of one that Stable-Baselines3 saved."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {"data", "policy.pth"} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def load_sb3(path: Path, trust: bool, device: str = "auto") -> tuple[Agent, str]:
    """Load an agent and the name of its algorithm.

    Raises:
        UsageError: if the file is not trusted, of no known algorithm, or cannot be loaded.
    """
    if not trust:
        got = f"{path}, which is loaded with pickle and could run any code"
        raise UsageError("trust in a file of Stable-Baselines3", got, "Add --trust if it is from you.")
    source = _algorithm(path)
    module, _, name = source.partition(":")
    try:
        cls = getattr(importlib.import_module(module), name)
    except ImportError as error:
        remedy = "Run pip install 'ode-rl[contrib]'."
        raise UsageError(f"the package {module} for {name}", error, remedy) from error
    try:
        agent: Agent = cls.load(str(path), device=device)
    except Exception as error:  # what is in the pickles fails in ways of its own
        got = f"{path} ({type(error).__name__}: {error})"
        remedy = "Load it with the versions that wrote it (system_info.txt in the zip)."
        raise UsageError(f"a file of {name} that can be loaded", got, remedy) from error
    return agent, name.lower()


def _algorithm(path: Path) -> str:
    """``module:class`` of the algorithm, from the plain JSON in the file."""
    refusal = UsageError(
        "a file of an algorithm of Stable-Baselines3 for continuous actions",
        f"{path}, which is of none",
        "Write module:object for an agent of your own.",
    )
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("data").file_size > MOST_BYTES:
                raise refusal
            settings: Any = json.loads(archive.read("data"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, RecursionError) as error:
        raise refusal from error
    if not isinstance(settings, dict):
        raise refusal
    policy = settings.get("policy_class")
    module = str(policy.get("__module__")) if isinstance(policy, dict) else ""
    for sign, source in POLICIES:
        if sign in module:
            return source
    for sign, source in SIGNS:
        if sign in settings:
            return source
    raise refusal
