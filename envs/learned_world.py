"""A learned world with what it was learned from: all that an imagined episode needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from ode_rl.buffer import ReplayBuffer
from ode_rl.checkpoint import MANIFEST, Checkpoint, read_checkpoint
from ode_rl.device import resolve_device
from ode_rl.envs.task import bare_id, make_task
from ode_rl.envs.task_timing import TaskTiming
from ode_rl.errors import UsageError
from ode_rl.known import NOTHING_KNOWN, Known, scaled
from ode_rl.names import PLAIN_MODELS
from ode_rl.run import RunFolder
from ode_rl.settings import build
from ode_rl.state import STATE_SPECS, StateSpec, state_spec
from ode_rl.timing import native_dt
from ode_rl.world_model import WorldModel, WorldModelConfig

Env = gymnasium.Env[Any, Any]
REMEDY = "Choose a run of --agent mpc, or write LearnedWorld.of(model, buffer, env)."


@dataclass(frozen=True)
class LearnedWorld:
    """A fitted world model, the transitions that it was fitted to, and the task that they come from.

    `load` reads one from a run, `of` takes one from memory.

    Raises:
        UsageError: where model, data and task do not fit together, the model was never fitted, or there are
            no data.
    """

    model: WorldModel
    """Takes actions in [-1, 1], as the buffer holds them."""
    buffer: ReplayBuffer
    observation_space: spaces.Box
    action_space: spaces.Box
    interval: float
    """Seconds that the actions of the data were held, nominally."""
    limit: float = math.inf
    """Simulated seconds of an episode of the task."""
    spec: StateSpec | None = None
    """What the first columns of an observation mean, where it is known."""
    env_id: str | None = None
    """Id of the task, where it has one."""
    timing: TaskTiming | None = None
    """How the task was timed."""

    def __post_init__(self) -> None:
        n_obs, n_action = self.observation_space.shape[0], self.action_space.shape[0]
        widths = (self.buffer.obs.shape[1], self.buffer.action.shape[1])
        if widths != (n_obs, n_action):
            raise UsageError(
                f"data of a task with {n_obs} observations and {n_action} actions",
                f"{widths[0]} and {widths[1]}",
                "Give the task that the data were recorded in.",
            )
        if self.model.log_noise.shape[-1] != n_obs:
            got = f"{self.model.log_noise.shape[-1]}"
            raise UsageError(f"a world model of {n_obs} observations", got, "Fit one to these data.")
        if not len(self.buffer):
            raise UsageError("recorded transitions to start from", "none", "Train for longer.")

    @classmethod
    def of(
        cls, model: WorldModel, buffer: ReplayBuffer, env: str | Env, spec: StateSpec | None = None
    ) -> LearnedWorld:
        """A world from memory: `env` (an id, or an environment that is not stepped) is the task of the data.

        The buffer holds actions scaled to [-1, 1], as that of an agent of this package does.
        """
        task = make_task(env) if isinstance(env, str) else env
        observation, action = _boxes(task)
        native = native_dt(task)
        env_id = env if isinstance(env, str) else task.spec.id if task.spec is not None else None
        if isinstance(env, str):
            task.close()
        return cls(
            model,
            buffer,
            observation,
            action,
            interval=float(task.metadata.get("dt", native)),
            limit=_limit(task, native),
            spec=spec or _spec_of(env_id, observation.shape[0]),
            env_id=env_id,
        )

    @classmethod
    def load(
        cls,
        run: str | Path,
        task: str | None = "auto",
        device: str = "auto",
        known: Known = NOTHING_KNOWN,
        spec: StateSpec | None = None,
    ) -> LearnedWorld:
        """The world of a run folder (its newest checkpoint), or of what an agent's `save` wrote.

        `task` is the id of the real task (``"auto"``: that of the run), which is made to compare its spaces
        and to learn how long its episodes last; with None it is left alone. `known` are the functions that
        the run was trained with.

        Raises:
            UsageError: for a folder that is no run, a run without a fitted world model, other `known`
                functions than it was trained with, or a task with other spaces.
        """
        path, timing = _checkpoint_of(Path(run))
        parts = read_checkpoint(path)
        try:
            config = parts.meta["config"]
            env_id, dt = str(config["env_id"]), float(config["dt"])
            model = _model(parts, known).to(resolve_device(device))
            buffer = _buffer(parts)
            observation, action = (_box(parts.arrays[name]) for name in ("observation_space", "action_space"))
        except (KeyError, RuntimeError, TypeError, IndexError) as error:
            got = f"{run}, a {parts.kind} ({type(error).__name__}: {error})"
            raise UsageError("a run with a world model", got, REMEDY) from error
        if not int(model.n_fits):
            remedy = "Train for longer: the first fit comes after the warm-up."
            raise UsageError("a fitted world model", f"{run}, whose model never was", remedy)
        timed = TaskTiming.read(timing, dt)
        name = env_id if task == "auto" else task
        limit = math.inf if name is None else _checked_limit(name, timed, observation, action)
        return cls(
            model,
            buffer,
            observation,
            action,
            interval=float(config.get("interval", dt)),
            limit=limit,
            spec=spec or _spec_of(env_id, observation.shape[0]),
            env_id=name,
            timing=timed,
        )


def _checkpoint_of(path: Path) -> tuple[Path, Mapping[str, Any] | None]:
    """Where the checkpoint lies, and the timing that its run says."""
    if path.suffix == ".zip" or (path / MANIFEST).is_file():
        return path, None
    run = RunFolder.open(path)
    return run.newest_checkpoint(), run.read_config().get("timing")


def _model(parts: Checkpoint, known: Known) -> WorldModel:
    config = parts.meta["config"]
    if known.names != (was := list(config.get("known", []))):
        given = f"Give known=Known({', '.join(f'{name}=...' for name in was)})."
        remedy = given if was else "Leave it out."
        raise UsageError(
            f"the functions that it was trained with, {was or 'none'}", known.names or "none", remedy
        )
    settings = build(WorldModelConfig, config["settings"]["model"])
    low, high = (torch.from_numpy(parts.arrays["action_space"][name]) for name in ("low", "high"))
    n_obs = len(parts.arrays["observation_space"]["low"])
    spec = None if settings.structure in PLAIN_MODELS else state_spec(str(config["env_id"]), n_obs)
    weights = torch.Generator().manual_seed(0)  # all of which are replaced
    model = WorldModel(
        n_obs, len(low), float(config["dt"]), settings, weights, spec, scaled(known, low, high)
    )
    model.load_state_dict(parts.tensors["model"])
    return model


def _buffer(parts: Checkpoint) -> ReplayBuffer:
    state = parts.arrays["buffer"]
    capacity = int(parts.meta["config"]["settings"]["buffer_size"])
    buffer = ReplayBuffer(capacity, state["obs"].shape[1], state["action"].shape[1])
    buffer.restore(state)
    return buffer


def _box(arrays: Mapping[str, Any]) -> spaces.Box:
    return spaces.Box(arrays["low"], arrays["high"], dtype=arrays["low"].dtype.type)


def _boxes(env: Env) -> tuple[spaces.Box, spaces.Box]:
    found = env.observation_space, env.action_space
    if not all(isinstance(space, spaces.Box) and len(space.shape) == 1 for space in found):
        remedy = "Wrap it in gymnasium.wrappers.FlattenObservation."
        raise UsageError("observations and actions in Boxes of shape (n,)", found, remedy)
    return found  # type: ignore[return-value]


def _checked_limit(env_id: str, timing: TaskTiming, observation: spaces.Box, action: spaces.Box) -> float:
    try:
        env = make_task(env_id, timing)
    except UsageError as error:
        remedy = f"{error.remedy} Or write task=None to do without the real task."
        raise UsageError(f"the task {env_id} of the run: {error.expected}", error.got, remedy) from error
    try:
        for name, mine in (("observation", observation), ("action", action)):
            theirs = getattr(env, f"{name}_space")
            if not _same(mine, theirs):
                raise UsageError(
                    f"the {name} space of the run, {mine}",
                    f"{theirs} from {env_id}",
                    "Give the task that the run was trained on, with task=ID.",
                )
        return _limit(env, native_dt(env))
    finally:
        env.close()


def _same(mine: spaces.Box, theirs: spaces.Space[Any]) -> bool:
    if not isinstance(theirs, spaces.Box) or mine.shape != theirs.shape:
        return False
    return bool(np.array_equal(mine.low, theirs.low) and np.array_equal(mine.high, theirs.high))


def _limit(env: Env, native: float) -> float:
    steps = env.spec.max_episode_steps if env.spec is not None else None
    return math.inf if steps is None else steps * native


def _spec_of(env_id: str | None, n_obs: int) -> StateSpec | None:
    """The specification of a standard task; wrappers add columns behind those that it describes."""
    spec = STATE_SPECS.get(bare_id(env_id)) if env_id is not None else None
    return spec if spec is not None and spec.n_obs <= n_obs else None
