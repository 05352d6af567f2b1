"""The command `ode-rl`: arguments are checked in full before anything heavy is loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import click

from ode_rl import __version__
from ode_rl import cli_options as opt
from ode_rl.agents.registry import AGENTS
from ode_rl.cli_actions import (
    compare_action,
    distill_action,
    evaluate_action,
    list_action,
    report_action,
    resume_action,
    sweep_action,
    train_action,
)
from ode_rl.errors import UsageError
from ode_rl.names import MODELS, PROPOSALS, SWEEPS, TERMINATIONS
from ode_rl.settings import nearest

Action = Callable[[], int]


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


def _did_you_mean(name: str, known: Iterable[str], otherwise: str = "See `ode-rl --help`.") -> str:
    return nearest(name, known, n=2, cutoff=0.7, otherwise=otherwise)


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
@opt.choice("--agent", tuple(AGENTS), "mpc", help="What learns and acts.")
@opt.choice("--model", MODELS, None, help="The world model. [default: the preset's, ode]")
@opt.planner
@opt.choice(
    "--proposals",
    PROPOSALS,
    None,
    help="Whose plans the planner tries, too: those of a policy that the model teaches. [default: none]",
)
@opt.choice(
    "--termination",
    TERMINATIONS,
    None,
    help="How the world model ends episodes; auto takes the likelier way. [default: the preset's, auto]",
)
@opt.known
@opt.steps
@opt.seed("0", "Seed of everything random.")
@click.option("--run-dir", metavar="DIR", help="The run folder. [default: a new one in runs/]")
@opt.device
@opt.timing(None)
@opt.number(
    "--num-envs",
    int,
    1,
    "a whole number > 0",
    "4",
    help="Environments that are stepped together. [default: the preset's, 1]",
)
@opt.choice("--precision", ("auto", "float32"), None, help="Precision of planning. [default: auto]")
@opt.preset
@opt.episodes("--eval-episodes")
@click.option("--video/--no-video", default=True, help="Record an episode at the end. [default: video]")
@click.option("--progress/--no-progress", default=True, help="Show a progress bar. [default: progress]")
@opt.number(
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
def train_command(context: click.Context, resume: str | None, **given: Any) -> Action:
    """Train an agent on ENV_ID (default Pendulum-v1): a Gymnasium id, or module:id for a task of your own."""
    if resume is not None:
        return lambda: resume_action(resume, _given_to_resume(context, given))
    return lambda: train_action(given)


@commands.command("evaluate", short_help="Evaluate a trained agent, or an object of yours.")
@click.argument("agent")
@click.option("--env", "env_id", metavar="ENV_ID", help="The task. [default: the one of the run]")
@opt.number(
    "--episodes",
    int,
    1,
    "a whole number > 0",
    "10",
    help="Episodes, each from a start seed of its own. [default: 10; 30 with --sweep]",
)
@opt.seed(None, "Seed of the first episode. [default: as after training]")
@click.option("--json", "json_file", metavar="FILE", help="Write the result to a file.")
@click.option(
    "--video",
    is_flag=True,
    help="Record the first episode, in the run folder or here; with --episodes up to 9 in a grid.",
)
@opt.choice(
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
@opt.choice("--model", ("true",), None, help="For the agent mpc: true plans in the task itself, untrained.")
@opt.planner
@opt.preset
@opt.known
@opt.timing("as in training")
@opt.device
def evaluate_command(**given: Any) -> Action:
    """Evaluate AGENT: a run folder, a saved agent (of Stable-Baselines3 with --trust), module:object with a
    predict method, or mpc with --model true."""
    return lambda: evaluate_action(**given)


@commands.command("report", short_help="Measure the world model of a run, in figures and numbers.")
@click.argument("run_dir")
@opt.number(
    "--episodes",
    int,
    2,
    "a whole number > 1",
    "6",
    default="6",
    help="Fresh episodes with the agent, and as many with random actions.",
)
@opt.seed(None, "Seed of the first episode. [default: one that no training used]")
@click.option("--video/--no-video", default=True, help="Draw real beside imagined. [default: video]")
@opt.known
@opt.device
def report_command(**given: Any) -> Action:
    """Measure the world model of the run in RUN_DIR on fresh episodes, into RUN_DIR/report; write all that is
    known of the run into one page, RUN_DIR/report.html."""
    return lambda: report_action(**given)


@commands.command("distill", short_help="Teach a policy what the planner of a run does.")
@click.argument("run_dir")
@opt.number(
    "--rounds",
    int,
    1,
    "a whole number > 0",
    "8",
    default="8",
    help="Rounds in which the planner is asked where the policy comes in the world model.",
)
@opt.number(
    "--improve",
    int,
    0,
    "a whole number >= 0",
    "4",
    default="0",
    help="Rounds of learning by the gradient of the world model afterwards.",
)
@click.option(
    "--dt-ratios",
    metavar="R,R,...",
    default="1",
    show_default=True,
    callback=opt.ratios,
    help="Control intervals at which the policy shall act, in those of the training: 0.5,1,2,4.",
)
@click.option(
    "--out", metavar="FILE", help="Where the policy is saved, ending with .zip. [default: RUN_DIR/policy.zip]"
)
@opt.episodes("--episodes")
@opt.known
@opt.device
def distill_command(**given: Any) -> Action:
    """Teach a policy, which acts without planning, what the planner in RUN_DIR does; save and evaluate it."""
    return lambda: distill_action(**given)


@commands.command("compare", short_help="Compare runs: curves, profiles, who is better, how soon.")
@click.argument("run_dirs", nargs=-1, metavar="RUN_DIR...")
@click.option(
    "--threshold",
    multiple=True,
    callback=opt.thresholds,
    metavar="RETURN|ENV_ID=RETURN",
    help="A return that counts as solved, for all tasks or for one. [default: that of its registration]",
)
@click.option(
    "--out", default="comparison", show_default=True, metavar="DIR", help="The folder for the results."
)
def compare_command(**given: Any) -> Action:
    """Compare run folders, folders of them, or those in a CSV: a table, figures and comparison.json."""
    return lambda: compare_action(**given)


@commands.command("sweep", short_help="Train many: tasks x agents x settings x seeds, on Ray.")
@click.argument("env_ids", nargs=-1, metavar="ENV_ID...")
@opt.choice("--agent", tuple(AGENTS), None, multiple=True, help="What learns and acts. [default: mpc]")
@click.option(
    "--seeds", default="0-2", show_default=True, callback=opt.seeds, metavar="LIST", help="As 0-4,7."
)
@click.option(
    "--set",
    "varied",
    multiple=True,
    callback=_varied,
    metavar="NAME=VALUE,...",
    help="A flag of `ode-rl train` and its values, as model=ode,dt-mlp or dt=0.02,0.05. "
    "Several times: all combinations.",
)
@opt.steps
@click.option("--dir", "folder", default="runs/sweep", show_default=True, metavar="DIR", help="For the runs.")
@click.option("--address", metavar="HOST:PORT", help="A Ray cluster. [default: this machine]")
@opt.number("--cpus", int, 1, "a whole number > 0", "2", help="Cores of this machine to use. [default: all]")
@opt.number(
    "--cpus-per-trial", int, 1, "a whole number > 0", "1", default="1", help="Cores for each training."
)
@opt.number(
    "--gpus-per-trial", float, 0, "a number >= 0", "0.5", default="0", metavar="N", help="GPUs, or shares."
)
@opt.number("--retries", int, 0, "a whole number >= 0", "3", default="3", help="Workers that each may lose.")
@click.option("--video/--no-video", default=False, help="Record an episode of each. [default: no-video]")
def sweep_command(**given: Any) -> Action:
    """Train every agent on every ENV_ID with every seed and setting; what was cut off goes on.

    The results are collected in DIR/results.csv, which `ode-rl compare` reads.
    """
    return lambda: sweep_action(_parsed, **given)


@commands.command("list", short_help="List agents, presets, models and planners.")
def list_command() -> Action:
    """List agents, the tasks that have presets, models and planners."""
    return list_action


def _given_to_resume(context: click.Context, options: dict[str, Any]) -> dict[str, Any]:
    """What was typed beside --resume; all that makes a training comes from the run."""
    typed = click.core.ParameterSource.COMMANDLINE
    given = {name: value for name, value in options.items() if context.get_parameter_source(name) is typed}
    if others := sorted(set(given) - {"known", "video", "progress"}):
        flag = "ENV_ID" if others[0] == "env_id" else f"--{others[0].replace('_', '-')}"
        got = f"{flag} {given[others[0]]}"
        raise UsageError("nothing beside --resume, as the rest comes from the run", got, f"Leave {flag} out.")
    return given


def _parsed(argv: list[str]) -> Any:
    """The `TrainConfig` of the arguments of ``ode-rl train``, and the name of what is known."""
    from ode_rl.train import TrainConfig

    options = dict(train_command.make_context("ode-rl train", argv).params)
    options.pop("resume")
    known = options.pop("known")
    return TrainConfig(**options), known


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
