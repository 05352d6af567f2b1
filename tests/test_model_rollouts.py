"""Short roll-outs of a policy in a learned world, against worlds whose courses are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from ode_rl.agents.model_rollouts import Gauge, Projection, RolloutConfig, Rows, branched_rollouts
from ode_rl.buffer import ReplayBuffer
from ode_rl.errors import UsageError
from ode_rl.types import Transition
from ode_rl.world_model import WorldModel
from tests.known_worlds import known_world

PUSH = 0.5
UNIT = Gauge(torch.ones(1, dtype=torch.float64), torch.ones((), dtype=torch.float64))


def drift(z: Tensor, a: Tensor) -> Tensor:
    """``dz/dt = a``."""
    return a


def height(z: Tensor, a: Tensor) -> Tensor:
    """A reward rate: z itself."""
    return z


def push(z: Tensor) -> Tensor:
    return torch.full_like(z, PUSH)


def same(obs: Tensor, before: Tensor) -> Tensor:
    return obs


def recorded(starts: Any, seconds: Any) -> ReplayBuffer:
    """Single transitions that were recorded at these states, of these durations."""
    buffer = ReplayBuffer(1000, 1, 1)
    for z, dt in zip(np.ravel(starts), np.ravel(seconds), strict=True):
        buffer.add(Transition(np.array([z]), np.zeros(1), 0.0, np.array([z + 0.01]), float(dt), False, True))
    return buffer


def rolled(
    model: WorldModel,
    buffer: ReplayBuffer,
    n: int = 20,
    horizon: float = 0.1,
    gauge: Gauge = UNIT,
    act: Callable[[Tensor], Tensor] = push,
    seed: int = 0,
    **settings: Any,
) -> Rows:
    config = RolloutConfig(**{"max_disagreement": None, **settings})
    rng = np.random.default_rng(seed)
    return branched_rollouts(model, act, buffer, n, horizon, gauge, same, config, rng)


def per_rollout(rows: Rows, n: int, n_members: int = 2) -> float:
    return len(rows.reward) / (n * n_members)


# --- the course of a roll-out ------------------------------------------------------------------------------


def test_every_row_is_what_the_known_world_makes_of_its_state_action_and_seconds() -> None:
    starts = np.linspace(-1, 1, 30)
    rows = rolled(known_world(drift, height), recorded(starts, 0.05 + 0.1 * np.abs(starts)), horizon=0.3)
    assert len(rows.reward) > 60
    z, dt = rows.obs[:, 0], rows.seconds
    np.testing.assert_array_equal(rows.action, np.float32(PUSH))
    np.testing.assert_allclose(rows.next_obs[:, 0], z + PUSH * dt, atol=1e-6)
    np.testing.assert_allclose(rows.reward, z * dt + PUSH * dt**2 / 2, atol=1e-6)
    np.testing.assert_array_equal(rows.ended, 0)
    assert all(column.dtype == np.float32 for column in rows)


def test_a_roll_out_begins_at_a_recorded_state_and_each_interval_where_the_last_one_ended() -> None:
    rows = rolled(known_world(drift), recorded([0.0, 10.0, 20.0], [0.1] * 3), n=50, horizon=0.3)
    at = np.round((rows.obs[:, 0] % 10) / (0.1 * PUSH)).astype(int)
    assert np.bincount(at).tolist() == [100, 100, 100]
    assert set(np.round(rows.obs[at == 0, 0]).astype(int)) == {0, 10, 20}


@pytest.mark.parametrize(("seconds", "intervals"), [(0.1, 4), (0.05, 8), (0.4, 1), (1.0, 1), (0.15, 3)])
def test_the_length_of_a_roll_out_is_in_seconds_whatever_its_intervals(
    seconds: float, intervals: int
) -> None:
    rows = rolled(known_world(drift), recorded(np.zeros(5), [seconds] * 5), n=3, horizon=0.4)
    assert per_rollout(rows, 3) == intervals


def test_imagined_intervals_last_as_long_as_recorded_ones_the_first_as_there() -> None:
    lengths = np.array([0.02, 0.05, 0.11])
    # The state of a record says how long it lasted.
    rows = rolled(
        known_world(drift), recorded(100 * lengths, lengths), n=200, horizon=0.2, act=torch.zeros_like
    )
    assert set(rows.seconds) == set(lengths.astype(np.float32))
    first = rows.seconds[:400]
    np.testing.assert_allclose(first, rows.obs[:400, 0] / 100, rtol=1e-6)
    later = rows.seconds[400:]
    assert len(later) > 400
    assert abs(np.corrcoef(later, rows.obs[400:, 0])[0, 1]) < 0.3


def test_a_policy_is_asked_at_every_state() -> None:
    rows = rolled(known_world(drift), recorded([1.0], [0.1]), n=1, horizon=0.2, act=lambda z: -z)
    np.testing.assert_allclose(rows.action[:, 0], -rows.obs[:, 0], atol=1e-6)
    np.testing.assert_allclose(np.unique(rows.obs), [0.9, 1.0], atol=1e-6)


def test_the_same_generator_gives_the_same_rows() -> None:
    model, buffer = known_world(drift, hazard=lambda z, a: 5 + 0 * z), recorded([0.0, 1.0], [0.1, 0.2])
    one, two, other = (rolled(model, buffer, horizon=0.5, seed=seed) for seed in (3, 3, 4))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(one.obs) != len(other.obs) or not np.array_equal(one.obs, other.obs)


# --- where it ends -----------------------------------------------------------------------------------------


def test_an_interval_carries_the_chance_that_it_ended_the_task() -> None:
    rows = rolled(known_world(drift, hazard=lambda z, a: 2 + 0 * z), recorded([0.0], [0.1]), n=10)
    np.testing.assert_allclose(rows.ended, -np.expm1(-2 * 0.1), rtol=1e-5)


def test_roll_outs_go_on_with_the_chance_to_survive() -> None:
    model = known_world(drift, hazard=lambda z, a: 3 + 0 * z)
    rows = rolled(model, recorded([0.0], [0.1]), n=5000, horizon=0.2)
    assert per_rollout(rows, 5000) == pytest.approx(1 + np.exp(-0.3), abs=0.02)


def test_a_task_that_ends_at_a_boundary_ends_there() -> None:
    model = known_world(drift, end_logit=lambda z, a: 200 * (z - 1))
    rows = rolled(model, recorded([0.0, 0.97], [0.1, 0.1]), n=50, horizon=0.5)
    over = rows.next_obs[:, 0] > 1
    np.testing.assert_allclose(rows.ended, over, atol=0.05)
    assert rows.obs.max() < 1


def differ_above_one(z: Tensor, a: Tensor) -> Tensor:
    member = torch.arange(len(z), dtype=z.dtype)[:, None, None]
    return torch.where(z > 1, 3.0 * member, 1.0)


def test_a_roll_out_ends_before_an_interval_on_which_the_members_disagree() -> None:
    model, buffer = known_world(differ_above_one, method="euler"), recorded([0.75, 5.0], [0.1, 0.1])
    free = rolled(model, buffer, n=40, horizon=0.5)
    bound = rolled(model, buffer, n=40, horizon=0.5, max_disagreement=2.9)
    loose = rolled(model, buffer, n=40, horizon=0.5, max_disagreement=3.1)
    assert per_rollout(free, 40) == per_rollout(loose, 40) == 5
    assert bound.obs.max() < 1  # nothing begins above
    assert len(np.unique(np.round(bound.obs, 3))) == 3  # 0.75, 0.85, 0.95; that to 1.05 is agreed on
    assert bound.next_obs.max() == pytest.approx(1.05, abs=1e-5)


def test_disagreement_costs_its_share_of_the_typical_reward_rate() -> None:
    model, buffer = known_world(differ_above_one, height, method="euler"), recorded([0.0, 5.0], [0.1, 0.1])
    plain, dear = (rolled(model, buffer, n=40, penalty=penalty) for penalty in (0.0, 0.7))
    # Two members at rates 0 and 3; the typical reward rate of this world is 1.
    cost = np.where(plain.obs[:, 0] > 1, 0.7 * 3 * 0.1, 0.0)
    np.testing.assert_allclose(plain.reward - dear.reward, cost, atol=1e-6)


def test_one_member_agrees_with_itself() -> None:
    rows = rolled(known_world(drift, n_members=1), recorded([0.0], [0.1]), n=7, max_disagreement=1e-9)
    assert len(rows.reward) == 7


def test_an_interval_without_numbers_is_left_out() -> None:
    def explodes(z: Tensor, a: Tensor) -> Tensor:
        return torch.where(z > 1, torch.nan, 1.0)

    rows = rolled(known_world(explodes, method="euler"), recorded([0.95, 3.0], [0.1, 0.1]), n=40, horizon=0.4)
    assert np.isfinite(np.concatenate([rows.obs, rows.next_obs])).all()
    assert (rows.obs < 1).all()
    assert 0 < len(rows.reward) < 80


def test_a_world_that_says_nothing_leaves_no_rows() -> None:
    rows = rolled(known_world(lambda z, a: z * torch.nan), recorded([0.0], [0.1]))
    assert [column.shape for column in rows] == [(0, 1), (0, 1), (0,), (0, 1), (0,), (0,)]


# --- the measure of disagreement ---------------------------------------------------------------------------


def test_nearly_all_recorded_transitions_disagree_by_less_than_one() -> None:
    def noisy(z: Tensor, a: Tensor) -> Tensor:
        member = torch.arange(len(z), dtype=z.dtype)[:, None, None]
        return z * member

    rng = np.random.default_rng(0)
    buffer, model = recorded(rng.normal(size=400), rng.uniform(0.05, 0.1, 400)), known_world(noisy)
    gauge, data = Gauge.measured(model, buffer), buffer.arrays()
    z, dt = torch.as_tensor(data.obs).double().expand(2, -1, -1), torch.as_tensor(data.dt).expand(2, -1)
    a = torch.zeros_like(z)
    found = gauge.disagreement(model, z, a, dt, model.step(z, a, dt).z)
    assert float((found <= 1).double().mean()) == pytest.approx(0.99, abs=0.01)


def test_members_that_agree_everywhere_leave_a_measure_that_is_a_number() -> None:
    gauge = Gauge.measured(known_world(drift), recorded([0.0, 1.0], [0.1, 0.2]))
    assert float(gauge.usual) == 1


# --- projection --------------------------------------------------------------------------------------------


def project(env_id: str, low: Any, high: Any, obs: Any, before: Any) -> npt.NDArray[np.float64]:
    like = torch.zeros((), dtype=torch.float64)
    projection = Projection(env_id, spaces.Box(np.float32(low), np.float32(high), dtype=np.float32), like)
    found = projection(torch.tensor(np.array([obs])).double(), torch.tensor(np.array([before])).double())
    array: npt.NDArray[np.float64] = found[0].numpy()
    return array


def test_angles_lie_on_the_unit_circle_and_all_within_the_bounds() -> None:
    found = project("Pendulum-v1", [-1, -1, -8], [1, 1, 8], [0.3, -0.4, 9.0], [1.0, 0.0, 0.0])
    np.testing.assert_allclose(found, [0.6, -0.8, 8.0])
    found = project("mine:Pendulum-v1", [-1, -1, -8], [1, 1, 8], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0])
    np.testing.assert_allclose(found, [1.0, 0.0, 0.0])


def test_what_never_changes_stays() -> None:
    obs, before = np.linspace(1, 2, 10), np.linspace(-1, 1, 10)
    found = project("Reacher-v5", [-np.inf] * 10, [np.inf] * 10, obs, before)
    np.testing.assert_allclose(found[4:6], before[4:6])
    np.testing.assert_allclose(found[6:], obs[6:])


def test_of_an_unknown_task_only_the_bounds_are_known() -> None:
    np.testing.assert_allclose(project("own/Task-v0", [-1, -1], [1, 1], [3.0, 0.5], [0.0, 0.0]), [1.0, 0.5])


# --- the schedule ------------------------------------------------------------------------------------------


def test_the_horizon_grows_linearly_between_two_steps_in_seconds() -> None:
    config = RolloutConfig(seconds=0.1, last_seconds=0.5, from_step=100, to_step=300)
    found = [config.horizon(step, 0.02) for step in (0, 100, 150, 200, 300, 1000)]
    np.testing.assert_allclose(found, [0.1, 0.1, 0.2, 0.3, 0.5, 0.5])


def test_without_seconds_a_roll_out_is_one_control_interval() -> None:
    assert RolloutConfig().horizon(0, 0.04) == RolloutConfig().horizon(10**6, 0.04) == 0.04
    assert RolloutConfig(last_seconds=0.4, to_step=10).horizon(5, 0.04) == pytest.approx(0.22)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seconds": 0.0}, "seconds > 0"),
        ({"last_seconds": float("nan")}, "last_seconds > 0"),
        ({"max_disagreement": -1.0}, "max_disagreement > 0"),
        ({"every": 0}, "every >= 1"),
        ({"per_step": 0}, "per_step >= 1"),
        ({"from_step": 5, "to_step": 4}, "from_step <= to_step"),
        ({"penalty": -0.1}, "penalty >= 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RolloutConfig(**settings)
