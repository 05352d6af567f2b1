"""A MuJoCo model as nominal field: its rates, their gradients, and what is learned on top of a wrong one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from torch import Tensor

from ode_rl.agents import MPC
from ode_rl.buffer import ReplayBuffer
from ode_rl.envs import NominalMuJoCo
from ode_rl.envs.task import make_task
from ode_rl.errors import UsageError
from ode_rl.fields.nominal import NominalResidualField
from ode_rl.fit import FitConfig, fit
from ode_rl.integrate import integrate
from ode_rl.known import Known, scaled
from ode_rl.state import STATE_SPECS, state_spec
from ode_rl.types import Solver, Transition
from ode_rl.world_model import WorldModel, WorldModelConfig

POLE = "InvertedPendulum-v5"
ALL = [POLE, "InvertedDoublePendulum-v5", "Reacher-v5", "Swimmer-v5", "Hopper-v5", "HalfCheetah-v5"]
ALL += ["Walker2d-v5"]


def heavy_pole(model: Any) -> None:
    """Twice the mass of the pole."""
    model.body("pole").mass *= 2
    model.body("pole").inertia *= 2


def course(env_id: str, n: int, seed: int = 0) -> list[tuple[Any, Any, Any, Any]]:
    """Observation, action, and MuJoCo's qacc and qvel on `n` steps of the task under random actions."""
    env, found = make_task(env_id), list[tuple[Any, Any, Any, Any]]()
    base: Any = env.unwrapped
    env.action_space.seed(seed)
    env.reset(seed=seed)
    data = mujoco.MjData(base.model)
    while len(found) < n:
        action = env.action_space.sample()
        *_, terminated, _, _ = env.step(action)
        if terminated:
            env.reset()
        data.qpos[:], data.qvel[:], data.ctrl[:] = base.data.qpos, base.data.qvel, action
        mujoco.mj_forward(base.model, data)
        # Some tasks clip the velocities they show, and Reacher's elbow gives way beyond its limit.
        if np.abs(data.qvel).max() < 10 and abs(data.qpos[1]) < np.pi:
            found.append((base._get_obs(), action, data.qacc.copy(), data.qvel.copy()))
    return found


def states(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """States and actions of the pole on its cart, far from the limits of the joints."""
    rng = np.random.default_rng(seed)
    z = rng.uniform(-1, 1, (1, n, 4)) * [0.5, 0.8, 2, 4]
    return torch.tensor(z), torch.tensor(rng.uniform(-2.5, 2.5, (1, n, 1)))


def cart_pole(model: Any, z: Tensor, u: Tensor) -> Tensor:
    """Textbook dynamics of a cart with a rigid pole, ``M(q) q'' + c(q, q') = f``, for MuJoCo's numbers."""
    cart, pole = (float(model.body(name).mass[0]) for name in ("cart", "pole"))
    cx, _, cz = (float(c) for c in model.body("pole").ipos)
    turn = np.empty(9)
    mujoco.mju_quat2Mat(turn, model.body("pole").iquat)
    inertia = float((turn.reshape(3, 3) * model.body("pole").inertia @ turn.reshape(3, 3).T)[1, 1])
    d_cart, d_pole = (float(d) for d in model.dof_damping)
    g, gear = -float(model.opt.gravity[2]), float(model.actuator_gear[0, 0])
    _, angle, speed, spin = z.unbind(-1)
    height = cz * torch.cos(angle) - cx * torch.sin(angle)
    ahead = cx * torch.cos(angle) + cz * torch.sin(angle)
    a, b, c = cart + pole, pole * height, pole * (cx**2 + cz**2) + inertia
    force = gear * u[..., 0] - d_cart * speed + pole * ahead * spin**2
    torque = pole * g * ahead - d_pole * spin
    det = a * c - b * b
    return torch.stack([speed, spin, (c * force - b * torque) / det, (a * torque - b * force) / det], -1)


# --- rates -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", ALL)
def test_the_rates_of_a_task_are_the_velocities_and_accelerations_of_mujoco(env_id: str) -> None:
    obs, action, qacc, qvel = (torch.tensor(np.array(x)) for x in zip(*course(env_id, 40), strict=True))
    spec = STATE_SPECS[env_id]
    z, layout = spec.encode(obs), spec.layout
    rates = NominalMuJoCo(env_id)(z, action.double())
    free, n_q, n_v = layout.n_free, layout.n_q, layout.n_v
    torch.testing.assert_close(rates[:, :n_q], qvel[:, free : free + n_q])
    expected = torch.cat([qacc[:, free : free + n_q], qacc[:, :free]], -1)
    torch.testing.assert_close(rates[:, n_q : n_q + n_v], expected, rtol=1e-6, atol=1e-8)


def test_the_rates_of_reachers_rest_are_those_of_its_observations() -> None:
    nominal, spec = NominalMuJoCo("Reacher-v5"), STATE_SPECS["Reacher-v5"]
    base: Any = make_task("Reacher-v5").unwrapped
    base.reset(seed=0)
    qvel, h = np.array([3.0, -2.0, 0, 0]), 1e-6
    seen = []
    for side in (-h, h, 0.0):
        base.set_state(np.array([0.4, -1.1, 0.1, -0.05]) + side * qvel, qvel)
        seen.append(torch.tensor(base._get_obs()))
    before, after, now = (spec.encode(obs) for obs in seen)
    rate = nominal(now, now.new_zeros(2))
    torch.testing.assert_close(rate[-4:], ((after - before) / (2 * h))[-4:], rtol=1e-6, atol=1e-7)
    assert rate[-2:].abs().min() > 0.02
    np.testing.assert_array_equal(rate[-4:-2], 0)


def test_a_constraint_force_has_the_rate_zero() -> None:
    z = torch.tensor([[0.99, 0.1, 0.2, 1.0, 2.0, 3.0, 5.0]])
    assert NominalMuJoCo("InvertedDoublePendulum-v5")(z, torch.ones(1, 1))[0, -1] == 0


@pytest.mark.parametrize("env_id", ["Swimmer-v5", "Hopper-v5", "HalfCheetah-v5", "Walker2d-v5"])
def test_no_force_depends_on_the_place_that_a_walking_robot_does_not_show(env_id: str) -> None:
    base: Any = make_task(env_id).unwrapped
    model, n = base.model, STATE_SPECS[env_id].layout.n_free
    found = []
    for place in (0.0, 7.3):
        data = mujoco.MjData(model)
        data.qpos[:] = base.init_qpos
        data.qpos[n:] -= 0.05  # into the floor, where there is one
        data.qpos[:n], data.qvel[:], data.ctrl[:] = place, 0.3, 0.5
        mujoco.mj_forward(model, data)
        found.append(data.qacc.copy())
    np.testing.assert_allclose(found[0], found[1], rtol=1e-7, atol=1e-7)


def test_a_cart_with_a_pole_moves_as_in_the_textbook_whatever_the_factors() -> None:
    z, action = states(30)
    true = NominalMuJoCo(POLE)
    wrong = NominalMuJoCo(POLE, mass=1.7, damping=0.2, gravity=0.3, edit=heavy_pole)
    for name, factor in (("cart", 1.7), ("pole", 3.4)):
        np.testing.assert_allclose(wrong.model.body(name).mass, factor * true.model.body(name).mass)
        np.testing.assert_allclose(wrong.model.body(name).inertia, factor * true.model.body(name).inertia)
    # Contacts look at what MuJoCo derives from the masses.
    np.testing.assert_allclose(wrong.model.body_subtreemass[0], wrong.model.body_mass.sum())
    np.testing.assert_allclose(wrong.model.dof_damping, [0.2, 0.2])
    np.testing.assert_allclose(wrong.model.opt.gravity, [0, 0, -0.3 * 9.81])
    for nominal in (true, wrong):
        torch.testing.assert_close(nominal(z, action), cart_pole(nominal.model, z, action))
    assert (wrong(z, action) - true(z, action)).abs().max() > 5


def test_actions_beyond_their_range_are_clipped_and_have_no_gradient() -> None:
    nominal = NominalMuJoCo(POLE)
    z, action = states(4)[0], torch.tensor([-9.0, -3.0, 3.0, 9.0]).double()[None, :, None].requires_grad_()
    rates = nominal(z, action)
    torch.testing.assert_close(rates, cart_pole(nominal.model, z, action.detach().clamp(-3, 3)))
    (by_action,) = torch.autograd.grad(rates[..., 2].sum(), action)
    assert by_action[0, 0] == by_action[0, 3] == 0
    inside = action.detach().clamp(-2, 2).requires_grad_()
    (expected,) = torch.autograd.grad(cart_pole(nominal.model, z, inside)[..., 2].sum(), inside)
    torch.testing.assert_close(by_action[0, 1:3], expected[0, 1:3], rtol=1e-6, atol=0)


def test_rows_out_of_all_reach_are_nan_and_leave_the_others_alone() -> None:
    nominal = NominalMuJoCo(POLE)
    z, action = states(4)
    clean = nominal(z, action)
    z[0, 1, 2], z[0, 2, 0] = float("nan"), 1e12
    z.requires_grad_()
    rates = nominal(z, action)
    assert rates[0, 1:3, 2:].isnan().all()
    torch.testing.assert_close(rates[0, ::3], clean[0, ::3])
    rates.nansum().backward()
    assert z.grad is not None
    assert z.grad[0, 1:3].eq(0).all()
    assert z.grad[0, ::3].isfinite().all()


def test_rows_threads_types_and_members_make_no_difference() -> None:
    one, two = NominalMuJoCo("Hopper-v5"), NominalMuJoCo("Hopper-v5", threads=2)
    rows = course("Hopper-v5", 12)
    spec = STATE_SPECS["Hopper-v5"]
    z = spec.encode(torch.tensor(np.array([row[0] for row in rows]))).float().reshape(2, 6, -1)
    action = torch.tensor(np.array([row[1] for row in rows])).reshape(2, 6, -1)
    whole = one(z, action)
    assert whole.dtype == torch.float32
    assert torch.equal(whole, two(z, action))
    assert torch.equal(whole[1, 4], one(z[1, 4], action[1, 4]))
    with torch.inference_mode():
        assert torch.equal(whole, one(z, action))


# --- gradients ---------------------------------------------------------------------------------------------


def test_gradients_are_those_of_the_textbook() -> None:
    nominal = NominalMuJoCo(POLE, mass=1.3, edit=heavy_pole)
    z, action = (x.requires_grad_() for x in states(20))
    weight = torch.tensor(np.random.default_rng(1).normal(size=z.shape))
    found = torch.autograd.grad((nominal(z, action) * weight).sum(), (z, action))
    expected = torch.autograd.grad((cart_pole(nominal.model, z, action) * weight).sum(), (z, action))
    for mine, textbook in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, textbook, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("env_id", ["Reacher-v5", "Hopper-v5"])
def test_gradients_of_other_tasks_pass_torchs_own_check(env_id: str) -> None:
    nominal, rows = NominalMuJoCo(env_id), course(env_id, 3, seed=1)
    z = STATE_SPECS[env_id].encode(torch.tensor(np.array([row[0] for row in rows]))).requires_grad_()
    action = 0.8 * torch.tensor(np.array([row[1] for row in rows])).double()
    arguments = (z, action.requires_grad_())
    assert torch.autograd.gradcheck(nominal, arguments, eps=3e-6, atol=1e-4, rtol=1e-4)


def test_only_gradients_that_are_asked_for_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    nominal = NominalMuJoCo(POLE)
    asked: list[tuple[bool, bool]] = []
    own = nominal.pull_back

    def noted(*args: Any) -> Any:
        asked.append(args[-2:])
        return own(*args)

    monkeypatch.setattr(nominal, "pull_back", noted)
    z, action = states(3)
    assert not nominal(z, action).requires_grad
    nominal(z.requires_grad_(), action).sum().backward()
    assert z.grad is not None
    assert action.grad is None
    assert asked == [(True, False)]


def test_the_loss_of_a_segment_has_the_gradient_of_its_differences() -> None:
    g = torch.Generator().manual_seed(0)
    nominal, layout = NominalMuJoCo(POLE, edit=heavy_pole), STATE_SPECS[POLE].layout
    z, action = states(5)
    plan = 0.2 * torch.stack([action, -action, 0.5 * action])

    def loss_of(field: NominalResidualField) -> Tensor:
        end = z
        for held in plan:
            end = integrate(field, end, held, 0.04, Solver()).z
        return end.square().sum()

    def gradient_error(known: Any) -> float:
        field = NominalResidualField(known, 1, layout, 1, (8,), g).double()
        for weight in field.net.parameters():
            torch.nn.init.normal_(weight, std=0.5, generator=g)
        loss_of(field).backward()
        weight = field.net.net.weights[0]
        assert weight.grad is not None
        direction, h = torch.randn(weight.shape, generator=g).double(), 1e-5
        along = float((weight.grad * direction).sum())
        sides = []
        with torch.no_grad():
            for step in (h, -2 * h):
                weight += step * direction
                sides.append(float(loss_of(field)))
        numeric = (sides[0] - sides[1]) / (2 * h)
        return abs(along / numeric - 1)

    assert gradient_error(nominal) < 1e-6
    # What the gradient through MuJoCo is there for: without it, the loss of three intervals misleads.
    assert gradient_error(lambda z, a: nominal(z.detach(), a)) > 1e-3


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", ["Pusher-v5", "Ant-v5", "Humanoid-v5", "Pendulum-v1", "ode_rl/Acrobot-v0"])
def test_a_task_that_hides_its_state_or_has_no_mujoco_model_is_refused_by_name(env_id: str) -> None:
    with pytest.raises(UsageError, match=re.escape(env_id)):
        NominalMuJoCo(env_id)


@pytest.mark.parametrize(
    "factors",
    [
        {"mass": 0},
        {"mass": -1.0},
        {"damping": -0.1},
        {"gravity": float("nan")},
        {"mass": "2"},
        {"threads": 0},
    ],
)
def test_factors_without_a_physics_are_refused(factors: dict[str, Any]) -> None:
    (name,) = factors
    with pytest.raises(UsageError, match=name):
        NominalMuJoCo(POLE, **factors)


def test_states_and_actions_of_another_width_are_refused() -> None:
    nominal = NominalMuJoCo(POLE)
    for z, action in ((5, 1), (4, 2)):
        with pytest.raises(UsageError, match=r"z \[\*, 4\] and a \[\*, 1\]"):
            nominal(torch.zeros(2, 3, z), torch.zeros(2, 3, action))


# --- what is learned ---------------------------------------------------------------------------------------


def recorded(n: int, seed: int) -> ReplayBuffer:
    """Random actions in the true task, scaled to [-1, 1] as agents keep them."""
    env, buffer = make_task(POLE), ReplayBuffer(n, 4, 1)
    env.action_space.seed(seed)
    obs, _ = env.reset(seed=seed)
    for _ in range(n):
        action = env.action_space.sample()
        after, reward, terminated, truncated, info = env.step(action)
        row = Transition(obs, action / 3, float(reward), after, info["dt"], terminated, truncated)
        buffer.add(row)
        obs = env.reset()[0] if terminated or truncated else after
    return buffer


def world(structure: str, known: Known) -> WorldModel:
    low, high = torch.tensor([-3.0]), torch.tensor([3.0])
    config = WorldModelConfig(2, (32, 32), (8,), structure=structure)
    g = torch.Generator().manual_seed(0)
    return WorldModel(4, 1, 0.04, config, g, state_spec(POLE, 4), scaled(known, low, high))


def change_error(model: WorldModel, buffer: ReplayBuffer) -> float:
    """Root mean square error of one interval's change, in spreads of the change."""
    data = buffer.arrays()
    obs, action = (torch.tensor(x).expand(2, -1, -1) for x in (data.obs, data.action))
    with torch.no_grad():
        predicted = model.step(obs, action, torch.tensor(0.04)).z.mean(0).numpy()
    unit = (data.next_obs - data.obs).std(0)
    return float(np.sqrt((((predicted - data.next_obs) / unit) ** 2).mean()))


def test_what_a_wrong_model_gets_wrong_is_learned_from_300_steps() -> None:
    train, test = recorded(300, seed=0), recorded(200, seed=1)
    wrong = Known(nominal=NominalMuJoCo(POLE, edit=heavy_pole))
    config = FitConfig(updates=120, warm_start_updates=150, batch_size=32, patience=20)
    residual, plain = world("nominal-residual", wrong), world("ode", Known())
    nominal_alone = change_error(residual, test)
    for model in (residual, plain):
        report = fit(model, train, config, np.random.default_rng(0), "cpu")
        assert report.skipped == 0
    with_residual, without_nominal = change_error(residual, test), change_error(plain, test)
    assert nominal_alone > 0.02
    assert with_residual < nominal_alone / 3, (with_residual, nominal_alone)
    assert with_residual < without_nominal, (with_residual, without_nominal)


def test_an_agent_learns_on_a_nominal_model_and_is_read_again_with_it(tmp_path: Path) -> None:
    known = Known(nominal=NominalMuJoCo(POLE, mass=2.0))
    agent = MPC(
        POLE,
        preset=None,
        seed=0,
        device="cpu",
        known=known,
        horizon=0.2,
        warmup_steps=30,
        fit_every=20,
        model={"structure": "nominal-residual", "n_members": 2, "hidden": [16], "head_hidden": [8]},
        fit={"updates": 6, "warm_start_updates": 4, "batch_size": 8},
        planner={"candidates": 24, "iterations": 2, "elites": 4},
        value={"hidden": [8], "n_members": 2, "updates": 6, "refreshes": 2},
    ).learn(60)
    assert agent.fits == 2
    assert agent.fallbacks == 0
    agent.save(tmp_path / "agent")
    again = MPC.load(tmp_path / "agent", device="cpu", known=known)
    obs = np.array([0.1, -0.05, 0.3, 0.2], np.float32)
    np.testing.assert_array_equal(again.predict(obs)[0], agent.predict(obs)[0])
    with pytest.raises(UsageError, match="nominal"):
        MPC.load(tmp_path / "agent", device="cpu")
