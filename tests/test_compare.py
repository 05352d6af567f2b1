"""Comparison of runs: groups, thresholds, curves and probabilities of runs whose results are known."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ode_rl.agents.registry import AGENTS
from ode_rl.cli import main
from ode_rl.compare import compare, curve, solved
from ode_rl.errors import UsageError
from ode_rl.files import write_json
from ode_rl.run import Episode, RunFolder
from ode_rl.run_results import Run, find_runs, read_runs

STEPS = (100, 200, 300, 400)


def leave(
    folder: Path,
    returns: tuple[float, ...],
    agent: str = "mpc",
    seed: int = 0,
    env_id: str = "Pendulum-v1",
    spread: float = 0.0,
    **settings: Any,
) -> RunFolder:
    """A run of 400 steps of 0.05 s, four times as long in reality, with these evaluations."""
    run = RunFolder.create(env_id, agent, seed, folder)
    own = {
        "agent": agent,
        "env_id": env_id,
        "seed": seed,
        "steps": 400,
        "device": "cpu",
        "settings": settings,
    }
    run.write_config(own)
    for k in range(4):
        run.append_episode(Episode(k + 1, 100 * (k + 1), 5.0 * (k + 1), 0.0, 100, False, 20.0 * (k + 1)))
    noise = spread * np.array([-1.0, 1.0])
    results = np.array(returns)[:, None] + noise
    np.savez(
        run.evaluations, timesteps=STEPS[: len(returns)], results=results, ep_lengths=np.ones_like(results)
    )
    return run


def run_of(returns: list[float], errors: float = 0.0, seed: int = 0, steps: list[float] | None = None) -> Run:
    at = np.array(steps or [100.0 * (k + 1) for k in range(len(returns))])
    own = (at, at * 0.05, at * 0.2, np.array(returns), np.full(len(returns), errors))
    return Run("run", "Pendulum-v1", "mpc", seed, {}, *own)


# --- thresholds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returns", "error", "steps"),
    [
        ([1, 5, 6, 7], 0.0, 200),
        ([5, 4, 6, 7], 0.0, 300),  # one later evaluation is below
        ([5, 4, 6, 7], 1.5, 100),  # but not by more than its standard error
        ([1, 2, 3, 4], 0.0, None),
        ([1, 2, 3, 4], 9.0, None),  # an error makes no evaluation better
        ([5, 6, 7, 1], 0.0, None),
        ([1, 2, 3, 5], 0.0, 400),
    ],
)
def test_solved_is_the_first_evaluation_that_holds(
    returns: list[float], error: float, steps: float | None
) -> None:
    found = solved(run_of(returns, error), 5.0)
    assert found.env_steps == steps
    assert found.sim_seconds == (None if steps is None else pytest.approx(0.05 * steps))
    assert found.wall_s == (None if steps is None else pytest.approx(0.2 * steps))


def test_steps_and_seconds_come_from_the_episodes_of_the_run(tmp_path: Path) -> None:
    run = leave(tmp_path / "a", (-900.0, -300.0, -150.0, -140.0))
    ((read,), left_out) = read_runs([run])
    assert left_out == []
    found = solved(read, -200.0)
    assert (found.env_steps, found.sim_seconds, found.wall_s) == (300.0, 15.0, 60.0)


def test_the_threshold_of_a_task_is_that_of_its_registration_unless_said(tmp_path: Path) -> None:
    runs = [
        leave(tmp_path / "a", (1.0, 960.0, 970.0, 980.0), env_id="InvertedPendulum-v5"),
        leave(tmp_path / "b", (-10.0, -5.0, -4.0, -3.6), env_id="Reacher-v5"),
    ]
    read, _ = read_runs(runs)
    tasks = compare(read)[0]["tasks"]
    assert [task["threshold"] for task in tasks.values()] == [950.0, -3.75]
    tasks = compare(read, {"Reacher-v5": -5.0})[0]["tasks"]
    assert [task["threshold"] for task in tasks.values()] == [950.0, -5.0]
    assert tasks["Reacher-v5"]["groups"]["mpc"]["median_to_threshold"]["env_steps"] == 200
    assert compare(read, 3.0)[0]["tasks"]["Reacher-v5"]["threshold"] == 3.0


def test_the_median_takes_a_run_that_never_gets_there_as_the_slowest(tmp_path: Path) -> None:
    rows = [(0.0, 9.0, 9.0, 9.0), (0.0, 0.0, 9.0, 9.0), (0.0, 0.0, 0.0, 0.0)]
    runs = [leave(tmp_path / str(i), row, seed=i) for i, row in enumerate(rows)]
    about = compare(read_runs(runs)[0], 5.0)[0]["tasks"]["Pendulum-v1"]["groups"]["mpc"]
    assert about["median_to_threshold"]["env_steps"] == 300
    about = compare(read_runs(runs[1:])[0], 5.0)[0]["tasks"]["Pendulum-v1"]["groups"]["mpc"]
    assert about["median_to_threshold"]["env_steps"] is None


# --- groups and curves -------------------------------------------------------------------------------------


def test_runs_that_differ_in_their_seed_alone_are_one_group(tmp_path: Path) -> None:
    runs = [leave(tmp_path / f"o{i}", (1.0, 2.0), seed=i, model={"structure": "ode"}) for i in range(3)]
    runs += [leave(tmp_path / f"d{i}", (1.0, 2.0), seed=i, model={"structure": "dt-mlp"}) for i in range(2)]
    runs += [leave(tmp_path / "s", (1.0, 2.0), agent="sac", gamma=0.9)]
    groups = compare(read_runs(runs)[0])[1]["Pendulum-v1"]
    assert {name: len(own) for name, own in groups.items()} == {
        "mpc structure=ode": 3,
        "mpc structure=dt-mlp": 2,
        "sac": 1,
    }


def test_runs_of_the_command_line_with_two_seeds_are_one_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(AGENTS, "mpc", "tests.fakes:FakeLearner")
    monkeypatch.chdir(tmp_path)
    task, quiet = "tests.own_tasks:own/SpringCart-v0", ["--no-video", "--no-progress", "--eval-episodes", "1"]
    for seed in ("0", "1"):
        assert main(["train", task, "--steps", "110", "--seed", seed, *quiet]) == 0
    groups = compare(read_runs(find_runs(["runs"]))[0])[1]
    assert {name: [run.seed for run in own] for name, own in groups[task].items()} == {"mpc": [0, 1]}


def test_settings_that_belong_to_the_task_do_not_split_groups(tmp_path: Path) -> None:
    runs = [
        leave(tmp_path / "a", (1.0,), horizon=1),
        leave(tmp_path / "b", (1.0,), env_id="Reacher-v5", horizon=2),
    ]
    groups = compare(read_runs(runs)[0])[1]
    assert [list(by_name) for by_name in groups.values()] == [["mpc"], ["mpc"]]


def test_a_curve_is_the_middle_of_the_runs_where_all_have_evaluations() -> None:
    runs = [run_of([0.0, 2.0, 4.0]), run_of([4.0, 8.0], steps=[100.0, 300.0])]
    steps, middle, low, high = curve(runs)
    np.testing.assert_allclose(steps, [100, 200, 300])
    np.testing.assert_allclose(middle, [2.0, 4.0, 6.0])
    assert low is not None
    assert high is not None
    np.testing.assert_allclose([low[1], high[1]], [2.0, 6.0])  # both runs the same one, at 95 %
    assert curve(runs[:1])[2] is None


def test_the_final_evaluation_takes_the_place_of_one_as_late(tmp_path: Path) -> None:
    run = leave(tmp_path / "a", (1.0, 2.0, 3.0, 4.0))
    write_json(run.evaluation, {"mean_return": 5.0, "returns": [4.0, 6.0]})
    ((read,), _) = read_runs([run])
    np.testing.assert_allclose(read.returns, [1, 2, 3, 5])
    np.testing.assert_allclose(read.errors, [0, 0, 0, 1])
    assert read.final == 5.0


def test_a_group_that_always_ends_better_improves_with_certainty(tmp_path: Path) -> None:
    runs = [leave(tmp_path / f"m{i}", (0.0, 10.0 + i), seed=i) for i in range(3)]
    runs += [leave(tmp_path / f"s{i}", (0.0, 1.0 + i), agent="sac", seed=i) for i in range(3)]
    found = compare(read_runs(runs)[0])[0]
    (row,) = found["improvement"]
    assert (row["x"], row["y"], row["probability"], row["interval"]) == ("mpc", "sac", 1.0, [1.0, 1.0])
    profile = found["profiles"]
    at = np.array(profile["thresholds"])
    between = int(np.argmin(np.abs(at - 6.0)))
    assert profile["groups"]["mpc"]["share_above"][between] == 1.0
    assert profile["groups"]["sac"]["share_above"][between] == 0.0


def test_scores_of_several_tasks_are_shares_of_what_was_seen_on_each(tmp_path: Path) -> None:
    runs = [leave(tmp_path / "a", (1000.0,)), leave(tmp_path / "b", (3000.0,), agent="sac")]
    runs += [leave(tmp_path / "c", (1.0,), env_id="Reacher-v5")]
    runs += [leave(tmp_path / "d", (0.0,), env_id="Reacher-v5", agent="sac")]
    found = compare(read_runs(runs)[0])[0]
    assert found["improvement"][0]["probability"] == 0.5  # one task each
    assert found["profiles"]["thresholds"][0] == pytest.approx(-0.05)


def test_groups_without_a_task_in_common_are_not_compared(tmp_path: Path) -> None:
    runs = [leave(tmp_path / "a", (1.0,)), leave(tmp_path / "b", (2.0,), agent="sac", env_id="Reacher-v5")]
    found = compare(read_runs(runs)[0])[0]
    assert found["improvement"] == []
    assert found["profiles"]["tasks"] == []


# --- the command line --------------------------------------------------------------------------------------


def test_compare_writes_figures_numbers_and_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for i in range(3):
        leave(tmp_path / "runs" / f"m{i}", (-900.0, -300.0, -150.0, -140.0 - i), seed=i)
        leave(tmp_path / "runs" / f"s{i}", (-1200.0, -900.0, -500.0, -300.0 - i), agent="sac", seed=i)
    RunFolder.create("Pendulum-v1", "mpc", 9, tmp_path / "runs" / "empty")
    assert main(["compare", "runs", "--threshold", "-200"]) == 0
    out = capsys.readouterr().out
    assert "3 of 3" in out
    assert "0 of 3" in out
    assert "mpc > sac: 1.00" in out
    assert "left out runs/empty" in out
    made = tmp_path / "comparison"
    assert {path.name for path in made.iterdir()} == {
        *("comparison.json", "curves.png", "profiles.png", "improvement.png"),
    }
    data = json.loads((made / "comparison.json").read_text())
    assert data["tasks"]["Pendulum-v1"]["groups"]["mpc"]["median_to_threshold"]["sim_seconds"] == 15.0
    for name in ("curves", "profiles", "improvement"):
        picture = np.asarray(Image.open(made / f"{name}.png").convert("RGB"), float)
        assert (np.abs(picture - [0, 114, 178]).max(-1) < 30).sum() > 50


def test_runs_are_found_by_folder_by_name_and_in_a_table(tmp_path: Path) -> None:
    a, b = leave(tmp_path / "runs" / "a", (1.0,)).path, leave(tmp_path / "runs" / "b", (1.0,), seed=1).path
    table = tmp_path / "runs" / "results.csv"
    with open(table, "w", newline="") as file:
        csv.writer(file).writerows([["seed", "run_dir"], [0, str(a)], [1, "/moved/from/b"]])
    assert [run.path for run in find_runs([str(tmp_path / "runs")])] == [a, b]
    assert [run.path for run in find_runs([str(tmp_path)])] == [a, b]
    assert [run.path for run in find_runs([str(a), str(tmp_path / "runs")])] == [a, b]
    assert [run.path.name for run in find_runs([str(table)])] == ["a", "b"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "Write `ode-rl compare runs/*`."),
        (["nowhere"], "none in nowhere"),
        (["empty"], "none in empty"),
        (["a.csv"], "a column run_dir"),
        (["run", "--threshold", "high"], "Write --threshold -200."),
        (["run", "--threshold", "1", "--threshold", "A-v0=2"], "Leave one of them out"),
        (["run", "--out", "a.csv/x"], "--out"),
        (["begun"], "no evaluation yet"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.csv").write_text("seed\n0\n")
    leave(tmp_path / "run", (1.0,))
    leave(tmp_path / "begun", (1.0,)).evaluations.unlink()
    assert main(["compare", *argv]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: expected ")
    assert message in err
    assert not (tmp_path / "comparison").exists()


@pytest.mark.parametrize("damaged", [b"no zip", b"", b"PK\x03\x04 cut"])
def test_a_damaged_run_is_left_out_and_said(damaged: bytes, tmp_path: Path) -> None:
    good, bad = leave(tmp_path / "a", (1.0,)), leave(tmp_path / "b", (2.0,))
    bad.evaluations.write_bytes(damaged)
    runs, left_out = read_runs([good, bad])
    assert [run.path for run in runs] == [str(good.path)]
    assert left_out[0]["run"] == str(bad.path)


def test_no_pickle_in_a_run_is_loaded(tmp_path: Path) -> None:
    run = leave(tmp_path / "a", (1.0,))
    np.savez(run.evaluations, timesteps=np.array([1]), results=np.array([[object()]]))
    with pytest.raises(UsageError, match="dtype object instead of numbers"):
        read_runs([run])
