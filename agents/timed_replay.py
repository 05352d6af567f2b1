"""Replay for Stable-Baselines3 in which every transition is discounted by its own duration."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from ode_rl.agents.interval import reward_weight, true_seconds
from ode_rl.errors import UsageError
from ode_rl.timing import positive_seconds

IntArray = npt.NDArray[np.int64]


class _Timed(ReplayBuffer):
    """What both buffers below are; the class after it in their bases holds the observations."""

    def __init__(
        self,
        *args: Any,
        rho: float,
        dt: float | None = None,
        unit_dt: float = 0.0,
        n_steps: int = 1,
        **kwargs: Any,
    ) -> None:
        if not (np.isfinite(rho) and rho >= 0):
            raise UsageError("a discount rate rho >= 0 per second", rho, "Write rho=-log(gamma) / native_dt.")
        if not (np.isfinite(unit_dt) and unit_dt >= 0):
            raise UsageError("unit_dt >= 0 seconds", unit_dt, "Give the native step, or leave it out.")
        if n_steps < 1:
            raise UsageError("n_steps >= 1", n_steps, "Write n_steps=1.")
        if kwargs.get("optimize_memory_usage"):
            got, remedy = "optimize_memory_usage=True", "Leave it out."
            raise UsageError("a buffer that keeps next observations", got, remedy)
        super().__init__(*args, **kwargs)
        self.rho, self.unit_dt, self.n_steps = float(rho), float(unit_dt), n_steps
        self.dt = None if dt is None else positive_seconds(dt)
        self.seconds = np.zeros((self.buffer_size, self.n_envs), np.float64)

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: npt.NDArray[Any],
        reward: npt.NDArray[Any],
        done: npt.NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Add one step of every environment, with ``info["dt"]`` seconds each."""
        self.seconds[self.pos] = true_seconds(infos, self.dt)
        super().add(obs, next_obs, action, reward, done, infos)

    def _get_samples(self, batch_inds: IntArray, env: VecNormalize | None = None) -> Any:
        # The same draw as in Stable-Baselines3, so that at the native step all numbers are the same.
        which = np.random.randint(0, high=self.n_envs, size=(len(batch_inds),))
        last, reward, discount = self._ahead(batch_inds, which, env)
        dones = self.dones[last, which] * (1 - self.timeouts[last, which])
        make = DictReplayBufferSamples if isinstance(self.observations, dict) else ReplayBufferSamples
        return make(
            observations=self._observed(self.observations, batch_inds, which, env),
            actions=self.to_torch(self.actions[batch_inds, which]),
            next_observations=self._observed(self.next_observations, last, which, env),
            dones=self.to_torch(dones.reshape(-1, 1)),
            rewards=self.to_torch(reward.astype(np.float32).reshape(-1, 1)),
            discounts=self.to_torch(discount.astype(np.float32).reshape(-1, 1)),
        )

    def _ahead(
        self, at: IntArray, which: IntArray, env: VecNormalize | None
    ) -> tuple[IntArray, npt.NDArray[Any], npt.NDArray[Any]]:
        """Up to `n_steps` intervals from each start: the last one, the reward, the discount of its end.

        ``R = sum_k D_k w(dt_k) r_k`` and ``D_n`` with ``D_k = exp(-rho sum_{j<k} dt_j)``; it stops where an
        episode or the record ends.
        """
        newest = (self.pos - 1) % self.buffer_size
        last, alive = at, np.ones(len(at), bool)
        reward, discount = np.zeros(len(at)), np.ones(len(at))
        for k in range(self.n_steps):
            here = np.where(alive, (at + k) % self.buffer_size, last)
            seconds = self.seconds[here, which]
            paid = self._normalize_reward(self.rewards[here, which], env)
            weight = reward_weight(seconds, self.rho, self.unit_dt)
            reward = np.where(alive, reward + discount * weight * paid, reward)
            discount = np.where(alive, discount * np.exp(-self.rho * seconds), discount)
            last = here
            alive = alive & (self.dones[here, which] == 0) & (here != newest)
        return last, reward, discount

    def _observed(self, kept: Any, at: IntArray, which: IntArray, env: VecNormalize | None) -> Any:
        if isinstance(kept, dict):
            found = self._normalize_obs({key: each[at, which] for key, each in kept.items()}, env)
            return {key: self.to_torch(each) for key, each in found.items()}  # type: ignore[union-attr]
        return self.to_torch(self._normalize_obs(kept[at, which], env))  # type: ignore[arg-type]


class TimedReplayBuffer(_Timed):
    """Time-aware discounting (SMDP) for SAC, TD3, DDPG, TQC and CrossQ of Stable-Baselines3, unchanged.

    ``SAC("MlpPolicy", env, replay_buffer_class=TimedReplayBuffer, replay_buffer_kwargs={"rho": 0.2})``:
    batches carry ``discounts = exp(-rho dt)``, which these algorithms use in place of `gamma`, and the reward
    of an interval, which comes evenly over it, is multiplied by ``(1 - exp(-rho dt)) / (rho dt)``.

    `rho` is per second, ``-ln(gamma) / native dt``. The seconds of a transition are ``info["dt"]``, else
    `dt`. With `unit_dt` the native step, rewards of native steps count whole and training at the native step
    is what Stable-Baselines3 does, number by number (see `interval.reward_weight`). `n_steps` must be given
    here: an algorithm's own `n_steps` does not reach a buffer of another class. With `VecNormalize`, rewards
    are normalised before they are weighed.

    Raises:
        UsageError: for a rate, a duration or `n_steps` out of range, with ``optimize_memory_usage=True``, and
            for a step without a duration.
    """


class TimedDictReplayBuffer(_Timed, DictReplayBuffer):
    """`TimedReplayBuffer` for observations in a Dict. (HerReplayBuffer has no counterpart here.)"""
