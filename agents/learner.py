"""The shape of Stable-Baselines3 around an agent that learns: environment, logger, callbacks, files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    ConvertCallback,
    ProgressBarCallback,
)
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.logger import Logger, configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from ode_rl.agents.declared import box_arrays as box_arrays
from ode_rl.agents.declared import box_of as box_of
from ode_rl.agents.declared import check_declared
from ode_rl.agents.open_episodes import OpenEpisodes, open_episodes, took_up
from ode_rl.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ode_rl.device import resolve_device
from ode_rl.errors import UsageError
from ode_rl.known import NOTHING_KNOWN, Known, scaled
from ode_rl.names import PLAIN_MODELS
from ode_rl.spaces import check_spaces
from ode_rl.state import state_spec
from ode_rl.timing import native_dt, positive_seconds
from ode_rl.types import FloatArray, Transition
from ode_rl.world_model import WorldModel, WorldModelConfig

L = TypeVar("L", bound="Learner")
# What values that no agent has written lead to while one is made of them.
DAMAGE = (*(ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError),)


@runtime_checkable
class Keeper(Protocol):
    """A callback that may write a checkpoint, or end the training, where everything is consistent."""

    def on_safe_point(self, agent: Learner) -> None: ...


class Learner(ABC):
    """What all agents of this package share and users of Stable-Baselines3 know.

    A subclass sets `name`, builds its parts in `_build`, and acts and learns in `predict` and `learn`.

    So that a run that was cut off goes on as if nothing had happened, `learn`
    - calls `_safe_point()` between steps, wherever `_parts` holds all that the rest depends on (weights,
      optimisers, buffer, counters, generators, warm starts, the last observations): there checkpoints are
      written, and there somebody may stop the training with an exception;
    - begins with `_take_up(env)`, which brings the environments to where the loaded checkpoint left them;
    - asks `stop_asked()` in computations of more than a second and drops them, without a trace in what
      `_parts` saves, when it says True; a safe point follows at once.
    Checkpoints of runs, from `save_run`, hold the global random streams and the open episodes besides.
    """

    name: str
    preset: str
    known: Known = NOTHING_KNOWN

    def __init__(self, env: Any, seed: int | None, device: str, dt: float | None, verbose: int) -> None:
        self.env: VecEnv | None = as_vec_env(env)
        self.observation_space, self.action_space = check_spaces(
            self.env.observation_space, self.env.action_space
        )
        self.env_id = _id_of(self.env)
        self.dt = dt_of(self.env, dt)
        self.interval = _interval_of(self.env, self.dt)
        self._begin_anew(seed, device, verbose)

    def _begin_anew(self, seed: int | None, device: str, verbose: int) -> None:
        self.seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self.rng = np.random.default_rng(self.seed)
        self.device = resolve_device(device)
        self.verbose = verbose
        self.num_timesteps = 0
        self._logger: Logger | None = None
        self.stop_asked: Callable[[], bool] = _never
        self.run_record: Mapping[str, Any] | None = None
        self._left: OpenEpisodes | None = None
        self._keepers: list[Keeper] = []

    def _world_model(self, config: WorldModelConfig, weights: torch.Generator) -> WorldModel:
        """A new world model of the task, told what is known of it; `weights` draws its parameters."""
        n_obs, n_action = self.observation_space.shape[0], self.action_space.shape[0]
        spec = None if config.structure in PLAIN_MODELS else state_spec(self.env_id, n_obs)
        low, high = torch.tensor(self.action_space.low), torch.tensor(self.action_space.high)
        known = scaled(self.known, low, high)
        return WorldModel(n_obs, n_action, self.dt, config, weights, spec, known).to(self.device)

    # -- what a subclass brings ---------------------------------------------------------------------

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """All resolved settings, as JSON values."""

    @abstractmethod
    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[npt.NDArray[Any], Any]:
        """Return actions for an observation ``[O]`` or a batch ``[B, O]``, and the next call's state."""

    @abstractmethod
    def learn(self: L, total_timesteps: int, callback: Any = None, progress_bar: bool = False) -> L:
        """Learn for `total_timesteps` environment steps."""

    @abstractmethod
    def _parts(self) -> Checkpoint:
        """Everything that `load` needs, and where `learn` is."""

    @classmethod
    @abstractmethod
    def _from_parts(cls: type[L], parts: Checkpoint, device: str, known: Known) -> L:
        """The agent that `_parts` describes, without an environment."""

    # -- files --------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write a checkpoint: a folder, or one file if `path` ends with ``.zip``. No pickle."""
        parts = self._parts()
        write_checkpoint(path, kind=self.name, tensors=parts.tensors, arrays=parts.arrays, meta=parts.meta)

    def save_run(self, path: str | Path, record: Mapping[str, Any]) -> None:
        """Write a checkpoint from which the run goes on exactly; the one before is kept as ``<path>.old``.

        `record` are JSON values of whoever keeps the run: `load` gives them back as `run_record`.
        """
        parts, episodes = self._parts(), open_episodes(self.env)
        write_checkpoint(
            path,
            kind=self.name,
            tensors=parts.tensors,
            arrays={**parts.arrays, **episodes.arrays},
            meta={**parts.meta, "run": dict(record), "episodes": episodes.meta},
            keep_old=True,
        )

    @classmethod
    def load(
        cls: type[L], path: str | Path, env: Any = None, device: str = "auto", known: Known = NOTHING_KNOWN
    ) -> L:
        """Read what `save` wrote; with `env` the agent can go on learning.

        `known` are the functions that it was made with: no file holds code.

        Raises:
            UsageError: for anything that is not a whole checkpoint of this agent.
        """
        parts = read_checkpoint(path, cls.name)
        try:
            check_declared(parts.meta["config"], parts.tensors)
            agent = cls._from_parts(parts, device, known)
        except UsageError:
            raise
        except DAMAGE as error:
            raise UsageError(
                f"a whole checkpoint of {cls.name}", f"{path} ({error})", "Restore the file or train again."
            ) from error
        if "run" in parts.meta:
            agent.run_record = parts.meta["run"]
            agent._left = OpenEpisodes.of(parts)
        if env is not None:
            agent.set_env(env)
        return agent

    @classmethod
    def _unbuilt(cls: type[L], parts: Checkpoint, device: str, known: Known) -> L:
        """The agent of a checkpoint, with all that there is before its own parts are built.

        Raises:
            UsageError: if it was trained with other `known` functions.
        """
        config = parts.meta["config"]
        if known.names != (was := list(config.get("known", []))):
            remedy = (
                f"Give known=Known({', '.join(f'{name}=...' for name in was)})." if was else "Leave it out."
            )
            want = f"the functions that the agent was trained with, {was or 'none'}"
            raise UsageError(want, known.names or "none", remedy)
        agent = cls.__new__(cls)
        agent.known = known
        agent.env, agent.env_id, agent.dt = None, str(config["env_id"]), float(config["dt"])
        agent.interval = float(config.get("interval", agent.dt))
        agent.observation_space = box_of(parts.arrays["observation_space"])
        agent.action_space = box_of(parts.arrays["action_space"])
        agent._begin_anew(int(config["seed"]), device, verbose=0)
        agent.preset = str(config["preset"])
        return agent

    # -- environment --------------------------------------------------------------------------------

    def get_env(self) -> VecEnv | None:
        """The training environment, vectorised; None after `load` without one."""
        return self.env

    def set_env(self, env: Any) -> None:
        """Train in `env` from now on.

        Raises:
            UsageError: if its spaces or its step time differ from those of the agent.
        """
        new = as_vec_env(env)
        pairs = ((self.observation_space, new.observation_space), (self.action_space, new.action_space))
        for mine, theirs in pairs:
            if mine != theirs:
                raise UsageError(f"the space {mine}", theirs, f"Give an environment like {self.env_id}.")
        seconds = dt_of(new, self.dt)
        if not np.isclose(seconds, self.dt):
            remedy = f"Give an environment like {self.env_id}, or train a new agent."
            raise UsageError(f"steps of {self.dt:g} s", f"{seconds:g} s", remedy)
        self.env = new

    def get_vec_normalize_env(self) -> None:
        """None: models keep scales of their own."""
        return None

    # -- logging and callbacks ----------------------------------------------------------------------

    @property
    def logger(self) -> Logger:
        """The Stable-Baselines3 logger; one that writes nothing until `set_logger`."""
        if self._logger is None:
            self._logger = configure(None, ["stdout"] if self.verbose else [])
        return self._logger

    def set_logger(self, logger: Logger) -> None:
        """Log to `logger` from now on."""
        self._logger = logger

    def _begin(self, total: int, callback: Any, progress_bar: bool) -> tuple[VecEnv, BaseCallback]:
        """Check what `learn` was given and start its callbacks."""
        if total < (1 if self._left is None else 0):  # what is left of a loaded run may be nothing
            raise UsageError("at least one step", total, "Write learn(600).")
        if self.env is None:
            raise UsageError(
                "an environment to learn in", "none", "Write agent.set_env(env), or load(path, env=env)."
            )
        given = list(callback) if isinstance(callback, list | tuple) else [callback] if callback else []
        parts = [part if isinstance(part, BaseCallback) else ConvertCallback(part) for part in given]
        if progress_bar:
            parts.append(ProgressBarCallback())
        self._keepers = [part for part in given if isinstance(part, Keeper)]
        both = CallbackList(parts)
        both.init_callback(self)  # type: ignore[arg-type]  # a BaseAlgorithm in all that callbacks touch
        return self.env, both

    def _safe_point(self) -> None:
        """Say that everything is as `_parts` can save it; whoever keeps the run may save, or stop it."""
        for keeper in self._keepers:
            keeper.on_safe_point(self)

    def _take_up(self, env: VecEnv) -> tuple[FloatArray, npt.NDArray[np.bool_]] | None:
        """Bring `env` and the global random streams to where the loaded checkpoint left them, once.

        Returns the observations there ``[n, O]``, and which rows ``[n]`` begin a new episode since their
        environment did not repeat itself. None if there is nothing to take up: `env` has to be reset.
        """
        left, self._left = self._left, None
        return None if left is None else took_up(env, left)

    # -- data ---------------------------------------------------------------------------------------

    def _check_observation(self, obs: FloatArray) -> FloatArray:
        width = self.observation_space.shape[0]
        if obs.ndim not in (1, 2) or obs.shape[-1] != width:
            remedy = f"Give observations of {self.env_id}."
            raise UsageError(f"an observation of shape ({width},) or (n, {width})", obs.shape, remedy)
        if not np.isfinite(obs).all():
            raise UsageError("a finite observation", obs, "Mend the environment or the sensor.")
        return np.atleast_2d(obs)

    def _to_env(self, scaled: FloatArray) -> npt.NDArray[Any]:
        """Actions of the task for actions in [-1, 1]."""
        low, high = self.action_space.low, self.action_space.high
        action = (high + low) / 2 + (high - low) / 2 * scaled
        clipped: npt.NDArray[Any] = np.clip(action, low, high).astype(self.action_space.dtype)
        return clipped

    def _from_env(self, action: FloatArray) -> FloatArray:
        """Actions in [-1, 1] for actions of the task."""
        low, high = self.action_space.low, self.action_space.high
        scaled: FloatArray = (action - (high + low) / 2) / ((high - low) / 2)
        return scaled

    def _transitions(
        self,
        obs: FloatArray,
        actions: FloatArray,
        rewards: FloatArray,
        new_obs: Any,
        dones: Any,
        infos: Any,
    ) -> list[Transition]:
        """What one step of the vectorised environment brought, with scaled actions and true durations."""
        found = []
        for i, info in enumerate(infos):
            info.setdefault("dt", self.dt)
            truncated = bool(dones[i]) and bool(info.get("TimeLimit.truncated", False))
            after = info["terminal_observation"] if dones[i] else new_obs[i]
            ended = bool(dones[i]) and not truncated
            scaled = self._from_env(actions[i])
            found.append(
                Transition(obs[i], scaled, float(rewards[i]), after, float(info["dt"]), ended, truncated)
            )
        return found


def _never() -> bool:
    return False


def as_vec_env(env: str | gym.Env[Any, Any] | VecEnv, n: int = 1) -> VecEnv:
    """An id (made `n` times), an environment or a vectorised one as a `VecEnv` with monitored episodes."""
    if isinstance(env, VecEnv):
        return env
    if isinstance(env, str):
        return DummyVecEnv([lambda: Monitor(gym.make(env)) for _ in range(n)])
    monitored = env if is_wrapped(env, Monitor) else Monitor(env)
    return DummyVecEnv([lambda: monitored])


def _id_of(env: VecEnv) -> str:
    spec = env.get_attr("spec", 0)[0]
    return spec.id if spec is not None else type(env.get_attr("unwrapped", 0)[0]).__name__


def dt_of(env: VecEnv, dt: float | None) -> float:
    """Native seconds per step, also of environments in other processes; see `timing.native_dt`."""

    class Told:
        metadata = env.get_attr("metadata", 0)[0]

    if env.has_attr("dt"):
        Told.dt = env.get_attr("dt", 0)[0]  # type: ignore[attr-defined]
    return native_dt(Told(), dt)


def _interval_of(env: VecEnv, native: float) -> float:
    """Nominal seconds between two decisions, which a wrapper may have made others than a native step."""
    return positive_seconds((env.get_attr("metadata", 0)[0] or {}).get("dt", native))


def next_seconds(env: VecEnv) -> npt.NDArray[np.float64] | None:
    """How long the next step of each environment lasts, ``[n]``, where the environments know it."""
    try:
        return np.asarray(env.get_attr("interval"), np.float64)
    except AttributeError:
        return None
