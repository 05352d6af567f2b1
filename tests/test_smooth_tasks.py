"""Tasks with a known equation of motion: right by Lagrange, exact at any interval, paid by the second."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3
from torch import Tensor

from ode_rl.envs.acrobot import AcrobotEnv
from ode_rl.envs.cart_pole_swing_up import CartPoleSwingUpEnv
from ode_rl.envs.double_pendulum import DoublePendulumEnv
from ode_rl.envs.pendulum import PendulumEnv
from ode_rl.envs.runge_kutta import cooper_verner, crossing
from ode_rl.envs.smooth import Array, SmoothTask
from ode_rl.errors import UsageError
from ode_rl.state import STATE_SPECS

IDS = ["ode_rl/Pendulum-v0", "ode_rl/CartPoleSwingUp-v0", "ode_rl/Acrobot-v0", "ode_rl/DoublePendulum-v0"]
MAKE: dict[str, Callable[[], SmoothTask]] = {
    "pendulum": PendulumEnv,
    "cart-pole": CartPoleSwingUpEnv,
    "acrobot": AcrobotEnv,
    "acrobot-elbow": lambda: AcrobotEnv("elbow"),
    "double-pendulum": lambda: DoublePendulumEnv((1.0, 0.6), (0.8, 1.3), max_torque=4.0),
}
TASKS = sorted(MAKE)


def draw(task: SmoothTask, n: int, speed: float = 8.0) -> tuple[Array, Array]:
    """Random states and actions."""
    rng = np.random.default_rng(0)
    q = rng.uniform(-np.pi, np.pi, (n, task.n_q))
    v = rng.uniform(-speed, speed, (n, task.n_q))
    action = rng.uniform(-task.max_action, task.max_action, (n, task.n_action))
    return np.concatenate([q, v], -1), action


def apart(task: SmoothTask, a: Array, b: Array) -> float:
    """The largest difference of two sets of states, angles the short way round."""
    d = a - b
    angle = slice(task.n_position, task.n_q)
    d[..., angle] = np.mod(d[..., angle] + np.pi, 2 * np.pi) - np.pi
    return float(np.abs(d).max())


def classic(task: SmoothTask, state: Array, action: Array, dt: float, n: int) -> tuple[Array, Array]:
    """State and reward after `dt` by n steps of the classical Runge-Kutta method, an independent oracle."""

    def slope(y: Array) -> Array:
        reward = task.smooth_reward_rate(y[:, :-1], action)
        return np.concatenate([task.rate(y[:, :-1], action), reward[:, None]], -1)

    y, h = np.concatenate([state, np.zeros((len(state), 1))], -1), dt / n
    for _ in range(n):
        k1 = slope(y)
        k2 = slope(y + h / 2 * k1)
        k3 = slope(y + h / 2 * k2)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(y + h * k3))
    return y[:, :-1], y[:, -1]


# --- the equations of motion -------------------------------------------------------------------------------


def bodies(name: str, task: Any, q: Tensor) -> list[tuple[float, Tensor, float, Tensor]]:
    """Mass, place of the centre ``[2]``, moment of inertia about it and angle of every rigid body."""
    zero = torch.zeros(())
    if name == "pendulum":
        centre = 0.5 * task.length * torch.stack([-torch.sin(q[0]), torch.cos(q[0])])
        return [(task.mass, centre, task.mass * task.length**2 / 12, q[0])]
    if name == "cart-pole":
        x, m, half = q[0], task.pole_mass, task.half_length
        centre = torch.stack([x + half * torch.sin(q[1]), half * torch.cos(q[1])])
        return [(task.cart_mass, torch.stack([x, zero]), 0.0, zero), (m, centre, m * half**2 / 3, q[1])]

    def along(angle: Tensor, length: float) -> Tensor:
        return length * torch.stack([torch.sin(angle), -torch.cos(angle)])

    if name == "double-pendulum":
        first = along(q[0], task.lengths[0])
        second = first + along(q[1], task.lengths[1])
        return [(task.masses[0], first, 0.0, zero), (task.masses[1], second, 0.0, zero)]
    bend = q[0] + q[1]
    second = along(q[0], task.length) + along(bend, task.centre)
    return [
        (task.mass, along(q[0], task.centre), task.inertia, q[0]),
        (task.mass, second, task.inertia, bend),
    ]


def generalized_force(name: str, task: Any, action: Tensor) -> Tensor:
    """The work of the actuators per unit of each coordinate, from where they act."""
    zero = torch.zeros((), dtype=torch.float64)
    if name == "pendulum":
        return action
    if name == "cart-pole":
        return torch.stack([task.max_force * action[0], zero])
    u = task.max_torque * action
    if name == "acrobot-elbow":
        return torch.stack([zero, u[0]])
    if name == "acrobot":
        return u
    return torch.stack([u[0] - u[1], u[1]])  # the motor between the rods turns the first one back


def energies(name: str, task: Any, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Kinetic and potential energy, from the velocities of all bodies in space."""
    kinetic, potential = torch.zeros(()), torch.zeros(())
    for i, (mass, centre, inertia, _) in enumerate(bodies(name, task, q)):

        def motion(q: Tensor, i: int = i) -> tuple[Tensor, Tensor]:
            _, place, _, angle = bodies(name, task, q)[i]
            return place, angle + 0 * q.sum()

        speed, spin = torch.func.jvp(motion, (q,), (v,))[1]
        kinetic = kinetic + mass / 2 * speed.square().sum() + inertia / 2 * spin**2
        potential = potential + mass * task.gravity * centre[1]
    return kinetic, potential


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # within torch.func
@pytest.mark.parametrize("name", TASKS)
def test_motion_is_what_lagrange_says_of_the_bodies_in_space(name: str) -> None:
    task = MAKE[name]()

    def lagrangian(q: Tensor, v: Tensor) -> Tensor:
        kinetic, potential = energies(name, task, q, v)
        return kinetic - potential

    states, actions = draw(task, 20)
    for state, action in zip(states, actions, strict=True):
        q, v = torch.from_numpy(state).chunk(2)
        mass = torch.func.hessian(lagrangian, 1)(q, v)
        mixed = torch.func.jacrev(torch.func.grad(lagrangian, 1), 0)(q, v)
        force = generalized_force(name, task, torch.from_numpy(action))
        want = torch.linalg.solve(mass, force + torch.func.grad(lagrangian)(q, v) - mixed @ v)
        np.testing.assert_allclose(task.acceleration(state, action), want, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(task.rate(state, action), np.concatenate([v, want]), rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # within torch.func
@pytest.mark.parametrize("name", TASKS)
def test_energy_is_that_of_the_bodies_in_space(name: str) -> None:
    task = MAKE[name]()
    for state in draw(task, 20)[0]:
        q, v = torch.from_numpy(state).chunk(2)
        kinetic, potential = energies(name, task, q, v)
        assert float(task.energy(state)) == pytest.approx(float(kinetic + potential), rel=1e-12, abs=1e-12)


def test_the_pendulum_moves_and_pays_as_that_of_gymnasium_in_a_short_step() -> None:
    task, plain = PendulumEnv(), gymnasium.make("Pendulum-v1").unwrapped
    dt = plain.dt = 1e-6  # type: ignore[attr-defined]
    for state, action in zip(*draw(task, 20, speed=7.0), strict=True):
        plain.reset()
        plain.state = state.copy()  # type: ignore[attr-defined]
        reward = plain.step(action)[1]
        after, gain = task.simulate(state, action, dt)
        assert gain * 0.05 / dt == pytest.approx(reward, abs=1e-4)
        assert apart(task, after, np.asarray(plain.state)) < 1e-10  # type: ignore[attr-defined]


# --- exact at any interval ---------------------------------------------------------------------------------


def test_the_method_of_cooper_verner_is_of_eighth_order() -> None:
    """On a system that is not linear, with an integral beside it, against many more steps."""

    def rate(z: Array, a: Array) -> Array:
        return np.stack([np.cos(z[:, 1]), z[:, 0] * z[:, 1]], -1)

    def pay(z: Array, a: Array) -> Array:
        payment: Array = np.exp(-(z[:, 0] ** 2))
        return payment

    def solve(n: int) -> Array:
        z, gain = np.array([[0.3, 0.4]]), np.zeros(1)
        for _ in range(n):
            z, more = cooper_verner(rate, pay, z, np.zeros((1, 0)), np.array([2.0 / n]))
            gain = gain + more
        return np.array([*z[0], *gain])

    exact = solve(200)
    errors = [np.abs(solve(n) - exact) for n in (6, 12)]
    state, gain = np.log2(np.array([errors[0][:2].max(), errors[0][2]]) / [errors[1][:2].max(), errors[1][2]])
    assert 7.5 < state < 9.5
    assert 7.5 < gain < 9.5


@pytest.mark.parametrize("name", TASKS)
def test_a_native_step_is_exact_to_a_billionth(name: str) -> None:
    task = MAKE[name]()
    state, action = draw(task, 300)
    after, reward = task.simulate(state, action, task.dt)
    want, paid = classic(task, state, action, task.dt, 1000)
    assert apart(task, after, want) < 1e-9
    # The oracle does not know the pendulum's kink; cases of its own are below.
    smooth = np.abs(want[:, 0]) < np.pi if name == "pendulum" else np.ones(len(state), bool)
    assert smooth.mean() > 0.5
    assert np.abs(reward - paid)[smooth].max() < 1e-9


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("dt", [0.05, 0.2])
def test_two_half_intervals_are_one_whole(name: str, dt: float) -> None:
    task = MAKE[name]()
    state, action = draw(task, 2000, speed=4.0)
    whole, reward = task.simulate(state, action, dt)
    middle, first = task.simulate(state, action, dt / 2)
    end, second = task.simulate(middle, action, dt / 2)
    assert apart(task, whole, end) < 1e-8
    assert np.abs(first + second - reward).max() < 1e-8


@pytest.mark.parametrize("name", TASKS)
def test_nobody_pushes_and_the_energy_stays_for_ten_seconds(name: str) -> None:
    task = MAKE[name]()
    state = draw(task, 20, speed=3.0)[0]
    before = task.energy(state)
    after, _ = task.simulate(state, np.zeros(task.n_action), 10.0)
    assert np.abs(after - state).max() > 0.1
    assert np.abs(task.energy(after) - before).max() < 1e-6


def test_the_default_double_pendulum_keeps_its_energy_under_any_action() -> None:
    env = gymnasium.make("ode_rl/DoublePendulum-v0")
    task: Any = env.unwrapped
    env.reset(seed=0)
    before = task.energy(task.get_state())
    for _ in range(200):
        env.step(env.action_space.sample())
    assert task.energy(task.get_state()) == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize("name", TASKS)
def test_rows_do_not_depend_on_each_other(name: str) -> None:
    task = MAKE[name]()
    state, action = draw(task, 6)
    dt = np.array([0.01, 0.05, 0.2, 0.3, 0.05, 1e-5])
    state[4] = np.nan
    together, rewards = task.simulate(state.reshape(2, 3, -1), action.reshape(2, 3, -1), dt.reshape(2, 3))
    assert together.shape == (2, 3, 2 * task.n_q)
    assert rewards.shape == (2, 3)
    for i in range(6):
        alone, reward = task.simulate(state[i], action[i], dt[i])
        np.testing.assert_allclose(together.reshape(6, -1)[i], alone, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(rewards.reshape(6)[i], reward, rtol=1e-11, atol=1e-11)
    assert np.isnan(rewards[1, 1])
    assert np.isfinite(np.delete(rewards.reshape(6), 4)).all()


def test_one_action_and_one_interval_serve_many_states_and_no_state_gives_none() -> None:
    task = AcrobotEnv()
    state, action = draw(task, 4)
    after, reward = task.simulate(state[:, None], action[0], [0.05, 0.1])
    assert after.shape == (4, 2, 4)
    assert reward.shape == (4, 2)
    assert task.simulate(state[:0], action[0], 0.05)[0].shape == (0, 4)


# --- rewards -----------------------------------------------------------------------------------------------


def hanging_reward(theta: float, speed: float, torque: float, dt: float) -> float:
    """The reward of a weightless pendulum, whose motion is a parabola, piece by piece between its kinks."""
    path = np.polynomial.Polynomial([theta, speed, 1.5 * torque])
    turns = range(-3, 4)
    kinks = [t for k in turns for t in (path - (2 * k + 1) * math.pi).roots() if abs(t.imag) < 1e-12]
    times = sorted({0.0, dt, *(float(t.real) for t in kinks if 0 < t.real < dt)})
    reward = 0.0
    for start, end in itertools.pairwise(times):
        turn = round(float(path((start + end) / 2)) / (2 * math.pi))
        cost = (path - 2 * math.pi * turn) ** 2 + 0.1 * path.deriv() ** 2 + 0.001 * torque**2
        reward -= float(cost.integ()(end) - cost.integ()(start)) / 0.05
    return reward


@pytest.mark.parametrize(
    ("theta", "speed", "torque", "dt"),
    [
        (3.0, 4.0, 0.0, 0.05),  # through the lowest point
        (-3.0, -4.0, 1.0, 0.05),
        (math.pi, 0.0, 1.0, 0.05),  # from rest at the lowest point
        (math.pi, 0.0, -2.0, 0.05),
        (-math.pi, 0.0, 1e-3, 0.2),
        (math.pi, 0.0, 0.0, 0.05),
        (math.pi, 1.0, -2.0, 0.5),  # away from it, and back through it
        (math.pi, -1.0, 2.0, 0.5),
        (math.pi - 3e-4, 0.08, -2.0, 0.05),  # a hair past it, there and back within a substep
        (math.pi - 0.01, 0.3, -2.0, 0.2),  # not quite to it
        (3.1, 0.4, -1.9, 0.2),
        (math.pi - 0.015, 0.3, -1.0, 0.2),  # turns on it
        (0.0, 9.0, 0.5, 2.0),  # round and round
        (-2.0, -7.0, 2.0, 3.0),
    ],
)
def test_the_kink_of_the_pendulums_reward_is_integrated_exactly(
    theta: float, speed: float, torque: float, dt: float
) -> None:
    task = PendulumEnv()
    task.gravity = 0.0
    after, reward = task.simulate([theta, speed], [torque], dt)
    assert float(reward) == pytest.approx(hanging_reward(theta, speed, torque, dt), abs=1e-8)
    end = theta + speed * dt + 1.5 * torque * dt**2
    assert apart(task, after, np.array([end, speed + 3 * torque * dt])) < 1e-10


def test_random_passages_of_the_lowest_point_are_paid_exactly() -> None:
    task, rng = PendulumEnv(), np.random.default_rng(1)
    task.gravity = 0.0
    theta, speed = math.pi + rng.uniform(-0.05, 0.05, 200), rng.uniform(-1.0, 1.0, 200)
    torque = rng.uniform(-2.0, 2.0, 200)
    _, reward = task.simulate(np.stack([theta, speed], -1), torque[:, None], 0.05)
    want = [hanging_reward(*case, 0.05) for case in zip(theta, speed, torque, strict=True)]
    np.testing.assert_allclose(reward, want, atol=1e-9, rtol=0)


def test_a_crossing_is_found_to_a_billionth() -> None:
    h = np.array([1.0, 2.0, 3.0])
    root = np.array([0.7, 1e-3, 2.9])
    found = crossing(
        lambda t: np.expm1(3 * (t - root)) * np.array([1.0, -1.0, 1.0]), np.array([-1, 1, -1.0]), h
    )
    np.testing.assert_allclose(found, root, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "goal"),
    [
        ("cart-pole", [0.0, 0.0, 0.0, 0.0]),
        ("acrobot", [math.pi, 0.0, 0.0, 0.0]),
        ("double-pendulum", [math.pi, math.pi, 0.0, 0.0]),
    ],
)
def test_a_native_step_at_the_goal_pays_one_and_nothing_pays_more(name: str, goal: list[float]) -> None:
    task = MAKE[name]()
    assert float(task.simulate(goal, np.zeros(task.n_action), 0.05)[1]) == pytest.approx(1.0, abs=1e-12)
    assert float(task.simulate(goal, np.zeros(task.n_action), 0.1)[1]) == pytest.approx(2.0, abs=1e-12)
    assert task.simulate(*draw(task, 500), 0.05)[1].max() < 1.0


def test_rewards_of_the_swing_ups_are_those_of_the_literature() -> None:
    """By hand, as rewards of a native step: ``rate * 0.05``."""
    x, theta, dx, spin, a = 0.3, 0.5, 0.7, -1.1, 0.5
    near = -((x + math.sin(theta)) ** 2) - (math.cos(theta) - 1) ** 2 - 0.01 * (dx**2 + spin**2)
    rate = CartPoleSwingUpEnv().reward_rate(np.array([x, theta, dx, spin]), np.array([a]))
    assert rate * 0.05 == pytest.approx(math.exp(near) - 0.01 * (3 * a) ** 2)
    # Upper arm level, forearm up: the tip at (1, 1).
    state = np.array([math.pi / 2, math.pi / 2, 0.2, 0.3])
    rate = AcrobotEnv().reward_rate(state, np.array([0.4, -1.0]))
    assert rate * 0.05 == pytest.approx(math.exp(-2 - 0.01 * 0.13) - 1e-4 * (4 + 25))
    assert AcrobotEnv("elbow").reward_rate(state, np.array([-1.0])) * 0.05 == pytest.approx(
        math.exp(-2 - 0.01 * 0.13) - 1e-4 * 25
    )


def test_the_reward_rate_of_the_pendulum_does_not_count_turns() -> None:
    rates = PendulumEnv().reward_rate(np.array([[1.0, 2.0], [1.0 + 6 * np.pi, 2.0]]), np.zeros((2, 1)))
    np.testing.assert_allclose(rates * 0.05, -(1.0 + 0.4), rtol=1e-12)


# --- Gymnasium ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.filterwarnings("ignore:.*WARN.*", "ignore:We recommend you to use a symmetric")
def test_both_checkers_accept_the_task(env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    check_env(gymnasium.make(env_id).unwrapped)
    check_env_of_sb3(gymnasium.make(env_id))


@pytest.mark.parametrize("env_id", IDS)
def test_an_episode_lasts_ten_seconds_of_native_steps_that_say_their_dt(env_id: str) -> None:
    env = gymnasium.make(f"ode_rl:{env_id}")
    env.reset(seed=0)
    infos, over = [], False
    while not over:
        _, _, terminated, over, info = env.step(env.action_space.sample())
        assert not terminated
        infos.append(info)
    assert sum(info["dt"] for info in infos) == pytest.approx(10.0)
    assert len(infos) == 200


@pytest.mark.parametrize("env_id", IDS)
def test_a_vector_of_tasks_is_made_and_equal_seeds_start_equally(env_id: str) -> None:
    envs = gymnasium.make_vec(env_id, num_envs=2, vectorization_mode="sync")
    first, _ = envs.reset(seed=3)
    assert np.array_equal(envs.reset(seed=3)[0], first)
    assert not np.array_equal(first[0], first[1])
    infos = envs.step(envs.action_space.sample())[4]
    assert infos["dt"].tolist() == [0.05, 0.05]


@pytest.mark.parametrize("name", TASKS)
def test_a_step_is_the_simulation_of_its_interval(name: str) -> None:
    task = MAKE[name]()
    task.reset(seed=0)
    task.interval = 0.13
    for action in draw(task, 3)[1]:
        want, paid = task.simulate(task.get_state(), action, 0.13)
        obs, reward, *ends, info = task.step(action)
        assert info == {"dt": 0.13}
        assert np.array_equal(task.get_state(), want)
        assert np.array_equal(obs, task.observe(want))
        assert reward == float(paid)
        assert ends == [False, False]
    assert task.dt == 0.05


def test_the_interval_of_an_episode_ends_with_it() -> None:
    task = PendulumEnv()
    task.interval = 0.1
    task.reset(options={"dt": 0.02})
    assert task.step([0.0])[4]["dt"] == 0.02
    task.reset()
    assert task.step([0.0])[4]["dt"] == 0.1


def test_an_action_beyond_the_bounds_is_the_bound() -> None:
    task = PendulumEnv()
    a, b = (task.simulate([0.3, 0.1], [torque], 0.05) for torque in (2.0, 50.0))
    assert np.array_equal(a[0], b[0])
    assert a[1] == b[1]


@pytest.mark.parametrize("name", TASKS)
def test_observations_give_back_their_state_and_fit_the_structured_models(name: str) -> None:
    task = MAKE[name]()
    state = draw(task, 50)[0]
    obs = task.observe(state)
    assert obs.dtype == np.float32
    assert all(task.observation_space.contains(row) for row in obs)
    assert apart(task, task.state_of(obs), state) < 1e-6
    env_id = IDS[["pendulum", "cart-pole", "acrobot", "double-pendulum"].index(name.removesuffix("-elbow"))]
    z = STATE_SPECS[env_id].encode(torch.from_numpy(obs)).numpy()
    assert apart(task, z.astype(np.float64), state) < 1e-5


def test_an_episode_starts_at_the_given_state_and_later_starts_are_those_of_the_seed() -> None:
    task = AcrobotEnv()
    task.reset(seed=5)
    second = task.reset()[0]
    obs, _ = task.reset(seed=5, options={"state": [1.0, 2.0, 3.0, 4.0]})
    assert np.array_equal(obs, task.observe([1.0, 2.0, 3.0, 4.0]))
    assert np.array_equal(task.reset()[0], second)
    task.get_state()[:] = 9.0
    assert np.array_equal(task.observe(task.get_state()), second)


# --- pictures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", IDS)
def test_pictures_show_the_state_and_the_action(env_id: str) -> None:
    kwargs: dict[str, Any] = {"max_torque": 1.0} if "Double" in env_id else {}
    env = gymnasium.make(env_id, render_mode="rgb_array", **kwargs)
    task: Any = env.unwrapped
    env.reset(seed=0)
    task.interval = 1e-6
    frames = []
    for angle, push in [(0.5, 0.0), (0.5, 0.0), (0.7, 0.0), (0.5, 1.0)]:
        state = np.zeros(2 * task.n_q)
        state[task.n_position] = angle
        task.set_state(state)
        env.step(np.full(env.action_space.shape or (), push, np.float32))
        frames.append(np.asarray(env.render()).astype(int))
    height, width, colors = frames[0].shape
    assert (height % 2, width % 2, colors) == (0, 0, 3)
    changed = [float((np.abs(frame - frames[0]).max(-1) > 30).mean()) for frame in frames]
    assert changed[1] < 1e-4
    assert 1e-3 < changed[2] < 0.2
    assert 1e-4 < changed[3] < 0.1
    env.close()


def test_a_window_shows_every_step_and_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = gymnasium.make("ode_rl/CartPoleSwingUp-v0", render_mode="human")
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.close()
    env.close()


def test_the_picture_follows_a_cart_that_runs_away() -> None:
    task = CartPoleSwingUpEnv(render_mode="rgb_array")
    task.reset(options={"state": [50.0, 0.0, 0.0, 0.0]})
    frame = np.asarray(task.render()).astype(int)
    assert (frame.sum(-1) < 250).mean() > 0.003  # the dark cart


# --- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [[1.0], [1.0, 2.0, 3.0], [[1.0, 2.0]], [1.0, math.nan], "up", {"theta": 1}])
def test_a_state_that_is_none_is_refused(state: Any) -> None:
    task = PendulumEnv()
    with pytest.raises(UsageError, match="a state of 2"):
        task.reset(options={"state": state})
    with pytest.raises(UsageError, match="a state of 2"):
        task.set_state(state)


@pytest.mark.parametrize("dt", [0.0, -0.1, math.nan, math.inf, "fast"])
def test_an_interval_that_is_no_time_is_refused(dt: Any) -> None:
    task = PendulumEnv()
    with pytest.raises(UsageError, match="dt > 0"):
        task.reset(options={"dt": dt})
    with pytest.raises(UsageError, match="dt > 0"):
        task.interval = dt
    if not isinstance(dt, str):
        with pytest.raises(UsageError, match="dt > 0"):
            task.simulate(np.zeros((2, 2)), np.zeros((2, 1)), [0.05, dt])


@pytest.mark.parametrize("action", [[], [1.0, 2.0], [math.nan]])
def test_an_action_that_is_none_is_refused(action: list[float]) -> None:
    with pytest.raises(UsageError, match="an action of 1"):
        PendulumEnv().step(action)


@pytest.mark.parametrize(
    ("state", "action", "dt"),
    [
        ((3, 3), (3, 1), ()),
        ((3, 2), (3, 2), ()),
        ((3, 2), (2, 1), ()),
        ((3, 2), (3, 1), (2,)),
        ((), (1,), ()),
    ],
)
def test_shapes_that_do_not_fit_are_refused(state: Any, action: Any, dt: Any) -> None:
    with pytest.raises(UsageError, match="rows that broadcast"):
        PendulumEnv().simulate(np.zeros(state), np.zeros(action), np.full(dt, 0.05))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: AcrobotEnv("shoulder"), "both or elbow"),
        (lambda: PendulumEnv(render_mode="ansi"), "render_mode"),
        (lambda: DoublePendulumEnv(masses=(1.0,)), "masses"),
        (lambda: DoublePendulumEnv(lengths=(1.0, 0.0)), "lengths"),
        (lambda: DoublePendulumEnv(gravity=math.nan), "gravity"),
        (lambda: DoublePendulumEnv(max_torque=-1.0), "max_torque"),
    ],
)
def test_settings_that_make_no_task_are_refused_by_name(make: Callable[[], SmoothTask], names: str) -> None:
    with pytest.raises(UsageError, match=names):
        make()
