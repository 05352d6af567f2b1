"""What is counted while an agent acts for one episode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass
class Tally:
    """Sums over one episode; `add` takes one step more."""

    episode_return: float = 0.0
    length: int = 0
    seconds: float = 0.0
    variation: float = 0.0
    """``sum_t |a_t - a_{t-1}|`` over the decisions after the first, a in shares of the largest action."""
    energy: float = 0.0
    """``sum_t |a_t|^2 dt_t`` in the same shares, in seconds."""
    success: bool | None = None
    """None for a task that does not say it."""
    last_action: Floats | None = None

    def add(self, action: Floats, reward: float, dt: float, info: Mapping[str, Any]) -> None:
        """Count one step of `dt` seconds; ``action [A]`` in shares of the largest action."""
        self.episode_return += reward
        self.length += 1
        self.seconds += dt
        self.energy += dt * float(action @ action)
        if self.last_action is not None:
            self.variation += float(np.linalg.norm(action - self.last_action))
        self.last_action = action
        self._judge(info)

    @property
    def fluctuation(self) -> float:
        """Mean change of the action between two decisions: the action fluctuation ratio.

        ``1/(T-1) sum_t |a_t - a_{t-1}|``. Source: Song et al., LipsNet, ICML 2023.
        """
        return self.variation / max(1, self.length - 1)

    def _judge(self, info: Mapping[str, Any]) -> None:
        # Gymnasium-Robotics and Stable-Baselines3 look at the last step, Meta-World at every one.
        if "is_success" in info:
            self.success = bool(info["is_success"])
        elif "success" in info:
            self.success = bool(self.success) or bool(info["success"])


def action_shares(actions: npt.ArrayLike, low: npt.ArrayLike, high: npt.ArrayLike) -> Floats:
    """``actions [*, A]``, clipped to their bounds, over the larger bound; unbounded ones as they are."""
    bound = np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
    bound = np.where(np.isfinite(bound) & (bound > 0), bound, 1.0)
    shares: Floats = np.clip(np.asarray(actions, np.float64), low, high) / bound
    return shares
