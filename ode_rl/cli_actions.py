"""What the commands do, once their arguments were checked; heavy imports are made here, when they are due."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ode_rl.agents.registry import AGENTS
from ode_rl.errors import UsageError
from ode_rl.names import MODELS, PLANNERS


def train_action(options: dict[str, Any]) -> int:
    from ode_rl.train import TrainConfig, train
    from ode_rl.user_code import load_known

    return _trained(train(TrainConfig(**{**options, "known": load_known(options["known"])})))


def resume_action(run_dir: str, given: dict[str, Any]) -> int:
    from ode_rl.run import RunFolder

    RunFolder.open(run_dir)
    from ode_rl.train import resume
    from ode_rl.user_code import load_known

    if "known" in given:
        given["known"] = load_known(given["known"])
    result = resume(run_dir, **given)
    return 0 if result is None else _trained(result)


def _trained(result: Any) -> int:
    _summary(result.evaluation)
    print(f"run folder      {result.run.path}")
    print(f"learning curve  {result.learning_curve}")
    if result.video:
        print(f"video           {result.video}")
    return 0


def evaluate_action(
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
    from ode_rl.load_agent import load_agent, true_agent
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


def report_action(
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


def distill_action(
    run_dir: str,
    rounds: int,
    improve: int,
    dt_ratios: tuple[float, ...],
    out: str | None,
    episodes: int,
    known: str | None,
    device: str,
) -> int:
    from ode_rl.agents import MPC, ODEPolicy
    from ode_rl.envs.task import make_task
    from ode_rl.evaluate import evaluate_agent
    from ode_rl.load_agent import load_agent
    from ode_rl.run import RunFolder
    from ode_rl.user_code import load_known

    path = Path(out or RunFolder.open(run_dir).path / "policy.zip")
    if path.suffix != ".zip":
        raise UsageError("a file ending with .zip for --out", path, "Write --out policy.zip.")
    _check_writable(path, "--out policy.zip")
    loaded = load_agent(run_dir, device, load_known(known))
    if not isinstance(loaded.agent, MPC) or loaded.env_id is None:
        remedy = "Give the folder of a training with --agent mpc."
        raise UsageError("a run of mpc, which has a planner", f"one of {loaded.name}", remedy)
    loaded.agent.set_env(make_task(loaded.env_id, loaded.timing))
    print(f"asking the planner of {run_dir} in {rounds} rounds", flush=True)
    policy = ODEPolicy.distilled(loaded.agent, improve, {"rounds": rounds, "ratios": dt_ratios})
    policy.save(path)
    _summary(evaluate_agent(policy, loaded.env_id, episodes, timing=loaded.timing, agent_name=policy.name))
    print(f"policy          {path}")
    return 0


def compare_action(run_dirs: tuple[str, ...], threshold: Any, out: str) -> int:
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


def sweep_action(
    parse_training: Callable[[list[str]], Any],
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
        return parse_training(argv)

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


def _summary(evaluation: Any) -> None:
    from ode_rl.tables import evaluation_lines

    print("\n".join(evaluation_lines(evaluation)))


def list_action() -> int:
    from ode_rl.agents.presets import preset_ids

    for agent in AGENTS:
        print(f"agent     {agent}")
        print(f"presets   {', '.join(preset_ids(agent))}; any other task: default")
    print(f"models    {', '.join(MODELS)}")
    print(f"planners  {', '.join(PLANNERS)}")
    print("tasks     any Gymnasium id with vector observations and continuous actions, or module:id")
    return 0


def _check_writable(path: Path, example: str = "--json result.json") -> None:
    """Find out before a long computation that its result could not be written."""
    if path.is_dir() or not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        flag = example.split()[0]
        raise UsageError(f"a file that can be written for {flag}", path, f"Write {example}.")


def _check_folder(path: Path, example: str = "--out comparison") -> None:
    """Find out that a folder could not be made or written."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        flag = example.split()[0]
        raise UsageError(f"a folder that can be written for {flag}", path, f"Write {example}.")
