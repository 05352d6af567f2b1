"""Model-predictive control on the task itself: what planning earns when the model is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ode_rl.agents.noise_stream import noise_of_call
from ode_rl.agents.plan_grid import PlanGrid, unique_seconds
from ode_rl.agents.planners import Deadline, PlannerConfig, Warm, cold_start, renewed, search
from ode_rl.agents.presets import load_preset
from ode_rl.errors import UsageError
from ode_rl.returns import discount_rate
from ode_rl.settings import build, merged
from ode_rl.types import Simulator


@dataclass(frozen=True)
class TrueMPCConfig:
    """How plans are made where the true dynamics are known."""

    horizon: float | None = None
    """Length of a plan in seconds; None means 12 control intervals."""
    gamma: float = 0.99
    """Discount per native step."""
    knots: str = "held"
    """The curve of a plan through its knots: held, linear or cubic."""
    n_knots: int | None = None
    """Knots per plan; None means one per control interval."""
    growth: float = 1.0
    """Factor by which intervals get longer along the horizon; 1 keeps them as they are."""
    coast: float = 0.0
    """Seconds that every plan goes on behind its horizon with the middle action: of plans that end alike
    it prefers those that leave the task where it does well by itself (a pole near its balance)."""
    action_cost: float = 0.001
    """Weight of the squared change of the action, in shares of the typical reward of the plans at hand."""
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    """How plans are searched."""

    def __post_init__(self) -> None:
        discount_rate(self.gamma, native_dt=1.0)  # refuses what is no discount
        if self.planner.method == "gradient":
            remedy = "Write --planner icem."
            raise UsageError("a planner that needs no gradient of the true task", "'gradient'", remedy)


class TrueState(NamedTuple):
    """The plans, and the number of the call for its noise."""

    warm: Warm
    calls: int


class TrueMPC:
    """Plans in the true task, from its full physical state: the upper bound of every learned model.

    Nothing is trained. `simulator` is a ``TrueDynamics`` of the task, `low` and `high` ``[A]`` the bounds of
    its actions. The agent has to see the environments it acts in (`watch`): observations do not tell all.
    `preset` and `settings` are as in `MPC`; `interval` is the nominal control interval in seconds, where it
    is not the task's native step.

    Raises:
        UsageError: for an unknown preset or setting, or the gradient planner.
    """

    name = "mpc"

    def __init__(
        self,
        simulator: Simulator,
        env_id: str,
        low: npt.ArrayLike,
        high: npt.ArrayLike,
        preset: str | None = "auto",
        seed: int = 0,
        interval: float | None = None,
        **settings: Any,
    ) -> None:
        self.simulator, self.env_id, self.seed = simulator, env_id, seed
        self.low, self.high = np.asarray(low), np.asarray(high)
        self.preset, tuned = load_preset("mpc-true", env_id, preset)
        self.settings = build(TrueMPCConfig, merged(tuned, settings))
        s = self.settings
        self.dt = simulator.native_dt
        plan = (s.horizon, s.knots, s.n_knots, s.growth, s.coast)
        self.grid = PlanGrid.of(interval or self.dt, *plan)
        self.rho = discount_rate(s.gamma, self.dt)
        self.envs: Sequence[Any] = ()

    def watch(self, envs: Sequence[Any]) -> None:
        """Act in these environments from now on: row i of an observation is that of ``envs[i]``."""
        self.envs = envs

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        dt: Any = None,
    ) -> tuple[npt.NDArray[Any], Any]:
        """Plan from the state of each watched environment; arguments as in `MPC.predict`.

        Where `dt` differs among the robots, those with the same are planned for together.

        Raises:
            UsageError: if fewer environments are watched than there are observations.
        """
        obs = np.asarray(observation)
        n = 1 if obs.ndim == 1 else len(obs)
        if len(self.envs) < n:
            raise UsageError(f"{n} environments to look at", len(self.envs), "Call agent.watch(envs) first.")
        deadline = Deadline.after(self.settings.planner.budget_ms)
        warm, calls = self._start(n, state, episode_start)
        states = np.stack([self.simulator.snapshot(env) for env in self.envs[:n]])
        noise = noise_of_call(self.seed, calls)
        first, mean, elites = torch.empty(n, len(self.low)), warm.mean.clone(), warm.elites.clone()
        for seconds, own in unique_seconds(dt, n, self.grid.dt):
            part = Warm(warm.mean[own], warm.elites[own])
            first[own], after = self._plan(states[own.numpy()], part, seconds, noise, deadline)
            mean[own], elites[own] = after
        action = self._in_units(first.numpy())
        return (action[0] if obs.ndim == 1 else action), TrueState(Warm(mean, elites), calls + 1)

    def _plan(
        self,
        states: npt.NDArray[Any],
        warm: Warm,
        seconds: float,
        noise: torch.Generator,
        deadline: Deadline,
    ) -> tuple[Tensor, Warm]:
        """First actions ``[B, A]`` in [-1, 1], held for `seconds`, and the warm start after them."""
        intervals = self.grid.intervals(seconds)
        actions = self.grid.spread_out(intervals, warm.mean)
        found = search(
            lambda plans: self._scores(states, actions(plans), np.array(intervals), deadline),
            warm,
            self.settings.planner,
            noise,
            deadline=deadline,
        )
        return actions(found.plan)[:, 0], self.grid.shifted(found.warm, seconds)

    def _scores(
        self, states: npt.NDArray[Any], plans: Tensor, dt: npt.NDArray[np.float64], deadline: Deadline
    ) -> Tensor:
        """``sum_k exp(-rho t_k) r_k`` until the task ends, less the cost of changing actions: ``[B, N]``."""
        deadline.check()
        outcome = self.simulator.rollout(states, self._in_units(plans.numpy()), dt)
        over = np.cumsum(outcome.terminated, -1)
        # An interval pays if the task had not ended before it.
        paid = np.where(over - outcome.terminated > 0, 0.0, outcome.reward)
        begins = np.concatenate([[0.0], np.cumsum(dt)[:-1]])
        score = paid @ np.exp(-self.rho * begins)
        if self.settings.action_cost:
            # For each robot: what one does must not depend on who else is there.
            rate = np.abs(paid / dt)
            unit = np.where(np.isfinite(rate), rate, 0.0).mean((1, 2))[:, None]
            change = np.square(np.diff(plans.numpy(), axis=2)).mean(-1) @ dt[1:]
            score = score - self.settings.action_cost * unit * change
        return torch.from_numpy(score).float()

    def _in_units(self, scaled: npt.NDArray[Any]) -> npt.NDArray[Any]:
        action = self.low + 0.5 * (scaled + 1) * (self.high - self.low)
        clipped: npt.NDArray[Any] = np.clip(action, self.low, self.high).astype(self.low.dtype)
        return clipped

    def _start(self, n: int, state: Any, episode_start: Any) -> tuple[Warm, int]:
        shape = (n, self.grid.knots.n, len(self.low))
        if not isinstance(state, TrueState) or tuple(state.warm.mean.shape) != shape:
            return cold_start(shape, self.settings.planner, noise_of_call(self.seed, -1)), 0
        warm, calls = state
        if episode_start is None or not np.any(episode_start):
            return warm, calls
        fresh = cold_start(shape, self.settings.planner, noise_of_call(self.seed, calls, 1))
        return renewed(warm, fresh, episode_start), calls
