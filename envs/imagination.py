"""Imagined episodes: a batch of worlds, each with a member of the ensemble of its own, in one solve."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ode_rl.envs.learned_world import LearnedWorld
from ode_rl.errors import UsageError
from ode_rl.timing import positive_seconds

Float64 = npt.NDArray[np.float64]
Obs = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

STARTS = ("data", "episodes")
# Recorded transitions on which the disagreement is measured that all others are compared with.
N_MEASURED, USUAL = 2000, 0.99
# Shares of a second within which an episode has reached its end.
SLACK = 1e-9


@dataclass(frozen=True)
class ImaginationConfig:
    """How episodes are imagined."""

    dt: float | None = None
    """Seconds that an action is held, the native step of this world; None: as in the data."""
    max_seconds: float | None = None
    """Simulated seconds of an episode; None: those of the real task."""
    starts: str = "data"
    """Where episodes begin: data (at any recorded observation) or episodes (where recorded ones began)."""
    max_disagreement: float | None = 5.0
    """Truncate where two members differ about the next observation by more than this many times what 99 %
    of the recorded transitions stay below; None: never."""

    def __post_init__(self) -> None:
        for name in ("dt", "max_seconds", "max_disagreement"):
            if getattr(self, name) is not None:
                positive_seconds(getattr(self, name), name)
        if self.starts not in STARTS:
            raise UsageError(f"starts among {', '.join(STARTS)}", repr(self.starts), "Write starts='data'.")


class Worlds(NamedTuple):
    """Where N episodes stand: ``obs [N, O]``, the `member` of each ``[N]``, `seconds` since its start
    ``[N]``, and the hazard that it will still survive, `budget` ``[N]``."""

    obs: Obs
    member: Ints
    seconds: Float64
    budget: Float64


class Imagined(NamedTuple):
    """What one step brought: the worlds after it, ``reward``, ``terminated``, ``truncated``, the seconds
    ``dt`` that it lasted and the `disagreement` of the members, each ``[N]``."""

    worlds: Worlds
    reward: Float64
    terminated: Bools
    truncated: Bools
    dt: Float64
    disagreement: Float64


class _Solved(NamedTuple):
    """By a world's own member: ``after [N, O]``, ``reward`` and ``log_survival [N]``; and where another
    member sees it end, ``second_opinion [N, O]``."""

    after: Float64
    second_opinion: Float64
    reward: Float64
    log_survival: Float64


class Imagination:
    """The laws of a learned world, which has no state: worlds go in and come out.

    A world follows one member of the ensemble for a whole episode, so that its dynamics stay one possible
    truth; the next member gives a second opinion on every step. It ends when its accumulated hazard
    ``-log(survival)`` exceeds a budget that is drawn once from the exponential distribution: where a hazard
    is fitted, at the same time whatever the intervals are. Observations are projected onto the observation
    space: cosine and sine onto the unit circle, columns that never change onto their value, all onto the
    bounds. Rewards are integrals over the interval.

    Raises:
        UsageError: for settings that cannot be.
    """

    def __init__(self, world: LearnedWorld, config: ImaginationConfig) -> None:
        self.world, self.config = world, config
        self.dt = float(config.dt or world.interval)
        self.limit = float(config.max_seconds or world.limit)
        if not math.isfinite(self.limit):
            got = f"none known of {world.env_id or 'the task'}"
            raise UsageError("a limit of episodes in seconds", got, "Write max_seconds=10.0.")
        box = world.observation_space
        self.low, self.high = box.low, box.high
        pairs = world.spec.angle_pair if world.spec is not None else ()
        self._cos, self._sin = (np.array([pair[i] for pair in pairs], np.int64) for i in (0, 1))
        self._constant = np.array(world.spec.constant if world.spec is not None else (), np.int64)
        self._dtype, self._device = world.model.log_noise.dtype, world.model.log_noise.device
        self._starts = self._start_observations()
        self._unit, self._usual = self._measured()

    @property
    def n_members(self) -> int:
        return self.world.model.n_members

    def begin(self, generator: np.random.Generator) -> Worlds:
        """One world ``[1]`` at the start of an episode; always the same draws from `generator`."""
        at, member = generator.integers(len(self._starts)), generator.integers(self.n_members)
        budget = generator.standard_exponential()
        return Worlds(self._starts[[at]], np.array([member]), np.zeros(1), np.array([budget]))

    def step(self, worlds: Worlds, action: Float64, dt: Float64) -> Imagined:
        """Hold ``action [N, A]``, in the units of the task, for ``dt [N]`` seconds, at most to the limit."""
        left = self.limit - worlds.seconds
        dt = np.where((dt > left) & (left > SLACK), left, dt)
        found = self._solve(worlds.obs, self._scaled(action), dt, worlds.member)
        disagreement = _per_second(found.after - found.second_opinion, dt, self._unit) / self._usual
        lost = ~(np.isfinite(found.after).all(-1) & np.isfinite(found.reward))
        disagreement[lost] = np.inf
        obs = np.where(lost[:, None], worlds.obs, self.project(found.after, worlds.obs))
        budget = worlds.budget + found.log_survival
        terminated = ~lost & ~(budget > 0)
        seconds = worlds.seconds + dt
        most = self.config.max_disagreement or np.inf
        truncated = lost | (disagreement > most) | (seconds >= self.limit - SLACK)
        now = Worlds(obs, worlds.member, seconds, budget)
        return Imagined(now, np.where(lost, 0.0, found.reward), terminated, truncated, dt, disagreement)

    def project(self, obs: npt.ArrayLike, before: Obs) -> Obs:
        """The nearest observations ``[N, O]`` that the task could show, after those `before`."""
        found = np.array(obs, np.float64)
        if len(self._cos):
            size = np.hypot(found[:, self._cos], found[:, self._sin])
            found[:, self._cos] = np.where(size > 0, found[:, self._cos], 1.0)
            size = np.where(size > 0, size, 1.0)
            found[:, self._cos] /= size
            found[:, self._sin] /= size
        found[:, self._constant] = before[:, self._constant]
        shown: Obs = np.clip(found, self.low, self.high).astype(self.low.dtype)
        return shown

    def _scaled(self, action: Float64) -> Float64:
        low, high = self.world.action_space.low, self.world.action_space.high
        scaled: Float64 = 2 * (np.clip(action, low, high) - low) / (high - low) - 1
        return scaled

    @torch.inference_mode()
    def _solve(self, obs: Obs, action: npt.NDArray[Any], dt: Float64, member: Ints) -> _Solved:
        """Every world by its own member and by the next one, sorted by members, in one solve."""
        e, n = self.n_members, len(dt)
        members = np.concatenate([member, (member + 1) % e])
        count = np.bincount(members, minlength=e)
        order = np.argsort(members, kind="stable")
        slot = np.empty(2 * n, np.int64)
        slot[order] = np.arange(2 * n) - np.repeat(np.cumsum(count) - count, count)
        # Slots that are left over solve the first world once more.
        world_of = np.zeros((e, int(count.max())), np.int64)
        world_of[members, slot] = np.arange(2 * n) % n
        z, a, seconds = (
            torch.as_tensor(x[world_of], dtype=self._dtype, device=self._device) for x in (obs, action, dt)
        )
        found = self.world.model.step(z, a, seconds)
        own, other = (members[:n], slot[:n]), (members[n:], slot[n:])
        after = _numbers(found.z)
        survival = np.zeros(n) if found.log_survival is None else _numbers(found.log_survival)[own]
        reward = _numbers(torch.where(found.ok, found.reward, torch.nan))[own]
        return _Solved(after[own], after[other], reward, survival)

    def _measured(self) -> tuple[Float64, float]:
        """Spread of the recorded rates of change ``[O]``, and the disagreement that is usual there."""
        rows = self.world.buffer.serials()
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), N_MEASURED)).astype(np.int64)]
        data = self.world.buffer.arrays(rows)
        rate = (data.next_obs - data.obs).astype(np.float64) / data.dt[:, None]
        spread = rate.std(0)
        unit: Float64 = np.where(spread > 0, spread, np.inf)  # what never changes has no say
        found = self._solve(data.obs, data.action, data.dt, np.arange(len(rows)) % self.n_members)
        differ = _per_second(found.after - found.second_opinion, data.dt, unit)
        usual = float(np.quantile(differ, USUAL, method="lower"))  # which does not mix with infinities
        return unit, usual if 0 < usual < math.inf else 1.0

    def _start_observations(self) -> Obs:
        buffer = self.world.buffer
        rows = buffer.serials()
        if self.config.starts == "episodes":
            rows = np.setdiff1d(rows, buffer.following(rows))
        starts = buffer.arrays(rows).obs
        return self.project(starts, starts)


def _per_second(difference: Float64, dt: Float64, unit: Float64) -> Float64:
    """Root mean square over the columns of differences ``[N, O]`` per second, in units ``[O]``: ``[N]``."""
    with np.errstate(invalid="ignore", over="ignore"):
        found: Float64 = np.sqrt(np.square(difference / dt[:, None] / unit).mean(-1))
    return np.where(np.isfinite(found), found, np.inf)


def _numbers(x: Tensor) -> Float64:
    found: Float64 = x.cpu().numpy().astype(np.float64)
    return found
