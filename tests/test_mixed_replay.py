"""Batches that mix recorded with imagined transitions, in the shape of Stable-Baselines3."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from ode_rl.agents.interval import reward_weight
from ode_rl.agents.mixed_replay import ImaginedRows, MixedReplayBuffer
from ode_rl.agents.model_rollouts import Rows
from ode_rl.errors import UsageError

OBS, ACT = spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(-2.0, 2.0, (1,))
RHO, NATIVE = 0.7, 0.1
# Imagined observations begin at 100, recorded ones stay below.
IMAGINED = 100.0


def buffer_of(
    n: int = 50, n_imagined: int = 30, real_share: float = 0.1, n_envs: int = 1, capacity: int = 1000
) -> MixedReplayBuffer:
    buffer = MixedReplayBuffer(
        *(capacity, OBS, ACT, "cpu", n_envs),
        rho=RHO,
        dt=NATIVE,
        real_share=real_share,
        imagined_size=500,
        rng=np.random.default_rng(0),
    )
    for k in range(n):
        add(buffer, [k] * n_envs, dt=0.05 + 0.01 * k)
    buffer.imagined.add(imagined(n_imagined))
    return buffer


def add(buffer: MixedReplayBuffer, numbers: Any, dt: float | None = None, **more: Any) -> None:
    n = np.asarray(numbers, np.float32)
    done = np.broadcast_to(more.pop("done", False), n.shape)
    infos = [
        {"TimeLimit.truncated": more.get("truncated", False)} | ({} if dt is None else {"dt": dt})
    ] * len(n)
    obs = np.stack([n, n], -1)
    buffer.add(obs, obs + 0.5, 0.01 * n[:, None], 2 * n, done, infos)


def imagined(n: int, start: float = IMAGINED) -> Rows:
    k = np.float32(start) + np.arange(n, dtype=np.float32)
    obs = np.stack([k, k], -1)
    share = (k % 10) / 10
    return Rows(obs, 0 * k[:, None] + 0.5, 3 * k, obs + 0.25, share, 0.02 + 0.01 * share)


def is_imagined(batch: ReplayBufferSamples) -> Any:
    return batch.observations[:, 0].numpy() >= IMAGINED


def discounts_of(batch: ReplayBufferSamples) -> Any:
    assert batch.discounts is not None
    return batch.discounts[:, 0]


@pytest.mark.parametrize("batch_size", [1, 7, 64, 256])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.1, 0.5, 1.0])
def test_every_batch_holds_exactly_the_share_of_recorded_rows(share: float, batch_size: int) -> None:
    buffer = buffer_of(real_share=share)
    for _ in range(5):
        batch = buffer.sample(batch_size)
        assert len(batch.observations) == batch_size
        assert (~is_imagined(batch)).sum() == round(share * batch_size)


def test_without_imagined_rows_all_was_recorded() -> None:
    batch = buffer_of(n_imagined=0).sample(40)
    assert not is_imagined(batch).any()


def test_recorded_rows_are_as_they_came() -> None:
    batch = buffer_of(real_share=1.0).sample(200)
    n = batch.observations[:, 0].numpy()
    dt = 0.05 + 0.01 * n
    np.testing.assert_allclose(batch.next_observations[:, 1], n + 0.5)
    np.testing.assert_allclose(batch.actions[:, 0], 0.01 * n, rtol=1e-6)
    np.testing.assert_allclose(batch.rewards[:, 0], 2 * n * reward_weight(dt, RHO, NATIVE), rtol=1e-5)
    np.testing.assert_allclose(discounts_of(batch), np.exp(-RHO * dt), rtol=1e-6)
    assert len(set(n)) > 40


def test_imagined_rows_are_discounted_by_their_own_seconds() -> None:
    batch = buffer_of(real_share=0.0).sample(200)
    k = batch.observations[:, 0].numpy()
    share = (k % 10) / 10
    dt = 0.02 + 0.01 * share
    np.testing.assert_allclose(discounts_of(batch), np.exp(-RHO * dt), rtol=1e-6)
    np.testing.assert_allclose(batch.rewards[:, 0], 3 * k * reward_weight(dt, RHO, NATIVE), rtol=1e-5)
    np.testing.assert_allclose(batch.dones[:, 0], share, rtol=1e-6)
    np.testing.assert_allclose(batch.next_observations[:, 0], k + 0.25)
    assert len(set(k)) == 30


def test_columns_have_the_shapes_and_types_of_stable_baselines() -> None:
    batch = buffer_of().sample(20)
    columns = [x for x in batch if x is not None]
    assert all(x.dtype == torch.float32 for x in columns)
    shapes = [tuple(x.shape) for x in columns]
    assert shapes == [(20, 2), (20, 1), (20, 2), (20, 1), (20, 1), (20, 1)]


def test_a_step_without_seconds_is_a_native_one() -> None:
    buffer = buffer_of(n=0, n_imagined=0)
    add(buffer, [1.0])
    assert buffer.real.dt[0] == NATIVE


def test_a_time_limit_is_no_end_of_the_task() -> None:
    buffer = buffer_of(n=0, n_imagined=0)
    add(buffer, [1.0], done=True)
    add(buffer, [2.0], done=True, truncated=True)
    assert buffer.real.terminated[:2].tolist() == [True, False]
    assert not buffer.real.open_ends


def test_environments_are_told_apart() -> None:
    buffer = buffer_of(n=3, n_imagined=0, n_envs=2)
    assert buffer.size() == 6
    assert buffer.real.following(np.arange(6)).tolist() == [2, 3, 4, 5, -1, -1]


def test_the_same_generator_draws_the_same_batch() -> None:
    one, two = buffer_of(), buffer_of()
    for a, b in zip(one.sample(32), two.sample(32), strict=True):
        np.testing.assert_array_equal(a, b)


def test_recorded_rows_of_a_full_ring_are_the_newest() -> None:
    buffer = buffer_of(n=30, n_imagined=0, capacity=10)
    assert set(buffer.sample(300).observations[:, 0].tolist()) == {float(k) for k in range(20, 30)}


def test_a_memory_of_halves_is_refused() -> None:
    with pytest.raises(UsageError, match="optimize_memory_usage"):
        MixedReplayBuffer(
            *(10, OBS, ACT, "cpu", 1, True),
            rho=RHO,
            dt=NATIVE,
            real_share=0.1,
            imagined_size=10,
            rng=np.random.default_rng(0),
        )


# --- the ring of imagined rows -----------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [[4], [4, 4], [7, 7, 7], [25], [3, 25]])
def test_the_ring_holds_the_newest(pieces: list[int]) -> None:
    ring, start = ImaginedRows(10, 2, 1), 0.0
    for n in pieces:
        ring.add(imagined(n, start))
        start += n
    kept = min(10, int(start))
    assert len(ring) == kept
    assert sorted(ring.rows.obs[:kept, 0]) == list(np.arange(start - kept, start))
    np.testing.assert_array_equal(ring.rows.reward[:kept], 3 * ring.rows.obs[:kept, 0])


@pytest.mark.parametrize("n", [0, 4, 17])
def test_a_ring_that_was_stored_goes_on_as_before(n: int) -> None:
    one, two = ImaginedRows(10, 2, 1), ImaginedRows(10, 2, 1)
    one.add(imagined(n))
    two.restore(one.state())
    for ring in (one, two):
        ring.add(imagined(5, 50.0))
    for a, b in zip(one.rows, two.rows, strict=True):
        np.testing.assert_array_equal(a[: len(one)], b[: len(two)])


def test_damaged_rows_are_refused() -> None:
    ring = ImaginedRows(10, 2, 1)
    ring.add(imagined(5))
    state = ring.state()
    with pytest.raises(UsageError, match=r"rows of reward \(5,\) float32"):
        ring.restore(state | {"reward": state["reward"][:3]})
    with pytest.raises(UsageError, match="rows of obs"):
        ring.restore(state | {"obs": state["obs"].astype(np.float64)})


def test_a_cleared_ring_is_empty() -> None:
    ring = ImaginedRows(10, 2, 1)
    ring.add(imagined(5))
    ring.clear()
    assert len(ring) == 0
