"""Fitting: a known world is found again, held-out data stay out, and bad batches do no harm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

import ode_rl.fit
from ode_rl.buffer import ReplayBuffer
from ode_rl.errors import UsageError
from ode_rl.fit import BLOCK, FitConfig, FitReport, SegmentSource, _take_noise, fit
from ode_rl.known import Known
from ode_rl.losses import BETA, LIKELIHOODS, Losses, segment_losses
from ode_rl.settings import build
from ode_rl.types import Segment, Solver, Transition
from ode_rl.world_model import WorldModel, WorldModelConfig
from tests.known_worlds import known_world

Array = npt.NDArray[np.float64]
NATIVE = 0.1
SMALL = WorldModelConfig(n_members=2, hidden=(32, 32), head_hidden=(16,))
QUICK = FitConfig(20, 10, batch_size=16, segment_length=2, check_every=5, patience=9)


# --- a linear world, solved exactly ------------------------------------------------------------------------

# x'' = -3 x - 0.8 x' + 2 a with the reward rate 1 + x + 0.5 x'. The state of the exact flow is
# [x, x', int reward, a, 1], of which the last two stay.
FLOW = np.array(
    [[0, 1, 0, 0, 0], [-3, -0.8, 0, 2, 0], [1, 0.5, 0, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]], float
)


def exponential(matrix: Array) -> Array:
    result = term = np.eye(len(matrix))
    for n in range(1, 30):
        term = term @ matrix / n
        result = result + term
    return result


def flown(state: Array, action: float, dt: float) -> tuple[Array, float]:
    """State and reward after `dt` seconds."""
    end = exponential(FLOW * dt) @ [*state, 0.0, action, 1.0]
    return end[:2], float(end[2])


def linear_world(n: int, seed: int = 0, episode: int = 50) -> ReplayBuffer:
    """Random actions, each held for a time of its own between 0.04 and 0.2 s."""
    rng = np.random.default_rng(seed)
    buffer = ReplayBuffer(n, 2, 1)
    state = np.zeros(2)
    for k in range(n):
        if k % episode == 0:
            state = rng.uniform(-1, 1, 2)
        action, dt = float(rng.uniform(-1, 1)), float(rng.uniform(0.04, 0.2))
        after, reward = flown(state, action, dt)
        truncated = k % episode == episode - 1
        row = (state.astype(np.float32), np.array([action], np.float32), reward, after.astype(np.float32))
        buffer.add(Transition(*row, dt, False, truncated))
        state = after
    return buffer


def world(seed: int = 0, n_obs: int = 2, config: WorldModelConfig = SMALL) -> WorldModel:
    return WorldModel(n_obs, 1, NATIVE, config, torch.Generator().manual_seed(seed))


def fitted(model: WorldModel, buffer: ReplayBuffer, config: FitConfig, seed: int = 0) -> FitReport:
    return fit(model, buffer, config, np.random.default_rng(seed), "cpu")


def parameters(model: WorldModel) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


# --- what is learned ---------------------------------------------------------------------------------------


def test_a_linear_world_seen_at_mixed_intervals_is_predicted_at_intervals_never_seen() -> None:
    model = world()
    config = FitConfig(
        updates=500, warm_start_updates=300, batch_size=64, segment_length=2, learning_rate=3e-3, patience=50
    )
    report = fitted(model, linear_world(600), config)
    assert report.skipped == 0
    rng = np.random.default_rng(9)
    for dt in (0.02, 0.12, 0.3):  # shorter, within, and longer than all that was seen
        state, action = rng.uniform(-0.7, 0.7, (40, 2)), rng.uniform(-1, 1, 40)
        ends = [flown(s, a, dt) for s, a in zip(state, action, strict=True)]
        after, reward = np.array([e[0] for e in ends]), np.array([e[1] for e in ends])
        with torch.no_grad():
            outcome = model.step(
                torch.tensor(state).float().expand(2, -1, -1),
                torch.tensor(action).float()[:, None].expand(2, -1, -1),
                torch.tensor(dt),
            )
        change = np.sqrt(((after - state) ** 2).mean(0))
        error = np.sqrt(((outcome.z.numpy() - after) ** 2).mean((0, 1)))
        assert (error < 0.08 * change).all(), (dt, error / change)
        reward_error = np.sqrt(((outcome.reward.numpy() - reward) ** 2).mean())
        assert reward_error < 0.08 * reward.std(), (dt, reward_error / reward.std())


def test_the_scales_of_the_model_are_those_of_the_data_per_second() -> None:
    rng, n = np.random.default_rng(0), 60
    buffer = ReplayBuffer(n, 2, 1)
    for k in range(n):
        obs, after, dt = rng.normal(size=2), rng.normal(size=2), float(rng.uniform(0.01, 0.5))
        buffer.add(Transition(obs, np.zeros(1), float(rng.normal()), after, dt, k % 7 == 0, True))
    model, data = world(), buffer.arrays()
    fitted(model, buffer, QUICK)
    np.testing.assert_allclose(
        np.asarray(model.get_buffer("dynamics.z_mean")), data.next_obs.mean(0), rtol=1e-4
    )
    np.testing.assert_allclose(model.reward.z_spread, data.next_obs.std(0), rtol=1e-4)
    rate = (data.next_obs - data.obs) / data.dt[:, None]
    np.testing.assert_allclose(model.dynamics.out_spread, rate.std(0), rtol=1e-4)
    np.testing.assert_array_equal(model.dynamics.out_mean, [0, 0])
    paid = (data.reward / data.dt)[~data.terminated]  # what a terminal interval pays is no rate
    np.testing.assert_allclose(model.reward.out_mean, [paid.mean()], rtol=1e-4)
    np.testing.assert_allclose(model.reward.out_spread, [paid.std()], rtol=1e-4)


def falling(n: int, seed: int = 0) -> ReplayBuffer:
    """A point that moves with its action and ends beyond 1; it pays 1 per second, and 0 where it ends."""
    rng = np.random.default_rng(seed)
    buffer = ReplayBuffer(n, 1, 1)
    x, push = 0.0, 1.0
    for _ in range(n):
        action = float(np.clip(push + 0.5 * rng.normal(), -1, 1))
        after = x + 2 * action * NATIVE
        ended = abs(after) > 1
        obs, next_obs = np.array([x], np.float32), np.array([after], np.float32)
        reward = 0.0 if ended else NATIVE
        buffer.add(Transition(obs, np.array([action], np.float32), reward, next_obs, NATIVE, ended, False))
        x, push = (0.0, float(rng.choice([-1, 0, 1]))) if ended else (after, push)
    return buffer


@pytest.mark.parametrize("termination", ["hazard", "boundary"])
def test_where_the_task_ends_is_learned_and_what_it_pays_before(termination: str) -> None:
    config = WorldModelConfig(n_members=2, hidden=(16,), head_hidden=(16, 16), termination=termination)
    model = world(n_obs=1, config=config)
    report = fitted(model, falling(500), FitConfig(300, 100, 64, 2, 1e-2, patience=50))
    assert report.end is not None
    start = torch.tensor([-0.9, 0.0, 0.9])[None, :, None].expand(2, -1, -1)
    plans = torch.tensor([-1.0, 0.5, 1.0])[None, :, None].expand(2, -1, -1)
    with torch.no_grad():
        outcome = model.step(start, plans, torch.tensor(NATIVE))
        inward = model.step(start, -plans, torch.tensor(NATIVE))
    assert outcome.log_survival is not None
    assert inward.log_survival is not None
    alive = outcome.log_survival.exp().mean(0).tolist()
    assert alive[0] < 0.3
    assert alive[1] > 0.9
    assert alive[2] < 0.3
    assert float(inward.log_survival.exp().mean(0)[0]) > 0.6
    # The terminal intervals paid 0 and are not learned: the rate is 1 right up to the bound.
    assert (outcome.reward / NATIVE).mean(0).tolist() == pytest.approx([1.0, 1.0, 1.0], abs=0.05)


def both_ends() -> WorldModelConfig:
    return WorldModelConfig(n_members=2, hidden=(16,), head_hidden=(16, 16), termination="auto")


def crossing(n: int, seed: int = 0) -> ReplayBuffer:
    """A point that is thrown and ends where an interval ends beyond 1; it may come back within one."""
    rng = np.random.default_rng(seed)
    buffer = ReplayBuffer(n, 2, 1)
    for _ in range(n):
        x, v, a, dt = rng.uniform(-1, 1), 3 * rng.normal(), rng.uniform(-1, 1), float(rng.uniform(0.05, 0.5))
        after = np.array([x + v * dt + 5 * a * dt**2, v + 10 * a * dt])
        buffer.add(Transition(np.array([x, v]), np.array([a]), 0.0, after, dt, abs(after[0]) > 1, True))
    return buffer


def struck(n: int, seed: int = 0) -> ReplayBuffer:
    """A point that ends by chance, at 3 per second wherever it is while it is pushed, however it moves."""
    rng = np.random.default_rng(seed)
    buffer = ReplayBuffer(n, 1, 1)
    for _ in range(n):
        x, action, dt = rng.uniform(-1, 1), float(rng.choice([-1.0, 1.0])), float(rng.uniform(0.02, 0.4))
        ended = action > 0 and rng.random() > math.exp(-3 * dt)
        after = x + dt * rng.choice([-1, 1])
        buffer.add(Transition(np.array([x]), np.array([action]), 0.0, np.array([after]), dt, ended, True))
    return buffer


@pytest.mark.parametrize(("data", "by"), [(crossing, "boundary"), (struck, "hazard")])
def test_of_two_ways_to_end_the_one_by_which_the_task_ends_is_chosen(data: Any, by: str) -> None:
    buffer = data(800)
    model = world(n_obs=buffer.arrays().obs.shape[1], config=both_ends())
    report = fitted(model, buffer, FitConfig(200, 50, 64, 1, 1e-2, patience=50))
    assert report.end is not None
    assert report.boundary is not None
    assert report.ends_by == model.ends_by == by
    assert (report.boundary < report.end) == (by == "boundary")
    assert report.scalars()["ends_by_boundary"] == float(by == "boundary")
    better, worse = sorted((report.boundary, report.end))
    assert better < 0.75 * worse


def test_the_chance_to_end_that_plans_see_is_that_of_the_way_that_was_chosen() -> None:
    model = world(n_obs=1, config=both_ends())
    fitted(model, struck(800), FitConfig(200, 50, 64, 1, 1e-2, patience=50))
    pushed = torch.tensor([1.0, 1.0, -1.0])[None, :, None].expand(2, -1, -1)
    dt = torch.tensor([0.1, 0.3, 0.3])
    with torch.no_grad():
        found = model.step(torch.zeros(2, 3, 1), pushed, dt).log_survival
    assert found is not None
    # 3 per second while pushed, ends weighing more than their number by the root of the imbalance: an
    # interval's odds to end are that much larger, its time plays the same part.
    hazard = (-found / dt).mean(0)
    assert float(hazard[2]) < 0.5
    assert float(hazard[0]) == pytest.approx(float(hazard[1]), rel=0.25)
    assert float(hazard[0]) > 3


def test_a_reward_and_an_end_that_are_known_are_not_fitted() -> None:
    known = Known(lambda obs, a, after, dt: dt + 0 * obs[..., 0], lambda after: after[..., 0].abs() > 1)
    model = WorldModel(1, 1, NATIVE, both_ends(), torch.Generator().manual_seed(0), None, known)
    heads = [*model.reward.net.parameters(), *model.end.net.parameters()]
    assert model.boundary is not None
    heads.extend(model.boundary.net.parameters())
    before = [p.detach().clone() for p in heads]
    report = fitted(model, falling(300), QUICK)
    assert report.end is report.boundary is None
    assert report.reward == pytest.approx(0.0, abs=1e-12)  # 1 per second, as the task pays
    assert report.skipped == 0
    assert all(torch.equal(p, q) for p, q in zip(before, heads, strict=True))


def noisy_world(n: int, noise: float, seed: int = 0) -> ReplayBuffer:
    """``dx = -x dt + a dt + noise dW`` in two dimensions, the second one with a third of the noise."""
    rng = np.random.default_rng(seed)
    buffer = ReplayBuffer(n, 2, 1)
    for _ in range(n):
        x, a, dt = rng.uniform(-1, 1, 2), rng.uniform(-1, 1), float(rng.choice([0.05, 0.1, 0.2]))
        after = a + (x - a) * math.exp(-dt) + noise * math.sqrt(dt) * rng.normal(size=2) * [1, 1 / 3]
        buffer.add(Transition(x, np.array([a]), 0.0, after, dt, False, True))
    return buffer


def test_the_noise_that_is_fitted_is_the_noise_of_the_data() -> None:
    noise = 0.4
    model = world()
    config = FitConfig(200, 100, 128, 1, learning_rate=1e-2, patience=50)
    report = fitted(model, noisy_world(2000, noise), config)
    assert report.skipped == 0
    # In units of the typical change of a native interval, for which Brownian motion has noise^2 * native.
    unit = model.dynamics.out_spread * NATIVE
    found = (model.log_noise.detach().exp().mean(0)[0] * unit).tolist()
    true = noise * math.sqrt(NATIVE)
    assert found == pytest.approx([true, true / 3], rel=0.2)


def resting(n: int, seed: int = 0) -> tuple[WorldModel, Segment]:
    """A world in which nothing moves, and data of Brownian motion: 0.3 and 2 units of a native interval."""
    model = known_world(lambda z, a: 0 * z, n_obs=2, native_dt=NATIVE)
    g = torch.Generator().manual_seed(seed)
    dt = NATIVE * torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)[torch.randint(3, (2, n, 1), generator=g)]
    noise = torch.tensor([0.3, 2.0], dtype=torch.float64) * NATIVE
    steps = noise * (dt / NATIVE).sqrt() * torch.randn(2, n, 2, generator=g, dtype=torch.float64)
    obs = torch.stack([torch.zeros_like(steps), steps], 2)
    ones = torch.ones_like(dt)
    return model, Segment(obs, ones.unsqueeze(-1), 0 * dt, dt, ones < 0, ones)


def test_the_noise_is_that_of_the_errors_for_their_time_and_a_few_gross_ones_do_not_rule_it() -> None:
    model, data = resting(4000)
    _take_noise(model, data)
    noise = model.log_noise.detach().exp()[:, 0]
    torch.testing.assert_close(noise, torch.tensor([0.3, 2.0]).double().expand(2, 2), rtol=0.05, atol=0)
    obs = data.obs.clone()
    obs[:, ::50, 1] += 100.0  # two of a hundred, as contacts are
    _take_noise(model, data._replace(obs=obs))
    torch.testing.assert_close(model.log_noise.detach().exp()[:, 0], noise, rtol=0.15, atol=0)


def test_the_noise_tells_nothing_of_what_is_hidden_unsolved_or_constant() -> None:
    model, data = resting(400)
    model.dynamics.out_spread[1] = 0.0
    before = model.log_noise.detach().clone()
    _take_noise(model, data)
    shown = model.log_noise.detach().clone()
    assert torch.equal(shown[..., 1], before[..., 1])
    obs, mask = data.obs.clone(), data.mask.clone()
    obs[:, :100, 1] += 100.0
    mask[:, :50] = 0
    obs[:, 50:100, 0] = torch.nan
    _take_noise(model, data._replace(obs=obs, mask=mask))
    torch.testing.assert_close(model.log_noise.detach(), shown, rtol=0, atol=0.15)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_held_out_data_are_scored_by_the_likelihood_without_its_weight(likelihood: str) -> None:
    model, buffer = world(), linear_world(300)
    config = FitConfig(20, 10, 16, 2, check_every=5, likelihood=likelihood)
    report = fitted(model, buffer, config)
    held_out = SegmentSource(buffer, 2, config, np.random.default_rng(0)).check()
    assert held_out is not None
    with torch.no_grad():
        proper, weighted = (
            float(segment_losses(model, held_out, 1.0, likelihood, beta).dynamics.mean())
            for beta in (0, BETA)
        )
    assert report.dynamics == pytest.approx(proper, rel=1e-5)
    assert abs(report.dynamics - weighted) > 0.01


def test_segments_grow_from_one_interval_to_their_length_over_the_curriculum() -> None:
    lengths: list[int] = []

    class Lengths(Recorded):
        def segments(self, starts: npt.NDArray[np.int64], length: int) -> Segment:
            lengths.append(length)
            return super().segments(starts, length)

    buffer = Lengths(60, 2, 1)
    buffer.restore(linear_world(60).state())
    config = FitConfig(20, 0, 8, segment_length=4, curriculum=0.5, held_out=0.0)
    fitted(world(), buffer, config)
    assert lengths[:-1] == [1, 1, 2, 2, 3, 3, 3, 4, 4, *[4] * 11]
    lengths.clear()
    fitted(world(), buffer, FitConfig(20, 0, 8, segment_length=4, held_out=0.0))
    assert set(lengths) == {4}


def size_of_errors(losses: Losses) -> float:
    """Half the log of the mean squares: the score of held-out data under the noise that suits them best."""
    assert losses.square is not None
    return float(losses.square.log().sum()) / 2


def test_a_watch_sees_every_check_and_may_end_the_fit() -> None:
    seen: list[tuple[int, float, float]] = []

    def watch(updates: int, losses: Losses) -> bool:
        seen.append((updates, size_of_errors(losses), float(losses.reward.mean())))
        return updates >= 15

    model, buffer = world(), linear_world(300)
    config = FitConfig(40, 10, 16, 2, check_every=5, patience=99)
    report = fit(model, buffer, config, np.random.default_rng(0), "cpu", watch)
    assert [updates for updates, *_ in seen] == [5, 10, 15]
    assert report.updates == 15
    assert report.stopped_early
    # What is kept is still the best of what was seen.
    assert report.reward == pytest.approx(min(reward for *_, reward in seen), rel=1e-4)
    held_out = SegmentSource(buffer, 2, config, np.random.default_rng(0)).check()
    assert held_out is not None
    with torch.no_grad():
        kept = size_of_errors(segment_losses(model, held_out))
    assert kept == pytest.approx(min(size for _, size, _ in seen), abs=1e-4)


def test_a_fit_counts_evaluations_of_the_field_and_intervals_without_a_solution() -> None:
    config = FitConfig(10, 5, 16, segment_length=3, held_out=0.0)
    report = fitted(world(), linear_world(100), config)
    assert report.n_evals == 10 * 3 * 2  # the start on rates of change solves nothing
    assert report.n_failed == 0
    adaptive = WorldModelConfig(2, (8,), (8,), Solver("dopri5", rtol=1e-2))
    buffer = spoiled(range(3, 6))
    report = fitted(world(config=adaptive), buffer, FitConfig(10, 0, 16, 2, held_out=0.0))
    assert report.n_failed == 3 * 2  # one row of two intervals in three batches
    assert report.skipped == 0
    assert report.scalars()["solver_failures"] == 6
    assert report.scalars()["function_evaluations"] == report.n_evals > 10 * 2 * 6


def test_a_second_fit_begins_with_what_the_first_has_learned() -> None:
    buffer, model = linear_world(300), world()
    first = fitted(model, buffer, FitConfig(200, 100, 64, 2, 3e-3))
    second = fitted(model, buffer, FitConfig(1, 100, 64, 2, learning_rate=1e-6))
    assert second.dynamics == pytest.approx(first.dynamics, abs=0.02)
    assert int(model.n_fits) == 2


def test_rates_of_change_are_matched_before_the_first_fit_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("derivative_losses", "segment_losses"):
        real = getattr(ode_rl.fit, name)

        def spied(*args: Any, name: str = name, real: Any = real) -> Any:
            calls.append(name)
            return real(*args)

        monkeypatch.setattr(ode_rl.fit, name, spied)
    model = world()
    fitted(model, linear_world(20), QUICK)
    assert calls.count("derivative_losses") >= 10
    calls.clear()
    fitted(model, linear_world(20), QUICK)
    assert set(calls) == {"segment_losses"}


# --- held-out data -----------------------------------------------------------------------------------------


class Recorded(ReplayBuffer):
    """A buffer that remembers where segments began."""

    def __init__(self, capacity: int, n_obs: int, n_action: int) -> None:
        super().__init__(capacity, n_obs, n_action)
        self.asked: list[npt.NDArray[np.int64]] = []

    def segments(self, starts: npt.NDArray[np.int64], length: int) -> Segment:
        self.asked.append(np.array(starts))
        return super().segments(starts, length)


def recorded(n: int, capacity: int | None = None) -> Recorded:
    buffer, data = Recorded(capacity or n, 2, 1), linear_world(n)
    for trajectory in data.trajectories():
        for k in range(len(trajectory)):
            obs, action, after = trajectory.obs[k], trajectory.action[k], trajectory.obs[k + 1]
            reward, dt, last = float(trajectory.reward[k]), float(trajectory.dt[k]), k == len(trajectory) - 1
            buffer.add(Transition(obs, action, reward, after, dt, False, last))
    return buffer


@pytest.mark.parametrize("held_out", [0.1, 0.25, 0.5])
def test_held_out_blocks_begin_no_training_segment(held_out: float) -> None:
    buffer = recorded(640)
    source = SegmentSource(buffer, 3, FitConfig(held_out=held_out), np.random.default_rng(0))
    for _ in range(20):
        assert source.draw().dt.shape[:1] == (3,)
    drawn = set(np.concatenate([asked.ravel() for asked in buffer.asked]).tolist())
    assert drawn.isdisjoint(source.held_out.tolist())
    assert drawn <= set(source.train.tolist())
    assert len(source.held_out) == pytest.approx(640 * held_out, abs=BLOCK)
    assert sorted([*source.train, *source.held_out]) == buffer.serials().tolist()
    blocks, sizes = np.unique(source.held_out // BLOCK, return_counts=True)
    assert set(sizes) == {BLOCK}
    assert len(blocks) > 1


def test_what_was_held_out_once_stays_held_out_while_the_buffer_grows_and_forgets() -> None:
    def split(n: int, capacity: int) -> tuple[set[int], set[int]]:
        source = SegmentSource(recorded(n, capacity), 2, FitConfig(), np.random.default_rng(n))
        return set(source.train.tolist()), set(source.held_out.tolist())

    train_before, held_before = split(400, 700)
    train_after, held_after = split(900, 700)
    assert held_before & held_after
    assert not held_before & train_after
    assert not train_before & held_after


def test_the_held_out_score_is_measured_on_held_out_segments() -> None:
    buffer = recorded(640)
    source = SegmentSource(buffer, 2, FitConfig(), np.random.default_rng(0))
    assert source.check() is not None
    assert set(buffer.asked[-1].ravel().tolist()) <= set(source.held_out.tolist())
    assert np.array_equal(buffer.asked[-1][0], buffer.asked[-1][1])


def test_without_enough_data_nothing_is_held_out_and_the_fit_goes_on() -> None:
    buffer = linear_world(10)
    source = SegmentSource(buffer, 2, FitConfig(), np.random.default_rng(0))
    assert source.check() is None
    assert len(source.train) == 10
    report = fitted(world(), buffer, QUICK)
    assert report.updates == QUICK.updates
    assert math.isfinite(report.dynamics)


def test_members_train_on_different_samples_of_the_data() -> None:
    buffer = linear_world(200)
    source = SegmentSource(buffer, 3, FitConfig(), np.random.default_rng(0))
    seen = [set(row.tolist()) for row in source.bootstrap]
    for row in seen:
        assert len(row) / len(source.train) == pytest.approx(1 - 1 / math.e, abs=0.08)
    assert seen[0] != seen[1] != seen[2]


def noise_of(n: int) -> ReplayBuffer:
    """Transitions in which nothing follows from anything."""
    rng = np.random.default_rng(0)
    buffer = ReplayBuffer(n, 2, 1)
    for _ in range(n):
        row = (rng.normal(size=2), rng.uniform(-1, 1, 1), float(rng.normal()), rng.normal(size=2))
        buffer.add(Transition(*row, NATIVE, False, True))
    return buffer


def spied_checks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Sizes of the errors at the checks to come, the last one after the fit."""
    checks: list[float] = []

    def spied(*args: Any) -> Losses:
        losses = segment_losses(*args)
        if not torch.is_grad_enabled():
            checks.append(size_of_errors(losses))
        return losses

    monkeypatch.setattr(ode_rl.fit, "segment_losses", spied)
    return checks


def test_with_few_held_out_data_the_dynamics_keep_their_last_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = spied_checks(monkeypatch)
    config = FitConfig(300, 0, 64, 1, learning_rate=1e-2, patience=6, check_every=10)
    report = fitted(world(), noise_of(200), config)
    assert not report.stopped_early
    assert checks[-1] == pytest.approx(checks[-2], abs=1e-6)
    assert checks[-1] > min(checks[:-2]) + 1e-3  # they overfit, but that was chance to tell


def test_a_fit_of_noise_stops_early_and_keeps_its_best_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = spied_checks(monkeypatch)
    config = FitConfig(2000, 0, 64, 1, learning_rate=1e-2, patience=6, check_every=10)
    report = fitted(world(), noise_of(1500), config)
    assert report.stopped_early
    assert report.updates == 10 * (len(checks) - 1) < 1000
    *during, final = checks
    assert final == pytest.approx(min(during), abs=1e-4)
    assert during.index(min(during)) < len(during) - 1
    assert final < min(during[-3:])


# --- trouble -----------------------------------------------------------------------------------------------


class Spoiled(ReplayBuffer):
    """A buffer whose batches number `bad` hold a number that is none."""

    bad: range = range(0)
    n_batches = 0

    def segments(self, starts: npt.NDArray[np.int64], length: int) -> Segment:
        segment = super().segments(starts, length)
        self.n_batches += 1
        if self.n_batches in self.bad:
            segment.obs[0, 0] = torch.nan
        return segment


def spoiled(bad: range) -> Spoiled:
    buffer = Spoiled(100, 2, 1)
    buffer.restore(linear_world(100).state())
    buffer.bad = bad
    return buffer


def test_a_batch_that_is_not_finite_is_skipped_and_counted() -> None:
    config = FitConfig(20, 0, 16, 2, held_out=0.0)
    model, buffer = world(), spoiled(range(3, 6))
    report = fitted(model, buffer, config)
    assert report.skipped == 3
    assert report.scalars()["skipped_updates"] == 3
    assert report.updates == 20
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert math.isfinite(report.dynamics)


def test_when_no_batch_is_finite_the_weights_stay_as_they_were() -> None:
    model, buffer = world(), spoiled(range(1, 1000))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    report = fitted(model, buffer, FitConfig(20, 10, 16, 2))
    assert report.skipped == report.updates
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters() if name != "log_noise")
    assert bool(model.log_noise.isfinite().all())  # which is that of the rows that could be predicted


def test_a_constant_observation_and_a_constant_reward_are_no_trouble() -> None:
    buffer = ReplayBuffer(100, 2, 1)
    rng = np.random.default_rng(0)
    for _ in range(100):
        x = rng.normal()
        obs, after = np.array([x, 7.0]), np.array([x + rng.normal(), 7.0])
        buffer.add(Transition(obs, rng.uniform(-1, 1, 1), 0.3, after, NATIVE, False, True))
    model = world()
    report = fitted(model, buffer, QUICK)
    assert report.skipped == 0
    assert math.isfinite(report.dynamics)
    with torch.no_grad():
        outcome = model.step(torch.tensor([[[0.1, 7.0]]] * 2), torch.zeros(2, 1, 1), torch.tensor(NATIVE))
    assert bool((outcome.z[..., 1] == 7.0).all())
    assert outcome.reward.flatten().tolist() == pytest.approx([0.3, 0.3], abs=0.3)


def test_data_of_terminal_transitions_alone_can_be_fitted() -> None:
    buffer = ReplayBuffer(30, 2, 1)
    rng = np.random.default_rng(0)
    for _ in range(30):
        buffer.add(Transition(rng.normal(size=2), np.zeros(1), 0.0, rng.normal(size=2), NATIVE, True, False))
    report = fitted(world(), buffer, QUICK)
    assert report.skipped == 0
    assert report.reward == 0.0
    assert report.end is not None


# --- repetition --------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights() -> None:
    models = [world(seed) for seed in (0, 0, 0)]
    for model, seed in zip(models, (3, 3, 4), strict=True):
        fitted(model, linear_world(100), QUICK, seed)
    one, again, other = (torch.cat([p.flatten() for p in parameters(model)]) for model in models)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", ["updates", "batch_size", "segment_length", "check_every", "patience"])
def test_a_fit_that_cannot_be_is_refused_by_name(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        build(FitConfig, {name: 0})


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"likelihood": "gauss"}, "gaussian, student-t, huber"),
        ({"curriculum": 1.5}, "between 0 and 1"),
        ({"curriculum": -0.1}, "between 0 and 1"),
    ],
)
def test_an_unknown_likelihood_and_a_wrong_curriculum_are_refused(
    setting: dict[str, Any], named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        build(FitConfig, setting)
