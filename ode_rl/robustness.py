"""How much of what an agent earns is left in conditions that it was not trained in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ode_rl.conditions import TABLE, Condition, Setup, noise, plan_sweep, same_as_trained
from ode_rl.envs.task import make_task
from ode_rl.envs.task_timing import Disturb, TaskTiming, Timing
from ode_rl.evaluate import EVALUATION_SEED, Evaluation, evaluate_agent
from ode_rl.statistics import bootstrap_interval
from ode_rl.types import Agent

SCHEMA = 1
EPISODES = 30

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """One condition: what the agent earns in it, and what random actions earn from the same starts."""

    label: str
    value: float | None
    evaluation: Evaluation
    random_mean_return: float
    random_return_per_second: float | None
    share_kept: float | None
    """``(G - G_random) / (G_trained - G_random)``; None where the trained agent is no better than chance."""
    share_interval: tuple[float, float] | None
    """95 % interval of the same; start seeds are drawn together for all three."""


@dataclass(frozen=True)
class LeftOut:
    """A condition that the task cannot take, and why."""

    label: str
    why: str


@dataclass
class SweepResult:
    """A sweep as far as it has come."""

    sweep: str
    env_id: str
    agent: str
    seed: int
    n_episodes: int
    native_dt: float
    reference: Evaluation
    """In the conditions of the training."""
    rows: list[Row] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The sweep as JSON values."""
        return {"schema": SCHEMA, "axis": TABLE[self.sweep].axis, **asdict(self)}


Step = Callable[[SweepResult, Row | LeftOut], None]


class RandomActions:
    """Uniform random actions; it remembers how far the observations spread that it saw."""

    def __init__(self, space: Any, seed: int) -> None:
        self.action_space = space
        self._rng = np.random.default_rng(seed)
        self._n = 0
        self._sum: Any = 0.0
        self._squares: Any = 0.0

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[npt.NDArray[Any], Any]:
        """Draw an action for each row of ``observation [n, O]``."""
        obs = np.asarray(observation, np.float64)
        self._n += len(obs)
        self._sum, self._squares = self._sum + obs.sum(0), self._squares + (obs**2).sum(0)
        low, high = self.action_space.low, self.action_space.high
        actions = self._rng.uniform(low, high, (len(obs), *low.shape))
        return actions.astype(self.action_space.dtype), state

    @property
    def spread(self) -> Floats:
        """Standard deviation ``[O]`` of the observations seen."""
        mean = self._sum / self._n
        spread: Floats = np.sqrt(np.maximum(self._squares / self._n - mean**2, 0.0))
        return spread


class Robustness:
    """Evaluates one agent in many conditions, all from the same start seeds.

    The agent keeps seeing what it was trained to see: a delay that is new to it is not shown to it.

    Raises:
        UsageError: for an unknown sweep, or one that the task cannot do, before anything is evaluated.
    """

    def __init__(
        self,
        agent: Agent,
        env_id: str,
        sweeps: Sequence[str],
        n_episodes: int = EPISODES,
        seed: int = EVALUATION_SEED,
        timing: Timing = None,
        agent_name: str | None = None,
    ) -> None:
        shown = TaskTiming.of(timing)
        history, aware = shown.history or 0, bool(shown.time_aware)
        self.setup = Setup.of(env_id, replace(shown, history=history, time_aware=aware))
        self.agent, self.name = agent, agent_name or type(agent).__name__
        self.n_episodes, self.seed = n_episodes, seed
        self._plans = {name: plan_sweep(name, self.setup) for name in sweeps}
        self._reference: Evaluation | None = None
        self._random: tuple[Evaluation, Floats] | None = None

    @property
    def reference(self) -> Evaluation:
        """The agent in the conditions of its training."""
        if self._reference is None:
            self._reference = self._evaluate(self.agent, self.setup.timing, None)
        return self._reference

    def run(self, sweep: str, on_step: Step | None = None) -> SweepResult:
        """Go through the conditions of a sweep; `on_step` sees each, and all that is there after it."""
        about = (self.setup.env_id, self.name, self.seed, self.n_episodes, self.setup.grid.native)
        result = SweepResult(sweep, *about, self.reference)
        for condition in self._plans[sweep]:
            step: Row | LeftOut
            if condition.why_not is not None:
                result.left_out.append(step := LeftOut(condition.label, condition.why_not))
            else:
                result.rows.append(step := self._row(condition))
            if on_step is not None:
                on_step(result, step)
        return result

    def _row(self, condition: Condition) -> Row:
        disturb = self._with_spread(condition.disturb)
        if same_as_trained(condition, self.setup):
            evaluation, random = self.reference, self._random_as_trained()[0]
        else:
            evaluation = self._evaluate(self.agent, condition.timing, disturb)
            random = self._act_randomly(condition.timing, disturb)[0]
        share, interval = share_kept(evaluation, random, self.reference)
        return Row(
            condition.label,
            condition.value,
            evaluation,
            random.mean_return,
            random.return_per_second,
            share,
            interval,
        )

    def _with_spread(self, disturb: Disturb | None) -> Disturb | None:
        if isinstance(disturb, partial) and disturb.func is noise:
            return partial(disturb, spread=self._random_as_trained()[1])
        return disturb

    def _random_as_trained(self) -> tuple[Evaluation, Floats]:
        if self._random is None:
            self._random = self._act_randomly(self.setup.timing, None)
        return self._random

    def _act_randomly(self, timing: TaskTiming, disturb: Disturb | None) -> tuple[Evaluation, Floats]:
        env = make_task(self.setup.env_id, timing)
        env.close()
        agent = RandomActions(env.action_space, self.seed)
        return self._evaluate(agent, timing, disturb), agent.spread

    def _evaluate(self, agent: Agent, timing: TaskTiming, disturb: Disturb | None) -> Evaluation:
        return evaluate_agent(
            agent,
            self.setup.env_id,
            self.n_episodes,
            self.seed,
            timing=timing,
            agent_name=self.name if agent is self.agent else "random",
            disturb=disturb,
        )


def share_kept(
    evaluation: Evaluation, random: Evaluation, reference: Evaluation
) -> tuple[float | None, tuple[float, float] | None]:
    """``(G - G_random) / (G_reference - G_random)`` with its 95 % interval, all from the same start seeds."""
    own, chance, best = (np.array(e.returns, np.float64) for e in (evaluation, random, reference))

    def share(rows: list[Any]) -> Floats:
        index = rows[0].astype(int)
        g, r, b = own[index].mean(-1), chance[index].mean(-1), best[index].mean(-1)
        found: Floats = np.divide(g - r, b - r, out=np.full_like(g, np.nan), where=b > r)
        return found

    everything = np.arange(len(own))
    mean = float(share([everything[None]])[0])
    if math.isnan(mean):
        return None, None
    interval = bootstrap_interval([everything], share)
    if interval is None or np.isnan(interval).any():
        return mean, None
    return mean, (float(interval[0]), float(interval[1]))
