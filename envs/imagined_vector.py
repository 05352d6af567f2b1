"""The learned world as a batched vector environment of Gymnasium."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from ode_rl.envs.imagination import Bools, Float64, Obs
from ode_rl.envs.imagined_batch import ImaginedBatch, imagination_of
from ode_rl.envs.learned_world import LearnedWorld
from ode_rl.errors import UsageError


class ImaginedVectorEnv(VectorEnv[Obs, npt.NDArray[Any], Any]):
    """N worlds of `ImaginedEnv` in one solve: ``gym.make_vec("ode_rl/Imagined-v0", num_envs=1024, run=...)``.

    World i reset with `seed` goes the way of a single one reset with ``seed + i``. Numbers in options (and
    in `set_interval`) are one for all worlds or one for each; ``info["dt"]`` is ``[N]``. All three modes of
    autoreset: ``autoreset_mode="NextStep"``, ``"SameStep"`` or ``"Disabled"`` (with
    ``options={"reset_mask": [N]}``).

    Raises:
        UsageError: as `ImaginedEnv`.
    """

    def __init__(
        self,
        run: str | Path | LearnedWorld | None = None,
        num_envs: int = 1,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        **settings: Any,
    ) -> None:
        self.imagination = imagination_of(run, settings)
        self._batch = ImaginedBatch(self.imagination, num_envs)
        self.num_envs = num_envs
        self._mode = _mode(autoreset_mode)
        world = self.imagination.world
        self.single_observation_space, self.single_action_space = world.observation_space, world.action_space
        self.observation_space = batch_space(world.observation_space, num_envs)
        self.action_space = batch_space(world.action_space, num_envs)
        self.dt = self.imagination.dt
        self.metadata = {"render_modes": [], "dt": self.dt, "autoreset_mode": self._mode}
        self._over = np.zeros(num_envs, np.bool_)

    @property
    def interval(self) -> Float64:
        """Seconds of the next step of each world, ``[N]``."""
        return np.array(self._batch.interval)

    def set_interval(self, dt: npt.ArrayLike) -> None:
        """Let the next step last ``dt`` seconds, a number or ``[N]``."""
        self._batch.set_next(dt)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        options = dict(options or {})
        rows = self._masked(options.pop("reset_mask", None))
        self._seed(seed)
        self._batch.begin(rows, options)
        self._over[rows] = False
        began = np.isin(np.arange(self.num_envs), rows)
        worlds = self._batch.worlds
        return worlds.obs.copy(), {"member": worlds.member.copy(), "_member": began}

    def step(self, actions: npt.ArrayLike) -> tuple[Obs, Float64, Bools, Bools, dict[str, Any]]:
        asleep = self._over if self._mode == AutoresetMode.NEXT_STEP else np.zeros_like(self._over)
        if self._mode == AutoresetMode.DISABLED and self._over.any():
            remedy = "Call reset(options={'reset_mask': terminated | truncated})."
            raise UsageError("worlds whose episode goes on", f"{int(self._over.sum())} at their end", remedy)
        before = self._batch.worlds
        found = self._batch.step(actions)
        terminated, truncated = found.terminated & ~asleep, found.truncated & ~asleep
        over = terminated | truncated
        infos: dict[str, Any] = {}
        for name in ("dt", "disagreement"):
            infos[name] = np.where(asleep, 0.0, getattr(found, name))
        begin = asleep
        if self._mode == AutoresetMode.SAME_STEP:
            begin = over
            if over.any():
                infos |= self._final(found.worlds.obs, over)
        if begin.any():
            self._batch.begin(np.flatnonzero(begin), None)
        self._over = over if self._mode != AutoresetMode.SAME_STEP else np.zeros_like(over)
        infos["member"] = np.where(begin & ~asleep, before.member, self._batch.worlds.member)
        for name in ("dt", "disagreement", "member"):
            infos[f"_{name}"] = ~asleep if name != "member" else np.ones_like(asleep)
        reward = np.where(asleep, 0.0, found.reward)
        return self._batch.worlds.obs.copy(), reward, terminated, truncated, infos

    def _final(self, obs: Obs, over: Bools) -> dict[str, Any]:
        final = np.full(self.num_envs, None, object)
        for i in np.flatnonzero(over):
            final[i] = obs[i]
        return {"final_obs": final, "_final_obs": over.copy()}

    def _seed(self, seed: int | list[int | None] | None) -> None:
        if seed is None:
            return
        if isinstance(seed, int | np.integer):
            super().reset(seed=int(seed))
            seed = [int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise UsageError(f"{self.num_envs} seeds", len(seed), "Give one number, or one for each world.")
        for i, own in enumerate(seed):
            if own is not None:
                self._batch.seed(i, own)

    def _masked(self, mask: Any) -> npt.NDArray[np.int64]:
        if mask is None:
            return np.arange(self.num_envs)
        wanted = np.asarray(mask)
        if wanted.shape != (self.num_envs,) or wanted.dtype != np.bool_ or not wanted.any():
            remedy = "Give terminated | truncated of the last step."
            raise UsageError(f"a reset_mask of {self.num_envs} bools, one of them true", repr(mask), remedy)
        return np.flatnonzero(wanted)


def _mode(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError as error:
        names = " or ".join(each.value for each in AutoresetMode)
        raise UsageError(f"autoreset_mode {names}", repr(mode), "Leave it out for NextStep.") from error
