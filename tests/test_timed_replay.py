"""Replay with durations: what a batch says is what a pencil says, and at the native step nothing changes."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from ode_rl.agents import TimedDictReplayBuffer, TimedReplayBuffer
from ode_rl.agents.interval import reward_weight
from ode_rl.errors import UsageError

OBS, ACT = spaces.Box(-10, 10, (1,), np.float32), spaces.Box(-1, 1, (1,), np.float32)
RHO = 0.5


def row(buffer: ReplayBuffer, number: float, dt: Any, reward: float = 1.0, end: str = "") -> None:
    """Add a step of every environment: observation `number`, the next one `number` + 1."""
    n = buffer.n_envs
    seconds = dt if isinstance(dt, list) else [dt] * n
    infos: list[dict[str, Any]] = [{} if s is None else {"dt": s} for s in seconds]
    for info in infos:
        info["TimeLimit.truncated"] = end == "limit"
    obs = np.full((n, 1), number, np.float32)
    action, rewards = np.zeros((n, 1), np.float32), np.full(n, reward, np.float32)
    buffer.add(obs, obs + 1, action, rewards, np.full(n, bool(end)), infos)


def filled(steps: list[tuple[float, float, str]], size: int = 50, **kwargs: Any) -> TimedReplayBuffer:
    """A buffer with steps of ``(dt, reward, end)``."""
    buffer = TimedReplayBuffer(size, OBS, ACT, "cpu", **{"rho": RHO, **kwargs})
    for number, (dt, reward, end) in enumerate(steps):
        row(buffer, number, dt, reward, end)
    return buffer


def test_a_batch_discounts_each_transition_by_its_own_seconds() -> None:
    buffer = filled([(0.1, 1.0, ""), (0.4, 2.0, ""), (2.0, -3.0, "")])
    batch = buffer._get_samples(np.array([0, 1, 2]))
    assert batch.discounts is not None
    assert batch.discounts[:, 0].tolist() == pytest.approx(
        [math.exp(-0.05), math.exp(-0.2), math.exp(-1.0)], rel=1e-6
    )


def test_the_reward_of_an_interval_comes_evenly_over_it() -> None:
    buffer = filled([(0.1, 1.0, ""), (0.4, 2.0, ""), (2.0, -3.0, "")])
    expected = [
        1.0 * (1 - math.exp(-0.05)) / 0.05,
        2.0 * (1 - math.exp(-0.2)) / 0.2,
        -3.0 * (1 - math.exp(-1.0)) / 1.0,
    ]
    assert buffer._get_samples(np.array([0, 1, 2])).rewards[:, 0].tolist() == pytest.approx(
        expected, rel=1e-6
    )


def test_an_interval_of_n_native_steps_is_worth_what_its_native_steps_are() -> None:
    native, gamma, n = 0.05, 0.97, 7
    rho = -math.log(gamma) / native
    discrete = sum(gamma**k * 1.5 for k in range(n))
    assert n * 1.5 * float(reward_weight(n * native, rho, native)) == pytest.approx(discrete, rel=1e-12)
    assert float(reward_weight(native, rho, native)) == 1.0


def test_without_discount_a_reward_counts_whole() -> None:
    assert reward_weight([0.01, 5.0], 0.0).tolist() == [1.0, 1.0]
    assert filled([(3.0, 2.0, "")], rho=0.0)._get_samples(np.array([0])).rewards.item() == 2.0


def test_a_terminated_step_is_done_and_a_cut_one_is_not() -> None:
    batch = filled([(0.1, 1.0, "end"), (0.1, 1.0, "limit"), (0.1, 1.0, "")])._get_samples(np.array([0, 1, 2]))
    assert batch.dones[:, 0].tolist() == [1.0, 0.0, 0.0]


def test_several_environments_keep_their_own_seconds() -> None:
    buffer = TimedReplayBuffer(20, OBS, ACT, "cpu", n_envs=2, rho=RHO)
    for number in range(3):
        row(buffer, number, [0.1, 1.0])
    batch = buffer.sample(64)
    assert batch.discounts is not None
    found = {round(float(x), 5) for x in batch.discounts}
    assert found == {round(math.exp(-0.05), 5), round(math.exp(-0.5), 5)}


def test_a_step_without_seconds_lasts_the_given_ones_or_is_refused() -> None:
    buffer = TimedReplayBuffer(20, OBS, ACT, "cpu", rho=RHO, dt=0.4)
    row(buffer, 0, None)
    assert buffer._get_samples(np.array([0])).discounts.item() == pytest.approx(math.exp(-0.2))
    with pytest.raises(UsageError, match="dt=SECONDS"):
        row(TimedReplayBuffer(20, OBS, ACT, "cpu", rho=RHO), 0, None)
    with pytest.raises(UsageError, match="dt=SECONDS"):
        row(buffer, 0, 0.0)


def test_n_steps_add_up_discounted_rewards_until_the_episode_ends() -> None:
    buffer = filled([(0.2, 1.0, ""), (0.6, 2.0, ""), (1.0, 4.0, "end"), (0.2, 8.0, "")], n_steps=3)
    batch = buffer._get_samples(np.array([0, 1, 3]))
    w = [float(reward_weight(dt, RHO)) for dt in (0.2, 0.6, 1.0)]
    three = w[0] + math.exp(-0.1) * 2 * w[1] + math.exp(-0.4) * 4 * w[2]
    two = 2 * w[1] + math.exp(-0.3) * 4 * w[2]
    assert batch.rewards[:, 0].tolist() == pytest.approx([three, two, 8 * w[0]], rel=1e-6)
    assert batch.discounts[:, 0].tolist() == pytest.approx(
        [math.exp(-0.9), math.exp(-0.8), math.exp(-0.1)], rel=1e-6
    )
    assert batch.dones[:, 0].tolist() == [1.0, 1.0, 0.0]
    assert batch.next_observations[:, 0].tolist() == [3.0, 3.0, 4.0]


def test_n_steps_at_the_native_step_are_those_of_stable_baselines3() -> None:
    """Also where the ring is full and the record breaks off in the middle of an episode."""
    gamma, native = 0.9, 0.05
    mine = TimedReplayBuffer(
        12, OBS, ACT, "cpu", rho=-math.log(gamma) / native, dt=native, unit_dt=native, n_steps=4
    )
    theirs = NStepReplayBuffer(12, OBS, ACT, "cpu", n_steps=4, gamma=gamma)
    for number in range(17):
        end = {5: "end", 9: "limit"}.get(number, "")
        for buffer in (mine, theirs):
            row(buffer, number, native, reward=number % 5, end=end)
    at = np.arange(12)
    for a, b in zip(mine._get_samples(at), theirs._get_samples(at), strict=True):
        assert a is not None
        assert b is not None
        assert torch.allclose(a, b, atol=1e-6)


def test_normalised_rewards_are_weighed_after_they_are_normalised() -> None:
    env = VecNormalize(DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")]))
    env.ret_rms.var = np.array(4.0)
    scales: Any = env.obs_rms
    scales.mean, scales.var = np.zeros(1), np.full(1, 9.0)
    buffer = filled([(1.0, 3.0, "")])
    batch = buffer._get_samples(np.array([0]), env)
    assert batch.rewards.item() == pytest.approx(1.5 * (1 - math.exp(-0.5)) / 0.5, rel=1e-5)
    assert batch.next_observations.item() == pytest.approx(1 / 3, rel=1e-5)


def test_dict_observations_are_kept_by_key() -> None:
    space = spaces.Dict({"position": OBS, "goal": OBS})
    buffer = TimedDictReplayBuffer(10, space, ACT, "cpu", rho=RHO)
    obs = {"position": np.array([[1.0]], np.float32), "goal": np.array([[5.0]], np.float32)}
    after = {"position": np.array([[2.0]], np.float32), "goal": np.array([[5.0]], np.float32)}
    buffer.add(obs, after, np.zeros((1, 1)), np.ones(1), np.zeros(1), [{"dt": 0.2}])
    batch = buffer.sample(3)
    assert batch.observations["position"].tolist() == [[1.0]] * 3
    assert batch.next_observations["position"].tolist() == [[2.0]] * 3
    assert batch.discounts is not None
    assert batch.discounts[0].item() == pytest.approx(math.exp(-0.1))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"rho": -0.1}, "rho >= 0"),
        ({"rho": math.nan}, "rho >= 0"),
        ({"dt": 0.0}, "dt > 0"),
        ({"unit_dt": -1.0}, "unit_dt >= 0"),
        ({"n_steps": 0}, "n_steps >= 1"),
        ({"optimize_memory_usage": True}, "optimize_memory_usage=True"),
    ],
)
def test_settings_out_of_range_are_refused(bad: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        TimedReplayBuffer(10, OBS, ACT, "cpu", **{"rho": RHO, **bad})


@pytest.mark.parametrize("algorithm", [SAC, TD3])
def test_at_the_native_step_stable_baselines3_learns_the_same_numbers(algorithm: Any) -> None:
    env_id, native, gamma = "Pendulum-v1", 0.05, 0.99
    kwargs = {"rho": -math.log(gamma) / native, "dt": native, "unit_dt": native}
    shared = {"seed": 0, "learning_starts": 20, "batch_size": 16, "policy_kwargs": {"net_arch": [16]}}
    timed = algorithm(
        "MlpPolicy", env_id, replay_buffer_class=TimedReplayBuffer, replay_buffer_kwargs=kwargs, **shared
    )
    timed.learn(60)
    plain = algorithm("MlpPolicy", env_id, **shared)
    plain.learn(60)
    for a, b in zip(timed.policy.state_dict().values(), plain.policy.state_dict().values(), strict=True):
        assert torch.equal(a, b)


class Chain(gymnasium.Env[Any, Any]):
    """One state that pays `rate` per second for ever; a step lasts `dt` seconds."""

    metadata = {"render_modes": []}  # noqa: RUF012
    rate = 2.0

    def __init__(self, dt: float) -> None:
        self.dt, self.observation_space, self.action_space = dt, OBS, ACT

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.ones(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.ones(1, np.float32), self.rate * self.dt, False, False, {"dt": self.dt}


@pytest.mark.parametrize("dt", [0.5, 0.25, 0.125])
def test_a_constant_reward_rate_has_the_same_learned_value_at_every_dt(dt: float) -> None:
    """``V = rate / rho`` of a TD3 critic; with a discount per step it would double as dt is halved."""
    rho = 1.0
    agent = TD3(
        "MlpPolicy",
        Chain(dt),
        seed=0,
        learning_rate=3e-3,
        learning_starts=32,
        batch_size=16,
        tau=0.1,
        gradient_steps=0,
        replay_buffer_class=TimedReplayBuffer,
        replay_buffer_kwargs={"rho": rho},
        policy_kwargs={"net_arch": [16]},
    )
    agent.learn(64)
    agent.train(gradient_steps=600, batch_size=16)
    agent.lr_schedule = lambda _: 3e-4
    agent.train(gradient_steps=400, batch_size=16)
    with torch.no_grad():
        value = float(agent.critic.q1_forward(torch.ones(1, 1), torch.zeros(1, 1)))
    assert value == pytest.approx(Chain.rate / rho, rel=0.02)
