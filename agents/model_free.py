"""Algorithms of Stable-Baselines3 as agents of this package: presets, run folders, files without pickle."""

from __future__ import annotations

import importlib
import inspect
from typing import Any, ClassVar, TypeVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize
from torch import nn

from ode_rl.agents import zoo
from ode_rl.agents.algorithm_state import algorithm_parts, restore_algorithm
from ode_rl.agents.learner import Learner, as_vec_env, box_arrays
from ode_rl.agents.presets import load_preset, of_the_agent
from ode_rl.agents.rollout_state import ROLLOUT, begin_rollout, restore_rollout, rollout_parts
from ode_rl.agents.timed_ppo import TimedPPO
from ode_rl.agents.timed_replay import TimedReplayBuffer
from ode_rl.checkpoint import Checkpoint
from ode_rl.errors import UsageError
from ode_rl.known import Known
from ode_rl.random_streams import random_streams, set_random_streams
from ode_rl.returns import discount_rate
from ode_rl.settings import merged, nearest

M = TypeVar("M", bound="ModelFree")

DISCOUNTS = ("time", "step")
# Arguments of the algorithms that are no numbers, or that this module decides.
NOT_SETTINGS = {
    *("self", "policy", "env", "seed", "device", "verbose", "tensorboard_log", "action_noise"),
    *("replay_buffer_class", "replay_buffer_kwargs", "rollout_buffer_class", "rollout_buffer_kwargs"),
    *("optimize_memory_usage", "policy_kwargs", "stats_window_size", "_init_setup_model"),
}
# What the zoo has beside the arguments of an algorithm, and `discount`.
BESIDE: dict[str, Any] = {
    "policy": "MlpPolicy",
    "policy_kwargs": {},
    "normalize": False,
    "noise_type": None,
    "noise_std": None,
    "n_envs": 1,
    "discount": "time",
}
SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf")


class ModelFree(Learner):
    """An algorithm of Stable-Baselines3, with discounts that know how long each step lasted.

    ``SAC("Pendulum-v1", seed=0).learn(5000)``. `preset` names published settings (``"auto"``: those of the
    task, else the defaults); `settings` override them. They are the arguments of the algorithm, and those
    that rl-baselines3-zoo has beside them: ``policy_kwargs``, ``normalize``, ``noise_type``, ``noise_std``,
    ``n_envs``. ``discount="time"`` discounts a step by its seconds (`TimedReplayBuffer`, `TimedPPO`), with
    `gamma` per native step; at the native step nothing differs from Stable-Baselines3. ``discount="step"``
    is Stable-Baselines3 itself. `algorithm` is the object of Stable-Baselines3.

    A run that was cut off goes on from the start of a roll-out with the same numbers, on the CPU: networks,
    optimisers, replay, counters, scales, noise, random streams and open episodes are all there. Only the
    averages over recent episodes that Stable-Baselines3 logs begin anew. A stop waits for the next roll-out;
    if that is more than seconds away (PPO), the last checkpoint has to do, and the rest is lived again.

    Raises:
        UsageError: for spaces it cannot act in, an unknown preset or setting, an unknown step time, a
            package that is not installed.
    """

    source: ClassVar[str]
    """``module:class`` of the algorithm."""

    def __init__(
        self,
        env: Any,
        preset: str | None = "auto",
        seed: int | None = None,
        device: str = "auto",
        dt: float | None = None,
        verbose: int = 0,
        **settings: Any,
    ) -> None:
        self._algorithm_class()  # says at once what is missing
        if isinstance(env, str):
            _, tuned = load_preset(self.name, env, preset)
            env = as_vec_env(env, int(merged(tuned, settings).get("n_envs", 1)))
        super().__init__(env, seed, device, dt, verbose)
        self.preset, tuned = load_preset(self.name, self.env_id, preset)
        self._build(self._resolved(merged(of_the_agent(tuned), settings)))

    @classmethod
    def _algorithm_class(cls) -> type[BaseAlgorithm]:
        module, _, name = cls.source.partition(":")
        try:
            found: type[BaseAlgorithm] = getattr(importlib.import_module(module), name)
        except ImportError as error:
            remedy = "Run pip install 'ode-rl[contrib]'."
            raise UsageError(f"the package {module} for the agent {cls.name}", error, remedy) from error
        return found

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        """The settings that there are, and what they are where nobody says anything."""
        parameters = inspect.signature(cls._algorithm_class().__init__).parameters
        return {name: p.default for name, p in parameters.items() if name not in NOT_SETTINGS} | BESIDE

    @classmethod
    def _resolved(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """All settings by name, as JSON values; what is left out has its default."""
        known = cls._defaults()
        for name in settings:
            if name not in known:
                raise UsageError(f"a setting of {cls.name}", repr(name), nearest(name, known))
        found = known | settings
        if found["policy"] != "MlpPolicy":
            raise UsageError("the policy MlpPolicy", repr(found["policy"]), "Leave it out.")
        if found["discount"] not in DISCOUNTS:
            raise UsageError(" or ".join(DISCOUNTS), repr(found["discount"]), "Write discount='time'.")
        found["policy_kwargs"] = zoo.policy_kwargs(found["policy_kwargs"])
        found["normalize"] = zoo.normalize(found["normalize"])
        for name in SCHEDULES:
            if found.get(name) is not None:
                zoo.schedule(found[name], name)
        return found

    def _build(self, settings: dict[str, Any]) -> None:
        env = self.env if self.env is not None else _spaces_alone(self, int(settings["n_envs"]))
        self.settings = {**settings, "n_envs": env.num_envs}
        self._rollout_left: Checkpoint | None = None
        self.normalizer: VecNormalize | None = None
        wrapped = self._normalized(env)
        timed = settings["discount"] == "time"
        algorithm = TimedPPO if timed and self.name == "ppo" else self._algorithm_class()
        try:
            self.algorithm: BaseAlgorithm = algorithm(
                "MlpPolicy",
                wrapped,
                seed=self.seed,
                device=self.device,
                **self._arguments(),
            )
        except (AssertionError, TypeError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"settings that {self.name} takes", error, "Mend the setting.") from error

    def _arguments(self) -> dict[str, Any]:
        """What the algorithm is called with."""
        found = {k: v for k, v in self.settings.items() if k not in BESIDE}
        for name in SCHEDULES:
            if found.get(name) is not None:
                found[name] = zoo.schedule(found[name], name)
        kwargs = dict(self.settings["policy_kwargs"])
        if "activation_fn" in kwargs:
            kwargs["activation_fn"] = getattr(nn, kwargs["activation_fn"])
        found["policy_kwargs"] = kwargs
        if isinstance(found.get("train_freq"), list):
            found["train_freq"] = tuple(found["train_freq"])
        if self.settings["noise_type"] is not None:
            found["action_noise"] = self._action_noise()
        timed = self.settings["discount"] == "time"
        if timed and self.name == "ppo":
            found["dt"] = self.dt
        elif timed:
            rho = discount_rate(float(found["gamma"]), self.dt)
            steps = int(found.pop("n_steps", 1))
            found["replay_buffer_class"] = TimedReplayBuffer
            found["replay_buffer_kwargs"] = {
                "rho": rho,
                "dt": self.dt,
                "unit_dt": self.dt,
                "n_steps": steps,
            }
        return found

    def _action_noise(self) -> ActionNoise:
        kind, std = self.settings["noise_type"], self.settings["noise_std"]
        if kind not in zoo.NOISES:
            raise UsageError(f"a noise among {', '.join(zoo.NOISES)}", repr(kind), "Write noise_type=normal.")
        size = self.action_space.shape[0]
        make = NormalActionNoise if kind == "normal" else OrnsteinUhlenbeckActionNoise
        return make(mean=np.zeros(size), sigma=float(std or 0.0) * np.ones(size))

    def _normalized(self, env: VecEnv) -> VecEnv:
        wanted = self.settings["normalize"]
        if wanted is None:
            return env
        before = self.normalizer
        self.normalizer = VecNormalize(env, **{"gamma": float(self.settings["gamma"]), **wanted})
        if before is not None:
            self.normalizer.obs_rms, self.normalizer.ret_rms = before.obs_rms, before.ret_rms
            self.normalizer.returns = before.returns
        return self.normalizer

    @property
    def config(self) -> dict[str, Any]:
        """All resolved settings, as JSON values."""
        return {
            "agent": self.name,
            "env_id": self.env_id,
            "dt": self.dt,
            "seed": self.seed,
            "device": str(self.device),
            "preset": self.preset,
            "settings": self.settings,
        }

    def set_env(self, env: Any) -> None:
        """As in `Learner`; the number of parallel environments must stay, too."""
        new = as_vec_env(env)
        if new.num_envs != (n := self.settings["n_envs"]):
            raise UsageError(f"{n} parallel environments", new.num_envs, "Give as many, or train anew.")
        super().set_env(new)
        self.algorithm.set_env(self._normalized(new))

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[npt.NDArray[Any], Any]:
        """Act on an observation ``[O]`` or a batch ``[B, O]``, in the units of the task."""
        obs = np.asarray(observation)
        rows: Any = self._check_observation(obs)
        if self.normalizer is not None:
            rows = self.normalizer.normalize_obs(rows)
        action, _ = self.algorithm.predict(rows, deterministic=deterministic)
        return (action[0] if obs.ndim == 1 else action), None

    def learn(
        self: M,
        total_timesteps: int,
        callback: Any = None,
        progress_bar: bool = False,
        reset_num_timesteps: bool = True,
    ) -> M:
        """Learn for `total_timesteps` environment steps; PPO finishes the roll-out that it is in."""
        env, callbacks = self._begin(total_timesteps, callback, progress_bar)
        self.algorithm.set_logger(self.logger)
        parts, self._rollout_left = self._rollout_left, None
        taken_up = None if reset_num_timesteps else self._take_up(env)
        relay = Relay(self, callbacks)
        if parts is not None and taken_up is not None:
            begin_rollout(self.algorithm, *taken_up)
            relay.take_up(parts)
        self._left = None
        self.algorithm.learn(total_timesteps, callback=relay, reset_num_timesteps=reset_num_timesteps)
        return self

    # -- files ----------------------------------------------------------------------------------------

    def _parts(self) -> Checkpoint:
        tensors, arrays, meta = algorithm_parts(self.algorithm, self.normalizer)
        arrays["observation_space"] = box_arrays(self.observation_space)
        arrays["action_space"] = box_arrays(self.action_space)
        arrays[ROLLOUT], meta[ROLLOUT] = rollout_parts(self.algorithm, self.normalizer)
        return Checkpoint(self.name, tensors, arrays, {"config": self.config, "algorithm": meta}, {})

    @classmethod
    def _from_parts(cls: type[M], parts: Checkpoint, device: str, known: Known) -> M:
        agent = cls._unbuilt(parts, device, known)
        config = parts.meta["config"]
        agent._build(cls._resolved(dict(config["settings"])))
        agent._restore(parts)
        return agent

    def _restore(self, parts: Checkpoint) -> None:
        """Take up what `_parts` gave."""
        restore_algorithm(self.algorithm, self.normalizer, parts)
        restore_rollout(self.algorithm, self.normalizer, parts)
        self._rollout_left = parts
        self.num_timesteps = self.algorithm.num_timesteps


class SAC(ModelFree):
    """Soft actor-critic of Stable-Baselines3."""

    name, source = "sac", "stable_baselines3:SAC"


class TD3(ModelFree):
    """Twin delayed DDPG of Stable-Baselines3."""

    name, source = "td3", "stable_baselines3:TD3"


class PPO(ModelFree):
    """Proximal policy optimisation of Stable-Baselines3."""

    name, source = "ppo", "stable_baselines3:PPO"


class TQC(ModelFree):
    """Truncated quantile critics of sb3-contrib."""

    name, source = "tqc", "sb3_contrib:TQC"


class CrossQ(ModelFree):
    """CrossQ of sb3-contrib."""

    name, source = "crossq", "sb3_contrib:CrossQ"


class Relay(BaseCallback):
    """Callbacks of an agent, called by the algorithm inside it; for them the model is the agent.

    The start of a roll-out is the safe point: at a step the transition is not stored yet.
    """

    def __init__(self, agent: ModelFree, callbacks: BaseCallback) -> None:
        super().__init__()
        self.agent, self.callbacks = agent, callbacks
        self._left: tuple[Checkpoint, dict[str, npt.NDArray[Any]]] | None = None

    def take_up(self, parts: Checkpoint) -> None:
        """Bring back what `learn` draws anew until the first roll-out, and the random streams of now."""
        self._left = parts, random_streams()

    def _on_training_start(self) -> None:
        self.agent.num_timesteps = self.model.num_timesteps
        self.callbacks.on_training_start(self.locals, self.globals)

    def _on_rollout_start(self) -> None:
        if self._left is not None:
            (parts, streams), self._left = self._left, None
            restore_rollout(self.agent.algorithm, self.agent.normalizer, parts, drawn=True)
            set_random_streams(streams)
        self.callbacks.on_rollout_start()
        self.agent._safe_point()

    def _on_step(self) -> bool:
        self.agent.num_timesteps = self.model.num_timesteps
        for info in self.locals["infos"]:
            info.setdefault("dt", self.agent.dt)
        self.callbacks.update_locals(self.locals)
        return self.callbacks.on_step()

    def _on_rollout_end(self) -> None:
        self.callbacks.on_rollout_end()

    def _on_training_end(self) -> None:
        self.callbacks.on_training_end()


class _SpacesAlone(gym.Env[Any, Any]):
    """What an algorithm has to be given before there is a task: spaces, and nothing that can be stepped."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, observation: spaces.Box, action: spaces.Box, dt: float) -> None:
        self.observation_space, self.action_space, self.dt = observation, action, dt


def _spaces_alone(agent: Learner, n: int) -> VecEnv:
    spaces_of = (agent.observation_space, agent.action_space, agent.dt)
    return DummyVecEnv([lambda: _SpacesAlone(*spaces_of) for _ in range(n)])
