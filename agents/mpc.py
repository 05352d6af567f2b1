"""Model-predictive control on a learned neural-ODE world model, in the shape of Stable-Baselines3."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from ode_rl.agents.actor_critic import ActorCritic
from ode_rl.agents.collecting import Collecting, undone_if_raised
from ode_rl.agents.declared import box_arrays, load_exactly
from ode_rl.agents.learner import next_seconds
from ode_rl.agents.model_gradient import Discount
from ode_rl.agents.mpc_config import MPCConfig
from ode_rl.agents.noise import next_noise
from ode_rl.agents.plan_grid import PlanGrid
from ode_rl.agents.plan_progress import PlanState, Progress
from ode_rl.agents.planners import Deadline
from ode_rl.agents.planning import How, Planning
from ode_rl.agents.terminal_value import TerminalValue
from ode_rl.best_use import BLIND
from ode_rl.buffer import ReplayBuffer
from ode_rl.checkpoint import Checkpoint
from ode_rl.errors import Stopped, UsageError
from ode_rl.fit import fit
from ode_rl.inference import resolve_precision
from ode_rl.known import Known
from ode_rl.returns import discount_rate
from ode_rl.settings import build
from ode_rl.types import FloatArray

log = logging.getLogger(__name__)


class MPC(Collecting):
    """Learns a world model from interaction and plans in it.

    ``MPC("Pendulum-v1", seed=0).learn(600)`` works as in Stable-Baselines3: `env` is an id, a Gymnasium
    environment or a VecEnv; `predict`, `save`, `load`, callbacks and `evaluate_policy` are theirs too.
    `preset` names tuned settings (``"auto"``: those of the task, else the defaults for all), `settings`
    override them: ``MPC(env, horizon=1.0, planner={"candidates": 64})``. `dt` in seconds is needed only
    where the environment does not say how long its step lasts. `known` functions of the task (its reward,
    its termination) replace what would be learned; code does not go into files, so `load` needs them again.

    Raises:
        UsageError: for spaces it cannot act in, an unknown preset or setting, an unknown step time.
    """

    name, Settings = "mpc", MPCConfig
    settings: MPCConfig

    def _build(self, settings: MPCConfig) -> None:
        # What is written to files is what was decided: a resumed run plans as before.
        plans_each = settings.planner.candidates
        if not settings.asks_all_members(explores=True):
            plans_each = -(-plans_each // settings.model.n_members)
        width = min(settings.model.hidden, default=0)
        precision = resolve_precision(settings.precision, self.device, width, plans_each)
        settings = replace(settings, precision=precision)
        if settings.model.structure == BLIND:
            # It takes every interval for a native one, those that get longer along the horizon, too.
            settings = replace(settings, growth=1.0)
        self.settings = settings
        plan = (settings.horizon, settings.knots, settings.n_knots, settings.growth, settings.coast)
        self.grid = PlanGrid.of(self.interval, *plan)
        self.fits, self._round_at = 0, 0
        n_obs, n_action = self.observation_space.shape[0], self.action_space.shape[0]
        weights = torch.Generator().manual_seed(self.seed)
        self.model = self._world_model(settings.model, weights)
        self.value = TerminalValue(n_obs, settings.value, weights).to(self.device)
        rho = discount_rate(settings.gamma, self.dt)
        self.policy: ActorCritic | None = None
        if settings.proposals == "policy":
            discount = Discount(rho, self.dt)
            policy = ActorCritic(n_obs, n_action, self.interval, discount, settings.policy, weights)
            self.policy = policy.to(self.device)
        self.planning = Planning(
            self.model, self.value, self.policy, self.grid, settings, rho, n_action, self.seed
        )
        self.buffer = ReplayBuffer(settings.buffer_size, n_obs, n_action)
        self._progress = Progress(np.zeros((0, n_obs)), np.zeros(0, bool))

    @property
    def fallbacks(self) -> int:
        """How often no plan of a robot had a finite score, so that the previous plan went on."""
        return self.planning.fallbacks

    # -- acting ---------------------------------------------------------------------------------------

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        dt: Any = None,
        proposals: Any = None,
    ) -> tuple[npt.NDArray[Any], Any]:
        """Plan from each observation and return the first action of the best plan.

        ``observation [O]`` or ``[B, O]`` (a batch of robots); `state` is what the call before returned and
        warm-starts the search, except in rows where `episode_start` is true. `dt` is how many seconds the
        action will be held, one number or one per robot (None: the control interval of the task).
        ``proposals [P, K, A]`` or ``[B, P, K, A]`` are plans, say of a policy, to be tried among the first
        candidates: actions of the task at the K knots (``agent.grid.knots``). With
        `deterministic` false it explores as in training, by noise or a bonus. The same arguments give the
        same action, unless the planner has a budget in milliseconds.
        """
        deadline = Deadline.after(self.settings.planner.budget_ms)
        obs = np.asarray(observation, np.float32)
        rows = self._check_observation(obs)
        proposed = None if proposals is None else self._scaled_plans(proposals, len(rows))
        action, after = self._act(rows, state, episode_start, deterministic, dt, deadline, proposed)
        return (action[0] if obs.ndim == 1 else action), after

    def _act(
        self,
        rows: FloatArray,
        state: Any,
        episode_start: Any,
        deterministic: bool,
        dt: Any,
        deadline: Deadline,
        proposals: Tensor | None = None,
    ) -> tuple[npt.NDArray[Any], PlanState]:
        before = self.planning.start(len(rows), state, episode_start)
        noise = self.planning.noise(before.calls)
        # The gradient planner differentiates what it scores.
        mode = torch.no_grad if self.settings.planner.method == "gradient" else torch.inference_mode
        with mode():
            z = torch.from_numpy(rows).to(self.device)
            how = How(noise, deadline, proposals, explores=not deterministic)
            scaled, warm, scored = self.planning.actions(z, before.warm, dt, how)
            if not deterministic and self.settings.explore_std:
                jitter = torch.randn(scaled.shape, generator=noise, device=self.device)
                scaled = (scaled + self.settings.explore_std * jitter).clamp(-1, 1)
        return self._to_env(scaled.cpu().numpy()), PlanState(warm, before.calls + 1, before.scored + scored)

    def _scaled_plans(self, plans: Any, n: int) -> Tensor:
        found = torch.from_numpy(np.asarray(self._from_env(np.asarray(plans, np.float32)), np.float32))
        if found.dim() not in (3, 4) or (found.dim() == 4 and len(found) != n):
            remedy = "Propose plans [P, K, A], or [B, P, K, A] with one batch per observation."
            raise UsageError(f"proposals for {n} robots", tuple(found.shape), remedy)
        return (found.expand(n, *found.shape) if found.dim() == 3 else found).to(self.device)

    # -- learning -------------------------------------------------------------------------------------

    def _check_progress(self, n: int) -> None:
        self._progress.check(n, self.grid.knots.n, self.action_space.shape[0])

    def _step(self, env: VecEnv, callbacks: BaseCallback, varies: bool) -> bool:
        """Act once in every environment and store what came of it; False if a callback ends the training."""
        obs, starts, plan, random_plan = self._progress
        if self.fits:
            seconds = next_seconds(env) if varies else None
            # Without a deadline: what was learned would depend on how busy the machine was.
            rows = self._check_observation(np.asarray(obs, np.float32))
            actions, plan = self._act(rows, plan, starts, False, seconds, Deadline())
        else:
            actions, random_plan = self._random_actions(starts, random_plan)
        new_obs, rewards, dones, infos = env.step(actions)
        self._store(self._transitions(obs, actions, rewards, new_obs, dones, infos), infos)
        self._progress = Progress(np.asarray(new_obs), dones, plan, random_plan)
        self.num_timesteps += env.num_envs
        callbacks.update_locals({"rewards": rewards, "dones": dones, "infos": infos, "new_obs": new_obs})
        return callbacks.on_step()

    def _round_is_due(self) -> bool:
        since = len(self.buffer) - self.settings.warmup_steps
        every = max(self.settings.fit_every, round(self.settings.fit_growth * self.num_timesteps))
        return since >= 0 and (self.fits == 0 or self.num_timesteps - self._round_at >= every)

    def _round(self) -> bool:
        parts = [part for part in (self.model, self.value, self.policy) if part is not None]
        try:
            with undone_if_raised(parts, self.rng):
                self._fit_all()
        except Stopped:
            return False
        self.fits, self._round_at = self.fits + 1, self.num_timesteps
        self.planning.renew()
        self.logger.dump(self.num_timesteps)
        return True

    def _fit_all(self) -> None:
        """Fit the world model, and then what learns from it."""
        report = fit(self.model, self.buffer, self.settings.fit, self.rng, self.device, stop=self.stop_asked)
        for name, number in report.scalars().items():
            self.logger.record(f"model/{name}", number)
        if self.settings.value.applies(self.model.ends):
            rho = self.planning.rho
            self.logger.record("value/loss", self.value.fit(self.buffer, rho, self.dt, self.rng))
        if self.policy is not None:
            learned = self.policy.improve(self.model, self.buffer, self.rng, self.stop_asked)
            for name, number in learned.scalars().items():
                self.logger.record(f"policy/{name}", number)

    def _random_actions(
        self, starts: npt.NDArray[np.bool_], plan: Tensor | None
    ) -> tuple[npt.NDArray[Any], Tensor]:
        """Coloured random actions, drawn stretch by stretch; mirrored ones are drawn anew for an episode."""
        colour, mirrored = self.settings.warmup_exponent, self.settings.warmup_mirrored
        n_action = self.action_space.shape[0]
        noise, left = next_noise(plan, starts, n_action, self.interval, colour, self.rng, mirrored)
        return self._to_env(noise.clamp(-1, 1).numpy()), left

    # -- files ----------------------------------------------------------------------------------------

    def _parts(self) -> Checkpoint:
        meta = {
            "config": self.config,
            "num_timesteps": self.num_timesteps,
            "fits": self.fits,
            "fitted_at": self._round_at,
            "rng": self.rng.bit_generator.state,
            "fallbacks": self.fallbacks,
        }
        arrays = {
            "buffer": self.buffer.state(),
            "observation_space": box_arrays(self.observation_space),
            "action_space": box_arrays(self.action_space),
        }
        tensors = {"model": self.model.state_dict(), "value": self.value.state_dict()}
        if self.policy is not None:
            tensors["policy"] = self.policy.state_dict()
        plan = self._progress.plan
        if plan is not None:
            meta["plan"] = {"calls": plan.calls, "scored": plan.scored}
        return Checkpoint(self.name, tensors | self._progress.tensors(), arrays, meta, {})

    @classmethod
    def _from_parts(cls, parts: Checkpoint, device: str, known: Known) -> MPC:
        agent = cls._unbuilt(parts, device, known)
        config = parts.meta["config"]
        agent._build(build(MPCConfig, config["settings"]))
        load_exactly(agent.model, parts.tensors["model"], "the world model")
        load_exactly(agent.value, parts.tensors["value"], "the value")
        if agent.policy is not None:
            load_exactly(agent.policy, parts.tensors["policy"], "the policy")
        agent.buffer.restore(parts.arrays["buffer"])
        agent.num_timesteps, agent.fits = int(parts.meta["num_timesteps"]), int(parts.meta["fits"])
        agent._round_at = int(parts.meta["fitted_at"])
        agent.rng.bit_generator.state = parts.meta["rng"]
        agent.planning.fallbacks = int(parts.meta.get("fallbacks", 0))
        agent._progress = Progress.of(parts.tensors, parts.meta.get("plan"), agent.device)
        return agent
