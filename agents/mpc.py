"""Model-predictive control on a learned neural-ODE world model, in the shape of Stable-Baselines3."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from ode_rl.agents.icem import ICEMConfig, Warm, cold_start, icem, shift
from ode_rl.agents.learner import Learner, box_arrays, box_of
from ode_rl.agents.noise import coloured_noise
from ode_rl.agents.plan_score import Objective, assigned_scores, ensemble_scores
from ode_rl.agents.presets import load_preset
from ode_rl.agents.terminal_value import TerminalValue, ValueConfig
from ode_rl.buffer import ReplayBuffer
from ode_rl.checkpoint import Checkpoint
from ode_rl.errors import UsageError
from ode_rl.fit import FitConfig, fit
from ode_rl.returns import discount_rate
from ode_rl.settings import build, merged, plain
from ode_rl.state import state_spec
from ode_rl.timing import positive_seconds
from ode_rl.types import FloatArray
from ode_rl.world_model import WorldModel, WorldModelConfig


@dataclass(frozen=True)
class MPCConfig:
    """Settings of the agent and, below them, of its parts."""

    horizon: float | None = None
    """Length of a plan in seconds; None means 12 control intervals."""
    gamma: float = 0.99
    """Discount per native step."""
    warmup_steps: int = 200
    """Steps of random actions before the first fit."""
    warmup_exponent: float = 0.0
    """Colour of the random actions of the warm-up: 0 white, 2 brown."""
    fit_every: int = 100
    """Steps between two fits, at least."""
    fit_growth: float = 0.05
    """Fits are also at least this share of all steps apart: each costs the same, and news get rarer."""
    buffer_size: int = 100_000
    """Transitions kept."""
    action_cost: float = 0.01
    """Weight of the squared change of the action, in shares of the typical reward rate."""
    explore_std: float = 0.0
    """Gaussian noise on scaled actions while learning."""
    model: WorldModelConfig = field(default_factory=WorldModelConfig)
    """The world model."""
    fit: FitConfig = field(default_factory=FitConfig)
    """How the world model is fitted."""
    planner: ICEMConfig = field(default_factory=ICEMConfig)
    """How plans are searched."""
    value: ValueConfig = field(default_factory=ValueConfig)
    """The value of where a plan ends."""

    def __post_init__(self) -> None:
        discount_rate(self.gamma, native_dt=1.0)  # refuses what is no discount
        if self.horizon is not None:
            positive_seconds(self.horizon, "horizon")


# Settings of a preset that belong to the run, not to the agent.
RUN_SETTINGS = ("total_timesteps", "eval_freq")
# Control intervals per plan where no horizon in seconds is given.
DEFAULT_PLAN_LENGTH = 12
# Seconds after which the coloured noise of the warm-up is drawn anew.
RANDOM_STRETCH = 2.0


class PlanState(NamedTuple):
    """What `predict` carries from call to call: the plans, and the number of the call for its noise."""

    warm: Warm
    calls: int


class MPC(Learner):
    """Learns a world model from interaction and plans in it.

    ``MPC("Pendulum-v1", seed=0).learn(600)`` works as in Stable-Baselines3: `env` is an id, a Gymnasium
    environment or a VecEnv; `predict`, `save`, `load`, callbacks and `evaluate_policy` are theirs too.
    `preset` names tuned settings (``"auto"``: those of the task, else the defaults for all), `settings`
    override them: ``MPC(env, horizon=1.0, planner={"candidates": 64})``. `dt` in seconds is needed only
    where the environment does not say how long its step lasts.

    Raises:
        UsageError: for spaces it cannot act in, an unknown preset or setting, an unknown step time.
    """

    name = "mpc"

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
        super().__init__(env, seed, device, dt, verbose)
        self.preset, tuned = load_preset("mpc", self.env_id, preset)
        tuned = {k: v for k, v in tuned.items() if k not in RUN_SETTINGS}
        self._build(build(MPCConfig, merged(tuned, settings)))

    def _build(self, settings: MPCConfig) -> None:
        self.settings = settings
        self.fits, self._fitted_at = 0, 0
        n_obs, n_action = self.observation_space.shape[0], self.action_space.shape[0]
        weights = torch.Generator().manual_seed(self.seed)
        spec = None if settings.model.structure == "ode" else state_spec(self.env_id, n_obs)
        self.model = WorldModel(n_obs, n_action, self.dt, settings.model, weights, spec).to(self.device)
        self.value = TerminalValue(n_obs, settings.value, weights).to(self.device)
        self.buffer = ReplayBuffer(settings.buffer_size, n_obs, n_action)

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
            "settings": plain(self.settings),
        }

    @property
    def plan_length(self) -> int:
        """Control intervals per plan."""
        horizon = self.settings.horizon
        return DEFAULT_PLAN_LENGTH if horizon is None else max(1, round(horizon / self.dt))

    # -- acting ---------------------------------------------------------------------------------------

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[npt.NDArray[Any], Any]:
        """Plan from each observation and return the first action of the best plan.

        ``observation [O]`` or ``[B, O]`` (a batch of robots); `state` is what the call before returned and
        warm-starts the search, except in rows where `episode_start` is true. With `deterministic` false
        the exploration noise of training is added. The same arguments give the same action.
        """
        obs = np.asarray(observation, np.float32)
        rows = self._check_observation(obs)
        plan_state = self._start(rows, state, episode_start)
        noise = self._generator(plan_state.calls)
        with torch.inference_mode():
            scaled, warm = self._plan(torch.from_numpy(rows).to(self.device), plan_state.warm, noise)
            if not deterministic and self.settings.explore_std:
                jitter = torch.randn(scaled.shape, generator=noise, device=self.device)
                scaled = (scaled + self.settings.explore_std * jitter).clamp(-1, 1)
        action = self._to_env(scaled.cpu().numpy())
        after = PlanState(warm, plan_state.calls + 1)
        return (action[0] if obs.ndim == 1 else action), after

    def _plan(self, z: Tensor, warm: Warm, noise: torch.Generator) -> tuple[Tensor, Warm]:
        config = self.settings
        dt = torch.full((self.plan_length,), self.dt, device=self.device)
        value = self.value if int(self.value.n_fits) and config.value.applies(self.model.ends) else None
        objective = Objective(discount_rate(config.gamma, self.dt), value, config.action_cost)
        plan, found = icem(
            lambda plans: assigned_scores(self.model, z, plans, dt, objective, noise),
            warm,
            config.planner,
            noise,
            lambda plans: ensemble_scores(self.model, z, plans, dt, objective),
        )
        return plan[:, 0], shift(found)

    def _start(self, rows: FloatArray, state: Any, episode_start: Any) -> PlanState:
        n = len(rows)
        shape = (n, self.plan_length, self.action_space.shape[0])
        if not isinstance(state, PlanState) or tuple(state.warm.mean.shape) != shape:
            return PlanState(cold_start(shape, self.settings.planner, self._generator(-1)), 0)
        if episode_start is None or not np.any(episode_start):
            return state
        fresh = cold_start(shape, self.settings.planner, self._generator(state.calls, 1))
        new = torch.from_numpy(np.broadcast_to(np.asarray(episode_start, bool), (n,)).copy()).to(self.device)
        mean = torch.where(new[:, None, None], fresh.mean, state.warm.mean)
        elites = torch.where(new[:, None, None, None], fresh.elites, state.warm.elites)
        return PlanState(Warm(mean, elites), state.calls)

    def _generator(self, call: int, stream: int = 0) -> torch.Generator:
        # The noise of a call is a function of its number: nothing random hides in the agent.
        key = np.random.SeedSequence((self.seed, call + 1, stream)).generate_state(1, np.uint64)[0]
        return torch.Generator(self.device).manual_seed(int(key >> np.uint64(1)))

    def _check_observation(self, obs: FloatArray) -> FloatArray:
        width = self.observation_space.shape[0]
        if obs.ndim not in (1, 2) or obs.shape[-1] != width:
            remedy = f"Give observations of {self.env_id}."
            raise UsageError(f"an observation of shape ({width},) or (n, {width})", obs.shape, remedy)
        if not np.isfinite(obs).all():
            raise UsageError("a finite observation", obs, "Mend the environment or the sensor.")
        return np.atleast_2d(obs)

    # -- learning -------------------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int,
        callback: Any = None,
        progress_bar: bool = False,
        reset_num_timesteps: bool = True,
    ) -> MPC:
        """Collect, fit, plan, for `total_timesteps` environment steps; returns the agent itself.

        With `reset_num_timesteps` false the count of steps goes on from where it was.
        """
        env, callbacks = self._begin(total_timesteps, callback, progress_bar)
        if reset_num_timesteps:
            self._fitted_at -= self.num_timesteps
            self.num_timesteps = 0
        target = self.num_timesteps + total_timesteps
        callbacks.on_training_start({"total_timesteps": target, "self": self}, {})
        callbacks.on_rollout_start()
        obs = self._reset(env)
        starts, plan, random_plan = np.ones(env.num_envs, bool), None, None
        going = True
        while going and self.num_timesteps < target:
            if self.fits:
                actions, plan = self.predict(obs, plan, starts, deterministic=False)
            else:
                actions, random_plan = self._random_actions(env.num_envs, random_plan)
            new_obs, rewards, dones, infos = env.step(actions)
            for i, transition in enumerate(self._transitions(obs, actions, rewards, new_obs, dones, infos)):
                self.buffer.add(transition, env=i)
            obs, starts = np.asarray(new_obs), dones
            self.num_timesteps += env.num_envs
            callbacks.update_locals({"rewards": rewards, "dones": dones, "infos": infos, "new_obs": new_obs})
            going = callbacks.on_step()
            if going and self._fit_is_due():
                self._fit()
        callbacks.on_rollout_end()
        callbacks.on_training_end()
        return self

    def _fit_is_due(self) -> bool:
        since = len(self.buffer) - self.settings.warmup_steps
        every = max(self.settings.fit_every, round(self.settings.fit_growth * self.num_timesteps))
        return since >= 0 and (self.fits == 0 or self.num_timesteps - self._fitted_at >= every)

    def _fit(self) -> None:
        report = fit(self.model, self.buffer, self.settings.fit, self.rng, self.device)
        for name, number in report.scalars().items():
            self.logger.record(f"model/{name}", number)
        if self.settings.value.applies(self.model.ends):
            rho = discount_rate(self.settings.gamma, self.dt)
            self.logger.record("value/loss", self.value.fit(self.buffer, rho, self.dt, self.rng))
        self.fits, self._fitted_at = self.fits + 1, self.num_timesteps
        self.logger.dump(self.num_timesteps)

    def _random_actions(self, n: int, plan: Tensor | None) -> tuple[npt.NDArray[Any], Tensor]:
        """Coloured random actions, drawn stretch by stretch."""
        if plan is None or not len(plan):
            shape = (n, self.action_space.shape[0], max(2, round(RANDOM_STRETCH / self.dt)))
            generator = torch.Generator().manual_seed(int(self.rng.integers(2**62)))
            noise = coloured_noise(shape, self.settings.warmup_exponent, generator)
            plan = noise.permute(2, 0, 1).clamp(-1, 1)
        return self._to_env(plan[0].numpy()), plan[1:]

    def _reset(self, env: VecEnv) -> FloatArray:
        for i in range(env.num_envs):
            self.buffer.cut(i)
        if self.num_timesteps == 0:
            env.seed(self.seed)
        return np.asarray(env.reset())

    # -- files ----------------------------------------------------------------------------------------

    def _parts(self) -> Checkpoint:
        meta = {
            "config": self.config,
            "num_timesteps": self.num_timesteps,
            "fits": self.fits,
            "fitted_at": self._fitted_at,
            "rng": self.rng.bit_generator.state,
        }
        arrays = {
            "buffer": self.buffer.state(),
            "observation_space": box_arrays(self.observation_space),
            "action_space": box_arrays(self.action_space),
        }
        tensors = {"model": self.model.state_dict(), "value": self.value.state_dict()}
        return Checkpoint(self.name, tensors, arrays, meta, {})

    @classmethod
    def _from_parts(cls, parts: Checkpoint, device: str) -> MPC:
        config = parts.meta["config"]
        agent = cls.__new__(cls)
        agent.env, agent.env_id, agent.dt = None, str(config["env_id"]), float(config["dt"])
        agent.observation_space = box_of(parts.arrays["observation_space"])
        agent.action_space = box_of(parts.arrays["action_space"])
        agent._begin_anew(int(config["seed"]), device, verbose=0)
        agent.preset = str(config["preset"])
        agent._build(build(MPCConfig, config["settings"]))
        agent.model.load_state_dict(parts.tensors["model"])
        agent.value.load_state_dict(parts.tensors["value"])
        agent.buffer.restore(parts.arrays["buffer"])
        agent.num_timesteps, agent.fits = int(parts.meta["num_timesteps"]), int(parts.meta["fits"])
        agent._fitted_at = int(parts.meta["fitted_at"])
        agent.rng.bit_generator.state = parts.meta["rng"]
        return agent
