"""Recorded episodes for the benchmarks of the world model: random actions, intervals drawn per step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

import ode_rl  # noqa: F401  registers the tasks
from ode_rl.buffer import ReplayBuffer
from ode_rl.envs.control_interval import ControlInterval
from ode_rl.types import Trajectory, Transition

Floats = npt.NDArray[np.float64]
LONGEST_EPISODE = 200
# Colour of the random actions: half of the episodes are white, half wander (an AR(1) of this memory, in s).
MEMORY = 0.3


@dataclass(frozen=True)
class World:
    """A task of the benchmarks and its shortest interval; `physics_dt` replaces the task's own physics step.

    Reacher has two physics steps per control interval: too few for intervals of many lengths, so that its
    physics runs in steps of a quarter, with eight of them per native interval.
    """

    env_id: str
    native_dt: float
    grain: float
    physics_dt: float | None = None

    def make(self) -> gymnasium.Env[Any, Any]:
        """The environment, with intervals that can be set step by step."""
        if self.physics_dt is None:
            return ControlInterval(gymnasium.make(self.env_id), dt=self.native_dt)
        n = round(self.native_dt / self.physics_dt)
        env = gymnasium.make(self.env_id, frame_skip=n)
        env.unwrapped.model.opt.timestep = self.physics_dt  # type: ignore[attr-defined]
        return ControlInterval(env, dt=self.native_dt)

    def exists(self, ratio: float) -> bool:
        """Whether an interval of `ratio` times native is a whole number of grains."""
        grains = ratio * self.native_dt / self.grain
        return grains > 0.99 and abs(grains - round(grains)) < 1e-6


WORLDS = {
    "pendulum": World("ode_rl/Pendulum-v0", 0.05, 0.05 / 1000),
    "inverted-double-pendulum": World("InvertedDoublePendulum-v5", 0.05, 0.01),
    "reacher": World("Reacher-v5", 0.02, 0.0025, physics_dt=0.0025),
    "swimmer": World("Swimmer-v5", 0.04, 0.01),
    "half-cheetah": World("HalfCheetah-v5", 0.05, 0.01),
    "inverted-pendulum": World("InvertedPendulum-v5", 0.04, 0.02),
    "hopper": World("Hopper-v5", 0.008, 0.002),
}


def record(world: World, n: int, ratios: float | tuple[float, float], seed: int) -> list[Trajectory]:
    """Episodes of `n` intervals in all; `ratios` is a multiple of native dt, or a log-uniform range of it.

    Actions in the trajectories are scaled to [-1, 1], as the replay buffer stores them.
    """
    rng = np.random.default_rng(seed)
    env = world.make()
    episodes: list[Trajectory] = []
    left = n
    while left > 0:
        wander = bool(rng.integers(2))
        episodes.append(_episode(env, world, min(left, LONGEST_EPISODE), ratios, wander, rng))
        left -= len(episodes[-1])
    env.close()
    return episodes


def _episode(
    env: gymnasium.Env[Any, Any],
    world: World,
    most: int,
    ratios: float | tuple[float, float],
    wander: bool,
    rng: np.random.Generator,
) -> Trajectory:
    set_interval = env.get_wrapper_attr("set_interval")
    low, high = env.action_space.low, env.action_space.high  # type: ignore[attr-defined]
    obs, _ = env.reset(seed=int(rng.integers(2**31)))
    seen, actions = [obs], list[Floats]()
    rewards, seconds = list[float](), list[float]()
    action, ended = rng.uniform(-1, 1, low.shape), False
    truncated = False
    while len(actions) < most and not (ended or truncated):
        dt = _interval(world, ratios, rng)
        set_interval(dt)
        if wander:
            keep = math.exp(-dt / MEMORY)
            action = np.clip(keep * action + math.sqrt(1 - keep**2) * rng.normal(size=low.shape), -1, 1)
        else:
            action = rng.uniform(-1, 1, low.shape)
        held = (low + 0.5 * (action + 1) * (high - low)).astype(np.float32)
        obs, reward, ended, truncated, info = env.step(held)
        if abs(info["dt"] - dt) > 1e-9:  # cut by the episode limit: a dt that was not asked for
            break
        seen.append(obs)
        actions.append(action)
        rewards.append(float(reward))
        seconds.append(float(info["dt"]))
    return Trajectory(
        np.asarray(seen, np.float64),
        np.asarray(actions),
        np.asarray(rewards),
        np.asarray(seconds, np.float64),
        bool(ended),
        not ended,
    )


def _interval(world: World, ratios: float | tuple[float, float], rng: np.random.Generator) -> float:
    if isinstance(ratios, tuple):
        lo, hi = (math.log(r * world.native_dt) for r in ratios)
        seconds = math.exp(rng.uniform(lo, hi))
        # The nearest whole number of grains inside the range.
        least, most = (
            math.ceil(math.exp(lo) / world.grain - 1e-9),
            math.floor(math.exp(hi) / world.grain + 1e-9),
        )
        return float(np.clip(round(seconds / world.grain), least, most)) * world.grain
    return ratios * world.native_dt


def buffer_of(episodes: Sequence[Trajectory]) -> ReplayBuffer:
    """A replay buffer that holds just these episodes."""
    n = sum(len(t) for t in episodes)
    buffer = ReplayBuffer(n, episodes[0].obs.shape[1], episodes[0].action.shape[1])
    for t in episodes:
        for k in range(len(t)):
            last = k == len(t) - 1
            buffer.add(
                Transition(
                    t.obs[k].astype(np.float32),
                    t.action[k].astype(np.float32),
                    float(t.reward[k]),
                    t.obs[k + 1].astype(np.float32),
                    float(t.dt[k]),
                    last and t.terminated,
                    last and not t.terminated,
                )
            )
    return buffer
