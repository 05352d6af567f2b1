"""The guard around tasks: poison is left out or named, and what is as it should be passes untouched."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
import pytest

from ode_rl.envs import Guarded
from ode_rl.envs.guarded import TaskFault
from tests.faulty_world import AT
from tests.own_tasks import SpringCart

LEFT_OUT = ("obs-nan", "obs-inf", "obs-leaps", "reward-nan", "reward-inf", "reward-huge")
STOPS = ("obs-shape", "obs-type", "obs-none", "reward-text", "step-raises")


def guarded(fault: str, **how: Any) -> Guarded:
    env = Guarded(gymnasium.make(f"faulty/{fault}-v0"), **how)
    env.reset(seed=0)
    return env


def live(env: Guarded, steps: int) -> list[Any]:
    found = []
    for number in range(steps):
        found.append(env.step(np.array([np.sin(number)], np.float32)))
        if found[-1][2] or found[-1][3]:
            env.reset()
    return found


def test_what_is_as_it_should_be_passes_untouched() -> None:
    mine, plain = guarded("obs-nan"), gymnasium.make("faulty/obs-nan-v0")
    plain.reset(seed=0)
    for (obs, *rest), number in zip(live(mine, 15), range(15), strict=True):
        expected = plain.step(np.array([np.sin(number)], np.float32))
        np.testing.assert_array_equal(obs, expected[0])
        assert rest == list(expected[1:])


@pytest.mark.parametrize("fault", LEFT_OUT)
def test_poison_ends_the_episode_and_is_counted_and_logged(
    fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    env = guarded(fault, leaves_out=True)
    found = live(env, 80)
    faulty = [number for number, step in enumerate(found, 1) if "fault" in step[4]]
    assert tuple(faulty) == AT
    assert env.faults == 2
    assert len(caplog.records) == 2
    assert f"faulty/{fault}-v0, step {AT[0]}: expected " in caplog.text
    for obs, reward, terminated, truncated, _ in found:
        assert np.isfinite(obs).all()
        assert np.abs(obs).max() < 100
        assert abs(reward) < 1e6
        assert not terminated or not truncated
    assert [found[at - 1][3] for at in AT] == [True, True]


@pytest.mark.parametrize("fault", [*LEFT_OUT, *STOPS])
def test_without_leave_to_leave_it_out_it_is_named(fault: str) -> None:
    with pytest.raises(TaskFault, match=f"from faulty/{fault}-v0 at step {AT[0]}, got ") as raised:
        live(guarded(fault), 80)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("fault", ["obs-nan", "reward-huge"])
def test_a_task_that_fails_again_and_again_is_not_learned_from(fault: str) -> None:
    env = guarded(f"{fault}-forever", leaves_out=True)
    with pytest.raises(TaskFault, match="fewer than 10 faults in 200 steps"):
        live(env, 500)


@pytest.mark.parametrize(
    ("fault", "what"), [("reset-raises", "the robot is unplugged"), ("reset-nan", "nan")]
)
def test_a_reset_that_fails_is_named(fault: str, what: str) -> None:
    with pytest.raises(TaskFault, match=rf"from faulty/{fault}-v0 at the reset after step 40, got .*{what}"):
        live(guarded(fault, leaves_out=True), 80)


def test_a_step_that_hangs_is_left_after_its_time() -> None:
    env = guarded("hangs", timeout=0.2)
    began = time.perf_counter()
    with pytest.raises(TaskFault, match=r"a step within 0.2 s from faulty/hangs-v0 at step 47"):
        live(env, 80)
    assert time.perf_counter() - began < 20


def test_an_evaluation_only_wants_numbers() -> None:
    assert max(abs(step[1]) for step in live(guarded("reward-huge", leaps=False), 80)) == 1e12


def test_large_numbers_that_grow_are_no_fault() -> None:
    class Growing(SpringCart):
        at = 1.0

        def step(self, action: Any) -> Any:
            self.at *= 50
            return np.full(2, self.at, np.float32), -self.at, False, False, {}

    env = Guarded(Growing())
    env.reset()
    assert [env.step(np.zeros(1))[1] for _ in range(5)] == [-(50.0**n) for n in range(1, 6)]
