"""Tasks with a goal as tasks with one vector of observations."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from ode_rl.errors import UsageError

PARTS = ("observation", "achieved_goal", "desired_goal")
# Where the tasks of gymnasium-robotics keep the robot that knows how long a step is.
ROBOTS = ("point_env", "ant_env")


class FlatGoal(gymnasium.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """``[observation, achieved_goal, desired_goal]`` in one Box instead of a Dict of the three.

    Rewards, sparse or dense, and ``info`` stay as they are. A maze, which does not say how long its step is,
    has it of the robot inside in ``metadata["dt"]``.

    Raises:
        UsageError: for observations that are no such Dict of vectors.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.ObservationWrapper.__init__(self, env)
        parts = _parts(env.observation_space)
        if parts is None:
            remedy = "Leave FlatGoal out, or wrap it in gymnasium.wrappers.FlattenObservation."
            raise UsageError(f"a Dict of the vectors {', '.join(PARTS)}", env.observation_space, remedy)
        dtype: Any = np.result_type(*(part.dtype for part in parts))
        low, high = (np.concatenate([getattr(part, side) for part in parts]) for side in ("low", "high"))
        self.observation_space = spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype)
        seconds = _seconds_of_robot(env.unwrapped)
        if seconds is not None:
            self.metadata = {**env.metadata, "dt": seconds}

    @classmethod
    def suits(cls, space: spaces.Space[Any]) -> bool:
        """Whether these observations are a goal beside what is observed."""
        return _parts(space) is not None

    def observation(self, observation: Any) -> npt.NDArray[Any]:
        parts = [observation[name] for name in PARTS]
        return np.concatenate(parts).astype(self.observation_space.dtype)


def _parts(space: spaces.Space[Any]) -> list[spaces.Box] | None:
    if not isinstance(space, spaces.Dict) or set(space.spaces) != set(PARTS):
        return None
    parts = [space[name] for name in PARTS]
    flat = all(isinstance(part, spaces.Box) and len(part.shape) == 1 for part in parts)
    return parts if flat else None  # type: ignore[return-value]


def _seconds_of_robot(base: Any) -> float | None:
    if getattr(base, "dt", None) is not None:
        return None  # it says so itself
    robot = next((getattr(base, name) for name in ROBOTS if hasattr(base, name)), None)
    return getattr(getattr(robot, "unwrapped", robot), "dt", None)
