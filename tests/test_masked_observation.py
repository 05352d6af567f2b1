"""Hidden components: hand-picked columns, both checkers, and the task for agents with a memory."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from ode_rl.envs import ControlInterval, MaskedObservation, partly_observed
from ode_rl.errors import UsageError
from tests import own_tasks

assert own_tasks  # registers the tasks of a user


def test_the_velocities_of_a_known_task_are_hidden_and_the_rest_is_as_it_was() -> None:
    for env_id, shown in (("Pendulum-v1", [0, 1]), ("HalfCheetah-v5", list(range(8)))):
        plain, masked = gymnasium.make(env_id), MaskedObservation(gymnasium.make(env_id))
        plain.reset(seed=3), masked.reset(seed=3)
        action = plain.action_space.sample()
        full, part = plain.step(action), masked.step(action)
        np.testing.assert_array_equal(part[0], full[0][shown])
        assert part[1:4] == full[1:4]
        assert masked.observation_space.contains(part[0])


@pytest.mark.filterwarnings("ignore")
def test_both_checkers_accept_it_and_its_spec_makes_it_again() -> None:
    env = MaskedObservation(ControlInterval(gymnasium.make("own/SpringCart-v0")), hidden=[-1])
    check_env(env, skip_render_check=True)
    check_env_sb3(env)
    assert env.spec is not None
    again = gymnasium.make(env.spec.from_json(env.spec.to_json()))
    np.testing.assert_array_equal(env.reset(seed=1)[0], again.reset(seed=1)[0])


@pytest.mark.parametrize("hidden", [[3], [-4], [0, 0], [0, -3], [0, 1, 2]])
def test_a_component_that_is_not_there_or_twice_or_every_one_is_refused(hidden: list[int]) -> None:
    with pytest.raises(UsageError, match="components 0 to 2"):
        MaskedObservation(gymnasium.make("Pendulum-v1"), hidden)


def test_a_task_of_unknown_state_has_to_say_which_components() -> None:
    with pytest.raises(UsageError, match=r"hidden=\["):
        MaskedObservation(gymnasium.make("own/SpringCart-v0"))


def episode(env: Any, steps: int, seed: int) -> list[Any]:
    found = [(env.reset(seed=seed)[0], 0.0)]
    for _ in range(steps):
        obs, _, _, _, info = env.step(np.full(1, 0.5, np.float32))
        found.append((obs, info["dt"]))
    return found


def test_a_partly_observed_pendulum_shows_its_angle_now_and_then_and_the_time_always() -> None:
    lo, hi, steps = 0.02, 0.08, 120
    seen = episode(partly_observed("ode_rl/Pendulum-v0", (lo, hi), dropout=0.5), steps, seed=0)
    truth = episode(ControlInterval(gymnasium.make("ode_rl/Pendulum-v0"), dt=(lo, hi)), steps, seed=0)
    new = np.array([obs["observation"][2] for obs, _ in seen])
    actions = np.array([obs["observation"][3:] for obs, _ in seen])
    np.testing.assert_array_equal(actions, [[0.0], *[[0.5]] * steps])
    assert new[0] == 1
    assert 0.35 < new.mean() < 0.65
    last = None
    for k, ((obs, dt), (full, _)) in enumerate(zip(seen, truth, strict=True)):
        assert obs["dt"] == pytest.approx([dt])
        assert k == 0 or lo <= dt <= hi
        last = full[:2] if new[k] else last
        np.testing.assert_array_equal(obs["observation"][:2], last)


@pytest.mark.filterwarnings("ignore")
def test_both_checkers_accept_the_partly_observed_task() -> None:
    env = partly_observed("HalfCheetah-v5", (0.02, 0.08), dropout=0.5)
    check_env(env, skip_render_check=True)
    check_env_sb3(env)
