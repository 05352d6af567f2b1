"""Where an algorithm of Stable-Baselines3 is between two roll-outs, beside what it has learned.

At the start of a roll-out the last transition is stored and the last gradient step made; within one neither
can be said. What is left there: the last observations (which come from the environments), the random stream
of the action space, noise that has a memory, and gSDE's matrices, which are drawn just before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.vec_env import VecNormalize

from ode_rl.checkpoint import Checkpoint
from ode_rl.errors import UsageError

Arrays = dict[str, npt.NDArray[Any]]

ROLLOUT = "rollout"


def rollout_parts(algorithm: BaseAlgorithm, normalizer: VecNormalize | None) -> tuple[Arrays, dict[str, Any]]:
    """Arrays and JSON values for a checkpoint."""
    found: Arrays = {f"noise_{i}": noise.noise_prev for i, noise in enumerate(_walks(algorithm))}
    for name, matrix in _matrices(algorithm).items():
        found[name] = matrix.detach().cpu().numpy()
    if normalizer is not None:
        found["discounted"] = normalizer.returns
    return found, {"action_space": algorithm.action_space.np_random.bit_generator.state}


def restore_rollout(
    algorithm: BaseAlgorithm, normalizer: VecNormalize | None, parts: Checkpoint, drawn: bool = False
) -> None:
    """Take up what `rollout_parts` gave; with `drawn` also what `learn` overwrites until it is in a roll-out.

    Raises:
        UsageError: for damaged numbers.
    """
    found, meta = parts.arrays.get(ROLLOUT, {}), parts.meta["algorithm"].get(ROLLOUT)
    if meta is None:  # a checkpoint of an older version
        return
    algorithm.action_space.np_random.bit_generator.state = meta["action_space"]
    if normalizer is not None:
        normalizer.returns = _like(normalizer.returns, found["discounted"])
    for i, noise in enumerate(_walks(algorithm)):
        noise.noise_prev = _like(np.zeros_like(noise._mu), found[f"noise_{i}"])
    if not drawn:
        return
    for name, matrix in _matrices(algorithm).items():
        stored = _like(matrix.detach().cpu().numpy(), found[name])
        setattr(_distribution(algorithm), name, matrix.new_tensor(stored))


def begin_rollout(algorithm: BaseAlgorithm, obs: npt.NDArray[Any], starts: npt.NDArray[np.bool_]) -> None:
    """Let `learn` go on from observations of the task ``[n, O]``, instead of a reset."""
    normalizer: Any = algorithm._vec_normalize_env
    algorithm._last_obs, algorithm._last_episode_starts = obs, starts
    if normalizer is not None:
        normalizer.old_obs = obs
        algorithm._last_original_obs = obs
        algorithm._last_obs = normalizer.normalize_obs(obs)


def _walks(algorithm: BaseAlgorithm) -> list[OrnsteinUhlenbeckActionNoise]:
    """Action noise that goes on from where it was, one for each environment."""
    noise = getattr(algorithm, "action_noise", None)
    each = noise.noises if isinstance(noise, VectorizedActionNoise) else [noise]
    return [one for one in each if isinstance(one, OrnsteinUhlenbeckActionNoise)]


def _distribution(algorithm: BaseAlgorithm) -> Any:
    acting = getattr(algorithm, "actor", None) or algorithm.policy
    return getattr(acting, "action_dist", None)


def _matrices(algorithm: BaseAlgorithm) -> dict[str, Any]:
    """The exploration of gSDE, where it is used."""
    distribution = _distribution(algorithm)
    if not isinstance(distribution, StateDependentNoiseDistribution):
        return {}
    return {name: getattr(distribution, name) for name in ("exploration_mat", "exploration_matrices")}


def _like(mine: npt.NDArray[Any], stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if stored.shape != mine.shape or stored.dtype != mine.dtype or not np.isfinite(stored).all():
        remedy, got = "Restore the file or train again.", f"{stored.shape} {stored.dtype}"
        raise UsageError(f"finite numbers of shape {mine.shape} {mine.dtype}", got, remedy)
    return stored
