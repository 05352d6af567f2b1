"""The agent as its users meet it: the shape of Stable-Baselines3, with time in seconds."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

import ode_rl.agents.planning
from ode_rl.agents import MPC
from ode_rl.agents.plan_progress import PlanState
from ode_rl.agents.planners import Deadline, Found, Warm
from ode_rl.checkpoint import write_checkpoint
from ode_rl.errors import UsageError
from ode_rl.known import Known
from ode_rl.names import DISCRETE_MODELS, PLANNERS
from tests.own_tasks import Balance, SpringCart

TINY: dict[str, Any] = {
    "preset": None,
    "device": "cpu",
    "horizon": 0.2,
    "warmup_steps": 30,
    "fit_every": 20,
    "model": {"n_members": 2, "hidden": [16], "head_hidden": [8]},
    "fit": {"updates": 6, "warm_start_updates": 4, "batch_size": 8, "segment_length": 2},
    "planner": {"candidates": 24, "iterations": 2, "elites": 4},
    "value": {"hidden": [8], "n_members": 2, "updates": 6, "refreshes": 2},
}
CART, BALANCE = "own/SpringCart-v0", "own/Balance-v0"
LOW, HIGH = np.array([-10.0, 2.0], np.float32), np.array([-4.0, 2.5], np.float32)


class Reach(gymnasium.Env[Any, Any]):
    """``x' = a`` in three dimensions of which two are driven, within odd bounds; episodes of 7 steps."""

    metadata = {"dt": 0.1}  # noqa: RUF012

    def __init__(self, dtype: type = np.float32) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), dtype)
        self.action_space = spaces.Box(LOW.astype(dtype), HIGH.astype(dtype), dtype=dtype)
        self.n = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.n, self.x = 0, self.np_random.normal(size=3)
        return self.x.astype(self.observation_space.dtype), {}

    def step(self, action: npt.NDArray[Any]) -> Any:
        assert self.action_space.contains(action)
        self.n += 1
        self.x = self.x + 0.1 * np.append(action, 1.0)
        reward = -float(np.abs(self.x).sum())
        return self.x.astype(self.observation_space.dtype), reward, False, self.n >= 7, {}


class Timeless(Reach):
    """A task that does not say how long its step lasts."""

    metadata = {}  # noqa: RUF012


def mpc(env: Any = CART, seed: int = 0, **settings: Any) -> MPC:
    return MPC(env, seed=seed, **{**TINY, **settings})


@pytest.fixture(scope="module")
def cart() -> MPC:
    """An agent that has learned a little; tests must leave it as it is."""
    return mpc().learn(60)


def observations(n: int, width: int = 2, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


# --- the tools of Stable-Baselines3 ------------------------------------------------------------------------


def test_evaluate_policy_runs_the_agent(cart: MPC) -> None:
    env = DummyVecEnv([lambda: Monitor(gymnasium.make(CART, max_episode_steps=8)) for _ in range(2)])
    returns, lengths = evaluate_policy(cart, env, 3, return_episode_rewards=True)
    assert lengths == [8, 8, 8]
    assert np.isfinite(returns).all()


def test_eval_and_checkpoint_callbacks_run_and_leave_files_that_load(tmp_path: Path) -> None:
    checks = EvalCallback(
        Monitor(gymnasium.make(CART, max_episode_steps=5)),
        n_eval_episodes=1,
        eval_freq=25,
        log_path=str(tmp_path),
        best_model_save_path=str(tmp_path),
        verbose=0,
    )
    saves = CheckpointCallback(20, str(tmp_path), name_prefix="cart")
    agent = mpc().learn(50, callback=[checks, saves])
    with np.load(tmp_path / "evaluations.npz") as log:
        assert log["timesteps"].tolist() == [25, 50]
    assert {p.name for p in tmp_path.glob("cart*")} == {"cart_20_steps.zip", "cart_40_steps.zip"}
    assert MPC.load(tmp_path / "cart_40_steps.zip", device="cpu").num_timesteps == 40
    best = MPC.load(next(tmp_path.glob("best_model*")), device="cpu")
    obs = observations(1)[0]
    assert best.predict(obs)[0].shape == agent.predict(obs)[0].shape


def test_a_callback_that_says_no_ends_the_training() -> None:
    agent = mpc()
    agent.learn(60, callback=lambda local, _: agent.num_timesteps < 35)
    assert agent.num_timesteps == 35


def test_a_callback_sees_every_step_and_how_long_it_lasted() -> None:
    seen: list[float] = []

    def watch(callback_locals: dict[str, Any], _: Any) -> bool:
        seen.extend(info["dt"] for info in callback_locals["infos"])
        return True

    agent = mpc()
    agent.learn(20, callback=watch)
    assert seen == [0.05] * 20


# --- predict -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_actions_have_the_shape_and_type_of_the_space_and_lie_within_its_odd_bounds(dtype: type) -> None:
    agent = mpc(Reach(dtype)).learn(40)
    obs = observations(5, 3)
    one, _ = agent.predict(obs[0])
    many, _ = agent.predict(obs)
    assert one.shape == (2,)
    assert many.shape == (5, 2)
    assert one.dtype == many.dtype == dtype
    assert all(agent.action_space.contains(action) for action in (one, *many))
    assert float(np.ptp(many, axis=0).min()) > 0


def test_bounds_of_actions_are_met_and_centred() -> None:
    agent = mpc(Reach())
    assert agent._to_env(np.array([[-1, -1], [0, 0], [1, 1]], np.float32)).tolist() == [
        LOW.tolist(),
        [-7.0, 2.25],
        HIGH.tolist(),
    ]
    scaled = np.array([[-0.5, 0.25]], np.float32)
    np.testing.assert_allclose(agent._from_env(agent._to_env(scaled)), scaled, atol=1e-6)


def test_the_same_arguments_give_the_same_action(cart: MPC) -> None:
    obs = observations(3)
    first, state = cart.predict(obs)
    cart.predict(observations(2, seed=1))  # whatever happens in between
    again, again_state = cart.predict(obs)
    np.testing.assert_array_equal(first, again)
    second, _ = cart.predict(obs, state)
    np.testing.assert_array_equal(second, cart.predict(obs, again_state)[0])


def test_the_state_carries_the_plans_on(cart: MPC) -> None:
    obs = observations(3)
    first, state = cart.predict(obs)
    second, after = cart.predict(obs, state)
    assert isinstance(state, PlanState)
    assert (state.calls, after.calls) == (1, 2)
    assert state.warm.mean.shape == (3, cart.grid.knots.n, 1)
    assert not np.array_equal(first, second)  # the same noise from another start is another search


def test_an_episode_start_begins_its_own_rows_anew_and_leaves_the_others(cart: MPC) -> None:
    obs = observations(4)
    _, state = cart.predict(obs)
    going, _ = cart.predict(obs, state)
    none, _ = cart.predict(obs, state, np.zeros(4, bool))
    some, _ = cart.predict(obs, state, np.array([False, True, False, True]))
    np.testing.assert_array_equal(none, going)
    changed = (some != going).any(1)
    assert changed.tolist() == [False, True, False, True]


class StubPlanner:
    """Plans 0, 0.1, 0.2, ... with elites that are its negative, kept."""

    def __init__(self) -> None:
        self.given: list[Warm] = []

    def __call__(self, score: Any, warm: Warm, *_: Any, **__: Any) -> Found:
        self.given.append(warm)
        plan = 0.1 * torch.arange(warm.mean.shape[1]).reshape(1, -1, 1).expand_as(warm.mean)
        after = Warm(plan, -plan.unsqueeze(1).expand_as(warm.elites))
        return Found(plan, after, torch.ones(len(plan), dtype=torch.bool), n_scored=7, n_iterations=1)


def test_the_first_action_of_the_plan_is_taken_and_the_rest_of_it_is_where_the_next_search_begins(
    cart: MPC, monkeypatch: pytest.MonkeyPatch
) -> None:
    planner = StubPlanner()
    monkeypatch.setattr("ode_rl.agents.planning.search", planner)
    obs = observations(3)
    action, state = cart.predict(obs)
    assert action.tolist() == [[0.0]] * 3
    _, state = cart.predict(obs, state)
    cart.predict(obs, state, np.array([False, True, False]))
    cold, going, mixed = planner.given
    moved = [0.1, 0.2, 0.3, 0.3]
    assert going.mean[..., 0].tolist() == [pytest.approx(moved)] * 3
    assert going.elites[:, 0, :, 0].tolist() == [pytest.approx([-x for x in moved])] * 3
    assert torch.equal(mixed.mean[[0, 2]], going.mean[[0, 2]])
    assert torch.equal(mixed.elites[[0, 2]], going.elites[[0, 2]])
    assert torch.equal(mixed.mean[1], cold.mean[1])
    assert mixed.elites[1].shape == cold.elites[1].shape
    assert not bool((mixed.elites[1] == going.elites[1]).any())


def test_while_learning_every_episode_begins_with_a_fresh_plan() -> None:
    class Watched(MPC):
        starts: list[bool]

        def _act(self, rows: Any, state: Any, episode_start: Any, *args: Any) -> Any:
            self.starts.append(bool(episode_start[0]))
            return super()._act(rows, state, episode_start, *args)

    agent = Watched(Reach(), seed=0, **TINY)
    agent.starts = []
    agent.learn(60)  # 30 of them at random; episodes have 7 steps
    assert agent.starts == [k % 7 == 0 for k in range(30, 60)]


def test_a_state_of_another_batch_size_is_a_fresh_start(cart: MPC) -> None:
    _, state = cart.predict(observations(4))
    action, _ = cart.predict(observations(2), state)
    np.testing.assert_array_equal(action, cart.predict(observations(2))[0])


def test_exploration_noise_is_added_only_when_asked_for() -> None:
    agent = mpc(explore_std=0.3).learn(40)
    obs = observations(4)
    calm, noisy = (agent.predict(obs, deterministic=flag)[0] for flag in (True, False))
    assert not np.array_equal(calm, noisy)
    assert float(np.abs(noisy).max()) <= 3.0
    quiet = mpc().learn(40)
    np.testing.assert_array_equal(
        quiet.predict(obs, deterministic=True)[0], quiet.predict(obs, deterministic=False)[0]
    )


@pytest.mark.parametrize("shape", [(3,), (2, 3), (1, 2, 2), ()])
def test_an_observation_of_a_wrong_shape_is_refused(cart: MPC, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"observation of shape \(2,\)"):
        cart.predict(np.zeros(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_observation_that_is_not_finite_is_refused(cart: MPC, value: float) -> None:
    with pytest.raises(UsageError, match="finite observation"):
        cart.predict(np.array([0.0, value]))


# --- how long the next step lasts --------------------------------------------------------------------------


class Deaf:
    """Chooses among fixed ramps: a search in which no noise has a part."""

    def __call__(self, score: Any, warm: Warm, *rest: Any, **_: Any) -> Found:
        b, k, a = warm.mean.shape
        judge = rest[2] if len(rest) > 2 else score
        ramps = torch.linspace(-1, 1, 41)[:, None] * torch.linspace(1, 0.5, k)
        plans = ramps[None, :, :, None].expand(b, -1, -1, a)
        plan = plans[torch.arange(b), judge(plans).argmax(1)]
        after = Warm(plan, plan.unsqueeze(1).expand_as(warm.elites))
        return Found(plan, after, torch.ones(b, dtype=torch.bool), n_scored=41, n_iterations=1)


@pytest.mark.parametrize("dt", [0.08, [0.08, 0.08, 0.08], [0.02, 0.2, 0.02], [0.3, 0.02, 0.05]])
def test_a_batch_with_its_own_durations_is_planned_as_robot_by_robot(
    cart: MPC, monkeypatch: pytest.MonkeyPatch, dt: Any
) -> None:
    monkeypatch.setattr("ode_rl.agents.planning.search", Deaf())
    obs, each = observations(3), [dt] * 3 if isinstance(dt, float) else dt
    together, state = cart.predict(obs, dt=dt)
    later, _ = cart.predict(obs, state, dt=dt)
    for i in range(3):
        alone, own = cart.predict(obs[i], dt=each[i])
        np.testing.assert_allclose(together[i], alone, rtol=1e-6)
        torch.testing.assert_close(state.warm.mean[i], own.warm.mean[0])
        torch.testing.assert_close(state.warm.elites[i], own.warm.elites[0])
        np.testing.assert_allclose(later[i], cart.predict(obs[i], own, dt=each[i])[0], rtol=1e-6)


def test_in_a_batch_every_robot_is_searched_for_with_its_own_duration_and_plan(cart: MPC) -> None:
    obs = observations(3)
    states = [cart.predict(x)[1] for x in obs]
    warm = Warm(*(torch.cat(parts) for parts in zip(*(s.warm for s in states), strict=True)))
    together, _ = cart.predict(obs, PlanState(warm, 1), dt=[0.02, 0.05, 0.05])
    # Each with the noise that it has alone.
    np.testing.assert_array_equal(together[0], cart.predict(obs[0], states[0], dt=0.02)[0])
    for i in (1, 2):
        np.testing.assert_allclose(together[i], cart.predict(obs[i], states[i], dt=0.05)[0], rtol=1e-5)
    assert not np.array_equal(together[0], cart.predict(obs[0], states[0], dt=0.05)[0])


def test_the_native_duration_is_meant_where_none_is_said(cart: MPC) -> None:
    obs = observations(2)
    said, unsaid = cart.predict(obs, dt=[0.05, 0.05]), cart.predict(obs)
    np.testing.assert_array_equal(said[0], unsaid[0])
    assert torch.equal(said[1].warm.mean, unsaid[1].warm.mean)


@pytest.mark.parametrize("dt", [0.0, [0.1, 0.1], float("nan"), "long"])
def test_a_duration_that_is_none_is_refused(cart: MPC, dt: Any) -> None:
    with pytest.raises(UsageError, match="one number or 3"):
        cart.predict(observations(3), dt=dt)


def test_while_learning_plans_begin_with_the_interval_that_the_task_announces() -> None:
    class Announcing(Reach):
        @property
        def interval(self) -> float:
            return 0.1 + 0.01 * self.n

    class Watched(MPC):
        told: list[Any]

        def _act(self, rows: Any, state: Any, start: Any, deterministic: bool, dt: Any, *args: Any) -> Any:
            self.told.append(None if dt is None else dt.tolist())
            return super()._act(rows, state, start, deterministic, dt, *args)

    for env, expected in (
        (Announcing(), [[0.1 + 0.01 * (k % 7)] for k in range(30, 40)]),
        (Reach(), [None] * 10),
    ):
        agent = Watched(env, seed=0, **TINY)
        agent.told = []
        agent.learn(40)
        assert agent.told == expected


# --- how plans are searched --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", PLANNERS)
@pytest.mark.parametrize("env", [CART, BALANCE])
def test_an_agent_learns_and_acts_with_every_planner(method: str, env: str) -> None:
    planner = {**TINY["planner"], "method": method, "gradient_steps": 2}
    agent = mpc(env, planner=planner).learn(34)
    assert agent.fits == 1
    obs = 3 * observations(32)
    action, state = agent.predict(obs)
    again, _ = agent.predict(obs)
    np.testing.assert_array_equal(action, again)
    later, _ = agent.predict(obs, state)
    assert all(agent.action_space.contains(row) for row in (*action, *later))
    assert float(np.ptp(action)) > 0


def test_a_model_that_is_blind_to_time_plans_in_native_intervals_alone() -> None:
    growing: dict[str, Any] = {"growth": 1.2, "horizon": 0.6}
    blind = mpc(model={**TINY["model"], "structure": "residual-mlp"}, **growing)
    assert blind.grid.intervals() == pytest.approx([blind.interval] * 12)
    assert blind.config["settings"]["growth"] == 1.0
    assert len(mpc(model={**TINY["model"], "structure": "dt-mlp"}, **growing).grid.intervals()) < 12


@pytest.mark.parametrize("structure", DISCRETE_MODELS)
def test_a_rival_without_a_vector_field_needs_no_word_on_what_the_state_is(structure: str) -> None:
    agent = mpc(model={**TINY["model"], "structure": structure}).learn(34)
    assert agent.predict(observations(2))[0].shape == (2, 1)


@pytest.mark.parametrize("settings", [{"members": "all"}, {"uncertainty": -1.0}])
def test_all_members_are_asked_where_it_was_said_or_their_disagreement_counts(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for name in ("assigned_scores", "ensemble_scores"):
        real = getattr(ode_rl.agents.planning, name)

        def spied(*args: Any, name: str = name, real: Any = real) -> Any:
            asked.append(name)
            return real(*args)

        monkeypatch.setattr(ode_rl.agents.planning, name, spied)
    mpc(**settings).predict(observations(2))
    assert set(asked) == {"ensemble_scores"}
    mpc().predict(observations(2))
    assert set(asked) == {"ensemble_scores", "assigned_scores"}


def test_a_bonus_for_disagreement_and_a_penalty_lead_to_different_plans() -> None:
    careful, neutral, curious = (
        mpc(uncertainty=weight, members="all").predict(observations(4))[0] for weight in (-5.0, 0.0, 5.0)
    )
    assert not np.array_equal(careful, neutral)
    assert not np.array_equal(neutral, curious)
    assert not np.array_equal(careful, curious)


def test_only_decisions_that_explore_are_curious() -> None:
    obs = observations(4)
    plain, curious = mpc(), mpc(curiosity=50.0)
    assert np.array_equal(curious.predict(obs)[0], plain.predict(obs)[0])
    assert not np.array_equal(curious.predict(obs, deterministic=False)[0], curious.predict(obs)[0])


@pytest.mark.parametrize("curiosity", [-1.0, float("nan"), float("inf")])
def test_a_curiosity_that_is_no_weight_is_refused(curiosity: float) -> None:
    with pytest.raises(UsageError, match="curiosity >= 0"):
        mpc(curiosity=curiosity)


def test_a_task_of_mujoco_whose_observations_are_in_double_precision_is_learned() -> None:
    agent = mpc("InvertedPendulum-v5", horizon=0.16).learn(55)
    assert agent.observation_space.dtype == np.float64
    assert agent.fits == 2
    assert int(agent.value.n_fits) > 0  # tasks that end are worth something at the end of a plan
    assert agent.buffer.arrays().obs.dtype == np.float32


def test_auto_precision_looks_at_the_smallest_layer_and_the_plans_of_one_member(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, int]] = []

    def resolve(name: str, device: Any, width: int = 999, rows: int = 999) -> str:
        asked.append((width, rows))
        return "float32"

    monkeypatch.setattr("ode_rl.agents.mpc.resolve_precision", resolve)
    model = {**TINY["model"], "hidden": [40, 24], "n_members": 5}
    for settings in ({}, {"members": "all"}, {"uncertainty": 1.0}):
        agent = mpc(model=model, **settings)
        assert agent.settings.precision == "float32"
    assert asked == [(24, 5), (24, 24), (24, 24)]  # of 24 candidates


# --- plans of others ---------------------------------------------------------------------------------------


def test_a_proposed_plan_is_tried_in_the_units_of_the_task(
    cart: MPC, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def stub(
        score: Any, warm: Warm, config: Any, noise: Any, judge: Any, proposals: Any, *_: Any, **__: Any
    ) -> Found:
        given.append(proposals)
        return StubPlanner()(score, warm)

    monkeypatch.setattr("ode_rl.agents.planning.search", stub)
    obs, plan = observations(2), np.array([3.0, -3.0, 0.0, 1.5]).reshape(1, 4, 1)
    cart.predict(obs, proposals=plan)
    cart.predict(obs, proposals=np.stack([plan, -plan]))
    cart.predict(obs, dt=[0.1, 0.05], proposals=np.stack([plan, -plan]))
    cart.predict(obs)
    scaled = torch.tensor([1.0, -1.0, 0.0, 0.5]).reshape(1, 4, 1)
    for found, expected in zip(
        given,
        [torch.stack([scaled, scaled]), torch.stack([scaled, -scaled]), -scaled[None], scaled[None], None],
        strict=True,
    ):
        assert (found is None) == (expected is None)
        if expected is not None:
            torch.testing.assert_close(found, expected)


def test_a_proposed_plan_better_than_all_drawn_ones_is_taken() -> None:
    def near_the_bound(obs: Any, action: Any, after: Any, dt: Any) -> Any:
        return -(action[..., 0] - 2.9).abs() * dt

    planner = {**TINY["planner"], "init_std": 0.01}  # which draws nothing near
    agent = mpc(known=Known(near_the_bound), planner=planner, members="all")
    obs = observations(2)
    assert float(agent.predict(obs)[0].max()) < 1.0
    found, _ = agent.predict(obs, proposals=np.full((1, 4, 1), 2.9))
    np.testing.assert_allclose(found, 2.9, rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 1), (1, 3, 1), (3, 1, 4, 1), (99, 4, 1)])
def test_proposals_of_a_wrong_shape_are_refused(cart: MPC, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="proposals"):
        cart.predict(observations(2), proposals=np.zeros(shape))


# --- budgets and fall-backs --------------------------------------------------------------------------------


class Ticking:
    """A clock that goes on by a millisecond whenever somebody looks at it."""

    def __init__(self) -> None:
        self.ms = 0

    def __call__(self) -> float:
        self.ms += 1
        return self.ms / 1000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Ticking:
    """The clock that budgets are measured by."""
    ticking, real = Ticking(), Deadline.after
    monkeypatch.setattr(Deadline, "after", lambda ms: real(ms, ticking))
    return ticking


@pytest.mark.parametrize("method", PLANNERS)
def test_a_budget_in_milliseconds_ends_a_search_with_what_was_found(method: str, clock: Ticking) -> None:
    planner = {**TINY["planner"], "method": method, "candidates": 48, "iterations": 50}
    obs = observations(2)
    _, state = mpc(planner=planner).predict(obs)
    hasty = mpc(planner={**planner, "budget_ms": 60.0})
    began = clock.ms
    action, cut = hasty.predict(obs)
    assert clock.ms - began < 60 + 10
    if method != "shooting":  # which scores all its plans at once
        assert 8 <= cut.scored < state.scored / 2
    assert bool((action != 0).all())


def test_a_decision_for_which_there_is_no_time_is_the_plan_of_before_and_no_failure(
    clock: Ticking, caplog: pytest.LogCaptureFixture
) -> None:
    obs = observations(2)
    _, state = mpc().predict(obs)
    agent = mpc(planner={**TINY["planner"], "budget_ms": 1.0})
    with caplog.at_level(logging.WARNING):
        action, after = agent.predict(obs, state)
    np.testing.assert_allclose(action, agent._to_env(state.warm.mean[:, 0].numpy()))
    assert after.scored == state.scored
    assert agent.fallbacks == 0
    assert not caplog.records


def test_what_is_learned_does_not_depend_on_a_budget_in_milliseconds() -> None:
    free, hasty = mpc().learn(40), mpc(planner={**TINY["planner"], "budget_ms": 1e-6}).learn(40)
    np.testing.assert_array_equal(free.buffer.arrays().action, hasty.buffer.arrays().action)


@pytest.mark.parametrize("method", PLANNERS)
def test_a_budget_in_evaluations_is_kept_and_repeats_exactly(method: str) -> None:
    planner = {**TINY["planner"], "method": method, "iterations": 9, "budget_evaluations": 70}
    one, again = mpc(planner=planner), mpc(planner=planner)
    obs = observations(2)
    action, state = one.predict(obs)
    assert 8 <= state.scored <= 70
    np.testing.assert_array_equal(action, again.predict(obs)[0])
    assert one.predict(obs, state)[1].scored <= 140


def test_where_no_plan_has_a_finite_score_the_plan_of_before_goes_on_and_that_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    agent, obs = mpc(), observations(3)
    _, state = agent.predict(obs)
    with torch.no_grad():
        for weight in agent.model.dynamics.parameters():
            weight.fill_(torch.nan)
    agent.planning.renew()
    with caplog.at_level(logging.WARNING):
        action, after = agent.predict(obs, state)
        agent.predict(obs, after)
    np.testing.assert_allclose(action, agent._to_env(state.warm.mean[:, 0].numpy()))
    assert agent.fallbacks == 6
    assert [record.getMessage() for record in caplog.records] == [
        f"no plan of 3 robot(s) has a finite score: the previous plan goes on ({n} times so far)"
        for n in (3, 6)
    ]


# --- learning ----------------------------------------------------------------------------------------------


def next_of(obs: npt.NDArray[Any], action: npt.NDArray[Any]) -> npt.NDArray[Any]:
    cart = SpringCart()
    cart._state = obs.astype(np.float64)
    return cart.step(3 * action)[0]


@pytest.mark.parametrize("n_envs", [1, 2])
def test_every_stored_transition_is_one_of_the_task_also_where_episodes_end(n_envs: int) -> None:
    env = DummyVecEnv([lambda: Monitor(gymnasium.make(CART, max_episode_steps=7)) for _ in range(n_envs)])
    agent = mpc(env).learn(60)
    assert agent.num_timesteps == len(agent.buffer) == 60
    data = agent.buffer.arrays()
    assert np.abs(data.action).max() <= 1
    for obs, action, after in zip(data.obs, data.action, data.next_obs, strict=True):
        np.testing.assert_allclose(next_of(obs, action), after, atol=1e-5)
    assert not data.terminated.any()
    trajectories = agent.buffer.trajectories()
    whole = [t for t in trajectories if len(t) == 7]
    assert len(whole) == n_envs * (60 // n_envs // 7)
    assert all(t.truncated for t in whole)
    for t in trajectories:
        for k in range(len(t)):
            np.testing.assert_allclose(next_of(t.obs[k], t.action[k]), t.obs[k + 1], atol=1e-5)


def test_terminations_are_stored_and_make_the_world_mortal() -> None:
    agent = mpc(BALANCE).learn(60)
    data = agent.buffer.arrays()
    assert data.terminated.sum() >= 1
    np.testing.assert_array_equal(data.terminated, np.abs(data.next_obs[:, 0]) > 1)
    assert agent.model.ends
    assert not mpc().learn(40).model.ends


def test_the_duration_that_a_step_tells_wins_over_the_native_one() -> None:
    class Irregular(SpringCart):
        steps = 0

        def step(self, action: Any) -> Any:
            self.steps += 1
            return (*super().step(action)[:4], {"dt": 0.05 + 0.001 * self.steps})

    agent = mpc(Irregular()).learn(20)
    assert agent.dt == 0.05
    assert agent.buffer.arrays().dt.tolist() == [0.05 + 0.001 * k for k in range(1, 21)]


def test_a_step_time_that_nobody_tells_is_asked_for_and_taken_from_the_argument() -> None:
    env = Timeless()
    with pytest.raises(UsageError, match="--dt SECONDS"):
        mpc(env)
    agent = mpc(env, dt=0.25, horizon=0.5).learn(5)
    assert agent.dt == 0.25
    assert set(agent.buffer.arrays().dt) == {0.25}
    assert agent.grid.knots.n == 2
    with pytest.raises(UsageError, match="at least one control interval"):
        mpc(env, dt=0.25, horizon=0.2)


def test_seeds_repeat_and_differ() -> None:
    obs = observations(3)
    one, again, other = (mpc(seed=seed).learn(50) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.buffer.arrays().obs, again.buffer.arrays().obs)
    np.testing.assert_array_equal(one.predict(obs)[0], again.predict(obs)[0])
    assert not np.array_equal(one.buffer.arrays().obs, other.buffer.arrays().obs)
    assert not np.array_equal(one.predict(obs)[0], other.predict(obs)[0])


def test_without_a_seed_agents_differ() -> None:
    env = gymnasium.make(CART)
    assert MPC(env, **TINY).seed != MPC(env, **TINY).seed


def test_fits_begin_after_the_warm_up_and_keep_their_distance() -> None:
    at: list[int] = []

    def watch(callback_locals: dict[str, Any], _: Any) -> bool:
        at.append(agent.fits)
        return True

    agent = mpc()
    agent.learn(75, callback=watch)
    # at[k] is what was fitted before step k + 1: fits come after steps 30, 50 and 70.
    assert [k for k in range(1, 75) if at[k] > at[k - 1]] == [30, 50, 70]


def test_learning_twice_in_a_row_goes_on_fitting() -> None:
    agent = mpc().learn(60)
    fits = agent.fits
    agent.learn(60)
    assert agent.num_timesteps == 60
    assert agent.fits >= fits + 2
    assert len(agent.buffer) == 120
    agent.learn(20, reset_num_timesteps=False)
    assert agent.num_timesteps == 80


def test_a_second_training_does_not_continue_the_last_episode_of_the_first() -> None:
    agent = mpc().learn(10).learn(10)
    assert [len(t) for t in agent.buffer.trajectories()] == [10, 10]


def test_learning_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one step"):
        mpc().learn(0)


# --- files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cart", "cart.zip"])
def test_a_loaded_agent_predicts_the_same_and_goes_on_learning(cart: MPC, tmp_path: Path, name: str) -> None:
    cart.save(tmp_path / name)
    assert (tmp_path / name).is_file() == name.endswith(".zip")
    loaded = MPC.load(tmp_path / name, device="cpu")
    obs = observations(3)
    mine, state = cart.predict(obs)
    theirs, their_state = loaded.predict(obs)
    np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(cart.predict(obs, state)[0], loaded.predict(obs, their_state)[0])
    assert loaded.config == cart.config
    assert (loaded.num_timesteps, loaded.fits, len(loaded.buffer)) == (60, cart.fits, 60)
    assert loaded.observation_space == cart.observation_space
    assert loaded.get_env() is None
    with pytest.raises(UsageError, match="environment to learn in"):
        loaded.learn(10)
    loaded.set_env(gymnasium.make(CART))
    loaded.learn(30, reset_num_timesteps=False)
    assert loaded.num_timesteps == 90
    assert loaded.fits > cart.fits


def test_an_agent_that_was_saved_midway_learns_on_like_the_one_that_was_not(tmp_path: Path) -> None:
    agent = mpc().learn(50)
    agent.save(tmp_path / "agent")
    loaded = MPC.load(tmp_path / "agent", env=gymnasium.make(CART), device="cpu")
    for either in (agent, loaded):
        env = either.get_env()
        assert env is not None
        env.seed(5)
        either.learn(30, reset_num_timesteps=False)
    np.testing.assert_array_equal(agent.buffer.arrays().obs, loaded.buffer.arrays().obs)
    obs = observations(3)
    np.testing.assert_array_equal(agent.predict(obs)[0], loaded.predict(obs)[0])


@pytest.mark.parametrize("by", ["hazard", "boundary"])
def test_a_stored_agent_plans_by_the_way_to_end_that_it_had_chosen(tmp_path: Path, by: str) -> None:
    agent = mpc(BALANCE).learn(60)
    assert agent.model.ends
    agent.model.choose_termination(by)
    agent.save(tmp_path / "agent")
    loaded = MPC.load(tmp_path / "agent", device="cpu")
    assert loaded.model.ends_by == by
    obs = 0.3 * observations(3)
    np.testing.assert_array_equal(agent.predict(obs)[0], loaded.predict(obs)[0])


def test_an_agent_that_has_not_learned_yet_can_be_stored_too(tmp_path: Path) -> None:
    agent = mpc()
    agent.save(tmp_path / "agent")
    loaded = MPC.load(tmp_path / "agent", device="cpu")
    obs = observations(2)
    np.testing.assert_array_equal(agent.predict(obs)[0], loaded.predict(obs)[0])


def test_the_checkpoint_of_another_agent_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "other", kind="sac", tensors={}, arrays={}, meta={})
    with pytest.raises(UsageError, match="kind 'mpc', got 'sac'"):
        MPC.load(tmp_path / "other")


def test_a_checkpoint_with_parts_missing_is_refused(cart: MPC, tmp_path: Path) -> None:
    parts = cart._parts()
    tensors = {"value": parts.tensors["value"]}
    write_checkpoint(tmp_path / "half", kind="mpc", tensors=tensors, arrays=parts.arrays, meta=parts.meta)
    with pytest.raises(UsageError, match="whole checkpoint of mpc"):
        MPC.load(tmp_path / "half", device="cpu")


def test_an_environment_with_other_spaces_is_refused(cart: MPC, tmp_path: Path) -> None:
    cart.save(tmp_path / "cart")
    loaded = MPC.load(tmp_path / "cart", device="cpu")
    for other in (Reach(), Balance()):
        with pytest.raises(UsageError, match="Give an environment like own/SpringCart-v0"):
            loaded.set_env(other)
    assert loaded.get_env() is None
    with pytest.raises(UsageError):
        MPC.load(tmp_path / "cart", env=BALANCE, device="cpu")


def test_an_environment_with_another_step_time_is_refused(cart: MPC, tmp_path: Path) -> None:
    class Slow(SpringCart):
        metadata = {**SpringCart.metadata, "dt": 0.1}  # noqa: RUF012

    cart.save(tmp_path / "cart")
    with pytest.raises(UsageError, match=r"0\.05"):
        MPC.load(tmp_path / "cart", env=Slow(), device="cpu")


# --- settings ----------------------------------------------------------------------------------------------


def test_settings_override_the_preset_one_by_one() -> None:
    agent = MPC(CART, preset="Pendulum-v1", seed=0, device="cpu", planner={"iterations": 7})
    assert agent.preset == "Pendulum-v1"
    assert agent.settings.planner.iterations == 7
    plain = MPC(CART, preset=None, seed=0, device="cpu")
    assert plain.preset == "none"
    assert agent.settings.horizon != plain.settings.horizon
    assert MPC(CART, seed=0, device="cpu").preset == "default"
    assert MPC("Pendulum-v1", seed=0, device="cpu").preset == "Pendulum-v1"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"horizn": 1.0}, "Did you mean horizon?"),
    ({"planner": {"candidate": 9}}, "Did you mean candidates"),
    ({"planner": {"candidates": "many"}}, "int for planner.candidates"),
    ({"model": {"solver": {"method": "rk5"}}}, "rk4"),
    ({"preset": "Pendulum-v2"}, "Did you mean Pendulum-v1"),
    ({"device": "tpu"}, "Write --device auto"),
    ({"dt": -1.0}, "dt > 0"),
    ({"gamma": 1.5}, "gamma"),
]


@pytest.mark.parametrize(("settings", "named"), BAD)
def test_a_wrong_setting_is_refused_before_any_step_is_taken(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        MPC(Timeless() if "dt" in settings else Reach(), **{**TINY, **settings})
    assert named in str(caught.value)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "MountainCar-v0"])
def test_a_task_with_discrete_actions_is_refused_with_its_space(env_id: str) -> None:
    with pytest.raises(UsageError, match=r"Discrete\(\d\)"):
        MPC(env_id)
