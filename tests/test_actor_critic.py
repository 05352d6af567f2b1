"""A policy that learns from the gradient of a world whose outcomes are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ode_rl.agents.actor_critic import ActorCritic
from ode_rl.agents.model_gradient import Discount
from ode_rl.agents.policy_config import PolicyConfig
from ode_rl.buffer import ReplayBuffer
from ode_rl.errors import Stopped, UsageError
from ode_rl.settings import build
from ode_rl.types import Transition
from ode_rl.world_model import WorldModel
from tests.known_worlds import known_world

NATIVE, RHO, TARGET = 0.1, 1.0, 0.5
SMALL: dict[str, Any] = {
    "hidden": [16, 16],
    "horizon": 0.8,
    "growth": 1.0,
    "updates": 50,
    "starts": 32,
    "learning_rate": 5e-3,
    "value_hidden": [16],
    "value_learning_rate": 5e-3,
    "value_updates": 4,
    "value_batch": 64,
    "target_every": 10,
    "ramp": 2,
}


def drive() -> WorldModel:
    """A point is driven with up to 1 m/s and paid for how near it is to its target."""
    model = known_world(lambda z, a: a, lambda z, a: -((z - TARGET) ** 2), native_dt=NATIVE)
    return model.float()


def policy(seed: int = 0, **settings: Any) -> ActorCritic:
    config = build(PolicyConfig, {**SMALL, **settings})
    return ActorCritic(1, 1, NATIVE, Discount(RHO, NATIVE), config, torch.Generator().manual_seed(seed))


def walks(
    n: int = 30, length: int = 10, seed: int = 0, scale: float = 1.0, made: ActorCritic | None = None
) -> ReplayBuffer:
    """Walks of the point, driven at random or by a policy with noise, with intervals of many lengths."""
    rng, buffer = np.random.default_rng(seed), ReplayBuffer(1000, 1, 1)
    for _ in range(n):
        x = rng.uniform(-1, 1)
        memory = None if made is None else torch.zeros(1, made.actor.n_memory)
        for k in range(length):
            action, dt = rng.uniform(-1, 1), float(rng.uniform(0.05, 0.15))
            if made is not None and memory is not None:
                with torch.no_grad():
                    mean, memory = made.actor(torch.tensor([[x]]).float(), torch.tensor([dt]), memory)
                action = float(np.clip(float(mean) + 0.3 * action, -1, 1))
            after, last = x + action * dt, k == length - 1
            rows = (np.array([value], np.float32) for value in (x, action, after))
            obs, held, then = rows
            reward = -scale * (x - TARGET) ** 2 * dt
            buffer.add(Transition(obs, held, reward, then, dt, False, last))
            x = after
    return buffer


@torch.no_grad()
def driven(made: ActorCritic, starts: list[float], steps: int = 20) -> list[float]:
    """Where the policy takes the point, with intervals of several lengths."""
    x, memory = torch.tensor(starts)[:, None], torch.zeros(len(starts), made.actor.n_memory)
    for k in range(steps):
        dt = torch.full((len(starts),), (0.07, 0.1, 0.14)[k % 3])
        action, memory = made.actor(x, dt, memory)
        x = x + action * dt[:, None]
    return [float(end) for end in x]


@pytest.mark.parametrize("kind", ["mlp", "ode"])
@pytest.mark.parametrize("source", ["imagined", "decoupled"])
def test_a_point_is_driven_to_where_it_pays(source: str, kind: str) -> None:
    young: dict[str, Any] = {"updates": 8, "learning_rate": 3e-3} if source == "decoupled" else {}
    made, rng = policy(source=source, actor=kind, n_memory=4, **young), np.random.default_rng(0)
    model, buffer, rounds = drive(), walks(), 11 if source == "decoupled" else 2
    for k in range(rounds):
        report = made.improve(model, buffer, rng)
        if source == "decoupled":  # it takes recorded actions for the policy's
            buffer = walks(n=20, seed=k + 1, made=made)
    assert driven(made, [-0.8, 0.0, 0.5, 1.0]) == pytest.approx([TARGET] * 4, abs=0.15)
    assert report.skipped == 0
    assert int(made.rounds) == rounds


def test_the_value_of_a_steady_reward_is_what_it_adds_up_to() -> None:
    model = known_world(lambda z, a: 0 * a, lambda z, a: 2.0 + 0 * z, native_dt=NATIVE).float()
    made, rng, buffer = policy(horizon=1.6), np.random.default_rng(0), walks()
    # The data show that rate: more than was ever recorded is not promised.
    buffer.reward[:] = 2.0 * buffer.dt
    for _ in range(3):
        made.improve(model, buffer, rng)
    per_step = 2.0 * NATIVE
    expected = per_step / -math.expm1(-RHO * NATIVE)
    found = made.value.mean(torch.tensor([[-0.5], [0.0], [0.5]]))
    assert found.tolist() == pytest.approx([expected] * 3, rel=0.02)


def test_the_value_of_an_endless_stream_starts_at_the_rate_of_the_data() -> None:
    made = policy(updates=1, value_updates=0)
    buffer = walks(scale=7.0)
    made.improve(drive(), buffer, np.random.default_rng(0))
    # Before anything was learned: targets between what the model pays at once and the rate of the data.
    data = buffer.arrays()
    rate = float(data.reward.sum() / data.dt.sum())
    assert rate / RHO < float(made.value.out[0]) < 0


def broken(after: int) -> WorldModel:
    """A world in which nothing is a number once its field was asked `after` times."""
    asked = [0]

    def rate(z: Tensor, a: Tensor) -> Tensor:
        asked[0] += 1
        return a * (math.nan if asked[0] > after else 1.0)

    return known_world(rate, lambda z, a: -(z**2), native_dt=NATIVE, method="euler").float()


def test_a_gradient_that_is_not_finite_is_skipped_and_counted() -> None:
    made = policy(updates=6, most_skipped=10)
    per_course = 8  # intervals of a roll-out, one evaluation each
    report = made.improve(broken(per_course * (1 + 4)), walks(), np.random.default_rng(0))
    assert report.skipped == 2
    assert all(bool(p.isfinite().all()) for p in made.parameters())


def test_many_in_a_row_are_an_error_that_says_what_to_do() -> None:
    made = policy(updates=50, most_skipped=10)
    with pytest.raises(UsageError, match=r"10 in a row.*horizon") as caught:
        made.improve(broken(8 * 3), walks(), np.random.default_rng(0))
    assert "finite gradients" in str(caught.value)
    assert all(bool(p.isfinite().all()) for p in made.parameters())


def test_somebody_can_stop_a_round() -> None:
    made, asked = policy(), [0]

    def stop() -> bool:
        asked[0] += 1
        return asked[0] > 5

    with pytest.raises(Stopped):
        made.improve(drive(), walks(), np.random.default_rng(0), stop)
    assert asked[0] == 6


def test_the_weight_of_the_value_is_ramped_in(monkeypatch: pytest.MonkeyPatch) -> None:
    weights: list[float] = []
    real = ActorCritic._objective

    def spied(self: ActorCritic, course: Any, weight: float) -> Tensor:
        weights.append(weight)
        return real(self, course, weight)

    monkeypatch.setattr(ActorCritic, "_objective", spied)
    made, rng = policy(updates=1, ramp=4), np.random.default_rng(0)
    for _ in range(6):
        made.improve(drive(), walks(), rng)
    assert weights == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_intervals_of_a_roll_out_are_recorded_ones_by_a_factor_of_each_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Tensor] = []

    def spied(model: Any, actor: Any, z: Tensor, memory: Tensor, dt: Tensor, discount: Any) -> Any:
        seen.append(dt)
        raise Stopped

    monkeypatch.setattr("ode_rl.agents.courses.imagined", spied)
    buffer = ReplayBuffer(10, 1, 1)
    for dt in (0.1, 0.2):
        one = np.zeros(1, np.float32)
        buffer.add(Transition(one, one, 0.0, one, dt, False, True))
    for spread in (1.0, 2.0):
        with pytest.raises(Stopped):
            policy(dt_spread=spread).improve(drive(), buffer, np.random.default_rng(0))
    same, spread_out = seen
    assert same.shape == (8, 2, 16)
    assert {round(x, 6) for x in same.flatten().tolist()} == {0.1, 0.2}
    factor = spread_out.amin(0) / 0.1  # of 8 draws some is the shorter one, nearly surely
    ratio = spread_out / (0.1 * factor)
    assert bool(((ratio - 1).abs() < 1e-5).logical_or((ratio - 2).abs() < 1e-5).all())
    assert 0.5 <= float(factor.min()) < 0.8
    assert 1.3 < float(factor.max()) <= 4.0


def test_intervals_get_longer_along_the_horizon(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def spied(model: Any, actor: Any, z: Tensor, memory: Tensor, dt: Tensor, discount: Any) -> Any:
        seen.append(dt)
        raise Stopped

    monkeypatch.setattr("ode_rl.agents.courses.imagined", spied)
    buffer = ReplayBuffer(10, 1, 1)
    one = np.zeros(1, np.float32)
    buffer.add(Transition(one, one, 0.0, one, 0.1, False, True))
    with pytest.raises(Stopped):
        policy(horizon=2.0, growth=1.2, dt_spread=1.0).improve(drive(), buffer, np.random.default_rng(0))
    course = seen[0][:, 0, 0]
    assert float(course[0]) == pytest.approx(0.1)
    assert float(course.sum()) == pytest.approx(2.0)
    assert bool((course.diff() > -1e-6).all())
    assert len(course) < 12


def test_decoupled_courses_are_young(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def spied(model: Any, actor: Any, memory: Tensor, segment: Any, discount: Any) -> Any:
        seen.extend(segment.obs[..., 0, 0].flatten().tolist())
        raise Stopped

    monkeypatch.setattr("ode_rl.agents.courses.decoupled", spied)
    buffer = ReplayBuffer(100, 1, 1)
    for k in range(50):
        x = np.array([k], np.float32)
        buffer.add(Transition(x, 0 * x, 0.0, x + 1, 0.1, False, False))
    with pytest.raises(Stopped):
        policy(source="decoupled", recent=10).improve(drive(), buffer, np.random.default_rng(0))
    assert set(seen) <= set(range(40, 50))
    assert len(set(seen)) > 5


def test_a_hidden_state_is_filled_by_what_was_recorded_before_a_roll_out_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def spied(model: Any, actor: Any, z: Tensor, memory: Tensor, dt: Tensor, discount: Any) -> Any:
        seen.append((z, memory))
        raise Stopped

    monkeypatch.setattr("ode_rl.agents.courses.imagined", spied)
    buffer = ReplayBuffer(100, 1, 1)
    for k in range(4):  # one course of four intervals
        x = np.array([k], np.float32)
        buffer.add(Transition(x, 0 * x, 0.0, x + 1, 0.1, False, k == 3))
    made = policy(actor="ode", n_memory=4, burn_in=0.2, starts=128)
    with pytest.raises(Stopped):
        made.improve(drive(), buffer, np.random.default_rng(0))
    z, memory = seen[0]
    assert set(z.flatten().tolist()) == {2.0, 3.0, 4.0}  # two intervals on, or where the record stops
    dt, empty = torch.tensor([0.1]), torch.zeros(1, 4)
    with torch.no_grad():
        _, first = made.actor(torch.tensor([[1.0]]), dt, empty)
        _, second = made.actor(torch.tensor([[2.0]]), dt, first)
        _, late = made.actor(torch.tensor([[2.0]]), dt, empty)
    # Filled from both intervals, from the last alone, or from none: episodes begin without a past.
    found = memory[z[..., 0] == 3.0].detach()
    distances = torch.stack([(found - expected).abs().amax(-1) for expected in (second, late, empty)])
    assert float(distances.amin(0).max()) < 1e-6
    assert (distances < 1e-6).any(1).tolist() == [True, True, True]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"horizon": 0.02}, "at least one control interval, 0.1 s"),
        ({"source": "dreamed"}, "imagined or decoupled"),
        ({"actor": "lstm"}, "mlp or ode"),
        ({"updates": 0}, "updates >= 1"),
        ({"dt_spread": 0.5}, "dt_spread >= 1"),
        ({"growth": 0.9}, "growth >= 1"),
        ({"horizon": -1.0}, "horizon"),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        policy(**settings)
