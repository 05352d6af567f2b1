"""The learned world as environment: one imagined episode, many in one solve, Stable-Baselines3's VecEnv."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3
from stable_baselines3.common.vec_env import VecMonitor
from torch import Tensor

from ode_rl.agents import MPC, Dyna, ODEPolicy, TimedReplayBuffer
from ode_rl.agents.model_free import SAC as SACAgent
from ode_rl.buffer import ReplayBuffer
from ode_rl.cli import main
from ode_rl.envs import (
    ControlInterval,
    ImaginedEnv,
    ImaginedVecEnv,
    ImaginedVectorEnv,
    LearnedWorld,
    make_task,
    register_world,
)
from ode_rl.errors import UsageError
from ode_rl.evaluate import evaluate_agent
from ode_rl.files import read_json
from ode_rl.fit import FitConfig, fit
from ode_rl.known import Known
from ode_rl.report import write_report
from ode_rl.run import RunFolder
from ode_rl.state import StateSpec
from ode_rl.types import Transition
from ode_rl.world_model import WorldModel, WorldModelConfig
from tests.fakes import Push
from tests.known_worlds import Rate, known_world
from tests.own_tasks import SpringCart

PENDULUM, CART = "ode_rl/Pendulum-v0", "tests.own_tasks:own/SpringCart-v0"


def recorded(env_id: str, n: int, seed: int = 0, hold: int = 1) -> ReplayBuffer:
    """Random steps of a task, actions scaled to [-1, 1], each for `hold` steps."""
    env: Any = make_task(env_id)
    low, high = env.action_space.low, env.action_space.high
    buffer = ReplayBuffer(n, env.observation_space.shape[0], len(low))
    rng = np.random.default_rng(seed)
    obs, _ = env.reset(seed=seed)
    for k in range(n):
        if k % hold == 0:
            scaled = rng.uniform(-1, 1, low.shape).astype(np.float32)
        after, reward, terminated, truncated, info = env.step(low + (scaled + 1) / 2 * (high - low))
        buffer.add(Transition(obs, scaled, float(reward), after, info["dt"], terminated, truncated))
        obs = env.reset()[0] if terminated or truncated else after
    env.close()
    return buffer


def swing(z: Tensor, a: Tensor) -> Tensor:
    """The pendulum of `ode_rl/Pendulum-v0`, whose torque is twice the scaled action."""
    cos, sin, speed = z.unbind(-1)
    return torch.stack([-sin * speed, cos * speed, 15 * sin + 6 * a[..., 0]], -1)


def cost(z: Tensor, a: Tensor) -> Tensor:
    """Its reward per second: Gymnasium's, which is paid every 0.05 s."""
    angle = torch.atan2(z[..., 1:2], z[..., :1])
    return -20 * (angle**2 + 0.1 * z[..., 2:] ** 2 + 0.004 * a**2)


def pendulum(dynamics: Rate = swing, n_members: int = 3, **more: Any) -> LearnedWorld:
    model = known_world(dynamics, cost, n_obs=3, n_members=n_members, native_dt=0.05, **more)
    return LearnedWorld.of(model, recorded(PENDULUM, 250), PENDULUM)


def drifting(z: Tensor, a: Tensor) -> Tensor:
    """Member i moves the second column of a spring-cart by i per second."""
    pace = torch.arange(z.shape[0], dtype=z.dtype)[:, None]
    return torch.stack([torch.zeros_like(z[..., 0]), pace.expand(z.shape[:-1])], -1)


def cart(
    dynamics: Rate = drifting, n_members: int = 3, reward: Rate | None = None, **more: Any
) -> LearnedWorld:
    pay = (lambda z, a: a) if reward is None else reward
    model = known_world(dynamics, pay, n_obs=2, n_members=n_members, native_dt=0.05, **more)
    return LearnedWorld.of(model, recorded(CART, 120), CART)


TINY: dict[str, Any] = {
    "preset": None,
    "device": "cpu",
    "warmup_steps": 40,
    "fit_every": 1000,
    "model": {"n_members": 2, "hidden": [16], "head_hidden": [8]},
    "fit": {"updates": 20, "warm_start_updates": 20, "batch_size": 32},
    "planner": {"candidates": 16, "iterations": 1},
}


def trained(folder: Path, env_id: str, steps: int = 42, **more: Any) -> Path:
    """A run folder as training leaves it."""
    run = RunFolder.create(env_id, "mpc", 0, folder)
    agent = MPC(make_task(env_id), seed=0, **TINY, **more).learn(steps)
    run.write_config({**agent.config, "env_id": env_id, "steps": steps})
    agent.save(run.checkpoint)
    return run.path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "pendulum", "Pendulum-v1")


# --- one world ---------------------------------------------------------------------------------------------


def test_both_checkers_accept_the_imagined_world(run: Path) -> None:
    check_env(gymnasium.make("ode_rl/Imagined-v0", run=run).unwrapped, skip_render_check=True)
    check_env_of_sb3(gymnasium.make("ode_rl/Imagined-v0", run=run))
    check_env_of_sb3(ImaginedEnv(pendulum()))


@pytest.mark.parametrize("dt", [0.05, 0.025, 0.1])
def test_a_world_with_the_true_equations_goes_the_way_of_the_task_at_any_dt(dt: float) -> None:
    real: Any = gymnasium.make(PENDULUM)
    imagined = ImaginedEnv(pendulum())
    obs, _ = real.reset(seed=3, options={"dt": dt})
    imagined.reset(seed=0, options={"obs": obs, "dt": dt})
    rng = np.random.default_rng(0)
    for _ in range(12):
        action = rng.uniform(-2, 2, 1)
        there, here = real.step(action), imagined.step(action)
        np.testing.assert_allclose(here[0], there[0], atol=2e-3)
        assert here[1] == pytest.approx(there[1], rel=3e-2)  # its rate jumps at the bottom
        assert here[4]["dt"] == there[4]["dt"] == dt


def test_episodes_begin_at_recorded_data() -> None:
    world = pendulum()
    recorded_obs = world.buffer.arrays().obs
    env = ImaginedEnv(world)
    starts = np.array([env.reset(seed=i)[0] for i in range(40)])
    distance = np.abs(starts[:, None] - recorded_obs).max(-1).min(1)
    assert distance.max() < 1e-6
    assert len(np.unique(starts, axis=0)) > 30
    # 250 recorded steps are two episodes, of 200 and of 50.
    firsts = {tuple(ImaginedEnv(world, starts="episodes").reset(seed=i)[0]) for i in range(20)}
    assert len(firsts) == 2
    np.testing.assert_allclose(sorted(firsts), sorted(map(tuple, recorded_obs[[0, 200]])), atol=1e-6)


def test_an_episode_follows_one_member_and_members_are_drawn_evenly() -> None:
    env = ImaginedEnv(cart(), max_disagreement=None)
    members = []
    for seed in range(60):
        obs, info = env.reset(seed=seed)
        members.append(info["member"])
        for _ in range(3):
            after, _, _, _, step = env.step(np.zeros(1))
            assert step["member"] == info["member"]
            assert after[1] - obs[1] == pytest.approx(0.05 * info["member"], abs=1e-6)
            obs = after
    assert min(np.bincount(members, minlength=3)) > 10
    assert env.reset(options={"member": 2})[1]["member"] == 2


def test_what_leaves_the_space_is_projected_onto_it() -> None:
    # Its states grow by 30 per second: off the unit circle, and beyond the bounds of the speed.
    world = pendulum(lambda z, a: 30 * z)
    slow = gymnasium.spaces.Box(np.array([-1, -1, -8], np.float32), np.array([1, 1, 8], np.float32))
    env = ImaginedEnv(replace(world, observation_space=slow), max_disagreement=None)
    angle = 0.7
    env.reset(options={"obs": [np.cos(angle), np.sin(angle), 3.0]})
    obs, *_ = env.step(np.zeros(1))
    np.testing.assert_allclose(obs, [np.cos(angle), np.sin(angle), 8.0], atol=1e-6)
    assert env.observation_space.contains(obs)


def test_columns_that_never_change_keep_their_value() -> None:
    world = cart()
    spec = StateSpec(rest=(0, 1), constant=(1,))
    env = ImaginedEnv(LearnedWorld.of(world.model, world.buffer, CART, spec=spec), max_disagreement=None)
    obs, _ = env.reset(seed=0, options={"member": 2})
    assert env.step(np.zeros(1))[0][1] == obs[1]


def test_episodes_are_truncated_where_members_disagree_too_much() -> None:
    def beyond(z: Tensor, a: Tensor) -> Tensor:
        """Members agree up to rounding where |x| < 2, and not beyond."""
        pace = torch.arange(z.shape[0], dtype=z.dtype)[:, None]
        far = torch.sigmoid(100 * (z[..., 0].abs() - 2))
        return torch.stack([10 * a[..., 0], (0.01 + 10 * far) * pace.expand(z.shape[:-1])], -1)

    env = ImaginedEnv(cart(beyond), max_disagreement=5.0)
    env.reset(options={"obs": [1.0, 0.0]})
    _, _, terminated, truncated, info = env.step(np.zeros(1))
    assert (terminated, truncated) == (False, False)
    assert info["disagreement"] < 5
    env.reset(options={"obs": [3.0, 0.0]})
    _, _, terminated, truncated, info = env.step(np.zeros(1))
    assert truncated
    assert not terminated
    assert info["disagreement"] > 5
    free = ImaginedEnv(cart(beyond), max_disagreement=None)
    free.reset(options={"obs": [3.0, 0.0]})
    assert not free.step(np.zeros(1))[3]


def test_a_world_that_diverges_is_truncated_where_it_was() -> None:
    env = ImaginedEnv(cart(lambda z, a: torch.full_like(z, torch.nan)), max_disagreement=None)
    obs, _ = env.reset(seed=0)
    after, reward, terminated, truncated, info = env.step(np.zeros(1))
    np.testing.assert_array_equal(after, obs)
    assert (reward, terminated, truncated, info["disagreement"]) == (0, False, True, np.inf)


def test_episodes_end_by_the_hazard_at_the_same_time_at_any_dt() -> None:
    rate = 2.0

    def constant(z: Tensor, a: Tensor) -> Tensor:
        return torch.full_like(z[..., :1], rate)

    world = cart(hazard=constant, n_members=1)
    ends: dict[float, Any] = {}
    for dt in (0.05, 0.01):
        env = ImaginedVectorEnv(world, 400, dt=dt, max_seconds=4.0)
        env.reset(seed=0)
        seconds, alive = np.zeros(400), np.ones(400, bool)
        for _ in range(round(4.0 / dt)):
            _, _, terminated, truncated, info = env.step(np.zeros((400, 1)))
            seconds += alive * info["dt"]
            alive &= ~(terminated | truncated)
        ends[dt] = seconds
    assert np.abs(ends[0.05] - ends[0.01]).max() < 0.05
    # Of exponential waiting times of this rate.
    assert ends[0.01].mean() == pytest.approx(1 / rate, rel=0.15)
    assert np.mean(ends[0.01] > 0.5) == pytest.approx(np.exp(-rate * 0.5), abs=0.08)


def test_a_known_end_ends_the_episode() -> None:
    world = cart(lambda z, a: torch.ones_like(z), n_members=1)
    known = Known(termination=lambda obs: obs[..., 0] > 1.0)
    world.model.known, world.model.ends = known, True
    env = ImaginedEnv(world, max_disagreement=None)
    env.reset(seed=0, options={"obs": [0.97, 0.0]})
    assert [env.step(np.zeros(1))[2] for _ in range(1)] == [True]
    env.reset(seed=0, options={"obs": [0.9, 0.0]})
    assert [env.step(np.zeros(1))[2] for _ in range(3)] == [False, False, True]


def test_an_episode_lasts_the_seconds_of_the_task_at_any_dt() -> None:
    world = cart()  # 100 steps of 0.05 s
    for dt, steps in ((0.05, 100), (0.025, 200), (0.3, 17)):
        env = ImaginedEnv(world, dt=dt, max_disagreement=None)
        env.reset(seed=0)
        seconds, over = [], False
        while not over:
            _, _, _, over, info = env.step(np.zeros(1))
            seconds.append(info["dt"])
        assert len(seconds) == steps
        assert sum(seconds) == pytest.approx(5.0)
        assert seconds[-1] == pytest.approx(5.0 - (steps - 1) * dt)  # the last is cut at the limit


def test_the_interval_can_be_set_for_a_step_an_episode_and_for_good() -> None:
    env: Any = ImaginedEnv(cart(n_members=1), max_disagreement=None)

    def lasted() -> tuple[float, float]:
        _, reward, _, _, info = env.step(np.full(1, 3.0))
        return info["dt"], reward

    env.reset(seed=0)
    assert lasted() == pytest.approx((0.05, 0.05))  # the reward rate is the scaled action
    env.get_wrapper_attr("set_interval")(0.2)
    assert env.interval == 0.2
    assert lasted() == pytest.approx((0.2, 0.2))
    assert lasted() == pytest.approx((0.05, 0.05))
    env.set_interval(0.2)
    env.reset(options={"dt": 0.1})  # which what was set before does not outlive
    assert lasted() == lasted() == pytest.approx((0.1, 0.1))
    env.reset()
    assert lasted()[0] == 0.05
    env.interval = 0.07
    env.reset()
    assert lasted()[0] == 0.07
    assert env.dt == 0.05


def test_control_intervals_stretch_imagined_steps() -> None:
    env = ControlInterval(ImaginedEnv(cart(n_members=1), max_disagreement=None), dt=(0.03, 0.4))
    env.reset(seed=0)
    seconds, over = [], False
    while not over:
        expected = env.interval
        _, reward, _, over, info = env.step(np.full(1, 3.0, np.float32))
        seconds.append(info["dt"])
        assert reward == pytest.approx(info["dt"], rel=1e-6)
        assert over or info["dt"] == pytest.approx(expected)
    assert sum(seconds) == pytest.approx(5.0)
    assert np.std(seconds) > 0.05


def test_seeds_reproduce_and_differ() -> None:
    env = ImaginedEnv(pendulum())

    def episode(seed: int | None) -> Any:
        return np.array([env.reset(seed=seed)[0], *[env.step(np.ones(1))[0] for _ in range(3)]])

    first, second, other = episode(1), episode(1), episode(2)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
    episode(1)
    after = episode(None)
    episode(1)
    np.testing.assert_array_equal(after, episode(None))


def test_the_real_task_draws_the_imagined_pose() -> None:
    env = ImaginedEnv(pendulum(), render_mode="rgb_array")
    env.reset(options={"obs": [1.0, 0.0, 0.0]})
    up: Any = env.render()
    env.reset(options={"obs": [-1.0, 0.0, 0.0]})
    down: Any = env.render()
    assert up.shape == down.shape
    assert up.dtype == np.uint8
    assert (up != down).mean() > 0.01
    env.close()
    with pytest.raises(UsageError, match="can be drawn"):
        ImaginedEnv(cart(), render_mode="rgb_array")
    with pytest.raises(UsageError, match="rgb_array"):
        ImaginedEnv(pendulum(), render_mode="human")


def test_a_robot_that_is_drawn_comes_along_its_track() -> None:
    model = known_world(lambda z, a: torch.zeros_like(z), n_obs=17, n_action=6, native_dt=0.05)
    world = LearnedWorld.of(model, recorded("HalfCheetah-v5", 20), "HalfCheetah-v5")
    env = ImaginedEnv(world, render_mode="rgb_array", max_disagreement=None)
    obs = np.zeros(17)
    obs[8] = 2.0  # metres per second
    env.reset(seed=0, options={"obs": obs})
    places = []
    for _ in range(4):
        seen = env.step(np.zeros(6))[0]
        assert seen.dtype == np.float64  # as the task's own
        assert env.observation_space.contains(seen)
        assert env._pose is not None
        places.append(env._pose[0])
    np.testing.assert_allclose(places, [0.1, 0.2, 0.3, 0.4], atol=1e-6)
    env.close()


# --- many worlds -------------------------------------------------------------------------------------------


def test_a_batch_of_worlds_equals_single_worlds() -> None:
    # Members that differ, so that a mix-up would show.
    def twisted(z: Tensor, a: Tensor) -> Tensor:
        return swing(z, a) * (1 + 0.1 * torch.arange(z.shape[0], dtype=z.dtype)[:, None, None])

    world, n = pendulum(twisted), 7
    batch = ImaginedVectorEnv(world, n, max_seconds=0.5, max_disagreement=None)
    singles = [ImaginedEnv(world, max_seconds=0.5, max_disagreement=None) for _ in range(n)]
    obs, info = batch.reset(seed=10)
    for i, env in enumerate(singles):
        own, own_info = env.reset(seed=10 + i)
        np.testing.assert_array_equal(own, obs[i])
        assert own_info["member"] == info["member"][i]
    rng = np.random.default_rng(0)
    for k in range(24):
        if k == 3:
            seconds = rng.uniform(0.01, 0.1, n)
            batch.set_interval(seconds)
            for env, dt in zip(singles, seconds, strict=True):
                env.set_interval(dt)
        actions = rng.uniform(-2, 2, (n, 1))
        over = batch._over.copy()
        obs, reward, _, truncated, infos = batch.step(actions)
        for i, env in enumerate(singles):
            if over[i]:
                np.testing.assert_array_equal(obs[i], env.reset()[0])
                assert (reward[i], truncated[i], infos["_dt"][i]) == (0, False, False)
                continue
            own, own_reward, _, own_truncated, own_info = env.step(actions[i])
            np.testing.assert_allclose(obs[i], own, atol=1e-5)
            assert reward[i] == pytest.approx(own_reward, abs=1e-5)
            assert truncated[i] == own_truncated
            assert infos["dt"][i] == own_info["dt"]
            assert infos["disagreement"][i] == pytest.approx(own_info["disagreement"], abs=1e-6)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_the_vector_environment_keeps_gymnasiums_protocol(mode: AutoresetMode) -> None:
    """Step by step what `SyncVectorEnv` of single worlds does, autoreset included."""
    world, n = cart(), 3
    settings: dict[str, Any] = {"max_disagreement": None, "max_seconds": 0.2}
    ours: Any = ImaginedVectorEnv(world, n, autoreset_mode=mode, **settings)
    sync: Any = SyncVectorEnv([lambda: ImaginedEnv(world, **settings)] * n, autoreset_mode=mode)
    for name in ("observation_space", "action_space", "single_observation_space", "single_action_space"):
        assert getattr(ours, name) == getattr(sync, name)
    assert ours.metadata["autoreset_mode"] == sync.metadata["autoreset_mode"] == mode
    mine, theirs = ours.reset(seed=4), sync.reset(seed=4)
    np.testing.assert_array_equal(mine[0], theirs[0])
    np.testing.assert_array_equal(mine[1]["member"], theirs[1]["member"])
    for _ in range(11):
        actions = ours.action_space.sample()
        mine, theirs = ours.step(actions), sync.step(actions)
        for got, want in zip(mine[:4], theirs[:4], strict=True):
            np.testing.assert_allclose(got, want, atol=1e-6)
            assert got.shape == want.shape
            assert got.dtype == want.dtype
        assert ours.observation_space.contains(mine[0])
        over = mine[2] | mine[3]
        if mode == AutoresetMode.SAME_STEP and over.any():
            np.testing.assert_array_equal(mine[4]["_final_obs"], theirs[4]["_final_obs"])
            for got, want in zip(mine[4]["final_obs"], theirs[4]["final_obs"], strict=True):
                np.testing.assert_allclose(got, want, atol=1e-6)
        if mode == AutoresetMode.DISABLED and over.any():
            options = {"reset_mask": over}
            np.testing.assert_array_equal(
                ours.reset(options=dict(options))[0], sync.reset(options=dict(options))[0]
            )
    ours.close()


def test_make_vec_makes_the_batched_world(run: Path) -> None:
    env: Any = gymnasium.make_vec("ode_rl/Imagined-v0", num_envs=64, run=run)
    assert isinstance(env, ImaginedVectorEnv)
    obs, _ = env.reset(seed=0, options={"dt": 0.02})
    assert obs.shape == (64, 3)
    *_, info = env.step(env.action_space.sample())
    np.testing.assert_array_equal(info["dt"], 0.02)


def test_intervals_of_a_batch_are_each_worlds_own() -> None:
    env = ImaginedVectorEnv(cart(n_members=1), 3, max_disagreement=None)
    env.reset(seed=0, options={"dt": np.array([0.1, 0.2, 0.3])})
    _, reward, *_, info = env.step(np.full((3, 1), 3.0))
    np.testing.assert_allclose(info["dt"], [0.1, 0.2, 0.3])
    np.testing.assert_allclose(reward, [0.1, 0.2, 0.3])


# --- Stable-Baselines3 -------------------------------------------------------------------------------------


def test_the_vec_env_goes_the_way_of_single_worlds_and_begins_anew_at_once() -> None:
    world, n = cart(), 3
    venv: Any = ImaginedVecEnv(world, n, max_disagreement=None, max_seconds=0.15)
    singles = [ImaginedEnv(world, max_disagreement=None, max_seconds=0.15) for _ in range(n)]
    venv.seed(5)
    obs = venv.reset()
    for i, env in enumerate(singles):
        np.testing.assert_array_equal(obs[i], env.reset(seed=5 + i)[0])
    for k in range(1, 8):
        actions = np.full((n, 1), 0.5 * k, np.float32)
        obs, rewards, dones, infos = venv.step(actions)
        for i, env in enumerate(singles):
            own, reward, terminated, truncated, info = env.step(actions[i])
            assert rewards[i] == pytest.approx(reward, abs=1e-6)
            assert infos[i]["dt"] == info["dt"]
            assert dones[i] == (terminated or truncated) == (k % 3 == 0)
            assert infos[i]["TimeLimit.truncated"] == truncated
            if dones[i]:
                np.testing.assert_allclose(infos[i]["terminal_observation"], own, atol=1e-6)
                own = env.reset()[0]
            np.testing.assert_allclose(obs[i], own, atol=1e-6)


def test_the_vec_env_has_what_stable_baselines3_asks_for() -> None:
    venv = ImaginedVecEnv(cart(), 4, max_disagreement=None)
    venv.set_options({"dt": 0.1})
    venv.reset()
    assert venv.get_attr("interval") == [0.1] * 4
    venv.env_method("set_interval", 0.02, indices=[1, 3])
    assert venv.get_attr("interval", [0, 1]) == [0.1, 0.02]
    *_, infos = venv.step(np.zeros((4, 1), np.float32))
    assert [info["dt"] for info in infos] == [0.1, 0.02, 0.1, 0.02]
    assert venv.get_attr("dt", 0) == [0.05]
    assert venv.env_is_wrapped(gymnasium.Wrapper) == [False] * 4
    assert not venv.has_attr("something_else")
    with pytest.raises(UsageError, match="all worlds"):
        venv.set_attr("dt", 0.1, indices=[0])
    venv.close()


def test_stock_algorithms_learn_in_imagined_worlds_unchanged() -> None:
    venv = VecMonitor(ImaginedVecEnv(pendulum(), 8, max_seconds=1.0))
    ppo = PPO("MlpPolicy", venv, n_steps=32, batch_size=64, n_epochs=1, seed=0, device="cpu").learn(512)
    assert ppo.num_timesteps == 512
    assert len(ppo.ep_info_buffer or []) > 0
    timed = {"rho": 0.2, "dt": 0.05}
    sac = SAC(
        "MlpPolicy",
        ImaginedVecEnv(pendulum(), 8),
        learning_starts=16,
        batch_size=16,
        replay_buffer_class=TimedReplayBuffer,
        replay_buffer_kwargs=timed,
        policy_kwargs={"net_arch": [16]},
        seed=0,
        device="cpu",
    ).learn(160)
    evaluation = evaluate_agent(sac, PENDULUM, 1)
    assert np.isfinite(evaluation.mean_return)


def test_the_agents_of_this_package_learn_in_imagined_worlds_too() -> None:
    venv = ImaginedVecEnv(pendulum(), 4, max_seconds=0.5)
    sac = SACAgent(venv, preset=None, seed=0, device="cpu", learning_starts=8, batch_size=8).learn(40)
    assert (sac.env_id, sac.dt, sac.num_timesteps) == ("ode_rl/Imagined-v0", 0.05, 40)
    assert np.all(sac.algorithm.replay_buffer.seconds[:10] == 0.05)  # type: ignore[attr-defined]
    mpc = MPC(ImaginedVecEnv(pendulum(), 4), seed=0, **TINY).learn(48)
    assert len(mpc.buffer) == 48
    assert set(mpc.buffer.arrays().dt) == {0.05}


# --- runs --------------------------------------------------------------------------------------------------


def test_a_world_is_what_the_agents_own_model_imagines(run: Path) -> None:
    agent = MPC.load(RunFolder.open(run).newest_checkpoint(), device="cpu")
    world = LearnedWorld.load(run, device="cpu")
    assert (world.interval, world.env_id) == (0.05, "Pendulum-v1")
    assert world.limit == pytest.approx(10.0)
    env = ImaginedEnv(world)
    obs, info = env.reset(seed=0)
    after, reward, *_ = env.step(np.array([1.0]))
    z, a = torch.from_numpy(obs).expand(2, 1, 3), torch.full((2, 1, 1), 0.5)
    with torch.no_grad():
        expected = agent.model.step(z, a, torch.tensor(0.05))
    assert reward == pytest.approx(float(expected.reward[info["member"], 0]), abs=1e-6)
    want = expected.z[info["member"], 0].numpy()
    np.testing.assert_allclose(after[:2], want[:2] / np.hypot(*want[:2]), atol=1e-6)
    assert after[2] == pytest.approx(float(np.clip(want[2], -8, 8)), abs=1e-6)


def test_a_registered_world_is_a_task_like_any_other(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    register_world(run.name, "me/Swing-v0", max_disagreement=None)
    monkeypatch.setitem(gymnasium.registry, "me/Swing-v0", gymnasium.registry.pop("me/Swing-v0"))
    monkeypatch.chdir("/")
    env = gymnasium.make("me/Swing-v0")
    assert env.spec is not None
    assert env.spec.id == "me/Swing-v0"
    assert env.reset(seed=0)[0].shape == (3,)
    assert make_task("me/Swing-v0").metadata["dt"] == 0.05
    for bad in ("MyRobot-v0", "me/MyRobot", "me/My Robot-v0"):
        with pytest.raises(UsageError, match="namespace/Name-v0"):
            register_world(run, bad)
    with pytest.raises(UsageError, match="nothing at"):
        register_world(run / "elsewhere", "me/Else-v0")


def test_what_save_wrote_is_a_world_too(run: Path, tmp_path: Path) -> None:
    agent = MPC.load(RunFolder.open(run).newest_checkpoint(), device="cpu")
    agent.save(tmp_path / "pendulum.zip")
    for path in (tmp_path / "pendulum.zip", run / "checkpoint"):
        assert ImaginedEnv(path).reset(seed=0)[0].shape == (3,)


@pytest.mark.parametrize("agent_class", [ODEPolicy, Dyna])
def test_every_agent_with_a_world_model_leaves_a_world(agent_class: Any, tmp_path: Path) -> None:
    agent = agent_class(make_task(CART), preset=None, seed=0, device="cpu", buffer_size=60)
    data = recorded(CART, 50).arrays()
    rows: Any = zip(*data, strict=True)
    for row in rows:
        found: dict[str, Any] = dict(zip(data._fields, row, strict=True))
        agent.buffer.add(Transition(**found, truncated=False))
    agent.model.n_fits.fill_(1)
    agent.save(tmp_path / "agent.zip")
    world = LearnedWorld.load(tmp_path / "agent.zip", device="cpu")
    np.testing.assert_array_equal(world.buffer.arrays().obs, data.obs)
    for mine, theirs in zip(
        world.model.state_dict().values(), agent.model.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs)
    assert ImaginedEnv(world).reset(seed=0)[0].shape == (2,)


def test_a_world_is_as_long_and_as_timed_as_its_run(tmp_path: Path) -> None:
    path = trained(tmp_path / "cart", CART)
    run = RunFolder.open(path)
    run.write_config({**run.read_config(), "timing": {"action_delay": 0.05, "history": 1}})
    with pytest.raises(UsageError, match=r"observation space of the run(.|\n)*task=ID"):
        ImaginedEnv(path)
    assert ImaginedEnv(path, task=None, max_seconds=1.0).imagination.limit == 1.0
    with pytest.raises(UsageError, match="max_seconds"):
        ImaginedEnv(path, task=None)


def test_a_run_that_is_no_world_model_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="run='runs/"):
        gymnasium.make("ode_rl/Imagined-v0")
    with pytest.raises(UsageError, match="not a folder"):
        ImaginedEnv(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="a run folder"):
        ImaginedEnv(tmp_path / "empty")
    agent = SACAgent(make_task(PENDULUM), preset=None, seed=0, device="cpu", buffer_size=10)
    agent.save(tmp_path / "sac.zip")
    with pytest.raises(UsageError, match=r"a run with a world model(.|\n)*sac"):
        gymnasium.make("ode_rl/Imagined-v0", run=tmp_path / "sac.zip")
    young = MPC(make_task(PENDULUM), seed=0, **TINY).learn(5)
    young.save(tmp_path / "young.zip")
    with pytest.raises(UsageError, match="never was"):
        ImaginedEnv(tmp_path / "young.zip")


def test_a_task_with_other_spaces_than_the_run_is_refused(run: Path) -> None:
    with pytest.raises(UsageError, match=r"observation space of the run(.|\n)*task=ID"):
        ImaginedEnv(run, task=PENDULUM)  # whose speed has no bounds
    with pytest.raises(UsageError, match="task=None"):
        ImaginedEnv(run, task="NoSuchTask-v0")
    world = pendulum()
    with pytest.raises(UsageError, match="data of a task with 2 observations"):
        LearnedWorld.of(world.model, world.buffer, CART)
    with pytest.raises(UsageError, match="to start from"):
        LearnedWorld.of(world.model, ReplayBuffer(5, 3, 1), PENDULUM)
    with pytest.raises(UsageError, match="of 2 observations"):
        LearnedWorld.of(world.model, recorded(CART, 5), CART)


def test_known_functions_have_to_be_given_again(tmp_path: Path) -> None:
    known = Known(reward=lambda obs, a, after, dt: 7.0 * dt)
    path = trained(tmp_path / "known", PENDULUM, known=known)
    with pytest.raises(UsageError, match="known=Known"):
        ImaginedEnv(path)
    env = ImaginedEnv(path, known=known)
    env.reset(seed=0)
    assert env.step(np.zeros(1))[1] == pytest.approx(7 * 0.05, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dt": 0.0}, "dt > 0"),
        ({"max_seconds": -1.0}, "max_seconds > 0"),
        ({"max_disagreement": float("nan")}, "max_disagreement > 0"),
        ({"starts": "anywhere"}, "starts among"),
        ({"max_disagreements": 5.0}, "Did you mean max_disagreement"),
        ({"device": "cpu"}, "LearnedWorld alone"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ImaginedEnv(cart(), **settings)


def test_options_and_actions_that_cannot_be_are_refused() -> None:
    env = ImaginedEnv(cart())
    for options in ({"dt": -0.1}, {"member": 3}, {"obs": [0.0]}, {"obs": [np.nan, 0.0]}):
        with pytest.raises(UsageError):
            env.reset(options=options)
    env.reset(seed=0)
    for action in ([0.0, 0.0], [np.nan]):
        with pytest.raises(UsageError, match="finite actions"):
            env.step(np.array(action))
    with pytest.raises(UsageError, match="at least one world"):
        ImaginedVectorEnv(cart(), 0)
    with pytest.raises(UsageError, match="autoreset_mode"):
        ImaginedVectorEnv(cart(), 2, autoreset_mode="Never")


def test_the_report_of_an_agent_of_imagination_says_both_returns(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_world(run, "me/Dream-v0")
    monkeypatch.setitem(gymnasium.registry, "me/Dream-v0", gymnasium.registry.pop("me/Dream-v0"))
    folder = RunFolder.create("me/Dream-v0", "sac", 0, tmp_path / "sac")
    agent = SACAgent(make_task("me/Dream-v0"), preset=None, seed=0, device="cpu", buffer_size=50).learn(3)
    folder.write_config({**agent.config, "env_id": "me/Dream-v0"})
    agent.save(folder.checkpoint)
    report = write_report(folder, episodes=2, seed=5, device="cpu")
    assert sorted(path.name for path in report.iterdir()) == ["report.json", "returns.png"]
    found = read_json(report / "report.json")
    real = evaluate_agent(agent, "Pendulum-v1", 2, 5)
    assert found["real"]["returns"] == pytest.approx(real.returns)
    assert found["real"]["env_id"] == "Pendulum-v1"
    assert found["imagined"]["seconds"] == pytest.approx([10.0, 10.0])
    assert found["imagined"]["returns"] != pytest.approx(real.returns)
    assert main(["report", str(folder.path), "--episodes", "2", "--device", "cpu"]) == 0
    page = (folder.path / "report.html").read_text()
    assert "Imagined and real return" in page
    assert f"{read_json(report / 'report.json')['real']['mean_return']:.4g}" in page


# --- must learn --------------------------------------------------------------------------------------------


def fitted_cart(n: int, seed: int, width: int = 24, updates: int = 200, hold: int = 1) -> LearnedWorld:
    buffer = recorded(CART, n, seed, hold)
    config = WorldModelConfig(n_members=2, hidden=(width,), head_hidden=(width,), termination="hazard")
    model = WorldModel(2, 1, 0.05, config, torch.Generator().manual_seed(seed))
    settings = FitConfig(updates=updates, warm_start_updates=200, batch_size=64, patience=100)
    fit(model, buffer, settings, np.random.default_rng(seed), "cpu")
    return LearnedWorld.of(model, buffer, CART)


def test_what_is_imagined_after_a_fit_is_what_happens() -> None:
    world, real = fitted_cart(600, 0), SpringCart()
    imagined = ImaginedEnv(world)
    errors, moved = [], []
    for seed in range(5):
        obs, _ = real.reset(seed=seed)
        imagined.reset(seed=seed, options={"obs": obs})
        returns = np.zeros(2)
        for k in range(40):  # two seconds
            action = np.full(1, 2.0 * np.sin(0.3 * k + seed), np.float32)
            there, here = real.step(action), imagined.step(action)
            returns += [there[1], here[1]]
        errors.append(np.abs(there[0] - here[0]).max())
        moved.append(np.abs(there[0] - obs).max())
        assert returns[1] == pytest.approx(returns[0], abs=0.15 * abs(returns[0]) + 1)
    assert np.mean(errors) < 0.15 * np.mean(moved)


@pytest.mark.slow
def test_sac_learns_the_real_task_in_imagination_alone() -> None:
    venv = ImaginedVecEnv(fitted_cart(1000, 0, width=64, updates=1000, hold=10), 16)
    sac = SAC(
        "MlpPolicy",
        venv,
        learning_rate=1e-3,
        learning_starts=400,
        gradient_steps=4,
        policy_kwargs={"net_arch": [64, 64]},
        seed=0,
        device="cpu",
    ).learn(12_000)
    found = evaluate_agent(sac, CART, 5).mean_return
    idle = evaluate_agent(Push(0.0), CART, 5).mean_return
    # Standing at rest costs 109, one who knows the cart pays 17.
    assert found > 0.25 * idle
