"""PPO of Stable-Baselines3 with advantages that know how long each step lasted."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from ode_rl.agents.interval import reward_weight, true_seconds
from ode_rl.agents.learner import dt_of
from ode_rl.errors import UsageError
from ode_rl.returns import discount_rate


class _Timed(RolloutBuffer):
    """What both buffers below are: `ratio` ``[T, n]`` is the duration of each step in native steps."""

    ratio: npt.NDArray[np.float64]

    def reset(self) -> None:
        self.ratio = np.ones((self.buffer_size, self.n_envs))
        super().reset()

    def keep_ratio(self, ratio: npt.NDArray[np.float64]) -> None:
        """Say how many native steps the step lasts that is added next."""
        self.ratio[self.pos] = ratio

    def compute_returns_and_advantage(self, last_values: Tensor, dones: npt.NDArray[Any]) -> None:
        """``A_k = delta_k + g_k l_k A_{k+1}``, ``delta_k = R_k + g_k V_{k+1} - V_k``.

        with ``g_k = gamma^(dt_k / native dt)`` and ``l_k = lambda^(dt_k / native dt)``: generalised
        advantages (arXiv:1506.02438) of intervals of any duration.
        """
        following = last_values.clone().cpu().numpy().flatten()
        discount = self.gamma**self.ratio
        trace = (discount * self.gae_lambda**self.ratio).astype(np.float32)
        discount = discount.astype(np.float32)
        goes_on = 1.0 - dones.astype(np.float32)
        advantage: Any = 0
        for step in reversed(range(self.buffer_size)):
            delta = self.rewards[step] + discount[step] * following * goes_on - self.values[step]
            advantage = delta + trace[step] * goes_on * advantage
            self.advantages[step] = advantage
            goes_on, following = 1.0 - self.episode_starts[step], self.values[step]
        self.returns = self.advantages + self.values


class TimedRolloutBuffer(_Timed):
    """The rollout buffer of `TimedPPO`."""


class TimedDictRolloutBuffer(_Timed, DictRolloutBuffer):
    """The rollout buffer of `TimedPPO` for observations in a Dict."""


class TimedPPO(PPO):
    """PPO whose `gamma` and `gae_lambda` are per native step, whatever the steps of the task last.

    A step of ``info["dt"]`` seconds has the discount ``gamma^(dt / native)``, the trace ``lambda^(dt /
    native)``, and a reward that comes evenly over it (`interval.reward_weight`, relative to a native step);
    an episode that was cut off goes on with the value of its end under its own discount. `dt` (seconds) is
    the native step, for an environment that does not say it. At the native step all numbers are those of
    PPO. Other arguments are those of Stable-Baselines3's PPO.

    Raises:
        UsageError: if the length of a native step is unknown, or for a rollout buffer of another kind.
    """

    def __init__(self, policy: Any, env: Any, *args: Any, dt: float | None = None, **kwargs: Any) -> None:
        self.native = dt
        super().__init__(policy, env, *args, **kwargs)

    def _setup_model(self) -> None:
        if self.rollout_buffer_class is None:
            is_dict = isinstance(self.observation_space, spaces.Dict)
            self.rollout_buffer_class = TimedDictRolloutBuffer if is_dict else TimedRolloutBuffer
        if not issubclass(self.rollout_buffer_class, _Timed):
            got = self.rollout_buffer_class.__name__
            raise UsageError("a rollout buffer that knows durations", got, "Leave rollout_buffer_class out.")
        if self.env is not None:
            self.native = dt_of(self.env, self.native)
        super()._setup_model()

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """As in Stable-Baselines3, with the durations of the steps."""
        if not isinstance(rollout_buffer, _Timed) or self._last_obs is None or self.native is None:
            raise RuntimeError("called by learn() alone")
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)
        callback.on_rollout_start()
        rho = discount_rate(self.gamma, self.native)
        new_obs: Any = self._last_obs
        dones = np.zeros(env.num_envs, bool)
        for n_steps in range(n_rollout_steps):
            if self.use_sde and self.sde_sample_freq > 0 and n_steps % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)
            with torch.no_grad():
                seen: Any = self._last_obs
                actions, values, log_probs = self.policy(obs_as_tensor(seen, self.device))
            taken = actions.cpu().numpy()
            new_obs, rewards, dones, infos = env.step(self._acted(taken))
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)
            if isinstance(self.action_space, spaces.Discrete):
                taken = taken.reshape(-1, 1)
            seconds = true_seconds(infos, self.native)
            ratio = seconds / self.native
            rewards = (rewards * reward_weight(seconds, rho, self.native)).astype(np.float32)
            self._add_value_where_cut(rewards, ratio, dones, infos)
            rollout_buffer.keep_ratio(ratio)
            starts: Any = self._last_episode_starts
            rollout_buffer.add(seen, taken, rewards, starts, values, log_probs)
            self._last_obs, self._last_episode_starts = new_obs, dones
        with torch.no_grad():
            values = self.policy.predict_values(obs_as_tensor(new_obs, self.device))
        rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _acted(self, actions: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Actions within the bounds of the task."""
        if not isinstance(self.action_space, spaces.Box):
            return actions
        if self.policy.squash_output:
            actions = self.policy.unscale_action(actions)
            return actions
        clipped: npt.NDArray[Any] = np.clip(actions, self.action_space.low, self.action_space.high)
        return clipped

    def _add_value_where_cut(
        self, rewards: npt.NDArray[Any], ratio: npt.NDArray[np.float64], dones: Any, infos: Any
    ) -> None:
        for i, info in enumerate(infos):
            if dones[i] and info.get("TimeLimit.truncated") and info.get("terminal_observation") is not None:
                after: Any = self.policy.obs_to_tensor(info["terminal_observation"])[0]
                with torch.no_grad():
                    value = self.policy.predict_values(after)[0]
                rewards[i] += np.float32(self.gamma ** ratio[i]) * np.float32(value.item())
