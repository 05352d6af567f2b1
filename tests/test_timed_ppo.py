"""PPO with durations: advantages by hand, and PPO itself at the native step."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env

from ode_rl.agents import TimedPPO
from ode_rl.agents.timed_ppo import TimedRolloutBuffer
from ode_rl.errors import UsageError

OBS, ACT = spaces.Box(-1, 1, (1,), np.float32), spaces.Box(-1, 1, (1,), np.float32)


def fill(buffer: RolloutBuffer, ratio: list[float] | None, reward: Any, value: Any, starts: Any) -> None:
    for k in range(len(reward)):
        if isinstance(buffer, TimedRolloutBuffer) and ratio is not None:
            buffer.keep_ratio(np.array([ratio[k]]))
        zero = np.zeros((1, 1), np.float32)
        values = torch.tensor([value[k]])
        buffer.add(zero, zero, np.array([reward[k]]), np.array([starts[k]]), values, torch.zeros(1))


def test_advantages_of_intervals_of_any_duration_are_those_of_a_pencil() -> None:
    gamma, lam = 0.9, 0.8
    buffer = TimedRolloutBuffer(3, OBS, ACT, "cpu", gae_lambda=lam, gamma=gamma)
    fill(buffer, [1.0, 0.5, 3.0], [1.0, 2.0, 3.0], [0.5, 0.25, 0.125], [True, False, False])
    buffer.compute_returns_and_advantage(torch.tensor([4.0]), np.array([False]))
    third = 3.0 + gamma**3 * 4.0 - 0.125
    second = 2.0 + gamma**0.5 * 0.125 - 0.25 + gamma**0.5 * lam**0.5 * third
    first = 1.0 + gamma * 0.25 - 0.5 + gamma * lam * second
    assert buffer.advantages[:, 0].tolist() == pytest.approx([first, second, third], rel=1e-6)
    assert buffer.returns[:, 0].tolist() == pytest.approx(
        [first + 0.5, second + 0.25, third + 0.125], rel=1e-6
    )


def test_an_advantage_does_not_reach_into_the_next_episode() -> None:
    buffer = TimedRolloutBuffer(2, OBS, ACT, "cpu", gae_lambda=0.9, gamma=0.9)
    fill(buffer, [2.0, 1.0], [1.0, 5.0], [0.5, 0.25], [True, True])
    buffer.compute_returns_and_advantage(torch.tensor([4.0]), np.array([True]))
    assert buffer.advantages[:, 0].tolist() == [0.5, 4.75]


def test_at_the_native_step_the_buffer_is_that_of_stable_baselines3_bit_by_bit() -> None:
    rng = np.random.default_rng(0)
    reward, value = rng.normal(size=200), rng.normal(size=200).astype(np.float32)
    starts = rng.random(200) < 0.05
    found = []
    for cls in (TimedRolloutBuffer, RolloutBuffer):
        buffer = cls(200, OBS, ACT, "cpu", gae_lambda=0.95, gamma=0.987)
        fill(buffer, [1.0] * 200, reward, value, starts)
        buffer.compute_returns_and_advantage(torch.tensor([0.3]), np.array([False]))
        found.append((buffer.advantages, buffer.returns))
    for mine, theirs in zip(*found, strict=True):
        assert np.array_equal(mine, theirs)


@pytest.mark.parametrize("use_sde", [False, True])
def test_at_the_native_step_it_learns_what_ppo_learns_bit_by_bit(use_sde: bool) -> None:
    """With several environments, time limits on the way, and state-dependent exploration."""
    learned = []
    for cls in (TimedPPO, PPO):
        env = make_vec_env("Pendulum-v1", n_envs=2, seed=0)
        agent = cls("MlpPolicy", env, seed=0, n_steps=256, use_sde=use_sde, sde_sample_freq=4, n_epochs=2)
        agent.learn(1024)
        learned.append(agent.policy.state_dict())
    for a, b in zip(*(state.values() for state in learned), strict=True):
        assert torch.equal(a, b)


class Ticks(gymnasium.Env[Any, Any]):
    """Pays 1 per second, steps of `seconds` in turn, cut off after `limit` steps."""

    metadata = {"render_modes": [], "dt": 0.1}  # noqa: RUF012
    observation_space, action_space = OBS, ACT

    def __init__(self, seconds: tuple[float, ...], limit: int) -> None:
        self.seconds, self.limit, self.k = seconds, limit, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.k = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        dt = self.seconds[self.k % len(self.seconds)]
        self.k += 1
        return np.zeros(1, np.float32), dt, False, self.k >= self.limit, {"dt": dt}


def test_an_episode_that_was_cut_goes_on_with_the_value_of_its_end_under_its_own_discount() -> None:
    gamma, native = 0.9, 0.1
    agent = TimedPPO("MlpPolicy", Ticks((0.1, 0.3), 2), seed=0, n_steps=4, batch_size=4, gamma=gamma)
    agent.learn(4)
    buffer = agent.rollout_buffer
    assert isinstance(buffer, TimedRolloutBuffer)
    assert buffer.ratio[:, 0].tolist() == pytest.approx([1, 3, 1, 3])
    fresh = TimedPPO("MlpPolicy", Ticks((0.1, 0.3), 2), seed=0, n_steps=4, batch_size=4, gamma=gamma)
    with torch.no_grad():
        value = float(fresh.policy.predict_values(torch.zeros(1, 1)))
    spread = 0.1 * (1 + gamma + gamma**2)  # what three native steps of 0.1 are worth
    assert native == fresh.native
    paid = buffer.rewards.reshape(-1).tolist()
    assert paid == pytest.approx([0.1, spread + gamma**3 * value] * 2, rel=1e-5)


def test_it_says_what_is_missing_where_no_step_time_is_known() -> None:
    env = gymnasium.make("MountainCarContinuous-v0")
    with pytest.raises(UsageError, match="dt=SECONDS"):
        TimedPPO("MlpPolicy", env)
    assert TimedPPO("MlpPolicy", env, dt=0.02).native == 0.02


def test_a_rollout_buffer_that_knows_no_durations_is_refused() -> None:
    with pytest.raises(UsageError, match="rollout_buffer_class"):
        TimedPPO("MlpPolicy", "Pendulum-v1", rollout_buffer_class=RolloutBuffer)


def test_a_constant_reward_rate_has_the_same_returns_at_every_dt() -> None:
    """With a value of zero, the discounted return of 1.2 s of pay is ``sum gamma^k``, however it is cut."""
    found = []
    for seconds in ((0.1,), (0.3,), (0.6,)):
        n = round(1.2 / seconds[0])
        agent = TimedPPO("MlpPolicy", Ticks(seconds, 10**6), seed=0, n_steps=n, batch_size=n, gae_lambda=1.0)
        for p in agent.policy.value_net.parameters():
            torch.nn.init.zeros_(p)
        agent.learn(n)
        found.append(float(np.asarray(agent.rollout_buffer.returns).reshape(-1)[0]))
    expected = sum(0.1 * 0.99**k for k in range(12))
    assert found == pytest.approx([expected] * 3, rel=1e-5)
    assert not math.isclose(expected, 1.2, rel_tol=0.02)
