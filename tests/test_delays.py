"""Delays are in seconds, whatever the intervals: hand-computed sequences."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium import spaces

from ode_rl.envs import ActionDelay, ControlInterval, ObservationDelay, SensorNoise, TimeAware, TimedAction
from ode_rl.envs.channel import Channel
from ode_rl.errors import UsageError
from tests.own_tasks import SpringCart


class Ticks(gymnasium.Env[Any, Any]):
    """Observes the seconds since the start, in steps of 0.1 s, and pays the action."""

    metadata = {"dt": 0.1, "render_modes": []}  # noqa: RUF012
    observation_space = spaces.Box(0, 1e6, (1,), np.float64)
    action_space = spaces.Box(-9, 9, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.now = 0.0
        self.acted: list[tuple[float, float]] = []
        return np.zeros(1), {}

    def step(self, action: Any) -> Any:
        return self.hold(float(action[0]), 0.1)

    def hold(self, action: float, dt: float) -> Any:
        self.acted.append((action, round(dt, 9)))
        self.now += dt
        return np.full(1, self.now), action * dt, False, False, {}


class Clock(Ticks):
    """The same for any duration."""

    interval = 0.1

    def simulate(self, state: Any, action: Any, dt: float) -> None:
        pass

    def step(self, action: Any) -> Any:
        return self.hold(float(action[0]), self.interval)


def run(env: Any, actions: list[float], intervals: list[float] | None = None) -> list[Any]:
    results = []
    for i, action in enumerate(actions):
        if intervals is not None:
            env.get_wrapper_attr("set_interval")(intervals[i])
        results.append(env.step(np.array([action], np.float32)))
    return results


# --- actions -----------------------------------------------------------------------------------------------


def test_an_action_acts_after_its_delay_in_the_middle_of_an_interval() -> None:
    env: Any = ActionDelay(Clock(), delay=0.03)
    env.reset(seed=0)
    results = run(env, [1.0, 2.0])
    assert env.unwrapped.acted == [(0.0, 0.03), (1.0, 0.07), (1.0, 0.03), (2.0, 0.07)]
    assert [float(r[1]) for r in results] == pytest.approx([0.07, 0.03 + 0.14])
    assert [r[4]["dt"] for r in results] == pytest.approx([0.1, 0.1])
    assert env.unwrapped.interval == 0.1


def test_a_delay_longer_than_some_intervals_is_right_when_they_vary() -> None:
    env: Any = ActionDelay(ControlInterval(Clock()), delay=0.25)
    env.reset(seed=0)
    run(env, [1.0, 2.0, 3.0, 4.0], [0.1, 0.1, 0.3, 0.05])
    # Chosen at 0, 0.1, 0.2 and 0.5 s, so they act from 0.25, 0.35, 0.45 and 0.75 s on.
    expected = [(0.0, 0.1), (0.0, 0.1), (0.0, 0.05), (1.0, 0.1), (2.0, 0.1), (3.0, 0.05), (3.0, 0.05)]
    assert env.unwrapped.acted == expected


def test_mujoco_changes_the_action_at_whole_substeps() -> None:
    env: Any = ActionDelay(ControlInterval(gymnasium.make("Swimmer-v5"), dt=0.04), delay=0.013)
    assert env.metadata["action_delay"] == pytest.approx(0.01)
    env.reset(seed=0)
    base = env.unwrapped
    by_hand = mujoco.MjData(base.model)
    by_hand.qpos[:], by_hand.qvel[:] = base.data.qpos, base.data.qvel
    by_hand.qacc_warmstart[:] = base.data.qacc_warmstart
    before = np.zeros(2, np.float32)
    for _ in range(50):
        action = env.action_space.sample()
        start = by_hand.qpos[0]
        _, reward, _, _, info = env.step(action)
        for substep in range(4):
            by_hand.ctrl[:] = before if substep < 1 else action
            mujoco.mj_step(base.model, by_hand)
        np.testing.assert_array_equal(base.data.qpos, by_hand.qpos)
        cost = 1e-4 * (np.square(before).sum() / 4 + np.square(action).sum() * 3 / 4)
        assert float(reward) == pytest.approx((by_hand.qpos[0] - start) / 0.04 - cost, abs=1e-9)
        assert info["dt"] == 0.04
        before = action


def test_no_delay_is_bit_identical() -> None:
    plain, delayed = gymnasium.make("Hopper-v5"), ActionDelay(gymnasium.make("Hopper-v5"), delay=0.0)
    plain.reset(seed=0)
    delayed.reset(seed=0)
    for _ in range(10):
        action = plain.action_space.sample()
        a, b = plain.step(action), delayed.step(action)
        np.testing.assert_array_equal(a[0], b[0])
        assert a[1:4] == b[1:4]


@pytest.mark.parametrize(("delay", "steps"), [(0.04, 0), (0.06, 1), (0.2, 2)])
def test_a_task_of_whole_steps_rounds_the_delay_and_says_it(delay: float, steps: int) -> None:
    env: Any = ActionDelay(Ticks(), delay=delay)
    env.reset(seed=0)
    run(env, [1, 2, 3, 4])
    assert [acted for acted, _ in env.unwrapped.acted] == ([0.0] * steps + [1.0, 2.0, 3.0, 4.0])[:4]
    assert env.metadata["action_delay"] == pytest.approx(0.1 * steps)


def test_a_random_delay_is_drawn_per_action_from_its_range_and_by_seed() -> None:
    env: Any = ActionDelay(Clock(), delay=(0.02, 0.08))

    def changes(seed: int) -> list[float]:
        env.reset(seed=seed)
        run(env, list(range(1, 9)))
        return [duration for i, (_, duration) in enumerate(env.unwrapped.acted) if i % 2 == 0]

    first = changes(0)
    assert all(0.02 <= each <= 0.08 for each in first)
    assert len(set(first)) == 8
    assert changes(0) == first != changes(1)


def test_a_new_episode_starts_at_rest() -> None:
    env: Any = ActionDelay(Clock(), delay=0.1, history=1)
    env.reset(seed=0)
    run(env, [5.0, 6.0])
    assert env.reset()[0].tolist() == [0.0, 0.0]
    run(env, [7.0])
    assert env.unwrapped.acted == [(0.0, 0.1)]


def test_the_history_shows_the_last_actions_newest_first() -> None:
    env: Any = ActionDelay(Clock(), delay=0.2, history=3)
    assert env.observation_space.shape == (4,)
    np.testing.assert_array_equal(env.observation_space.low[1:], -9)
    assert env.reset(seed=0)[0].tolist() == [0, 0, 0, 0]
    shown = [r[0].tolist() for r in run(env, [1, 2, 3, 4])]
    assert [s[1:] for s in shown] == [[1, 0, 0], [2, 1, 0], [3, 2, 1], [4, 3, 2]]


def test_an_action_array_that_is_used_again_does_not_change_what_acts() -> None:
    env: Any = ActionDelay(Clock(), delay=0.1)
    env.reset(seed=0)
    action = np.zeros(1, np.float32)
    for value in (1.0, 2.0, 3.0):
        action[:] = value
        env.step(action)
    assert [held for held, _ in env.unwrapped.acted] == [0.0, 1.0, 2.0]


def test_timed_actions_are_delayed_too() -> None:
    env: Any = TimedAction(ActionDelay(ControlInterval(Clock()), delay=0.05), 0.1, 0.3)
    env.reset(seed=0)
    env.step(np.array([4.0, 1.0]))
    assert env.unwrapped.acted == [(0.0, 0.05), (4.0, 0.25)]


# --- observations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delay", "shown"),
    [(0.0, [0.1, 0.2, 0.3, 0.4]), (0.1, [0, 0.1, 0.2, 0.3]), (0.15, [0, 0, 0.1, 0.2]), (0.3, [0, 0, 0, 0.1])],
)
def test_what_is_shown_is_the_newest_observation_of_at_least_the_delay(
    delay: float, shown: list[float]
) -> None:
    env = ObservationDelay(Clock(), delay=delay)
    env.reset(seed=0)
    results = run(env, [0.0] * 4)
    assert [float(r[0][0]) for r in results] == pytest.approx(shown)
    ages = [r[4]["observation_age"] for r in results]
    assert ages == pytest.approx([0.1 * (i + 1) - s for i, s in enumerate(shown)])


def test_observation_delays_are_in_seconds_when_intervals_vary() -> None:
    env = ObservationDelay(ControlInterval(Clock()), delay=0.2)
    env.reset(seed=0)
    results = run(env, [0.0] * 5, [0.1, 0.1, 0.05, 0.3, 0.05])  # taken at 0.1, 0.2, 0.25, 0.55, 0.6
    assert [float(r[0][0]) for r in results] == pytest.approx([0, 0, 0, 0.25, 0.25])


def test_an_overtaken_observation_is_dropped() -> None:
    line: Channel[str] = Channel("first")
    line.send("slow", 5.0)
    line.send("fast", 2.0)
    assert line.next_arrival(9.0) == 2.0
    assert [line.receive(t) for t in (1.0, 2.0, 6.0)] == ["first", "fast", "fast"]
    line.send("seventh", 7.0)
    line.send("eighth", 8.0)
    assert line.receive(9.0) == "eighth"


def test_random_observation_delays_never_show_an_older_one_after_a_newer_one() -> None:
    env = ObservationDelay(Clock(), delay=(0.0, 0.6))
    env.reset(seed=0)
    shown = [float(r[0][0]) for r in run(env, [0.0] * 60)]
    ages = 0.1 * np.arange(1, 61) - shown
    assert np.all(np.diff(shown) >= 0)
    assert ages.max() <= 0.7 + 1e-9
    assert len(set(np.round(ages, 6))) >= 4


def test_ages_of_two_delays_add_up() -> None:
    env = ObservationDelay(ObservationDelay(Clock(), delay=0.1), delay=0.2)
    env.reset(seed=0)
    last = run(env, [0.0] * 6)[-1]
    assert last[0][0] == pytest.approx(0.3)
    assert last[4]["observation_age"] == pytest.approx(0.3)


def test_the_history_of_an_observation_delay_is_not_delayed() -> None:
    env = ObservationDelay(Clock(), delay=0.1, history=2)
    env.reset(seed=0)
    assert [r[0].tolist() for r in run(env, [1, 2, 3])][-1] == pytest.approx([0.2, 3, 2])


# --- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", [ActionDelay, ObservationDelay])
@pytest.mark.parametrize(
    "delay", [-0.1, (-0.1, 0.1), (0.2, 0.1), (0.1, 0.1), "late", float("nan"), (1, 2, 3)]
)
def test_a_delay_that_cannot_be_is_refused(wrapper: Any, delay: Any) -> None:
    with pytest.raises(UsageError, match="delay"):
        wrapper(SpringCart(), delay=delay)


@pytest.mark.parametrize("wrapper", [ActionDelay, ObservationDelay])
def test_a_history_that_cannot_be_is_refused(wrapper: Any) -> None:
    for history in (-1, 1.5):
        with pytest.raises(UsageError, match="history"):
            wrapper(SpringCart(), delay=0.1, history=history)


def test_wrapping_in_an_order_that_cannot_work_is_refused() -> None:
    with pytest.raises(UsageError, match="one delay of actions"):
        ActionDelay(ActionDelay(SpringCart(), delay=0.1), delay=0.1)
    with pytest.raises(UsageError, match="directly on the task"):
        ActionDelay(SensorNoise(SpringCart(), 0.1), delay=0.1)
    for exact in (TimeAware(SpringCart()), ActionDelay(SpringCart(), delay=0.1, history=1)):
        with pytest.raises(UsageError, match=rf"Write {type(exact).__name__}\(ObservationDelay"):
            ObservationDelay(exact, delay=0.1)
    with pytest.raises(UsageError, match="history of the whole actions"):
        TimedAction(ActionDelay(SpringCart(), delay=0.1, history=1), 0.1, 0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unknown = gymnasium.make("MountainCarContinuous-v0")
    with pytest.raises(UsageError, match=r"native=SECONDS"):
        ObservationDelay(unknown, delay=0.1)
