"""What is known of a task is used as it was given, in its units, and is not learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ode_rl.agents import MPC
from ode_rl.agents.plan_score import Objective, plan_scores
from ode_rl.cli import main
from ode_rl.errors import UsageError
from ode_rl.known import NOTHING_KNOWN, Known, scaled
from ode_rl.load_agent import load_agent
from ode_rl.losses import segment_losses
from ode_rl.names import PLANNERS
from ode_rl.run import RunFolder
from ode_rl.state import STATE_SPECS, StateSpec
from ode_rl.types import Segment, Solver
from ode_rl.user_code import import_object, load_known
from ode_rl.world_model import WorldModel, WorldModelConfig
from tests.test_mpc import CART, TINY

E, N = 2, 3
LOW, HIGH = torch.tensor([-10.0, 2.0]), torch.tensor([-4.0, 2.5])
SCALED = torch.tensor([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0], [0.5, -0.5]])
IN_UNITS = torch.tensor([[-10.0, 2.0], [-7.0, 2.25], [-4.0, 2.5], [-5.5, 2.125]])


def push(obs: Tensor, action: Tensor, after: Tensor, dt: Tensor) -> Tensor:
    """Pays for a force near 2 N, per second."""
    return -((action[..., 0] - 2.0) ** 2) * dt


def beyond(after: Tensor) -> Tensor:
    return after[..., 0] > 0.5


class Gain(nn.Module):
    """``dz/dt = gain * a``, with a gain that could be fitted."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.0))

    def forward(self, z: Tensor, a: Tensor) -> Tensor:
        return self.gain * a + 0 * z


known_cart = Known(reward=push, termination=beyond)
not_known = 3


# --- in the units of the task ------------------------------------------------------------------------------


def test_reward_and_nominal_field_see_actions_in_the_units_of_the_task() -> None:
    seen: list[Tensor] = []

    def reward(obs: Tensor, action: Tensor, after: Tensor, dt: Tensor) -> Tensor:
        seen.append(action)
        return action.sum(-1) + 100 * dt + obs[..., 0] - after[..., 0]

    def nominal(z: Tensor, a: Tensor) -> Tensor:
        seen.append(a)
        return a

    known = scaled(Known(reward, beyond, nominal), LOW, HIGH)
    assert known.reward is not None
    assert known.nominal is not None
    obs, after, dt = torch.full((4, 2), 3.0), torch.full((4, 2), 7.0), torch.full((4,), 0.1)
    torch.testing.assert_close(known.reward(obs, SCALED, after, dt), IN_UNITS.sum(-1) + 10 + 3 - 7)
    torch.testing.assert_close(known.nominal(obs, SCALED), IN_UNITS)
    for action in seen:
        torch.testing.assert_close(action, IN_UNITS)
    assert known.termination is beyond
    assert known.names == ["reward", "termination", "nominal"]


def test_what_is_not_known_stays_unknown() -> None:
    assert scaled(NOTHING_KNOWN, LOW, HIGH) == NOTHING_KNOWN
    assert NOTHING_KNOWN.names == []
    assert scaled(Known(termination=beyond), LOW, HIGH).names == ["termination"]


def test_parameters_of_a_nominal_field_stay_visible_behind_its_units() -> None:
    nominal = scaled(Known(nominal=Gain()), LOW, HIGH).nominal
    assert isinstance(nominal, nn.Module)
    assert [name for name, _ in nominal.named_parameters()] == ["nominal.gain"]


# --- in the world model ------------------------------------------------------------------------------------


def world(known: Known, **settings: Any) -> WorldModel:
    config = WorldModelConfig(E, (8,), (6,), **settings)
    spec = StateSpec(rest=(0, 1)) if settings else None
    model = WorldModel(2, 2, 0.1, config, torch.Generator().manual_seed(0), spec, scaled(known, LOW, HIGH))
    g = torch.Generator().manual_seed(1)
    model.rescale(torch.randn(50, 2, generator=g), torch.randn(50, 2, generator=g), torch.ones(50), False)
    return model


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_known_reward_is_that_of_the_interval_that_was_predicted() -> None:
    def reward(obs: Tensor, action: Tensor, after: Tensor, dt: Tensor) -> Tensor:
        return obs[..., 0] + 10 * action[..., 1] + 100 * after[..., 1] + 1000 * dt

    model, z, plan = world(Known(reward)), draw(E, N, 2), draw(E, N, 3, 2, seed=1)
    dt = torch.tensor([0.1, 0.2, 0.4])
    before = z
    for k, outcome in enumerate(model.roll(z, plan, dt)):
        action = LOW[1] + 0.5 * (plan[:, :, k, 1] + 1) * (HIGH[1] - LOW[1])
        expected = before[..., 0] + 10 * action + 100 * outcome.z[..., 1] + 1000 * dt[k]
        torch.testing.assert_close(outcome.reward, expected)
        before = outcome.z


def test_a_known_termination_ends_a_plan_for_certain_and_nothing_else_does() -> None:
    model, plan = world(Known(termination=beyond)), draw(E, N, 4, 2, seed=1)
    z = torch.tensor([[-3.0, 0.0], [0.4, 0.0], [2.0, 0.0]]).expand(E, N, 2)
    assert model.ends  # before any task was seen to end
    course = model.rollout(z, plan, torch.full((4,), 0.2))
    assert course.log_survival is not None
    for k, outcome in enumerate(model.roll(z, plan, torch.full((4,), 0.2))):
        over = outcome.z[..., 0] > 0.5
        assert torch.equal(course.log_survival[k], torch.where(over, -torch.inf, 0.0))
    alive = course.log_survival.cumsum(0).exp()
    assert set(alive.flatten().tolist()) == {0.0, 1.0}


def test_a_plan_is_paid_nothing_from_the_interval_in_which_it_ends() -> None:
    def forward(z: Tensor, a: Tensor) -> Tensor:
        return torch.ones_like(z)

    known = Known(lambda obs, a, after, dt: dt, beyond, forward)
    model = world(known, structure="nominal-residual")
    z = torch.tensor([[-1.0, 0.0], [0.25, 0.0], [0.6, 0.0]]).expand(E, N, 2)
    dt = torch.full((4,), 0.1)
    found = plan_scores(model, z, torch.zeros(E, N, 4, 2), dt, Objective(0.0, lambda z: 50 + 0 * z[..., 0]))
    # The first never ends and has a value; the second ends as its third interval ends at 0.55.
    assert found[0].tolist() == pytest.approx([50.4, 0.2, 0.0])


def test_a_nominal_field_alone_moves_a_world_whose_residual_is_not_fitted() -> None:
    model = world(Known(nominal=lambda z, a: a), structure="nominal-residual", solver=Solver("rk4"))
    z = draw(E, 4, 2)
    moved = model.step(z, SCALED.expand(E, 4, 2), torch.tensor(0.3)).z - z
    torch.testing.assert_close(moved, 0.3 * IN_UNITS.expand(E, 4, 2), rtol=1e-5, atol=1e-5)


def test_a_world_without_the_nominal_field_that_it_starts_from_is_refused() -> None:
    with pytest.raises(UsageError, match="--known my_task:known"):
        world(Known(reward=push), structure="nominal-residual")


def test_what_is_known_shapes_no_dynamics_and_has_no_loss_of_ends() -> None:
    def reward(obs: Tensor, action: Tensor, after: Tensor, dt: Tensor) -> Tensor:
        return after.sum(-1) + obs.sum(-1)

    model = world(Known(reward, beyond))
    obs, dt = draw(E, N, 4, 2), torch.full((E, N, 3), 0.1)
    ended = torch.ones(E, N, 3, dtype=torch.bool)
    segment = Segment(obs, draw(E, N, 3, 2), draw(E, N, 3), dt, ended, torch.ones(E, N, 3))
    losses = segment_losses(model, segment._replace(terminated=~ended))
    assert losses.end is losses.boundary is None
    assert not losses.reward.requires_grad
    assert float(losses.reward.sum()) > 0  # it says how far off the predicted states are
    assert losses.dynamics.requires_grad


# --- in the agent ------------------------------------------------------------------------------------------


def agent(known: Known = NOTHING_KNOWN, **settings: Any) -> MPC:
    return MPC(CART, seed=0, known=known, **{**TINY, **settings})


@pytest.mark.parametrize("method", PLANNERS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_plans_earn_the_reward_that_is_known(method: str, precision: str) -> None:
    planner = {"method": method, "candidates": 64, "iterations": 4, "elites": 6, "init_std": 0.6}
    knowing = agent(
        known_cart._replace(termination=None), planner=planner, precision=precision, action_cost=0.0
    )
    action, _ = knowing.predict(np.array([0.0, 0.0], np.float32))
    # In newtons, of 3; shooting has no more than 256 blind plans of four actions.
    assert float(action[0]) == pytest.approx(2.0, abs=0.8 if method == "shooting" else 0.25)


def test_plans_stay_out_of_where_the_task_is_known_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STATE_SPECS, CART, StateSpec(rest=(0, 1)))

    def near_the_end(obs: Tensor, action: Tensor, after: Tensor, dt: Tensor) -> Tensor:
        return dt + after[..., 0]

    def drift(z: Tensor, a: Tensor) -> Tensor:
        return torch.cat([a, 0 * z[..., 1:]], -1)

    settings: dict[str, Any] = {
        "model": {"n_members": 2, "hidden": [8], "head_hidden": [8], "structure": "nominal-residual"},
        "planner": {"candidates": 64, "iterations": 4, "elites": 6, "init_std": 0.6},
    }
    for termination, least in ((None, 2.0), (beyond, -3.0)):
        known = Known(near_the_end, termination, drift)
        action, _ = agent(known, **settings).predict(np.array([0.48, 0.0], np.float32))
        after = 0.48 + 0.05 * float(action[0])
        assert float(action[0]) > least
        assert (after > 0.5) == (termination is None)


def test_an_agent_learns_on_with_what_is_known_and_says_so() -> None:
    fresh = agent(known_cart)
    assert fresh.model.ends  # before anything was seen to end
    learned = fresh.learn(50)
    assert learned.config["known"] == ["reward", "termination"]
    assert learned.fits > 0
    assert learned.model.ends


def test_a_stored_agent_is_refused_without_the_functions_that_it_knew(tmp_path: Path) -> None:
    one = agent(known_cart)
    one.save(tmp_path / "agent")
    with pytest.raises(UsageError, match=r"known=Known\(reward=\.\.\., termination=\.\.\.\)"):
        MPC.load(tmp_path / "agent", device="cpu")
    with pytest.raises(UsageError, match=r"got \['reward'\]"):
        MPC.load(tmp_path / "agent", device="cpu", known=Known(reward=push))
    again = MPC.load(tmp_path / "agent", device="cpu", known=known_cart)
    obs = np.array([0.1, -0.2], np.float32)
    np.testing.assert_array_equal(one.predict(obs)[0], again.predict(obs)[0])
    again.set_env(gymnasium.make(CART))
    again.learn(5)


def test_an_agent_that_knew_nothing_is_refused_with_functions(tmp_path: Path) -> None:
    agent().save(tmp_path / "agent")
    with pytest.raises(UsageError, match="trained with, none"):
        MPC.load(tmp_path / "agent", device="cpu", known=known_cart)


# --- on the command line -----------------------------------------------------------------------------------


def test_a_known_is_found_in_a_module_of_the_user() -> None:
    assert load_known("tests.test_known:known_cart") is import_object("tests.test_known:known_cart")
    assert load_known(None) is None
    assert import_object("tests.test_known:Gain.forward") is not None


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("tests.test_known", "MODULE:OBJECT"),
        (":known", "MODULE:OBJECT"),
        ("tests.test_known:", "MODULE:OBJECT"),
        ("no_such_module:known", "ModuleNotFoundError"),
        ("tests.test_known:nothing_here", "AttributeError"),
        ("tests.test_known:not_known", r"'tests.test_known:not_known', a int"),
    ],
)
def test_what_is_no_known_is_refused_by_name(spec: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        load_known(spec)


def test_a_module_of_the_current_folder_that_breaks_while_it_is_imported_is_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_task_of_mine.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="ZeroDivisionError"):
        load_known("broken_task_of_mine:known")


def test_a_run_is_evaluated_with_the_functions_that_it_knew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = agent(known_cart)
    run = RunFolder.create(CART, "mpc", 0, tmp_path / "run")
    run.write_config({**one.config, "env_id": f"tests.own_tasks:{CART}", "agent": "mpc"})
    one.save(run.checkpoint)
    assert load_agent(str(run.path), "cpu", known_cart).name == "mpc"
    command = ["evaluate", str(run.path), "--episodes", "1", "--device", "cpu"]
    assert main(command) == 2
    assert "known=Known(reward=..., termination=...)" in capsys.readouterr().err
    assert main([*command, "--known", "tests.test_known:not_known"]) == 2
    assert main([*command, "--known", "tests.test_known:known_cart"]) == 0
    assert "mean return" in capsys.readouterr().out
