"""Pieces of recorded episodes, side by side in padded arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ode_rl.buffer import Arrays
from ode_rl.errors import UsageError
from ode_rl.types import FloatArray, Trajectory

BoolArray = npt.NDArray[np.bool_]
# Seconds by which recorded times may miss a round number: sums of many intervals.
TIME_TOLERANCE = 1e-6


class Recorded(NamedTuple):
    """n pieces of episodes, padded to H intervals.

    Shapes: ``start [n, O]``, ``obs [n, H, O]`` at the ends of intervals, ``action [n, H, A]``, ``reward``,
    ``dt`` (seconds), ``terminated`` and ``mask`` ``[n, H]``; ``until [n]`` seconds from the start to the end
    of the episode, ``trajectory [n]`` its number.
    """

    start: FloatArray
    obs: FloatArray
    action: FloatArray
    reward: FloatArray
    dt: FloatArray
    terminated: BoolArray
    mask: BoolArray
    until: FloatArray
    trajectory: npt.NDArray[np.int64]

    def rows(self, some: slice) -> Recorded:
        """Some of the pieces."""
        return Recorded._make(x[some] for x in self)


def transitions(trajectories: Sequence[Trajectory]) -> Arrays:
    """All intervals of the episodes, one after the other."""
    ended = [np.arange(len(t)) == (len(t) - 1 if t.terminated else -1) for t in trajectories]
    return Arrays(
        np.concatenate([t.obs[:-1] for t in trajectories]),
        np.concatenate([t.action for t in trajectories]),
        np.concatenate([t.reward for t in trajectories]),
        np.concatenate([t.obs[1:] for t in trajectories]),
        np.concatenate([t.dt for t in trajectories]),
        np.concatenate(ended),
    )


def single_intervals(data: Arrays, trajectory: npt.NDArray[np.int64]) -> Recorded:
    """Every interval as a piece of its own; ``trajectory [n]`` numbers their episodes."""
    return Recorded(
        start=data.obs,
        obs=data.next_obs[:, None],
        action=data.action[:, None],
        reward=data.reward[:, None],
        dt=data.dt[:, None],
        terminated=data.terminated[:, None],
        mask=np.ones((len(data.dt), 1), np.bool_),
        until=data.dt,
        trajectory=trajectory,
    )


def even_starts(trajectory: Trajectory, horizon_s: float, n: int) -> list[int]:
    """Up to n numbers of intervals, evenly apart, from which an episode goes on for `horizon_s` seconds.

    The beginning of the episode where it is shorter than that.
    """
    times = trajectory.times
    latest = int(np.searchsorted(times, times[-1] - horizon_s + TIME_TOLERANCE, side="right")) - 1
    return sorted({round(x) for x in np.linspace(0, max(0, latest), n)})


def pieces(
    trajectories: Sequence[Trajectory], starts: Sequence[Sequence[int]], horizon_s: float, native_dt: float
) -> Recorded:
    """The pieces of at most `horizon_s` seconds that begin with the intervals ``starts[i]`` of episode i.

    Padding repeats the last observation, holds the action 0 and lasts `native_dt`.

    Raises:
        UsageError: for a start that is no interval of its episode, or no interval within the horizon.
    """
    found = _within(trajectories, starts, horizon_s)
    n, most = len(found), max(length for _, _, length in found)
    n_obs, n_action = trajectories[0].obs.shape[-1], trajectories[0].action.shape[-1]
    into = Recorded(
        start=np.zeros((n, n_obs)),
        obs=np.zeros((n, most, n_obs)),
        action=np.zeros((n, most, n_action)),
        reward=np.zeros((n, most)),
        dt=np.full((n, most), native_dt),
        terminated=np.zeros((n, most), np.bool_),
        mask=np.zeros((n, most), np.bool_),
        until=np.zeros(n),
        trajectory=np.array([i for i, _, _ in found], np.int64),
    )
    for row, (i, first, length) in enumerate(found):
        episode, last = trajectories[i], first + length
        into.start[row] = episode.obs[first]
        into.obs[row, :length] = episode.obs[first + 1 : last + 1]
        into.obs[row, length:] = episode.obs[last]
        into.action[row, :length] = episode.action[first:last]
        into.reward[row, :length] = episode.reward[first:last]
        into.dt[row, :length] = episode.dt[first:last]
        into.terminated[row, length - 1] = length > 0 and last == len(episode) and episode.terminated
        into.mask[row, :length] = True
        into.until[row] = episode.dt[first:].sum()
    return into


def _within(
    trajectories: Sequence[Trajectory], starts: Sequence[Sequence[int]], horizon_s: float
) -> list[tuple[int, int, int]]:
    """(episode, first interval, number of intervals within the horizon) of every start."""
    if len(starts) != len(trajectories):
        want = f"starts of {len(trajectories)} episodes"
        raise UsageError(want, len(starts), "Give starts=[[0], ...], one list for each episode.")
    found = []
    for i, (trajectory, own) in enumerate(zip(trajectories, starts, strict=True)):
        for first in own:
            if not 0 <= first < len(trajectory):
                remedy = f"Episode {i} has intervals 0 to {len(trajectory) - 1}."
                raise UsageError("starts within their episode", first, remedy)
            elapsed = np.cumsum(trajectory.dt[first:])
            found.append((i, int(first), int((elapsed <= horizon_s + TIME_TOLERANCE).sum())))
    if not any(length for _, _, length in found):
        got = f"none in {horizon_s:g} s"
        raise UsageError("an interval within the horizon", got, "Give a longer horizon_s.")
    return found
