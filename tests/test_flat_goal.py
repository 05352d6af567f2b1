"""Tasks with goals: flattened observations, the length of their step, the known distance."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3

from ode_rl.agents import MPC
from ode_rl.envs import FlatGoal, make_task
from ode_rl.envs import task as task_module
from ode_rl.envs.goal_distance import fetch, goal_distance, maze
from ode_rl.errors import UsageError
from ode_rl.timing import native_dt


class Reach(gymnasium.Env[Any, Any]):
    """Moves a point in the plane by its action towards a goal, 0.1 s a step, which it hides as mazes do."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self) -> None:
        box = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.observation_space = spaces.Dict(
            {
                "observation": spaces.Box(-np.inf, np.inf, (3,), np.float64),
                "achieved_goal": box,
                "desired_goal": spaces.Box(-1.0, 1.0, (2,), np.float64),
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.point_env = SimpleNamespace(dt=0.1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at, self.goal = np.zeros(2), self.np_random.uniform(-1, 1, 2)
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.at = self.at + 0.1 * np.clip(action, -1, 1)
        distance = float(np.linalg.norm(self.at - self.goal))
        return self._seen(), -distance, False, False, {"is_success": distance < 0.1}

    def _seen(self) -> dict[str, Any]:
        return {"observation": np.array([*self.at, 7.0]), "achieved_goal": self.at, "desired_goal": self.goal}


@pytest.fixture(autouse=True)
def reach() -> Iterator[None]:
    gymnasium.register("test/Reach-v0", entry_point=Reach, max_episode_steps=20)  # type: ignore[arg-type]
    yield
    del gymnasium.registry["test/Reach-v0"]


def test_the_goal_stands_behind_the_observation() -> None:
    env = FlatGoal(Reach())
    obs, _ = env.reset(seed=0)
    np.testing.assert_array_equal(obs, [0, 0, 7, 0, 0, *env.unwrapped.goal])  # type: ignore[attr-defined]
    obs, reward, *_, info = env.step(np.array([1.0, -1.0]))
    np.testing.assert_allclose(obs[:5], [0.1, -0.1, 7, 0.1, -0.1])
    assert reward == pytest.approx(-np.linalg.norm(obs[3:5] - obs[5:]))
    assert "is_success" in info
    space: Any = env.observation_space
    np.testing.assert_array_equal(space.high, [np.inf] * 5 + [1, 1])
    assert env.observation_space.contains(obs)


def test_both_checkers_accept_a_flattened_task() -> None:
    check_env(FlatGoal(Reach()), skip_render_check=True)
    check_env_of_sb3(FlatGoal(Reach()))


def test_a_task_with_a_goal_is_flattened_by_its_id_and_knows_its_step() -> None:
    env = make_task("test/Reach-v0")
    assert env.observation_space.shape == (7,)
    assert native_dt(env) == env.metadata["dt"] == 0.1
    env.reset(seed=0)
    assert env.step(env.action_space.sample())[4]["dt"] == 0.1
    stretched = make_task("test/Reach-v0", 0.2)
    stretched.reset(seed=0)
    obs, *_, info = stretched.step(np.ones(2, np.float32))
    np.testing.assert_allclose(obs[:2], 0.2)
    assert info["dt"] == pytest.approx(0.2)
    assert gymnasium.make("Pendulum-v1").observation_space.shape == (3,)


def test_what_is_no_goal_task_is_refused_and_a_goal_task_names_the_wrapper() -> None:
    with pytest.raises(UsageError, match="desired_goal"):
        FlatGoal(gymnasium.make("Pendulum-v1"))
    with pytest.raises(UsageError, match="FlatGoal"):
        MPC(Reach(), dt=0.1)


def test_the_known_distance_is_the_dense_reward_of_a_native_step() -> None:
    env = FlatGoal(Reach())
    obs, _ = env.reset(seed=1)
    after, reward, *_ = env.step(np.array([0.5, 0.5]))
    rows = torch.from_numpy(np.stack([obs, after]))
    known = goal_distance(2, 0.1)
    found = known(rows[:1], torch.zeros(1, 2), rows[1:], torch.tensor([0.1]))
    assert float(found) == pytest.approx(float(reward), rel=1e-6)
    assert float(known(rows[:1], torch.zeros(1, 2), rows[1:], torch.tensor([0.3]))) == pytest.approx(
        3 * float(reward), rel=1e-6
    )
    assert fetch.names == maze.names == ["reward"]


def test_a_robot_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_module, "ROBOTICS", "no_such_package")
    with pytest.raises(UsageError, match=r"ode-rl\[robotics\]"):
        make_task("FetchReach-v99")
