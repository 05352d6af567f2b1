"""Recent actions as a part of the observation, so that a task with delays stays Markov."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from ode_rl.envs.time_wrapper import Env, extended, flat_box
from ode_rl.errors import UsageError


class ActionHistory:
    """The last `length` actions, newest first, behind the components of an observation.

    Before the first action of an episode they are zero (or the nearest that the bounds allow).

    Raises:
        UsageError: if `length` is negative, or observations or actions are not vectors.
    """

    def __init__(self, env: Env, length: int) -> None:
        if not isinstance(length, int | np.integer) or length < 0:
            raise UsageError("a history of 0 or more actions", repr(length), "Write history=3.")
        self.length = int(length)
        self.observation_space = env.observation_space
        if self.length:
            action = flat_box(env.action_space, "actions")
            space = flat_box(env.observation_space, "observations")
            self._rest = resting(action)
            bounds = (np.tile(bound, self.length) for bound in (action.low, action.high))
            self.observation_space = extended(space, *bounds)
            self.clear()

    def clear(self) -> None:
        """Forget the actions of the last episode."""
        if self.length:
            self._actions = np.tile(self._rest, (self.length, 1))

    def record(self, action: Any) -> None:
        """Add the newest action."""
        if self.length:
            self._actions = np.concatenate([np.asarray(action)[None], self._actions[:-1]])

    def behind(self, obs: Any) -> Any:
        """Return ``obs [O]`` with the actions behind it, ``[O + length * A]``."""
        if not self.length:
            return obs
        return np.concatenate([obs, self._actions.reshape(-1).astype(obs.dtype)])


def resting(space: spaces.Box) -> npt.NDArray[Any]:
    """The action nearest to zero."""
    zero: npt.NDArray[Any] = np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
    return zero
