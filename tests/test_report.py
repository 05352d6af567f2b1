"""The report: whole or not there, its numbers from episodes no training saw, at intervals that exist."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from ode_rl.agents import MPC
from ode_rl.agents.registry import AGENTS
from ode_rl.cli import main
from ode_rl.envs.stage import CannotRender, Stage
from ode_rl.envs.task import make_task
from ode_rl.errors import UsageError
from ode_rl.held_out import HeldOutTask
from ode_rl.model_quality import (
    calibration_quality,
    interval_quality,
    reward_quality,
    solver_quality,
    termination_quality,
)
from ode_rl.open_loop import one_interval, open_loop
from ode_rl.report import AGENT, RANDOM, write_report
from ode_rl.run import RunFolder
from ode_rl.state import STATE_SPECS
from ode_rl.types import Trajectory
from tests.fakes import FakeLearner
from tests.known_worlds import known_world

CART, BALANCE = "tests.own_tasks:own/SpringCart-v0", "tests.own_tasks:own/Balance-v0"
FILES = {
    "calibration.png",
    "dt.png",
    "horizon.png",
    "one_interval.png",
    "open_loop.png",
    "outcomes.png",
    "report.json",
}
TINY: dict[str, Any] = {
    "preset": None,
    "device": "cpu",
    "warmup_steps": 40,
    "fit_every": 1000,
    "model": {"n_members": 2, "hidden": [16], "head_hidden": [8]},
    "fit": {"updates": 40, "warm_start_updates": 40, "batch_size": 32},
    "planner": {"candidates": 16, "iterations": 1},
}


def trained(folder: Path, env_id: str, steps: int = 45) -> Path:
    """A run folder as training leaves it."""
    run = RunFolder.create(env_id, "mpc", 0, folder)
    agent = MPC(make_task(env_id), seed=0, **TINY).learn(steps)
    run.write_config({**agent.config, "env_id": env_id, "steps": steps})
    agent.save(run.checkpoint)
    return run.path


class Modelless(FakeLearner):
    """An agent that acts without a world model."""

    @classmethod
    def load(cls, path: Any, env: Any = None, device: str = "auto", **_: Any) -> Modelless:
        return cls()


def read(report: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((report / "report.json").read_text())
    return found


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "pendulum", "Pendulum-v1")


@pytest.fixture(autouse=True)
def short_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ode_rl.held_out.LEAST_INTERVALS", 50)
    monkeypatch.setattr("ode_rl.held_out.MOST_SECONDS", 2.0)


@pytest.fixture
def cart() -> Iterator[HeldOutTask]:
    with HeldOutTask(CART) as task:
        yield task


# --- the whole ---------------------------------------------------------------------------------------------


def test_a_report_has_all_its_parts_and_replaces_an_older_one(pendulum: Path) -> None:
    (pendulum / "report").mkdir()
    (pendulum / "report" / "old.txt").write_text("old")
    report = write_report(pendulum, episodes=2, video=True)
    assert report == pendulum / "report"
    assert {path.name for path in report.iterdir()} >= FILES
    assert not (report / "old.txt").exists()
    assert not [path for path in pendulum.iterdir() if path.name.startswith(".report")]
    found = read(report)
    assert found["schema"] == 1
    assert found["episodes"][AGENT]["intervals"] == found["episodes"][RANDOM]["intervals"] == 100
    horizon = found["error_against_horizon"]["sources"][AGENT]
    assert horizon["times"] == [0.1, 0.5, 1.0, 2.0]
    assert all(error > 0 for error in horizon["error"])
    # Pendulum can only be repeated: finer intervals do not exist.
    rows, left_out = found["error_against_dt"]["rows"], found["error_against_dt"]["left_out"]
    assert [round(row["ratio"], 6) for row in rows] == [1, 2, 4]
    assert [row["seen"] for row in rows] == [True, False, False]
    assert [row["ratio"] for row in left_out] == [0.25, 0.5]
    assert found["solver"]["evaluations"] == 2
    assert found["solver"]["consistency"]["n_failures"] == 0
    video = found["video"]
    assert (video["file"] is None) == bool(video["why_none"])
    assert video["file"] is None or (report / video["file"]).stat().st_size > 1000


def test_reports_of_the_same_seed_have_the_same_numbers(pendulum: Path) -> None:
    first = read(write_report(pendulum, episodes=2, seed=5, video=False))
    second = read(write_report(pendulum, episodes=2, seed=5, video=False))
    other = read(write_report(pendulum, episodes=2, seed=6, video=False))
    assert first == second
    assert first["reward"] != other["reward"]
    assert first["video"]["why_none"] == "not asked for"


def test_a_task_that_ends_and_cannot_be_drawn_is_reported_too(tmp_path: Path) -> None:
    report = write_report(trained(tmp_path / "run", BALANCE), episodes=2)
    found = read(report)
    assert {path.name for path in report.iterdir()} == FILES
    assert "no render mode" in found["video"]["why_none"]
    termination = found["termination"]
    assert termination["ends"] == sum(found["episodes"][name]["terminated"] for name in (AGENT, RANDOM)) > 0
    assert termination["log_likelihood"] < 0
    assert sum(each["intervals"] for each in termination["reliability"]) == termination["intervals"]


# --- bad input ---------------------------------------------------------------------------------------------


def test_what_cannot_be_reported_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(AGENTS, "fake", "tests.test_report:Modelless")
    run = RunFolder.create(CART, "fake", 0, tmp_path / "run")
    run.write_config({"agent": "fake", "env_id": CART, "dt": 0.05, "steps": 3})
    FakeLearner().save(run.checkpoint)
    before = sorted(path.name for path in run.path.iterdir())
    assert main(["report", str(run.path)]) == 2
    assert "expected a run with a world model, got a run of Modelless" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 2
    assert f"Did you mean {run.path}?" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "expected a run folder" in capsys.readouterr().err
    assert main(["report", str(run.path), "--episodes", "1"]) == 2
    assert "Write --episodes 6." in capsys.readouterr().err
    with pytest.raises(UsageError, match="at least two episodes"):
        write_report(run, episodes=1)
    assert sorted(path.name for path in run.path.iterdir()) == before


def test_a_model_that_was_never_fitted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a fitted world model"):
        write_report(trained(tmp_path / "run", CART, steps=5))


def test_a_folder_that_cannot_be_written_is_refused_at_once(
    pendulum: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UsageError, match="a run folder that can be written"):
        write_report(pendulum)


def test_a_report_that_fails_half_way_leaves_the_older_one(
    pendulum: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(pendulum, episodes=2, video=False)
    before = (pendulum / "report" / "report.json").read_bytes()

    def fails(*_: Any) -> None:
        raise RuntimeError("full")

    monkeypatch.setattr("ode_rl.report.solver_quality", fails)
    with pytest.raises(RuntimeError, match="full"):
        write_report(pendulum, episodes=2, seed=9, video=False)
    assert (pendulum / "report" / "report.json").read_bytes() == before
    assert not [path for path in pendulum.iterdir() if path.name.startswith(".report")]


# --- episodes ----------------------------------------------------------------------------------------------


def test_a_replay_at_other_intervals_takes_the_actions_at_their_times() -> None:
    with HeldOutTask("InvertedDoublePendulum-v5") as task:
        (episode,) = task.record(lambda obs: np.sin(7 * obs[:, :1]), [3])
        half = task.nearest_dt(0.5)
        assert half == pytest.approx(0.4 * task.native)  # 2 of 5 substeps
        tenth = task.replay(episode, 3, task.nearest_dt(0.2))
        # Five short intervals make one: the same states are passed, and the rewards add up.
        n = min(len(episode), len(tenth) // 5)
        assert n >= 3
        np.testing.assert_allclose(tenth.obs[: 5 * n + 1 : 5], episode.obs[: n + 1], atol=1e-9)
        np.testing.assert_array_equal(
            tenth.action[: 5 * n].reshape(n, 5), np.repeat(episode.action[:n], 5, 1)
        )
        with pytest.raises(UsageError, match=r"a ratio of at least 0\.2"):
            task.nearest_dt(0.1)


def test_a_long_interval_holds_the_action_of_its_beginning(cart: HeldOutTask) -> None:
    (episode,) = cart.record(cart.random_policy(0), [1])
    twice = cart.replay(episode, 1, cart.nearest_dt(2.0))
    assert len(twice) == len(episode) // 2
    np.testing.assert_allclose(twice.dt, 2 * cart.native)
    np.testing.assert_array_equal(twice.action, episode.action[::2])
    np.testing.assert_array_equal(twice.obs[0], episode.obs[0])


def test_an_episode_shorter_than_the_interval_has_no_replay(cart: HeldOutTask) -> None:
    (episode,) = cart.record(cart.random_policy(0), [1])
    short = replace(episode, obs=episode.obs[:4], action=episode.action[:3], dt=episode.dt[:3])
    replayed = cart.replay(short, 1, cart.nearest_dt(4.0))
    assert len(replayed) == 0
    assert replayed.action.shape == (0, 1)


def test_recorded_actions_are_scaled_to_one_and_episodes_end_where_the_task_ends(cart: HeldOutTask) -> None:
    low, high = cart.record(lambda obs: np.array([[-9.0], [3.0]]), [1, 2])
    assert (low.action == -1).all()
    assert (high.action == 1).all()
    assert len(low) == 50
    assert low.truncated
    with HeldOutTask(BALANCE) as task:
        (fallen,) = task.record(lambda obs: np.ones((1, 1)), [0])
    assert fallen.terminated
    assert len(fallen) < 50
    assert abs(fallen.obs[-1, 0]) > 1 >= abs(fallen.obs[-2, 0])


# --- numbers -----------------------------------------------------------------------------------------------


def falling(n: int = 6, seed: int = 0, terminated: bool = True) -> Trajectory:
    """``x' = a``, exactly; the reward of an interval is ``3 dt + 0.5``."""
    action = np.random.default_rng(seed).uniform(-1, 1, (n, 1))
    dt = np.full(n, 0.1)
    obs = np.concatenate([[[0.0]], np.cumsum(0.1 * action, 0)])
    return Trajectory(obs, action, 3 * dt + 0.5, dt, terminated, not terminated)


def test_reward_quality_by_hand_leaves_terminal_intervals_out() -> None:
    world = known_world(lambda z, a: a, lambda z, a: 0 * z + 3)
    episode = falling()
    rewards = episode.reward.copy()
    rewards[:5] += [0.1, -0.1, 0.1, -0.1, 0.0]
    rewards[5] = -100.0
    loop = one_interval(world, [replace(episode, reward=rewards)])
    found = reward_quality(loop)
    assert found["intervals"] == 5
    assert found["bias"] == pytest.approx(-0.5)
    assert found["rmse"] == pytest.approx(math.sqrt(0.25 + 4 * 0.01 / 5))
    assert found["nrmse"] == pytest.approx(found["rmse"] / math.sqrt(4 * 0.01 / 5))


def test_termination_quality_by_hand() -> None:
    # A hazard of 2 per second: every interval of 0.1 s ends with 1 - exp(-0.2).
    world = known_world(lambda z, a: a, hazard=lambda z, a: 0 * z + 2)
    episodes = [falling(5), falling(15, terminated=False)]
    found = termination_quality(world, one_interval(world, episodes))
    p = 1 - math.exp(-0.2)
    assert found["ends"] == 1
    assert found["predicted_ends"] == pytest.approx(20 * p)
    assert found["log_likelihood"] == pytest.approx((math.log(p) + 19 * math.log(1 - p)) / 20)
    base = (math.log(0.05) + 19 * math.log(0.95)) / 20
    assert found["base_rate_log_likelihood"] == pytest.approx(base)
    assert (found["precision"], found["recall"]) == (None, 0.0)
    assert found["reliability"] == [{"intervals": 20, "predicted": pytest.approx(p), "ended": 0.05}]


def test_precision_and_recall_count_calls_above_one_half() -> None:
    # Ends are said to come where x > 0; they come where x > 0.2.
    world = known_world(lambda z, a: a, end_logit=lambda z, a: 1e3 * z)
    x = [-0.5, 0.1, 0.15, 0.3, 0.4]
    episodes = [
        Trajectory(
            np.array([[0.0], [end]]),
            np.array([[end * 10]]),
            np.zeros(1),
            np.array([0.1]),
            end > 0.2,
            end <= 0.2,
        )
        for end in x
    ]
    found = termination_quality(world, one_interval(world, episodes))
    assert found["precision"] == pytest.approx(0.5)
    assert found["recall"] == 1
    assert found["ends"] == 2


def test_the_error_of_a_known_world_is_nothing_and_its_solver_is_counted() -> None:
    world = known_world(lambda z, a: a)
    found = interval_quality(world, [falling()])
    assert found["error"] == pytest.approx(0, abs=1e-12)
    assert found["no_change"] > 0.5
    assert (found["evaluations"], found["rows"], found["failed_rows"]) == (4, 12, 0)
    solver = solver_quality(known_world(lambda z, a: 1e300 * z**2 + a), [falling()])
    assert solver["method"] == "rk4"
    assert solver["failed_rows"] > 0
    assert not solver["consistency"]["consistent"]


def test_the_temperature_is_fitted_on_other_episodes_than_it_is_judged_on() -> None:
    # Errors of even episodes are twice as large as those of odd ones, where 90 % bands then cover more.
    rng, episodes = np.random.default_rng(0), []
    for i in range(40):
        steps = rng.normal(0, 0.1 * (2 if i % 2 == 0 else 1), (30, 1))
        obs = np.concatenate([[[0.0]], np.cumsum(steps, 0)])
        episodes.append(Trajectory(obs, np.zeros((30, 1)), np.zeros(30), np.full(30, 0.1), False, True))
    still = known_world(lambda z, a: 0 * z)
    found = calibration_quality(open_loop(still, episodes, 2.0))
    # Noise of the model: 1 typical change of 0.1 per native interval of 0.1 s.
    assert found["temperature"] == pytest.approx(2.0, rel=0.2)
    ninety = found["after"][1]
    assert min(ninety) > 0.97
    assert (found["fitted_on_episodes"], found["judged_on_episodes"]) == (20, 20)


# --- video -------------------------------------------------------------------------------------------------


MUJOCO = sorted(name for name in STATE_SPECS if name.endswith("-v5") and name != "Pusher-v5")
SMOOTH = sorted(name for name in STATE_SPECS if name.startswith("ode_rl/"))


@pytest.mark.parametrize("env_id", ["Pendulum-v1", *SMOOTH])
def test_a_drawn_task_stands_where_the_observation_says(env_id: str) -> None:
    env = gymnasium.make(env_id, render_mode="rgb_array")
    stage = Stage(env, env_id, seed=0)
    obs, _ = env.reset(seed=1)
    (pose,) = stage.poses(np.asarray(obs, np.float64)[None], np.zeros(0))
    picture = stage.draw(pose)
    base: Any = env.unwrapped
    state = base.state if env_id == "Pendulum-v1" else base._state
    np.testing.assert_allclose(np.cos(state[: len(pose)] - pose), 1, atol=1e-9)
    assert picture.std() > 0
    env.close()


@pytest.mark.parametrize("env_id", MUJOCO)
def test_poses_of_mujoco_are_read_off_observations(env_id: str) -> None:
    env = gymnasium.make(env_id)
    stage = Stage(env, env_id, seed=0)
    obs = [env.reset(seed=1)[0]]
    start = np.array(env.unwrapped.data.qpos)  # type: ignore[attr-defined]
    obs += [env.step(env.action_space.sample())[0] for _ in range(3)]
    base: Any = env.unwrapped
    poses = stage.poses(np.array(obs, np.float64), np.full(3, base.dt))
    n_free = STATE_SPECS[env_id].layout.n_free
    difference = poses[-1] - np.array(base.data.qpos)
    turns = difference[n_free:] / (2 * math.pi)
    np.testing.assert_allclose(turns, np.round(turns), atol=1e-5)
    assert np.abs(difference[:n_free] + start[:n_free]).max(initial=0) < 0.1 * 3 * base.dt * 10
    env.close()


def test_a_task_whose_state_cannot_be_read_off_is_not_drawn() -> None:
    with pytest.raises(CannotRender, match="Pusher-v5 cannot be read off"):
        Stage(gymnasium.make("Pusher-v5"), "Pusher-v5", seed=0)
    with pytest.raises(CannotRender, match="cannot be read off"):
        Stage(make_task(CART), CART, seed=0)
