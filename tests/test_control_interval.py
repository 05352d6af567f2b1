"""Control intervals: rewards, physics, limits and draws are those of the same task at any dt."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.wrappers import TimeLimit

from ode_rl.envs import ControlInterval, Intervals, SensorNoise
from ode_rl.envs.intervals import KINDS
from ode_rl.envs.time_grid import TimeGrid
from ode_rl.errors import UsageError
from tests.own_tasks import SpringCart

TASKS = ["Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum"]
TASKS += ["InvertedPendulum", "Pusher", "Reacher", "Swimmer", "Walker2d"]
V5 = [f"{name}-v5" for name in TASKS]
SLIDER = """<mujoco><option timestep="0.01" gravity="0 0 0"/><worldbody><body>
<joint name="x" type="slide" axis="1 0 0"/><geom size="0.1" mass="1"/></body></worldbody>
<actuator><motor joint="x" gear="1e-12" ctrlrange="-1 1" ctrllimited="true"/></actuator></mujoco>"""


class Slider(MujocoEnv):
    """Slides at 0.7 m/s. Paid as the locomotion tasks are: mean velocity + 1 - control cost, per step."""

    metadata = {"render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"]}  # noqa: RUF012

    def __init__(self, path: str) -> None:
        super().__init__(path, 4, spaces.Box(-np.inf, np.inf, (2,), np.float64))

    def reset_model(self) -> Any:
        self.set_state(np.zeros(1), np.array([0.7]))
        return self.state_vector()

    def step(self, action: Any) -> Any:
        before = self.data.qpos[0]
        self.do_simulation(action, self.frame_skip)
        reward = (self.data.qpos[0] - before) / self.dt + 1.0 - 0.1 * float(np.square(action).sum())
        return self.state_vector(), reward, False, False, {}


class Repeated(gymnasium.Env[Any, Any]):
    """Pays 1, 2, 3, ... and terminates with step `last`."""

    metadata = {"dt": 0.1, "render_modes": []}  # noqa: RUF012
    observation_space = spaces.Box(0, 1e6, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, last: int = 10**6) -> None:
        self.last = last

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.n, self.options = 0, options
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.n += 1
        return np.full(1, self.n, np.float32), float(self.n), self.n >= self.last, False, {}


class AnyStep(SpringCart):
    """Solved for any duration: it remembers those it was asked for."""

    interval = 0.05

    def simulate(self, state: Any, action: Any, dt: float) -> None:
        pass

    def step(self, action: Any) -> Any:
        self.asked = self.interval
        return (*super().step(action)[:1], self.interval, False, False, {"dt": self.interval})


def episode(env: Any, seed: int = 0) -> tuple[float, list[float]]:
    """Return of an episode of random actions, and the seconds of its intervals."""
    env.reset(seed=seed)
    env.action_space.seed(seed)
    total, seconds, over = 0.0, [], False
    while not over:
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        total, over = total + reward, terminated or truncated
        seconds.append(info["dt"])
    return total, seconds


# --- the native interval -----------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", [*V5, "Pendulum-v1"])
def test_at_the_native_interval_all_is_bit_identical(env_id: str) -> None:
    plain, wrapped = gymnasium.make(env_id), ControlInterval(gymnasium.make(env_id))
    plain.action_space.seed(0)
    for seed in range(2):
        np.testing.assert_array_equal(plain.reset(seed=seed)[0], wrapped.reset(seed=seed)[0])
        for _ in range(60):
            action = plain.action_space.sample()
            expected, got = plain.step(action), wrapped.step(action)
            np.testing.assert_array_equal(expected[0], got[0])
            assert expected[1:4] == got[1:4]
            assert got[4]["dt"] == plain.unwrapped.dt  # type: ignore[attr-defined]
            if expected[2] or expected[3]:
                break


def test_the_native_step_stays_visible() -> None:
    env: Any = ControlInterval(gymnasium.make("Swimmer-v5"), dt=0.01)
    episode(TimeLimit(env, 3))
    assert (env.unwrapped.frame_skip, env.unwrapped.dt, env.metadata["dt"]) == (4, 0.04, 0.01)
    assert env.metadata["render_fps"] == 100


# --- physics -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("env_id", "dt"), [("Hopper-v5", (0.002, 0.02)), ("HalfCheetah-v5", (0.01, 0.08))])
def test_random_intervals_are_the_same_substeps_taken_by_hand(env_id: str, dt: Any) -> None:
    env: Any = ControlInterval(gymnasium.make(env_id), dt=dt)
    base = env.unwrapped
    timestep = base.model.opt.timestep
    env.action_space.seed(1)
    over, lengths = True, set()
    for _ in range(1000):
        if over:
            env.reset(seed=3)
            by_hand = mujoco.MjData(base.model)
            by_hand.qpos[:], by_hand.qvel[:] = base.data.qpos, base.data.qvel
            by_hand.qacc_warmstart[:] = base.data.qacc_warmstart
        action = env.action_space.sample()
        _, _, terminated, truncated, info = env.step(action)
        over = terminated or truncated
        by_hand.ctrl[:] = action
        n = round(info["dt"] / timestep)
        lengths.add(n)
        for _ in range(n):
            mujoco.mj_step(base.model, by_hand)
        np.testing.assert_array_equal(base.data.qpos, by_hand.qpos)
        np.testing.assert_array_equal(base.data.qvel, by_hand.qvel)
    assert base.model.opt.timestep == timestep
    assert len(lengths) >= 5


# --- rewards -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dt", [0.01, 0.02, 0.04, 0.08, (0.01, 0.1)])
def test_at_constant_velocity_the_reward_of_the_same_seconds_is_exact(tmp_path: Path, dt: Any) -> None:
    path = tmp_path / "slider.xml"
    path.write_text(SLIDER)
    env = ControlInterval(TimeLimit(Slider(str(path)), 20), dt=dt)
    env.reset(seed=0)
    total, seconds, over = 0.0, 0.0, False
    while not over:
        _, reward, _, over, info = env.step(np.array([0.5]))
        assert float(reward) == pytest.approx((0.7 + 1.0 - 0.025) * info["dt"] / 0.04, rel=1e-9)
        total, seconds = total + float(reward), seconds + info["dt"]
    assert seconds == pytest.approx(0.8, rel=1e-12)
    assert total == pytest.approx(20 * 1.675, rel=1e-9)


def test_repeated_steps_add_up_and_stop_where_the_episode_ends() -> None:
    env = ControlInterval(Repeated(last=5), dt=0.3)
    env.reset(seed=0)
    first, last = env.step(env.action_space.sample()), env.step(env.action_space.sample())
    assert (first[1], first[2]) == (6.0, False)
    assert (last[1], last[2]) == (9.0, True)
    assert [first[4]["dt"], last[4]["dt"]] == pytest.approx([0.3, 0.2])


def test_a_task_solved_for_any_duration_is_asked_for_it_and_pays_itself() -> None:
    task = AnyStep()
    env = ControlInterval(TimeLimit(task, 10), dt=0.0123)
    env.reset(seed=0)
    _, reward, _, _, info = env.step(np.zeros(1))
    assert (task.asked, reward, info["dt"], task.interval) == (0.0123, 0.0123, 0.0123, 0.05)
    assert sum(episode(env)[1]) == pytest.approx(0.5, rel=1e-12)


def test_an_exactly_integrated_task_pays_the_same_for_the_same_actions_at_every_interval() -> None:
    returns = []
    for dt in (0.025, 0.05, 0.1):
        env = ControlInterval(gymnasium.make("ode_rl/Pendulum-v0", max_episode_steps=40), dt=dt)
        env.reset(seed=0)
        steps = [env.step(np.array([0.3], np.float32)) for _ in range(round(2 / dt))]
        assert [step[3] for step in steps] == [False] * (len(steps) - 1) + [True]
        returns.append(sum(float(step[1]) for step in steps))
    np.testing.assert_allclose(returns, returns[1], rtol=1e-6)


# --- the physics' own dt -----------------------------------------------------------------------------------


def test_physics_dt_takes_the_shorter_steps_of_the_task_itself() -> None:
    env: Any = ControlInterval(gymnasium.make("Pendulum-v1"), dt=0.02, physics_dt=0.01)
    by_hand: Any = gymnasium.make("Pendulum-v1")
    env.reset(seed=0)
    by_hand.reset(seed=0)
    by_hand.unwrapped.dt = 0.01
    action = np.array([1.5], np.float32)
    obs, reward, _, _, info = env.step(action)
    expected = [by_hand.step(action) for _ in range(2)]
    np.testing.assert_array_equal(obs, expected[1][0])
    assert reward == pytest.approx((expected[0][1] + expected[1][1]) / 5, rel=1e-12)
    assert (info["dt"], env.unwrapped.dt) == (0.02, 0.05)
    assert sum(episode(env)[1]) == pytest.approx(10.0)


def test_a_fraction_of_a_task_with_its_own_physics_dt_is_refused_with_the_argument_that_allows_it() -> None:
    with pytest.raises(UsageError, match=r"0\.05 or 0\.1.*physics_dt="):
        ControlInterval(gymnasium.make("Pendulum-v1"), dt=0.06)


@pytest.mark.parametrize(
    ("task", "physics_dt", "message"),
    [
        ("Pendulum-v1", 0.02, r"0\.0166667 or 0\.025"),
        ("Pendulum-v1", 0.1, r"Write 0\.05"),
        ("Hopper-v5", 0.001, "only where"),
        ("own/SpringCart-v0", 0.01, "only where"),
    ],
)
def test_a_physics_dt_that_cannot_be_set_is_refused(task: str, physics_dt: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ControlInterval(gymnasium.make(task), physics_dt=physics_dt)


# --- the limit of an episode -------------------------------------------------------------------------------


@pytest.mark.parametrize("dt", [None, 0.01, 0.02, 0.06, 0.15, (0.01, 0.3), Intervals("exponential", 0.01, 1)])
def test_an_episode_lasts_the_same_seconds_at_every_interval(dt: Any) -> None:
    env = ControlInterval(gymnasium.make("HalfCheetah-v5", max_episode_steps=100), dt=dt)
    for seed in range(2):
        assert sum(episode(env, seed)[1]) == pytest.approx(5.0, rel=1e-12)


def test_a_spec_makes_the_same_task_again_also_through_json() -> None:
    dt = Intervals("two-tail", 0.01, 0.2, tails=0.8)
    env = ControlInterval(gymnasium.make("HalfCheetah-v5", max_episode_steps=100), dt=dt)
    assert env.spec is not None
    assert env.spec.max_episode_steps == 100
    again = gymnasium.make(env.spec.from_json(env.spec.to_json()))
    assert episode(env) == episode(again)


def test_without_a_limit_an_episode_goes_on() -> None:
    env = ControlInterval(gymnasium.make("Swimmer-v5", max_episode_steps=-1), dt=0.4)
    env.reset(seed=0)
    assert not any(env.step(env.action_space.sample())[3] for _ in range(120))


# --- intervals that vary -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_draws_stay_in_their_range_and_have_the_mean_they_say(kind: str) -> None:
    intervals = Intervals(kind, 0.02, 0.3)
    generator = np.random.default_rng(0)
    draws = [intervals.sample(generator) for _ in range(20_000)]
    assert 0.02 <= min(draws) < max(draws) <= 0.3
    assert np.mean(draws) == pytest.approx(intervals.mean, rel=0.02)


def test_the_logarithm_of_a_log_uniform_draw_is_uniform() -> None:
    generator, intervals = np.random.default_rng(0), Intervals("log-uniform", 0.01, 1.0)
    logs = np.log10([intervals.sample(generator) for _ in range(20_000)])
    np.testing.assert_allclose(np.quantile(logs, [0.25, 0.5, 0.75]), [-1.5, -1.0, -0.5], atol=0.03)


def test_the_same_seed_draws_the_same_intervals_and_start_states_are_those_of_the_task() -> None:
    env, plain = ControlInterval(SpringCart(), dt=(0.05, 2.0)), SpringCart()

    def intervals(seed: int | None) -> list[float]:
        env.reset(seed=seed)
        return [env.step(np.zeros(1))[4]["dt"] for _ in range(50)]

    first = intervals(7)
    assert intervals(7) == first
    assert intervals(8) != first
    assert intervals(None) != first
    np.testing.assert_array_equal(env.reset(seed=7)[0], plain.reset(seed=7)[0])
    env.step(np.zeros(1))
    np.testing.assert_array_equal(env.reset()[0], plain.reset()[0])


def test_draws_lie_on_whole_substeps_within_the_range() -> None:
    env = ControlInterval(gymnasium.make("Reacher-v5", max_episode_steps=10**6), dt=(0.015, 0.038))
    env.reset(seed=0)
    ticks = {env.step(env.action_space.sample())[4]["dt"] / 0.01 for _ in range(100)}
    assert {round(tick, 9) for tick in ticks} == {2.0, 3.0}


def test_the_interval_of_the_next_step_is_known_and_can_be_set_once() -> None:
    env = ControlInterval(Repeated(), dt=(0.1, 0.9))
    env.reset(seed=0)
    for _ in range(20):
        due = env.get_wrapper_attr("interval")
        assert env.step(np.zeros(1))[4]["dt"] == due
    env.get_wrapper_attr("set_interval")(1.7)
    assert env.interval == pytest.approx(1.7)
    assert env.step(np.zeros(1))[4]["dt"] == pytest.approx(1.7)
    assert env.step(np.zeros(1))[4]["dt"] < 1.0


def test_reset_sets_the_interval_of_one_episode() -> None:
    env: Any = ControlInterval(Repeated(), dt=0.2)
    env.reset(seed=0, options={"dt": 0.5, "start": 3})
    assert [env.step(np.zeros(1))[4]["dt"] for _ in range(2)] == [0.5, 0.5]
    assert env.unwrapped.options == {"start": 3}
    env.reset()
    assert env.step(np.zeros(1))[4]["dt"] == 0.2
    env.reset(options={"dt": (0.1, 0.9)})
    assert len({env.step(np.zeros(1))[4]["dt"] for _ in range(20)}) > 3


# --- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dt", "message"),
    [
        (0.009, r"0\.008 or 0\.01\."),
        (0.0080003, r"0\.008 or 0\.01\."),
        (0.001, r"Write 0\.002"),
        (0, "dt > 0"),
        (-0.01, "dt > 0"),
        (math.nan, "dt > 0"),
        ("fast", "dt > 0"),
        ((0.1, 0.05), "lo < hi"),
        ((0.05, 0.05), "lo < hi"),
        ((0.001, 0.05), r"at least one.*0\.002"),
        ((0.0081, 0.0099), r"0\.008 or 0\.01"),
        ((0.01, 0.02, 0.03), "range"),
        ({"kind": "weekly", "lo": 0.1, "hi": 0.2}, "uniform, log-uniform"),
        ({"kind": "uniform", "lo": 0.1}, "fields of Intervals"),
    ],
)
def test_an_interval_that_cannot_be_is_refused_with_what_can(dt: Any, message: str) -> None:
    env = gymnasium.make("Hopper-v5")
    with pytest.raises(UsageError, match=message):
        ControlInterval(env, dt=dt)


def test_an_interval_within_rounding_is_taken() -> None:
    assert TimeGrid(0.008, 0.002).ticks(0.1 * 3 / 50) == 3


@pytest.mark.parametrize("fields", [{"tails": 1.5}, {"short": -0.1}, {"scale": 0.0}])
def test_a_distribution_with_impossible_numbers_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Intervals("two-tail", 0.1, 0.2, **fields)


def test_setting_an_interval_between_two_substeps_is_refused() -> None:
    env: Any = ControlInterval(gymnasium.make("Hopper-v5"))
    for bad in (0.003, (0.002, 0.004)):
        with pytest.raises(UsageError):
            env.get_wrapper_attr("set_interval")(bad)
    with pytest.raises(UsageError, match=r"0\.002 or 0\.004"):
        env.reset(options={"dt": 0.003})


@pytest.mark.parametrize("below", [ControlInterval, lambda env: SensorNoise(env, 0.1)])
def test_control_interval_on_top_of_what_depends_on_it_is_refused(below: Any) -> None:
    with pytest.raises(UsageError, match="directly on the task"):
        ControlInterval(below(SpringCart()), dt=0.1)


def test_a_task_that_does_not_say_its_step_needs_native() -> None:
    with pytest.raises(UsageError, match="how long a step lasts"):
        ControlInterval(gymnasium.make("MountainCarContinuous-v0"), dt=0.2)
    env = ControlInterval(
        gymnasium.make("MountainCarContinuous-v0", max_episode_steps=12), dt=0.4, native=0.1
    )
    assert episode(env)[1] == [0.4] * 3
