"""The learned world as a `VecEnv` of Stable-Baselines3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices

from ode_rl.envs.imagination import Float64, Imagined, Obs
from ode_rl.envs.imagined_batch import ImaginedBatch, imagination_of
from ode_rl.envs.learned_world import LearnedWorld
from ode_rl.errors import UsageError


class ImaginedVecEnv(VecEnv):
    """N worlds of `ImaginedEnv` in one solve, for any algorithm of Stable-Baselines3.

    ``SAC("MlpPolicy", ImaginedVecEnv("runs/...", n_envs=64)).learn(50_000)``. World i seeded with `seed` goes
    the way of a single one reset with ``seed + i``. ``env_method("set_interval", dt)`` sets the next step of
    all worlds or of `indices`; each ``info`` has ``dt``, ``member`` and ``disagreement``. To record episodes,
    put a `VecMonitor` around it.

    Raises:
        UsageError: as `ImaginedEnv`.
    """

    def __init__(self, run: str | Path | LearnedWorld, n_envs: int = 1, **settings: Any) -> None:
        self.imagination = imagination_of(run, settings)
        self._batch = ImaginedBatch(self.imagination, n_envs)
        self.dt = self.imagination.dt
        self.spec = gymnasium.spec("ode_rl/Imagined-v0")
        self.render_mode = None
        world = self.imagination.world
        super().__init__(n_envs, world.observation_space, world.action_space)
        self.metadata: dict[str, Any] = {"render_modes": [], "dt": self.dt}
        self._actions: Any = None

    @property
    def interval(self) -> Float64:
        """Seconds of the next step of each world, ``[N]``."""
        return np.array(self._batch.interval)

    def set_interval(self, dt: npt.ArrayLike) -> None:
        """Let the next step last ``dt`` seconds, a number or ``[N]``."""
        self._batch.set_next(dt)

    def reset(self) -> Obs:
        for i, seed in enumerate(self._seeds):
            if seed is not None:
                self._batch.seed(i, seed)
        for i, options in enumerate(self._options):
            self._batch.begin([i], options)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [{"member": int(member)} for member in self._batch.worlds.member]
        return np.array(self._batch.worlds.obs)

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        self._actions = actions

    def step_wait(
        self,
    ) -> tuple[Obs, npt.NDArray[np.float32], npt.NDArray[np.bool_], list[dict[str, Any]]]:
        found = self._batch.step(self._actions)
        over = found.terminated | found.truncated
        infos = _infos(found)
        done = np.flatnonzero(over)
        for i in done:
            infos[i]["terminal_observation"] = found.worlds.obs[i]
        if len(done):
            self._batch.begin(done, None)
        return self._batch.worlds.obs.copy(), found.reward.astype(np.float32), over, infos

    def close(self) -> None:
        """Nothing is held open."""

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        value = getattr(self, attr_name)
        if attr_name == "interval":
            return [float(value[i]) for i in self._get_indices(indices)]
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        self._for_all("set_attr", indices)
        if attr_name == "interval":
            self._batch.set_nominal(value)
        else:
            setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        if method_name == "set_interval":
            seconds = self.interval
            seconds[list(self._get_indices(indices))] = method_kwargs.get("dt", *method_args)
            self.set_interval(seconds)
            return [None for _ in self._get_indices(indices)]
        self._for_all(method_name, indices)
        found = getattr(self, method_name)(*method_args, **method_kwargs)
        return [found for _ in range(self.num_envs)]

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        return [False for _ in self._get_indices(indices)]

    def _for_all(self, what: str, indices: VecEnvIndices) -> None:
        if indices is not None and set(self._get_indices(indices)) != set(range(self.num_envs)):
            raise UsageError(f"{what} for all worlds", f"indices {indices}", "Leave indices out.")


def _infos(found: Imagined) -> list[dict[str, Any]]:
    columns = (found.dt, found.worlds.member, found.disagreement, found.truncated & ~found.terminated)
    names = ("dt", "member", "disagreement", "TimeLimit.truncated")
    return [dict(zip(names, row, strict=True)) for row in zip(*(x.tolist() for x in columns), strict=True)]
