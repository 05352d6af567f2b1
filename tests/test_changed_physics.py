"""Changed physics: similarity laws of mechanics hold, and factors of one change nothing."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from ode_rl.envs import ChangedPhysics
from ode_rl.errors import UsageError

PENDULUM = "InvertedPendulum-v5"


def roll(env: gym.Env[Any, Any], gain: float = 1.0, n: int = 6, seed: int = 0) -> Any:
    env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    width = env.action_space.shape[0]  # type: ignore[index]
    return np.array([env.step(gain * rng.uniform(-0.3, 0.3, width))[0] for _ in range(n)])


@pytest.mark.parametrize("env_id", [PENDULUM, "Hopper-v5", "Reacher-v5"])
def test_factors_of_one_change_nothing_bit_for_bit(env_id: str) -> None:
    np.testing.assert_array_equal(roll(ChangedPhysics(gym.make(env_id))), roll(gym.make(env_id)))


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_twice_the_mass_damping_and_force_move_the_same(factor: float) -> None:
    """``k m q'' = k F - k d q' + k m g``: every acceleration is as before."""
    scaled = ChangedPhysics(gym.make(PENDULUM), mass=factor, damping=factor)
    # MuJoCo's tolerance and its soft joint limits do not scale, so nearly.
    np.testing.assert_allclose(roll(scaled, gain=factor), roll(gym.make(PENDULUM)), atol=1e-6)


def test_more_mass_alone_moves_less() -> None:
    heavy = ChangedPhysics(gym.make(PENDULUM), mass=3.0)
    assert np.abs(roll(heavy)[:, 0]).max() < 0.7 * np.abs(roll(gym.make(PENDULUM))[:, 0]).max()


def test_without_gravity_and_damping_a_push_is_kept() -> None:
    env = ChangedPhysics(gym.make(PENDULUM), gravity=0.0, damping=0.0)
    env.reset(seed=0)
    base: Any = env.unwrapped
    base.set_state(np.array([0.0, 0.05]), np.array([0.3, 0.0]))
    momentum = []
    for _ in range(5):
        env.step(np.zeros(1))
        momentum.append(float(base.data.qvel[0]))
    np.testing.assert_allclose(momentum, 0.3, rtol=1e-3)


def test_friction_holds_a_sliding_body() -> None:
    def slide(friction: float) -> float:
        env = ChangedPhysics(gym.make("HalfCheetah-v5"), friction=friction)
        env.reset(seed=0)
        base: Any = env.unwrapped
        velocity = np.zeros(9)
        velocity[0] = 3.0
        base.set_state(base.init_qpos, velocity)
        for _ in range(20):
            env.step(np.zeros(6))
        return float(base.data.qpos[0])

    assert slide(0.0) > 1.3 * slide(3.0)


def test_the_environment_can_be_made_again_from_its_spec() -> None:
    env = ChangedPhysics(gym.make(PENDULUM), mass=2.0)
    assert env.spec is not None
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    np.testing.assert_array_equal(roll(again), roll(env))


@pytest.mark.parametrize(
    ("env_id", "change", "message"),
    [
        ("Pendulum-v1", {"mass": 2.0}, "MuJoCo model"),
        ("ode_rl/Pendulum-v0", {"gravity": 2.0}, "MuJoCo model"),
        ("Reacher-v5", {"friction": 2.0}, "friction to change"),
        (PENDULUM, {"friction": 2.0}, "friction to change"),
        ("Swimmer-v5", {"damping": 2.0}, "damping to change"),
        (PENDULUM, {"mass": 0.0}, "Write mass=1.5"),
        (PENDULUM, {"mass": -1.0}, "Write mass=1.5"),
        (PENDULUM, {"gravity": float("nan")}, "Write gravity=1.5"),
        (PENDULUM, {"damping": "much"}, "Write damping=1.5"),
    ],
)
def test_what_cannot_be_changed_is_refused(env_id: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ChangedPhysics(gym.make(env_id), **change)
