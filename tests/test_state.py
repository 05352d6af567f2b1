"""State specifications, held against the real tasks."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from ode_rl.errors import UsageError
from ode_rl.normalize import Scale
from ode_rl.state import STATE_SPECS, Layout, StateSpec, state_spec

F64 = torch.float64
# How far the velocity bends within an interval, as a share of it, where small actions make no contact.
SMOOTH = {
    "Pendulum-v1": 1e-6,
    "InvertedPendulum-v5": 0.01,
    "InvertedDoublePendulum-v5": 0.02,
    "Reacher-v5": 0.02,
    "Swimmer-v5": 0.05,
    "Pusher-v5": 0.1,
    "ode_rl/Pendulum-v0": 0.01,
    "ode_rl/CartPoleSwingUp-v0": 0.01,
    "ode_rl/Acrobot-v0": 0.01,
    "ode_rl/DoublePendulum-v0": 0.01,
}
SIMPLE = StateSpec(position=(3,), angle=(0,), angle_pair=((2, 5),), velocity=(1, 4, 7), rest=(6,))


def walk(env_id: str, steps: int, size: float) -> tuple[Tensor, Tensor, float]:
    """Observations before and after each step of a real task under random actions of this size, and dt."""
    env = gymnasium.make(env_id)
    dt = float(env.unwrapped.dt)  # type: ignore[attr-defined]
    env.action_space.seed(0)
    obs, _ = env.reset(seed=0)
    before, after = [], []
    for _ in range(steps):
        before.append(np.asarray(obs, np.float64))
        obs, _, terminated, _, _ = env.step(size * env.action_space.sample())
        after.append(np.asarray(obs, np.float64))
        if terminated:
            obs, _ = env.reset()
    env.close()
    return torch.from_numpy(np.stack(before)), torch.from_numpy(np.stack(after)), dt


@pytest.mark.parametrize("env_id", STATE_SPECS)
def test_real_observations_survive_the_round_trip(env_id: str) -> None:
    obs, _, _ = walk(env_id, 50, 1.0)
    spec = state_spec(env_id, obs.shape[-1])
    z = spec.encode(obs)
    assert z.shape == (50, spec.layout.n_state)
    assert torch.allclose(spec.decode(z), obs, atol=1e-6)


@pytest.mark.parametrize(("env_id", "tolerance"), SMOOTH.items())
def test_positions_of_real_tasks_change_by_their_velocities(env_id: str, tolerance: float) -> None:
    spec = STATE_SPECS[env_id]
    n_q = spec.layout.n_q
    before, after, dt = walk(env_id, 12, 0.1)
    a, b = spec.encode(before), spec.encode(after)
    moved = spec.layout.difference(b, a)[:, :n_q] / dt
    # Pendulum moves along its new velocity, MuJoCo along what lies between.
    velocity = (b if env_id == "Pendulum-v1" else (a + b) / 2)[:, n_q : 2 * n_q]
    assert float(velocity.norm()) > 0.1
    assert float((moved - velocity).norm() / velocity.norm()) < tolerance


@pytest.mark.parametrize("env_id", ["Hopper-v5", "HalfCheetah-v5", "Walker2d-v5"])
def test_positions_of_walking_tasks_go_with_their_own_velocity_more_than_with_any_other(env_id: str) -> None:
    spec = STATE_SPECS[env_id]
    n_q, n_v = spec.layout.n_q, spec.layout.n_v
    before, after, _ = walk(env_id, 300, 1.0)
    a, b = spec.encode(before), spec.encode(after)
    both = torch.cat([(b - a)[:, :n_q], (a + b)[:, n_q : n_q + n_v]], -1)
    cross = torch.corrcoef(both.T)[:n_q, n_q:]
    assert cross.argmax(-1).tolist() == list(range(n_q))
    assert float(cross.diagonal().min()) > 0.8


@pytest.mark.parametrize("env_id", [i for i, spec in STATE_SPECS.items() if spec.constant])
def test_what_is_called_constant_is_constant_within_an_episode_and_the_rest_is_not(env_id: str) -> None:
    spec = STATE_SPECS[env_id]
    before, after, _ = walk(env_id, 40, 1.0)
    change = (after - before).abs().amax(0)
    assert float(change[list(spec.constant)].max()) < 1e-9
    untouched = [17, 18, 19] if env_id == "Pusher-v5" else []  # the object, until the arm meets it
    others = [i for i in range(spec.n_obs) if i not in (*spec.constant, *untouched)]
    assert float(change[others].min()) > 1e-9


def test_columns_go_where_the_specification_says() -> None:
    obs = torch.arange(8, dtype=F64)
    z = SIMPLE.encode(obs)
    assert z.tolist() == [3.0, 0.0, pytest.approx(math.atan2(5.0, 2.0)), 1.0, 4.0, 7.0, 6.0]
    assert SIMPLE.layout == Layout(n_position=1, n_angle=2, n_rest=1)
    on_circle = SIMPLE.decode(z)
    assert on_circle[[0, 1, 3, 4, 6, 7]].tolist() == [0.0, 1.0, 3.0, 4.0, 6.0, 7.0]
    assert float(on_circle[[2, 5]].norm()) == pytest.approx(1.0)


def test_a_turn_more_of_an_angle_is_the_same_observation_and_the_same_features() -> None:
    z = torch.randn(5, 7, dtype=F64, generator=torch.Generator().manual_seed(0))
    turned = z.clone()
    turned[:, 2] += 2 * math.pi
    assert torch.allclose(SIMPLE.decode(turned), SIMPLE.decode(z))
    assert torch.allclose(SIMPLE.layout.features(turned), SIMPLE.layout.features(z))
    assert torch.allclose(SIMPLE.encode(SIMPLE.decode(turned)), SIMPLE.encode(SIMPLE.decode(z)))


def test_angles_wrap_and_their_differences_go_the_short_way() -> None:
    layout = Layout(n_position=1, n_angle=1)
    z = torch.tensor([[7.0, 3.0, 1.0, 1.0], [7.0, math.pi, 1.0, 1.0], [7.0, -math.pi, 1.0, 1.0]], dtype=F64)
    turned = z + torch.tensor([0.0, -4 * math.pi, 0.0, 0.0], dtype=F64)
    assert layout.wrap(turned)[:, 1].tolist() == pytest.approx([3.0, math.pi, math.pi])
    after = torch.tensor([[6.0, -3.0, 1.0, 2.0]], dtype=F64)
    assert layout.difference(after, z[:1])[0].tolist() == pytest.approx([-1.0, 2 * math.pi - 6.0, 0.0, 1.0])


def test_the_rate_of_an_observation_is_the_push_forward_of_that_of_its_state() -> None:
    g = torch.Generator().manual_seed(0)
    z, dz = torch.randn(4, 7, dtype=F64, generator=g), torch.randn(4, 7, dtype=F64, generator=g)
    want = torch.autograd.functional.jvp(SIMPLE.decode, z, dz)[1]
    assert torch.allclose(SIMPLE.decode_rate(z, dz), want)


def test_rates_and_gradients_of_places_are_those_of_autograd() -> None:
    layout, g = SIMPLE.layout, torch.Generator().manual_seed(0)
    z, dq = torch.randn(4, 7, dtype=F64, generator=g), torch.randn(4, 3, dtype=F64, generator=g)
    by_place = torch.randn(4, layout.n_place, dtype=F64, generator=g)
    place = layout.place(z)
    want = torch.autograd.functional.jvp(layout.place, z, torch.nn.functional.pad(dq, (0, 4)))[1]
    assert torch.allclose(layout.place_rate(place, dq), want)
    by_z = torch.autograd.functional.vjp(layout.place, z, by_place)[1]
    assert torch.allclose(layout.place_gradient(place, by_place), by_z[:, :3])


@pytest.mark.parametrize("spread", [0.01, 0.7, 5.0])
def test_the_scale_of_features_is_that_of_the_data(spread: float) -> None:
    g = torch.Generator().manual_seed(0)
    spec = StateSpec(position=(0,), angle_pair=((1, 2),), velocity=(3, 4))
    z = torch.randn(200_000, 4, dtype=F64, generator=g) * torch.tensor([3.0, spread, 1.0, 2.0], dtype=F64)
    z = z + torch.tensor([1.0, 0.5, 0.0, -1.0], dtype=F64)
    found = spec.layout.feature_scale(spec.encode_scale(Scale.of(spec.decode(z))))
    want = Scale.of(spec.layout.features(z))
    assert torch.allclose(found.mean, want.mean, atol=0.02)
    assert torch.allclose(found.spread[[0, 3, 4]], want.spread[[0, 3, 4]], rtol=0.01)
    shared = want.spread[1:3].square().sum().sqrt()
    assert found.spread[1:3].tolist() == pytest.approx([float(shared)] * 2, rel=0.01)


def test_encoding_while_planning_does_not_spoil_the_gradient_of_a_later_fit() -> None:
    spec = StateSpec(angle_pair=((2, 1),), velocity=(0,))
    with torch.inference_mode():
        spec.decode(spec.encode(torch.randn(3, 3)))
    obs = torch.randn(3, 3, requires_grad=True)
    spec.decode(spec.encode(obs)).sum().backward()
    assert obs.grad is not None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"position": (0,), "velocity": (2,)}, "every column"),
        ({"position": (0,), "velocity": (0,)}, "every column"),
        ({"position": (0, 1), "velocity": (2,)}, "2 velocities"),
        ({"position": (0,), "velocity": (1,), "constant": (0,)}, "constant"),
    ],
)
def test_a_specification_that_does_not_add_up_is_refused(
    columns: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        StateSpec(**columns)  # type: ignore[arg-type]


def test_unknown_tasks_and_changed_observations_are_refused() -> None:
    assert state_spec("some_module:Pendulum-v1", 3) is STATE_SPECS["Pendulum-v1"]
    with pytest.raises(UsageError, match="Give StateSpec"):
        state_spec("MyRobot-v0", 3)
    with pytest.raises(UsageError, match="width 3"):
        state_spec("Pendulum-v1", 4)
    with pytest.raises(UsageError, match="width 3"):
        STATE_SPECS["Pendulum-v1"].encode(torch.zeros(2, 4))
