"""Environment ids of this package, known to Gymnasium as soon as `ode_rl` is imported."""

from __future__ import annotations

from typing import Any

from gymnasium.envs.registration import register, registry

SPECS: dict[str, dict[str, Any]] = {
    # 200 native steps of 0.05 s are 10 s.
    "ode_rl/Pendulum-v0": {"entry_point": "ode_rl.envs.pendulum:PendulumEnv", "max_episode_steps": 200},
    "ode_rl/CartPoleSwingUp-v0": {
        "entry_point": "ode_rl.envs.cart_pole_swing_up:CartPoleSwingUpEnv",
        "max_episode_steps": 200,
    },
    "ode_rl/Acrobot-v0": {"entry_point": "ode_rl.envs.acrobot:AcrobotEnv", "max_episode_steps": 200},
    "ode_rl/DoublePendulum-v0": {
        "entry_point": "ode_rl.envs.double_pendulum:DoublePendulumEnv",
        "max_episode_steps": 200,
    },
}
"""Id -> keyword arguments of `gymnasium.register`; entry points are strings, so that nothing heavy loads."""


def register_all() -> None:
    """Register every id of `SPECS` that Gymnasium does not know yet."""
    for env_id, kwargs in SPECS.items():
        if env_id not in registry:
            register(id=env_id, **kwargs)
