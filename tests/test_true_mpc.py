"""Planning in the task itself: what plans earn there, from the state that its environments are in."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
import torch

from ode_rl.agents.planners import Deadline, Found, OutOfTime, Warm
from ode_rl.agents.true_mpc import TrueMPC, TrueState
from ode_rl.cli import main
from ode_rl.envs.task import make_task
from ode_rl.errors import UsageError
from ode_rl.evaluate import Watcher, evaluate_agent
from ode_rl.load_agent import true_agent

Array = npt.NDArray[Any]
SMALL: dict[str, Any] = {"candidates": 40, "iterations": 3, "elites": 6, "init_std": 0.6}
DT = 0.1


class Course(NamedTuple):
    reward: Array
    terminated: Array
    next_obs: Array


class Line:
    """A point x that moves by its actions, pays x per second and ends when x passes 1.

    After the end, rewards are no numbers: nobody may look at them.
    """

    native_dt = DT

    def __init__(self) -> None:
        self.asked: list[tuple[Array, Array]] = []

    def snapshot(self, env: Any) -> Array:
        return np.array([float(env)])

    def rollout(self, states: Any, plans: Any, dt: Any = None) -> Course:
        self.asked.append((np.array(plans), np.array(dt)))
        moved = np.cumsum(plans[..., 0] * dt, -1)
        x = np.asarray(states)[:, None] + moved
        over = x > 1
        before = (np.cumsum(over, -1) - over) > 0
        return Course(np.where(before, np.nan, x * dt), over & ~before, x[..., None])


def planner(*starts: float, low: float = -1.0, high: float = 1.0, **settings: Any) -> TrueMPC:
    settings = {"horizon": 4 * DT, "planner": SMALL, "action_cost": 0.0, **settings}
    agent = TrueMPC(Line(), "Line-v0", np.array([low]), np.array([high]), preset=None, **settings)
    agent.watch(starts)
    return agent


def scores(
    agent: TrueMPC, starts: list[float], plans: Any, dt: list[float] | None = None
) -> list[list[float]]:
    rows = torch.tensor(plans, dtype=torch.float32).unsqueeze(-1)
    states, seconds = np.array(starts)[:, None], np.array(dt or [DT] * rows.shape[2])
    found: list[list[float]] = agent._scores(states, rows, seconds, Deadline()).tolist()
    return found


# --- what a plan is worth ----------------------------------------------------------------------------------


def test_a_plan_earns_its_discounted_rewards_until_the_task_ends() -> None:
    agent = planner(0.0, gamma=0.9)
    rho = -math.log(0.9) / DT
    assert agent.rho == pytest.approx(rho)
    # The first plan passes 1 in its second interval, which is paid; the rest is not.
    found = scores(agent, [0.9], [[[0.5, 1.0, -1.0], [0.0, -1.0, -1.0]]], [0.1, 0.2, 0.4])
    first = 0.95 * 0.1 + math.exp(-rho * 0.1) * 1.15 * 0.2
    second = 0.9 * 0.1 + math.exp(-rho * 0.1) * 0.7 * 0.2 + math.exp(-rho * 0.3) * 0.3 * 0.4
    assert found == [pytest.approx([first, second])]


def test_changes_of_the_action_cost_per_second_in_units_of_the_rewards_at_hand() -> None:
    plans, dt = [[[0.0, 0.0, 0.0], [1.0, -1.0, 0.0]]], [0.1, 0.2, 0.4]
    free, dear = planner(0.0, gamma=1 - 1e-12), planner(0.0, gamma=1 - 1e-12, action_cost=0.5)
    gain = np.array(scores(free, [0.5], plans, dt))
    x = np.array([[0.5, 0.5, 0.5], [0.6, 0.4, 0.4]])
    # Squares of the changes, each weighed by the interval that it begins.
    cost = 0.5 * x.mean() * np.array([0.0, 4 * 0.2 + 1 * 0.4])
    np.testing.assert_allclose(scores(dear, [0.5], plans, dt)[0], (gain - cost)[0], rtol=1e-5)


def test_a_robot_is_scored_the_same_whoever_else_is_there() -> None:
    agent = planner(0.0, action_cost=0.5)
    plans = [[[0.3, -0.2, 0.9], [-1.0, 1.0, 0.0]], [[0.1, 0.2, 0.3], [1.0, 1.0, 1.0]]]
    together = scores(agent, [-0.5, -80.0], plans)
    assert together[0] == pytest.approx(scores(agent, [-0.5], plans[:1])[0])
    assert together[1] == pytest.approx(scores(agent, [-80.0], plans[1:])[0])


def test_a_plan_that_breaks_the_task_is_out_and_spoils_no_other() -> None:
    agent = planner(0.0, action_cost=0.5)
    simulator: Any = agent.simulator
    simulator.rollout = lambda states, plans, dt: Course(
        np.where(plans[..., 0] > 0.9, np.nan, 1.0), np.zeros(plans.shape[:3], bool), plans
    )
    found = scores(agent, [0.0], [[[0.0, 0.5], [0.0, 1.0]]])[0]
    assert math.isfinite(found[0])
    assert not math.isfinite(found[1])


def test_a_score_gives_up_when_time_is_out() -> None:
    agent = planner(0.0)
    with pytest.raises(OutOfTime):
        agent._scores(np.zeros((1, 1)), torch.zeros(1, 2, 3, 1), np.full(3, DT), Deadline(at=0.0))


# --- acting ------------------------------------------------------------------------------------------------


def test_the_best_way_is_found_in_the_units_of_the_task() -> None:
    # As far up as it goes without passing 1, where the pay would stop: 0.8 in four intervals, from 0.15.
    agent = planner(-20.0, 0.15, low=-2.0, high=2.0, planner={**SMALL, "candidates": 80, "iterations": 6})
    action, state = agent.predict(np.zeros((2, 1), np.float32))
    assert action.shape == (2, 1)
    assert float(action[0, 0]) > 1.8
    tried, dt = agent.simulator.asked[-1]  # type: ignore[attr-defined]
    assert float(np.abs(tried).max()) <= 2.0
    assert dt.tolist() == pytest.approx([DT] * 4)
    assert isinstance(state, TrueState)
    assert state.calls == 1


def test_the_next_interval_is_as_long_as_was_said_and_the_plan_moves_on_by_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ramp(score: Any, warm: Warm, *_: Any, **__: Any) -> Found:
        plan = torch.tensor([0.1, 0.2, 0.3, 0.4]).reshape(1, 4, 1)
        score(plan[None])
        return Found(plan, Warm(plan, plan[None]), torch.ones(1, dtype=torch.bool), 1, 1)

    monkeypatch.setattr("ode_rl.agents.true_mpc.search", ramp)
    agent = planner(0.0)
    simulator: Any = agent.simulator
    for dt, asked, left in (
        (None, [0.1] * 4, [0.2, 0.3, 0.4, 0.4]),
        (0.2, [0.2, 0.1, 0.1], [0.3, 0.4, 0.4, 0.4]),
        (0.25, [0.25, 0.1, 0.05], [0.35, 0.4, 0.4, 0.4]),
    ):
        _, state = agent.predict(np.zeros(1), dt=dt)
        assert simulator.asked[-1][1].tolist() == pytest.approx(asked)
        assert state.warm.mean.flatten().tolist() == pytest.approx(left)


def test_predict_repeats_and_changes_nothing() -> None:
    agent, obs = planner(0.1, 0.3), np.zeros((2, 1))
    first, state = agent.predict(obs)
    agent.predict(np.zeros(1))
    again, _ = agent.predict(obs)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(agent.predict(obs, state)[0], agent.predict(obs, state)[0])
    other = planner(0.1, 0.3, seed=1)
    assert not np.array_equal(other.predict(obs)[0], first)


def test_an_episode_start_begins_its_own_row_anew() -> None:
    agent, obs = planner(0.1, 0.3, -0.4), np.zeros((3, 1))
    _, state = agent.predict(obs)
    going, after = agent.predict(obs, state)
    some, fresh = agent.predict(obs, state, np.array([False, True, False]))
    assert (some != going).any(1).tolist() == [False, True, False]
    assert after.calls == fresh.calls == 2
    np.testing.assert_array_equal(agent.predict(obs, state, np.zeros(3, bool))[0], going)
    np.testing.assert_array_equal(agent.predict(obs[:2], state)[0], agent.predict(obs[:2])[0])


def test_environments_have_to_be_watched_one_for_every_observation() -> None:
    agent = planner(0.1)
    with pytest.raises(UsageError, match=r"2 environments.*agent\.watch\(envs\)"):
        agent.predict(np.zeros((2, 1)))
    fresh = TrueMPC(Line(), "Line-v0", np.array([-1.0]), np.array([1.0]), preset=None)
    with pytest.raises(UsageError, match="1 environments to look at, got 0"):
        fresh.predict(np.zeros(1))
    assert isinstance(agent, Watcher)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"planner": {"method": "gradient"}}, "needs no gradient"),
        ({"horizn": 1.0}, "Did you mean horizon"),
        ({"horizon": 0.01}, "at least one control interval"),
        ({"gamma": 2.0}, "gamma"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        planner(0.0, **settings)


# --- in real tasks -----------------------------------------------------------------------------------------


class Random:
    def predict(self, observation: Any, *_: Any) -> tuple[Any, None]:
        rng = np.random.default_rng(int(1e6 * np.abs(observation).sum()))
        return rng.uniform(-2, 2, (len(observation), 1)).astype(np.float32), None


def test_a_true_pendulum_swings_up_and_stays_there_far_better_than_at_random() -> None:
    loaded = true_agent("Pendulum-v1")
    agent: Any = loaded.agent
    assert (loaded.name, loaded.env_id, agent.preset) == ("mpc", "Pendulum-v1", "Pendulum-v1")
    env = make_task("Pendulum-v1")
    agent.watch([env])
    obs, state, earned = env.reset(seed=7)[0], None, 0.0
    for _ in range(80):
        before = env.unwrapped.state.copy()  # type: ignore[attr-defined]
        action, state = agent.predict(obs, state)
        np.testing.assert_array_equal(env.unwrapped.state, before)  # type: ignore[attr-defined]
        obs, reward, *_ = env.step(action)
        earned += float(reward)
    assert obs[0] > 0.99  # the cosine: upright
    assert abs(obs[2]) < 0.3
    blind = evaluate_agent(Random(), "Pendulum-v1", 1, seed=7)
    assert earned > 0.5 * blind.mean_return * 80 / 200


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder, and a pendulum with short episodes."""
    monkeypatch.chdir(tmp_path)
    pendulum = gymnasium.spec("Pendulum-v1").entry_point
    gymnasium.register("test/ShortPendulum-v0", entry_point=pendulum, max_episode_steps=50)
    yield tmp_path
    del gymnasium.registry["test/ShortPendulum-v0"]


def test_the_command_line_evaluates_the_true_planner_without_a_training(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "mpc", "--env", "test/ShortPendulum-v0", "--model", "true", "--episodes", "1"]
    assert main([*command, "--preset", "Pendulum-v1", "--json", "x.json"]) == 0
    found = json.loads((workplace / "x.json").read_text())
    assert (found["agent"], found["env_id"], found["lengths"]) == ("mpc", "test/ShortPendulum-v0", [50])
    planned = found["mean_return"]
    assert planned > 0.8 * evaluate_agent(Random(), "test/ShortPendulum-v0", 1).mean_return
    assert found["ms_per_decision"] > 0
    assert "1 episodes of test/ShortPendulum-v0" in capsys.readouterr().out
    assert [path.name for path in workplace.iterdir()] == ["x.json"]
    # With another planner the same start comes out otherwise.
    assert main([*command, "--preset", "Pendulum-v1", "--json", "y.json", "--planner", "shooting"]) == 0
    assert json.loads((workplace / "y.json").read_text())["mean_return"] != planned


BAD = {
    "no model": (["mpc", "--env", "Pendulum-v1"], "--model true"),
    "no task": (["mpc", "--model", "true"], "Write --env Pendulum-v1."),
    "another agent": (["tests.fakes:Push", "--env", "Pendulum-v1", "--model", "true"], "ode-rl evaluate mpc"),
    "a learned model": (["mpc", "--env", "Pendulum-v1", "--model", "ode"], "Write --model true."),
    "a planner of a run": (["runs/none", "--planner", "icem"], "--model true"),
    "the gradient planner": (
        ["mpc", "--env", "Pendulum-v1", "--model", "true", "--planner", "gradient"],
        "icem",
    ),
    "unknown task": (["mpc", "--env", "Pendulun-v1", "--model", "true"], "Did you mean Pendulum-v1"),
    "discrete actions": (["mpc", "--env", "CartPole-v1", "--model", "true"], "Discrete(2)"),
    "unknown preset": (
        ["mpc", "--env", "Pendulum-v1", "--model", "true", "--preset", "Pendulun-v1"],
        "Did you mean Pendulum-v1",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message_and_exit_code_2(
    case: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, reason = BAD[case]
    assert main(["evaluate", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: expected ")
    assert err.count("\n") == 1
    assert reason in err
    assert not list(workplace.iterdir())
