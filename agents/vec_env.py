"""Environments as Stable-Baselines3 sees them: vectorised, monitored."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from ode_rl.timing import native_dt


def as_vec_env(env: str | gym.Env[Any, Any] | VecEnv) -> VecEnv:
    """An id, an environment or a vectorised one as a `VecEnv` whose episodes are monitored."""
    if isinstance(env, VecEnv):
        return env
    made: gym.Env[Any, Any] = gym.make(env) if isinstance(env, str) else env
    if not is_wrapped(made, Monitor):
        made = Monitor(made)
    return DummyVecEnv([lambda: made])


def vec_env_id(env: VecEnv) -> str:
    """The registered id of the first environment, or the name of its class."""
    spec = env.get_attr("spec", 0)[0]
    return spec.id if spec is not None else str(env.unwrapped)


def vec_env_dt(env: VecEnv, dt: float | None) -> float:
    """Native seconds per step of the first environment; see `ode_rl.timing.native_dt`."""
    first = env.envs[0] if isinstance(env, DummyVecEnv) else None
    if first is not None:
        return native_dt(first, dt)

    class Remote:
        metadata = env.get_attr("metadata", 0)[0]

    if env.has_attr("dt"):
        Remote.dt = env.get_attr("dt", 0)[0]  # type: ignore[attr-defined]
    return native_dt(Remote(), dt)
