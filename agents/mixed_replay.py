"""Replay for Stable-Baselines3 whose batches mix recorded with imagined transitions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from ode_rl.agents.interval import reward_weight, true_seconds
from ode_rl.agents.model_rollouts import Rows
from ode_rl.buffer import ReplayBuffer
from ode_rl.errors import UsageError
from ode_rl.types import Transition

NONE = np.zeros(0, np.int64)


class ImaginedRows:
    """A ring of imagined intervals; the oldest are overwritten."""

    def __init__(self, capacity: int, n_obs: int, n_action: int) -> None:
        def empty(*width: int) -> npt.NDArray[np.float32]:
            return np.zeros((capacity, *width), np.float32)

        self.capacity, self.n_added = capacity, 0
        self.rows = Rows(empty(n_obs), empty(n_action), empty(), empty(n_obs), empty(), empty())

    def __len__(self) -> int:
        return min(self.n_added, self.capacity)

    def clear(self) -> None:
        """Forget all."""
        self.n_added = 0

    def add(self, rows: Rows) -> None:
        """Append rows; of more than there is room for, the last."""
        n = len(rows.reward)
        at = (self.n_added + np.arange(n))[-self.capacity :] % self.capacity
        for mine, new in zip(self.rows, rows, strict=True):
            mine[at] = new[-self.capacity :]
        self.n_added += n

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What a checkpoint keeps."""
        found = {name: rows[: len(self)].copy() for name, rows in self.rows._asdict().items()}
        return found | {"n_added": np.array(self.n_added, np.int64)}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take up what `state` gave.

        Raises:
            UsageError: for rows of another shape or type.
        """
        n_added = int(state["n_added"])
        n = min(n_added, self.capacity)
        for name, mine in self.rows._asdict().items():
            stored, want = state[name], (n, *mine.shape[1:])
            if n_added < 0 or stored.shape != want or stored.dtype != mine.dtype:
                got = f"{stored.shape} {stored.dtype}"
                remedy = "Restore the file or train again."
                raise UsageError(f"rows of {name} {want} {mine.dtype}", got, remedy)
        for name, mine in self.rows._asdict().items():
            mine[:n] = state[name]
        self.n_added = n_added


class MixedReplayBuffer(BaseBuffer):
    """Batches of which the share `real_share` was recorded and the rest imagined.

    Recorded transitions, from `add`, lie in `real`; imagined ones are put into `imagined`. While there are
    none, all of a batch was recorded. Every row carries its discount ``exp(-rho dt)``, and its reward is
    weighed as in `TimedReplayBuffer`; the done of an imagined row is the chance that it ended the task,
    so that a target takes the expectation. The seconds of a recorded step are ``info["dt"]``, else `dt`;
    `rho` is per second, `rng` draws the rows.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Box,
        action_space: spaces.Box,
        device: Any = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        *,
        rho: float,
        dt: float,
        real_share: float,
        imagined_size: int,
        rng: np.random.Generator,
    ) -> None:
        if optimize_memory_usage:
            got, remedy = "optimize_memory_usage=True", "Leave it out."
            raise UsageError("a buffer that keeps next observations", got, remedy)
        super().__init__(buffer_size, observation_space, action_space, device, n_envs)
        n_obs, n_action = observation_space.shape[0], action_space.shape[0]
        self.rho, self.dt, self.real_share, self.rng = rho, dt, real_share, rng
        self.real = ReplayBuffer(buffer_size, n_obs, n_action)
        self.imagined = ImaginedRows(imagined_size, n_obs, n_action)

    def size(self) -> int:
        """Number of recorded transitions."""
        return len(self.real)

    def reset(self) -> None:
        """Forget all."""
        n_obs, n_action = self.real.obs.shape[1], self.real.action.shape[1]
        self.real = ReplayBuffer(self.real.capacity, n_obs, n_action)
        self.imagined.clear()

    def add(
        self,
        obs: npt.NDArray[Any],
        next_obs: npt.NDArray[Any],
        action: npt.NDArray[Any],
        reward: npt.NDArray[Any],
        done: npt.NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Record one step of every environment, with actions in [-1, 1]."""
        seconds = true_seconds(infos, self.dt)
        for i, info in enumerate(infos):
            over = bool(done[i])
            truncated = over and bool(info.get("TimeLimit.truncated", False))
            ended = over and not truncated
            row = Transition(
                obs[i], action[i], float(reward[i]), next_obs[i], float(seconds[i]), ended, truncated
            )
            self.real.add(row, env=i)

    def n_real(self, batch_size: int) -> int:
        """Recorded rows in a batch."""
        return round(self.real_share * batch_size) if len(self.imagined) else batch_size

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Draw a batch, the recorded rows first."""
        n = self.n_real(batch_size)
        real, imagined = self._recorded(n), self._imagined(batch_size - n)
        rows = Rows(*(np.concatenate(both) for both in zip(real, imagined, strict=True)))
        weight = reward_weight(rows.seconds, self.rho, self.dt)
        reward = self._normalize_reward(rows.reward, env) * weight
        return ReplayBufferSamples(
            observations=self.to_torch(self._normalize_obs(rows.obs, env)),  # type: ignore[arg-type]
            actions=self.to_torch(rows.action),
            next_observations=self.to_torch(self._normalize_obs(rows.next_obs, env)),  # type: ignore[arg-type]
            dones=self._column(rows.ended),
            rewards=self._column(reward),
            discounts=self._column(np.exp(-self.rho * rows.seconds)),
        )

    def _get_samples(self, batch_inds: npt.NDArray[Any], env: VecNormalize | None = None) -> Any:
        raise NotImplementedError("rows are drawn in `sample`")

    def _column(self, x: npt.NDArray[Any]) -> Any:
        return self.to_torch(x.astype(np.float32).reshape(-1, 1))

    def _recorded(self, n: int) -> Rows:
        oldest = self.real.n_added - len(self.real)
        found = self.real.arrays(oldest + (self.rng.integers(len(self.real), size=n) if n else NONE))
        ended = found.terminated.astype(np.float32)
        return Rows(found.obs, found.action, found.reward, found.next_obs, ended, found.dt)

    def _imagined(self, n: int) -> Rows:
        at = self.rng.integers(len(self.imagined), size=n) if n else NONE
        return Rows(*(rows[at] for rows in self.imagined.rows))
