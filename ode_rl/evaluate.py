"""Evaluation: the returns of anything that acts, each episode from a start seed of its own."""

from __future__ import annotations

import inspect
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium
import numpy as np

from ode_rl.envs.guarded import Guarded
from ode_rl.envs.task import make_task
from ode_rl.envs.task_timing import Disturb, TaskTiming, Timing, next_interval
from ode_rl.errors import UsageError
from ode_rl.statistics import bootstrap_interval, interquartile_mean, wilson_interval
from ode_rl.tally import Tally, action_shares
from ode_rl.timing import native_dt
from ode_rl.types import Agent

SCHEMA = 1
# Far from the seeds of trainings, so that agents are not tested on starts that they have seen.
EVALUATION_SEED = 1_000_000
MAX_ENVS = 10
TIMED_DECISIONS = 50
MAX_STEPS = 10_000

Env = gymnasium.Env[Any, Any]


@dataclass(frozen=True)
class Evaluation:
    """Episode i started from seed ``seed + i``; the lists have one value per episode."""

    env_id: str
    agent: str
    seed: int
    n_episodes: int
    mean_return: float
    std_return: float
    returns: list[float]
    lengths: list[int]
    """Steps."""
    seconds: list[float]
    """Simulated seconds."""
    ms_per_decision: float
    """Median real time of one `predict` for one observation."""
    ms_per_decision_p99: float
    """99th percentile of the same."""
    return_per_second: float | None = None
    """Mean return over the seconds of a whole episode: falling costs. None for a task without a limit."""
    interquartile_mean: float = math.nan
    """Mean of the middle half of the returns."""
    interquartile_interval: tuple[float, float] | None = None
    """95 % bootstrap interval of the same over start seeds; None for one episode."""
    success_rate: float | None = None
    """Share of successful episodes; None for a task that does not say it (``info["is_success"]``)."""
    success_interval: tuple[float, float] | None = None
    """95 % interval of the same, by Wilson's score."""
    mean_length: float = math.nan
    """Mean steps of an episode."""
    mean_seconds: float = math.nan
    """Mean simulated seconds of an episode."""
    decisions_per_second: float = math.nan
    """Decisions per second of real time: ``1000 / ms_per_decision``."""
    action_fluctuation: float = math.nan
    """Mean over episodes of ``1/(T-1) sum_t |a_t - a_{t-1}|``, in shares of the largest action."""
    action_energy: float = math.nan
    """Mean over episodes of ``sum_t |a_t|^2 dt_t`` in the same shares, in seconds."""

    def to_json(self) -> dict[str, Any]:
        """Return what ``evaluation.json`` holds."""
        return {"schema": SCHEMA, **asdict(self)}


@runtime_checkable
class Watcher(Protocol):
    """An agent that has to see the environments themselves: observations do not tell it all."""

    def watch(self, envs: Sequence[Any]) -> None: ...


class _Record(NamedTuple):
    episodes: list[Tally]
    observations: list[Any]
    intervals: list[dict[str, Any]]
    """What the agent was told of the intervals after `observations`."""


def evaluate_agent(
    agent: Agent,
    env: str | Env,
    n_episodes: int = 10,
    seed: int = EVALUATION_SEED,
    deterministic: bool = True,
    timing: Timing = None,
    n_envs: int | None = None,
    agent_name: str | None = None,
    disturb: Disturb | None = None,
    step_timeout: float | None = None,
) -> Evaluation:
    """Let an agent act for `n_episodes` episodes, episode i reset with ``seed + i``, each counted once.

    The id of a task is made `n_envs` times (default: one per episode, at most 10); these are stepped
    together and the agent sees a batch ``[n, O]``. An environment object is used alone. `timing` is how the
    task is timed, as in `make_task`; an agent whose `predict` takes ``dt`` is told how long the next interval
    of each environment is. `disturb` wraps every environment that is made, for conditions that the agent was
    not trained in. A task that fails, or takes more than `step_timeout` seconds for a step, is named.

    Raises:
        UsageError: for fewer than one episode, an unknown task, one that fails, or actions of a wrong shape.
    """
    if n_episodes < 1:
        raise UsageError("at least one episode", n_episodes, "Write --episodes 10.")
    n = min(n_episodes, n_envs or MAX_ENVS) if isinstance(env, str) else 1
    made = [make_task(env, timing, disturb=disturb) for _ in range(n)] if isinstance(env, str) else []
    envs: list[Env] = [Guarded(each, timeout=step_timeout, leaps=False) for each in made] or [env]  # type: ignore[list-item]
    try:
        _check_same_spaces(agent, envs[0])
        if isinstance(agent, Watcher):
            agent.watch(envs)
        native = native_dt(envs[0], TaskTiming.of(timing).dt)
        record = _run_episodes(agent, envs, n_episodes, seed, deterministic, native)
        times = _decision_ms(agent, record, deterministic)
        spec = envs[0].spec
        whole = (spec.max_episode_steps or math.inf) * native if spec else math.inf
    finally:
        for each in made:
            each.close()
    about = (env if isinstance(env, str) else spec.id if spec else str(env.unwrapped), seed, whole)
    return _evaluation(record.episodes, times, agent_name or type(agent).__name__, *about)


def _evaluation(
    episodes: list[Tally], times: list[float], agent: str, env_id: str, seed: int, whole: float
) -> Evaluation:
    """Statistics of episodes that may last `whole` seconds each, and of the milliseconds of decisions."""
    returns = [each.episode_return for each in episodes]
    interval = bootstrap_interval([returns])
    successes = [each.success for each in episodes if each.success is not None]
    n, median = len(successes), float(np.median(times))
    return Evaluation(
        env_id=env_id,
        agent=agent,
        seed=seed,
        n_episodes=len(episodes),
        mean_return=float(np.mean(returns)),
        std_return=float(np.std(returns)),
        returns=returns,
        lengths=[each.length for each in episodes],
        seconds=[round(each.seconds, 9) for each in episodes],
        ms_per_decision=median,
        ms_per_decision_p99=float(np.percentile(times, 99)),
        return_per_second=float(np.mean(returns)) / whole if math.isfinite(whole) else None,
        interquartile_mean=float(interquartile_mean(returns)),
        interquartile_interval=None if interval is None else (float(interval[0]), float(interval[1])),
        success_rate=sum(successes) / n if n else None,
        success_interval=wilson_interval(sum(successes), n) if n else None,
        mean_length=float(np.mean([each.length for each in episodes])),
        mean_seconds=float(np.mean([each.seconds for each in episodes])),
        decisions_per_second=1e3 / median,
        action_fluctuation=float(np.mean([each.fluctuation for each in episodes])),
        action_energy=float(np.mean([each.energy for each in episodes])),
    )


def _run_episodes(
    agent: Agent, envs: list[Env], n_episodes: int, seed: int, deterministic: bool, dt: float
) -> _Record:
    """Step all environments together; one that finishes takes the next episode, or waits for the others."""
    n, limit = len(envs), _longest_episode(envs[0])
    record = _Record([Tally() for _ in range(n_episodes)], [], [])
    space: Any = envs[0].action_space
    asks = asks_interval(agent)
    obs = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(envs)])
    episode = dict(enumerate(range(n)))  # environment -> the episode it is in; one that waits is left out
    upcoming = deque(range(n, n_episodes))
    state, starts = None, np.ones(n, bool)
    while episode:
        if len(record.observations) <= TIMED_DECISIONS:
            record.observations.append(obs[:1].copy())
            record.intervals.append(told_interval(asks, envs[:1]))
        actions, state = agent.predict(obs, state, starts, deterministic, **told_interval(asks, envs))
        actions = _as_batch(actions, envs)
        shares = action_shares(actions, space.low, space.high).reshape(n, -1)
        starts = np.zeros(n, bool)
        for i, k in list(episode.items()):
            obs[i], reward, terminated, truncated, info = envs[i].step(actions[i])
            tally = record.episodes[k]
            tally.add(shares[i], float(reward), float(info.get("dt", dt)), info)
            if terminated or truncated:
                starts[i] = True
                del episode[i]
                if upcoming:
                    episode[i] = upcoming.popleft()
                    obs[i] = envs[i].reset(seed=seed + episode[i])[0]
            elif tally.length >= limit:
                remedy = "Register the task with max_episode_steps=1000, or end its episodes in step()."
                raise UsageError("episodes that end", f"{limit} steps without an end", remedy)
    return record


def _longest_episode(env: Env) -> float:
    """Steps after which an episode without a time limit is taken to be endless."""
    has_limit = env.spec is not None and env.spec.max_episode_steps is not None
    return math.inf if has_limit else MAX_STEPS


def _as_batch(actions: Any, envs: list[Env]) -> Any:
    shape = (len(envs), *(envs[0].action_space.shape or ()))
    batch = np.asarray(actions)
    if batch.size != np.prod(shape):
        raise UsageError(
            f"actions of shape {shape}, one per observation",
            f"shape {batch.shape}",
            "Let predict() act on a batch of observations [n, O].",
        )
    return batch.reshape(shape)


def asks_interval(agent: Agent) -> bool:
    """Whether the agent wants to know how long its action will be held: its `predict` takes ``dt``."""
    return "dt" in inspect.signature(agent.predict).parameters


def told_interval(asks: bool, envs: Sequence[Env]) -> dict[str, Any]:
    """The argument ``dt [n]`` of `predict` in seconds, for an agent that asks and tasks that know it."""
    seconds = [next_interval(env) for env in envs] if asks else [None]
    return {} if None in seconds else {"dt": np.array(seconds, np.float64)}


def _decision_ms(agent: Agent, record: _Record, deterministic: bool) -> list[float]:
    """Milliseconds of `predict` on single observations, without the first, which only warms up."""
    state, start, times = None, np.ones(1, bool), []
    for obs, told in zip(record.observations, record.intervals, strict=True):
        began = time.perf_counter()
        _, state = agent.predict(obs, state, start, deterministic, **told)
        times.append(1e3 * (time.perf_counter() - began))
        start = np.zeros(1, bool)
    return times[1:] or times


def _check_same_spaces(agent: Agent, env: Env) -> None:
    for name in ("observation_space", "action_space"):
        mine, theirs = getattr(agent, name, None), getattr(env, name)
        if mine is not None and mine.shape != theirs.shape:
            raise UsageError(
                f"a task with the {name.replace('_', ' ')} of the agent, {mine}",
                theirs,
                "Choose the task that it was trained on with --env ENV_ID, timed as it was.",
            )
