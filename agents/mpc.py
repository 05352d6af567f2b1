"""Model-predictive control on a learned neural-ODE world model, in the shape of Stable-Baselines3."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback, ProgressBarCallback
from stable_baselines3.common.logger import Logger, configure
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from ode_rl.agents.icem import ICEMConfig, Warm, cold_start, icem, shift
from ode_rl.agents.noise import coloured_noise
from ode_rl.agents.plan_score import Objective, assigned_scores, ensemble_scores
from ode_rl.agents.presets import load_preset
from ode_rl.agents.terminal_value import TerminalValue, ValueConfig
from ode_rl.agents.vec_env import as_vec_env, vec_env_dt, vec_env_id
from ode_rl.buffer import ReplayBuffer
from ode_rl.errors import UsageError
from ode_rl.device import resolve_device
from ode_rl.fit import FitConfig, fit
from ode_rl.returns import discount_rate
from ode_rl.settings import build, merged, plain
from ode_rl.spaces import check_spaces
from ode_rl.types import FloatArray, Transition
from ode_rl.world_model import WorldModel, WorldModelConfig


@dataclass(frozen=True)
class MPCConfig:
    """Settings of the agent and, below them, of its parts."""

    horizon: float = 0.8
    """Length of a plan in seconds."""
    gamma: float = 0.99
    """Discount per native step."""
    warmup_steps: int = 200
    """Steps of smooth random actions before the first fit."""
    fit_every: int = 100
    """Steps between two fits."""
    buffer_size: int = 100_000
    """Transitions kept."""
    action_cost: float = 0.002
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


# Settings of a preset that belong to the run, not to the agent.
RUN_SETTINGS = ("total_timesteps", "eval_freq")
# Seconds after which the coloured noise of the warm-up is drawn anew.
RANDOM_STRETCH = 2.0


class PlanState(NamedTuple):
    """What `predict` carries from call to call: the plans, and the number of the call for its noise."""

    warm: Warm
    calls: int


class MPC:
    """Learns a world model from interaction and plans in it.

    ``MPC("Pendulum-v1", seed=0).learn(600)`` works as in Stable-Baselines3: `env` is an id, a Gymnasium
    environment or a VecEnv; `predict`, `save`, `load`, callbacks and `evaluate_policy` are theirs too.
    `preset` names tuned settings (``"auto"``: those of the task, else the defaults for all), `settings`
    override them: ``MPC(env, horizon=1.0, planner={"candidates": 64})``. `dt` in seconds is needed only
    where the environment does not say how long its step lasts.

    Raises:
        UsageError: for spaces it cannot act in, an unknown preset or setting, an unknown step time.
    """

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
        self.env = as_vec_env(env)
        self.env_id = vec_env_id(self.env)
        check_spaces(self.env.observation_space, self.env.action_space)
        self.dt = vec_env_dt(self.env, dt)
        self.preset, tuned = load_preset("mpc", self.env_id, preset)
        tuned = {k: v for k, v in tuned.items() if k not in RUN_SETTINGS}
        self.settings = build(MPCConfig, merged(tuned, settings))
        self.seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self.device = resolve_device(device)
        self.verbose = verbose
        self.observation_space, self.action_space = self.env.observation_space, self.env.action_space
        self.num_timesteps = 0
        self.fits = 0
        self._logger: Logger | None = None
        low, high = self.action_space.low, self.action_space.high
        self._centre, self._half = (high + low) / 2, (high - low) / 2
        n_obs, n_action = self.observation_space.shape[0], self.action_space.shape[0]
        weights = torch.Generator().manual_seed(self.seed)
        self.model = WorldModel(n_obs, n_action, self.dt, self.settings.model, weights).to(self.device)
        self.value = TerminalValue(n_obs, self.settings.value, weights).to(self.device)
        self.buffer = ReplayBuffer(self.settings.buffer_size, n_obs, n_action)
        self.rng = np.random.default_rng(self.seed)
        self._last_obs: FloatArray | None = None

    @property
    def config(self) -> dict[str, Any]:
        """All resolved settings, as JSON values."""
        return {
            "agent": "mpc",
            "env_id": self.env_id,
            "dt": self.dt,
            "seed": self.seed,
            "device": str(self.device),
            "preset": self.preset,
            "settings": plain(self.settings),
        }

    # -- acting ---------------------------------------------------------------------------------------

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
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
        action = self._unscale(scaled.cpu().numpy())
        after = PlanState(warm, plan_state.calls + 1)
        return (action[0] if obs.ndim == 1 else action), after

    def _plan(self, z: Tensor, warm: Warm, noise: torch.Generator) -> tuple[Tensor, Warm]:
        config = self.settings
        dt = torch.full((warm.mean.shape[1],), self.dt, device=self.device)
        value = self.value if config.value.enabled and self.fits else None
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
        shape = (n, max(1, round(self.settings.horizon / self.dt)), self.action_space.shape[0])
        if not isinstance(state, PlanState) or state.warm.mean.shape != shape:
            return PlanState(cold_start(shape, self.settings.planner, self._generator(-1)), 0)
        if episode_start is None or not np.any(episode_start):
            return state
        fresh = cold_start(shape, self.settings.planner, self._generator(state.calls, 1))
        new = torch.as_tensor(np.broadcast_to(np.asarray(episode_start, bool), (n,)).copy(), device=self.device)
        mean = torch.where(new[:, None, None], fresh.mean, state.warm.mean)
        elites = torch.where(new[:, None, None, None], fresh.elites, state.warm.elites)
        return PlanState(Warm(mean, elites), state.calls)

    def _generator(self, call: int, stream: int = 0) -> torch.Generator:
        key = np.random.SeedSequence((self.seed, call + 1, stream)).generate_state(1, np.uint64)[0]
        return torch.Generator(self.device).manual_seed(int(key >> np.uint64(1)))

    def _check_observation(self, obs: FloatArray) -> FloatArray:
        width = self.observation_space.shape[0]
        if obs.ndim not in (1, 2) or obs.shape[-1] != width:
            raise UsageError(
                f"an observation of shape ({width},) or (n, {width})", obs.shape, f"Give observations of {self.env_id}."
            )
        if not np.isfinite(obs).all():
            raise UsageError("a finite observation", obs, "Mend the environment or the sensor.")
        return np.atleast_2d(obs)

    def _unscale(self, scaled: FloatArray) -> npt.NDArray[Any]:
        action = self._centre + self._half * scaled
        return np.clip(action, self.action_space.low, self.action_space.high).astype(self.action_space.dtype)

    # -- learning -------------------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int,
        callback: Any = None,
        log_interval: int = 1,
        tb_log_name: str = "mpc",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> MPC:
        """Collect, fit, plan, for `total_timesteps` environment steps; returns the agent itself."""
        callbacks = self._begin(total_timesteps, callback, reset_num_timesteps, progress_bar)
        target = self.num_timesteps + total_timesteps if not reset_num_timesteps else total_timesteps
        callbacks.on_training_start(locals(), globals())
        callbacks.on_rollout_start()
        obs, starts, plan, random_plan = self._reset(), np.ones(self.env.num_envs, bool), None, None
        going = True
        while going and self.num_timesteps < target:
            if self.fits:
                actions, plan = self.predict(obs, plan, starts, deterministic=False)
            else:
                actions, random_plan = self._random_actions(random_plan)
            new_obs, rewards, dones, infos = self.env.step(actions)
            self._store(obs, actions, rewards, new_obs, dones, infos)
            obs, starts = new_obs, dones
            self._last_obs = obs
            self.num_timesteps += self.env.num_envs
            callbacks.update_locals(locals())
            going = callbacks.on_step()
            if going and self._fit_is_due():
                self._fit()
        callbacks.on_training_end()
        return self

    def _fit_is_due(self) -> bool:
        warm = self.settings.warmup_steps
        since = self.num_timesteps - warm
        n = self.env.num_envs
        return since >= 0 and since % self.settings.fit_every < n

    def _fit(self) -> None:
        report = fit(self.model, self.buffer, self.settings.fit, self.rng, self.device)
        for name, number in report.scalars().items():
            self.logger.record(f"model/{name}", number)
        if self.settings.value.enabled:
            rho = discount_rate(self.settings.gamma, self.dt)
            self.logger.record("value/loss", self.value.fit(self.buffer, rho, self.dt, self.rng))
        self.fits += 1
        self.logger.dump(self.num_timesteps)

    def _store(
        self, obs: FloatArray, actions: FloatArray, rewards: FloatArray, new_obs: FloatArray, dones: Any, infos: Any
    ) -> None:
        scaled = (actions - self._centre) / self._half
        for i, info in enumerate(infos):
            info.setdefault("dt", self.dt)
            truncated = bool(dones[i]) and bool(info.get("TimeLimit.truncated", False))
            self.buffer.add(
                Transition(
                    obs=obs[i],
                    action=scaled[i],
                    reward=float(rewards[i]),
                    next_obs=info["terminal_observation"] if dones[i] else new_obs[i],
                    dt=float(info["dt"]),
                    terminated=bool(dones[i]) and not truncated,
                    truncated=truncated,
                ),
                env=i,
            )

    def _random_actions(self, plan: Tensor | None) -> tuple[npt.NDArray[Any], Tensor]:
        """Coloured random actions: robots swing out further than under white noise."""
        n, a = self.env.num_envs, self.action_space.shape[0]
        if plan is None or not len(plan):
            length = max(2, round(RANDOM_STRETCH / self.dt))
            noise = torch.Generator().manual_seed(int(self.rng.integers(2**62)))
            plan = coloured_noise((n, a, length), 1.0, noise).permute(2, 0, 1).clamp(-1, 1)
        return self._unscale(plan[0].numpy()), plan[1:]

    def _reset(self) -> FloatArray:
        for i in range(self.env.num_envs):
            self.buffer.cut(i)
        if self.num_timesteps == 0:
            self.env.seed(self.seed)
        obs: FloatArray = self.env.reset()  # type: ignore[assignment]
        return obs

    def _begin(self, total: int, callback: Any, reset: bool, progress_bar: bool) -> BaseCallback:
        if total < 1:
            raise UsageError("at least one step", total, "Write learn(600).")
        if reset:
            self.num_timesteps = 0
        parts = list(callback) if isinstance(callback, list | tuple) else [callback] if callback else []
        parts = [part if isinstance(part, BaseCallback) else ConvertCallback(part) for part in parts]
        if progress_bar:
            parts.append(ProgressBarCallback())
        both = CallbackList(parts)
        both.init_callback(self)  # type: ignore[arg-type]
        return both

    # -- the shape of Stable-Baselines3 ---------------------------------------------------------------

    @property
    def logger(self) -> Logger:
        """The Stable-Baselines3 logger; one that writes nothing until `set_logger`."""
        if self._logger is None:
            self._logger = configure(None, ["stdout"] if self.verbose else [])
        return self._logger

    def set_logger(self, logger: Logger) -> None:
        """Log to `logger` from now on."""
        self._logger = logger

    def get_env(self) -> VecEnv:
        """The training environment, vectorised."""
        return self.env

    def set_env(self, env: Any) -> None:
        """Train in `env` from now on.

        Raises:
            UsageError: if its spaces differ from those of the agent.
        """
        new = as_vec_env(env)
        for mine, theirs in (
            (self.observation_space, new.observation_space),
            (self.action_space, new.action_space),
        ):
            if mine != theirs:
                raise UsageError(f"the space {mine}", theirs, f"Give an environment like {self.env_id}.")
        self.env = new

    def get_vec_normalize_env(self) -> None:
        """None: the world model keeps scales of its own."""
        return None
