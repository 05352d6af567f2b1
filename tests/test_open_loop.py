"""Open-loop prediction: members along their own ways, every interval with its dt, errors by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ode_rl.best_use import best_use_step
from ode_rl.buffer import ReplayBuffer
from ode_rl.errors import UsageError
from ode_rl.losses import segment_losses
from ode_rl.open_loop import (
    OpenLoop,
    change_unit,
    horizon_error,
    nrmse,
    one_interval,
    one_interval_nrmse,
    open_loop,
)
from ode_rl.recorded import transitions
from ode_rl.types import Segment, Solver, Trajectory, Transition
from ode_rl.world_model import WorldModel, WorldModelConfig
from tests.known_worlds import known_world

DECAY = 0.5


def decaying(z: Tensor, a: Tensor) -> Tensor:
    """``x' = -x / 2 + a``."""
    return -DECAY * z + a


def recorded(dt: list[float], x0: float = 1.0, seed: int = 0, terminated: bool = False) -> Trajectory:
    """The exact solution of `decaying` under random actions; the reward of an interval is its length."""
    action = np.random.default_rng(seed).uniform(-1, 1, (len(dt), 1))
    x = [x0]
    for u, h in zip(action[:, 0], dt, strict=True):
        rest = u / DECAY
        x.append(rest + math.exp(-DECAY * h) * (x[-1] - rest))
    return Trajectory(np.array(x)[:, None], action, np.array(dt), np.array(dt), terminated, not terminated)


def irregular(n: int, seed: int = 0) -> list[float]:
    return np.random.default_rng(seed).uniform(0.02, 0.4, n).tolist()


def rival(n_obs: int = 2, termination: str = "hazard") -> WorldModel:
    """An untrained residual-mlp in float64 that may end."""
    config = WorldModelConfig(3, (8,), (6,), Solver(), termination, "residual-mlp")
    model = WorldModel(n_obs, 1, 0.1, config, torch.Generator().manual_seed(0)).double()
    data = torch.randn(50, n_obs, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model.rescale(data, data.flip(0), data[:, 0], ends=True)
    return model


# --- prediction --------------------------------------------------------------------------------------------


def test_a_known_world_is_predicted_without_error_at_every_horizon_and_dt() -> None:
    world = known_world(decaying, lambda z, a: 0 * z + 1)
    episodes = [recorded(irregular(30, seed), x0=seed - 1, seed=seed) for seed in range(3)]
    loop = open_loop(world, episodes, horizon_s=2.0, starts_per_trajectory=3)
    assert loop.members.shape == (2, 9, loop.time.shape[1], 1)
    assert np.abs(loop.members - loop.truth)[:, loop.mask].max() < 1e-5
    assert np.abs(loop.reward - loop.true_reward)[:, loop.mask].max() < 1e-12
    assert loop.ok[:, loop.mask].all()
    assert loop.n_failures == 0
    found = horizon_error(loop, [0.5, 1.0, 2.0])
    assert found.error.max() < 1e-5
    assert found.spread.max() < 1e-12
    assert found.no_change.min() > 0.1
    assert one_interval_nrmse(world, episodes).mean < 1e-4


def test_members_go_their_own_ways_from_the_true_start() -> None:
    rates = torch.tensor([[[1.0]], [[3.0]]], dtype=torch.float64)
    world = known_world(lambda z, a: rates + 0 * z)
    loop = open_loop(world, [recorded([0.1, 0.3])], horizon_s=1.0, starts_per_trajectory=1)
    np.testing.assert_allclose(loop.members[:, 0, :, 0], [[1.1, 1.4], [1.3, 2.2]])
    np.testing.assert_allclose(loop.mean()[0, :, 0], [1.2, 1.8])
    np.testing.assert_allclose(loop.spread()[0, :, 0], [0.1, 0.4])


def test_times_and_mask_follow_the_recorded_intervals_and_the_horizon() -> None:
    episodes = [recorded([0.1, 0.2, 0.3, 0.4]), recorded([0.5, 0.6], terminated=True)]
    loop = open_loop(known_world(decaying), episodes, horizon_s=0.6, starts=[[0, 2], [1]])
    np.testing.assert_allclose(loop.time[0], [0.1, 0.3, 0.6])
    assert loop.mask.tolist() == [[True, True, True], [True, False, False], [True, False, False]]
    np.testing.assert_allclose(loop.start[:, 0], [1, episodes[0].obs[2, 0], episodes[1].obs[1, 0]])
    np.testing.assert_allclose(loop.until, [1.0, 0.7, 0.6])
    assert loop.terminated.tolist() == [[False] * 3, [False] * 3, [True, False, False]]
    assert loop.trajectory.tolist() == [0, 0, 1]


def test_starts_are_spread_so_that_the_horizon_fits() -> None:
    episode = recorded([0.1] * 30)
    loop = open_loop(known_world(decaying), [episode], horizon_s=1.0, starts_per_trajectory=3)
    np.testing.assert_allclose(loop.start, episode.obs[[0, 10, 20]])
    assert loop.mask.all()
    short = open_loop(known_world(decaying), [episode], horizon_s=9.0, starts_per_trajectory=3)
    assert short.mask.shape == (1, 30)


def test_noise_strikes_as_the_loss_fits_it_and_decays_with_the_state() -> None:
    world = known_world(decaying)
    with torch.no_grad():
        world.log_noise.copy_(torch.tensor([0.5, -1.0]).reshape(2, 1, 1))
        world.dynamics.out_spread.fill_(4.0)
    dt = irregular(5)
    loop = open_loop(world, [recorded(dt)] * 400, horizon_s=9.0, starts_per_trajectory=1)
    for member, log_noise in enumerate((0.5, -1.0)):
        variance, expected = 0.0, []
        for h in dt:
            # The dynamics take their share of what was there; the interval adds its own.
            variance = math.exp(-2 * DECAY * h) * variance + (4.0 * 0.1 * math.exp(log_noise)) ** 2 * h / 0.1
            expected.append(math.sqrt(variance))
        found = np.sqrt(np.square(loop.noise_std[member, :, :, 0]).mean(0))
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
        np.testing.assert_allclose(found, expected, rtol=0.05)


def test_the_noise_that_the_loss_likes_best_is_the_spread_of_the_truth() -> None:
    world = known_world(lambda z, a: 0 * z, n_members=1)
    buffer = ReplayBuffer(200, 1, 1)
    error = np.random.default_rng(0).normal(0, 0.3, 200).astype(np.float32)
    for x in error:
        buffer.add(Transition(np.zeros(1), np.zeros(1), 0.0, np.array([x]), 0.4, False, True))
    drawn = buffer.segments(buffer.serials()[None], 1)
    segment = Segment(*(x if x.dtype == torch.bool else x.double() for x in drawn))
    slopes = []
    for factor in (0.9, 1.0, 1.1):
        rms = float(np.sqrt(np.mean(np.square(error, dtype=np.float64))))
        with torch.no_grad():
            world.log_noise.add_(
                math.log(factor * rms / one_interval(world, buffer.arrays()).noise_std.max())
            )
        (slope,) = torch.autograd.grad(segment_losses(world, segment).dynamics.sum(), world.log_noise)
        slopes.append(float(slope))
    assert slopes[0] < -0.01
    assert slopes[1] == pytest.approx(0, abs=1e-5)
    assert slopes[2] > 0.01


def test_chunks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = known_world(decaying, hazard=lambda z, a: 0 * z + 0.3)
    episodes = [recorded(irregular(20, seed), seed=seed) for seed in range(4)]
    whole = open_loop(world, episodes, horizon_s=1.0)
    monkeypatch.setattr("ode_rl.open_loop.INTERVALS_AT_ONCE", 3 * whole.mask.shape[1])
    parts = open_loop(world, episodes, horizon_s=1.0)
    np.testing.assert_allclose(parts.members, whole.members)
    assert whole.log_survival is not None
    assert parts.log_survival is not None
    np.testing.assert_allclose(parts.log_survival, whole.log_survival)
    np.testing.assert_allclose(whole.log_survival, np.broadcast_to(-0.3 * whole.dt, whole.reward.shape))


def test_a_member_that_diverges_is_counted_and_left_out_of_the_mean() -> None:
    def one_explodes(z: Tensor, a: Tensor) -> Tensor:
        return torch.stack([0 * z[0], 1e200 * z[1] ** 2])

    loop = open_loop(known_world(one_explodes), [recorded([0.1] * 4)], horizon_s=1.0, starts_per_trajectory=1)
    assert loop.ok[0].all()
    assert not loop.ok[1, :, 1:].any()
    assert loop.n_failures == int((~loop.ok).sum())
    np.testing.assert_allclose(loop.mean()[0, 1:, 0], 1.0)
    everyone = known_world(lambda z, a: 1e200 * z**2)
    lost = open_loop(everyone, [recorded([0.1] * 4)], horizon_s=1.0, starts_per_trajectory=1)
    assert np.isnan(lost.mean()[0, -1]).all()
    found = horizon_error(lost, [0.4])
    assert found.failed.tolist() == [1]
    assert found.n.tolist() == [0]
    assert np.isnan(found.error).all()


# --- a model that is blind to dt ----------------------------------------------------------------------------


def test_a_blind_model_composes_native_steps_at_whole_ratios_and_is_scaled_elsewhere() -> None:
    model = rival()
    z = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    a = torch.full((3, 4, 1), 0.3, dtype=torch.float64)
    dt = torch.tensor([0.1, 0.3, 0.25, 0.025], dtype=torch.float64)
    native = torch.tensor(0.1, dtype=torch.float64)
    found = best_use_step(model, z, a, dt)
    steps = [model.step(z, a, native)]
    steps += [model.step(steps[0].z, a, native)]
    steps += [model.step(steps[1].z, a, native)]
    assert found.log_survival is not None
    torch.testing.assert_close(found.z[:, 0], steps[0].z[:, 0])
    torch.testing.assert_close(found.z[:, 1], steps[2].z[:, 1])
    torch.testing.assert_close(found.reward[:, 1], sum(s.reward[:, 1] for s in steps))
    torch.testing.assert_close(found.log_survival[:, 1], sum(s.log_survival[:, 1] for s in steps))  # type: ignore
    for row, ratio in ((2, 2.5), (3, 0.25)):
        torch.testing.assert_close(found.z[:, row], z[:, row] + ratio * (steps[0].z - z)[:, row])
        torch.testing.assert_close(found.reward[:, row], ratio * steps[0].reward[:, row])
        torch.testing.assert_close(found.log_survival[:, row], ratio * steps[0].log_survival[:, row])  # type: ignore


def test_whole_ratios_are_recognised_though_dt_is_not_exact() -> None:
    model = rival()
    z, a = torch.ones(3, 1, 2, dtype=torch.float64), torch.zeros(3, 1, 1, dtype=torch.float64)
    twice = best_use_step(model, z, a, torch.tensor(0.2, dtype=torch.float64)).z
    float32 = best_use_step(model, z, a, torch.tensor(0.2, dtype=torch.float32)).z
    torch.testing.assert_close(float32, twice, rtol=1e-12, atol=0)
    beyond = best_use_step(model, z, a, torch.tensor(0.2 * (1 + 1e-5), dtype=torch.float64)).z
    assert float((beyond - twice).detach().abs().max()) > 1e-6


def test_a_blind_model_that_ends_at_a_boundary_tests_the_scaled_end() -> None:
    model = rival(termination="boundary")
    z, a = torch.ones(3, 1, 2, dtype=torch.float64), torch.zeros(3, 1, 1, dtype=torch.float64)
    found = best_use_step(model, z, a, torch.tensor(0.05, dtype=torch.float64))
    assert found.log_survival is not None
    torch.testing.assert_close(found.log_survival, torch.nn.functional.logsigmoid(-model.end_logit(found.z)))


def test_open_loop_gives_a_blind_model_its_best_use_and_others_their_step() -> None:
    episode = recorded([0.2, 0.05, 0.1])
    episode = Trajectory(np.repeat(episode.obs, 2, 1), *list(vars(episode).values())[1:])
    model = rival()
    loop = open_loop(model, [episode], horizon_s=1.0, starts_per_trajectory=1)
    z = torch.from_numpy(episode.obs[:1]).expand(3, 1, 2)
    for k in range(3):
        action = torch.from_numpy(episode.action[k : k + 1]).expand(3, 1, 1)
        z = best_use_step(model, z, action, torch.tensor(episode.dt[k])).z.detach()
        np.testing.assert_allclose(loop.members[:, :, k], z.numpy())
    world = known_world(decaying)
    z, a, dt = torch.ones(2, 1, 1).double(), torch.ones(2, 1, 1).double(), torch.tensor(0.37).double()
    torch.testing.assert_close(best_use_step(world, z, a, dt).z, world.step(z, a, dt).z)


# --- error -------------------------------------------------------------------------------------------------


def test_nrmse_by_hand() -> None:
    truth = np.array([[0.0, 0.0, 5.0], [0.0, 10.0, 5.0], [9.0, 9.0, 9.0]])
    prediction = np.array([[3.0, 0.0, 7.0], [-1.0, 10.0, 5.0], [math.nan, 9.0, 9.0]])
    mask = np.array([True, True, False])
    found = nrmse(prediction, truth, np.array([2.0, 5.0, 0.0]), mask)
    # sqrt((9 + 1) / 2) / 2 in the first dimension, nothing in the second; the third does not move.
    assert found.per_dimension[:2].tolist() == pytest.approx([math.sqrt(5) / 2, 0])
    assert math.isnan(found.per_dimension[2])
    assert found.mean == pytest.approx(math.sqrt(5) / 4)
    assert math.isinf(nrmse(prediction, truth, np.array([2.0, 5.0, 0.0])).mean)


def test_the_error_of_one_interval_is_in_units_of_the_change_at_that_dt() -> None:
    # Nothing happens in this world; in the data x changes by +-0.2, y by nothing, z by 1 always.
    buffer = ReplayBuffer(10, 3, 1)
    for change in (0.2, -0.2, 0.2, -0.2):
        after = np.array([1 + change, 5.0, 1.0])
        buffer.add(Transition(np.array([1.0, 5.0, 0.0]), np.zeros(1), 0.0, after, 0.1, False, True))
    still = known_world(lambda z, a: 0 * z, n_obs=3)
    assert change_unit(buffer.arrays()).tolist() == pytest.approx([0.2, 0, 0], abs=1e-7)
    found = one_interval_nrmse(still, buffer.arrays())
    assert found.per_dimension[0] == pytest.approx(1.0)
    assert np.isnan(found.per_dimension[1:]).all()
    given = one_interval_nrmse(still, buffer.arrays(), np.array([0.1, 0.0, 0.5]))
    assert given.per_dimension[[0, 2]].tolist() == pytest.approx([2, 2])
    assert given.mean == pytest.approx(2)


def test_arrays_and_episodes_are_the_same_data() -> None:
    world = known_world(lambda z, a: -2 * z + a)
    episodes = [recorded(irregular(9, seed), seed=seed, terminated=seed == 1) for seed in range(2)]
    data = transitions(episodes)
    assert np.flatnonzero(data.terminated).tolist() == [17]
    assert one_interval_nrmse(world, episodes).mean == one_interval_nrmse(world, data).mean
    assert one_interval(world, episodes).trajectory.tolist() == [0] * 9 + [1] * 9


def test_errors_are_looked_up_at_the_last_recorded_time_that_is_not_later() -> None:
    # The world stands still while the truth moves at 1 per second.
    steps = [0.07] * 10
    times = np.concatenate([[0.0], np.cumsum(steps)])
    episode = Trajectory(times[:, None], np.zeros((10, 1)), np.zeros(10), np.array(steps), False, True)
    loop = open_loop(known_world(lambda z, a: 0 * z), [episode], horizon_s=1.0, starts_per_trajectory=1)
    found = horizon_error(loop, [0.05, 0.1, 0.28, 0.7, 0.8], unit=np.ones(1))
    assert found.error.tolist() == pytest.approx([math.nan, 0.07, 0.28, 0.7, math.nan], nan_ok=True)
    assert found.no_change.tolist() == pytest.approx(found.error.tolist(), nan_ok=True)
    assert found.n.tolist() == [0, 1, 1, 1, 0]


def test_a_horizon_cut_between_two_intervals_still_has_its_last_time() -> None:
    loop: OpenLoop = open_loop(known_world(decaying), [recorded([0.07] * 30)], 1.0, 1)
    assert loop.column_at(1.0).tolist() == [13]


# --- bad input ---------------------------------------------------------------------------------------------


def test_what_cannot_be_predicted_is_refused() -> None:
    world, episode = known_world(decaying), recorded([0.1] * 4)
    with pytest.raises(UsageError, match="episodes of at least one interval"):
        open_loop(world, [], 1.0)
    with pytest.raises(UsageError, match="horizon_s > 0"):
        open_loop(world, [episode], 0.0)
    with pytest.raises(UsageError, match="Give a longer horizon_s"):
        open_loop(world, [episode], 0.01)
    with pytest.raises(UsageError, match=r"observations \[T, 2\]"):
        open_loop(known_world(decaying, n_obs=2), [episode], 1.0)
    with pytest.raises(UsageError, match="Episode 0 has intervals 0 to 3"):
        open_loop(world, [episode], 1.0, starts=[[4]])
    with pytest.raises(UsageError, match="one list for each episode"):
        open_loop(world, [episode], 1.0, starts=[[0], [0]])
    with pytest.raises(UsageError, match="at least one start"):
        open_loop(world, [episode], 1.0, starts_per_trajectory=0)
