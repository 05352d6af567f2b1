"""Agents from outside this process: runs, saved files, and what users wrote themselves."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ode_rl.agents.registry import AGENTS, agent_class
from ode_rl.checkpoint import read_checkpoint
from ode_rl.envs.task import make_task
from ode_rl.envs.task_timing import TaskTiming, Timing
from ode_rl.errors import UsageError
from ode_rl.run import RunFolder
from ode_rl.sb3_file import holds_sb3, load_sb3
from ode_rl.settings import nearest
from ode_rl.types import Agent
from ode_rl.user_code import import_object

if TYPE_CHECKING:
    from ode_rl.known import Known


class LoadedAgent(NamedTuple):
    """An agent from outside this process, with what is known of the task it is for."""

    agent: Agent
    name: str
    env_id: str | None
    timing: TaskTiming | None = None


def load_agent(
    spec: str, device: str = "auto", known: Known | None = None, trust: bool = False
) -> LoadedAgent:
    """Load an agent from a run folder (its newest checkpoint), a saved file, or ``module:object``.

    The object has a `predict`, or makes one that has when called without arguments. `known` are the
    functions that the run was trained with: no file holds code. A file of Stable-Baselines3 holds pickles,
    and is loaded only with `trust`.

    Raises:
        UsageError: if there is nothing of the kind.
    """
    if Path(spec).is_file() and zipfile.is_zipfile(spec):
        return _from_file(Path(spec), device, known, trust)
    if Path(spec).exists():
        return _from_run(RunFolder.open(spec), device, known)
    if ":" in spec:
        return LoadedAgent(_from_module(spec), spec, None)
    raise UsageError("a run folder or module:object", repr(spec), "Look for the run with `ls runs`.")


def true_agent(
    env_id: str,
    timing: Timing = None,
    preset: str | None = "auto",
    planner: str | None = None,
    seed: int = 0,
    threads: int = 1,
) -> LoadedAgent:
    """The planner on the true dynamics of a task: nothing to train, the upper bound of learned models.

    It sees through wrappers: delays and lost observations are hidden from its simulator, not from it.

    Raises:
        UsageError: for an unknown task, preset or planner, or a task whose state cannot be copied.
    """
    from ode_rl.agents.true_mpc import TrueMPC
    from ode_rl.envs import TrueDynamics

    env = make_task(env_id, timing)
    simulator = TrueDynamics(env, threads)
    space: Any = env.action_space
    settings: dict[str, Any] = {} if planner is None else {"planner": {"method": planner}}
    interval = env.metadata.get("dt")
    agent = TrueMPC(simulator, env_id, space.low, space.high, preset, seed, interval, **settings)
    return LoadedAgent(agent, "mpc", env_id, TaskTiming.of(timing))


def _from_run(run: RunFolder, device: str, known: Known | None) -> LoadedAgent:
    config = run.read_config()
    name, env_id, dt = config.get("agent"), config.get("env_id"), config.get("dt")
    if not (isinstance(name, str) and isinstance(env_id, str) and isinstance(dt, int | float)):
        raise UsageError("a run that says agent, env_id and dt", run.config, "Train again.")
    if name not in AGENTS:
        agents = ", ".join(sorted(AGENTS))
        raise UsageError(
            f"a run of one of the agents {agents}", repr(name), "Install the version that wrote it."
        )
    checkpoint = run.newest_checkpoint()
    agent = own_agent(name, checkpoint, device, known)
    return LoadedAgent(agent, name, env_id, TaskTiming.read(config.get("timing"), float(dt)))


def _from_file(path: Path, device: str, known: Known | None, trust: bool) -> LoadedAgent:
    """An agent of Stable-Baselines3, or one that this package saved."""
    if holds_sb3(path):
        agent, name = load_sb3(path, trust, device)
        return LoadedAgent(agent, name, None)
    kind = read_checkpoint(path).kind
    if kind not in AGENTS:
        raise UsageError("a file of one of the agents", f"{kind!r} in {path}", nearest(kind, AGENTS))
    own = own_agent(kind, path, device, known)
    return LoadedAgent(own, kind, own.env_id, TaskTiming(native=float(own.dt)))


def own_agent(name: str, path: Path, device: str, known: Known | None, env: Any = None) -> Any:
    """The agent of this package with this name from its checkpoint; with `env` it can go on learning."""
    code = {} if known is None else {"known": known}
    return agent_class(name).load(path, env=env, device=device, **code)


def _from_module(spec: str) -> Agent:
    found = import_object(spec)
    if isinstance(found, type) or not hasattr(found, "predict"):
        found = _called(found, spec)
    if not callable(getattr(found, "predict", None)):
        got = f"{spec!r}, a {type(found).__name__}"
        raise UsageError(
            "an object with predict(obs, state, episode_start, deterministic)", got, "Add that method."
        )
    agent: Agent = found
    return agent


def _called(factory: Any, spec: str) -> Any:
    try:
        return factory()
    except TypeError as error:
        raise UsageError(
            "an agent, or a class or function that makes one without arguments",
            f"{spec!r} ({error})",
            "Write the name of such an object after the colon.",
        ) from error
