"""Soft actor-critic that learns from short roll-outs of a neural-ODE world model besides the real task."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from ode_rl.agents.collecting import undone_if_raised
from ode_rl.agents.declared import load_exactly
from ode_rl.agents.dyna_config import DEFAULTS, FIXED, OWN, DynaConfig
from ode_rl.agents.dyna_sac import DynaSAC
from ode_rl.agents.mixed_replay import MixedReplayBuffer
from ode_rl.agents.model_free import ModelFree
from ode_rl.agents.model_gradient import Discount
from ode_rl.agents.model_rollouts import Gauge, Projection, branched_rollouts
from ode_rl.agents.value_expansion import improve_actor
from ode_rl.buffer import ReplayBuffer
from ode_rl.checkpoint import Checkpoint
from ode_rl.errors import Stopped, UsageError
from ode_rl.fit import fit
from ode_rl.known import NOTHING_KNOWN, Known
from ode_rl.settings import build, plain
from ode_rl.types import FloatArray

# Transitions below which nothing is fitted, however early the agent starts to learn.
FEWEST = 16


@dataclass
class Spent:
    """What was spent on learning so far."""

    model_updates: int = 0
    """Gradient steps of the world model."""
    field_evaluations: int = 0
    """Evaluations of the vector field in fits, for one batch each."""
    imagined: int = 0
    """Imagined intervals."""
    expansions: int = 0
    """Gradient steps of the actor through the world model."""


class Dyna(ModelFree):
    """Model-based policy optimisation: SAC whose batches mix real and imagined transitions.

    ``Dyna("Pendulum-v1", seed=0).learn(3000)``. The agent is SAC of Stable-Baselines3. Besides, every
    `fit_every` steps an ensemble of neural ODEs is fitted to all that was recorded; every ``rollout.every``
    steps the policy acts in it, for some tenths of a second from recorded states; and all but the share
    `real_share` of each batch comes from there. `settings` are those of SAC and of `DynaConfig`:
    ``Dyna(env, gradient_steps=20, rollout={"seconds": 0.2}, model={"hidden": [200, 200]})``. `known`
    functions of the task replace what would be learned; code does not go into files, so `load` needs them
    again. Source: Janner et al. 2019 (arXiv 1906.08253).

    Raises:
        UsageError: for spaces it cannot act in, an unknown preset or setting, an unknown step time.
    """

    name, source = "dyna", "ode_rl.agents.dyna_sac:DynaSAC"
    known: Known = NOTHING_KNOWN
    options: DynaConfig

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
        self.known = known
        super().__init__(env, preset, seed, device, dt, verbose, **settings)

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        return {**super()._defaults(), **DEFAULTS, **plain(DynaConfig())}

    @classmethod
    def _resolved(cls, settings: dict[str, Any]) -> dict[str, Any]:
        found = super()._resolved(settings)
        for name, (only, why) in FIXED.items():
            if found[name] != only:
                raise UsageError(f"{name}={only!r} ({why})", repr(found[name]), f"Leave out {name}.")
        own = {name: value for name, value in settings.items() if name in OWN}
        return {**found, **plain(build(DynaConfig, own))}

    def _build(self, settings: dict[str, Any]) -> None:
        self.options = build(DynaConfig, {name: settings[name] for name in OWN})
        super()._build(settings)
        self.model = self._world_model(self.options.model, torch.Generator().manual_seed(self.seed))
        self._project = Projection(self.env_id, self.observation_space, self.model.log_noise)
        self._gauge: Gauge | None = None
        self._since = time.perf_counter(), 0
        if self.options.expansion.updates:
            self.algorithm.afterwards = self._expand  # type: ignore[attr-defined]
        self.spent, self.fits, self._fitted_at, self._imagined_at = Spent(), 0, 0, 0

    def _arguments(self) -> dict[str, Any]:
        found = {name: value for name, value in super()._arguments().items() if name not in OWN}
        rollout = self.options.rollout
        found["policy_kwargs"] |= {"layer_norm_critics": self.options.layer_norm_critics}
        found["replay_buffer_class"] = MixedReplayBuffer
        found["replay_buffer_kwargs"] = {
            "rho": found["replay_buffer_kwargs"]["rho"],
            "dt": self.dt,
            "real_share": self.options.real_share,
            "imagined_size": rollout.per_step * rollout.keep,
            "rng": self.rng,
        }
        return found

    @property
    def config(self) -> dict[str, Any]:
        """All resolved settings, as JSON values."""
        return {**super().config, "interval": self.interval, "known": self.known.names}

    @property
    def replay(self) -> MixedReplayBuffer:
        """Where batches come from."""
        found = self.algorithm.replay_buffer  # type: ignore[attr-defined]
        if not isinstance(found, MixedReplayBuffer):
            raise TypeError(f"a MixedReplayBuffer, not {type(found).__name__}")
        return found

    @property
    def buffer(self) -> ReplayBuffer:
        """What was recorded."""
        return self.replay.real

    # -- learning -------------------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int,
        callback: Any = None,
        progress_bar: bool = False,
        reset_num_timesteps: bool = True,
    ) -> Dyna:
        """Act, fit the world model, imagine, and let SAC learn, for `total_timesteps` environment steps.

        If somebody asks to stop in a fit, it is dropped without a trace, and learning ends.
        """
        try:
            super().learn(total_timesteps, callback, progress_bar, reset_num_timesteps)
        except Stopped:
            self._running.on_training_end()
        return self

    def _begin(self, total: int, callback: Any, progress_bar: bool) -> tuple[VecEnv, BaseCallback]:
        given = list(callback) if isinstance(callback, list | tuple) else [callback] if callback else []
        env, self._running = super()._begin(total, [*given, WorldLearning(self)], progress_bar)
        return env, self._running

    def _improve_world(self) -> None:
        """Fit and imagine, where it is time to: called before each stretch of acting.

        Raises:
            Stopped: if somebody asked to stop; all is as before the fit.
        """
        if self._fit_is_due() and not self._fit():
            self._safe_point()
            raise Stopped
        rollout, n = self.options.rollout, self.buffer.n_added
        if self.fits and self.options.real_share < 1 and n - self._imagined_at >= rollout.every:
            self._imagine(n)

    def _fit_is_due(self) -> bool:
        n = self.buffer.n_added
        if not self.fits:
            return n >= max(FEWEST, int(self.settings["learning_starts"]))
        every = max(self.options.fit_every, round(self.options.fit_growth * n))
        return n - self._fitted_at >= every

    def _fit(self) -> bool:
        """Fit to all that was recorded. If somebody asks to stop: False, and all is as it was before."""
        try:
            with undone_if_raised((self.model,), self.rng):
                report = fit(
                    self.model, self.buffer, self.options.fit, self.rng, self.device, stop=self.stop_asked
                )
        except Stopped:
            return False
        self._gauge = Gauge.measured(self.model, self.buffer)
        # What a younger model imagined misleads; the round that is due now replaces it.
        self.replay.imagined.clear()
        self._imagined_at = self.buffer.n_added - self.options.rollout.every
        self.fits, self._fitted_at = self.fits + 1, self.buffer.n_added
        self.spent.model_updates += report.updates
        self.spent.field_evaluations += report.n_evals
        for name, number in report.scalars().items():
            self.logger.record(f"model/{name}", number)
        self._log_spent()
        self.logger.dump(self.num_timesteps)
        return True

    def _imagine(self, step: int) -> None:
        """One round of roll-outs of the policy in the world model."""
        config = self.options.rollout
        horizon = config.horizon(step, self.interval)
        intervals = max(1, round(horizon / self.interval))
        n = -(-config.per_step * config.every // (intervals * self.model.n_members))
        if self._gauge is None:
            raise RuntimeError("a world model that was not fitted")
        rows = branched_rollouts(
            self.model, self._act, self.buffer, n, horizon, self._gauge, self._project, config, self.rng
        )
        self.replay.imagined.add(rows)
        self._imagined_at = step
        self.spent.imagined += len(rows.reward)
        self.logger.record("imagined/horizon_s", horizon)
        self.logger.record(
            "imagined/share_of_horizon", len(rows.reward) / (n * self.model.n_members * intervals)
        )
        self.logger.record("imagined/mean_reward", float(rows.reward.mean()) if len(rows.reward) else 0.0)

    def _expand(self) -> None:
        """Gradient steps of the actor through the world model, once there is one."""
        config, algorithm = self.options.expansion, cast("DynaSAC", self.algorithm)
        n, k = -(-config.starts // self.model.n_members), config.intervals(self.interval)
        alpha: Any = algorithm.log_ent_coef
        weight = algorithm.ent_coef_tensor if alpha is None else alpha.detach().exp()
        discount = Discount(self.replay.rho, self.dt)
        for _ in range(config.updates if self.fits else 0):
            rows = self.rng.choice(self.buffer.serials(), (k, self.model.n_members, n))
            seconds = torch.as_tensor(self.buffer.arrays(rows).dt).to(self.model.log_noise)
            z = torch.as_tensor(self.buffer.arrays(rows[0]).obs).to(self.model.log_noise)
            value = improve_actor(
                self.model, algorithm.policy, z, seconds, weight, discount, config.max_grad_norm
            )
            self.spent.expansions += 1
            if value is not None:
                self.logger.record("train/expanded_value", value)

    def _act(self, z: Tensor) -> Tensor:
        """The policy's random actions ``[E, N, A]`` in [-1, 1]."""
        actor: Any = self.algorithm.policy.actor
        action: Tensor = actor(z.reshape(-1, z.shape[-1]).float())
        return action.reshape(*z.shape[:-1], -1).to(z)

    def _log_spent(self) -> None:
        began, then = self._since
        self._since = now, n = time.perf_counter(), self.buffer.n_added
        self.logger.record("spent/gradient_steps", self.algorithm._n_updates)
        self.logger.record("spent/model_updates", self.spent.model_updates)
        self.logger.record("spent/field_evaluations", self.spent.field_evaluations)
        self.logger.record("spent/imagined_steps", self.spent.imagined)
        self.logger.record("spent/expansions", self.spent.expansions)
        self.logger.record("spent/wall_s_per_step", (now - began) / max(1, n - then))

    # -- files ----------------------------------------------------------------------------------------

    def _parts(self) -> Checkpoint:
        parts = super()._parts()
        arrays = {"buffer": self.buffer.state(), "imagined": self.replay.imagined.state()}
        tensors = {"model": dict(self.model.state_dict())}
        if self._gauge is not None:
            tensors["gauge"] = self._gauge._asdict()
        meta = {
            "rng": self.rng.bit_generator.state,
            "fits": self.fits,
            "fitted_at": self._fitted_at,
            "imagined_at": self._imagined_at,
            "spent": plain(self.spent),
        }
        return Checkpoint(
            self.name, parts.tensors | tensors, parts.arrays | arrays, parts.meta | {"world": meta}, {}
        )

    @classmethod
    def _from_parts(cls, parts: Checkpoint, device: str, known: Known) -> Dyna:
        agent = cls._unbuilt(parts, device, known)
        config = parts.meta["config"]
        agent._build(cls._resolved(dict(config["settings"])))
        agent._restore(parts)
        agent._restore_world(parts)
        return agent

    def _restore_world(self, parts: Checkpoint) -> None:
        world = parts.meta["world"]
        load_exactly(self.model, parts.tensors["model"], "the world model")
        if "gauge" in parts.tensors:
            self._gauge = Gauge(**{k: v.to(self.device) for k, v in parts.tensors["gauge"].items()})
        self.buffer.restore(parts.arrays["buffer"])
        self.replay.imagined.restore(parts.arrays["imagined"])
        self.rng.bit_generator.state = world["rng"]
        self.fits, self._fitted_at = int(world["fits"]), int(world["fitted_at"])
        self._imagined_at, self.spent = int(world["imagined_at"]), build(Spent, world["spent"])


class WorldLearning(BaseCallback):
    """Lets the agent improve and use its world model between stretches of acting."""

    def __init__(self, agent: Dyna) -> None:
        super().__init__()
        self.agent = agent

    def _on_training_start(self) -> None:
        self.agent._since = time.perf_counter(), self.agent.buffer.n_added
        self._cut_what_does_not_go_on()

    def _on_rollout_start(self) -> None:
        self.agent._improve_world()

    def _on_step(self) -> bool:
        return True

    def _cut_what_does_not_go_on(self) -> None:
        """Episodes that were open before `learn` go on only if the environments stand where they ended."""
        buffer, now = self.agent.buffer, cast("FloatArray | None", self.agent.algorithm._last_obs)
        for i, serial in list(buffer.open_ends.items()):
            ended = buffer.next_obs[serial % buffer.capacity]
            if now is None or i >= len(now) or not np.array_equal(np.asarray(now[i], np.float32), ended):
                buffer.cut(i)
