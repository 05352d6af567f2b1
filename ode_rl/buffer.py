"""Replay of transitions that each carry their own duration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ode_rl.errors import UsageError
from ode_rl.types import FloatArray, Segment, Trajectory, Transition

IntArray = npt.NDArray[np.int64]
NO_SUCCESSOR = -1
ROWS = ("obs", "action", "reward", "next_obs", "dt", "terminated", "successor")


class Arrays(NamedTuple):
    """All stored transitions, oldest first: ``obs, next_obs [n, O]``, ``action [n, A]``, the rest ``[n]``."""

    obs: FloatArray
    action: FloatArray
    reward: FloatArray
    next_obs: FloatArray
    dt: npt.NDArray[np.float64]
    terminated: npt.NDArray[np.bool_]


class ReplayBuffer:
    """A ring of transitions with links from each to the next of its episode.

    Transitions of several environments may come interleaved: `env` tells them apart, and the links, not
    the order, say what follows what. Observations and actions are float32, durations float64 seconds.

    Raises:
        UsageError: when a transition holds a number that is not finite, or a `dt` that is not positive.
    """

    def __init__(self, capacity: int, n_obs: int, n_action: int) -> None:
        if capacity < 1:
            raise UsageError("a capacity of at least 1 transition", capacity, "Write buffer_size=100000.")
        self.capacity = capacity
        self.obs = np.zeros((capacity, n_obs), np.float32)
        self.action = np.zeros((capacity, n_action), np.float32)
        self.reward = np.zeros(capacity, np.float32)
        self.next_obs = np.zeros((capacity, n_obs), np.float32)
        self.dt = np.zeros(capacity, np.float64)
        self.terminated = np.zeros(capacity, np.bool_)
        # Serial numbers, not positions: a link to an overwritten transition shows itself.
        self.successor = np.full(capacity, NO_SUCCESSOR, np.int64)
        self.n_added = 0
        self.open_ends: dict[int, int] = {}

    def __len__(self) -> int:
        return min(self.n_added, self.capacity)

    def add(self, transition: Transition, env: int = 0) -> None:
        """Append one transition of environment number `env`."""
        _check(transition)
        serial = self.n_added
        at = serial % self.capacity
        self.obs[at], self.action[at] = transition.obs, transition.action
        self.reward[at], self.next_obs[at] = transition.reward, transition.next_obs
        self.dt[at], self.terminated[at] = transition.dt, transition.terminated
        self.successor[at] = NO_SUCCESSOR
        before = self.open_ends.pop(env, NO_SUCCESSOR)
        if before > serial - self.capacity and before >= 0:
            self.successor[before % self.capacity] = serial
        if not (transition.terminated or transition.truncated):
            self.open_ends[env] = serial
        self.n_added += 1

    def cut(self, env: int = 0) -> None:
        """Say that environment `env` was reset: its next transition continues nothing."""
        self.open_ends.pop(env, None)

    def serials(self) -> IntArray:
        """Serial numbers of the stored transitions, oldest first."""
        return np.arange(self.n_added - len(self), self.n_added)

    def arrays(self, serials: IntArray | None = None) -> Arrays:
        """Copies of the transitions with these serial numbers (default: all, oldest first)."""
        at = (self.serials() if serials is None else serials) % self.capacity
        return Arrays(
            self.obs[at],
            self.action[at],
            self.reward[at],
            self.next_obs[at],
            self.dt[at],
            self.terminated[at],
        )

    def following(self, serials: IntArray) -> IntArray:
        """Serial numbers of the next transition of the same episode, -1 where there is none."""
        following: IntArray = self.successor[serials % self.capacity]
        return following

    def firsts(self) -> IntArray:
        """Serial numbers of the stored transitions that follow no stored one, oldest first."""
        serials = self.serials()
        return np.setdiff1d(serials, self.following(serials))

    def segments(self, starts: IntArray, length: int) -> Segment:
        """Sub-sequences of `length` intervals that begin at the transitions `starts [*]` (serials).

        Where an episode ends inside, the last transition is repeated and masked out.
        """
        at, alive = starts, np.ones(starts.shape, np.bool_)
        chain, mask = [], []
        for _ in range(length):
            chain.append(at % self.capacity)
            mask.append(alive)
            following = self.following(at)
            alive = alive & (following >= 0)
            at = np.where(alive, following, at)
        index = np.stack(chain, -1)
        obs = np.concatenate([self.obs[index[..., :1]], self.next_obs[index]], -2)
        return Segment(
            obs=torch.from_numpy(obs),
            action=torch.from_numpy(self.action[index]),
            reward=torch.from_numpy(self.reward[index]),
            dt=torch.from_numpy(self.dt[index]).float(),
            terminated=torch.from_numpy(self.terminated[index]),
            mask=torch.from_numpy(np.stack(mask, -1)).float(),
        )

    def trajectories(self) -> list[Trajectory]:
        """The stored episodes (or what is left of them), in order of their first transition."""
        found = []
        for start in self.firsts().tolist():
            chain = [start]
            while (after := int(self.successor[chain[-1] % self.capacity])) >= 0:
                chain.append(after)
            a = self.arrays(np.array(chain))
            ended = bool(a.terminated[-1])
            running = chain[-1] in self.open_ends.values()
            obs = np.concatenate([a.obs[:1], a.next_obs])
            found.append(Trajectory(obs, a.action, a.reward, a.dt, ended, not ended and not running))
        return found

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What a checkpoint keeps: the stored rows and the links."""
        n = len(self)
        ends = np.array([[env, serial] for env, serial in self.open_ends.items()], np.int64).reshape(-1, 2)
        rows = {name: getattr(self, name)[:n].copy() for name in ROWS}
        return rows | {"n_added": np.array(self.n_added, np.int64), "open_ends": ends}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take up what `state` gave.

        Raises:
            UsageError: for rows of another shape or type, more than this buffer holds, or damaged links.
        """
        if state["n_added"].shape != () or state["n_added"].dtype.kind != "i" or state["n_added"] < 0:
            raise UsageError("a count of transitions", state["n_added"], "Restore the file or train again.")
        n_added = int(state["n_added"])
        n = min(n_added, self.capacity)
        for name in ROWS:
            mine, stored = getattr(self, name), state[name]
            if stored.shape != (n, *mine.shape[1:]) or stored.dtype != mine.dtype:
                raise UsageError(
                    f"{n} rows of {name} {mine.shape[1:]} {mine.dtype}",
                    f"{stored.shape} {stored.dtype}",
                    "Restore the file or train again.",
                )
        serials = np.arange(n_added - n, n_added)
        links = state["successor"][serials % self.capacity]
        if not np.all((links == NO_SUCCESSOR) | ((links > serials) & (links < n_added))):
            got = "links that lead back or nowhere"
            raise UsageError("links to later transitions", got, "Restore the file or train again.")
        ends = state["open_ends"]
        if (
            ends.shape[1:] != (2,)
            or ends.dtype.kind != "i"
            or not np.all((ends >= 0) & (ends < [2**31, n_added]))
        ):
            raise UsageError("open episodes that end in a row", ends, "Restore the file or train again.")
        rows = [state[name] for name in ("obs", "action", "reward", "next_obs", "dt")]
        if not all(np.isfinite(row).all() for row in rows) or not np.all(state["dt"] > 0):
            got = "rows that no task could have paid or shown"
            raise UsageError("finite rows and dt > 0", got, "Restore the file or train again.")
        for name in ROWS:
            getattr(self, name)[:n] = state[name]
        self.n_added = n_added
        self.open_ends = {int(env): int(serial) for env, serial in ends}


def _check(t: Transition) -> None:
    for name, value in (("obs", t.obs), ("action", t.action), ("reward", t.reward), ("next_obs", t.next_obs)):
        if not np.all(np.abs(value) <= np.finfo(np.float32).max):
            raise UsageError(f"a finite {name}", value, "Mend the environment, or leave the transition out.")
    if not (np.isfinite(t.dt) and t.dt > 0):
        raise UsageError("dt > 0 seconds", t.dt, "Give the interval that the action was held, in seconds.")
