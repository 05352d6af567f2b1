"""Run folders: named after the run, never shared, readable by other tools, checked when opened."""

from __future__ import annotations

import csv
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ode_rl.checkpoint import write_checkpoint
from ode_rl.errors import UsageError
from ode_rl.run import Episode, RunFolder, run_name

CONFIG = {"env_id": "Pendulum-v1", "agent": "mpc", "dt": 0.05}
EPISODE = Episode(1, 200, 10.0, -1234.5, 200, False, 3.25)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder.create("Pendulum-v1", "mpc", 0, tmp_path / "run")
    run.write_config(CONFIG)
    return run


def test_the_name_says_environment_agent_seed_and_time() -> None:
    assert re.fullmatch(r"Pendulum-v1__mpc__3__\d{8}T\d{6}Z", run_name("Pendulum-v1", "mpc", 3))


def test_slashes_and_colons_of_an_id_become_dashes() -> None:
    assert run_name("my_tasks:own/Task-v0", "mpc", 0).startswith("my_tasks-own-Task-v0__mpc__0__")


def test_without_a_name_the_folder_lies_in_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunFolder.create("own/Task-v0", "mpc", 0)
    assert run.path.parent == Path("runs")
    assert (tmp_path / run.path / "episodes.csv").is_file()


def test_a_taken_name_gets_a_suffix(tmp_path: Path) -> None:
    names = [RunFolder.create("e", "a", 0, tmp_path / "run").path.name for _ in range(3)]
    assert names == ["run", "run-2", "run-3"]


def test_an_empty_folder_is_used_and_a_full_one_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    assert RunFolder.create("e", "a", 0, tmp_path / "empty").path == tmp_path / "empty"
    assert RunFolder.create("e", "a", 0, tmp_path / "full").path == tmp_path / "full-2"
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_runs_that_start_at_once_never_share_a_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        paths = list(pool.map(lambda _: RunFolder.create("e", "a", 0, tmp_path / "run").path, range(48)))
    assert len(set(paths)) == 48


@pytest.mark.parametrize("place", ["file/run", "file/deep/run"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="--run-dir"):
        RunFolder.create("e", "a", 0, tmp_path / place)


def test_the_name_of_a_file_is_taken(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert RunFolder.create("e", "a", 0, tmp_path / "file").path == tmp_path / "file-2"


def test_the_config_comes_back_with_a_schema_number_in_the_file(run: RunFolder) -> None:
    assert RunFolder.open(run.path).read_config() == CONFIG
    assert json.loads(run.config.read_text())["schema"] == 1


def test_the_versions_are_written(run: RunFolder) -> None:
    assert {"python", "ode_rl", "torch"} <= set(json.loads(run.versions.read_text()))


def test_episodes_are_on_disk_as_soon_as_they_are_appended(run: RunFolder) -> None:
    run.append_episode(EPISODE)
    with open(run.episodes, newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["episode", "env_steps", "sim_seconds", "return", "length", "terminated", "wall_s"]
    assert rows[1] == ["1", "200", "10.0", "-1234.5", "200", "0", "3.25"]
    assert run.read_episodes() == [EPISODE]


def test_a_file_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="not a folder"):
        RunFolder.open(tmp_path / "file")


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ls runs"):
        RunFolder.open(tmp_path / "nothing")


def test_the_folder_of_all_runs_points_at_the_newest_in_it(run: RunFolder) -> None:
    with pytest.raises(UsageError, match=f"Did you mean {run.path}"):
        RunFolder.open(run.path.parent)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"schema": 2, **CONFIG}, "Install the newer version"),
        (CONFIG, "without a schema number"),
        ({"schema": "1"}, "without a schema number"),
        ([], "without a schema number"),
    ],
)
def test_the_config_of_another_version_is_refused(run: RunFolder, config: Any, reason: str) -> None:
    run.config.write_text(json.dumps(config))
    with pytest.raises(UsageError, match=reason):
        RunFolder.open(run.path)


@pytest.mark.parametrize("text", ["", "{", '{"schema": 1, "dt": NaN}', "\x00"])
def test_a_damaged_config_is_refused(run: RunFolder, text: str) -> None:
    run.config.write_text(text)
    with pytest.raises(UsageError):
        RunFolder.open(run.path)


def test_a_config_that_json_cannot_hold_leaves_the_old_one(run: RunFolder) -> None:
    with pytest.raises(UsageError, match="JSON"):
        run.write_config({"dt": float("nan")})
    assert run.read_config() == CONFIG


def test_the_newest_checkpoint_is_found_even_between_two_renames(run: RunFolder) -> None:
    with pytest.raises(UsageError, match="with a checkpoint"):
        run.newest_checkpoint()
    write_checkpoint(run.checkpoint, kind="k", tensors={}, arrays={}, meta={})
    assert run.newest_checkpoint() == run.checkpoint
    run.checkpoint.rename(run.path / "checkpoint.old")
    assert run.newest_checkpoint() == run.path / "checkpoint.old"


def test_a_discarded_run_leaves_nothing(run: RunFolder) -> None:
    run.discard()
    assert not list(run.path.parent.iterdir())
