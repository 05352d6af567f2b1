"""Which tasks the agents can act in."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from ode_rl.errors import UsageError


def check_spaces(observation: spaces.Space[Any], action: spaces.Space[Any]) -> tuple[spaces.Box, spaces.Box]:
    """Return both spaces if observations are flat Boxes and actions flat, bounded Boxes.

    Raises:
        UsageError: with the space that was found and the wrapper that helps.
    """
    if not isinstance(action, spaces.Box) or len(action.shape) != 1:
        raise UsageError(
            "continuous actions: a Box of shape (n,)",
            f"the action space {action}",
            "Choose a task with Box actions.",
        )
    if not (
        np.isfinite(action.low).all() and np.isfinite(action.high).all() and (action.low < action.high).all()
    ):
        raise UsageError(
            "finite action bounds, low < high",
            f"the action space {action}",
            "Give the Box the bounds of your actuators, e.g. with gymnasium.wrappers.TransformAction.",
        )
    if not isinstance(observation, spaces.Box) or len(observation.shape) != 1:
        flat = isinstance(observation, spaces.Dict | spaces.Tuple | spaces.Box)
        remedy = (
            "Wrap it in gymnasium.wrappers.FlattenObservation."
            if flat
            else "Choose a task with Box observations."
        )
        if isinstance(observation, spaces.Dict) and "desired_goal" in observation.spaces:
            remedy = "Make it with ode_rl.envs.make_task(ID), or wrap it in ode_rl.envs.FlatGoal."
        image = isinstance(observation, spaces.Box) and len(observation.shape) == 3
        if image:
            remedy = "Images need a feature extractor first; this package learns from state vectors."
        raise UsageError(
            "observations in a Box of shape (n,)", f"the observation space {observation}", remedy
        )
    return observation, action
