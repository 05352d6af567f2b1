"""Rewards, ends and observations of whole batches equal those of `step`, one task of MuJoCo after another."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest

from ode_rl.envs import TrueDynamics
from ode_rl.envs.mujoco_rewards import RULES
from ode_rl.types import FloatArray

TASKS: dict[str, dict[str, Any]] = {
    "InvertedPendulum-v5": {},
    "InvertedDoublePendulum-v5": {"healthy_reward": 7.0},
    "Reacher-v5": {"reward_dist_weight": 2.0, "reward_control_weight": 0.3},
    "Pusher-v5": {"reward_near_weight": 0.7, "reward_dist_weight": 2.0, "reward_control_weight": 0.3},
    "Swimmer-v5": {"ctrl_cost_weight": 0.2, "forward_reward_weight": 3.0},
    "Hopper-v5": {"healthy_reward": 0.3, "ctrl_cost_weight": 0.1, "healthy_state_range": (-3.0, 3.0)},
    "HalfCheetah-v5": {"ctrl_cost_weight": 0.7, "exclude_current_positions_from_observation": False},
    "Walker2d-v5": {"healthy_z_range": (1.0, 1.5), "healthy_angle_range": (-0.3, 0.3), "frame_skip": 5},
    "Ant-v5": {"healthy_z_range": (0.5, 0.8), "contact_cost_weight": 0.1, "main_body": 2},
    "Humanoid-v5": {"ctrl_cost_weight": 0.7, "include_cvel_in_observation": False, "healthy_reward": 0.1},
    "HumanoidStandup-v5": {"uph_cost_weight": 2.0, "impact_cost_weight": 1e-3},
}
ENDLESS = {"Reacher-v5", "Pusher-v5", "Swimmer-v5", "HalfCheetah-v5", "HumanoidStandup-v5"}
N_TRANSITIONS = 1000


class Steps(NamedTuple):
    """What `env.step` did: ``states [K, S]``, ``action [K, A]``, ``reward``, ``terminated``, ``next_obs``."""

    states: FloatArray
    action: FloatArray
    reward: FloatArray
    terminated: Any
    next_obs: FloatArray


def stepped(env: gymnasium.Env[Any, Any], truth: TrueDynamics, count: int, dtype: Any, stay: bool) -> Steps:
    """Random steps; `stay` goes on after an end, so that plans can be compared beyond it."""
    rng = np.random.default_rng(1)
    env.reset(seed=1)
    space: Any = env.action_space
    rows = []
    for _ in range(count):
        # Actions beyond the bounds are paid as they are, but act only up to them.
        action = (rng.uniform(space.low, space.high) * 1.2).astype(dtype)
        state = truth.snapshot(env)
        obs, reward, terminated, _, _ = env.unwrapped.step(action)
        rows.append((state, action, float(reward), terminated, obs))
        if terminated and not stay:
            env.reset()
    return Steps(*(np.array(column) for column in zip(*rows, strict=True)))


@pytest.mark.parametrize("env_id", TASKS)
@pytest.mark.parametrize("changed", [False, True])
def test_random_transitions_pay_and_end_as_step_does(env_id: str, changed: bool) -> None:
    env = gymnasium.make(env_id, **(TASKS[env_id] if changed else {}))
    truth = TrueDynamics(env)
    dtype = np.float32 if changed else np.float64
    steps = stepped(env, truth, N_TRANSITIONS, dtype, stay=False)
    outcome = truth.rollout(steps.states, steps.action[:, None, None])
    np.testing.assert_allclose(outcome.reward[:, 0, 0], steps.reward, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(outcome.next_obs[:, 0, 0], steps.next_obs, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(outcome.terminated[:, 0, 0], steps.terminated)
    assert outcome.reward.dtype == outcome.next_obs.dtype == np.float64
    if env_id not in ENDLESS:
        assert 0 < steps.terminated.sum() < N_TRANSITIONS
    else:
        assert not steps.terminated.any()


@pytest.mark.parametrize("env_id", TASKS)
@pytest.mark.parametrize("threads", [1, 2])
def test_plans_pay_as_the_same_steps_one_after_another(env_id: str, threads: int) -> None:
    env = gymnasium.make(env_id)
    truth = TrueDynamics(env, threads=threads)
    h = 20
    steps = stepped(env, truth, 2 * h, np.float64, stay=True)
    states = steps.states[[0, h]]
    plan = steps.action.reshape(2, 1, h, -1)
    plans = np.concatenate([plan * 0.5, plan, -plan], axis=1)
    outcome = truth.rollout(states, plans)
    np.testing.assert_array_equal(outcome.reward[:, 1].ravel(), steps.reward)
    np.testing.assert_array_equal(outcome.next_obs[:, 1].reshape(2 * h, -1), steps.next_obs)
    np.testing.assert_array_equal(outcome.terminated[:, 1].ravel(), steps.terminated)
    assert not np.array_equal(outcome.next_obs[:, 0], outcome.next_obs[:, 1])


def test_every_task_with_rules_is_compared() -> None:
    kinds = set()
    for env_id in TASKS:
        cls = type(gymnasium.make(env_id).unwrapped)
        kinds.add(f"{cls.__module__}:{cls.__qualname__}")
    assert kinds == set(RULES)
