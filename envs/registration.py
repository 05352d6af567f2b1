"""Environment ids of this package, known to Gymnasium as soon as `ode_rl` is imported."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gymnasium.envs.registration import register, registry

from ode_rl.errors import UsageError

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
    # Made with run=...; its episodes last as long as those of the task that the run is about.
    "ode_rl/Imagined-v0": {
        "entry_point": "ode_rl.envs.imagined:ImaginedEnv",
        "vector_entry_point": "ode_rl.envs.imagined_vector:ImaginedVectorEnv",
    },
}
"""Id -> keyword arguments of `gymnasium.register`; entry points are strings, so that nothing heavy loads."""

OWN_ID = re.compile(r"[\w.-]+/[\w.-]+-v\d+")


def register_all() -> None:
    """Register every id of `SPECS` that Gymnasium does not know yet."""
    for env_id, kwargs in SPECS.items():
        if env_id not in registry:
            register(id=env_id, **kwargs)


def register_world(run: str | Path, id: str, **settings: Any) -> None:
    """Register the learned world of a run under an id of one's own: ``register_world(run, "me/Robot-v0")``.

    `settings` are those of `ImaginedEnv`. Like every registration this lasts as long as the process; in a
    module of yours, ``ode-rl train my_worlds:me/Robot-v0 --agent sac`` finds it.

    Raises:
        UsageError: for an id without namespace or version, or a path that is no run.
    """
    if not OWN_ID.fullmatch(id):
        raise UsageError("an id of the form namespace/Name-v0", repr(id), "Write id='me/MyRobot-v0'.")
    from ode_rl.checkpoint import existing_checkpoint

    kwargs = {"run": str(existing_checkpoint(run).absolute()), **settings}
    register(id=id, kwargs=kwargs, **SPECS["ode_rl/Imagined-v0"])
