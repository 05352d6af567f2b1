"""Repeatable episodes: seeded resets, remembered actions, and no episode that is not the same again."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.vec_env import DummyVecEnv

import tests.own_tasks  # noqa: F401
from ode_rl.agents.open_episodes import EPISODES, STREAMS, OpenEpisodes, open_episodes, took_up
from ode_rl.envs import ObservationDropout, Repeatable
from ode_rl.envs.task import make_task
from ode_rl.errors import UsageError


def cart(seed: int = 0, index: int = 0) -> Repeatable:
    return Repeatable(gymnasium.make("own/SpringCart-v0"), seed, index)


def noisy(seed: int = 0) -> Repeatable:
    """A task with a random stream of its own, in a wrapper."""
    return Repeatable(ObservationDropout(make_task("tests.own_tasks:own/SpringCart-v0"), 0.5), seed)


def some_actions(n: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).uniform(-1, 1, (n, 1)).astype(np.float32)


def test_the_wrapper_is_an_environment_of_gymnasium() -> None:
    check_env(cart(), skip_render_check=True)


def test_the_first_episode_starts_as_without_the_wrapper() -> None:
    mine, _ = cart(5).reset()
    plain, _ = gymnasium.make("own/SpringCart-v0").reset(seed=5)
    np.testing.assert_array_equal(mine, plain)


def test_episodes_depend_on_seed_number_and_index_alone() -> None:
    def starts(seed: int, index: int, steps: int) -> list[float]:
        env, found = cart(seed, index), []
        for _ in range(4):
            found.append(float(env.reset()[0][0]))
            for action in some_actions(steps):
                env.step(action)
        return found

    assert starts(5, 0, 0) == starts(5, 0, 9)
    different = {start for seed in (5, 6) for start in starts(seed, 0, 0)} | set(starts(5, 1, 0)[1:])
    assert len(different) == 4 + 4 + 3


def test_environments_of_a_vec_env_start_apart_and_go_on_apart() -> None:
    env = DummyVecEnv([lambda i=i: cart(7, i) for i in range(3)])  # type: ignore[misc]
    env.seed(7)
    for _ in range(2):
        assert len(set(np.asarray(env.reset())[:, 0].tolist())) == 3


@pytest.mark.parametrize("steps", [0, 1, 30])
def test_an_open_episode_is_brought_back_with_the_streams_of_wrappers(steps: int) -> None:
    env = noisy(3)
    env.reset()
    env.reset()
    for action in some_actions(steps):
        env.step(action)
    state = env.episode_state()
    assert state["actions"].shape == (steps, 1)
    again = noisy(99)
    np.testing.assert_array_equal(again.resume_episode(state), state["obs"])
    for action in some_actions(20, seed=1):
        np.testing.assert_array_equal(env.step(action)[0], again.step(action)[0])
    np.testing.assert_array_equal(env.reset()[0], again.reset()[0])


def test_an_episode_that_does_not_repeat_itself_is_not_gone_on_with() -> None:
    env = cart(3)
    env.reset()
    for action in some_actions(5):
        env.step(action)
    state = env.episode_state()
    assert cart().resume_episode({**state, "obs": state["obs"] + 1e-6}) is None
    too_long = np.zeros((150, 1), np.float32)  # the time limit ends it before
    assert cart().resume_episode({**state, "actions": too_long}) is None


def test_a_long_episode_costs_the_bytes_of_its_actions() -> None:
    endless: Any = gymnasium.make("own/SpringCart-v0")
    env = Repeatable(endless.env, 0)
    env.reset()
    for action in some_actions(3000):
        env.step(action)
    assert len(env._actions) == 3000 * 4
    np.testing.assert_array_equal(env.episode_state()["actions"], some_actions(3000))


# --- as parts of a checkpoint ------------------------------------------------------------------------------


def vec(n: int = 2, seed: int = 1) -> DummyVecEnv:
    return DummyVecEnv([lambda i=i: cart(seed, i) for i in range(n)])  # type: ignore[misc]


def left_behind() -> tuple[OpenEpisodes, Any]:
    env = vec()
    env.reset()
    for action in some_actions(6):
        obs, *_ = env.step(np.stack([action, -action]))
    return open_episodes(env), obs


def test_all_environments_are_taken_up_with_the_global_streams() -> None:
    left, obs = left_behind()
    expected = np.random.uniform()
    taken = took_up(vec(seed=9), left)
    assert taken is not None
    np.testing.assert_array_equal(taken[0], obs)
    assert taken[0].dtype == np.float32
    assert not taken[1].any()
    assert np.random.uniform() == expected


def test_an_environment_that_does_not_repeat_itself_begins_a_new_episode(
    caplog: pytest.LogCaptureFixture,
) -> None:
    left, obs = left_behind()
    left.arrays[EPISODES]["obs_1"] += 1.0
    taken = took_up(vec(), left)
    assert taken is not None
    assert taken[1].tolist() == [False, True]
    np.testing.assert_array_equal(taken[0][0], obs[0])
    assert "environment 1 did not repeat" in caplog.text


def test_environments_that_cannot_repeat_themselves_are_reset_by_the_agent() -> None:
    left, _ = left_behind()
    assert took_up(DummyVecEnv([lambda: gymnasium.make("own/SpringCart-v0")]), left) is None


@pytest.mark.parametrize("damage", ["count", "streams", "arrays", "seed", "shape", "obs", "nan"])
def test_damaged_open_episodes_are_refused(damage: str) -> None:
    left, _ = left_behind()
    episodes = left.arrays[EPISODES]
    if damage == "count":
        left = left._replace(meta=left.meta[:1])
    elif damage == "streams":
        left.arrays.pop(STREAMS)
    elif damage == "arrays":
        episodes.pop("actions_1")
    elif damage == "seed":
        left.meta[1]["seed"] = -1
    elif damage == "shape":
        episodes["actions_0"] = np.zeros((6, 2), np.float32)
    elif damage == "obs":
        episodes["obs_0"] = np.zeros(3, np.float32)
    else:
        episodes["actions_0"] = np.full((6, 1), np.nan, np.float32)
    with pytest.raises(UsageError):
        took_up(vec(), left)
