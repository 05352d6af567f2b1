"""The true task as a model: the same physics, restored bit for bit, at any interval, for any kind of task."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from gymnasium.wrappers import FlattenObservation, TimeLimit

from ode_rl.envs import TrueDynamics, copy_engine, mujoco_engine
from ode_rl.envs.control_interval import ControlInterval
from ode_rl.envs.task import make_task
from ode_rl.errors import UsageError
from tests.own_tasks import Balance, SpringCart

Env = gymnasium.Env[Any, Any]
MUJOCO = ["InvertedPendulum-v5", "InvertedDoublePendulum-v5", "Reacher-v5", "Pusher-v5", "Swimmer-v5"]
MUJOCO += ["Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5", "HumanoidStandup-v5"]


class Rotor(gymnasium.Env[Any, Any]):
    """Turns at the speed of the action; offers ``simulate``. Reward: the angle that was swept, times gain."""

    metadata = {"dt": 0.1, "render_modes": []}  # noqa: RUF012
    gain = 2.0

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = spaces.Box(-3, 3, (1,), np.float32)
        self._angle = np.zeros(1)

    def get_state(self) -> Any:
        return self._angle.copy()

    def set_state(self, state: Any) -> None:
        self._angle = np.array(state)

    def observe(self, state: Any) -> Any:
        return np.concatenate([np.cos(state), np.sin(state)], -1).astype(np.float32)

    def simulate(self, state: Any, action: Any, dt: Any) -> Any:
        swept = action * np.asarray(dt)[..., None]
        return state + swept, self.gain * swept[..., 0]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self._angle = self.np_random.uniform(-1, 1, 1)
        return self.observe(self._angle), {}

    def step(self, action: Any) -> Any:
        self._angle, reward = self.simulate(self._angle, action, self.metadata["dt"])
        return self.observe(self._angle), float(reward), False, False, {}


class Noisy(SpringCart):
    """A spring-cart in gusts, with a Dict of observations."""

    def __init__(self) -> None:
        super().__init__()
        self._vector = self.observation_space
        self.observation_space = spaces.Dict({"x": self._vector})  # type: ignore[assignment]

    def reset(self, **kwargs: Any) -> Any:
        obs, info = super().reset(**kwargs)
        return {"x": obs}, info

    def step(self, action: Any) -> Any:
        obs, reward, *rest = super().step(action + self.np_random.normal(size=1).astype(np.float32))
        return {"x": obs}, reward, *rest


class DoublePay(HopperEnv):
    """A hopper of a user's own, which pays double and gets tired: state that MuJoCo does not hold."""

    tired = 0

    def step(self, action: Any) -> Any:
        self.tired += 1
        obs, reward, *rest = super().step(action)
        return obs, 2 * reward - 0.01 * self.tired, *rest


class Locked(SpringCart):
    """Holds what cannot be copied."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("cannot copy the lock")


def followed(env: Env, actions: Any) -> list[Any]:
    """Observation, reward and end of each step."""
    return [env.step(action)[:3] for action in actions]


def random_actions(env: Env, count: int, seed: int = 0) -> Any:
    space: Any = env.action_space
    return (
        np.random.default_rng(seed).uniform(space.low, space.high, (count, *space.shape)).astype(np.float32)
    )


def assert_same(path: list[Any], other: list[Any]) -> None:
    for (obs, reward, end), (obs_2, reward_2, end_2) in zip(path, other, strict=True):
        np.testing.assert_array_equal(obs, obs_2)
        assert (float(reward), end) == (float(reward_2), end_2)


# --- snapshots ---------------------------------------------------------------------------------------------


def own_tasks() -> list[Any]:
    tasks: list[Any] = [Rotor, SpringCart, Balance, DoublePay, lambda: FlattenObservation(Noisy())]
    return [
        pytest.param(task, id=name)
        for task, name in zip(tasks, ["Rotor", "Cart", "Balance", "Hopper", "Noisy"], strict=True)
    ]


@pytest.mark.parametrize("task", [*MUJOCO, "Pendulum-v1", *own_tasks()])
def test_a_restored_task_goes_on_bit_for_bit(task: Any) -> None:
    def made() -> Env:
        return make_task(task) if isinstance(task, str) else TimeLimit(task(), 1000)

    env, other = made(), made()
    truth = TrueDynamics(env)
    env.reset(seed=3)
    other.reset(seed=4)
    actions = random_actions(env, 60)
    followed(env, actions[:7])
    followed(other, actions[20:33])
    state = truth.snapshot(env)
    assert state.shape == (truth.n_state,)
    assert state.dtype == np.float64
    ahead = followed(env, actions[7:])
    for target in (env, other):
        base = target.unwrapped
        truth.restore(target, state)
        assert target.unwrapped is base
        if truth.n_state > 1:
            np.testing.assert_array_equal(truth.snapshot(target), state)
        assert_same(followed(target, actions[7:]), ahead)


@pytest.mark.parametrize("env_id", ["Hopper-v5", "Ant-v5", "Humanoid-v5"])
def test_what_a_snapshot_does_not_hold_is_not_needed(env_id: str) -> None:
    # A simulator that has only ever seen the snapshot ends in the same place as the one that ran.
    env = gymnasium.make(env_id)
    env.reset(seed=0)
    actions = random_actions(env, 40)
    base: Any = env.unwrapped
    followed(base, actions[:20])
    state = TrueDynamics(env_id).snapshot(env)
    outcome = TrueDynamics(env_id).rollout(state[None], actions[None, None, 20:])
    np.testing.assert_array_equal(outcome.next_obs[0, 0], [obs for obs, _, _ in followed(base, actions[20:])])


def test_a_rollout_leaves_the_environment_alone() -> None:
    for env_id in ("Hopper-v5", "Ant-v5", "Pendulum-v1"):
        env = make_task(env_id)
        env.reset(seed=0)
        truth = TrueDynamics(env)
        before = truth.snapshot(env)
        truth.rollout(before[None], random_actions(env, 5)[None, None])
        np.testing.assert_array_equal(truth.snapshot(env), before)


def test_a_push_that_acts_on_the_task_acts_in_its_rollouts() -> None:
    env = gymnasium.make("HalfCheetah-v5")
    env.reset(seed=0)
    base: Any = env.unwrapped
    base.data.xfrc_applied[1, 0] = 50.0
    truth = TrueDynamics(env)
    actions = random_actions(env, 5)
    outcome = truth.rollout(truth.snapshot(env)[None], actions[None, None])
    np.testing.assert_array_equal(outcome.next_obs[0, 0], [obs for obs, _, _ in followed(env, actions)])


def test_long_batches_are_rolled_out_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for env_id in ("Hopper-v5", "Reacher-v5"):
        env = make_task(env_id)
        env.reset(seed=0)
        truth = TrueDynamics(env, threads=2)
        states = np.stack([truth.snapshot(env), truth.snapshot(env)])
        plans = random_actions(env, 2 * 9 * 4).reshape(2, 9, 4, -1)
        whole = truth.rollout(states, plans)
        monkeypatch.setattr(mujoco_engine, "_CHUNK", 1)
        for a, b in zip(whole, truth.rollout(states, plans), strict=True):
            np.testing.assert_array_equal(a, b)


# --- formulas and copies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["Pendulum-v1", *own_tasks()])
def test_plans_pay_as_step_does_in_tasks_without_mujoco(task: Any) -> None:
    env: Env = make_task(task) if isinstance(task, str) else task()
    truth = TrueDynamics(env)
    h, starts = 20, []
    plans = random_actions(env, 30 * 2 * h).reshape(30, 2, h, -1)
    expected = []
    for i in range(30):
        env.reset(seed=i)
        starts.append(truth.snapshot(env))
        for j in range(2):
            truth.restore(env, starts[i])
            expected.append(followed(env, plans[i, j]))
    outcome = truth.rollout(np.stack(starts), plans)
    ended = 0
    for row, path in enumerate(expected):
        i, j = divmod(row, 2)
        for k, (obs, reward, terminated) in enumerate(path):
            assert outcome.reward[i, j, k] == pytest.approx(float(reward), rel=1e-12, abs=1e-15)
            np.testing.assert_array_equal(outcome.next_obs[i, j, k], obs)
            assert outcome.terminated[i, j, k] == terminated
            if terminated:
                ended += 1
                break
    assert bool(ended) == isinstance(env.unwrapped, Balance | DoublePay)
    assert outcome.next_obs.dtype == env.observation_space.dtype


def test_the_classic_pendulum_equals_step_exactly() -> None:
    env = gymnasium.make("Pendulum-v1", g=9.0)
    truth = TrueDynamics(env)
    rng = np.random.default_rng(0)
    states = rng.uniform([-9, -8], [9, 8], (1000, 2))
    actions = rng.uniform(-3, 3, (1000, 1)).astype(np.float32)
    outcome = truth.rollout(states, actions[:, None, None])
    env.reset()
    for state, action, reward, obs in zip(
        states, actions, outcome.reward[:, 0, 0], outcome.next_obs[:, 0, 0], strict=True
    ):
        truth.restore(env, state)
        assert_same([(obs, reward, False)], followed(env.unwrapped, [action]))


def test_a_time_limit_does_not_cut_plans() -> None:
    rewards = []
    for task in (Noisy(), TimeLimit(Noisy(), 3)):
        env = FlattenObservation(task)
        truth = TrueDynamics(env)
        env.reset(seed=0)
        outcome = truth.rollout(truth.snapshot(env)[None], random_actions(env, 6)[None, None], 0.1)
        assert not outcome.terminated.any()
        rewards.append(outcome.reward)
    np.testing.assert_array_equal(rewards[0], rewards[1])


def test_an_old_snapshot_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy_engine, "KEPT", 2)
    env = SpringCart()
    env.reset(seed=0)
    truth = TrueDynamics(env)
    states = [truth.snapshot(env) for _ in range(3)]
    truth.restore(env, states[1])
    with pytest.raises(UsageError, match="new snapshot"):
        truth.restore(env, states[0])


# --- intervals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task", ["Hopper-v5", "Ant-v5", "Reacher-v5", "Pendulum-v1", SpringCart, Balance, DoublePay]
)
def test_other_intervals_pay_as_a_control_interval_does(task: Any) -> None:
    env: Env = ControlInterval(make_task(task) if isinstance(task, str) else task())
    truth = TrueDynamics(env)
    native, unit = env.get_wrapper_attr("grid").native, env.get_wrapper_attr("grid").unit
    assert truth.native_dt == native
    seconds = [native, 3 * native, unit, 2 * native]
    env.reset(seed=0)
    state = truth.snapshot(env)
    plan = random_actions(env, 4) * 0.1
    outcome = truth.rollout(state[None], plan[None, None], seconds)
    for k, dt in enumerate(seconds):
        env.get_wrapper_attr("set_interval")(dt)
        obs, reward, terminated, _, _ = env.step(plan[k])
        assert outcome.reward[0, 0, k] == pytest.approx(float(reward), rel=1e-12)
        np.testing.assert_array_equal(outcome.next_obs[0, 0, k], obs)
        assert outcome.terminated[0, 0, k] == terminated


def test_an_interval_has_the_nearest_number_of_physics_steps() -> None:
    truth, env = TrueDynamics("Hopper-v5"), make_task("Hopper-v5")
    env.reset(seed=0)
    state, plan = truth.snapshot(env)[None], random_actions(env, 1)[None, None]
    rewards = [truth.rollout(state, plan, dt).reward.item() for dt in (0.0021, 0.002, 0.0029, 0.0031, 0.004)]
    assert rewards[0] == rewards[1] == rewards[2] != rewards[3] == rewards[4]


def test_a_task_that_simulates_takes_any_interval() -> None:
    env = Rotor()
    truth = TrueDynamics(env)
    env.set_state([0.0])
    outcome = truth.rollout(truth.snapshot(env)[None], [[[[1.0], [-2.0]]]], [0.01, 0.25])
    np.testing.assert_allclose(outcome.reward, [[[0.02, -1.0]]])
    np.testing.assert_allclose(outcome.next_obs[0, 0, :, 1], np.sin([0.01, -0.49]), rtol=1e-6)


@pytest.mark.parametrize("task", [PendulumEnv, Balance])
def test_the_physics_step_of_a_control_interval_is_kept(task: Any) -> None:
    half = task().dt / 2
    env = ControlInterval(task(), dt=half, physics_dt=half)
    truth = TrueDynamics(env)
    assert truth.native_dt == 2 * half
    env.reset(seed=0)
    state, action = truth.snapshot(env), np.array([0.7], np.float32)
    outcome = truth.rollout(state[None], action[None, None, None], half)
    obs, reward, *_ = env.step(action)
    assert outcome.reward.item() == pytest.approx(float(reward), rel=1e-12)
    np.testing.assert_array_equal(outcome.next_obs[0, 0, 0], obs)


@pytest.mark.parametrize("task", ["Hopper-v5", "Ant-v5", "Pendulum-v1", SpringCart])
def test_an_interval_below_one_physics_step_is_refused(task: Any) -> None:
    env: Env = make_task(task) if isinstance(task, str) else task()
    env.reset(seed=0)
    truth = TrueDynamics(env)
    with pytest.raises(UsageError, match=r"at least one.*dt=0\.0005"):
        truth.rollout(truth.snapshot(env)[None], random_actions(env, 2)[None, None], [truth.native_dt, 5e-4])


# --- bad input ---------------------------------------------------------------------------------------------


class Images(SpringCart):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(0, 1, (4, 4, 3), np.float32)


class Timeless(SpringCart):
    def __init__(self) -> None:
        super().__init__()
        self.metadata = {}


@pytest.mark.parametrize(
    ("env", "threads", "message"),
    [
        ("CartPole-v1", 1, "Discrete"),
        ("No-Such-v0", 1, "registered"),
        (Images(), 1, "flat Boxes"),
        (Locked(), 1, "cannot copy the lock"),
        (FlattenObservation(ControlInterval(Noisy())), 1, "outside of the others"),
        (Timeless(), 1, "how long a step lasts"),
        (gymnasium.make("CartPole-v1"), 1, "CartPole|how long"),
        (7, 1, "got int"),
        ("Hopper-v5", 0, "threads >= 1"),
        ("Hopper-v5", True, "threads >= 1"),
    ],
)
def test_what_cannot_be_a_model_is_refused(env: Any, threads: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrueDynamics(env, threads)


@pytest.mark.parametrize(
    ("states", "plans", "dt", "message"),
    [
        ((2, 2), (2, 3, 4, 1), None, None),
        ((2,), (2, 3, 4, 1), None, r"states \[B, 2\]"),
        ((2, 3), (2, 3, 4, 1), None, r"states \[B, 2\]"),
        ((0, 2), (0, 3, 4, 1), None, r"states \[B, 2\]"),
        ((2, 2), (1, 3, 4, 1), None, r"plans \[2, N, H, 1\]"),
        ((2, 2), (2, 3, 4), None, r"plans \[2, N, H, 1\]"),
        ((2, 2), (2, 3, 4, 2), None, r"plans \[2, N, H, 1\]"),
        ((2, 2), (2, 3, 0, 1), None, r"plans \[2, N, H, 1\]"),
        ((2, 2), (2, 3, 4, 1), [0.05] * 3, r"dt \[4\]"),
        ((2, 2), (2, 3, 4, 1), [0.05, 0.05, 0.05, -1], "dt > 0"),
        ((2, 2), (2, 3, 4, 1), np.nan, "dt > 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(states: Any, plans: Any, dt: Any, message: str | None) -> None:
    truth = TrueDynamics("Pendulum-v1")
    arguments = np.zeros(states), np.zeros(plans, int), dt
    if message is None:
        assert truth.rollout(*arguments).next_obs.shape == (2, 3, 4, 3)
        return
    with pytest.raises(UsageError, match=message):
        truth.rollout(*arguments)


@pytest.mark.parametrize("task", ["Hopper-v5", "Pendulum-v1", SpringCart, Rotor])
def test_another_task_is_refused(task: Any) -> None:
    truth = TrueDynamics(task if isinstance(task, str) else task())
    env = make_task("Walker2d-v5")
    env.reset(seed=0)
    for call in (truth.snapshot, lambda env: truth.restore(env, np.ones(truth.n_state))):
        with pytest.raises(UsageError, match="got Walker2dEnv"):
            call(env)


def test_another_mujoco_model_of_the_same_class_is_refused() -> None:
    truth, env = TrueDynamics("HalfCheetah-v5"), gymnasium.make("HalfCheetah-v5", xml_file="hopper.xml")
    with pytest.raises(UsageError, match="hopper"):
        truth.snapshot(env)


def test_a_pendulum_that_was_never_reset_is_refused() -> None:
    env = make_task("Pendulum-v1")
    with pytest.raises(UsageError, match="reset"):
        TrueDynamics(env).snapshot(env)
