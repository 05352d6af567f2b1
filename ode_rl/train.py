"""One training from the id of a task to a run folder."""

from __future__ import annotations

import importlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import gymnasium

from ode_rl.agents.presets import load_preset
from ode_rl.agents.registry import AGENTS, CHOICES, TAKES
from ode_rl.envs.task import make_task
from ode_rl.envs.task_timing import TaskTiming
from ode_rl.errors import UsageError
from ode_rl.evaluate import Evaluation, evaluate_agent
from ode_rl.files import write_json
from ode_rl.run import RunFolder
from ode_rl.settings import nearest, plain

if TYPE_CHECKING:
    from ode_rl.agents.learner import Learner
    from ode_rl.known import Known

DEFAULT_STEPS = 3000
EVALUATIONS = 5

Env = gymnasium.Env[Any, Any]


@dataclass(frozen=True)
class TrainConfig:
    """What a training is asked for; None leaves a choice to the preset."""

    env_id: str = "Pendulum-v1"
    """A Gymnasium id, or module:id for one that a module registers."""
    agent: str = "mpc"
    """Name of the agent."""
    preset: str | None = "auto"
    """Tuned settings: auto (those of the task, else the defaults for all), a name, or None."""
    model: str | None = None
    """Structure of the world model's vector field (default: the preset's, ode)."""
    termination: str | None = None
    """How the world model ends episodes."""
    planner: str | None = None
    """How plans are searched."""
    precision: str | None = None
    """Precision of planning."""
    known: Known | None = None
    """What is known of the task and need not be learned."""
    steps: int | None = None
    """Environment steps."""
    seed: int = 0
    """Seed of everything random."""
    run_dir: str | None = None
    """The run folder (default: a new one in runs/)."""
    device: str = "auto"
    """auto, cpu or cuda."""
    dt: float | None = None
    """Seconds per control interval; the step of a task that does not say it itself."""
    dt_range: tuple[float, float] | None = None
    """Draw each control interval from this range, in seconds."""
    action_delay: float = 0.0
    """Seconds until an action acts."""
    obs_delay: float = 0.0
    """Seconds until an observation is shown."""
    obs_dropout: float = 0.0
    """Probability that an observation is lost."""
    num_envs: int | None = None
    """Environments that are stepped together."""
    eval_episodes: int = 10
    """Episodes of the final evaluation."""
    video: bool = True
    """Whether to record an episode at the end."""
    progress: bool = True
    """Whether to show a progress bar."""

    @property
    def timing(self) -> TaskTiming:
        """How the task is timed."""
        return TaskTiming(self.dt, self.dt_range, self.action_delay, self.obs_delay, self.obs_dropout)


@dataclass(frozen=True)
class TrainResult:
    """What a training left; `video` is None if the task cannot render or none was asked for."""

    run: RunFolder
    evaluation: Evaluation
    learning_curve: Path
    video: Path | None


class Terminated(KeyboardInterrupt):
    """SIGTERM, as an exception, so that everything is closed as after Ctrl-C."""

    exit_code = 143


class Interrupted(KeyboardInterrupt):
    """A training that was stopped by Ctrl-C (exit code 130) or SIGTERM (143), and its folder."""

    def __init__(self, run: RunFolder, exit_code: int) -> None:
        self.run, self.exit_code = run, exit_code
        super().__init__(_look_at(run))


def train(config: TrainConfig, say: Callable[[str], None] = print) -> TrainResult:
    """Train an agent, evaluate it, and leave everything in a run folder.

    Raises:
        UsageError: for bad input, before anything is written.
        Interrupted: after Ctrl-C or SIGTERM; the newest checkpoint is whole.
    """
    if config.agent not in AGENTS:
        raise UsageError("the name of an agent", repr(config.agent), nearest(config.agent, AGENTS))
    _check_choices(config)
    _, preset = load_preset(config.agent, config.env_id, config.preset)
    steps = _steps(config, preset)
    envs = _tasks(config, preset)
    with _sigterm_as_exception():
        run = RunFolder.create(config.env_id, config.agent, config.seed, config.run_dir)
        try:
            timing = plain(config.timing.resolved(envs[0]))
            resolved = {"steps": steps, "num_envs": len(envs), "timing": timing}
            agent = _build(config, _monitored(envs, run), run)
            run.write_config({**agent.config, **_asked(config), **resolved})
        except BaseException:  # whatever it was, no training has begun
            run.discard()
            raise
        say(
            f"training {config.agent} on {config.env_id} for {steps} steps, seed {config.seed}, in {run.path}"
        )
        try:
            _learn(agent, config, preset, steps, run)
            return _results(agent, config, run)
        except KeyboardInterrupt as stop:
            raise Interrupted(run, getattr(stop, "exit_code", 130)) from stop
        finally:
            for env in envs:
                env.close()


def _check_choices(config: TrainConfig) -> None:
    """Refuse what was asked for and the agent has no use for."""
    for name in CHOICES:
        asked = getattr(config, name)
        if asked is not None and name not in TAKES.get(config.agent, ()):
            takers = " or ".join(f"--agent {agent}" for agent, takes in TAKES.items() if name in takes)
            remedy = f"Leave it out, or write {takers}."
            raise UsageError(f"no --{name} for the agent {config.agent}", asked, remedy)


def _steps(config: TrainConfig, preset: dict[str, Any]) -> int:
    default = preset.get("total_timesteps", preset.get("n_timesteps", DEFAULT_STEPS))
    steps = config.steps if config.steps is not None else int(default)
    if steps < 1:
        raise UsageError("at least one step", steps, "Write --steps 1000.")
    return steps


def _tasks(config: TrainConfig, preset: dict[str, Any]) -> list[Env]:
    n = int(preset.get("n_envs", 1)) if config.num_envs is None else config.num_envs
    if n < 1:
        raise UsageError("at least one environment", n, "Write --num-envs 4.")
    return [make_task(config.env_id, config.timing) for _ in range(n)]


def _asked(config: TrainConfig) -> dict[str, Any]:
    """What was asked for, without what the agent resolves: its preset, its device and the step time."""
    timing = ("dt", "dt_range", "action_delay", "obs_delay", "obs_dropout")
    resolved = (
        *timing,
        "preset",
        "device",
        "model",
        "termination",
        "planner",
        "precision",
        "known",
        "run_dir",
    )
    return {name: value for name, value in asdict(config).items() if name not in resolved}


def _monitored(envs: list[Env], run: RunFolder) -> Any:
    """One environment, or several as a `VecEnv`; each writes ``<number>.monitor.csv``."""
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv

    watched: list[Env] = [Monitor(env, str(run.path / str(i))) for i, env in enumerate(envs)]
    if len(watched) == 1:
        return watched[0]
    return DummyVecEnv([lambda env=env: env for env in watched])  # type: ignore[misc]


def _build(config: TrainConfig, env: Any, run: RunFolder) -> Learner:
    from stable_baselines3.common.logger import configure

    module, _, name = AGENTS[config.agent].partition(":")
    agent_class = getattr(importlib.import_module(module), name)
    agent: Learner = agent_class(
        env,
        preset=config.preset,
        seed=config.seed,
        device=config.device,
        dt=config.dt,
        **_chosen(config),
    )
    agent.set_logger(configure(str(run.tensorboard), ["tensorboard"]))
    return agent


def _chosen(config: TrainConfig) -> dict[str, Any]:
    """The settings of an agent that were asked for."""
    model = {"structure": config.model, "termination": config.termination}
    chosen: dict[str, Any] = {
        "model": {name: value for name, value in model.items() if value is not None},
        "planner": {} if config.planner is None else {"method": config.planner},
        "precision": config.precision,
        "known": config.known,
    }
    return {name: value for name, value in chosen.items() if value is not None and value != {}}


def _learn(agent: Learner, config: TrainConfig, preset: dict[str, Any], steps: int, run: RunFolder) -> None:
    from ode_rl.callbacks import Evaluations, RunRecorder

    eval_freq = int(preset.get("eval_freq", max(1, steps // EVALUATIONS)))
    callbacks = [RunRecorder(run), Evaluations(run, config.env_id, eval_freq, timing=config.timing)]
    agent.learn(steps, callback=callbacks, progress_bar=config.progress)
    agent.logger.close()


def _results(agent: Learner, config: TrainConfig, run: RunFolder) -> TrainResult:
    from ode_rl.plots import plot_learning_curve
    from ode_rl.video import record_video

    evaluation = evaluate_agent(
        agent, config.env_id, config.eval_episodes, timing=config.timing, agent_name=config.agent
    )
    write_json(run.evaluation, evaluation.to_json())
    curve = plot_learning_curve(run)
    video = record_video(agent, config.env_id, run.video, timing=config.timing) if config.video else None
    return TrainResult(run, evaluation, curve, video)


@contextmanager
def _sigterm_as_exception() -> Iterator[None]:
    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _look_at(run: RunFolder) -> str:
    try:
        checkpoint = run.newest_checkpoint()
    except UsageError:
        return f"stopped before the first checkpoint. What was recorded lies in {run.path}"
    return f"stopped. The newest checkpoint is {checkpoint}\nlook at it: ode-rl evaluate {run.path}"
