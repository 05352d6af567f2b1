"""How a task is timed: flags become wrappers in one order, and evaluations keep those of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from ode_rl.agents import MPC
from ode_rl.agents.registry import AGENTS
from ode_rl.cli import main
from ode_rl.envs import ActionDelay, ControlInterval, ObservationDelay, ObservationDropout, TimeAware
from ode_rl.envs.task import make_task
from ode_rl.envs.task_timing import TaskTiming
from ode_rl.envs.time_wrapper import wrappers_of
from ode_rl.errors import UsageError
from ode_rl.evaluate import evaluate_agent
from ode_rl.load_agent import load_agent
from ode_rl.timing import native_dt
from tests.fakes import Push

BALANCE, CART = "tests.own_tasks:own/Balance-v0", "tests.own_tasks:own/SpringCart-v0"
ALL = TaskTiming(dt=0.08, action_delay=0.12, obs_delay=0.08, obs_dropout=0.5)


def kinds(env: Any) -> list[type]:
    ours = (ControlInterval, ActionDelay, ObservationDelay, ObservationDropout, TimeAware)
    return [type(each) for each in wrappers_of(env) if isinstance(each, ours)]


# --- wrappers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timing", [None, 0.04, TaskTiming(), TaskTiming(native=7.0)])
def test_a_task_at_its_native_interval_is_left_as_it_was_made(timing: Any) -> None:
    env = make_task(BALANCE, timing)
    assert kinds(env) == []
    assert native_dt(env) == 0.04


def test_wrappers_are_composed_from_the_task_to_the_agent() -> None:
    order = [TimeAware, ActionDelay, ObservationDelay, ObservationDropout, ControlInterval]
    assert kinds(make_task(BALANCE, ALL)) == order


@pytest.mark.filterwarnings("ignore:.*WARN.*")
def test_a_task_with_everything_passes_the_checker_of_gymnasium() -> None:
    check_env(make_task(BALANCE, ALL), skip_render_check=True)


@pytest.mark.parametrize(
    ("timing", "history", "aware"),
    [
        (TaskTiming(action_delay=0.04), 1, False),
        (TaskTiming(action_delay=0.12), 3, False),
        (TaskTiming(dt=0.08, action_delay=0.12), 2, False),  # the one that acts now and the one to come
        (TaskTiming(obs_delay=0.1), 3, False),
        (TaskTiming(action_delay=0.08, obs_delay=0.04), 3, False),
        (TaskTiming(dt_range=(0.04, 0.12), obs_delay=0.08), 2, True),
        (TaskTiming(obs_dropout=0.3), 3, True),
        (TaskTiming(obs_dropout=0.9), 8, True),
    ],
)
def test_as_many_actions_are_shown_as_have_not_shown_their_effect(
    timing: TaskTiming, history: int, aware: bool
) -> None:
    env = make_task(BALANCE, timing)
    assert env.observation_space.shape == (2 + history + 2 * aware,)
    assert timing.resolved(env).history == history
    assert timing.resolved(env) == timing.resolved(env).resolved(env)


def test_a_delayed_task_is_markov_in_what_is_shown() -> None:
    """With an action delay, state and shown actions determine the next state."""
    env, plain = make_task(BALANCE, TaskTiming(action_delay=0.08)), make_task(BALANCE)
    obs, _ = env.reset(seed=1)
    rng = np.random.default_rng(0)
    for _ in range(6):
        action = rng.uniform(-1, 1, 1).astype(np.float32)
        plain.reset(seed=1)
        plain.unwrapped._state = env.unwrapped._state.copy()  # type: ignore[attr-defined]
        expected = plain.step(obs[3:4])[0]  # the older of the two
        obs = env.step(action)[0]
        np.testing.assert_array_equal(obs[:2], expected)
        assert obs[2] == action[0]


@pytest.mark.parametrize(
    "timing",
    [None, 0.1, 0.15, TaskTiming(dt_range=(0.05, 0.2)), TaskTiming(action_delay=0.05, obs_delay=0.1)],
)
def test_an_episode_lasts_the_same_seconds_at_every_timing(timing: Any) -> None:
    assert evaluate_agent(Push(), CART, 1, timing=timing).seconds[0] == pytest.approx(5.0)


def test_a_task_without_a_step_of_its_own_takes_the_dt_for_it_and_a_range_besides() -> None:
    env = make_task("MountainCarContinuous-v0", TaskTiming(dt=0.1, dt_range=(0.1, 0.3)))
    env.reset(seed=0)
    steps = {round(env.step(env.action_space.sample())[4]["dt"], 9) for _ in range(30)}
    assert steps == {0.1, 0.2, 0.3}
    assert native_dt(env) == 0.1
    with pytest.raises(UsageError, match="--dt SECONDS"):
        make_task("MountainCarContinuous-v0", TaskTiming(dt_range=(0.1, 0.3)))
    again = make_task("MountainCarContinuous-v0", TaskTiming(dt=0.2, native=0.1))
    assert (native_dt(again), again.metadata["dt"]) == (0.1, 0.2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dt": 0.0},
        {"dt_range": (0.1, 0.1)},
        {"dt_range": (0.0, 0.1)},
        {"dt_range": (0.1,)},
        {"action_delay": -1.0},
        {"obs_delay": float("nan")},
        {"obs_dropout": 1.0},
    ],
)
def test_a_timing_that_cannot_be_is_refused_when_it_is_written(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        TaskTiming(**wrong)


# --- what agents are told ----------------------------------------------------------------------------------


class Told(Push):
    """Remembers the intervals that it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Any] = []

    def predict(self, *args: Any, dt: Any = None) -> Any:
        self.told.append(dt)
        return super().predict(*args)


def test_an_agent_that_asks_is_told_the_interval_that_comes() -> None:
    env, agent = make_task(BALANCE, TaskTiming(dt_range=(0.04, 0.2))), Told()
    found = evaluate_agent(agent, env, 1, seed=3)
    decided = agent.told[: found.lengths[0]]
    assert sum(float(dt[0]) for dt in decided[:-1]) <= found.seconds[0] + 1e-9
    assert sum(float(dt[0]) for dt in decided) >= found.seconds[0] - 1e-9
    assert len({float(dt[0]) for dt in decided}) > 1


def test_an_agent_is_told_nothing_where_every_interval_is_native() -> None:
    agent = Told()
    evaluate_agent(agent, CART, 1)
    assert set(agent.told) == {None}


def test_plans_of_the_agent_lie_on_its_control_interval() -> None:
    agent = MPC(make_task("Pendulum-v1", 0.1), preset=None, seed=0)
    assert (agent.dt, agent.interval, agent.grid.dt) == (0.05, 0.1, 0.1)
    assert MPC(make_task("Pendulum-v1"), preset=None, seed=0).grid.dt == 0.05


# --- runs --------------------------------------------------------------------------------------------------


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(AGENTS, "mpc", "tests.test_task_timing:Learner")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Learner(MPC):
    """As small as it gets."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["model"] = {**kwargs.get("model", {}), "hidden": (8,), "head_hidden": (8,), "n_members": 2}
        kwargs |= {"warmup_steps": 40, "fit": {"updates": 2, "warm_start_updates": 2}}
        kwargs["planner"] = {"candidates": 4, "iterations": 1, "elites": 2}
        super().__init__(*args, **kwargs)


def trained(*flags: str) -> dict[str, Any]:
    argv = ["train", CART, "--preset", "none", "--steps", "100", "--run-dir", "run", "--no-video"]
    assert main([*argv, "--no-progress", "--eval-episodes", "1", *flags]) == 0
    config: dict[str, Any] = json.loads(Path("run/config.json").read_text())
    return config


def evaluated(*flags: str) -> dict[str, Any]:
    assert main(["evaluate", "run", "--episodes", "1", "--json", "x.json", *flags]) == 0
    found: dict[str, Any] = json.loads(Path("x.json").read_text())
    return found


def test_an_evaluation_is_timed_as_the_training_was_unless_flags_say_otherwise(workplace: Path) -> None:
    config = trained("--dt", "0.1", "--action-delay", "0.1")
    assert config["timing"]["dt"] == 0.1
    assert (config["dt"], config["timing"]["history"]) == (0.05, 1)
    after = json.loads(Path("run/evaluation.json").read_text())
    assert after["lengths"] == [50]
    assert evaluated()["returns"] == after["returns"]
    assert evaluated("--dt", "0.05")["lengths"] == [100]
    assert evaluated("--dt-range", "0.05", "0.25")["seconds"] == [pytest.approx(5.0)]
    # Other delays leave the width of the observation as the agent knows it.
    assert evaluated("--action-delay", "0.3")["returns"] != after["returns"]
    assert evaluated("--action-delay", "0", "--obs-dropout", "0.2")["lengths"] == [50]


def test_a_run_of_an_older_version_is_evaluated_at_its_native_step(workplace: Path) -> None:
    config = trained()
    del config["timing"]
    Path("run/config.json").write_text(json.dumps(config))
    assert load_agent("run").timing == TaskTiming(native=0.05)
    assert evaluated()["lengths"] == [100]


def test_several_environments_are_stepped_together_and_each_is_monitored(workplace: Path) -> None:
    config = trained("--num-envs", "3", "--steps", "306")
    assert config["num_envs"] == 3
    rows = [len(Path(f"run/{i}.monitor.csv").read_text().splitlines()) - 2 for i in range(3)]
    assert rows == [1, 1, 1]
    buffer = load_agent("run").agent.buffer  # type: ignore[attr-defined]
    assert len(buffer) == 306
    assert [len(t) for t in buffer.trajectories()] == [100, 100, 100, 2, 2, 2]


def test_the_return_per_second_is_over_whole_episodes() -> None:
    found = evaluate_agent(Push(-1.0), BALANCE, 3)
    assert max(found.seconds) < 8.0  # it falls
    assert found.return_per_second == pytest.approx(found.mean_return / 8.0)
