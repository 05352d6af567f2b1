"""A task that fails on demand, one id for each way to fail: ``tests.faulty_world:faulty/<fault>-v0``."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np

from tests.own_tasks import SpringCart

# When the task fails: at these steps of its whole life, or in all of them from the first on.
AT = (47, 66)


class Faulty(SpringCart):
    """`SpringCart` with one fault at the steps `AT` of its life, or from the first of them on."""

    def __init__(self, fault: str, forever: bool = False) -> None:
        super().__init__()
        self.fault, self.forever = fault, forever
        self.life, self.resets = 0, 0

    def _fails(self) -> bool:
        return self.life in AT or (self.forever and self.life >= AT[0])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        obs, info = super().reset(seed=seed, options=options)
        self.resets += 1
        if self.resets == 3:
            if self.fault == "reset-raises":
                raise ValueError("the robot is unplugged")
            if self.fault == "reset-nan":
                obs = obs * np.float32(np.nan)
        return obs, info

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        self.life += 1
        fault: Any = self.fault
        if fault == "ends-at-once":
            return obs, reward, True, False, info
        if not self._fails():
            return obs, reward, terminated, truncated, info
        if fault == "step-raises":
            raise RuntimeError("the motor is hot")
        if fault == "hangs":
            time.sleep(60)
        changed = {
            "obs-nan": (obs * np.float32(np.nan), reward),
            "obs-inf": (np.array([obs[0], np.inf], np.float32), reward),
            "obs-leaps": (obs * np.float32(1e6) + np.float32(1e6), reward),
            "obs-shape": (np.zeros(3, np.float32), reward),
            "obs-type": (np.array(["a", "b"]), reward),
            "obs-none": (None, reward),
            "reward-nan": (obs, float("nan")),
            "reward-inf": (obs, -float("inf")),
            "reward-huge": (obs, 1e12),
            "reward-text": (obs, "much"),
        }.get(fault, (obs, reward))
        return *changed, terminated, truncated, info


FAULTS = (
    *("obs-nan", "obs-inf", "obs-leaps", "obs-shape", "obs-type", "obs-none"),
    *("reward-nan", "reward-inf", "reward-huge", "reward-text"),
    *("reset-raises", "reset-nan", "step-raises", "hangs", "ends-at-once", "never-ends"),
)
for _fault in FAULTS:
    _limit = None if _fault == "never-ends" else 20
    _kwargs = {"entry_point": f"{__name__}:Faulty", "max_episode_steps": _limit, "disable_env_checker": True}
    gymnasium.register(f"faulty/{_fault}-v0", kwargs={"fault": _fault}, **_kwargs)  # type: ignore[arg-type]
    gymnasium.register(
        f"faulty/{_fault}-forever-v0",
        kwargs={"fault": _fault, "forever": True},
        **_kwargs,  # type: ignore[arg-type]
    )
