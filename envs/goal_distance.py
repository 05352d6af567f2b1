"""The distance to the goal as known reward, for tasks whose observations `FlatGoal` has made."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ode_rl.known import Known

Reward = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def goal_distance(n_goal: int, native_dt: float) -> Reward:
    """Reward ``-|achieved - desired| * dt / native_dt`` of an interval, by the observation at its end.

    The last ``2 n_goal`` columns of an observation are the achieved and the desired goal. In a native step
    it is what the dense tasks of gymnasium-robotics pay (a maze pays ``exp`` of it); a sparse task has the
    same best plans.
    """

    def reward(obs: Tensor, action: Tensor, after: Tensor, dt: Tensor) -> Tensor:
        achieved, desired = after[..., -2 * n_goal : -n_goal], after[..., -n_goal:]
        distance: Tensor = torch.linalg.vector_norm(achieved - desired, dim=-1)
        return -distance * dt / native_dt

    return reward


fetch = Known(reward=goal_distance(3, 0.04))
"""``--known ode_rl.envs.goal_distance:fetch``: FetchReach, FetchPush, FetchSlide, FetchPickAndPlace."""

maze = Known(reward=goal_distance(2, 0.01))
"""``--known ode_rl.envs.goal_distance:maze``: PointMaze, along the beeline."""
