"""The command line: every bad input is one message and exit code 2, every stop leaves a usable run."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import ode_rl
from ode_rl.agents.registry import AGENTS
from ode_rl.checkpoint import read_checkpoint
from ode_rl.cli import main
from tests.fakes import FakeLearner

CART = "tests.own_tasks:own/SpringCart-v0"
ROOT = Path(ode_rl.__file__).parent.parent


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and an agent that learns nothing, quickly."""
    monkeypatch.setitem(AGENTS, "mpc", "tests.fakes:FakeLearner")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*more: str, env_id: str = CART, steps: int = 250) -> int:
    return main(["train", env_id, "--steps", str(steps), "--run-dir", "run", "--no-video", *more])


# --- bad input ---------------------------------------------------------------------------------------------

BAD = {
    "unknown command": (["trian"], "Did you mean train?"),
    "unknown flag": (["train", "--stepz", "3"], "Did you mean --steps?"),
    "flag before the command": (["--steps", "3"], "ode-rl --help"),
    "extra argument": (["train", "Pendulum-v1", "more"], "unexpected extra argument (more)"),
    "flag without value": (["train", "--steps"], "requires an argument"),
    "value for a switch": (["train", "--video=3"], "does not take a value"),
    "no agent to evaluate": (["evaluate"], "expected AGENT"),
    "no steps": (["train", "--steps", "0"], "Write --steps 2000."),
    "negative steps": (["train", "--steps", "-5"], "Write --steps 2000."),
    "fractional steps": (["train", "--steps", "1.5"], "got '1.5'"),
    "word for steps": (["train", "--steps", "many"], "got 'many'"),
    "negative seed": (["train", "--seed", "-1"], "Write --seed 0."),
    "no dt": (["train", "--dt", "0"], "Write --dt 0.05."),
    "dt not a number": (["train", "--dt", "nan"], "Write --dt 0.05."),
    "endless dt": (["train", "--dt", "inf"], "Write --dt 0.05."),
    "unknown agent": (["train", "--agent", "mcp"], "Write --agent mpc."),
    "unknown model": (["train", "--model", "od"], "Write --model ode."),
    "unknown planner": (["train", "--planner", "icme"], "Write --planner icem."),
    "unknown termination": (["train", "--termination", "hazzard"], "Write --termination hazard."),
    "unknown device": (["train", "--device", "gpu"], "--device"),
    "no evaluation episodes": (["train", "--eval-episodes", "0"], "Write --eval-episodes 10."),
    "unknown preset": (["train", "Pendulum-v1", "--preset", "Pendulun-v1"], "Did you mean Pendulum-v1"),
    "unknown task": (["train", "Pendulun-v1"], "Did you mean Pendulum-v1"),
    "unknown version of a task": (["train", "Pendulum-v7"], "Did you mean Pendulum-v1"),
    "missing module": (["train", "no_such_module:Task-v0"], "no_such_module"),
    "discrete actions": (["train", "CartPole-v1"], "Discrete(2)"),
    "task without a dt": (["train", "MountainCarContinuous-v0"], "--dt SECONDS"),
    "a dt between two": (["train", "Swimmer-v5", "--dt", "0.034"], "Write 0.03 or 0.04"),
    "a dt below the step": (["train", "Pendulum-v1", "--dt", "0.02"], "Write 0.05"),
    "a range upside down": (["train", "--dt-range", "0.2", "0.1"], "Write --dt-range 0.01 0.05."),
    "a range of words": (["train", "--dt-range", "a", "b"], "Write --dt-range 0.01 0.05."),
    "a range below the step": (["train", "--dt-range", "0.01", "0.1"], "Start the range at 0.05"),
    "dt and a range": (["train", "--dt", "0.1", "--dt-range", "0.05", "0.1"], "Leave one of them out"),
    "negative delay of actions": (["train", "--action-delay", "-0.1"], "Write --action-delay 0.05."),
    "a delay between two": (["train", "--action-delay", "0.07"], "Write 0.05 or 0.1"),
    "negative delay of observations": (["train", "--obs-delay", "-0.1"], "Write --obs-delay 0.05."),
    "everything lost": (["train", "--obs-dropout", "1"], "Write --obs-dropout 0.1."),
    "no environments": (["train", "--num-envs", "0"], "Write --num-envs 4."),
    "a dt of an evaluation": (
        ["evaluate", "tests.fakes:Push", "--env", "Pendulum-v1", "--dt", "0.07"],
        "Write 0.05 or 0.1",
    ),
    "run folder below a file": (["train", CART, "--run-dir", "file/run"], "--run-dir DIR"),
    "no such run": (["evaluate", "runs/none"], "a run folder"),
    "a folder that is no run": (["evaluate", "."], "config.json"),
    "a file": (["evaluate", "file"], "not a folder"),
    "missing agent module": (["evaluate", "no_such_module:agent", "--env", CART], "no_such_module"),
    "object without predict": (["evaluate", "math:pi", "--env", CART], "math:pi"),
    "object without a task": (["evaluate", "tests.fakes:Push"], "--env ENV_ID"),
    "json into a missing folder": (
        ["evaluate", "tests.fakes:Push", "--env", CART, "--json", "no/x.json"],
        "--json",
    ),
    "json onto a folder": (["evaluate", "tests.fakes:Push", "--env", CART, "--json", "."], "--json"),
    "no episodes": (
        ["evaluate", "tests.fakes:Push", "--env", CART, "--episodes", "0"],
        "Write --episodes 10.",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message_on_stderr_exit_code_2_and_nothing_written(
    case: str, workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (workplace / "file").touch()
    argv, reason = BAD[case]
    assert main(argv) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: expected ")
    assert ", got " in err
    assert reason in err
    assert err.count("\n") == 1
    assert [path.name for path in workplace.iterdir()] == ["file"]


def test_an_agent_that_refuses_its_settings_leaves_no_run_folder(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: Any, *args: Any, **kwargs: Any) -> None:
        raise ode_rl.UsageError("a machine with CUDA", "none", "Write --device cpu.")

    monkeypatch.setattr(FakeLearner, "__init__", refuse)
    assert train() == 2
    assert capfd.readouterr().err == "error: expected a machine with CUDA, got none. Write --device cpu.\n"
    assert not list(workplace.iterdir())


def test_an_unwritable_runs_folder_is_found_before_any_training(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (workplace / "runs").touch()
    monkeypatch.setattr(FakeLearner, "learn", lambda *args: pytest.fail("trained"))
    assert main(["train", CART, "--steps", "10"]) == 2
    assert "--run-dir" in capfd.readouterr().err


def test_a_run_of_a_newer_version_is_refused_with_a_remedy(
    workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train() == 0
    config = json.loads((workplace / "run" / "config.json").read_text())
    (workplace / "run" / "config.json").write_text(json.dumps({**config, "schema": 99}))
    assert main(["evaluate", "run"]) == 2
    assert "Install the newer version" in capfd.readouterr().err


def test_a_damaged_checkpoint_is_refused(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert train() == 0
    (workplace / "run" / "checkpoint" / "meta.json").write_text("{}")
    assert main(["evaluate", "run"]) == 2
    assert "meta.json" in capfd.readouterr().err


def test_an_agent_is_not_evaluated_on_a_task_of_another_shape(
    workplace: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train() == 0
    space = gymnasium.spaces.Box(-1, 1, (2,))
    monkeypatch.setattr(FakeLearner, "observation_space", space, raising=False)
    assert main(["evaluate", "run", "--env", "Pendulum-v1"]) == 2
    assert "observation space" in capfd.readouterr().err


# --- help --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        ([], "train"),
        (["--help"], "evaluate"),
        (["train", "-h"], "--steps"),
        (["--version"], ode_rl.__version__),
    ],
)
def test_help_and_version_are_answered(
    argv: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 0
    assert word in capsys.readouterr().out


def test_list_names_agents_presets_models_and_planners(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("mpc", "Pendulum-v1", "ode", "icem"))


@pytest.mark.parametrize("argv", [["--help"], ["train", "--steps", "x"], ["list"], ["train", "Pendulun-v1"]])
def test_nothing_heavy_is_loaded_before_the_arguments_are_checked(argv: list[str]) -> None:
    script = (
        "import sys; from ode_rl.cli import main; main(sys.argv[1:]); "
        "heavy = {'torch', 'mujoco', 'stable_baselines3', 'matplotlib', 'scipy'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script, *argv], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


# --- a whole training --------------------------------------------------------------------------------------


def test_a_training_leaves_everything_that_the_run_folder_promises(
    workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "Pendulum-v1", "--steps", "450", "--seed", "3", "--no-progress"]) == 0
    (run,) = (workplace / "runs").iterdir()
    assert run.name.startswith("Pendulum-v1__mpc__3__")
    assert {path.name for path in run.iterdir()} == {
        *("config.json", "versions.json", "episodes.csv", "0.monitor.csv", "evaluations.npz", "tb"),
        *("checkpoint", "checkpoint.old", "evaluation.json", "learning_curve.png", "video.mp4"),
    }
    out = capfd.readouterr().out
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert f"{evaluation['mean_return']:.2f} ± {evaluation['std_return']:.2f} over 10 episodes" in out
    for word in ("ms", "Hz", f"runs/{run.name}\n", "learning_curve.png", "video.mp4"):
        assert word in out
    assert evaluation["lengths"] == [200] * 10
    assert any((run / "tb").iterdir())


def test_the_records_of_a_training_agree_with_each_other(workplace: Path) -> None:
    assert train() == 0
    run = workplace / "run"
    config = json.loads((run / "config.json").read_text())
    assert {"env_id": CART, "agent": "mpc", "seed": 0, "steps": 250, "dt": 0.05}.items() <= config.items()
    with open(run / "episodes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    monitor = (run / "0.monitor.csv").read_text().splitlines()[2:]
    assert [float(row["return"]) for row in rows] == [float(line.split(",")[0]) for line in monitor]
    assert [row["env_steps"] for row in rows] == ["100", "200"]
    assert [float(row["sim_seconds"]) for row in rows] == [5.0, 10.0]
    assert [row["terminated"] for row in rows] == ["0", "0"]
    with np.load(run / "evaluations.npz") as log:
        assert log["timesteps"].tolist() == [50, 100, 150, 200, 250]
        assert log["results"].shape == (5, 5)
        assert (log["ep_lengths"] == 100).all()
    assert read_checkpoint(run / "checkpoint").meta["num_timesteps"] == 250


def test_a_terminated_episode_is_recorded_as_one(workplace: Path) -> None:
    assert train(env_id="tests.own_tasks:own/Balance-v0") == 0
    with open(workplace / "run" / "episodes.csv", newline="") as file:
        assert {row["terminated"] for row in csv.DictReader(file)} == {"1"}


def test_evaluations_do_not_disturb_the_training(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train("--run-dir", "often") == 0
    monkeypatch.setattr("ode_rl.train.EVALUATIONS", 1)
    assert train("--run-dir", "once") == 0
    often, once = (
        read_checkpoint(Path(name) / "checkpoint").arrays["log"]["draws"] for name in ("often", "once")
    )
    np.testing.assert_array_equal(often, once)


def test_the_same_evaluation_comes_from_the_run_folder_as_after_training(workplace: Path) -> None:
    assert train() == 0
    assert main(["evaluate", "run", "--json", "again.json"]) == 0
    first, again = (json.loads(Path(name).read_text()) for name in ("run/evaluation.json", "again.json"))
    for timed in ("ms_per_decision", "ms_per_decision_p99", "decisions_per_second"):
        assert min(first.pop(timed), again.pop(timed)) > 0
    assert first == again


def test_an_object_of_a_users_module_is_evaluated_from_the_current_folder(workplace: Path) -> None:
    (workplace / "my_agents.py").write_text("from tests.fakes import Push\nstrong = Push(2.0)\n")
    argv = [
        "evaluate",
        "my_agents:strong",
        "--env",
        CART,
        "--episodes",
        "2",
        "--seed",
        "4",
        "--json",
        "out.json",
    ]
    assert main(argv) == 0
    result = json.loads((workplace / "out.json").read_text())
    assert (result["agent"], result["seed"], result["n_episodes"]) == ("my_agents:strong", 4, 2)


def test_a_dt_that_was_given_is_remembered_by_the_run(workplace: Path) -> None:
    assert train("--dt", "0.1", env_id="MountainCarContinuous-v0", steps=50) == 0
    assert json.loads((workplace / "run" / "config.json").read_text())["dt"] == 0.1
    assert main(["evaluate", "run", "--episodes", "1", "--json", "x.json"]) == 0
    assert json.loads((workplace / "x.json").read_text())["seconds"] == [99.9]


def test_a_termination_that_is_asked_for_reaches_the_agent(workplace: Path) -> None:
    assert train("--termination", "boundary") == 0
    config = json.loads((workplace / "run" / "config.json").read_text())
    assert config["settings"] == {"model": {"termination": "boundary"}}


def test_a_model_that_is_asked_for_reaches_the_agent(workplace: Path) -> None:
    assert train("--model", "residual-mlp") == 0
    config = json.loads((workplace / "run" / "config.json").read_text())
    assert config["settings"] == {"model": {"structure": "residual-mlp"}}


def test_a_task_that_cannot_render_trains_with_exit_code_0(
    workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert train("--video") == 0
    assert "no video" in caplog.text
    assert not (workplace / "run" / "video.mp4").exists()


# --- stops -------------------------------------------------------------------------------------------------


def stop_after(steps: int, signal_number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a signal to this process from within the training."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread only")
    learn = FakeLearner.learn

    def learn_until_stopped(self: FakeLearner, total: int, callback: Any, **options: Any) -> Any:
        original = self.env.step_wait

        def step_wait() -> Any:
            if self.num_timesteps == steps:
                os.kill(os.getpid(), signal_number)
            return original()

        monkeypatch.setattr(self.env, "step_wait", step_wait)
        return learn(self, total, callback, **options)

    monkeypatch.setattr(FakeLearner, "learn", learn_until_stopped)


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_saves_where_it_came_and_says_how_to_look_at_it_and_to_go_on(
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    signal_number: int,
    code: int,
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    stop_after(150, signal_number, monkeypatch)
    assert train() == code
    assert signal.getsignal(signal.SIGTERM) is before
    err = capfd.readouterr().err
    assert "run/checkpoint" in err
    assert "ode-rl evaluate run" in err
    assert "ode-rl train --resume run" in err
    assert "Traceback" not in err
    assert read_checkpoint("run/checkpoint").meta["num_timesteps"] == 151
    assert main(["evaluate", "run", "--episodes", "1"]) == 0


def test_a_stop_in_the_first_episode_has_a_checkpoint_too(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(20, signal.SIGINT, monkeypatch)
    assert train() == 130
    assert read_checkpoint("run/checkpoint").meta["num_timesteps"] == 21


def test_a_stop_while_the_agent_is_being_made_leaves_no_run_folder(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Any, *args: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    stop_after(1, signal.SIGTERM, monkeypatch)
    monkeypatch.setattr(FakeLearner, "__init__", stop)
    assert train() == 143
    assert not list(workplace.iterdir())
