"""Tasks: made by id, refused with a reason, and every step says how long it lasted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from ode_rl.envs.task import TimeStamp, bare_id, check_task, make_task
from ode_rl.errors import UsageError
from ode_rl.timing import native_dt
from tests.own_tasks import Balance, SpringCart

BOX = spaces.Box(-1, 1, (2,), np.float32)


class Spaces(gymnasium.Env[Any, Any]):
    """An environment that is only its spaces."""

    def __init__(self, observation: spaces.Space[Any] = BOX, action: spaces.Space[Any] = BOX) -> None:
        self.observation_space, self.action_space = observation, action


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "InvertedPendulum-v5"])
def test_a_known_task_is_made_and_says_its_dt_on_every_step(env_id: str) -> None:
    env = make_task(env_id)
    env.reset(seed=0)
    for _ in range(3):
        info = env.step(env.action_space.sample())[4]
        assert info["dt"] == env.unwrapped.dt  # type: ignore[attr-defined]


def test_the_info_of_the_task_itself_wins() -> None:
    class Irregular(SpringCart):
        def step(self, action: Any) -> Any:
            return (*super().step(action)[:4], {"dt": 0.125})

    env = TimeStamp(Irregular(), 0.05)
    env.reset(seed=0)
    assert env.step(np.zeros(1, np.float32))[4]["dt"] == 0.125


@pytest.mark.filterwarnings("ignore:.*WARN.*")
def test_a_time_stamped_task_still_passes_the_checker_of_gymnasium() -> None:
    check_env(TimeStamp(Balance(), 0.04), skip_render_check=True)


def test_a_time_stamped_task_can_be_made_again_from_its_spec() -> None:
    spec = make_task("Pendulum-v1").spec
    assert spec is not None
    again = gymnasium.make(spec)
    again.reset(seed=0)
    assert again.step(again.action_space.sample())[4]["dt"] == 0.05


# --- ids and modules ---------------------------------------------------------------------------------------


def test_an_unknown_id_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(UsageError, match=r"'Pendulun-v1'\. Did you mean Pendulum-v1"):
        make_task("Pendulun-v1")


@pytest.mark.parametrize("env_id", ["Pendulum", "Pendulum-v99", "Zzzz/Qqqq", "", "é"])
def test_an_id_that_is_not_registered_is_refused_without_a_warning(
    env_id: str, recwarn: pytest.WarningsRecorder
) -> None:
    with pytest.raises(UsageError, match="registered environment"):
        make_task(env_id)
    assert not recwarn


def test_a_task_of_a_module_in_the_current_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_rig.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('rig/Cart-v0', entry_point='tests.own_tasks:SpringCart', max_episode_steps=9)\n"
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    env = make_task("my_rig:rig/Cart-v0")
    assert env.spec is not None
    assert env.spec.max_episode_steps == 9
    assert sys.path == before
    with pytest.raises(UsageError, match=r"Did you mean my_rig:rig/Cart-v0"):
        make_task("my_rig:rig/Carl-v0")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import nothing_like_this", "nothing_like_this"),
        ("1 +", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_module_that_fails_is_named_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, reason: str
) -> None:
    (tmp_path / "broken_rig.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"'broken_rig'.*{reason}"):
        make_task("broken_rig:rig/Cart-v0")


@pytest.mark.parametrize("env_id", ["no_such_module:Pendulum-v1", ":Pendulum-v1", "math:", "a:b:c", "../x:y"])
def test_a_malformed_or_missing_module_is_refused(env_id: str) -> None:
    with pytest.raises(UsageError):
        make_task(env_id)


def test_a_bare_id_has_no_module() -> None:
    assert [bare_id(i) for i in ("Pendulum-v1", "m:own/Task-v0")] == ["Pendulum-v1", "own/Task-v0"]


# --- the length of a step ----------------------------------------------------------------------------------


def test_a_task_that_does_not_say_its_dt_needs_one() -> None:
    with pytest.raises(UsageError, match="--dt SECONDS"):
        make_task("MountainCarContinuous-v0")
    env = make_task("MountainCarContinuous-v0", 0.1)
    env.reset(seed=0)
    assert env.step(env.action_space.sample())[4]["dt"] == 0.1
    assert native_dt(env) == 0.1


def test_another_dt_than_the_native_one_is_the_control_interval() -> None:
    env = make_task("Pendulum-v1", 0.1)
    env.reset(seed=0)
    assert env.step(env.action_space.sample())[4]["dt"] == 0.1
    assert native_dt(env) == 0.05
    assert env.metadata["dt"] == 0.1


def test_a_dt_between_two_that_the_task_can_take_is_refused_with_both() -> None:
    with pytest.raises(UsageError, match=r"substeps of 0\.01 s, got 0\.034\. Write 0\.03 or 0\.04"):
        make_task("Swimmer-v5", 0.034)


def test_the_native_dt_may_be_said_again() -> None:
    assert native_dt(make_task("Pendulum-v1", 0.05)) == 0.05


@pytest.mark.parametrize("dt", [0.0, -1.0, float("nan"), float("inf")])
def test_a_dt_that_is_no_time_is_refused(dt: float) -> None:
    with pytest.raises(UsageError, match="dt > 0"):
        make_task("MountainCarContinuous-v0", dt)


# --- spaces ------------------------------------------------------------------------------------------------


def test_a_discrete_action_space_is_refused_with_the_space_named() -> None:
    with pytest.raises(UsageError, match=r"Discrete\(2\)"):
        make_task("CartPole-v1")


@pytest.mark.parametrize(
    "action",
    [
        spaces.MultiDiscrete([2, 3]),
        spaces.Dict({"a": BOX}),
        spaces.Tuple([BOX]),
        spaces.Box(-1, 1, (2, 2), np.float32),
        spaces.Box(-np.inf, np.inf, (2,), np.float32),
        spaces.Box(0, np.inf, (2,), np.float32),
        spaces.Box(np.array([0, 0], np.float32), np.array([1, 0], np.float32)),
        spaces.Box(0, 9, (2,), np.int64),
    ],
)
def test_actions_that_are_not_a_bounded_vector_are_refused_by_name(action: spaces.Space[Any]) -> None:
    with pytest.raises(UsageError) as caught:
        check_task(Spaces(action=action))
    assert str(action) in str(caught.value)


@pytest.mark.parametrize(
    "observation",
    [
        spaces.Discrete(4),
        spaces.Dict({"position": BOX}),
        spaces.Tuple([BOX]),
        spaces.Box(0, 255, (64, 64, 3), np.uint8),
        spaces.Box(-1, 1, (2, 2), np.float32),
        spaces.Box(-1, 1, (), np.float32),
        spaces.Box(0, 255, (128,), np.uint8),
    ],
)
def test_observations_that_are_not_a_vector_of_floats_are_refused_by_name(
    observation: spaces.Space[Any],
) -> None:
    with pytest.raises(UsageError) as caught:
        check_task(Spaces(observation=observation))
    assert str(observation) in str(caught.value)


def test_a_dict_of_vectors_is_answered_with_the_wrapper_that_helps() -> None:
    with pytest.raises(UsageError, match="FlattenObservation"):
        check_task(Spaces(observation=spaces.Dict({"position": BOX})))


# --- the tasks of the other tests --------------------------------------------------------------------------


@pytest.mark.parametrize("task", [SpringCart, Balance])
@pytest.mark.filterwarnings("ignore:.*WARN.*")
def test_our_own_tasks_pass_the_checker_of_gymnasium(task: type[gymnasium.Env[Any, Any]]) -> None:
    check_env(task(), skip_render_check=True)


def test_the_spring_cart_follows_its_differential_equation() -> None:
    env = SpringCart()
    env.reset(seed=3)
    (x, v), n, force = env._state, 20_000, 2.0
    h = env.metadata["dt"] / n
    for _ in range(n):  # small steps of the midpoint rule
        a = (force - env.stiffness * x - env.damping * v) / env.mass
        xm, vm = x + h / 2 * v, v + h / 2 * a
        x, v = x + h * vm, v + h * (force - env.stiffness * xm - env.damping * vm) / env.mass
    obs = env.step(np.array([force], np.float32))[0]
    np.testing.assert_allclose(obs, [x, v], rtol=1e-5)


def test_the_balance_falls_soon_under_random_actions_and_stands_under_feedback() -> None:
    def steps(policy: Any, seed: int) -> int:
        env = gymnasium.make("own/Balance-v0")
        obs, over, count = env.reset(seed=seed)[0], False, 0
        env.action_space.seed(seed)
        while not over:
            obs, _, terminated, truncated, _ = env.step(policy(env, obs))
            count, over = count + 1, terminated or truncated
        return count

    random = [steps(lambda env, obs: env.action_space.sample(), seed) for seed in range(20)]
    feedback = [steps(lambda env, obs: np.clip(-4 * obs[:1] - obs[1:], -1, 1), seed) for seed in range(5)]
    assert 10 <= np.mean(random) <= 25
    assert feedback == [200] * 5
