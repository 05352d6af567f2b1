"""The tasks of gymnasium-robotics, where it is installed (the extra `robotics`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium_robotics")

from ode_rl.cli import main
from ode_rl.envs import make_task
from ode_rl.envs.goal_distance import fetch

FETCH = ("FetchReach-v4", "FetchReachDense-v4", "FetchPush-v4", "FetchPickAndPlaceDense-v4")
MAZES = ("PointMaze_UMaze-v3", "PointMaze_UMazeDense-v3", "AntMaze_UMaze-v5")
HANDS = ("AdroitHandDoor-v1", "AdroitHandPen-v1", "HandReach-v3", "HandManipulateBlock-v1")


@pytest.mark.parametrize("env_id", [*FETCH, *MAZES, *HANDS])
def test_robots_make_and_step_and_say_how_long_a_step_lasts(env_id: str) -> None:
    env = make_task(env_id)
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    for _ in range(3):
        obs, reward, _, _, info = env.step(env.action_space.sample())
        assert env.observation_space.contains(obs)
        assert np.isfinite(float(reward))
        assert info["dt"] > 0
    assert {"is_success", "success"} & set(info)
    env.close()


def test_a_step_of_a_robot_lasts_what_its_physics_say() -> None:
    for env_id in ("FetchReach-v4", "PointMaze_UMaze-v3", "AntMaze_UMaze-v5", "HandReach-v3"):
        env = make_task(env_id)
        env.reset(seed=0)
        base: Any = env.unwrapped
        data = getattr(getattr(base, "point_env", getattr(base, "ant_env", base)), "unwrapped", base).data
        before = data.time
        *_, info = env.step(env.action_space.sample())
        assert data.time - before == pytest.approx(info["dt"], rel=1e-9)
        env.close()


def test_the_known_distance_is_what_the_dense_task_pays() -> None:
    env: Any = make_task("FetchReachDense-v4")
    obs, _ = env.reset(seed=3)
    for _ in range(5):
        after, reward, *_ = env.step(env.action_space.sample())
        rows = [torch.from_numpy(x)[None] for x in (obs, after)]
        assert fetch.reward is not None
        found = fetch.reward(rows[0], torch.zeros(1, 4), rows[1], torch.tensor([0.04]))
        assert float(found) == pytest.approx(float(reward), rel=1e-5)
        obs = after


@pytest.mark.parametrize(
    ("env_id", "agent", "more"),
    [
        ("FetchReach-v4", "sac", []),
        ("FetchReachDense-v4", "mpc", ["--known", "ode_rl.envs.goal_distance:fetch"]),
        ("PointMaze_UMaze-v3", "sac", []),
    ],
)
def test_goal_tasks_train_through_the_command_line_and_say_their_success(
    env_id: str, agent: str, more: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    short = ["--steps", "30", "--eval-episodes", "1", "--no-video", "--no-progress", "--device", "cpu"]
    assert main(["train", env_id, "--agent", agent, "--run-dir", str(run), *short, *more]) == 0
    found = json.loads((run / "evaluation.json").read_text())
    assert found["success_rate"] in (0.0, 1.0)
    assert found["lengths"] == [gymnasium.spec(env_id).max_episode_steps]


@pytest.mark.slow
def test_the_planner_reaches_with_the_known_distance(tmp_path: Path) -> None:
    run = tmp_path / "run"
    known = ["--known", "ode_rl.envs.goal_distance:fetch", "--steps", "400", "--seed", "7"]
    short = ["--eval-episodes", "20", "--no-video", "--no-progress", "--run-dir", str(run)]
    assert main(["train", "FetchReach-v4", *known, *short]) == 0
    assert json.loads((run / "evaluation.json").read_text())["success_rate"] >= 0.9
