"""Fresh episodes of a task that no training has seen, at its native interval and at others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ode_rl.envs.control_interval import ControlInterval
from ode_rl.envs.task import make_task
from ode_rl.envs.task_timing import Timing, next_interval
from ode_rl.envs.time_grid import TimeGrid
from ode_rl.envs.time_wrapper import Env, find
from ode_rl.errors import UsageError
from ode_rl.evaluate import asks_interval
from ode_rl.types import Agent, FloatArray, Trajectory

# Observations ``[n, O]`` to actions ``[n, A]`` in the units of the task, step by step.
Policy = Callable[[FloatArray], npt.NDArray[Any]]
# Episodes are cut after so many seconds, and no earlier than after so many intervals.
MOST_SECONDS, LEAST_INTERVALS = 4.0, 200


class HeldOutTask:
    """Records episodes of a task; actions of the trajectories are scaled to [-1, 1].

    Used as a context, which closes the environments.
    """

    def __init__(self, env_id: str, timing: Timing = None) -> None:
        self._make = lambda: _with_intervals(make_task(env_id, timing))
        self._envs = [self._make()]

    def __enter__(self) -> HeldOutTask:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for env in self._envs:
            env.close()

    @property
    def _grid(self) -> TimeGrid:
        grid: TimeGrid = self._envs[0].get_wrapper_attr("grid")
        return grid

    def intervals(self) -> npt.NDArray[np.float64]:
        """Seconds ``[n]`` of the next step of each environment that is recorded."""
        return np.array([next_interval(env) for env in self._envs], np.float64)

    @property
    def native(self) -> float:
        """Seconds of a step of the task as it was made."""
        return self._grid.native

    @property
    def intervals_per_episode(self) -> int:
        """At most so many native intervals of an episode are recorded."""
        return max(LEAST_INTERVALS, round(MOST_SECONDS / self.native))

    @property
    def width(self) -> int:
        """Width of the observations."""
        return int(self._envs[0].observation_space.shape[0])  # type: ignore[index]

    def nearest_dt(self, ratio: float) -> float:
        """The interval in seconds that the task can take nearest to `ratio` times the native one.

        Raises:
            UsageError: if that is less than one substep.
        """
        grid = self._grid
        if grid.unit is not None and ratio * grid.native < grid.unit * (1 - 1e-6):
            raise UsageError(
                f"a ratio of at least {grid.unit / grid.native:g}, one of the {grid.noun} of {grid.unit:g} s",
                f"{ratio:g}",
                "Leave it out.",
            )
        return grid.seconds(grid.nearest(ratio * grid.native, at_least=1))

    def record(self, policy: Policy, seeds: Sequence[int]) -> list[Trajectory]:
        """One episode from each seed, timed as the task is, all stepped together."""
        while len(self._envs) < len(seeds):
            self._envs.append(self._make())
        log = [_Log(env, seed) for env, seed in zip(self._envs, seeds, strict=False)]
        for _ in range(self.intervals_per_episode):
            actions = policy(np.stack([each.obs[-1] for each in log]))
            for each, action in zip(log, actions, strict=True):
                each.step(action)
            if all(each.over for each in log):
                break
        return [each.trajectory() for each in log]

    def replay(self, episode: Trajectory, seed: int, dt: float) -> Trajectory:
        """The episode that began with `seed` again, its actions at their times, in intervals of `dt`.

        An interval longer than the native one holds the action of its beginning. Where physics is
        deterministic and `dt` shorter, the same states are passed.
        """
        log = _Log(self._envs[0], seed, dt)
        actions = log.unscaled(episode.action)
        changes = episode.times[1:]
        for k in range(int(changes[-1] / dt + 1e-6)):
            log.step(actions[int(np.searchsorted(changes, k * dt + 1e-9, side="right"))])
            if log.over:
                break
        return log.trajectory()

    def random_policy(self, seed: int) -> Policy:
        """Uniform random actions."""
        space, rng = self._envs[0].action_space, np.random.default_rng(seed)
        return lambda obs: rng.uniform(space.low, space.high, (len(obs), *space.shape))  # type: ignore[attr-defined,misc]


def _with_intervals(env: Env) -> Env:
    return env if find(env, ControlInterval) is not None else ControlInterval(env)


def agent_policy(agent: Agent, intervals: Callable[[], npt.NDArray[np.float64]] | None = None) -> Policy:
    """The agent as it acts in training, with its exploration noise.

    One whose `predict` takes ``dt`` is told the next `intervals`.
    """
    asks = intervals is not None and asks_interval(agent)
    state: Any = None
    begun = False

    def act(obs: FloatArray) -> npt.NDArray[Any]:
        nonlocal state, begun
        start = np.full(len(obs), not begun)
        told = {"dt": intervals()[: len(obs)]} if asks and intervals is not None else {}
        actions, state = agent.predict(obs, state, start, deterministic=False, **told)
        begun = True
        return np.asarray(actions)

    return act


class _Log:
    """One episode as it happens."""

    def __init__(self, env: Env, seed: int, dt: float | None = None) -> None:
        self.env, self.over, self.terminated = env, False, False
        first, _ = env.reset(seed=seed, options=None if dt is None else {"dt": dt})
        self.obs = [np.array(first, np.float64)]
        self.action: list[npt.NDArray[Any]] = []
        self.reward: list[float] = []
        self.dt: list[float] = []
        low, high = env.action_space.low, env.action_space.high  # type: ignore[attr-defined]
        self.middle, self.half = (high + low) / 2.0, (high - low) / 2.0

    def unscaled(self, action: FloatArray) -> FloatArray:
        found: FloatArray = self.middle + self.half * action
        return found

    def step(self, action: npt.NDArray[Any]) -> None:
        if self.over:
            return
        space = self.env.action_space
        held = np.clip(action, space.low, space.high).astype(space.dtype)  # type: ignore[attr-defined]
        after, reward, terminated, truncated, info = self.env.step(held)
        self.obs.append(np.array(after, np.float64))
        self.action.append((held - self.middle) / self.half)
        self.reward.append(float(reward))
        self.dt.append(float(info["dt"]))
        self.terminated, self.over = bool(terminated), bool(terminated or truncated)

    def trajectory(self) -> Trajectory:
        return Trajectory(
            np.stack(self.obs),
            np.reshape(self.action, (len(self.action), len(self.half))),
            np.array(self.reward),
            np.array(self.dt),
            self.terminated,
            not self.terminated,
        )
