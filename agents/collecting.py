"""Agents that collect transitions and, between two steps, learn from all of them in rounds."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, ClassVar, TypeVar

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from ode_rl.agents.learner import Learner, next_seconds
from ode_rl.agents.presets import load_preset, of_the_agent
from ode_rl.buffer import ReplayBuffer
from ode_rl.known import NOTHING_KNOWN, Known
from ode_rl.settings import build, merged, plain
from ode_rl.types import Transition

C = TypeVar("C", bound="Collecting")


class Collecting(Learner):
    """The loop of acting and learning in rounds; see `Learner` for how a run goes on where it was cut off.

    A subclass says which `Settings` it has and makes its parts in `_build`. It has a `buffer` and, in
    `_progress`, a NamedTuple that begins with ``obs [n, O]`` and the `starts` of episodes ``[n]`` and has
    defaults for the rest; `_round_at` is the step of its last round.
    """

    Settings: ClassVar[type[Any]]
    """The dataclass of its settings."""
    settings: Any
    buffer: ReplayBuffer
    _progress: Any
    _round_at: int

    def __init__(
        self,
        env: Any,
        preset: str | None = "auto",
        seed: int | None = None,
        device: str = "auto",
        dt: float | None = None,
        verbose: int = 0,
        known: Known = NOTHING_KNOWN,
        **settings: Any,
    ) -> None:
        super().__init__(env, seed, device, dt, verbose)
        self.known = known
        self.preset, tuned = load_preset(self.name, self.env_id, preset)
        tuned = self._suited(of_the_agent(tuned))
        self._build(build(self.Settings, merged(tuned, settings)))

    def _suited(self, tuned: dict[str, Any]) -> dict[str, Any]:
        """What of a preset suits the environment."""
        return tuned

    @abstractmethod
    def _build(self, settings: Any) -> None:
        """Make the parts of a new agent."""

    @property
    def config(self) -> dict[str, Any]:
        """All resolved settings, as JSON values."""
        return {
            "agent": self.name,
            "env_id": self.env_id,
            "dt": self.dt,
            "interval": self.interval,
            "seed": self.seed,
            "device": str(self.device),
            "preset": self.preset,
            "known": self.known.names,
            "settings": plain(self.settings),
        }

    @abstractmethod
    def _round_is_due(self) -> bool:
        """Whether it is time to learn."""

    @abstractmethod
    def _round(self) -> bool:
        """Learn from all that was collected. If somebody asks to stop: False, and all is as it was before."""

    @abstractmethod
    def _step(self, env: VecEnv, callbacks: BaseCallback, varies: bool) -> bool:
        """Act once in every environment and store what came of it; False if a callback ends the training."""

    def _check_progress(self, n: int) -> None:
        """Refuse progress, read from a file, that cannot be that of `n` environments."""

    def learn(
        self: C,
        total_timesteps: int,
        callback: Any = None,
        progress_bar: bool = False,
        reset_num_timesteps: bool = True,
    ) -> C:
        """Act, and learn in rounds, for `total_timesteps` environment steps; returns the agent itself.

        With `reset_num_timesteps` false the count of steps goes on from where it was.
        """
        env, callbacks = self._begin(total_timesteps, callback, progress_bar)
        if reset_num_timesteps:
            self._round_at -= self.num_timesteps
            self.num_timesteps = 0
        target = self.num_timesteps + total_timesteps
        callbacks.on_training_start({"total_timesteps": target, "self": self}, {})
        callbacks.on_rollout_start()
        going, varies = True, next_seconds(env) is not None
        self._progress = self._first(env)
        while going and (self.num_timesteps < target or self._round_is_due()):
            self._safe_point()
            if self._round_is_due() and not self._round():
                self._safe_point()
                break
            if self.num_timesteps < target:
                going = self._step(env, callbacks, varies)
        callbacks.on_rollout_end()
        callbacks.on_training_end()
        return self

    def _first(self, env: VecEnv) -> Any:
        """Where a loaded checkpoint left the environments, or new episodes."""
        if (taken_up := self._take_up(env)) is not None:
            obs, fresh = taken_up
            for row in np.flatnonzero(fresh):
                self.buffer.cut(int(row))
            self._check_progress(env.num_envs)
            return self._progress._replace(obs=obs, starts=self._progress.starts | fresh)
        for i in range(env.num_envs):
            self.buffer.cut(i)
        if self.num_timesteps == 0:
            env.seed(self.seed)
        return type(self._progress)(np.asarray(env.reset()), np.ones(env.num_envs, bool))

    def _store(self, transitions: Sequence[Transition], infos: Any) -> None:
        """Keep what one step of each environment brought."""
        for i, transition in enumerate(transitions):
            if "fault" in infos[i]:  # nothing to learn from; see envs.Guarded
                self.buffer.cut(i)
            else:
                self.buffer.add(transition, env=i)


@contextmanager
def undone_if_raised(parts: Sequence[nn.Module], rng: np.random.Generator) -> Iterator[None]:
    """Within, whatever is raised leaves the parts and the generator as they were."""
    before = deepcopy([part.state_dict() for part in parts]), deepcopy(rng.bit_generator.state)
    try:
        yield
    except BaseException:
        for part, state in zip(parts, before[0], strict=True):
            part.load_state_dict(state)
        rng.bit_generator.state = before[1]
        raise
