"""Robustness sweeps: shares follow their definition, and what a task cannot do is left out or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from PIL import Image

from ode_rl.cli import main
from ode_rl.conditions import TABLE, Setup, plan_sweep
from ode_rl.envs.control_interval import ControlInterval
from ode_rl.envs.task import make_task
from ode_rl.envs.task_timing import TaskTiming
from ode_rl.errors import UsageError
from ode_rl.evaluate import evaluate_agent
from ode_rl.names import SWEEPS
from ode_rl.robustness import LeftOut, RandomActions, Robustness, SweepResult, share_kept
from ode_rl.robustness_plots import plot_sweep
from tests.fakes import Push

CART, BALANCE, PENDULUM = "tests.own_tasks:own/SpringCart-v0", "tests.own_tasks:own/Balance-v0", "Pendulum-v1"
POLE = "InvertedPendulum-v5"


class Catch(Push):
    """Keeps `Balance` upright: ``u = -2.5 x - 0.8 x'``."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        obs = np.asarray(observation)
        return np.clip(-2.5 * obs[:, :1] - 0.8 * obs[:, 1:2], -1, 1).astype(np.float32), state


def sweep(name: str, env_id: str = BALANCE, n: int = 4, **more: Any) -> SweepResult:
    return Robustness(Catch(), env_id, [name], n, seed=5, **more).run(name)


def test_the_command_line_knows_the_sweeps_that_there_are() -> None:
    assert tuple(TABLE) == SWEEPS


def test_the_share_kept_is_that_of_its_definition_from_the_same_start_seeds() -> None:
    result = sweep("actuator")
    row = next(row for row in result.rows if row.label == "0.25")
    best = evaluate_agent(Catch(), BALANCE, 4, seed=5)
    assert result.reference.returns == best.returns
    expected = (row.evaluation.mean_return - row.random_mean_return) / (
        best.mean_return - row.random_mean_return
    )
    assert row.share_kept == pytest.approx(expected)
    assert row.evaluation.seed == best.seed == 5
    assert row.share_interval is not None
    assert row.share_interval[0] <= expected <= row.share_interval[1]


def test_the_conditions_of_the_training_keep_everything() -> None:
    for name in ("interval", "actuator", "dropout", "noise", "obs-delay", "action-delay"):
        rows = sweep(name, n=2).rows
        same = [row for row in rows if row.evaluation.returns == rows[0].evaluation.returns]
        assert any(row.share_kept == 1.0 for row in same), name


def test_an_actuator_at_a_quarter_loses_what_a_whole_one_holds() -> None:
    result = sweep("actuator")
    assert result.reference.mean_return == 200
    kept = {row.label: row.share_kept for row in result.rows}
    assert kept["1"] == 1.0
    assert kept["0.25"] is not None
    assert kept["0.25"] < 0.5


def test_noise_is_measured_in_the_spread_of_the_observations() -> None:
    """The trained interval's spread, per entry, by hand from the same random actions."""
    env = make_task(BALANCE)
    random = RandomActions(env.action_space, 5)
    evaluate_agent(random, BALANCE, 4, seed=5)
    seen = []
    again = RandomActions(env.action_space, 5)

    class Log(Push):
        def predict(self, observation: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
            seen.append(np.array(observation))
            return again.predict(observation)

    evaluate_agent(Log(), BALANCE, 4, seed=5)
    # The timed decisions at the end are seen as well, by both.
    np.testing.assert_allclose(random.spread, np.concatenate(seen).std(0), rtol=1e-6)


def test_random_actions_fill_the_bounds() -> None:
    space = gymnasium.spaces.Box(np.array([-1.0, 2.0]), np.array([0.0, 5.0]), dtype=np.float64)
    actions, _ = RandomActions(space, 0).predict(np.zeros((4000, 3)))
    np.testing.assert_allclose(actions.min(0), [-1, 2], atol=0.01)
    np.testing.assert_allclose(actions.max(0), [0, 5], atol=0.01)
    np.testing.assert_allclose(actions.mean(0), [-0.5, 3.5], atol=0.05)


def test_an_agent_no_better_than_chance_keeps_no_share_of_anything() -> None:
    random = evaluate_agent(RandomActions(make_task(CART).action_space, 0), CART, 3)
    assert share_kept(random, random, random) == (None, None)


def setup(env_id: str, timing: TaskTiming | None = None) -> Setup:
    return Setup.of(env_id, timing or TaskTiming(history=0, time_aware=False))


def test_intervals_are_whole_substeps_and_the_table_says_the_true_ratio() -> None:
    conditions = plan_sweep("interval", setup("HalfCheetah-v5"))
    assert [c.label for c in conditions if not c.why_not] == ["x0.2", "x0.4", "x1", "x2", "x4"]
    conditions = plan_sweep("interval", setup("Reacher-v5"))
    assert [c.label for c in conditions if c.why_not] == ["x0.25"]
    assert [c.timing.dt for c in conditions if not c.why_not] == [0.01, None, 0.04, 0.08]


def test_ranges_that_hold_no_two_intervals_are_left_out() -> None:
    out = {c.label: c.why_not for c in plan_sweep("jitter", setup("Reacher-v5")) if c.why_not}
    assert set(out) == {"x0.75 to x1.25", "x0.25 to x4"}
    assert "one whole number" in str(out["x0.75 to x1.25"])
    rows = [c.label for c in plan_sweep("jitter", setup(PENDULUM)) if not c.why_not]
    assert rows == ["x1", "x1 to x2", "x1 to x4"]


def test_delays_are_multiples_of_the_native_step_that_the_task_can_take() -> None:
    taken = [c.value for c in plan_sweep("action-delay", setup(PENDULUM)) if not c.why_not]
    assert taken == [0.0, 0.05, 0.1, 0.2]
    assert next(c.why_not for c in plan_sweep("action-delay", setup(PENDULUM)) if c.why_not)
    taken = [c.value for c in plan_sweep("action-delay", setup("ode_rl/Pendulum-v0")) if not c.why_not]
    assert taken == [0.0, 0.025, 0.05, 0.1, 0.2]


def test_a_delay_that_is_new_to_the_agent_does_not_change_what_it_is_shown() -> None:
    robustness = Robustness(Catch(), BALANCE, ["action-delay"], 1)
    for condition in plan_sweep("action-delay", robustness.setup):
        if condition.why_not is None:
            space = make_task(BALANCE, condition.timing).observation_space
            assert space.shape == (2,)


def test_what_the_agent_was_trained_with_is_kept_and_shown() -> None:
    trained = TaskTiming(action_delay=0.04, history=1, time_aware=False, native=0.04)

    class Three(Catch):
        observation_space = make_task(BALANCE, trained).observation_space

    result = Robustness(Three(), BALANCE, ["action-delay"], 2, timing=trained).run("action-delay")
    assert next(row for row in result.rows if row.value == 0.04).share_kept == 1.0


@pytest.mark.parametrize("name", ["mass", "gravity", "damping", "friction"])
def test_a_task_without_a_mujoco_model_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="MuJoCo model"):
        plan_sweep(name, setup(PENDULUM))


def test_a_model_without_the_quantity_is_refused() -> None:
    with pytest.raises(UsageError, match="friction to change"):
        plan_sweep("friction", setup("Reacher-v5"))


def test_an_unknown_sweep_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean mass"):
        plan_sweep("mas", setup(POLE))


def test_a_changed_model_reaches_every_environment_of_an_evaluation() -> None:
    result = sweep("mass", POLE, n=3)
    returns = [row.evaluation.mean_return for row in result.rows]
    assert len(set(returns)) > 1
    assert next(row for row in result.rows if row.label == "x1").share_kept == 1.0


def test_steps_are_told_one_after_the_other_and_reasons_too() -> None:
    told: list[str] = []
    robustness = Robustness(Catch(), BALANCE, ["interval"], 1)
    result = robustness.run("interval", lambda whole, step: told.append(step.label))
    assert told == ["x0.25", "x0.5", "x1", "x2", "x4"]
    assert result.left_out[0] == LeftOut("x0.25", "shorter than one of the native steps of 0.04 s")
    assert isinstance(robustness.setup.grid, type(ControlInterval(make_task(BALANCE)).grid))


@pytest.mark.parametrize("name", ["jitter", "actuator"])
def test_the_figure_shows_the_agent_and_chance(name: str, tmp_path: Path) -> None:
    picture = np.asarray(Image.open(plot_sweep(tmp_path / "x.png", sweep(name, n=2))).convert("RGB"), float)
    for colour in ([0, 114, 178], [127, 127, 127]):
        assert (np.abs(picture - colour).max(-1) < 30).sum() > 100


# --- the command line --------------------------------------------------------------------------------------


def test_evaluate_writes_a_table_a_figure_and_json_per_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["evaluate", "tests.test_robustness:Catch", "--env", BALANCE, "--episodes", "2"]
    assert main([*argv, "--sweep", "dropout", "--sweep", "interval", "--json", "out.json"]) == 0
    out = capsys.readouterr().out
    assert "left out: shorter than one" in out
    assert "100.0%" in out
    assert {path.name for path in (tmp_path / "sweeps").iterdir()} == {
        *("dropout.json", "dropout.png", "interval.json", "interval.png"),
    }
    data = json.loads((tmp_path / "sweeps" / "interval.json").read_text())
    assert data["native_dt"] == 0.04
    assert [row["label"] for row in data["rows"]] == ["x1", "x2", "x4"]
    assert data["rows"][0]["evaluation"]["n_episodes"] == 2
    assert json.loads((tmp_path / "out.json").read_text())["mean_return"] == data["reference"]["mean_return"]


def test_thirty_episodes_are_the_default_of_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "tests.test_robustness:Catch", "--env", BALANCE, "--sweep", "actuator"]) == 0
    assert "over 30 episodes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--sweep", "mas"], "Write --sweep mass."),
        (["--sweep", "mass"], "MuJoCo model"),
        (["--sweep", "interval", "--sweep", "gravity"], "MuJoCo model"),
    ],
)
def test_a_bad_sweep_ends_with_2_before_anything_is_evaluated(
    more: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "tests.test_robustness:Catch", "--env", BALANCE, *more]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err
    assert not list(tmp_path.iterdir())
