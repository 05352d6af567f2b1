"""Tasks: Gymnasium environments made by id, checked, and told to say how long a step lasts."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from ode_rl.envs.flat_goal import FlatGoal
from ode_rl.envs.task_timing import Disturb, TaskTiming, Timing, with_timing
from ode_rl.errors import UsageError
from ode_rl.spaces import check_spaces
from ode_rl.timing import native_dt

Env = gymnasium.Env[Any, Any]
ROBOTICS = "gymnasium_robotics"
ROBOTICS_IDS = ("Fetch", "PointMaze", "AntMaze", "AdroitHand", "Hand", "FrankaKitchen")


class TimeStamp(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Put ``info["dt"]`` (seconds) on every step whose own info lacks it.

    ``metadata["dt"]`` says the same of the whole environment.
    """

    def __init__(self, env: Env, dt: float) -> None:
        RecordConstructorArgs.__init__(self, dt=dt)
        gymnasium.Wrapper.__init__(self, env)
        self.metadata = {**env.metadata, "dt": dt}
        self._dt = dt

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, {"dt": self._dt, **info}


def make_task(
    env_id: str,
    timing: Timing = None,
    render_mode: str | None = None,
    disturb: Disturb | None = None,
    **kwargs: Any,
) -> Env:
    """Make the environment of a Gymnasium id, or of ``module:id`` for one that `module` registers.

    `timing` is its control interval in seconds (for an environment that does not say how long a step is,
    just that), or a `TaskTiming` with delays and lost observations, composed as `with_timing` says. The
    module is found as Python finds it when started in the current folder. `disturb` puts the task into other
    conditions. Other arguments go to the environment. A goal beside the observation becomes a part of it
    (`FlatGoal`); tasks of gymnasium-robotics are found where it is installed.

    Raises:
        UsageError: if there is no such environment, if its spaces are not continuous vectors, if the length
            of its steps is unknown, or if it cannot be timed in this way.
    """
    timing = TaskTiming.of(timing)
    if render_mode is not None:  # an environment need not have this argument
        kwargs["render_mode"] = render_mode
    env = _make(env_id, kwargs)
    try:
        check_task(env)
        native = native_dt(env, timing.native if timing.native is not None else timing.dt)
        return with_timing(TimeStamp(env, native), timing, disturb)
    except UsageError:
        env.close()
        raise


def check_task(env: Env) -> None:
    """Check that observations are vectors of floats, and actions too, within finite bounds.

    Raises:
        UsageError: naming the space and what to do.
    """
    check_spaces(env.observation_space, env.action_space)
    for what, space in (("observations", env.observation_space), ("actions", env.action_space)):
        if not np.issubdtype(space.dtype, np.floating):
            remedy = "Convert them in your environment, with a Box of dtype float32."
            raise UsageError(f"{what} that are floats", space, remedy)


def bare_id(env_id: str) -> str:
    """Return ``id`` of ``module:id``, which is how the environment itself is registered."""
    return env_id.rpartition(":")[2]


def _make(env_id: str, kwargs: dict[str, Any]) -> Env:
    with current_folder_importable():
        _import_module_of(env_id)
        name = bare_id(env_id)
        if name not in gymnasium.registry and name.startswith(ROBOTICS_IDS):
            _import_robotics(env_id)
        if name not in gymnasium.registry:
            raise UsageError("the id of a registered environment", repr(env_id), _nearest(env_id))
        try:
            env = gymnasium.make(name, **kwargs)
        except (gymnasium.error.Error, ImportError) as error:
            remedy = "Install what it needs, or choose another task."
            raise UsageError("an environment that can be made", f"{env_id} ({error})", remedy) from error
    return FlatGoal(env) if FlatGoal.suits(env.observation_space) else env


def _import_robotics(env_id: str) -> None:
    if importlib.util.find_spec(ROBOTICS) is None:
        remedy = "Run pip install 'ode-rl[robotics]' in an environment of its own: it needs an older MuJoCo."
        raise UsageError(f"{ROBOTICS} for the task {env_id}", "no such package", remedy)
    gymnasium.register_envs(importlib.import_module(ROBOTICS))


def _import_module_of(env_id: str) -> None:
    module, colon, name = env_id.partition(":")
    if not colon:
        return
    if not module or not name or ":" in name:
        raise UsageError("ID or module:ID", repr(env_id), "Write for example my_tasks:my/Task-v0.")
    try:
        importlib.import_module(module)
    except Exception as error:  # a user's module may fail in any way while it is imported
        raise UsageError(
            f"a module {module!r} that can be imported from the current folder",
            f"{type(error).__name__}: {error}",
            f"Check that `python -c 'import {module}'` works here.",
        ) from error


def _nearest(env_id: str) -> str:
    module, colon, name = env_id.rpartition(":")
    matches = difflib.get_close_matches(name, gymnasium.registry, n=3, cutoff=0.5)
    if matches:
        return f"Did you mean {' or '.join(module + colon + match for match in matches)}?"
    return "See `ode-rl list`, or write module:ID for an environment that a module registers."


@contextmanager
def current_folder_importable() -> Iterator[None]:
    """Find modules in the current folder, as `python -m` does but an installed command does not."""
    folder = str(Path.cwd())
    added = not {"", folder} & set(sys.path)
    if added:
        sys.path.insert(0, folder)
    try:
        yield
    finally:
        if added:
            sys.path.remove(folder)
