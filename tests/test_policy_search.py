"""The search among parameters of a policy: returns in known worlds, and what it finds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from ode_rl.agents import ODEPolicy
from ode_rl.agents.actor import MLPActor
from ode_rl.agents.actor_critic import ActorCritic
from ode_rl.agents.model_gradient import Discount, imagined
from ode_rl.agents.policy_config import PolicyConfig
from ode_rl.agents.policy_progress import Progress
from ode_rl.agents.policy_search import SearchReport, Trial, _finite
from ode_rl.buffer import ReplayBuffer
from ode_rl.errors import Stopped, UsageError
from ode_rl.normalize import Scale
from ode_rl.settings import build
from ode_rl.train import resume, train
from ode_rl.types import Transition
from ode_rl.world_model import WorldModel
from tests.known_worlds import known_world
from tests.test_actor_critic import NATIVE, RHO, TARGET, drive, driven, walks
from tests.test_ode_policy import BALANCE, CART, TINY, agent_of, observations
from tests.tiny_runs import assert_same_run, killed_at, tiny, use_tiny_settings

N_MEMBERS, STARTS = 2, 3
SEARCHED: dict[str, Any] = {"source": "searched", "hidden": [], "growth": 1.0}
CHANGED = {"explore_parameters": 0.2, "warmup_parameters": 0.5, "explore_seconds": 0.12}


def policy(search: dict[str, Any] | None = None, **settings: Any) -> ActorCritic:
    asked = {**SEARCHED, "horizon": 0.8, **settings, "search": search or {}}
    config = build(PolicyConfig, asked)
    return ActorCritic(1, 1, NATIVE, Discount(RHO, NATIVE), config, torch.Generator().manual_seed(0))


def actor_of(made: ActorCritic) -> MLPActor:
    assert isinstance(made.actor, MLPActor)
    return made.actor


def trial(made: ActorCritic, model: WorldModel, buffer: ReplayBuffer) -> Trial:
    return Trial(made, model, buffer, np.random.default_rng(0))


def several(made: ActorCritic, n: int) -> npt.NDArray[np.float64]:
    return np.random.default_rng(1).normal(size=(n, len(actor_of(made).vector())))


# --- returns -----------------------------------------------------------------------------------------------


def test_the_return_of_each_policy_is_that_of_its_own_roll_outs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = known_world(lambda z, a: a, lambda z, a: -((z - TARGET) ** 2), lambda z, a: 0.3 + 0 * z).float()
    made = policy({"margin": 100.0})
    course, actor = trial(made, model, walks()), actor_of(made)
    course.rates = -100.0, 100.0
    z0 = torch.tensor([[-0.4], [0.1], [0.7]])
    dt = torch.tensor([[0.1, 0.07, 0.05], [0.04, 0.1, 0.2], [0.1, 0.1, 0.1], [0.3, 0.02, 0.08]])
    monkeypatch.setattr(course, "_starts", lambda n: z0)
    monkeypatch.setattr(course, "_seconds", lambda n: dt)
    tried = several(made, 4)
    found = course.returns(actor, tried, STARTS)
    assert found.shape == (N_MEMBERS, 4)
    for p, parameters in enumerate(tried):
        actor.take_vector(torch.from_numpy(parameters))
        z = z0.expand(N_MEMBERS, STARTS, 1)
        seconds = dt[:, None].expand(-1, N_MEMBERS, -1)
        with torch.no_grad():
            alone = imagined(model, actor, z, z[..., :0], seconds, made.discount)
        onward = torch.cat([torch.ones_like(alone.onward[:1]), alone.onward.cumprod(0)[:-1]])
        expected = (onward * alone.reward).sum(0).mean(-1)
        np.testing.assert_allclose(found[:, p], expected.numpy(), rtol=1e-5)


def test_a_steady_reward_adds_up_to_its_closed_form() -> None:
    model = known_world(lambda z, a: 0 * a, lambda z, a: 2.0 + 0 * z).float()
    made, buffer = policy(dt_spread=1.0), walks()
    buffer.reward[:], buffer.dt[:] = 2.0 * NATIVE, NATIVE
    found = trial(made, model, buffer).returns(actor_of(made), several(made, 3), 4)
    expected = 2.0 * NATIVE * sum(math.exp(-RHO * NATIVE * k) for k in range(8))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_more_than_was_ever_recorded_is_not_promised() -> None:
    model = known_world(lambda z, a: 0 * a, lambda z, a: 1000.0 + 0 * z).float()
    made, buffer = policy(dt_spread=1.0), walks()
    buffer.reward[:], buffer.dt[:] = 2.0 * NATIVE, NATIVE
    found = trial(made, model, buffer).returns(actor_of(made), several(made, 3), 4)
    assert found.max() <= 2.0 * NATIVE * 8


def test_states_stay_near_what_was_recorded() -> None:
    seen: list[Tensor] = []

    def away(z: Tensor, a: Tensor) -> Tensor:
        seen.append(z.detach().clone())
        return 1000.0 + 0 * a

    model = known_world(away, lambda z, a: 0 * z, method="euler").float()
    made, buffer = policy({"margin": 0.5}), walks()
    trial(made, model, buffer).returns(actor_of(made), several(made, 3), 4)
    low, high = buffer.arrays().next_obs.min(), buffer.arrays().next_obs.max()
    assert max(float(z.max()) for z in seen) == pytest.approx(high + 0.25 * (high - low), rel=1e-5)


def test_what_would_leave_the_recorded_states_earns_no_more_than_their_mean() -> None:
    away = known_world(lambda z, a: 1000.0 + 0 * a, lambda z, a: 5.0 + 0 * z, method="euler").float()
    stays = known_world(lambda z, a: 0 * a, lambda z, a: 5.0 + 0 * z).float()
    made, buffer = policy(dt_spread=1.0), walks()
    n = len(buffer)
    buffer.dt[:], buffer.reward[:n] = NATIVE, NATIVE * np.where(np.arange(n) % 2, 1.0, 5.0)
    weights = sum(math.exp(-RHO * NATIVE * k) for k in range(8))
    for model, rate in ((away, 3.0), (stays, 5.0)):
        found = trial(made, model, buffer).returns(actor_of(made), several(made, 3), 4)
        np.testing.assert_allclose(found, rate * NATIVE * weights, rtol=1e-5)


def test_half_of_the_starts_are_beginnings_of_episodes() -> None:
    buffer = walks(n=4, length=10)
    first = {float(x) for x in buffer.arrays().obs[::10, 0]}
    course = trial(policy(), drive(), buffer)
    for _ in range(5):
        z = [float(x) for x in course._starts(20)[:, 0]]
        assert all(x in first for x in z[10:])
        assert not all(x in first for x in z[:10])


def test_beginnings_are_known_where_the_oldest_were_overwritten() -> None:
    buffer = walks(n=150, length=10)  # of 1,500 transitions 1,000 are kept
    course = trial(policy(), drive(), buffer)
    np.testing.assert_array_equal(course.first, np.arange(0, 1000, 10))


def test_a_return_that_is_no_number_is_worse_than_all_others() -> None:
    found = _finite(np.array([[1.0, np.nan], [3.0, -np.inf]]))
    assert found[0, 0] == 1.0
    assert found[1, 0] == 3.0
    assert found[:, 1].max() < 1.0
    assert not _finite(np.full((2, 2), np.nan)).any()


# --- search ------------------------------------------------------------------------------------------------


def test_a_point_is_driven_to_where_it_pays() -> None:
    made, rng = policy({"starts": 8}, horizon=2.0), np.random.default_rng(0)
    for _ in range(2):
        report = made.improve(drive(), walks(), rng)
    assert isinstance(report, SearchReport)
    assert driven(made, [-0.8, 0.0, 0.5, 1.0], steps=40) == pytest.approx([TARGET] * 4, abs=0.15)
    assert int(made.rounds) == 2


def test_the_search_goes_to_the_best_parameters_and_away_from_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first parameter decides what the members differ in, the last one what they agree on.
    def returns(self: Trial, actor: MLPActor, tried: npt.NDArray[np.float64], n: int) -> Any:
        doubt = np.abs(tried[:, 0] - 1.0)
        return -((tried[:, -1] + 2.0) ** 2) + np.stack([doubt, -doubt])

    monkeypatch.setattr(Trial, "returns", returns)
    made = policy({"doubt": 1.0, "generations": 40, "least_spread": 0.0, "spread": 1.0})
    report = made.improve(drive(), walks(), np.random.default_rng(0))
    assert isinstance(report, SearchReport)
    vector = actor_of(made).vector()
    assert float(vector[-1]) == pytest.approx(-2.0, abs=0.05)
    assert float(vector[0]) == pytest.approx(1.0, abs=0.05)
    assert report.objective == pytest.approx(0.0, abs=0.05)
    assert report.disagreement == pytest.approx(abs(float(vector[0]) - 1.0), abs=1e-5)


def test_somebody_can_stop_a_search() -> None:
    made, asked = policy(), [False, False, True]
    made.improve(drive(), walks(), np.random.default_rng(0))
    before = driven(made, [-0.5, 0.5])
    with pytest.raises(Stopped):
        made.improve(drive(), walks(), np.random.default_rng(0), lambda: asked.pop(0))
    assert driven(made, [-0.5, 0.5]) == pytest.approx(before, abs=1e-6)
    assert int(made.rounds) == 1


BAD: list[tuple[dict[str, Any], str]] = [
    ({"policy": {"source": "searched", "actor": "ode"}}, "the actor 'mlp'"),
    ({"policy": {"actor": "ode"}, "explore_parameters": 0.1}, "the actor 'mlp'"),
    ({"policy": {"search": {"elites": 100}}}, "elites <= population"),
    ({"policy": {"search": {"population": 0}}}, "population"),
    ({"policy": {"search": {"doubt": -1.0}}}, "doubt >= 0"),
    ({"policy": {"search": {"momentum": 1.0}}}, "momentum < 1"),
    ({"policy": {"search": {"heirs": 0}}}, "heirs"),
    ({"policy": {"search": {"fresh": -1}}}, "fresh >= 0"),
    ({"policy": {"search": {"fresh_spread": -1.0}}}, "fresh_spread >= 0"),
    ({"warmup_seconds": -1.0}, "warmup_seconds"),
    ({"warmup_seconds": 6.0}, "warmup_seconds <= explore_seconds=5"),
    ({"explore_afresh": 1.5}, "explore_afresh <= 1"),
    ({"explore_afresh": 0.5, "warmup_parameters": 0.5}, "explore_afresh with explore_parameters > 0"),
    ({"explore_afresh": 0.5, "explore_parameters": 0.5}, "explore_afresh with warmup_parameters > 0"),
    ({"explore_parameters": -0.1}, "explore_parameters >= 0"),
    ({"warmup_parameters": math.nan}, "warmup_parameters >= 0"),
    ({"explore_seconds": 0.0}, "explore_seconds"),
]


@pytest.mark.parametrize(("settings", "named"), BAD)
def test_a_wrong_setting_is_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        ODEPolicy(CART, preset=None, **settings)


# --- acting with changed parameters ------------------------------------------------------------------------


def searcher(env: Any = CART, **settings: Any) -> ODEPolicy:
    small = {"population": 6, "elites": 2, "generations": 2, "starts": 2}
    return agent_of(env, policy={**SEARCHED, "search": small}, **{**CHANGED, **settings})


def test_changes_last_for_their_time_and_begin_anew_with_an_episode() -> None:
    def drawn(now: Progress, *starts: bool) -> tuple[Progress, Tensor, list[bool]]:
        found, anew = now.changed(np.array(starts), 3, 1.0, rng)
        assert found.changes is not None
        return found, found.changes, anew.tolist()

    def passed(now: Progress, dt: float, *ended: bool) -> tuple[Progress, list[bool]]:
        x = np.zeros(1, np.float32)
        now, over = now.after([Transition(x, x, i + 1.0, x, dt, end, False) for i, end in enumerate(ended)])
        return now, over.tolist()

    rng, now = np.random.default_rng(0), Progress(np.zeros((2, 1)), np.ones(2, bool))
    now, first, anew = drawn(now, True, True)
    assert anew == [True, True]
    now, over = passed(now, 0.4, False, False)
    assert over == [False, False]
    now, second, anew = drawn(now, False, True)
    assert anew == [False, True]
    assert torch.equal(second[0], first[0])
    assert not torch.equal(second[1], first[1])
    now, over = passed(now, 0.6, False, True)  # the first has had its second, the other's task ended
    assert over == [True, True]
    assert now.earned is not None
    assert now.earned.tolist() == [2.0, 2.0]
    now, third, anew = drawn(now, False, False)
    assert anew == [True, False]
    assert not torch.equal(third[0], first[0])
    assert now.earned is not None
    assert now.earned.tolist() == [0.0, 2.0]


def test_the_best_are_kept_and_do_the_same_in_new_scales() -> None:
    made = policy({"heirs": 2})
    actor, tried = actor_of(made), torch.from_numpy(several(made, 4)).float()
    for parameters, rate in zip(tried, (1.0, 3.0, -5.0, 2.0), strict=True):
        made.record.add(parameters, rate)
    assert sorted(made.record.rates.tolist()) == [2.0, 3.0]
    made.take_scale(Scale(torch.tensor([0.2]), torch.tensor([3.0])))
    z, dt = torch.linspace(-1, 1, 5)[:, None], torch.full((5,), 0.2)

    def acts() -> list[Tensor]:
        found = []
        for parameters in made.record.known():
            actor.take_vector(parameters)
            found.append(actor(z, dt, z[:, :0])[0].detach())
        return found

    before = acts()
    made.take_scale(Scale(torch.tensor([-0.7]), torch.tensor([0.4])))
    for one, other in zip(before, acts(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_search_begins_at_what_earned_most_in_the_real_task(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[npt.NDArray[np.float64]] = []

    def returns(self: Trial, actor: MLPActor, tried: npt.NDArray[np.float64], n: int) -> Any:
        asked.append(tried.copy())
        return np.zeros((2, len(tried)))

    monkeypatch.setattr(Trial, "returns", returns)
    made = policy({"heirs": 2, "spread": 0.01, "generations": 1, "momentum": 0.0})
    made.take_scale(Scale.of(torch.from_numpy(walks().arrays().obs)))
    good = torch.from_numpy(several(made, 2) + 5.0).float()
    for parameters in good:
        made.record.add(parameters, 1.0)
    own = actor_of(made).vector()
    made.improve(drive(), walks(), np.random.default_rng(0))
    np.testing.assert_allclose(asked[0][0], own, rtol=1e-5)
    np.testing.assert_allclose(asked[0][1:3], good, rtol=1e-5)
    parents = np.concatenate([own[None].numpy(), good.numpy()])
    away = np.abs(asked[0][:, None] - parents).max(-1)
    assert away.min(1).max() < 0.1  # each is near one of them
    assert set(away.argmin(1)) == {0, 1, 2}


def test_a_fresh_search_finds_what_is_far_from_all_that_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def returns(self: Trial, actor: MLPActor, tried: npt.NDArray[np.float64], n: int) -> Any:
        # A low hill where the parents are, a high one around zero.
        far, near = (np.exp(-((tried - at) ** 2).mean(1)) for at in (50.0, -0.5))
        return np.stack([far + 2 * near] * 2)

    monkeypatch.setattr(Trial, "returns", returns)
    found = {}
    for fresh in (0, 1):
        made = policy({"fresh": fresh, "fresh_spread": 1.0, "spread": 0.1, "least_spread": 0.01})
        vector = actor_of(made).vector()
        actor_of(made).take_vector(torch.full_like(vector, 50.0))
        report = made.improve(drive(), walks(), np.random.default_rng(0))
        assert isinstance(report, SearchReport)
        found[fresh] = report.objective, float(actor_of(made).vector().mean())
    assert found[0] == pytest.approx((1.0, 50.0), abs=0.05)
    assert found[1] == pytest.approx((2.0, -0.5), abs=0.05)


def test_what_a_later_fresh_search_finds_is_tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def returns(self: Trial, actor: MLPActor, tried: npt.NDArray[np.float64], n: int) -> Any:
        return np.stack([-((tried + 0.5) ** 2).mean(1)] * 2)

    monkeypatch.setattr(Trial, "returns", returns)
    made = policy({"fresh": 1, "spread": 0.0, "least_spread": 0.0, "fresh_spread": 1.0, "generations": 20})
    made.improve(drive(), walks(), np.random.default_rng(0))
    first = actor_of(made).vector()
    assert float(first.mean()) == pytest.approx(-0.5, abs=0.1)
    assert made.record.next_untried() is None
    actor_of(made).take_vector(first + 7.0)
    made.improve(drive(), walks(), np.random.default_rng(1))
    assert float(actor_of(made).vector().mean()) == pytest.approx(6.5, abs=0.5)  # nothing known is given up
    found = made.record.next_untried()
    assert found is not None
    assert float(found.mean()) == pytest.approx(-0.5, abs=0.1)
    assert made.record.next_untried() is None


def test_what_is_to_be_tried_is_the_next_change_and_goes_on_record_as_it_is() -> None:
    agent = searcher(warmup_steps=10, explore_seconds=0.2, explore_std=0.0)
    agent.learn(10)
    agent.policy.rounds.fill_(1)
    agent.rounds = 1
    wanted = agent.policy.actor.vector() * 0.0 + 0.3  # type: ignore[operator]
    agent.policy.record.propose(wanted)
    agent.learn(12, reset_num_timesteps=False)
    assert agent.policy.record.next_untried() is None
    distance = (agent.policy.record.known() - wanted).abs().max(1).values
    assert float(distance.min()) < 1e-5


def test_policies_drawn_afresh_last_for_a_moment_and_do_not_go_on_record() -> None:
    agent = searcher(warmup_steps=5, warmup_seconds=0.06, explore_seconds=0.2, explore_afresh=1.0)
    agent.learn(30)
    assert agent.rounds
    assert not len(agent.policy.record.known())
    assert agent._progress.left is not None
    assert float(agent._progress.left.max()) <= 0.06
    changed = searcher(warmup_steps=5, warmup_seconds=0.06, explore_seconds=0.2).learn(30)
    assert len(changed.policy.record.known())


def test_policies_drawn_afresh_for_as_long_as_others_go_on_record() -> None:
    agent = searcher(warmup_steps=5, explore_seconds=0.2, explore_afresh=1.0).learn(30)
    assert agent.rounds
    assert len(agent.policy.record.known())


def test_moments_of_the_warm_up_do_not_go_on_record() -> None:
    short = searcher(warmup_steps=1000, warmup_seconds=0.06, explore_seconds=0.2).learn(30)
    assert not len(short.policy.record.known())
    long = searcher(warmup_steps=1000, warmup_seconds=0.2, explore_seconds=0.2).learn(30)
    assert len(long.policy.record.known())
    assert short._progress.left is not None
    assert float(short._progress.left.max()) <= 0.06


def test_what_whole_stretches_earned_goes_on_record() -> None:
    agent = searcher(warmup_steps=1000, explore_seconds=0.2)
    rates: list[float] = []
    real = agent.policy.record.add
    agent.policy.record.add = lambda p, rate: (rates.append(rate), real(p, rate))[1]  # type: ignore
    agent.learn(30)
    data = agent.buffer.arrays()
    n = round(0.2 / agent.interval)
    whole = data.reward[: len(rates) * n].reshape(-1, n).sum(1) / 0.2
    np.testing.assert_allclose(rates, whole, rtol=1e-5)
    assert len(rates) == 30 // n


def test_a_warm_up_with_changed_parameters_acts_as_these_actors_do() -> None:
    agent = searcher(explore_std=0.0, explore_seconds=100.0)
    agent.learn(12)
    assert agent.rounds == 0
    actor, changes = agent.policy.actor, agent._progress.changes
    assert isinstance(actor, MLPActor)
    assert changes is not None
    data = agent.buffer.arrays()
    actor.take_vector(actor.vector() + 0.5 * changes[0])
    scaled, _ = actor(torch.from_numpy(data.obs), torch.full((12,), agent.interval), torch.zeros(12, 0))
    np.testing.assert_allclose(data.action, scaled.detach().numpy(), atol=1e-6)
    assert float(np.abs(data.action).max()) > 0.05


def test_what_is_evaluated_is_the_policy_without_changes() -> None:
    agent = searcher().learn(40)
    obs = observations(3)
    scaled, _ = agent.policy.actor(torch.from_numpy(obs), torch.full((3,), agent.interval), torch.zeros(3, 0))
    np.testing.assert_allclose(agent.predict(obs)[0], 3 * scaled.detach().numpy(), atol=1e-6)


def test_a_task_that_ends_is_searched_too() -> None:
    agent = searcher(BALANCE).learn(70)
    assert agent.rounds == 3
    assert agent.model.ends


@pytest.mark.parametrize("n_envs", [1, 2])
def test_a_search_that_was_killed_ends_like_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_envs: int
) -> None:
    small = {"population": 6, "elites": 2, "generations": 2, "starts": 2}
    settings = {**TINY, **CHANGED, "policy": {**TINY["policy"], **SEARCHED, "search": small}}
    del settings["preset"], settings["device"]
    use_tiny_settings(monkeypatch, settings)
    whole, cut = tmp_path / "whole", tmp_path / "at52"
    with killed_at((52,), whole, tmp_path):
        train(tiny(run_dir=str(whole), agent="ode-policy", num_envs=n_envs), say=lambda line: None)
    assert resume(cut, say=lambda line: None) is not None
    assert_same_run(whole, cut)


def test_the_preset_of_the_swimmer_searches_long_roll_outs() -> None:
    agent = ODEPolicy(gymnasium.make("Swimmer-v5"), "auto", seed=0, device="cpu")
    assert agent.preset == "Swimmer-v5"
    assert agent.settings.policy.source == "searched"
    assert agent.policy.n_intervals == 500
