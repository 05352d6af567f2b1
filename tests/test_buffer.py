"""The replay buffer: links say what follows what, durations keep their digits, bad numbers stay out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ode_rl.buffer import ROWS, ReplayBuffer
from ode_rl.errors import UsageError
from ode_rl.types import Trajectory, Transition


def transition(
    n: float = 0.0, dt: float = 0.1, terminated: bool = False, truncated: bool = False, **other: Any
) -> Transition:
    """Transition number n of a chain: it leads from observation n to n + 1."""
    obs, after = np.array([n, -n], np.float32), np.array([n + 1, -n - 1], np.float32)
    made = Transition(obs, np.array([0.1 * n], np.float32), 10.0 + n, after, dt, terminated, truncated)
    return made._replace(**other)


def chain(n: int, buffer: ReplayBuffer, env: int = 0, ends: str = "") -> None:
    """Add a chain of n transitions; the last one ends as `ends` says."""
    for k in range(n):
        last = {ends: True} if ends and k == n - 1 else {}
        buffer.add(transition(k, **last), env)


# --- links -------------------------------------------------------------------------------------------------


def test_interleaved_environments_are_linked_each_to_its_own_next_transition() -> None:
    buffer = ReplayBuffer(10, 2, 1)
    for env in (0, 1, 1, 0, 2, 1, 0):
        buffer.add(transition(), env)
    assert buffer.following(np.arange(7)).tolist() == [3, 2, 5, 6, -1, -1, -1]


@pytest.mark.parametrize("ends", ["terminated", "truncated"])
def test_an_ended_episode_is_not_linked_to_the_next(ends: str) -> None:
    buffer = ReplayBuffer(10, 2, 1)
    chain(2, buffer, ends=ends)
    chain(2, buffer)
    assert buffer.following(np.arange(4)).tolist() == [1, -1, 3, -1]


def test_after_a_cut_an_environment_continues_nothing_and_the_others_go_on() -> None:
    buffer = ReplayBuffer(10, 2, 1)
    for env in (0, 1):
        buffer.add(transition(), env)
    buffer.cut(0)
    for env in (0, 1):
        buffer.add(transition(), env)
    assert buffer.following(np.arange(4)).tolist() == [-1, 3, -1, -1]


def test_a_transition_that_takes_its_predecessors_place_is_not_linked_to_itself() -> None:
    buffer = ReplayBuffer(4, 2, 1)
    buffer.add(transition(), env=1)
    chain(3, buffer, env=0)
    buffer.add(transition(), env=1)  # serial 4 lies where serial 0, the one before it, lay
    assert buffer.following(np.array([4])).tolist() == [-1]


def test_what_overwrote_a_predecessor_does_not_inherit_its_successor() -> None:
    buffer = ReplayBuffer(4, 2, 1)
    buffer.add(transition(), env=1)
    chain(4, buffer, env=0)  # serial 4 of environment 0 takes the place of serial 0 of environment 1
    buffer.add(transition(), env=1)
    assert buffer.following(np.array([4])).tolist() == [-1]


@pytest.mark.parametrize("seed", range(10))
def test_links_agree_with_a_plain_record_of_all_episodes_after_any_number_of_overwrites(seed: int) -> None:
    rng = np.random.default_rng(seed)
    buffer, episode = ReplayBuffer(int(rng.integers(1, 12)), 2, 1), [0, 100, 200]
    record: list[int] = []
    for _ in range(80):
        env = int(rng.integers(3))
        if rng.random() < 0.05:
            buffer.cut(env)
            episode[env] += 1
        terminated, truncated = bool(rng.random() < 0.1), bool(rng.random() < 0.1)
        buffer.add(transition(terminated=terminated, truncated=truncated), env)
        record.append(episode[env])
        episode[env] += terminated or truncated
        serials = buffer.serials().tolist()
        expected = [record.index(record[s], s + 1) if record[s] in record[s + 1 :] else -1 for s in serials]
        assert buffer.following(buffer.serials()).tolist() == expected


# --- segments ----------------------------------------------------------------------------------------------


def test_segments_follow_the_links_and_mask_what_lies_behind_the_end_of_an_episode() -> None:
    buffer = ReplayBuffer(20, 2, 1)
    chain(3, buffer, ends="terminated")
    chain(3, buffer, ends="truncated")
    chain(2, buffer)
    segment = buffer.segments(np.array([0, 1, 5, 6]), 3)
    assert segment.mask.tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 0]]
    assert segment.terminated[:, :2].tolist() == [[False, False], [False, True], [False, False], [False] * 2]
    assert segment.obs[0, :, 0].tolist() == [0, 1, 2, 3]
    assert segment.obs[3, :3, 0].tolist() == [0, 1, 2]
    assert segment.reward[0].tolist() == [10, 11, 12]
    np.testing.assert_allclose(segment.action[0, :, 0], [0.0, 0.1, 0.2], rtol=1e-6)


def test_segments_take_starts_of_any_shape() -> None:
    buffer = ReplayBuffer(10, 2, 1)
    chain(5, buffer)
    starts = np.array([[0, 1, 2], [2, 1, 0]])
    segment = buffer.segments(starts, 2)
    assert segment.obs.shape == (2, 3, 3, 2)
    assert segment.action.shape == (2, 3, 2, 1)
    assert segment.mask.shape == segment.dt.shape == (2, 3, 2)
    assert segment.obs[..., 0, 0].tolist() == starts.tolist()


def test_segments_after_an_overwrite_hold_the_rows_with_these_serial_numbers() -> None:
    buffer = ReplayBuffer(4, 2, 1)
    chain(7, buffer)
    assert buffer.serials().tolist() == [3, 4, 5, 6]
    segment = buffer.segments(np.array([3, 5]), 3)
    assert segment.obs[..., 0].tolist() == [[3, 4, 5, 6], [5, 6, 7, 7]]
    assert segment.mask.tolist() == [[1, 1, 1], [1, 1, 0]]


# --- what is stored ----------------------------------------------------------------------------------------


def test_durations_keep_the_digits_that_float32_would_lose() -> None:
    dt = 0.1 + 1e-12
    buffer = ReplayBuffer(10, 2, 1)
    chain(2, buffer)
    buffer.add(transition(2, dt=dt))
    assert float(np.float32(dt)) != dt
    assert buffer.arrays().dt[2] == dt
    assert buffer.trajectories()[0].times[-1] == 0.1 + 0.1 + dt


def test_the_oldest_transitions_make_room_for_the_newest() -> None:
    buffer = ReplayBuffer(3, 2, 1)
    chain(5, buffer)
    assert len(buffer) == 3
    assert buffer.arrays().reward.tolist() == [12, 13, 14]
    assert buffer.arrays(np.array([4, 2])).reward.tolist() == [14, 12]


BAD: dict[str, Any] = {
    "obs": np.array([np.nan, 0.0]),
    "next_obs": np.array([0.0, np.inf]),
    "action": np.array([-np.inf]),
    "reward": np.nan,
    "dt": 0.0,
}


@pytest.mark.parametrize(("name", "value"), [*BAD.items(), ("dt", -0.1), ("dt", np.inf), ("dt", np.nan)])
def test_a_bad_number_is_refused_by_name_and_nothing_is_stored(name: str, value: Any) -> None:
    buffer = ReplayBuffer(3, 2, 1)
    chain(4, buffer)
    before = buffer.state()
    with pytest.raises(UsageError, match=name):
        buffer.add(transition(9, **{name: value}))
    after = buffer.state()
    assert all(np.array_equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", ["obs", "reward"])
def test_a_number_that_only_float64_can_hold_is_refused_before_it_becomes_infinite(name: str) -> None:
    value: Any = {"obs": np.array([1e39, 0.0]), "reward": 1e39}[name]
    with pytest.raises(UsageError, match=name):
        ReplayBuffer(3, 2, 1).add(transition(**{name: value}))


def test_a_buffer_for_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="capacity"):
        ReplayBuffer(0, 2, 1)


# --- trajectories ------------------------------------------------------------------------------------------


def episode(rng: np.random.Generator, length: int, terminated: bool, truncated: bool) -> Trajectory:
    return Trajectory(
        rng.normal(size=(length + 1, 2)).astype(np.float32),
        rng.normal(size=(length, 1)).astype(np.float32),
        rng.normal(size=length).astype(np.float32),
        rng.uniform(0.01, 0.2, length),
        terminated,
        truncated,
    )


def test_interleaved_episodes_come_back_as_the_trajectories_they_were() -> None:
    rng = np.random.default_rng(0)
    episodes = [episode(rng, 5, True, False), episode(rng, 3, False, True), episode(rng, 4, False, False)]
    buffer = ReplayBuffer(100, 2, 1)
    for k in range(5):
        for env, e in enumerate(episodes):
            if k < len(e):
                last = k == len(e) - 1
                flags = (last and e.terminated, last and e.truncated)
                row = (e.obs[k], e.action[k], float(e.reward[k]), e.obs[k + 1], float(e.dt[k]))
                buffer.add(Transition(*row, *flags), env)
    found = buffer.trajectories()
    assert len(found) == 3
    for mine, theirs in zip(found, episodes, strict=True):
        for name in ("obs", "action", "reward", "dt"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
        assert (mine.terminated, mine.truncated) == (theirs.terminated, theirs.truncated)


def test_a_half_overwritten_episode_comes_back_as_what_is_left_of_it() -> None:
    buffer = ReplayBuffer(4, 2, 1)
    chain(3, buffer, ends="terminated")
    chain(3, buffer)
    found = buffer.trajectories()
    assert [t.obs[:, 0].tolist() for t in found] == [[2, 3], [0, 1, 2, 3]]
    assert [t.terminated for t in found] == [True, False]


# --- checkpoints -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 2, 4, 7])
def test_a_restored_buffer_goes_on_exactly_like_the_one_that_was_stored(n: int) -> None:
    one, other = ReplayBuffer(4, 2, 1), ReplayBuffer(4, 2, 1)
    for k in range(n):
        one.add(transition(k, dt=0.1 + 1e-12 * k), env=k % 2)
    other.restore(one.state())
    for buffer in (one, other):
        for k in range(3):
            buffer.add(transition(50 + k), env=k % 2)
    assert one.serials().tolist() == other.serials().tolist()
    assert one.following(one.serials()).tolist() == other.following(other.serials()).tolist()
    for name, mine, theirs in zip(one.arrays()._fields, one.arrays(), other.arrays(), strict=True):
        np.testing.assert_array_equal(mine, theirs, name)


def test_the_stored_state_is_a_copy() -> None:
    buffer = ReplayBuffer(4, 2, 1)
    chain(4, buffer)
    state = buffer.state()
    chain(4, buffer)
    buffer.obs[:] = 7.0
    assert state["obs"][:, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("damage", ["rows", "dtype"])
def test_rows_of_another_shape_or_type_are_refused_by_name(name: str, damage: str) -> None:
    buffer = ReplayBuffer(4, 2, 1)
    chain(3, buffer)
    state = buffer.state()
    state[name] = state[name][:-1] if damage == "rows" else state[name].astype(np.complex64)
    with pytest.raises(UsageError, match=f"rows of {name} "):
        ReplayBuffer(4, 2, 1).restore(state)


def test_rows_of_another_task_or_of_a_larger_buffer_are_refused() -> None:
    buffer = ReplayBuffer(4, 2, 1)
    chain(4, buffer)
    for other in (ReplayBuffer(4, 3, 1), ReplayBuffer(4, 2, 2), ReplayBuffer(3, 2, 1)):
        with pytest.raises(UsageError, match="rows of"):
            other.restore(buffer.state())


def test_a_refused_state_changes_nothing() -> None:
    buffer = ReplayBuffer(4, 2, 1)
    chain(3, buffer)
    before = buffer.state()
    bad = {**before, "obs": before["obs"] + 1, "successor": before["successor"][:-1]}
    with pytest.raises(UsageError, match="successor"):
        buffer.restore(bad)
    np.testing.assert_array_equal(buffer.state()["obs"], before["obs"])


@pytest.mark.parametrize("link", [0, 1, 99])
def test_links_that_lead_back_or_nowhere_are_refused_before_anything_is_taken(link: int) -> None:
    source = ReplayBuffer(8, 1, 1)
    for k in range(4):
        source.add(Transition(np.ones(1) * k, np.zeros(1), 0.0, np.ones(1) * (k + 1), 0.1, False, False))
    state = source.state()
    state["successor"][1] = link
    target = ReplayBuffer(8, 1, 1)
    with pytest.raises(UsageError, match="links"):
        target.restore(state)
    assert len(target) == 0
    assert not target.obs.any()
