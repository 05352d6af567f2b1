"""Resume: a run that was cut off goes on as if nothing had happened, and says so when it cannot."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ode_rl.agents.registry import AGENTS
from ode_rl.checkpoint import read_checkpoint
from ode_rl.cli import main
from ode_rl.errors import UsageError
from ode_rl.run import RunFolder
from ode_rl.train import resume, train
from tests.tiny_runs import BALANCE, TINY, assert_same_run, episodes, killed_at, tiny, use_tiny_settings

CART = "tests.own_tasks:own/SpringCart-v0"
ROOT = Path(__file__).resolve().parents[1]
QUIET: dict[str, Any] = {"say": lambda line: None}


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_settings(monkeypatch)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The current folder, where `mpc` is an agent that learns nothing, quickly."""
    monkeypatch.setitem(AGENTS, "mpc", "tests.fakes:FakeLearner")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train_fake(*more: str, steps: int = 250) -> int:
    return main(["train", CART, "--steps", str(steps), "--run-dir", "run", "--no-video", *more])


# --- the same numbers --------------------------------------------------------------------------------------

CASES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    # In the warm-up, and within an episode that is planned.
    "plain": ({}, (15, 50)),
    "two environments, a range of intervals": ({"num_envs": 2, "steps": 71, "dt_range": (0.05, 0.2)}, (52,)),
    "episodes that end, delays, losses": (
        {"env_id": BALANCE, "dt_range": (0.05, 0.2), "obs_dropout": 0.3, "action_delay": 0.08},
        (55,),
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("settings")
def test_a_run_that_was_killed_anywhere_ends_like_one_that_was_not(tmp_path: Path, case: str) -> None:
    changes, moments = CASES[case]
    whole = tmp_path / "whole"
    with killed_at(moments, whole, tmp_path):
        train(tiny(run_dir=str(whole), **changes), **QUIET)
    for moment in moments:
        cut = tmp_path / f"at{moment}"
        assert read_checkpoint(cut / "checkpoint").meta["num_timesteps"] < moment
        assert resume(cut, **QUIET) is not None
        assert_same_run(whole, cut)


@pytest.mark.usefixtures("settings")
def test_checkpoints_within_an_episode_and_past_the_last_step_are_resumed_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ode_rl.callbacks.RunRecorder._is_due", lambda self: self.num_timesteps % 7 == 5)
    whole = tmp_path / "whole"
    with killed_at((55,), whole, tmp_path):
        train(tiny(run_dir=str(whole)), **QUIET)
    cut = tmp_path / "at55"
    assert read_checkpoint(cut / "checkpoint").meta["num_timesteps"] == 54
    resume(cut, **QUIET)
    assert_same_run(whole, cut)


def test_a_run_whose_last_step_led_beyond_its_end_is_evaluated_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_settings(monkeypatch, {**TINY, "warmup_steps": 99})
    run = tmp_path / "run"
    train(tiny(run_dir=str(run), steps=41, num_envs=2), **QUIET)
    (run / "evaluation.json").unlink()
    assert resume(run, **QUIET) is not None
    assert read_checkpoint(run / "checkpoint").meta["num_timesteps"] == 42


@pytest.mark.slow
@pytest.mark.usefixtures("settings")
def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        train(tiny(run_dir=str(tmp_path / name), seed=seed), **QUIET)
    assert_same_run(tmp_path / "one", tmp_path / "again")
    assert episodes(tmp_path / "one") != episodes(tmp_path / "other")


# --- the state of a folder ---------------------------------------------------------------------------------


def test_a_finished_run_says_so_and_nothing_is_touched(fake: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert train_fake() == 0
    before = {path: path.stat().st_mtime_ns for path in sorted((fake / "run").rglob("*"))}
    capfd.readouterr()
    assert main(["train", "--resume", "run"]) == 0
    out, err = capfd.readouterr()
    assert (out, err) == ("run has come to its end: nothing to resume\n", "")
    assert {path: path.stat().st_mtime_ns for path in sorted((fake / "run").rglob("*"))} == before


def test_a_folder_with_a_config_and_no_checkpoint_starts_at_step_0(
    fake: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train_fake() == 0
    shutil.copytree("run", "cut")
    for name in ("checkpoint", "checkpoint.old"):
        shutil.rmtree(Path("cut", name))
    for name in ("evaluation.json", "learning_curve.png"):
        Path("cut", name).unlink()
    assert main(["train", "--resume", "cut"]) == 0
    assert "at step 0 of 250" in capfd.readouterr().out
    assert_same_run(Path("run"), Path("cut"))
    assert len(Path("cut", "0.monitor.csv").read_text().splitlines()) == 2 + 2
    assert len([path for path in Path("cut", "tb").iterdir() if path.is_file()]) == 1


def test_a_run_that_was_killed_after_its_last_step_is_only_evaluated(
    fake: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train_fake() == 0
    shutil.copytree("run", "cut")
    Path("cut", "evaluation.json").unlink()
    assert main(["train", "--resume", "cut"]) == 0
    assert "at step 250 of 250" in capfd.readouterr().out
    assert_same_run(Path("run"), Path("cut"))
    kept = ("mean_return", "returns", "lengths", "seconds")
    one, other = (json.loads(Path(name, "evaluation.json").read_text()) for name in ("run", "cut"))
    assert [one[key] for key in kept] == [other[key] for key in kept]


def _stop_at(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from ode_rl.callbacks import RunRecorder

    on_step = RunRecorder._on_step

    def stop(self: RunRecorder) -> bool:
        if self.num_timesteps == steps:
            raise KeyboardInterrupt
        return on_step(self)

    monkeypatch.setattr(RunRecorder, "_on_step", stop)


@pytest.fixture
def cut(fake: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of 250 steps that was stopped at step 230; its checkpoints lie at 100 and 200."""
    with monkeypatch.context() as patch:
        _stop_at(230, patch)
        patch.setattr("ode_rl.callbacks.RunRecorder._is_due", lambda self: self._episode_ended)
        assert train_fake() == 130
    return fake / "run"


def test_a_damaged_checkpoint_is_set_aside_for_the_one_before_it(
    cut: Path, caplog: pytest.LogCaptureFixture
) -> None:
    part = cut / "checkpoint" / "meta.json"
    part.write_bytes(part.read_bytes()[:-5])
    assert main(["train", "--resume", "run"]) == 0
    assert "The one before it is taken" in caplog.text
    assert read_checkpoint(cut / "checkpoint").meta["num_timesteps"] == 250
    assert [row["env_steps"] for row in episodes(cut)] == ["100", "200"]


def test_without_a_whole_checkpoint_nothing_is_touched(cut: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for path in cut.glob("checkpoint*/meta.json"):
        path.write_bytes(path.read_bytes()[:-5])
    before = sorted(path.read_bytes() for path in cut.rglob("*") if path.is_file())
    assert main(["train", "--resume", "run"]) == 2
    assert "checksum" in capfd.readouterr().err
    assert sorted(path.read_bytes() for path in cut.rglob("*") if path.is_file()) == before


def test_a_checkpoint_of_a_newer_version_says_which_one_reads_it(
    cut: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for path in cut.glob("checkpoint*/manifest.json"):
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps({**manifest, "schema": 99, "versions": {"ode_rl": "7.1"}}))
    assert main(["train", "--resume", "run"]) == 2
    assert "Install ode_rl 7.1 or later" in capfd.readouterr().err


def test_a_run_of_an_older_version_says_what_to_do(cut: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = json.loads((cut / "config.json").read_text())
    del config["asked"]
    (cut / "config.json").write_text(json.dumps(config))
    assert main(["train", "--resume", "run"]) == 2
    assert "does not say what was asked for. Train again." in capfd.readouterr().err


def _record_of_another_kind(cut: Path, record: Any) -> None:
    from ode_rl.checkpoint import write_checkpoint

    found = read_checkpoint(cut / "checkpoint")
    meta = {**found.meta, "run": record}
    write_checkpoint(
        cut / "checkpoint", kind=found.kind, tensors=found.tensors, arrays=found.arrays, meta=meta
    )


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        {},
        {"episodes": 1, "sim_seconds": 5.0, "wall_s": 1.0},
        {"episodes": 1, "sim_seconds": 5.0, "wall_s": 1.0, "positions": {"episodes.csv": "x"}},
        {"episodes": -1, "sim_seconds": 5.0, "wall_s": 1.0, "positions": {}},
        {"episodes": 1, "sim_seconds": 5.0, "wall_s": 1.0, "positions": {"episodes.csv": -1}},
    ],
)
def test_a_checkpoint_that_does_not_say_where_the_files_were_is_refused(
    cut: Path, record: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    _record_of_another_kind(cut, record)
    assert main(["train", "--resume", "run"]) == 2
    assert "a run that can be resumed" in capfd.readouterr().err
    assert len(episodes(cut)) == 2


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--resume", "nothing"], "not a folder"),
        (["--resume", "file"], "not a folder"),
        (["--resume", "."], "Did you mean run?"),
        (["--resume", "run", "--steps", "9"], "Leave --steps out."),
        (["Pendulum-v1", "--resume", "run"], "Leave ENV_ID out."),
        (["--resume", "run", "--dt-range", "0.1", "0.2"], "Leave --dt-range out."),
    ],
)
def test_what_cannot_be_resumed_is_one_message(
    cut: Path, argv: list[str], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    capfd.readouterr()
    assert main(["train", *argv]) == 2
    err = capfd.readouterr().err
    assert reason in err
    assert err.count("\n") == 1


def test_a_run_that_never_began_says_so(fake: Path, capfd: pytest.CaptureFixture[str]) -> None:
    RunFolder.create(CART, "mpc", 0, "run")
    assert main(["train", "--resume", "run"]) == 2
    assert "a run that has begun" in capfd.readouterr().err


def test_a_run_that_a_process_is_writing_is_left_alone(cut: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with RunFolder.open(cut).claimed():
        code = "import sys; from ode_rl.cli import main; sys.exit(main(['train', '--resume', 'run']))"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert "which a process is writing" in done.stderr
    assert main(["train", "--resume", "run"]) == 0


def test_a_claim_ends_with_its_block(tmp_path: Path) -> None:
    run = RunFolder.create("e", "a", 0, tmp_path / "run")
    for _ in range(2):
        with run.claimed(), pytest.raises(UsageError, match="nobody is working on"), run.claimed():
            pass


# --- files that only grow ----------------------------------------------------------------------------------


@pytest.fixture
def grown(tmp_path: Path) -> tuple[RunFolder, dict[str, int]]:
    run = RunFolder.create("e", "a", 0, tmp_path / "run")
    run.monitor.write_text("first\n")
    run.tensorboard.mkdir()
    (run.tensorboard / "events.1").write_bytes(b"ab")
    (run.path / "notes.txt").write_text("of the user")
    return run, run.positions()


def test_cut_back_removes_what_was_written_later_and_nothing_else(
    grown: tuple[RunFolder, dict[str, int]],
) -> None:
    run, positions = grown
    with open(run.monitor, "a") as file:
        file.write("second\n")
    (run.tensorboard / "events.2").write_bytes(b"cd")
    run.cut_back(positions)
    assert run.monitor.read_text() == "first\n"
    assert [path.name for path in run.tensorboard.iterdir()] == ["events.1"]
    assert (run.path / "notes.txt").read_text() == "of the user"


def test_cut_back_says_what_is_missing(
    grown: tuple[RunFolder, dict[str, int]], caplog: pytest.LogCaptureFixture
) -> None:
    run, positions = grown
    run.monitor.write_text("")
    with caplog.at_level(logging.WARNING):
        run.cut_back(positions)
    assert "0.monitor.csv is shorter" in caplog.text


def test_cut_back_touches_nothing_outside_of_the_run(
    grown: tuple[RunFolder, dict[str, int]], tmp_path: Path
) -> None:
    run, positions = grown
    outside = tmp_path / "outside.csv"
    outside.write_text("precious")
    (run.path / "1.monitor.csv").symlink_to(outside)
    run.cut_back({**positions, "../outside.csv": 0, str(outside): 0})
    assert outside.read_text() == "precious"


def test_positions_are_relative_and_complete(grown: tuple[RunFolder, dict[str, int]]) -> None:
    assert grown[1] == {"episodes.csv": 63, "0.monitor.csv": 6, "tb/events.1": 2}


def test_the_checkpoint_to_resume_is_none_where_none_was_ever_written(tmp_path: Path) -> None:
    run = RunFolder.create("e", "a", 0, tmp_path / "run")
    assert run.checkpoint_to_resume() is None


def _settings_of(cut: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = json.loads((cut / "config.json").read_text())
    change(config)
    (cut / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["asked"].update(agent="os"),
        lambda c: c["asked"].update(agent=["mpc"]),
        lambda c: c["asked"].update(steps="many"),
        lambda c: c["asked"].update(unknown=1),
        lambda c: c["asked"].update(env_id="Nothing-v0"),
        lambda c: c["asked"].update(dt=-1.0),
        lambda c: c.update(steps=True),
        lambda c: c.update(num_envs=0),
        lambda c: c.update(asked=[1]),
    ],
)
def test_a_config_that_was_tampered_with_is_refused(
    cut: Path, change: Callable[[dict[str, Any]], None], capfd: pytest.CaptureFixture[str]
) -> None:
    _settings_of(cut, change)
    before = episodes(cut)
    assert main(["train", "--resume", "run"]) == 2
    err = capfd.readouterr().err
    assert err.splitlines()[-1].startswith("error: expected ")
    assert episodes(cut) == before


def test_progress_and_video_may_differ_on_resume(cut: Path) -> None:
    assert main(["train", "--resume", "run", "--no-progress", "--no-video"]) == 0
    assert not (cut / "video.mp4").exists()


def test_the_rest_of_the_configuration_comes_from_the_run(cut: Path) -> None:
    asked = json.loads((cut / "config.json").read_text())["asked"]
    config = tiny(CART, steps=250, seed=0, preset="auto", checkpoint_seconds=30.0, progress=True)
    config = replace(config, eval_episodes=10)
    for name, value in asked.items():
        assert getattr(config, name) == value, name
