"""A policy that a neural-ODE world model teaches, and that acts without planning."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from ode_rl.agents.actor_critic import ActorCritic
from ode_rl.agents.collecting import Collecting, undone_if_raised
from ode_rl.agents.declared import box_arrays, load_exactly
from ode_rl.agents.distillation import Distillation, student
from ode_rl.agents.learner import next_seconds
from ode_rl.agents.model_gradient import Discount
from ode_rl.agents.noise import next_noise
from ode_rl.agents.parameter_noise import Afresh, ParameterNoise
from ode_rl.agents.policy_config import PolicyConfig
from ode_rl.agents.policy_progress import Progress
from ode_rl.buffer import ReplayBuffer
from ode_rl.checkpoint import Checkpoint
from ode_rl.errors import Stopped, UsageError
from ode_rl.fit import FitConfig, fit
from ode_rl.known import Known
from ode_rl.normalize import Scale
from ode_rl.returns import discount_rate
from ode_rl.settings import build, check_counts
from ode_rl.state import STATE_SPECS
from ode_rl.timing import positive_seconds
from ode_rl.types import FloatArray
from ode_rl.world_model import WorldModelConfig

if TYPE_CHECKING:
    from ode_rl.agents.mpc import MPC

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ODEPolicyConfig:
    """Settings of the agent and, below them, of its parts."""

    gamma: float = 0.99
    """Discount per native step."""
    warmup_steps: int = 200
    """Steps of random actions before the first round of learning."""
    warmup_std: float = 1.0
    """Standard deviation of these scaled actions, which are cut to [-1, 1]."""
    warmup_exponent: float = 1.0
    """Colour of the random actions of the warm-up: 0 white, 2 brown."""
    warmup_mirrored: bool = False
    """Whether a stretch of them, begun with the episode, is followed by its mirror image, so that what
    integrates them, a cart without friction, comes back instead of running away."""
    explore_std: float = 0.2
    """Standard deviation of the noise on scaled actions while learning."""
    explore_exponent: float = 1.0
    """Colour of this noise."""
    explore_parameters: float = 0.0
    """Standard deviation of changes of the actor's parameters with which it acts while learning, drawn where
    an episode begins and every `explore_seconds`: whole motions differ, not single actions. Source: Plappert
    et al. 2018 (arXiv 1706.01905)."""
    warmup_parameters: float = 0.0
    """The same in the warm-up, in place of random actions; 0: random actions."""
    explore_seconds: float = 5.0
    """How long such a change lasts."""
    warmup_seconds: float | None = None
    """How long it lasts in the warm-up (None: as long as later). Short ones show more of the states, but what
    is earned in a moment says little of a policy: it counts only where it is as long as later."""
    explore_afresh: float = 0.0
    """Probability that, while learning, a change is a policy drawn as in the warm-up instead, for as long as
    there: what is known of the task grows where the policy does not go."""
    round_every: int = 150
    """Steps between two rounds (a fit of the world model, then learning in it), at least."""
    round_growth: float = 0.05
    """Rounds are also at least this share of all steps apart: each costs the same, and news get rarer."""
    buffer_size: int = 100_000
    """Transitions kept."""
    model: WorldModelConfig = field(default_factory=WorldModelConfig)
    """The world model."""
    fit: FitConfig = field(default_factory=FitConfig)
    """How the world model is fitted."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """The policy and how it learns."""

    def __post_init__(self) -> None:
        discount_rate(self.gamma, native_dt=1.0)  # refuses what is no discount
        check_counts(self, ("warmup_steps", "round_every", "buffer_size"), 100)
        positive_seconds(self.explore_seconds, "explore_seconds")
        if self.warmup_seconds is not None:
            positive_seconds(self.warmup_seconds, "warmup_seconds")
            if self.warmup_seconds > self.explore_seconds:
                expected = f"warmup_seconds <= explore_seconds={self.explore_seconds:g}"
                raise UsageError(expected, self.warmup_seconds, "Leave out warmup_seconds, or lower it.")
        if not 0 <= self.explore_afresh <= 1:
            raise UsageError("0 <= explore_afresh <= 1", self.explore_afresh, "Write explore_afresh=0.5.")
        for name in ("explore_parameters", "warmup_parameters"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise UsageError(f"{name} >= 0", getattr(self, name), f"Write {name}=0.1, or leave it out.")
            if getattr(self, name) and self.policy.actor != "mlp":
                remedy = f"Write policy={{'actor': 'mlp'}}, or leave out {name}."
                raise UsageError(f"{name} with the actor 'mlp'", repr(self.policy.actor), remedy)
            if self.explore_afresh and not getattr(self, name):
                remedy = f"Write {name}=0.5, or leave out explore_afresh."
                raise UsageError(f"explore_afresh with {name} > 0", getattr(self, name), remedy)


class ODEPolicy(Collecting):
    """Learns a world model from interaction, and a policy from the gradient of the model.

    ``ODEPolicy("Pendulum-v1", seed=0).learn(1000)`` works as in Stable-Baselines3; arguments are those of
    `MPC`, and `settings` override the preset: ``ODEPolicy(env, policy={"horizon": 2.0})``. `predict` is one
    pass through a network. With ``policy={"actor": "ode"}`` the policy has a hidden state: give `predict` the
    state that the call before returned.

    Raises:
        UsageError: for spaces it cannot act in, an unknown preset or setting, an unknown step time, a horizon
            shorter than one control interval.
    """

    name, Settings = "ode-policy", ODEPolicyConfig
    settings: ODEPolicyConfig

    def _suited(self, tuned: dict[str, Any]) -> dict[str, Any]:
        """A preset without its model's structure where observations are not those of the bare task."""
        spec = STATE_SPECS.get(self.env_id)
        if spec is None or spec.n_obs == self.observation_space.shape[0] or "model" not in tuned:
            return tuned
        return {**tuned, "model": {k: v for k, v in tuned["model"].items() if k != "structure"}}

    def _build(self, settings: ODEPolicyConfig) -> None:
        self.settings = settings
        n_obs, n_action = self.observation_space.shape[0], self.action_space.shape[0]
        weights = torch.Generator().manual_seed(self.seed)
        self.model = self._world_model(settings.model, weights)
        discount = Discount(discount_rate(settings.gamma, self.dt), self.dt)
        policy = ActorCritic(n_obs, n_action, self.interval, discount, settings.policy, weights)
        self.policy = policy.to(self.device)
        self._n_parameters = sum(each.numel() for each in policy.actor.parameters())
        self.buffer = ReplayBuffer(settings.buffer_size, n_obs, n_action)
        self.rounds, self._round_at, self.skipped = 0, 0, 0
        self._progress = Progress(np.zeros((0, n_obs)), np.zeros(0, bool))
        self._warned = False

    @classmethod
    def distilled(
        cls,
        planner: MPC,
        improve: int = 0,
        distillation: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> ODEPolicy:
        """A policy that imitates a planner, where recorded and where it comes itself in the world model.

        ``distillation={"rounds": 12, "states": 100}`` says how much the planner is asked (`Distillation`).
        Afterwards it learns for `improve` rounds from the gradient of the planner's own model. `settings` are
        those of the agent; model, discount and task are the planner's. It can go on learning in the task as
        any other.

        Raises:
            UsageError: if the planner has no environment or has not learned anything yet.
        """
        return student(cls, planner, improve, build(Distillation, dict(distillation or {})), settings)

    # -- acting ---------------------------------------------------------------------------------------

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        dt: Any = None,
    ) -> tuple[npt.NDArray[Any], Any]:
        """The policy's action for each observation, and the state for the next call.

        ``observation [O]`` or ``[B, O]``; `state` is what the call before returned, forgotten in rows where
        `episode_start` is true. `dt` is how many seconds the action will be held, one number or one per robot
        (None: the control interval of the task). With `deterministic` false the exploration noise of training
        is added, white and from torch's global generator.
        """
        obs = np.asarray(observation, np.float32)
        rows = self._check_observation(obs)
        memory = self._memory(len(rows), state, episode_start)
        with torch.inference_mode():
            scaled, after = self._act(rows, memory, dt)
            if not deterministic and self.settings.explore_std:
                noise = torch.randn(scaled.shape, device=scaled.device)
                scaled = (scaled + self.settings.explore_std * noise).clamp(-1, 1)
        action = self._to_env(scaled.cpu().numpy())
        return (action[0] if obs.ndim == 1 else action), after

    def _act(self, rows: FloatArray, memory: Tensor, dt: Any) -> tuple[Tensor, Tensor]:
        z = torch.from_numpy(rows).to(self.device)
        action, after = self.policy.actor(z, self._seconds(dt, len(rows)), memory)
        return action, after

    def _seconds(self, dt: Any, n: int) -> Tensor:
        seconds = np.asarray(self.interval if dt is None else dt, np.float32).reshape(-1)
        if len(seconds) not in (1, n) or not (np.isfinite(seconds) & (seconds > 0)).all():
            raise UsageError(f"dt > 0 in seconds, one number or {n}", dt, "Write predict(obs, dt=0.05).")
        return torch.from_numpy(seconds).to(self.device).expand(n)

    def _memory(self, n: int, state: Any, episode_start: Any) -> Tensor:
        width = self.policy.actor.n_memory
        starts = None if episode_start is None else np.broadcast_to(np.asarray(episode_start, bool), (n,))
        if not isinstance(state, Tensor) or state.shape != (n, width):
            if width and not self._warned and (starts is None or not starts.all()):
                self._warned = True
                log.warning(
                    "a policy with a hidden state was called without one: it begins anew. Write "
                    "action, state = predict(obs, state, episode_start)."
                )
            return torch.zeros(n, width, device=self.device)
        if starts is None or not width or not starts.any():
            return state
        return torch.where(torch.from_numpy(starts.copy()).to(state.device)[:, None], 0.0, state)

    # -- learning -------------------------------------------------------------------------------------

    def _step(self, env: VecEnv, callbacks: BaseCallback, varies: bool) -> bool:
        """Act once in every environment and store what came of it; False if a callback ends the training."""
        obs, starts, memory = self._progress[:3]
        config, now = self.settings, self._progress
        jitter, noise = self._noise(starts)
        scaled = config.warmup_std * jitter
        changing = self._parameter_noise()
        if self.rounds or changing:
            rows = self._check_observation(np.asarray(obs, np.float32))
            seconds = next_seconds(env) if varies else None
            if changing:
                now = self._changed(changing, starts)
            with torch.inference_mode():
                if changing:
                    z = torch.from_numpy(rows).to(self.device)
                    action = changing.act(now, z, self._seconds(seconds, len(rows)))
                else:
                    action, memory = self._act(rows, self._memory(len(rows), memory, starts), seconds)
            scaled = action.cpu() + config.explore_std * jitter
        actions = self._to_env(scaled.clamp(-1, 1).numpy())
        new_obs, rewards, dones, infos = env.step(actions)
        transitions = self._transitions(obs, actions, rewards, new_obs, dones, infos)
        self._store(transitions, infos)
        self._progress = now._replace(obs=np.asarray(new_obs), starts=dones, memory=memory, noise=noise)
        if changing:
            self._progress, over = self._progress.after(transitions)
            if config.policy.source == "searched" and changing.seconds >= config.explore_seconds:
                changing.put_on_record(self._progress, over, self.policy.record)
        self.num_timesteps += env.num_envs
        callbacks.update_locals({"rewards": rewards, "dones": dones, "infos": infos, "new_obs": new_obs})
        return callbacks.on_step()

    def _parameter_noise(self) -> ParameterNoise | None:
        """The changes of the actor's parameters with which it acts now, if it does."""
        config = self.settings
        size, seconds = config.explore_parameters, config.explore_seconds
        if not self.rounds:
            size, seconds = config.warmup_parameters, config.warmup_seconds or seconds
        return ParameterNoise(self.policy.actor, size, seconds) if size else None

    def _changed(self, changing: ParameterNoise, starts: npt.NDArray[np.bool_]) -> Progress:
        """Progress with the changes for this step."""
        config = self.settings
        now: Progress
        now, anew = self._progress.changed(starts, self._n_parameters, changing.seconds, self.rng)
        if self.rounds and anew.any():
            shape = config.warmup_parameters, config.warmup_seconds or config.explore_seconds
            afresh = Afresh(config.explore_afresh, *shape)
            now = changing.with_trials(now, anew, self.policy.record, afresh, self.rng)
        if not self.rounds and anew.all() and len(self.buffer):
            self._take_scale()  # random actors, too, see normalised observations
        return now

    def _take_scale(self) -> None:
        obs = torch.from_numpy(self.buffer.arrays().obs)
        self.policy.take_scale(Scale.of(obs.to(self.device)))

    def _noise(self, starts: npt.NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        """The noise ``[n, A]`` of this step, and what is left of a stretch of it, which is drawn when due."""
        left, config = self._progress.noise, self.settings
        colour, mirrored = config.warmup_exponent, config.warmup_mirrored
        if self.rounds:
            colour, mirrored = config.explore_exponent, False
        n_action = self.action_space.shape[0]
        return next_noise(left, starts, n_action, self.interval, colour, self.rng, mirrored)

    def _round_is_due(self) -> bool:
        since = len(self.buffer) - self.settings.warmup_steps
        every = max(self.settings.round_every, round(self.settings.round_growth * self.num_timesteps))
        return since >= 0 and (self.rounds == 0 or self.num_timesteps - self._round_at >= every)

    def _round(self) -> bool:
        """Fit to all that was collected, and improve. If somebody asks to stop: False, all as before."""
        try:
            with undone_if_raised((self.model, self.policy), self.rng):
                fitted = fit(
                    self.model, self.buffer, self.settings.fit, self.rng, self.device, stop=self.stop_asked
                )
                learned = self.policy.improve(self.model, self.buffer, self.rng, self.stop_asked)
        except Stopped:
            return False
        self.skipped += learned.skipped
        for part, report in (("model", fitted), ("policy", learned)):
            for name, number in report.scalars().items():
                self.logger.record(f"{part}/{name}", number)
        self.rounds, self._round_at = self.rounds + 1, self.num_timesteps
        # Changes of the policy of before would be taken for changes of this one.
        self._progress = self._progress._replace(changes=None, left=None, earned=None)
        self.logger.dump(self.num_timesteps)
        return True

    # -- files ----------------------------------------------------------------------------------------

    def _parts(self) -> Checkpoint:
        meta = {
            "config": self.config,
            "num_timesteps": self.num_timesteps,
            "rounds": self.rounds,
            "round_at": self._round_at,
            "skipped": self.skipped,
            "rng": self.rng.bit_generator.state,
        }
        arrays = {
            "buffer": self.buffer.state(),
            "observation_space": box_arrays(self.observation_space),
            "action_space": box_arrays(self.action_space),
        }
        tensors = {
            "model": self.model.state_dict(),
            "policy": self.policy.state_dict(),
            "progress": self._progress.tensors(),
        }
        return Checkpoint(self.name, tensors, arrays, meta, {})

    @classmethod
    def _from_parts(cls, parts: Checkpoint, device: str, known: Known) -> ODEPolicy:
        agent = cls._unbuilt(parts, device, known)
        config = parts.meta["config"]
        agent._build(build(ODEPolicyConfig, config["settings"]))
        load_exactly(agent.model, parts.tensors["model"], "the world model")
        load_exactly(agent.policy, parts.tensors["policy"], "the policy")
        agent.buffer.restore(parts.arrays["buffer"])
        agent.num_timesteps, agent.rounds = int(parts.meta["num_timesteps"]), int(parts.meta["rounds"])
        agent._round_at, agent.skipped = int(parts.meta["round_at"]), int(parts.meta["skipped"])
        agent.rng.bit_generator.state = parts.meta["rng"]
        agent._progress = Progress.of(parts.tensors["progress"], agent.device)
        return agent
