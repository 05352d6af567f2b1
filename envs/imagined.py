"""The learned world as a Gymnasium environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import numpy.typing as npt

from ode_rl.envs.imagined_batch import ImaginedBatch, imagination_of
from ode_rl.envs.learned_world import LearnedWorld
from ode_rl.envs.stage import CannotRender, Stage
from ode_rl.envs.task import make_task
from ode_rl.errors import UsageError

Vector = npt.NDArray[np.floating[Any]]


class ImaginedEnv(gymnasium.Env[Vector, Vector]):
    """Episodes that a world model imagines, in the spaces of the task that it was learned from.

    ``gym.make("ode_rl/Imagined-v0", run="runs/...")``, or `ImaginedEnv` of a `LearnedWorld` from memory.
    An episode begins at recorded data, follows one member of the ensemble, lasts as many simulated seconds
    as one of the task at any interval, and is truncated where the members disagree too much. `settings` are
    those of `ImaginationConfig` and, where `run` is a path, of `LearnedWorld.load`.

    The native step `dt` is the interval of the data unless ``dt=`` says another;
    ``reset(options={"dt": seconds})`` holds for an episode and `set_interval` for one step. Other options are
    ``obs``, to start from, and ``member``. ``info`` has ``dt``, ``member`` and ``disagreement`` (1 is what
    99 % of the recorded transitions stay below). Pictures are those of the real task.

    Raises:
        UsageError: for a run that is not a world model, spaces that differ from those of the task, settings
            that cannot be, or pictures of a task that has none.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    SEED_OF_STAGE: ClassVar[int] = 0

    def __init__(
        self, run: str | Path | LearnedWorld | None = None, render_mode: str | None = None, **settings: Any
    ) -> None:
        self.imagination = imagination_of(run, settings)
        self._batch = ImaginedBatch(self.imagination, 1)
        self.world = self.imagination.world
        self.observation_space: Any = self.world.observation_space
        self.action_space: Any = self.world.action_space
        self.dt = self.imagination.dt
        self.metadata = {**self.metadata, "dt": self.dt, "render_fps": max(1, round(1 / self.dt))}
        self.render_mode = render_mode
        self._stage = None if render_mode is None else self._made_to_render(render_mode)
        self._pose: npt.NDArray[np.floating[Any]] | None = None

    @property
    def interval(self) -> float:
        """Seconds that the next step will last, unless the episode's limit cuts it."""
        return float(self._batch.interval[0])

    @interval.setter
    def interval(self, seconds: float) -> None:
        self._batch.set_nominal(seconds)

    def set_interval(self, dt: float) -> None:
        """Let the next step last `dt` seconds."""
        self._batch.set_next(dt)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Vector, dict[str, Any]]:
        super().reset(seed=seed)
        self._batch.generators[0] = self.np_random
        self._batch.begin([0], options)
        worlds = self._batch.worlds
        self._pose_at(worlds.obs, np.zeros(0), None)
        return worlds.obs[0].copy(), {"member": int(worlds.member[0])}

    def step(self, action: npt.ArrayLike) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        before = self._batch.worlds.obs
        found = self._batch.step(np.asarray(action, np.float64)[None])
        worlds = found.worlds
        self._pose_at(np.concatenate([before, worlds.obs]), found.dt, self._pose)
        info = {
            "dt": float(found.dt[0]),
            "member": int(worlds.member[0]),
            "disagreement": float(found.disagreement[0]),
        }
        return (
            worlds.obs[0],
            float(found.reward[0]),
            bool(found.terminated[0]),
            bool(found.truncated[0]),
            info,
        )

    def render(self) -> npt.NDArray[np.uint8] | None:
        """The real task in the imagined pose, ``[height, width, 3]``."""
        if self._stage is None or self._pose is None:
            gymnasium.logger.warn("To render, write gym.make(..., render_mode='rgb_array') and reset it.")
            return None
        return self._stage.draw(self._pose)

    def close(self) -> None:
        if self._stage is not None:
            self._stage.env.close()
            self._stage = None

    def _pose_at(self, obs: Vector, dt: Any, before: Any) -> None:
        if self._stage is not None:
            way = None if before is None else before[: self._stage.spec.layout.n_free]
            self._pose = self._stage.poses(obs.astype(np.float64), np.asarray(dt), way)[-1]

    def _made_to_render(self, render_mode: str) -> Stage:
        if render_mode not in self.metadata["render_modes"]:
            raise UsageError("render_mode rgb_array", repr(render_mode), "Or leave it out.")
        env_id, remedy = self.world.env_id, "Leave render_mode out."
        if env_id is None:
            raise UsageError("a world of a task with an id, to draw it", "none", remedy)
        plain = make_task(env_id, self.world.timing)
        plain.close()
        if render_mode not in plain.metadata.get("render_modes", []):
            raise UsageError("a task that can be drawn", f"{env_id}, which has no {render_mode}", remedy)
        env = make_task(env_id, self.world.timing, render_mode=render_mode)
        try:
            return Stage(env, env_id, self.SEED_OF_STAGE)
        except CannotRender as error:
            raise UsageError("a task that can be drawn", error, remedy) from error
