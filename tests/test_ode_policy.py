"""The agent `ode-policy` as its users meet it: the shape of Stable-Baselines3, with time in seconds."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
import torch
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

import ode_rl.agents.distillation
import ode_rl.agents.planning
from ode_rl.agents import MPC, ODEPolicy
from ode_rl.agents.distillation import COURSES, Distillation
from ode_rl.agents.model_gradient import imagined
from ode_rl.agents.planning import How
from ode_rl.cli import main
from ode_rl.envs.task import make_task
from ode_rl.envs.task_timing import TaskTiming
from ode_rl.errors import UsageError
from ode_rl.evaluate import evaluate_agent
from ode_rl.known import Known
from ode_rl.train import resume, train
from tests.own_tasks import SpringCart
from tests.tiny_runs import assert_same_run, killed_at, tiny, use_tiny_settings

TINY: dict[str, Any] = {
    "preset": None,
    "device": "cpu",
    "warmup_steps": 30,
    "round_every": 20,
    "model": {"n_members": 2, "hidden": [16], "head_hidden": [8]},
    "fit": {"updates": 6, "warm_start_updates": 4, "batch_size": 8, "segment_length": 2},
    "policy": {
        "hidden": [8],
        "n_memory": 4,
        "horizon": 0.2,
        "updates": 4,
        "starts": 8,
        "value_hidden": [8],
        "value_batch": 8,
    },
}
PLANNER: dict[str, Any] = {
    **{name: TINY[name] for name in ("preset", "device", "warmup_steps", "model", "fit", "policy")},
    "horizon": 0.2,
    "fit_every": 20,
    "planner": {"candidates": 24, "iterations": 2, "elites": 4},
    "value": {"hidden": [8], "n_members": 2, "updates": 6, "refreshes": 2},
}
CART, BALANCE = "own/SpringCart-v0", "own/Balance-v0"


def agent_of(
    env: Any = CART, seed: int = 0, policy: dict[str, Any] | None = None, **settings: Any
) -> ODEPolicy:
    merged = {**TINY, **settings, "policy": {**TINY["policy"], **(policy or {})}}
    return ODEPolicy(env, seed=seed, **merged)


@pytest.fixture(scope="module", params=["mlp", "ode"])
def cart(request: pytest.FixtureRequest) -> ODEPolicy:
    """An agent that has learned a little; tests must leave it as it is."""
    return agent_of(policy={"actor": request.param}).learn(60)


@pytest.fixture(scope="module")
def remembering() -> ODEPolicy:
    """One with a hidden state that matters."""
    agent = agent_of(policy={"actor": "ode"}).learn(40)
    with torch.no_grad():
        for i, p in enumerate(agent.policy.actor.parameters()):
            p.add_(0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    return agent


def observations(n: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n, 2)).astype(np.float32)


# --- predict -----------------------------------------------------------------------------------------------


def test_evaluate_policy_runs_the_agent(cart: ODEPolicy) -> None:
    env = DummyVecEnv([lambda: Monitor(gymnasium.make(CART, max_episode_steps=8)) for _ in range(2)])
    returns, lengths = evaluate_policy(cart, env, 3, return_episode_rewards=True)
    assert lengths == [8, 8, 8]
    assert np.isfinite(returns).all()


def test_one_and_many_observations_are_acted_on_within_the_bounds(cart: ODEPolicy) -> None:
    obs = observations(5)
    many, state = cart.predict(obs)
    one, _ = cart.predict(obs[3])
    assert (many.shape, one.shape) == ((5, 1), (1,))
    assert many.dtype == np.float32
    np.testing.assert_allclose(many[3], one, rtol=1e-5)
    assert all(cart.action_space.contains(action) for action in many)
    assert state.shape == (5, cart.policy.actor.n_memory)


def test_a_decision_is_one_pass_through_the_actor_and_asks_no_model(
    cart: ODEPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a policy does not plan")

    passes: list[int] = []
    hook = cart.policy.actor.net.register_forward_hook(lambda *_: passes.append(1))
    for part in (cart.model, cart.policy.value):
        for name in ("forward", "step", "roll", "rollout", "mean"):
            if hasattr(part, name):
                monkeypatch.setattr(part, name, refuse)
    with torch.enable_grad():
        cart.predict(observations(1)[0])
    hook.remove()
    assert passes == [1]


def test_the_hidden_state_goes_in_and_comes_out(remembering: ODEPolicy) -> None:
    obs = observations(3)
    _, state = remembering.predict(obs)
    later, _ = remembering.predict(obs, state)
    fresh, _ = remembering.predict(obs, None, np.ones(3, bool))
    some, _ = remembering.predict(obs, state, np.array([False, True, False]))
    assert (later != fresh).all()
    np.testing.assert_array_equal(some[[0, 2]], later[[0, 2]])
    np.testing.assert_array_equal(some[1], fresh[1])


def test_the_hidden_state_flows_for_as_long_as_the_action_is_held(remembering: ODEPolicy) -> None:
    obs = observations(2)
    (_, short), (_, long) = (remembering.predict(obs, dt=dt) for dt in (0.02, [0.02, 0.3]))
    torch.testing.assert_close(short[0], long[0], rtol=1e-2, atol=1e-3)
    assert float((short[1] - long[1]).abs().max()) > 1e-2


def test_a_hidden_state_that_is_missing_in_mid_episode_is_warned_of_once(
    remembering: ODEPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    remembering._warned = False
    obs = observations(2)
    with caplog.at_level(logging.WARNING):
        remembering.predict(obs, None, np.ones(2, bool))  # both begin: all is well
        assert not caplog.records
        for _ in range(3):
            remembering.predict(obs, None, np.array([True, False]))
    assert len(caplog.records) == 1
    assert "state = predict(obs, state, episode_start)" in caplog.text


def test_noise_is_added_only_when_asked_for(cart: ODEPolicy) -> None:
    obs = observations(4)
    calm, again, noisy = (cart.predict(obs, deterministic=flag)[0] for flag in (True, True, False))
    np.testing.assert_array_equal(calm, again)
    assert (noisy != calm).all()
    assert float(np.abs(noisy).max()) <= 3.0


@pytest.mark.parametrize("dt", [0.0, [0.1, 0.1], float("nan")])
def test_a_duration_that_is_none_is_refused(cart: ODEPolicy, dt: Any) -> None:
    with pytest.raises(UsageError, match="one number or 3"):
        cart.predict(observations(3), dt=dt)


@pytest.mark.parametrize("obs", [np.zeros(3), np.array([0.0, np.nan])])
def test_an_observation_of_another_task_is_refused(cart: ODEPolicy, obs: Any) -> None:
    with pytest.raises(UsageError, match="observation"):
        cart.predict(obs)


# --- learning ----------------------------------------------------------------------------------------------


def test_a_spring_cart_is_held_where_the_reward_is_by_a_policy_alone() -> None:
    settings: dict[str, Any] = {
        "warmup_steps": 150,
        "round_every": 75,
        "model": {"n_members": 3, "hidden": [32, 32], "head_hidden": [32]},
        "fit": {"updates": 150, "warm_start_updates": 100, "batch_size": 64},
        "policy": {
            "hidden": [32, 32],
            "horizon": 1.0,
            "updates": 80,
            "starts": 48,
            "learning_rate": 3e-3,
            "value_batch": 128,
            "value_learning_rate": 3e-3,
            "ramp": 2,
        },
    }
    agent = ODEPolicy(CART, preset=None, seed=0, device="cpu", **settings).learn(300)

    class Expert:
        """The force that holds the cart at its target, and feedback."""

        def predict(self, obs: Any, *_: Any) -> Any:
            error = SpringCart.target - obs[:, :1]
            force = SpringCart.stiffness * SpringCart.target + 10 * error - 3 * obs[:, 1:]
            return np.clip(force, -3, 3).astype(np.float32), None

    class Passive:
        def predict(self, obs: Any, *_: Any) -> Any:
            return np.zeros((len(obs), 1), np.float32), None

    found, best, worst = (evaluate_agent(a, CART, 5).mean_return for a in (agent, Expert(), Passive()))
    assert (found - worst) / (best - worst) > 0.7


@pytest.mark.parametrize("source", ["imagined", "decoupled"])
def test_a_task_that_ends_is_learned_with_both_sources(source: str) -> None:
    agent = agent_of(BALANCE, policy={"source": source}).learn(70)
    assert agent.rounds == 3
    assert agent.model.ends
    assert agent.skipped == 0


@pytest.mark.parametrize("n_envs", [1, 2])
def test_rounds_keep_their_distance_and_the_noise_has_the_colour_that_was_asked_for(n_envs: int) -> None:
    env = DummyVecEnv([lambda: Monitor(gymnasium.make(CART, max_episode_steps=7)) for _ in range(n_envs)])
    agent = agent_of(env, explore_std=0.0)
    at: list[int] = []
    real = agent._round

    def spied() -> bool:
        at.append(agent.num_timesteps)
        return real()

    agent._round = spied  # type: ignore[method-assign]
    agent.learn(72)
    assert at == [30, 50, 70]
    data = agent.buffer.arrays()
    assert len(data.dt) == 72
    # Without noise every action after the warm-up is the policy's.
    expected, _ = agent.predict(data.obs[70:])
    np.testing.assert_allclose(3 * data.action[70:], expected, rtol=1e-4, atol=1e-5)


def test_seeds_repeat_and_differ() -> None:
    obs = observations(3)
    one, again, other = (agent_of(seed=seed, policy={"actor": "ode"}).learn(50) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.buffer.arrays().obs, again.buffer.arrays().obs)
    np.testing.assert_array_equal(one.predict(obs)[0], again.predict(obs)[0])
    assert not np.array_equal(one.predict(obs)[0], other.predict(obs)[0])


def test_while_learning_the_policy_is_told_the_interval_that_the_task_announces() -> None:
    class Announcing(SpringCart):
        n = 0

        @property
        def interval(self) -> float:
            return 0.05 + 0.01 * (self.n % 3)

        def step(self, action: Any) -> Any:
            self.n += 1
            return super().step(action)

    told: list[float] = []

    class Watched(ODEPolicy):
        def _act(self, rows: Any, memory: Tensor, dt: Any) -> Any:
            told.extend(np.round(dt, 6).tolist())
            return super()._act(rows, memory, dt)

    Watched(Announcing(), seed=0, **TINY).learn(36)
    assert told == [0.05, 0.06, 0.07, 0.05, 0.06, 0.07]


def test_a_round_that_is_stopped_leaves_everything_as_it_was() -> None:
    agent = agent_of().learn(40)
    before = agent._parts()
    agent.stop_asked = lambda: True
    assert not agent._round()
    after = agent._parts()
    assert before.meta == after.meta
    for part, tensors in before.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, after.tensors[part][name]), (part, name)


# --- files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["agent", "agent.zip"])
def test_what_was_saved_acts_the_same_when_loaded(cart: ODEPolicy, tmp_path: Path, name: str) -> None:
    cart.save(tmp_path / name)
    loaded = ODEPolicy.load(tmp_path / name, device="cpu")
    obs = observations(4)
    first, state = cart.predict(obs)
    again, other = loaded.predict(obs)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(cart.predict(obs, state)[0], loaded.predict(obs, other)[0])
    assert loaded.config == cart.config
    assert loaded.num_timesteps == cart.num_timesteps


def test_a_loaded_agent_goes_on_learning(tmp_path: Path) -> None:
    saves = CheckpointCallback(40, str(tmp_path), name_prefix="cart")
    agent_of().learn(40, callback=saves)
    agent = ODEPolicy.load(tmp_path / "cart_40_steps.zip", env=CART, device="cpu")
    agent.learn(30, reset_num_timesteps=False)
    assert agent.num_timesteps == 70
    assert agent.rounds == 3


@pytest.mark.parametrize(("agent", "actor", "n_envs"), [("ode-policy", "ode", 2), ("mpc", "mlp", 1)])
def test_a_run_that_was_killed_ends_like_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agent: str, actor: str, n_envs: int
) -> None:
    settings = {**TINY, "policy": {**TINY["policy"], "actor": actor}}
    if agent == "mpc":
        settings = {**PLANNER, "proposals": "policy"}
    del settings["preset"], settings["device"]
    use_tiny_settings(monkeypatch, settings)
    whole, cut = tmp_path / "whole", tmp_path / "at52"
    with killed_at((52,), whole, tmp_path):
        train(tiny(run_dir=str(whole), agent=agent, num_envs=n_envs), say=lambda line: None)
    assert resume(cut, say=lambda line: None) is not None
    assert_same_run(whole, cut)


def test_an_agent_that_knew_something_is_loaded_with_it(tmp_path: Path) -> None:
    def reward(obs: Any, action: Any, after: Any, dt: Any) -> Any:
        return -((after[..., 0] - 1) ** 2) * dt

    agent_of(known=Known(reward)).learn(35).save(tmp_path / "a")
    with pytest.raises(UsageError, match="reward"):
        ODEPolicy.load(tmp_path / "a")
    assert ODEPolicy.load(tmp_path / "a", known=Known(reward)).rounds == 1


# --- bad input ---------------------------------------------------------------------------------------------


def test_a_preset_does_not_expect_the_bare_task_where_observations_are_delayed() -> None:
    bare, delayed = make_task("Pendulum-v1"), make_task("Pendulum-v1", TaskTiming(action_delay=0.05))
    assert ODEPolicy(bare).settings.model.structure == "second-order"
    assert ODEPolicy(delayed).settings.model.structure == "ode"
    assert ODEPolicy(delayed).settings.policy == ODEPolicy(bare).settings.policy


BAD: list[tuple[dict[str, Any], str]] = [
    ({"policy": {"horizon": 0.01}}, "at least one control interval, 0.05 s"),
    ({"policy": {"sources": "imagined"}}, "Did you mean source"),
    ({"polcy": {}}, "Did you mean policy"),
    ({"gamma": 2.0}, "gamma"),
    ({"preset": "Pendulum-v3"}, "Pendulum-v"),
]


@pytest.mark.parametrize(("settings", "named"), BAD)
def test_a_wrong_setting_is_refused_before_any_step_is_taken(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        ODEPolicy(CART, **{"preset": None, **settings})


def test_the_command_line_knows_the_agent_and_refuses_a_planner_for_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", CART, "--agent", "ode-policy", "--planner", "icem"]) == 2
    assert "no --planner for the agent ode-policy" in capfd.readouterr().err


# --- planners ----------------------------------------------------------------------------------------------


def test_a_planner_tries_what_the_policy_would_do_and_ends_in_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = MPC(CART, seed=0, proposals="policy", **PLANNER).learn(55)
    assert agent.policy is not None
    assert int(agent.policy.rounds) == agent.fits == 2
    given: list[Any] = []
    real = ode_rl.agents.planning.search  # type: ignore[attr-defined]

    def spied(
        score: Any, warm: Any, config: Any, noise: Any, judge: Any, plans: Any, *rest: Any, **more: Any
    ) -> Any:
        given.append(plans)
        return real(score, warm, config, noise, judge, plans, *rest, **more)

    monkeypatch.setattr(ode_rl.agents.planning, "search", spied)
    obs = observations(3)
    agent.predict(obs)
    plans = given[0]
    assert plans.shape == (3, 2, 4, 1)  # one plan for each member of the ensemble, four intervals
    z = torch.from_numpy(obs)
    with torch.no_grad():
        first, _ = agent.policy.actor(z, torch.full((3,), 0.05), z[:, :0])
        torch.testing.assert_close(plans[:, :, 0], first[:, None].expand(3, 2, 1))
        then = agent.model.step(z.expand(2, 3, 2), first.expand(2, 3, 1), torch.tensor(0.05)).z
        second, _ = agent.policy.actor(then, torch.full((2, 3), 0.05), then[..., :0])
    torch.testing.assert_close(plans[:, :, 1].transpose(0, 1), second)
    objective = agent.planning._objective(How(torch.Generator()))
    assert objective.value is agent.policy.value
    # Plans of the caller come first.
    agent.predict(obs, proposals=np.zeros((1, 4, 1)))
    assert given[1].shape == (3, 3, 4, 1)


def test_a_planner_with_a_policy_is_saved_with_it(tmp_path: Path) -> None:
    agent = MPC(CART, seed=0, proposals="policy", **PLANNER).learn(35)
    agent.save(tmp_path / "a")
    obs = observations(3)
    loaded = MPC.load(tmp_path / "a", device="cpu")
    np.testing.assert_array_equal(agent.predict(obs)[0], loaded.predict(obs)[0])


BRIEF: dict[str, Any] = {
    "rounds": 2,
    "states": 20,
    "steps": 3,
    "updates": 10,
    "last_updates": 10,
    "intervals": 8,
}


def asked_once(planner: MPC, obs: npt.NDArray[Any], dt: float | None = None) -> Any:
    """What the planner does first in these states."""
    z = torch.from_numpy(obs)
    held = planner.interval if dt is None else dt
    return next(planner.planning.course(z, torch.zeros(1, len(z), planner.planning.n_action), [held]))


def test_a_policy_is_distilled_from_what_the_best_plans_begin_with() -> None:
    planner = MPC(CART, seed=0, **{**PLANNER, "warmup_steps": 120}).learn(120)
    few = {"rounds": 4, "states": 160, "steps": 1, "last_updates": 1500, "intervals": 10}
    agent = ODEPolicy.distilled(planner, distillation=few, policy={"hidden": [32], "learning_rate": 5e-3})
    obs = planner.buffer.arrays().obs
    decision = asked_once(planner, obs)
    assert torch.equal(decision.z, torch.from_numpy(obs))
    wanted, got = decision.actions.numpy(), agent._from_env(agent.predict(obs)[0])
    assert float(np.std(wanted)) > 0.1
    assert float(np.corrcoef(wanted[:, 0], got[:, 0])[0, 1]) > 0.7
    assert agent.num_timesteps == len(agent.buffer) == 120
    improved = ODEPolicy.distilled(
        planner, improve=2, distillation=few, policy={**TINY["policy"], "hidden": [32]}
    )
    assert int(improved.policy.rounds) <= 2
    assert improved.learn(10, reset_num_timesteps=False).num_timesteps == 130


def test_the_planner_is_asked_where_the_policy_comes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    planner = MPC(CART, seed=0, **{**PLANNER, "warmup_steps": 120}).learn(120)
    asked: list[npt.NDArray[Any]] = []
    ask = planner.planning.course

    def listening(z: Tensor, pushes: Tensor, dt: list[float]) -> Any:
        asked.append(z.numpy())
        return ask(z, pushes, dt)

    monkeypatch.setattr(planner.planning, "course", listening)
    ODEPolicy.distilled(planner, distillation={**BRIEF, "states": 50})
    recorded = planner.buffer.arrays().obs

    def nearest(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.abs(rows[:, None] - recorded).max(-1).min(1)

    assert [len(rows) for rows in asked] == [50, 50]
    assert (nearest(asked[0]) == 0).all()
    assert (nearest(asked[1]) > 0).all()
    assert (asked[1] >= recorded.min(0)).all()
    assert (asked[1] <= recorded.max(0)).all()


def test_a_planner_at_work_in_its_model_goes_where_its_actions_lead_and_pushes_that_it_gets() -> None:
    planner = MPC(CART, seed=0, **{**PLANNER, "warmup_steps": 120}).learn(120)
    z = torch.from_numpy(planner.buffer.arrays().obs[:7])
    pushes = torch.from_numpy(np.random.default_rng(0).normal(0, 0.5, (4, 7, 1))).float()
    seconds = [0.1, 0.02, 0.05, 0.2]
    course = list(planner.planning.course(z, pushes, seconds))
    assert [float(each.dt[0]) for each in course] == pytest.approx(seconds)
    together = (planner.model.n_members, -1, -1)
    for (one, after), push in zip(itertools.pairwise(course), pushes[:-1], strict=True):
        done = (one.actions + push).clamp(-1, 1)
        outcome = planner.model.step(one.z.expand(together), done.expand(together), one.dt[0])
        torch.testing.assert_close(after.z, outcome.z.mean(0))
    assert torch.equal(course[0].actions, next(planner.planning.course(z, 0 * pushes, seconds)).actions)


def test_a_policy_is_taught_other_control_intervals_where_they_are_asked_for() -> None:
    planner = MPC(CART, seed=0, **{**PLANNER, "warmup_steps": 120}).learn(120)
    settings: dict[str, Any] = {"policy": {"hidden": [32], "learning_rate": 5e-3}}
    few: dict[str, Any] = {"rounds": 6, "states": 160, "steps": 1, "last_updates": 1500, "intervals": 10}
    few |= {"ratios": (1.0, 8.0)}
    agent, obs = ODEPolicy.distilled(planner, distillation=few, **settings), planner.buffer.arrays().obs
    answers = {}
    for ratio in (1.0, 8.0):
        decision = asked_once(planner, obs, ratio * planner.interval)
        wanted = decision.actions[:, 0].numpy()
        got = agent._from_env(agent.predict(obs, dt=ratio * planner.interval)[0])[:, 0]
        assert float(np.corrcoef(wanted, got)[0, 1]) > 0.5
        answers[ratio] = wanted, got
    # Told the longer interval it is nearer to what the planner does then.
    (_, native), (wanted, longer) = answers.values()
    assert np.square(longer - wanted).mean() < 0.8 * np.square(native - wanted).mean()


def test_the_planner_is_asked_about_intervals_as_they_were_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_task("ode_rl/Pendulum-v0", TaskTiming(dt_range=(0.02, 0.1)))
    planner = MPC(env, seed=1, **{**PLANNER, "warmup_steps": 120}).learn(120)
    asked: list[list[float]] = []
    followed: list[npt.NDArray[Any]] = []
    ask, follow = planner.planning.course, imagined

    def listening(z: Tensor, pushes: Tensor, dt: list[float]) -> Any:
        asked.append(dt)
        return ask(z, pushes, dt)

    def spied(*about: Any) -> Any:
        followed.append(about[4].numpy())
        return follow(*about)

    monkeypatch.setattr(planner.planning, "course", listening)
    monkeypatch.setattr(ode_rl.agents.distillation, "imagined", spied)
    few = {**BRIEF, "states": 30}
    ODEPolicy.distilled(planner, distillation=few)
    recorded = planner.buffer.arrays().dt
    # Two rounds of six sequences, along each of which the intervals change as they do in the task.
    assert [len(seconds) for seconds in asked] == [3] * 12
    assert len(set(itertools.chain.from_iterable(asked))) > 30
    assert all(np.isclose(recorded, dt).any() for dt in itertools.chain.from_iterable(asked))
    assert all(dt.shape == (8, 2, COURSES) and (dt.std(0) > 0.01).all() for dt in followed)
    asked.clear()
    followed.clear()
    ODEPolicy.distilled(planner, distillation={**few, "ratios": (0.25, 4.0)})
    # Each sequence has one ratio.
    courses = [seconds.tolist() for dt in followed for seconds in dt[:, 0].T]
    for seconds in asked + courses:
        ratios = [q for q in (0.25, 4.0) if all(np.isclose(q * recorded, dt).any() for dt in seconds)]
        assert len(ratios) == 1
    assert sum(sum(seconds) > 0.18 for seconds in asked) == 6


def test_few_states_are_asked_about_along_fewer_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_task("ode_rl/Pendulum-v0", TaskTiming(dt_range=(0.02, 0.1)))
    planner = MPC(env, seed=1, **{**PLANNER, "warmup_steps": 120}).learn(120)
    told = []
    imitate = ode_rl.agents.actor_critic.ActorCritic.imitate

    def listening(policy: Any, z: Tensor, *rest: Any) -> Any:
        told.append(len(z))
        return imitate(policy, z, *rest)

    monkeypatch.setattr(ode_rl.agents.actor_critic.ActorCritic, "imitate", listening)
    ODEPolicy.distilled(planner, distillation={**BRIEF, "states": 2})
    assert told == [6, 12]
    # Where nobody says how many, there are more than the 60 of a task whose intervals are all the same.
    told.clear()
    ODEPolicy.distilled(planner, distillation={**BRIEF, "rounds": 1, "states": None})
    assert told == [300]
    fixed = MPC(CART, seed=0, **{**PLANNER, "warmup_steps": 120}).learn(120)
    ODEPolicy.distilled(fixed, distillation={**BRIEF, "rounds": 1, "states": None})
    assert told == [300, 180]


def test_a_policy_is_followed_from_near_the_recorded_starts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    planner = MPC(CART, seed=0, **{**PLANNER, "warmup_steps": 120}).learn(120)
    followed: list[npt.NDArray[Any]] = []
    follow = imagined

    def spied(*about: Any) -> Any:
        followed.append(about[2][0].numpy())
        return follow(*about)

    monkeypatch.setattr(ode_rl.agents.distillation, "imagined", spied)
    few = {**BRIEF, "rounds": 1}
    ODEPolicy.distilled(planner, distillation=few)
    recorded, begun = planner.buffer.arrays().obs, followed[0][: COURSES // 2]
    firsts = np.stack([t.obs[0] for t in planner.buffer.trajectories()])
    apart = np.abs(begun[:, None] - firsts).max(-1).min(1)
    assert (apart > 0).mean() > 0.3
    off = (np.abs(begun[:, None] - firsts) / recorded.std(0)).max(-1).min(1)
    assert off.max() < 0.1 + 1e-4


def test_the_policy_of_the_last_round_remains_whatever_the_model_promises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planner = MPC(CART, seed=0, **{**PLANNER, "warmup_steps": 120}).learn(120)
    earns, seen = [1.0, 3.0, 2.0, -np.inf], []
    follow = ode_rl.agents.distillation._followed

    def scripted(*about: Any) -> Any:
        seen.append({name: value.clone() for name, value in about[1].state_dict().items()})
        return follow(*about)[0], earns[len(seen) - 1]

    monkeypatch.setattr(ode_rl.agents.distillation, "_followed", scripted)
    few = {**BRIEF, "rounds": 3}
    agent = ODEPolicy.distilled(planner, improve=1, distillation=few, policy={"updates": 2})
    assert len(seen) == 4
    for name, value in agent.policy.state_dict().items():
        assert torch.equal(value, seen[3][name])
    assert not torch.equal(seen[2]["actor.net.weights.0"], seen[3]["actor.net.weights.0"])


def test_a_value_never_promises_more_than_the_best_recorded_rate_for_ever() -> None:
    agent = ODEPolicy(CART, seed=0, **TINY).learn(60)
    rates = agent.buffer.arrays().reward / agent.buffer.arrays().dt
    low, high = agent.policy.value.bounds.tolist()
    ever = agent.policy.discount.native_dt / (1 - np.exp(-agent.policy.discount.rho * agent.dt))
    assert high == pytest.approx(max(0.0, rates.max() * ever))
    assert low == pytest.approx(min(0.0, rates.min() * ever))


def test_a_run_is_distilled_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_tiny_settings(monkeypatch)
    distilled, asked = ODEPolicy.distilled, []

    def briefly(planner: MPC, improve: int, how: dict[str, Any]) -> ODEPolicy:
        asked.append((improve, how))
        return distilled(planner, improve, {**BRIEF, **how})

    monkeypatch.setattr(ODEPolicy, "distilled", briefly)
    run = str(train(tiny(run_dir=str(tmp_path / "run"))).run.path)
    assert main(["distill", run, "--rounds", "1", "--improve", "1", "--episodes", "2"]) == 0
    said = capsys.readouterr().out
    assert asked == [(1, {"rounds": 1, "ratios": (1.0,)})]
    assert f"policy          {tmp_path / 'run' / 'policy.zip'}" in said
    assert main(["evaluate", str(tmp_path / "run" / "policy.zip"), "--episodes", "2"]) == 0
    again = capsys.readouterr().out
    line = next(each for each in said.splitlines() if each.startswith("return"))
    assert line in again.splitlines()


@pytest.mark.parametrize("ratios", ["", "1,zero", "0.5,0", "inf"])
def test_ratios_that_are_none_are_refused(ratios: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", "nowhere", "--dt-ratios", ratios]) == 2
    assert "Write --dt-ratios 0.5,1,2." in capsys.readouterr().err
    with pytest.raises(UsageError, match="ratios of control intervals above 0"):
        Distillation(ratios=())


@pytest.mark.parametrize("out", ["policy.pt", "nowhere/policy.zip"])
def test_a_policy_that_could_not_be_saved_is_not_distilled(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_tiny_settings(monkeypatch)
    run = str(train(tiny(run_dir=str(tmp_path / "run"))).run.path)
    assert main(["distill", run, "--out", str(tmp_path / out)]) == 2
    assert "--out policy.zip" in capsys.readouterr().err


def test_only_a_planner_is_distilled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_tiny_settings(monkeypatch, {})
    run = str(train(tiny(agent="sac", run_dir=str(tmp_path / "run"))).run.path)
    assert main(["distill", run]) == 2
    assert "a run of mpc, which has a planner" in capsys.readouterr().err


def test_nothing_is_distilled_from_a_planner_that_has_not_learned() -> None:
    with pytest.raises(UsageError, match="a planner that has learned"):
        ODEPolicy.distilled(MPC(CART, seed=0, **PLANNER))


def test_proposals_of_nobody_known_are_refused() -> None:
    with pytest.raises(UsageError, match="none or policy"):
        MPC(CART, **PLANNER, proposals="oracle")
