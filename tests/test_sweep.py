"""Sweeps: which trials there are, what is refused, and that a worker that dies costs nothing but time."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import ode_rl.train
from ode_rl.cli import _parsed, main
from ode_rl.errors import UsageError
from ode_rl.files import write_json
from ode_rl.run import Episode, RunFolder
from ode_rl.run_results import find_runs
from ode_rl.sweep import Outcome, Resources, Trial, check_trials, make_trials, run_sweep
from ode_rl.sweep_table import live_table, table
from ode_rl.train import TrainConfig, train

CART = "tests.own_tasks:own/SpringCart-v0"


def parse(env_id: str, agent: str, seed: int, settings: Any) -> Any:
    argv = [env_id, "--agent", agent, "--seed", str(seed), "--no-video"]
    return _parsed([*argv, *(part for key, value in settings.items() for part in (f"--{key}", value))])


def trials(
    folder: Path, varied: dict[str, Sequence[str]] | None = None, agents: Any = ("mpc",)
) -> list[Trial]:
    return make_trials(["Pendulum-v1"], agents, [0, 1], varied or {}, folder, parse)


# --- trials ------------------------------------------------------------------------------------------------


def test_there_is_a_trial_for_every_combination(tmp_path: Path) -> None:
    varied = {"model": ["ode", "dt-mlp"], "dt": ["0.05", "0.1", "0.2"]}
    found = make_trials(["Pendulum-v1", "Reacher-v5"], ["mpc"], [0, 1, 2], varied, tmp_path, parse)
    assert len(found) == len({trial.run_dir for trial in found}) == 2 * 2 * 3 * 3
    one = next(trial for trial in found if trial.name == "Reacher-v5__mpc__model-dt-mlp__dt-0.1__2")
    assert (one.config.env_id, one.config.model, one.config.dt, one.config.seed) == (
        "Reacher-v5",
        "dt-mlp",
        0.1,
        2,
    )
    assert not one.config.progress


def test_a_setting_that_an_agent_has_no_use_for_makes_no_trials_of_it(tmp_path: Path) -> None:
    found = trials(tmp_path, {"model": ["ode", "dt-mlp"]}, ("mpc", "sac"))
    assert sum(trial.config.agent == "mpc" for trial in found) == 4
    assert [trial.name for trial in found if trial.config.agent == "sac"] == [
        "Pendulum-v1__sac__0",
        "Pendulum-v1__sac__1",
    ]


def finished(trial: Trial, mean: float = -1.0) -> RunFolder:
    """A run folder as a training with these settings leaves it."""
    run = RunFolder.create(trial.config.env_id, trial.config.agent, trial.config.seed, trial.run_dir)
    from ode_rl.train import _as_typed

    asked = _as_typed(trial.config)
    run.write_config({"env_id": "Pendulum-v1", "agent": "mpc", "seed": 0, "steps": 9, "asked": asked})
    write_json(run.evaluation, {"mean_return": mean, "std_return": 0.5, "returns": [mean]})
    run.learning_curve.touch()
    return run


def test_what_is_finished_is_not_trained_again_and_the_table_of_results_leads_to_the_runs(
    tmp_path: Path,
) -> None:
    """No Ray is started for it."""
    found = trials(tmp_path, {"dt": ["0.05"]})
    for trial in found:
        finished(trial, -3.0)
    check_trials(found)
    seen: list[str] = []
    outcomes = run_sweep(found, tmp_path, watch=lambda now: seen.extend(outcome.state for outcome in now))
    assert [outcome.state for outcome in outcomes] == seen == ["done", "done"]
    with open(tmp_path / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["env_id"], row["agent"], row["seed"], row["dt"]) for row in rows] == [
        ("Pendulum-v1", "mpc", "0", "0.05"),
        ("Pendulum-v1", "mpc", "1", "0.05"),
    ]
    assert {(row["state"], row["mean_return"]) for row in rows} == {("done", "-3.0")}
    assert [run.path for run in find_runs([str(tmp_path / "results.csv")])] == [t.run_dir for t in found]


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    (first, _) = trials(tmp_path)
    finished(first)
    changed = replace(first, config=replace(first.config, steps=17))
    with pytest.raises(UsageError, match="Choose another --dir"):
        check_trials([changed])
    check_trials([replace(first, config=replace(first.config, video=True))])


# --- the table ---------------------------------------------------------------------------------------------


def test_the_table_shows_how_far_each_trial_is(tmp_path: Path) -> None:
    outcomes = [Outcome(trial) for trial in trials(tmp_path, {"dt": ["0.05", "0.1"]})]
    finished(outcomes[0].trial)
    outcomes[0].state, outcomes[0].evaluation = "done", {"mean_return": -3.25}
    outcomes[1].state = "running"
    run = finished(outcomes[1].trial)
    run.append_episode(Episode(1, 200, 10.0, -987.5, 200, False, 1.0))
    outcomes[2].state, outcomes[2].message = "failed", "why"
    console = Console(file=io.StringIO(), width=120)
    console.print(table(outcomes))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for expected in ("1 running", "1 done", "1 failed", "1 waiting", "-3.25 (final)", "200", "-987.50"):
        assert expected in text, expected


def test_where_there_is_no_terminal_each_end_is_one_line(tmp_path: Path) -> None:
    outcomes = [Outcome(trial) for trial in trials(tmp_path)]
    console = Console(file=io.StringIO(), width=40)
    with live_table(console) as watch:
        watch(outcomes)
        outcomes[1].state, outcomes[1].evaluation = "done", {"mean_return": 2.0}
        watch(outcomes)
        outcomes[0].state, outcomes[0].message = "failed", "expected [x], got y"
        watch(outcomes)
        watch(outcomes)
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "Pendulum-v1__mpc__1: done, mean return 2.00  [1/2]",
        "Pendulum-v1__mpc__0: failed (expected [x], got y)  [2/2]",
    ]


# --- the command line --------------------------------------------------------------------------------------

BAD = {
    "no task": ([], "Write `ode-rl sweep Pendulum-v1`."),
    "unknown task": (["Pendulun-v1"], "Did you mean Pendulum-v1"),
    "unknown agent": (["Pendulum-v1", "--agent", "mcp"], "Write --agent mpc."),
    "seeds of words": (["Pendulum-v1", "--seeds", "a"], "Write --seeds 0-2."),
    "seeds upside down": (["Pendulum-v1", "--seeds", "3-1"], "Write --seeds 0-2."),
    "negative seeds": (["Pendulum-v1", "--seeds", "-1"], "Write --seeds 0-2."),
    "unknown setting": (["Pendulum-v1", "--set", "modle=ode"], "Did you mean model?"),
    "setting without value": (["Pendulum-v1", "--set", "model"], "NAME=VALUE"),
    "setting that is a flag of its own": (["Pendulum-v1", "--set", "seed=3"], "NAME=VALUE"),
    "bad value of a setting": (["Pendulum-v1", "--set", "dt=0.05,fast"], "Write --dt 0.05."),
    "unknown model": (["Pendulum-v1", "--set", "model=od"], "Write --model ode."),
    "an interval that the task cannot take": (["Pendulum-v1", "--set", "dt=0.07"], "Write 0.05 or 0.1"),
    "no cluster": (["Pendulum-v1", "--address", "127.0.0.1:1"], "a Ray cluster at 127.0.0.1:1"),
    "no cluster anywhere": (["Pendulum-v1", "--address", "auto"], "a Ray cluster at auto"),
    "no address": (["Pendulum-v1", "--address", "nowhere.invalid:6379"], "a Ray cluster at nowhere"),
    "cluster and cores": (["Pendulum-v1", "--address", "auto", "--cpus", "1"], "Leave --cpus out"),
    "more cores than there are": (
        ["Pendulum-v1", "--cpus", "1", "--cpus-per-trial", "2"],
        "--cpus-per-trial 1",
    ),
    "a file for a folder": (["Pendulum-v1", "--dir", "file/x"], "Write --dir runs/sweep."),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message_and_exit_code_2(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    if "--address" in BAD[case][0]:
        pytest.importorskip("ray", reason="ray is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "file").touch()
    argv, message = BAD[case]
    assert main(["sweep", *argv]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: expected ")
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# --- on Ray ------------------------------------------------------------------------------------------------


def holder(folder: Path) -> int | None:
    """The process that holds a run folder open."""
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(descriptor) == str(folder) and int(descriptor.parts[2]) != os.getpid():
                return int(descriptor.parts[2])
        except OSError:  # gone in the meantime, or somebody else's
            continue
    return None


def rows_of(folder: Path) -> list[dict[str, str]]:
    rows = RunFolder(folder).episodes
    if not rows.is_file():
        return []
    with open(rows, newline="") as file:
        return [{k: v for k, v in row.items() if k != "wall_s"} for row in csv.DictReader(file)]


def kill_once(folder: Path, killed: list[int]) -> None:
    """Kill the process that trains in `folder` when it has recorded two episodes."""
    for _ in range(30_000):
        rows = len(rows_of(folder))
        if rows >= 2 and (pid := holder(folder)):
            os.kill(pid, signal.SIGKILL)
            killed.append(rows)
            return
        time.sleep(0.02)


@pytest.mark.slow
def test_a_trial_whose_worker_is_killed_ends_as_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    from ray.cluster_utils import Cluster

    # The module of the task changes this, here as in the workers; both are as before afterwards.
    monkeypatch.setattr(ode_rl.train, "_chosen", ode_rl.train._chosen)
    monkeypatch.delitem(sys.modules, "tests.slow_tasks", raising=False)
    settings: dict[str, Any] = {"preset": None, "steps": 240, "eval_episodes": 1, "checkpoint_seconds": 0.0}
    settings |= {"video": False, "progress": False}
    task = "tests.slow_tasks:own/SlowCart-v0"
    own = [TrainConfig(task, seed=seed, run_dir=str(tmp_path / f"run{seed}"), **settings) for seed in (0, 1)]
    killed: list[int] = []
    killer = threading.Thread(target=kill_once, args=(tmp_path / "run0", killed), daemon=True)
    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        cluster.add_node(**node)
        killer.start()
        trials = [Trial(config, None, {}) for config in own]
        outcomes = run_sweep(trials, tmp_path, Resources(cpus=1, retries=2), cluster.address)
    finally:
        cluster.shutdown()
    assert killed, "the trial was over before its worker could be killed"
    assert [outcome.state for outcome in outcomes] == ["done", "done"], [o.message for o in outcomes]
    for config in own:
        whole = train(replace(config, run_dir=str(tmp_path / f"whole{config.seed}")), say=lambda _: None)
        assert rows_of(Path(str(config.run_dir))) == rows_of(whole.run.path)
        assert len(rows_of(whole.run.path)) == 12


@pytest.mark.slow
def test_a_trial_that_fails_is_said_and_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    monkeypatch.chdir(tmp_path)
    # Workers begin with the path of the environment, not with that of the tests.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent), prepend=os.pathsep)
    (tmp_path / "flaky.py").write_text(
        "import gymnasium, tests.own_tasks\n"
        "class Flaky(tests.own_tasks.SpringCart):\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        if seed == 1:\n"
        "            raise RuntimeError('no such start')\n"
        "        return super().reset(seed=seed, options=options)\n"
        "gymnasium.register('own/Flaky-v0', entry_point='flaky:Flaky', max_episode_steps=20)\n"
    )
    argv = ["sweep", "flaky:own/Flaky-v0", "--agent", "sac", "--seeds", "0-1", "--steps", "40", "--cpus", "1"]
    assert main([*argv, "--dir", "out"]) == 2
    err = capfd.readouterr().err
    assert "1 of 2 failed" in err
    assert "no such start" in err
    with open("out/results.csv") as file:
        states = {row["seed"]: row["state"] for row in csv.DictReader(file)}
    assert states == {"0": "done", "1": "failed"}


@pytest.mark.slow
def test_a_sweep_that_is_stopped_ends_with_143_and_keeps_what_is_done(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    argv = ["sweep", "Pendulum-v1", "--agent", "sac", "--seeds", "0-1", "--steps", "9000", "--cpus", "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(ode_rl.__file__).parent.parent)}
    command = [sys.executable, "-m", "ode_rl", *argv, "--dir", "out"]
    sweep = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    results = tmp_path / "out" / "results.csv"
    for _ in range(6000):
        if (results.is_file() and "running" in results.read_text()) or sweep.poll() is not None:
            break
        time.sleep(0.1)
    sweep.terminate()
    _, said = sweep.communicate(timeout=120)
    assert sweep.returncode == 143
    assert "the same command goes on" in said
    with open(results) as file:
        assert [row["state"] for row in csv.DictReader(file)] == ["running", "waiting"]
