"""The command `ode-rl`: arguments are checked in full before anything heavy is loaded."""

from __future__ import annotations

import difflib
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ode_rl import __version__
from ode_rl.agents.registry import AGENTS
from ode_rl.errors import UsageError
from ode_rl.names import MODELS, PLANNERS, PROPOSALS, SWEEPS, TERMINATIONS
from ode_rl.settings import nearest

DEVICES = ("auto", "cpu", "cuda")

Action = Callable[[], int]
Decorator = Callable[[Any], Any]


def run() -> None:
    """Entry point of `ode-rl` and of `python -m ode_rl`."""
    sys.exit(main())


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 done, 2 bad input (one message, no traceback), 130 Ctrl-C, 143 SIGTERM.
    """
    try:
        action = commands.main(args=argv, prog_name="ode-rl", standalone_mode=False)
        return action() if callable(action) else 0
    except UsageError as error:
        return _fail(str(error))
    except click.ClickException as error:
        return _fail(_in_our_words(error))
    except (KeyboardInterrupt, click.Abort) as stop:
        print(f"\n{str(stop) or 'stopped'}", file=sys.stderr)
        return int(getattr(stop, "exit_code", 130))


# --- options -----------------------------------------------------------------------------------------------


def _number(
    flag: str,
    kind: type[int] | type[float],
    least: float,
    what: str,
    example: str,
    below: float = math.inf,
    **more: Any,
) -> Decorator:
    """An option that takes a number, and names itself and an example when it refuses one."""

    def check(context: click.Context, param: click.Parameter, value: str | None) -> float | None:
        try:
            number = None if value is None else kind(value)
        except ValueError:
            number = math.nan
        if number is not None and not least <= number < below:
            raise UsageError(f"{what} for {flag}", repr(value), f"Write {flag} {example}.")
        return number

    metavar = more.pop("metavar", "N" if kind is int else "P" if below < math.inf else "SECONDS")
    return click.option(flag, type=str, callback=check, metavar=metavar, show_default=True, **more)


def _choice(flag: str, names: Sequence[str], default: str | None, **more: Any) -> Decorator:
    """An option that takes one of a few names, and lists them when it refuses another."""

    def check(context: click.Context, param: click.Parameter, value: Any) -> Any:
        for each in value if isinstance(value, tuple) else (value,):
            if each is not None and each not in names:
                closest = (difflib.get_close_matches(each, names, 1, 0.5) or [default or names[0]])[0]
                raise UsageError(f"{' or '.join(names)} for {flag}", repr(each), f"Write {flag} {closest}.")
        return value

    metavar = "|".join(names)
    shown = default is not None
    return click.option(flag, callback=check, metavar=metavar, default=default, show_default=shown, **more)


_steps = _number(
    "--steps", int, 1, "a whole number > 0", "2000", help="Environment steps. [default: the preset's]"
)
_dt = _number(
    "--dt",
    float,
    1e-9,
    "seconds > 0",
    "0.05",
    help="Seconds that an action is held; the step of a task that does not say it. [default: the task's]",
)
_device = _choice("--device", DEVICES, "auto", help="Where to compute.")
_planner = _choice("--planner", PLANNERS, None, help="How plans are searched. [default: the preset's, icem]")
_known = click.option(
    "--known",
    metavar="MODULE:OBJECT",
    help="A Known: the task's own reward, termination or nominal dynamics, not to be learned.",
)
_preset = click.option(
    "--preset", default="auto", metavar="NAME|none", help="Tuned settings. [default: the task's]"
)


def _episodes(flag: str) -> Decorator:
    help = "Episodes to evaluate, each from a start seed of its own."
    return _number(flag, int, 1, "a whole number > 0", "10", default="10", help=help)


def _seed(default: str | None, help: str) -> Decorator:
    return _number("--seed", int, 0, "a whole number >= 0", "0", default=default, help=help)


def _dt_range(context: click.Context, param: click.Parameter, value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    try:
        lo, hi = (float(part) for part in value)
    except ValueError:
        lo = hi = math.nan
    if not (0 < lo < hi < math.inf):
        given = " ".join(value)
        raise UsageError("seconds 0 < LO < HI for --dt-range", given, "Write --dt-range 0.01 0.05.")
    return lo, hi


def _thresholds(context: click.Context, param: click.Parameter, value: Any) -> Any:
    """One return for all tasks, or returns by id."""
    by_id: dict[str, float] = {}
    for given in value:
        env_id, _, number = given.rpartition("=")
        try:
            by_id[env_id] = float(number)
        except ValueError:
            by_id[env_id] = math.nan
        if not math.isfinite(by_id[env_id]):
            raise UsageError("a return for --threshold", repr(given), "Write --threshold -200.")
    if "" in by_id and len(by_id) > 1:
        raise UsageError("one --threshold for all tasks, or ENV_ID=RETURN", "both", "Leave one of them out.")
    return by_id.get("", by_id or None)


def _seeds(context: click.Context, param: click.Parameter, value: str) -> list[int]:
    """Whole numbers and ranges of them, separated by commas."""
    seeds: dict[int, None] = {}
    for part in value.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash) and int(first) <= int(last or first)):
            raise UsageError("seeds as 0-4,7 for --seeds", repr(value), "Write --seeds 0-2.")
        seeds |= dict.fromkeys(range(int(first), int(last or first) + 1))
    return list(seeds)


def _varied(context: click.Context, param: click.Parameter, value: Any) -> dict[str, list[str]]:
    """Flags of a training by name, each with its values."""
    own = ("agent", "seed", "run-dir", "resume", "steps", "video", "no-video", "progress", "no-progress")
    known = [flag[2:] for each in train_command.params for flag in each.opts if flag.startswith("--")]
    found = {}
    for given in value:
        name, equals, values = given.partition("=")
        if not (equals and values) or name not in known or name in own:
            names = [name for name in known if name not in own]
            remedy = _did_you_mean(name, names, "Write --set model=ode,dt-mlp.")
            raise UsageError("NAME=VALUE,... with a flag of `ode-rl train` for --set", repr(given), remedy)
        found[name] = [each.strip() for each in values.split(",")]
    return found


def _timing(unsaid: str | None) -> Decorator:
    """The options of `TaskTiming`; `unsaid` is their default in words where it is not that of the task."""
    default = None if unsaid else "0"
    note = f" [default: {unsaid}]" if unsaid else ""
    options = (
        _dt,
        click.option(
            "--dt-range",
            nargs=2,
            type=str,
            metavar="LO HI",
            callback=_dt_range,
            help="Draw the seconds of every action uniformly from this range.",
        ),
        _number(
            "--action-delay",
            float,
            0.0,
            "seconds >= 0",
            "0.05",
            default=default,
            help=f"Seconds until an action acts.{note}",
        ),
        _number(
            "--obs-delay",
            float,
            0.0,
            "seconds >= 0",
            "0.05",
            default=default,
            help=f"Seconds until an observation is seen.{note}",
        ),
        _number(
            "--obs-dropout",
            float,
            0.0,
            "a probability 0 <= P < 1",
            "0.1",
            default=default,
            below=1.0,
            help=f"Probability that an observation is lost.{note}",
        ),
    )

    def decorated(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


# --- commands ----------------------------------------------------------------------------------------------


class _Group(click.Group):
    """A group that answers an unknown command with the nearest one."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if not args[0].startswith("-") and args[0] not in self.commands:
            known = ", ".join(self.commands)
            raise UsageError(f"a command ({known})", repr(args[0]), _did_you_mean(args[0], self.commands))
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Group, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, message="ode-rl %(version)s")
@click.pass_context
def commands(context: click.Context) -> None:
    """Continuous-time model-based reinforcement learning. Start with: ode-rl train Pendulum-v1"""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@commands.command("train", short_help="Train an agent on a task.")
@click.argument("env_id", default="Pendulum-v1")
@_choice("--agent", tuple(AGENTS), "mpc", help="What learns and acts.")
@_choice("--model", MODELS, None, help="The world model. [default: the preset's, ode]")
@_planner
@_choice(
    "--proposals",
    PROPOSALS,
    None,
    help="Whose plans the planner tries, too: those of a policy that the model teaches. [default: none]",
)
@_choice(
    "--termination",
    TERMINATIONS,
    None,
    help="How the world model ends episodes; auto takes the likelier way. [default: the preset's, auto]",
)
@_known
@_steps
@_seed("0", "Seed of everything random.")
@click.option("--run-dir", metavar="DIR", help="The run folder. [default: a new one in runs/]")
@_device
@_timing(None)
@_number(
    "--num-envs",
    int,
    1,
    "a whole number > 0",
    "4",
    help="Environments that are stepped together. [default: the preset's, 1]",
)
@_choice("--precision", ("auto", "float32"), None, help="Precision of planning. [default: auto]")
@_preset
@_episodes("--eval-episodes")
@click.option("--video/--no-video", default=True, help="Record an episode at the end. [default: video]")
@click.option("--progress/--no-progress", default=True, help="Show a progress bar. [default: progress]")
@_number(
    "--step-timeout",
    float,
    1e-3,
    "seconds > 0",
    "60",
    help="Seconds of real time after which a step of the task hangs. [default: never]",
)
@click.option(
    "--resume",
    metavar="RUN_DIR",
    help="Go on with a training that was cut off, task and all: with the same numbers, on a CPU.",
)
@click.pass_context
def train_command(context: click.Context, resume: str | None, **options: Any) -> Action:
    """Train an agent on ENV_ID (default Pendulum-v1): a Gymnasium id, or module:id for a task of your own."""
    if resume is not None:
        return lambda: _resume(resume, _given_to_resume(context, options))
    return lambda: _train(options)


@commands.command("evaluate", short_help="Evaluate a trained agent, or an object of yours.")
@click.argument("agent")
@click.option("--env", "env_id", metavar="ENV_ID", help="The task. [default: the one of the run]")
@_number(
    "--episodes",
    int,
    1,
    "a whole number > 0",
    "10",
    help="Episodes, each from a start seed of its own. [default: 10; 30 with --sweep]",
)
@_seed(None, "Seed of the first episode. [default: as after training]")
@click.option("--json", "json_file", metavar="FILE", help="Write the result to a file.")
@click.option(
    "--video",
    is_flag=True,
    help="Record the first episode, in the run folder or here; with --episodes up to 9 in a grid.",
)
@_choice(
    "--sweep",
    SWEEPS,
    None,
    multiple=True,
    help="Also in conditions that it was not trained in, into sweeps/ in the run folder or here. "
    "Say it again for another.",
)
@click.option(
    "--trust", is_flag=True, help="Load a file of Stable-Baselines3, whose pickles can run any code."
)
@_choice("--model", ("true",), None, help="For the agent mpc: true plans in the task itself, untrained.")
@_planner
@_preset
@_known
@_timing("as in training")
@_device
def evaluate_command(**options: Any) -> Action:
    """Evaluate AGENT: a run folder, a saved agent (of Stable-Baselines3 with --trust), module:object with a
    predict method, or mpc with --model true."""
    return lambda: _evaluate(**options)


@commands.command("report", short_help="Measure the world model of a run, in figures and numbers.")
@click.argument("run_dir")
@_number(
    "--episodes",
    int,
    2,
    "a whole number > 1",
    "6",
    default="6",
    help="Fresh episodes with the agent, and as many with random actions.",
)
@_seed(None, "Seed of the first episode. [default: one that no training used]")
@click.option("--video/--no-video", default=True, help="Draw real beside imagined. [default: video]")
@_known
@_device
def report_command(**options: Any) -> Action:
    """Measure the world model of the run in RUN_DIR on fresh episodes, into RUN_DIR/report; write all that is
    known of the run into one page, RUN_DIR/report.html."""
    return lambda: _report(**options)


@commands.command("compare", short_help="Compare runs: curves, profiles, who is better, how soon.")
@click.argument("run_dirs", nargs=-1, metavar="RUN_DIR...")
@click.option(
    "--threshold",
    multiple=True,
    callback=_thresholds,
    metavar="RETURN|ENV_ID=RETURN",
    help="A return that counts as solved, for all tasks or for one. [default: that of its registration]",
)
@click.option(
    "--out", default="comparison", show_default=True, metavar="DIR", help="The folder for the results."
)
def compare_command(**options: Any) -> Action:
    """Compare run folders, folders of them, or those in a CSV: a table, figures and comparison.json."""
    return lambda: _compare(**options)


@commands.command("sweep", short_help="Train many: tasks x agents x settings x seeds, on Ray.")
@click.argument("env_ids", nargs=-1, metavar="ENV_ID...")
@_choice("--agent", tuple(AGENTS), None, multiple=True, help="What learns and acts. [default: mpc]")
@click.option("--seeds", default="0-2", show_default=True, callback=_seeds, metavar="LIST", help="As 0-4,7.")
@click.option(
    "--set",
    "varied",
    multiple=True,
    callback=_varied,
    metavar="NAME=VALUE,...",
    help="A flag of `ode-rl train` and its values, as model=ode,dt-mlp or dt=0.02,0.05. "
    "Several times: all combinations.",
)
@_steps
@click.option("--dir", "folder", default="runs/sweep", show_default=True, metavar="DIR", help="For the runs.")
@click.option("--address", metavar="HOST:PORT", help="A Ray cluster. [default: this machine]")
@_number("--cpus", int, 1, "a whole number > 0", "2", help="Cores of this machine to use. [default: all]")
@_number("--cpus-per-trial", int, 1, "a whole number > 0", "1", default="1", help="Cores for each training.")
@_number(
    "--gpus-per-trial", float, 0, "a number >= 0", "0.5", default="0", metavar="N", help="GPUs, or shares."
)
@_number("--retries", int, 0, "a whole number >= 0", "3", default="3", help="Workers that each may lose.")
@click.option("--video/--no-video", default=False, help="Record an episode of each. [default: no-video]")
def sweep_command(**options: Any) -> Action:
    """Train every agent on every ENV_ID with every seed and setting; what was cut off goes on.

    The results are collected in DIR/results.csv, which `ode-rl compare` reads.
    """
    return lambda: _sweep(**options)


@commands.command("list", short_help="List agents, presets, models and planners.")
def list_command() -> Action:
    """List agents, the tasks that have presets, models and planners."""
    return _list


# --- what they do ------------------------------------------------------------------------------------------


def _train(options: dict[str, Any]) -> int:
    from ode_rl.train import TrainConfig, train
    from ode_rl.user_code import load_known

    return _trained(train(TrainConfig(**{**options, "known": load_known(options["known"])})))


def _resume(run_dir: str, given: dict[str, Any]) -> int:
    from ode_rl.run import RunFolder

    RunFolder.open(run_dir)
    from ode_rl.train import resume
    from ode_rl.user_code import load_known

    if "known" in given:
        given["known"] = load_known(given["known"])
    result = resume(run_dir, **given)
    return 0 if result is None else _trained(result)


def _given_to_resume(context: click.Context, options: dict[str, Any]) -> dict[str, Any]:
    """What was typed beside --resume; all that makes a training comes from the run."""
    typed = click.core.ParameterSource.COMMANDLINE
    given = {name: value for name, value in options.items() if context.get_parameter_source(name) is typed}
    if others := sorted(set(given) - {"known", "video", "progress"}):
        flag = "ENV_ID" if others[0] == "env_id" else f"--{others[0].replace('_', '-')}"
        got = f"{flag} {given[others[0]]}"
        raise UsageError("nothing beside --resume, as the rest comes from the run", got, f"Leave {flag} out.")
    return given


def _trained(result: Any) -> int:
    _summary(result.evaluation)
    print(f"run folder      {result.run.path}")
    print(f"learning curve  {result.learning_curve}")
    if result.video:
        print(f"video           {result.video}")
    return 0


def _evaluate(
    agent: str,
    env_id: str | None,
    episodes: int | None,
    seed: int | None,
    json_file: str | None,
    video: bool,
    sweep: tuple[str, ...],
    dt: float | None,
    dt_range: tuple[float, float] | None,
    action_delay: float | None,
    obs_delay: float | None,
    obs_dropout: float | None,
    **how: Any,
) -> int:
    from ode_rl.envs.task_timing import TaskTiming
    from ode_rl.evaluate import EVALUATION_SEED, evaluate_agent
    from ode_rl.files import write_json
    from ode_rl.video import record_video

    if json_file is not None:
        _check_writable(Path(json_file))
    given = {"action_delay": action_delay, "obs_delay": obs_delay, "obs_dropout": obs_dropout}
    said: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if dt is not None or dt_range is not None:
        said |= {"dt": dt, "dt_range": dt_range}
    loaded = _loaded(agent, env_id, TaskTiming(**said), **how)
    env_id = env_id or loaded.env_id
    if env_id is None:
        raise UsageError("the task of the agent", f"only {agent}", "Write --env ENV_ID.")
    timing = loaded.timing or TaskTiming()
    if env_id != loaded.env_id:
        timing = replace(timing, native=None)
    timing = replace(timing, **said)
    seed = EVALUATION_SEED if seed is None else seed
    folder = Path(agent) if Path(agent).is_dir() else Path()
    if sweep:
        from ode_rl.robustness import EPISODES, Robustness

        in_all = Robustness(loaded.agent, env_id, sweep, episodes or EPISODES, seed, timing, loaded.name)
        evaluation = in_all.reference
    else:
        evaluation = evaluate_agent(
            loaded.agent, env_id, episodes or 10, seed, timing=timing, agent_name=loaded.name
        )
    if json_file is not None:
        write_json(Path(json_file), evaluation.to_json())
    _summary(evaluation)
    for name in sweep:
        _sweep_through(in_all, name, folder / "sweeps")
    recorded = (loaded.agent, env_id, folder / "video.mp4", seed, timing)
    if video and (written := record_video(*recorded, episodes=episodes or 1)):
        print(f"video           {written}")
    return 0


def _sweep_through(robustness: Any, name: str, folder: Path) -> None:
    """Write a sweep while it goes on, so that one that is stopped leaves what it has; print its table."""
    from ode_rl.files import write_json
    from ode_rl.robustness_plots import plot_sweep
    from ode_rl.tables import sweep_heading, sweep_line

    folder.mkdir(parents=True, exist_ok=True)
    print(f"\n{sweep_heading(name)}")

    def on_step(result: Any, step: Any) -> None:
        write_json(folder / f"{name}.json", result.to_json())
        print(sweep_line(step), flush=True)

    result = robustness.run(name, on_step)
    print(plot_sweep(folder / f"{name}.png", result))


def _loaded(
    agent: str,
    env_id: str | None,
    timing: Any,
    model: str | None,
    planner: str | None,
    preset: str,
    known: str | None,
    device: str,
    trust: bool,
) -> Any:
    from ode_rl.evaluate import load_agent, true_agent
    from ode_rl.user_code import load_known

    if model is None:
        if agent in AGENTS and not Path(agent).exists():
            remedy = f"Write `ode-rl evaluate {agent} --env ENV_ID --model true`, or the folder of a run."
            raise UsageError("an agent that was trained, or that needs no training", repr(agent), remedy)
        if planner is not None:
            raise UsageError(
                "--planner together with --model true", planner, "Leave it out: a run has its own."
            )
        return load_agent(agent, device, load_known(known), trust)
    if agent != "mpc":
        raise UsageError("the agent mpc for --model true", repr(agent), "Write `ode-rl evaluate mpc`.")
    if env_id is None:
        raise UsageError("a task for --model true", "none", "Write --env Pendulum-v1.")
    return true_agent(env_id, timing, preset, planner)


def _report(
    run_dir: str, episodes: int, seed: int | None, video: bool, known: str | None, device: str
) -> int:
    from ode_rl.run import RunFolder

    run = RunFolder.open(run_dir)
    from ode_rl.report import REPORT_SEED, NoWorldModel, write_report
    from ode_rl.report_html import write_html
    from ode_rl.user_code import load_known

    print(f"measuring the world model of {run.path} on {2 * episodes} fresh episodes")
    seed = REPORT_SEED if seed is None else seed
    try:
        folder = write_report(run, episodes, seed, device, video, load_known(known))
    except NoWorldModel as error:
        if not run.evaluation.is_file():
            raise
        print(f"it has none: {error.got}")
    else:
        for path in sorted(folder.iterdir()):
            print(path)
    print(write_html(run))
    return 0


def _compare(run_dirs: tuple[str, ...], threshold: Any, out: str) -> int:
    from ode_rl.compare import compare
    from ode_rl.run_results import find_runs, read_runs

    folders = find_runs(run_dirs)
    _check_folder(Path(out))
    runs, left_out = read_runs(folders)
    comparison, groups = compare(runs, threshold)
    from ode_rl.compare_plots import plot_curves, plot_improvement, plot_profiles
    from ode_rl.files import write_json
    from ode_rl.tables import comparison_lines

    for row in left_out:
        print(f"left out {row['run']}: {row['why']}")
    print("\n".join(comparison_lines(comparison)))
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "comparison.json", {**comparison, "left_out": left_out})
    print(f"\n{folder / 'comparison.json'}")
    print(plot_curves(folder / "curves.png", comparison, groups))
    if comparison["profiles"]["tasks"]:
        print(plot_profiles(folder / "profiles.png", comparison))
    if comparison["improvement"]:
        print(plot_improvement(folder / "improvement.png", comparison))
    return 0


def _sweep(
    env_ids: tuple[str, ...],
    agent: tuple[str, ...],
    seeds: list[int],
    varied: dict[str, list[str]],
    steps: int | None,
    folder: str,
    address: str | None,
    cpus: int | None,
    cpus_per_trial: int,
    gpus_per_trial: float,
    retries: int,
    video: bool,
) -> int:
    if not env_ids:
        raise UsageError("at least one task", "none", "Write `ode-rl sweep Pendulum-v1`.")
    if address is not None and cpus is not None:
        raise UsageError("--cpus or --address", "both", "Leave --cpus out: the cluster knows its cores.")
    if address is None and cpus_per_trial > (available := cpus or os.cpu_count() or 1):
        got = f"{cpus_per_trial} of {available}"
        raise UsageError("--cpus-per-trial within --cpus", got, f"Write --cpus-per-trial {available}.")
    _check_folder(Path(folder), "--dir runs/sweep")
    from ode_rl.sweep import RESULTS, Resources, check_trials, make_trials, run_sweep
    from ode_rl.sweep_table import live_table

    fixed = [*([] if steps is None else ["--steps", str(steps)]), "--video" if video else "--no-video"]

    def parse(env_id: str, name: str, seed: int, settings: Any) -> Any:
        argv = [env_id, "--agent", name, "--seed", str(seed), *fixed]
        for flag, value in settings.items():
            argv += [f"--{flag}", *value.split()]
        return _parsed(argv)

    results = Path(folder) / RESULTS
    trials = make_trials(env_ids, agent or ("mpc",), seeds, varied, Path(folder), parse)
    check_trials(trials)
    with live_table() as watch:
        resources = Resources(cpus_per_trial, gpus_per_trial, retries)
        try:
            outcomes = run_sweep(trials, Path(folder), resources, address, cpus, watch)
        except KeyboardInterrupt as stop:
            stop.args = (f"stopped. What is done stands in {results}; the same command goes on.",)
            raise
    print(f"results         {results}\ncompare         ode-rl compare {results}")
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    if failed:
        got = f"{len(failed)} of {len(outcomes)} failed, first {failed[0].trial.name} ({failed[0].message})"
        raise UsageError("trials that can be trained", got, "Mend it and run the same command again.")
    return 0


def _parsed(argv: list[str]) -> Any:
    """The `TrainConfig` of the arguments of ``ode-rl train``, and the name of what is known."""
    from ode_rl.train import TrainConfig

    options = dict(train_command.make_context("ode-rl train", argv).params)
    options.pop("resume")
    known = options.pop("known")
    return TrainConfig(**options), known


def _summary(evaluation: Any) -> None:
    from ode_rl.tables import evaluation_lines

    print("\n".join(evaluation_lines(evaluation)))


def _list() -> int:
    from ode_rl.agents.presets import preset_ids

    for agent in AGENTS:
        print(f"agent     {agent}")
        print(f"presets   {', '.join(preset_ids(agent))}; any other task: default")
    print(f"models    {', '.join(MODELS)}")
    print(f"planners  {', '.join(PLANNERS)}")
    print("tasks     any Gymnasium id with vector observations and continuous actions, or module:id")
    return 0


# --- messages ----------------------------------------------------------------------------------------------


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def _in_our_words(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "ode-rl"
    remedy = f"See `{path} --help`."
    if isinstance(error, click.NoSuchOption):
        flags = [flag for param in context.command.params for flag in param.opts] if context else []
        hint = _did_you_mean(error.option_name, flags, remedy)
        return f"expected a flag of `{path}`, got {error.option_name}. {hint}"
    if isinstance(error, click.MissingParameter) and error.param:
        return f"expected {(error.param.name or '').upper()} after `{path}`, got nothing. {remedy}"
    reason = error.format_message().removeprefix("Got ").rstrip(".")
    return f"expected arguments that `{path}` knows, got {reason[:1].lower()}{reason[1:]}. {remedy}"


def _did_you_mean(name: str, known: Iterable[str], otherwise: str = "See `ode-rl --help`.") -> str:
    return nearest(name, known, n=2, cutoff=0.7, otherwise=otherwise)


def _check_writable(path: Path) -> None:
    """Find out before a long evaluation that its result could not be written."""
    if path.is_dir() or not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        raise UsageError("a file that can be written for --json", path, "Write --json result.json.")


def _check_folder(path: Path, example: str = "--out comparison") -> None:
    """Find out that a folder could not be made or written."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        flag = example.split()[0]
        raise UsageError(f"a folder that can be written for {flag}", path, f"Write {example}.")
