"""Environment ids of this package, known to Gymnasium as soon as `ode_rl` is imported."""

from __future__ import annotations

from typing import Any

from gymnasium.envs.registration import register, registry

SPECS: dict[str, dict[str, Any]] = {}
"""Id -> keyword arguments of `gymnasium.register`; entry points are strings, so that nothing heavy loads."""


def register_all() -> None:
    """Register every id of `SPECS` that Gymnasium does not know yet."""
    for env_id, kwargs in SPECS.items():
        if env_id not in registry:
            register(id=env_id, **kwargs)
