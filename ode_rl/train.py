"""One training from the id of a task to a run folder."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

from ode_rl.agents.presets import load_preset
from ode_rl.agents.registry import AGENTS, CHOICES, LEAVE_OUT, TAKES, agent_class
from ode_rl.envs.guarded import Guarded
from ode_rl.envs.task import make_task
from ode_rl.envs.task_timing import TaskTiming
from ode_rl.errors import UsageError
from ode_rl.evaluate import Evaluation, evaluate_agent
from ode_rl.files import from_json, to_json, write_json
from ode_rl.load_agent import own_agent
from ode_rl.run import RunFolder
from ode_rl.settings import build, nearest, plain
from ode_rl.stops import Stops

if TYPE_CHECKING:
    from ode_rl.agents.learner import Learner
    from ode_rl.known import Known
else:  # a name for those who look at the types of the settings; the module itself loads torch
    Known = Any

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
    proposals: str | None = None
    """Whose plans the planner tries among its first."""
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
    eval_freq: int | None = None
    """Environment steps between two evaluations on the way (default: the preset's, else a fifth of all)."""
    curve_episodes: int = 5
    """Episodes of each evaluation on the way."""
    video: bool = True
    """Whether to record an episode at the end."""
    progress: bool = True
    """Whether to show a progress bar."""
    checkpoint_seconds: float = 30.0
    """Seconds of real time between two checkpoints, at least; each falls on the end of an episode."""
    step_timeout: float | None = None
    """Seconds of real time after which a step of the task hangs; None waits for ever."""

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
    envs, stops = _tasks(config, preset), Stops()
    with stops.installed():
        run = RunFolder.create(config.env_id, config.agent, config.seed, config.run_dir)
        with run.claimed():
            try:
                timing = plain(config.timing.resolved(envs[0]))
                agent = _build(config, _recorded(envs, config, run, anew=True))
                plan = _Plan(steps, _eval_freq(config, preset, steps), len(envs))
                resolved = {**asdict(plan), "timing": timing, "asked": _as_typed(config)}
                run.write_config({**agent.config, **_asked(config), **resolved})
            except BaseException:  # whatever it was, no training has begun
                run.discard()
                raise
            say(
                f"training {config.agent} on {config.env_id} for {steps} steps, seed {config.seed}, "
                f"in {run.path}"
            )
            return _trained(agent, config, plan, run, stops, resumed=False)


def check(config: TrainConfig) -> None:
    """Find out what no training could begin with, without beginning one.

    Raises:
        UsageError: as `train` would raise it.
    """
    if config.agent not in AGENTS:
        raise UsageError("the name of an agent", repr(config.agent), nearest(config.agent, AGENTS))
    _check_choices(config)
    _, preset = load_preset(config.agent, config.env_id, config.preset)
    _steps(config, preset)
    for env in _tasks(config, preset):
        env.close()


def asked_differs(run: RunFolder, config: TrainConfig) -> bool:
    """Whether a run was asked for with other settings than these, except for what does not change it."""
    beside = ("video", "progress", "checkpoint_seconds", "step_timeout")
    wanted = from_json(to_json(plain(_as_typed(config))), run.config)
    asked = run.read_config().get("asked")
    found = asked if isinstance(asked, dict) else {}
    return any(found.get(name) != value for name, value in wanted.items() if name not in beside)


def resume(
    run_dir: str | Path,
    known: Known | None = None,
    video: bool | None = None,
    progress: bool | None = None,
    say: Callable[[str], None] = print,
) -> TrainResult | None:
    """Go on with a training that was cut off; None if it had come to its end.

    What was recorded after the newest checkpoint is removed and lived again, with the same numbers where
    agent and task repeat themselves. Everything comes from ``config.json``, except `known`, which is code,
    and what is drawn.

    Raises:
        UsageError: for a folder that is no run, one that a process is writing, or damaged files.
        Interrupted: after Ctrl-C or SIGTERM; the newest checkpoint is whole.
    """
    run = RunFolder.open(run_dir)
    config, plan = _config_of(run)
    config = replace(config, known=known)
    config = replace(config, video=config.video if video is None else video)
    config = replace(config, progress=config.progress if progress is None else progress)
    if run.evaluation.is_file() and run.learning_curve.is_file():
        say(f"{run.path} has come to its end: nothing to resume")
        return None
    _check_choices(config)
    load_preset(config.agent, config.env_id, config.preset)
    envs, stops = _tasks(replace(config, num_envs=plan.num_envs), {}), Stops()
    with stops.installed(), run.claimed():
        checkpoint = run.checkpoint_to_resume()
        if checkpoint is None:
            run.begin_anew()
            agent = _build(config, _recorded(envs, config, run, anew=True))
        else:
            watched = _recorded(envs, config, run, anew=False)
            agent = own_agent(config.agent, checkpoint, config.device, config.known, watched)
        at = f"step {agent.num_timesteps} of {plan.steps}"
        say(f"resuming {config.agent} on {config.env_id} at {at}, seed {config.seed}, in {run.path}")
        return _trained(agent, config, plan, run, stops, resumed=checkpoint is not None)


@dataclass(frozen=True)
class _Plan:
    """What a training decided at its start."""

    steps: int
    eval_freq: int
    num_envs: int = 1


def _trained(
    agent: Learner, config: TrainConfig, plan: _Plan, run: RunFolder, stops: Stops, resumed: bool
) -> TrainResult:
    try:
        _learn(agent, config, plan, run, stops, resumed)
        return _results(agent, config, run)
    except KeyboardInterrupt as stop:
        raise Interrupted(run, getattr(stop, "exit_code", 130)) from stop
    except UsageError as error:
        remedy = f"{error.remedy} {_then(run, agent.num_timesteps)}"
        raise UsageError(error.expected, error.got, remedy) from error
    except OSError as error:
        got = f"{error.filename or run.path} ({error.strerror or error})"
        raise UsageError("a run folder that can be written", got, _then(run, agent.num_timesteps)) from error
    finally:
        if (env := agent.get_env()) is not None:
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


def _eval_freq(config: TrainConfig, preset: dict[str, Any], steps: int) -> int:
    if config.eval_freq is not None:
        return config.eval_freq
    return int(preset.get("eval_freq", max(1, steps // EVALUATIONS)))


def _tasks(config: TrainConfig, preset: dict[str, Any]) -> list[Env]:
    n = int(preset.get("n_envs", 1)) if config.num_envs is None else config.num_envs
    if n < 1:
        raise UsageError("at least one environment", n, "Write --num-envs 4.")
    timeout, leaves_out = config.step_timeout, config.agent in LEAVE_OUT
    if timeout is not None and not 0 < timeout < math.inf:
        raise UsageError("seconds > 0 for --step-timeout", timeout, "Write --step-timeout 60.")
    return [Guarded(make_task(config.env_id, config.timing), leaves_out, timeout) for _ in range(n)]


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
        "proposals",
        "precision",
        "known",
        "run_dir",
    )
    return {name: value for name, value in asdict(config).items() if name not in resolved}


def _as_typed(config: TrainConfig) -> dict[str, Any]:
    """What was asked for, as it was: what `resume` makes the same training of."""
    return {name: value for name, value in asdict(replace(config, known=None)).items() if name != "run_dir"}


def _config_of(run: RunFolder) -> tuple[TrainConfig, _Plan]:
    found = run.read_config()
    asked = found.get("asked")
    if not isinstance(asked, dict):
        got = f"{run.config}, which does not say what was asked for"
        raise UsageError("a run of this version or a newer one", got, "Train again.")
    config = build(TrainConfig, asked)
    if config.agent not in AGENTS:
        raise UsageError("the name of an agent", repr(config.agent), nearest(config.agent, AGENTS))
    decided = {name: found.get(name) for name in ("steps", "eval_freq", "num_envs")}
    if not all(type(value) is int and value > 0 for value in decided.values()):
        raise UsageError("steps, eval_freq and num_envs > 0", f"{decided} in {run.config}", "Train again.")
    return config, build(_Plan, decided)


def _recorded(envs: list[Env], config: TrainConfig, run: RunFolder, anew: bool) -> Any:
    """One environment, or several as a `VecEnv`, that can be repeated; each writes ``<i>.monitor.csv``."""
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv

    from ode_rl.envs import Repeatable

    watched: list[Env] = [
        Repeatable(Monitor(env, str(run.path / str(i)), override_existing=anew), config.seed, index=i)
        for i, env in enumerate(envs)
    ]
    if len(watched) == 1:
        return watched[0]
    return DummyVecEnv([lambda env=env: env for env in watched])  # type: ignore[misc]


def _build(config: TrainConfig, env: Any) -> Learner:
    from stable_baselines3.common.utils import set_random_seed

    set_random_seed(config.seed)  # a task may draw from the global streams
    agent: Learner = agent_class(config.agent)(
        env,
        preset=config.preset,
        seed=config.seed,
        device=config.device,
        dt=config.dt,
        **_chosen(config),
    )
    return agent


def _chosen(config: TrainConfig) -> dict[str, Any]:
    """The settings of an agent that were asked for."""
    model = {"structure": config.model, "termination": config.termination}
    chosen: dict[str, Any] = {
        "model": {name: value for name, value in model.items() if value is not None},
        "planner": {} if config.planner is None else {"method": config.planner},
        "proposals": config.proposals,
        "precision": config.precision,
        "known": config.known,
    }
    return {name: value for name, value in chosen.items() if value is not None and value != {}}


def _learn(
    agent: Learner, config: TrainConfig, plan: _Plan, run: RunFolder, stops: Stops, resumed: bool
) -> None:
    from stable_baselines3.common.logger import configure

    from ode_rl.callbacks import Evaluations, RunRecorder

    recorder = RunRecorder(run, config.checkpoint_seconds, stops)
    evaluations = Evaluations(
        run,
        config.env_id,
        plan.eval_freq,
        config.curve_episodes,
        timing=config.timing,
        stop_asked=stops.asked,
        step_timeout=config.step_timeout,
    )
    left: dict[str, Any] = {}
    if resumed:
        recorder.resume(agent)
        evaluations.resume(agent.num_timesteps)
        left = {"reset_num_timesteps": False}
    agent.set_logger(configure(str(run.tensorboard), ["tensorboard"]))
    agent.stop_asked = stops.asked
    with stops.gracefully():
        agent.learn(
            max(0, plan.steps - agent.num_timesteps) if resumed else plan.steps,
            callback=[recorder, evaluations],
            progress_bar=config.progress,
            **left,
        )
        stops.reached()
        recorder.save(agent)
    if stops.asked():
        stops.leave()
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


def _look_at(run: RunFolder) -> str:
    try:
        checkpoint = run.newest_checkpoint()
    except UsageError:
        return f"stopped before the first checkpoint. What was recorded lies in {run.path}"
    return (
        f"stopped. The newest checkpoint is {checkpoint}\n"
        f"look at it: ode-rl evaluate {run.path}\n"
        f"go on:      ode-rl train --resume {run.path}"
    )


def _then(run: RunFolder, steps: int) -> str:
    """How to go on after a failure at `steps`; a run without a checkpoint holds nothing worth keeping."""
    try:
        checkpoint = run.newest_checkpoint()
    except UsageError:
        run.discard()
        return "Then train again."
    return f"It came at step {steps}; {checkpoint} is whole. Then write: ode-rl train --resume {run.path}"
