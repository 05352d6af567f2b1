"""Agents without mathematics, to test what is around agents."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.logger import Logger, configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from ode_rl.agents.learner import Keeper
from ode_rl.agents.open_episodes import OpenEpisodes, open_episodes, took_up
from ode_rl.checkpoint import read_checkpoint, write_checkpoint
from ode_rl.timing import native_dt


class Push:
    """Pushes against the first observation: ``a = clip(-gain * obs[0])`` in every row of a batch."""

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain
        self.batches: list[tuple[int, ...]] = []

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[npt.NDArray[Any], Any]:
        obs = np.asarray(observation)
        self.batches.append(obs.shape)
        return np.clip(-self.gain * obs[..., :1], -1, 1).astype(np.float32), state


class FakeLearner(Push):
    """In the shape of the package's agents; learning is counting, with random actions on the way."""

    def __init__(
        self,
        env: gymnasium.Env[Any, Any] | None = None,
        preset: str | None = "auto",
        seed: int | None = None,
        device: str = "auto",
        dt: float | None = None,
        **overrides: Any,
    ) -> None:
        super().__init__()
        self.preset, self.seed, self.device, self.overrides = preset, seed or 0, device, overrides
        self.num_timesteps = 0
        self.left: OpenEpisodes | None = None
        self.run_record: dict[str, Any] | None = None
        self.draws: list[float] = []
        self.logger: Logger = configure(None, [])
        if env is not None:
            self.env = DummyVecEnv([lambda: env if is_wrapped(env, Monitor) else Monitor(env)])
            self.dt = native_dt(env, dt)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[npt.NDArray[Any], Any]:
        np.random.uniform()  # careless with the random stream that it trains with
        return super().predict(observation, state, episode_start, deterministic)

    @property
    def config(self) -> dict[str, Any]:
        return {"dt": self.dt, "preset": self.preset, "device": self.device, "settings": self.overrides}

    def get_env(self) -> VecEnv:
        return self.env

    def get_vec_normalize_env(self) -> None:
        return None

    def set_logger(self, logger: Logger) -> None:
        self.logger = logger

    def learn(
        self,
        total_timesteps: int,
        callback: Any = None,
        progress_bar: bool = False,
        reset_num_timesteps: bool = True,
    ) -> FakeLearner:
        callbacks = CallbackList(list(callback or []))
        callbacks.init_callback(self)  # type: ignore[arg-type]
        callbacks.on_training_start(locals(), globals())
        left, self.left = self.left, None
        if left is None or took_up(self.env, left) is None:
            self.env.seed(self.seed)
            self.env.reset()
            np.random.seed(self.seed)
        target = total_timesteps + (0 if reset_num_timesteps else self.num_timesteps)
        while self.num_timesteps < target:
            for keeper in callbacks.callbacks:
                if isinstance(keeper, Keeper):
                    keeper.on_safe_point(self)  # type: ignore[arg-type]
            self.draws.append(float(np.random.uniform(-1, 1)))
            new_obs, rewards, dones, infos = self.env.step(np.array([[self.draws[-1]]], np.float32))
            self.num_timesteps += 1
            callbacks.update_locals({"new_obs": new_obs, "rewards": rewards, "dones": dones, "infos": infos})
            if not callbacks.on_step():
                break
        callbacks.on_training_end()
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        self.save_run(path, {})

    def save_run(self, path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
        episodes = open_episodes(getattr(self, "env", None))
        write_checkpoint(
            path,
            kind="fake",
            tensors={"weights": {"gain": torch.tensor(self.gain)}},
            arrays={"log": {"draws": np.array(self.draws)}, **episodes.arrays},
            meta={"num_timesteps": self.num_timesteps, "run": dict(record), "episodes": episodes.meta},
            keep_old=True,
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str], env: Any = None, device: str = "auto") -> FakeLearner:
        checkpoint = read_checkpoint(path, kind="fake")
        agent = cls(env)
        agent.gain = float(checkpoint.tensors["weights"]["gain"])
        agent.draws = checkpoint.arrays["log"]["draws"].tolist()
        agent.num_timesteps = checkpoint.meta["num_timesteps"]
        agent.run_record, agent.left = checkpoint.meta["run"], OpenEpisodes.of(checkpoint)
        return agent
