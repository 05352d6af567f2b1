"""The agent `dyna` as its users meet it: SAC of Stable-Baselines3 beside a learned world."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from ode_rl.agents import Dyna
from ode_rl.agents.mixed_replay import MixedReplayBuffer
from ode_rl.agents.model_rollouts import branched_rollouts
from ode_rl.agents.presets import preset_ids
from ode_rl.checkpoint import read_checkpoint
from ode_rl.cli import main
from ode_rl.errors import Stopped, UsageError
from ode_rl.evaluate import evaluate_agent
from ode_rl.fit import fit
from ode_rl.known import Known
from ode_rl.train import resume, train
from tests.tiny_runs import assert_same_run, killed_at, tiny, use_tiny_settings

CART, BALANCE = "tests.own_tasks:own/SpringCart-v0", "tests.own_tasks:own/Balance-v0"
TINY: dict[str, Any] = {
    "preset": None,
    "device": "cpu",
    "learning_starts": 30,
    "gradient_steps": 2,
    "batch_size": 20,
    "buffer_size": 1000,
    "fit_every": 20,
    "policy_kwargs": {"net_arch": [8]},
    "model": {"n_members": 2, "hidden": [8], "head_hidden": [4]},
    "fit": {"updates": 4, "warm_start_updates": 4, "batch_size": 8},
    "rollout": {"seconds": 0.1, "every": 5, "per_step": 8, "keep": 50},
}


def agent_of(env: Any = CART, seed: int = 0, **settings: Any) -> Dyna:
    return Dyna(env, seed=seed, **{**TINY, **settings})


def weights(agent: Dyna) -> dict[str, npt.NDArray[Any]]:
    found = {**agent.algorithm.policy.state_dict(), **agent.model.state_dict()}
    return {name: value.detach().numpy().copy() for name, value in found.items()}


def assert_same(one: dict[str, npt.NDArray[Any]], two: dict[str, npt.NDArray[Any]]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)


@pytest.fixture(scope="module")
def cart() -> Dyna:
    """An agent that has learned a little; tests must leave it as it is."""
    return agent_of().learn(60)


# --- the shape of Stable-Baselines3 ------------------------------------------------------------------------


def test_evaluate_policy_runs_the_agent(cart: Dyna) -> None:
    env = DummyVecEnv([lambda: Monitor(gymnasium.make(CART, max_episode_steps=8)) for _ in range(2)])
    returns, lengths = evaluate_policy(cart, env, 3, return_episode_rewards=True)
    assert lengths == [8, 8, 8]
    assert np.isfinite(returns).all()


def test_what_acts_and_learns_is_sac_of_stable_baselines(cart: Dyna) -> None:
    assert isinstance(cart.algorithm, SAC)
    assert cart.algorithm._n_updates == 2 * (60 - 30)
    assert cart.num_timesteps == cart.algorithm.num_timesteps == len(cart.buffer) == 60


def test_saved_and_loaded_it_acts_the_same(cart: Dyna, tmp_path: Path) -> None:
    cart.save(tmp_path / "agent.zip")
    again = Dyna.load(tmp_path / "agent.zip")
    obs = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    np.testing.assert_array_equal(cart.predict(obs)[0], again.predict(obs)[0])
    assert_same(weights(cart), weights(again))
    assert again.config == cart.config | {"device": again.config["device"]}


def test_saved_and_loaded_it_draws_the_same_batch_of_both_kinds(cart: Dyna, tmp_path: Path) -> None:
    cart.save(tmp_path / "agent")
    one, two = (Dyna.load(tmp_path / "agent") for _ in range(2))
    assert len(one.replay.imagined) == len(cart.replay.imagined) > 0
    assert (one.fits, one._fitted_at, one.spent) == (cart.fits, cart._fitted_at, cart.spent)
    for a, b in zip(one.replay.sample(40), two.replay.sample(40), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_loaded_agent_goes_on_learning(cart: Dyna, tmp_path: Path) -> None:
    cart.save(tmp_path / "agent")
    again = Dyna.load(tmp_path / "agent", env=CART, device="cpu")
    again.learn(25, reset_num_timesteps=False)
    assert (again.num_timesteps, len(again.buffer)) == (85, 85)
    assert again.fits > cart.fits
    assert again.buffer.following(np.array([59]))[0] == -1  # another episode


def test_the_same_seed_learns_the_same() -> None:
    one, two, other = (agent_of(seed=seed).learn(45) for seed in (1, 1, 2))
    assert_same(weights(one), weights(two))
    first = next(iter(weights(one)))
    assert not np.array_equal(weights(one)[first], weights(other)[first])


def test_several_environments_learn_together() -> None:
    agent = agent_of(DummyVecEnv([lambda: Monitor(gymnasium.make(CART)) for _ in range(3)])).learn(60)
    assert len(agent.buffer) == 60
    assert agent.fits >= 1
    assert agent.buffer.following(np.array([0, 1, 2])).tolist() == [3, 4, 5]


# --- what it learns from -----------------------------------------------------------------------------------


def test_batches_mix_both_kinds_from_the_first_fit_on(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    sample = MixedReplayBuffer.sample

    def watched(self: MixedReplayBuffer, batch_size: int, env: Any = None) -> Any:
        shares.append(self.n_real(batch_size) / batch_size)
        return sample(self, batch_size, env)

    monkeypatch.setattr(MixedReplayBuffer, "sample", watched)
    agent_of(real_share=0.25).learn(50)
    assert shares == [0.25] * 2 * 20


class Watched:
    """A function whose calls are noted."""

    def __init__(self, inner: Callable[..., Any], note: Callable[..., Any]) -> None:
        self.inner, self.note, self.notes = inner, note, []  # type: ignore[var-annotated]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.notes.append(self.note(*args))
        return self.inner(*args, **kwargs)


def test_the_world_is_fitted_and_imagined_in_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = Watched(fit, lambda model, buffer, *_: len(buffer))
    rounds = Watched(branched_rollouts, lambda model, act, buffer, *_: len(buffer))
    monkeypatch.setattr("ode_rl.agents.dyna.fit", fits)
    monkeypatch.setattr("ode_rl.agents.dyna.branched_rollouts", rounds)
    agent_of().learn(75)
    assert fits.notes == [30, 50, 70]
    assert rounds.notes == list(range(30, 75, 5))


def test_a_fit_throws_away_what_younger_models_imagined() -> None:
    agent = agent_of().learn(49)
    assert len(agent.replay.imagined) > 5 * 8
    agent.learn(2, reset_num_timesteps=False)
    assert agent.fits == 2
    assert len(agent.replay.imagined) <= 5 * 8


def test_horizons_follow_the_schedule_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = Watched(branched_rollouts, lambda model, act, buffer, n, horizon, *_: horizon)
    monkeypatch.setattr("ode_rl.agents.dyna.branched_rollouts", rounds)
    schedule = {"seconds": 0.1, "last_seconds": 0.3, "from_step": 30, "to_step": 50}
    agent_of(rollout={**TINY["rollout"], **schedule}).learn(56)
    np.testing.assert_allclose(rounds.notes, [0.1, 0.15, 0.2, 0.25, 0.3, 0.3])


def test_with_recorded_rows_alone_nothing_is_imagined() -> None:
    agent = agent_of(real_share=1.0).learn(40)
    assert agent.spent.imagined == len(agent.replay.imagined) == 0


def test_imagined_rows_stay_within_the_task(cart: Dyna) -> None:
    rows = cart.replay.imagined.rows
    n = len(cart.replay.imagined)
    assert (np.abs(rows.next_obs[:n]) <= 10).all()
    assert (np.abs(rows.action[:n]) <= 1).all()
    np.testing.assert_allclose(rows.seconds[:n], 0.05, rtol=1e-6)


def test_a_known_reward_is_what_imagined_rows_pay() -> None:
    def paid(obs: Any, action: Any, after: Any, dt: Any) -> Any:
        return 7.0 + action[..., 0] + 0 * dt

    agent = agent_of(known=Known(reward=paid)).learn(35)
    rows, n = agent.replay.imagined.rows, len(agent.replay.imagined)
    np.testing.assert_allclose(rows.reward[:n], 7.0 + 3 * rows.action[:n, 0], atol=1e-5)


def test_an_agent_with_known_functions_is_loaded_with_them(tmp_path: Path) -> None:
    known = Known(termination=lambda obs: obs[..., 0] > 9)
    agent_of(known=known).save(tmp_path / "agent")
    with pytest.raises(UsageError, match="termination"):
        Dyna.load(tmp_path / "agent")
    assert Dyna.load(tmp_path / "agent", known=known).model.ends


def test_tasks_that_end_leave_chances_of_an_end() -> None:
    agent = agent_of(BALANCE, model={**TINY["model"], "termination": "hazard"}).learn(60)
    ended = agent.replay.imagined.rows.ended[: len(agent.replay.imagined)]
    assert agent.model.ends
    assert ((ended > 0) & (ended < 1)).any()


@pytest.mark.parametrize("structure", ["residual-mlp", "gru-dt"])
def test_rivals_of_the_ode_serve_as_worlds(structure: str) -> None:
    agent = agent_of(model={**TINY["model"], "structure": structure}).learn(40)
    assert agent.model.is_discrete
    assert len(agent.replay.imagined) > 0


def test_the_actor_follows_gradients_of_the_world_if_asked_to() -> None:
    expansion = {"updates": 3, "seconds": 0.1, "starts": 10}
    plain, expanded = agent_of().learn(33), agent_of(expansion=expansion).learn(33)
    assert (plain.spent.expansions, expanded.spent.expansions) == (0, 3 * 3)
    one, two = weights(plain), weights(expanded)
    assert not np.array_equal(one["actor.mu.weight"], two["actor.mu.weight"])
    before = agent_of(expansion=expansion).learn(30)
    assert before.spent.expansions == 0


# --- layer-normalised critics ------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [False, True])
def test_critics_have_layer_normalisation_if_asked_for(wanted: bool, tmp_path: Path) -> None:
    agent = agent_of(layer_norm_critics=wanted, policy_kwargs={"net_arch": [8, 8]}).learn(35)
    policy: Any = agent.algorithm.policy
    for critic in (policy.critic, policy.critic_target):
        for net in critic.q_networks:
            assert sum(isinstance(layer, nn.LayerNorm) for layer in net) == (2 if wanted else 0)
    assert not any(isinstance(layer, nn.LayerNorm) for layer in policy.actor.modules())
    learned = {id(p) for group in policy.critic.optimizer.param_groups for p in group["params"]}
    assert learned == {id(p) for net in policy.critic.q_networks for p in net.parameters()}
    agent.save(tmp_path / "agent")
    assert_same(weights(agent), weights(Dyna.load(tmp_path / "agent")))


# --- stopping and accounting -------------------------------------------------------------------------------


class Keeper(BaseCallback):
    """Notes safe points, and what the agent was then."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def _on_step(self) -> bool:
        return True

    def on_safe_point(self, agent: Any) -> None:
        self.seen.append((agent.num_timesteps, agent.fits))


def test_a_fit_that_is_asked_to_stop_leaves_no_trace_and_ends_the_learning() -> None:
    agent, asked = agent_of(), [0]
    agent.learn(49)
    before, rng = weights(agent), agent.rng.bit_generator.state

    def stop() -> bool:
        asked[0] += 1
        return asked[0] > 2

    keeper = Keeper()
    agent.stop_asked = stop
    # One step, with its learning, and then the fit that is dropped.
    agent.learn(10, callback=keeper, reset_num_timesteps=False)
    assert agent.num_timesteps == 50
    assert keeper.seen[-1] == (50, 1)
    assert asked[0] == 3
    after = weights(agent)
    world = agent.model.state_dict().keys()
    assert_same({name: before[name] for name in world}, {name: after[name] for name in world})
    assert agent._fitted_at == 30
    assert rng != agent.rng.bit_generator.state  # of the step, not of the fit
    agent.stop_asked = lambda: False
    agent.learn(1, reset_num_timesteps=False)
    assert agent.fits == 2


def test_a_fit_that_fails_leaves_the_world_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = agent_of().learn(49)
    before = {name: value.clone() for name, value in agent.model.state_dict().items()}

    def broken(model: Any, *_: Any, **__: Any) -> Any:
        for parameter in model.parameters():
            parameter.data.zero_()
        raise MemoryError

    monkeypatch.setattr("ode_rl.agents.dyna.fit", broken)
    with pytest.raises(MemoryError):
        agent.learn(5, reset_num_timesteps=False)
    for name, value in agent.model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_stopped_is_not_seen_outside() -> None:
    agent = agent_of()
    agent.stop_asked = lambda: True
    try:
        agent.learn(60)
    except Stopped:
        pytest.fail("learn ends like any other")
    assert (agent.num_timesteps, agent.fits) == (30, 0)


class Written(Logger):
    """Keeps what is recorded."""

    def __init__(self) -> None:
        super().__init__(None, [])
        self.all: dict[str, Any] = {}

    def record(self, key: str, value: Any, exclude: Any = None) -> None:
        self.all[key] = value
        super().record(key, value, exclude)


def test_what_was_spent_is_logged() -> None:
    agent, logger = agent_of(), Written()
    agent.set_logger(logger)
    agent.learn(72)
    assert logger.all["spent/gradient_steps"] == 2 * 40
    assert logger.all["spent/model_updates"] == agent.spent.model_updates == 3 * 4
    assert logger.all["spent/field_evaluations"] > 0
    assert 0 < logger.all["spent/imagined_steps"] <= agent.spent.imagined
    assert 0 < logger.all["spent/wall_s_per_step"] < 5
    assert logger.all["imagined/horizon_s"] == 0.1
    assert 0 < logger.all["imagined/share_of_horizon"] <= 1
    assert "model/dynamics_loss" in logger.all


# --- resume ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "moment"),
    [
        pytest.param({}, 20, marks=pytest.mark.slow),
        ({}, 53),
        ({"num_envs": 2, "steps": 72, "dt_range": (0.05, 0.2)}, 56),
    ],
    ids=["before the first fit", "between two rounds", "two environments, a range of intervals"],
)
def test_a_run_that_was_killed_ends_like_one_that_was_not(
    changes: dict[str, Any], moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_settings(monkeypatch, {k: v for k, v in TINY.items() if k not in ("preset", "device")})
    # Checkpoints within episodes, too, and where there was no round of roll-outs.
    monkeypatch.setattr("ode_rl.callbacks.RunRecorder._is_due", lambda self: self.num_timesteps % 7 == 5)
    whole, cut = tmp_path / "whole", tmp_path / f"at{moment}"
    with killed_at((moment,), whole, tmp_path):
        train(tiny(agent="dyna", run_dir=str(whole), **changes), say=lambda line: None)
    assert resume(cut, say=lambda line: None) is not None
    assert_same_run(whole, cut)
    world = read_checkpoint(whole / "checkpoint").meta["world"]
    assert world["fits"] >= 2


# --- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gradient_step": 3}, "'gradient_step'.*gradient_steps"),
        ({"real_shar": 0.5}, "'real_shar'.*real_share"),
        ({"rollout": {"second": 0.1}}, "'rollout.second'.*rollout.seconds|'rollout.second'.*seconds"),
        ({"model": {"structure": "od"}}, "'od'"),
        ({"real_share": 1.5}, "0 <= real_share <= 1"),
        ({"fit_every": 0}, "fit_every >= 1"),
        ({"fit_growth": -0.1}, "fit_growth >= 0"),
        ({"normalize": True}, "normalize"),
        ({"n_steps": 3}, "n_steps"),
        ({"discount": "step"}, "discount"),
        ({"policy_kwargs": {"net_arc": [8]}}, "net_arch"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        agent_of(**settings)


def test_a_task_that_it_cannot_act_in_is_refused_with_its_space() -> None:
    with pytest.raises(UsageError, match="Discrete"):
        agent_of("CartPole-v1", dt=0.02)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["Pendulum-v1", "--preset", "Pendulum-v2"], ["Pendulum-v2", "Did you mean Pendulum-v1"]),
        (["Pendulum-v1", "--preset", "Hopper-v5"], ["Hopper-v5", "Pendulum-v1"]),
        (["CartPole-v1"], ["Discrete"]),
        (["Pendulum-v1", "--planner", "cem"], ["planner", "mpc"]),
    ],
)
def test_bad_input_is_one_clear_message(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *arguments, "--agent", "dyna", "--steps", "5"]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words)
    assert "Traceback" not in said
    assert not list(tmp_path.glob("runs/*"))


# --- presets and learning ----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [*preset_ids("dyna"), "default"])
def test_every_preset_builds(key: str) -> None:
    agent = Dyna(CART if key == "default" else key, preset=key, device="cpu", seed=0)
    assert agent.preset == key


@pytest.mark.slow
@pytest.mark.parametrize("key", preset_ids("dyna"))
def test_every_preset_learns_a_few_steps(key: str) -> None:
    agent = Dyna(key, device="cpu", seed=100, learning_starts=40, fit={"updates": 5, "warm_start_updates": 5})
    agent.learn(45)
    assert agent.fits == 1
    assert len(agent.replay.imagined) > 100
    obs = np.zeros((2, *agent.observation_space.shape), np.float32)
    assert np.isfinite(agent.predict(obs)[0]).all()


@pytest.mark.slow
def test_the_command_line_trains_it_with_the_model_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--agent", "dyna", "--model", "residual-mlp", "--termination", "hazard", "--seed", "3"]
    rest = ["--steps", "110", "--eval-episodes", "1", "--no-video", "--no-progress", "--run-dir", "run"]
    assert main(["train", CART, *flags, *rest]) == 0
    config = json.loads(Path("run/config.json").read_text())
    assert config["settings"]["model"]["structure"] == "residual-mlp"
    assert config["settings"]["model"]["termination"] == "hazard"
    assert json.loads(Path("run/evaluation.json").read_text())["n_episodes"] == 1


@pytest.mark.slow
def test_a_spring_cart_is_held_where_the_reward_is() -> None:
    agent = Dyna(
        CART,
        preset=None,
        seed=100,
        device="cpu",
        learning_starts=100,
        learning_rate=1e-3,
        gradient_steps=5,
        batch_size=128,
        policy_kwargs={"net_arch": [64, 64]},
        fit_every=100,
        model={"hidden": [32, 32], "head_hidden": [32]},
        fit={"updates": 200},
        rollout={"seconds": 0.2, "per_step": 200},
    ).learn(500)
    # Random actions return less than -90, one who knows the cart more than -20.
    assert evaluate_agent(agent, CART, 5).mean_return > -40
