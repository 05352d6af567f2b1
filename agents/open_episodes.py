"""What lies around an agent in a checkpoint of its run: the open episodes and the global random streams."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv

from ode_rl.checkpoint import Checkpoint
from ode_rl.errors import UsageError
from ode_rl.random_streams import random_streams, set_random_streams
from ode_rl.types import FloatArray

log = logging.getLogger(__name__)

STREAMS, EPISODES = "random_streams", "open_episodes"


class OpenEpisodes(NamedTuple):
    """The parts of a checkpoint: `arrays` by part and name, `meta` with seed and number of each episode."""

    arrays: dict[str, dict[str, npt.NDArray[Any]]]
    meta: list[dict[str, int]]

    @classmethod
    def of(cls, parts: Checkpoint) -> OpenEpisodes:
        """Those of a checkpoint."""
        arrays = {name: parts.arrays[name] for name in (STREAMS, EPISODES) if name in parts.arrays}
        return cls(arrays, parts.meta.get("episodes", []))


def open_episodes(env: VecEnv | None) -> OpenEpisodes:
    """Where `env` and the global random streams are now; no episodes if `env` cannot repeat them."""
    states: list[dict[str, Any]] = []
    if env is not None and env.has_attr("episode_state"):
        states = env.env_method("episode_state")
    arrays = {f"{name}_{i}": state[name] for i, state in enumerate(states) for name in ("actions", "obs")}
    meta = [{"seed": int(state["seed"]), "number": int(state["number"])} for state in states]
    return OpenEpisodes({STREAMS: random_streams(), EPISODES: arrays}, meta)


def took_up(env: VecEnv, left: OpenEpisodes) -> tuple[FloatArray, npt.NDArray[np.bool_]] | None:
    """Bring `env` and the global streams to where they were left; see `Learner._take_up`.

    Raises:
        UsageError: if the checkpoint is of another number of environments.
    """
    if STREAMS not in left.arrays:
        raise _damaged("no random streams")
    if not left.meta or not env.has_attr("resume_episode"):
        set_random_streams(left.arrays[STREAMS])
        return None
    if len(left.meta) != env.num_envs:
        remedy = "Take up the run as it was."
        raise UsageError(f"{len(left.meta)} environments, as before", env.num_envs, remedy)
    rows, fresh = [], np.zeros(env.num_envs, bool)
    for i in range(env.num_envs):
        state = _state(left, i, env)
        obs = env.env_method("resume_episode", state, indices=i)[0]
        if obs is None:
            log.warning("environment %d did not repeat its open episode: it begins a new one", i)
            obs, fresh[i] = env.env_method("reset", indices=i)[0][0], True
        rows.append(obs)
    set_random_streams(left.arrays[STREAMS])  # the tasks may have drawn from them
    return np.stack(rows).astype(env.observation_space.dtype), fresh


def _state(left: OpenEpisodes, i: int, env: VecEnv) -> dict[str, Any]:
    """The episode of environment `i`, as `episode_state` gave it."""
    arrays = left.arrays.get(EPISODES, {})
    try:
        meta, actions, obs = left.meta[i], arrays[f"actions_{i}"], arrays[f"obs_{i}"]
        seed, number = meta["seed"], meta["number"]
    except (KeyError, TypeError) as error:
        raise _damaged(f"no {error} of environment {i}") from error
    if not all(type(value) is int and value >= 0 for value in (seed, number)):
        raise _damaged(f"seed {seed} and number {number} of an episode")
    if actions.shape[1:] != env.action_space.shape or obs.shape != env.observation_space.shape:
        raise _damaged(f"actions {actions.shape} and an observation {obs.shape}")
    if actions.dtype != env.action_space.dtype or obs.dtype not in (np.float32, np.float64):
        raise _damaged(f"actions {actions.dtype} and an observation {obs.dtype}")
    if not (np.isfinite(actions).all() and np.isfinite(obs).all()):
        raise _damaged("actions or an observation that are not finite")
    return {"seed": seed, "number": number, "actions": actions, "obs": obs}


def _damaged(got: str) -> UsageError:
    return UsageError("the open episodes of a run", got, "Restore the file or train again.")
