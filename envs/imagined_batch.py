"""N imagined episodes that are stepped together: their generators, their intervals, where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.utils import seeding

from ode_rl.envs.imagination import Float64, Imagination, ImaginationConfig, Imagined, Obs, Worlds
from ode_rl.envs.learned_world import LearnedWorld
from ode_rl.errors import UsageError
from ode_rl.settings import build
from ode_rl.timing import positive_seconds

LOADING = ("task", "device", "known", "spec")


def imagination_of(run: str | Path | LearnedWorld | None, settings: dict[str, Any]) -> Imagination:
    """The laws of a run's world, or of a `LearnedWorld`; `settings` are those of `ImaginationConfig`, and of
    `LearnedWorld.load` where `run` is a path.

    Raises:
        UsageError: for a run that is not a world model, or settings that cannot be.
    """
    if run is None:
        raise UsageError(
            "the run of a world model", "none", "Write run='runs/...', the folder of a training."
        )
    loading = {name: settings[name] for name in LOADING if name in settings}
    config = build(ImaginationConfig, {k: v for k, v in settings.items() if k not in loading})
    if not isinstance(run, LearnedWorld):
        return Imagination(LearnedWorld.load(run, **loading), config)
    if loading:
        remedy = "Leave them out, or give the path of a run."
        raise UsageError("a LearnedWorld alone", f"{', '.join(loading)} beside it", remedy)
    return Imagination(run, config)


class ImaginedBatch:
    """What all faces of the imagined world share: N worlds, each with its own generator and interval."""

    def __init__(self, imagination: Imagination, n: int) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise UsageError("at least one world", repr(n), "Write num_envs=1024.")
        self.imagination, self.n = imagination, n
        self.generators = [np.random.default_rng() for _ in range(n)]
        self._nominal = np.full(n, imagination.dt)
        self._episode = self._nominal.copy()
        self._next: Float64 | None = None
        n_obs = len(imagination.low)
        zeros = np.zeros(n)
        self.worlds = Worlds(
            np.zeros((n, n_obs), imagination.low.dtype), np.zeros(n, np.int64), zeros, zeros.copy()
        )

    @property
    def interval(self) -> Float64:
        """Seconds of the next step of each world, ``[N]``, unless the episode's limit cuts it."""
        return self._episode if self._next is None else self._next

    def set_nominal(self, dt: npt.ArrayLike) -> None:
        """Hold actions for ``dt`` seconds (a number or ``[N]``) from now on."""
        self._nominal = self._seconds(dt)
        self._episode, self._next = self._nominal.copy(), None

    def set_next(self, dt: npt.ArrayLike) -> None:
        """Let the next step last ``dt`` seconds, a number or ``[N]``."""
        self._next = self._seconds(dt)

    def seed(self, i: int, seed: int) -> None:
        """Let world `i` draw as the single world that is reset with `seed` does."""
        self.generators[i], _ = seeding.np_random(seed)

    def begin(self, rows: Sequence[int] | npt.NDArray[np.int64], options: dict[str, Any] | None) -> None:
        """Start a new episode in these worlds.

        `options`: ``dt`` in seconds for the episode, ``obs [O]`` to start from and the ``member`` to follow,
        each one for all worlds or one for each of the N.

        Raises:
            UsageError: for options that cannot be.
        """
        options = options or {}
        obs, member, seconds, budget = self.worlds
        dt = self._nominal if options.get("dt") is None else self._seconds(options["dt"])
        for i in rows:
            one = self.imagination.begin(self.generators[i])
            obs[i], member[i], seconds[i], budget[i] = (x[0] for x in one)
            self._episode[i] = dt[i]
            if self._next is not None:
                self._next[i] = dt[i]
        if options.get("obs") is not None:
            obs[rows] = self._observations(options["obs"])[rows]
        if options.get("member") is not None:
            member[rows] = self._members(options["member"])[rows]

    def step(self, action: Any) -> Imagined:
        """Hold ``action [N, A]`` in every world for its interval.

        Raises:
            UsageError: for actions of another shape, or that are not finite.
        """
        shape = (self.n, *self.imagination.world.action_space.shape)
        held = np.asarray(action, np.float64)
        if held.shape != shape or not np.isfinite(held).all():
            got = f"shape {held.shape}" if held.shape != shape else "numbers that are not finite"
            raise UsageError(f"finite actions {shape}", got, "Give every world one action.")
        found = self.imagination.step(self.worlds, held, self.interval)
        # Copies: what is returned must not change when worlds begin anew.
        self.worlds, self._next = Worlds(*(x.copy() for x in found.worlds)), None
        return found

    def _seconds(self, dt: npt.ArrayLike) -> Float64:
        for value in np.unique(np.asarray(dt, object)):
            positive_seconds(value)
        found: Float64 = self._for_each(dt, np.float64, (), "seconds")
        return found

    def _observations(self, obs: Any) -> Obs:
        like = self.imagination.low
        rows: Obs = self._for_each(obs, like.dtype, like.shape, "observations")
        if not np.isfinite(rows).all():
            raise UsageError("finite observations to start from", obs, "Give one of the task.")
        return self.imagination.project(rows, rows)

    def _members(self, member: Any) -> npt.NDArray[np.int64]:
        rows: npt.NDArray[np.int64] = self._for_each(member, np.int64, (), "members")
        n = self.imagination.n_members
        if not ((rows >= 0) & (rows < n)).all():
            raise UsageError(f"a member from 0 to {n - 1}", member, "Leave it out to draw one.")
        return rows

    def _for_each(self, value: Any, dtype: Any, shape: tuple[int, ...], what: str) -> Any:
        try:
            found = np.asarray(value, dtype)
        except (TypeError, ValueError):
            found = np.zeros((0,))
        if found.shape not in (shape, (self.n, *shape)):
            remedy = "Give one for all worlds, or one for each."
            raise UsageError(f"{what} of shape {shape} or {(self.n, *shape)}", repr(value), remedy)
        return np.broadcast_to(found, (self.n, *shape)).copy()
