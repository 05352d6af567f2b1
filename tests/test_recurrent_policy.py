"""Recurrent policies as users meet them: states, resets, files, aliases, errors."""

from __future__ import annotations

import importlib.util
import io
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from ode_rl.agents import CfCPolicy, GRUODEPolicy
from ode_rl.envs import ControlInterval, TimeAware
from ode_rl.errors import UsageError

RecurrentPPO: Any = pytest.importorskip("sb3_contrib").RecurrentPPO
pytest.importorskip("ncps")

POLICIES: dict[str, Any] = {"CfCPolicy": CfCPolicy, "GRUODEPolicy": GRUODEPolicy}
SMALL = {"lstm_hidden_size": 8, "net_arch": [8]}
LEARNING: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "seed": 0, "device": "cpu"}


def pendulum(key: str | None = None, since_valid: bool = False) -> Any:
    env = ControlInterval(gymnasium.make("ode_rl/Pendulum-v0"), dt=(0.02, 0.08))
    return TimeAware(env, key=key, since_valid=since_valid)


def made(policy: Any, env: Any = None, **kwargs: Any) -> Any:
    policy_kwargs = SMALL | kwargs
    return RecurrentPPO(policy, env or pendulum(), policy_kwargs=policy_kwargs, **LEARNING)


@pytest.fixture(params=POLICIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def history(env: Any, steps: int = 6) -> list[Any]:
    found = [env.reset(seed=0)[0]]
    return found + [env.step(np.array([0.5], np.float32))[0] for _ in range(steps)]


def actions_along(agent: Any, observations: list[Any]) -> np.ndarray[Any, Any]:
    state, found = None, []
    for k, obs in enumerate(observations):
        action, state = agent.predict(obs, state, np.array([k == 0]), deterministic=True)
        found.append(action)
    return np.array(found)


def test_the_names_are_aliases_of_recurrent_ppo(name: str) -> None:
    assert RecurrentPPO.policy_aliases[name] is POLICIES[name]
    assert type(made(name).policy) is POLICIES[name]


@pytest.mark.parametrize("key", [None, "dt"])
def test_it_learns_saves_and_loads_to_the_same_actions(name: str, key: str | None, tmp_path: Path) -> None:
    env = pendulum(key)
    agent = made(name, env, dt_key="dt", time_constant=0.07).learn(32)
    agent.save(tmp_path / "agent")
    loaded = RecurrentPPO.load(tmp_path / "agent")
    observations = history(env)
    np.testing.assert_array_equal(actions_along(loaded, observations), actions_along(agent, observations))
    assert loaded.policy.time_constant == 0.07
    loaded.set_env(env)
    assert loaded.learn(16).num_timesteps == 16
    assert np.isfinite(evaluate_policy(loaded, env, 1, warn=False)[0])


def test_the_policy_alone_saves_and_loads_with_all_its_arguments(name: str) -> None:
    arguments = {"n_substeps": 3} if name == "GRUODEPolicy" else {"backbone_units": 5, "cfc_mode": "no_gate"}
    env = pendulum(since_valid=True)
    policy = made(name, env, dt_index=-2, shared_lstm=True, enable_critic_lstm=False, **arguments).policy
    file = io.BytesIO()
    policy.save(file)
    file.seek(0)
    loaded = POLICIES[name].load(file, device="cpu")
    for argument, value in arguments.items():
        assert getattr(loaded, argument) == value
    assert loaded.dt_index == -2
    observations = history(env)
    np.testing.assert_array_equal(actions_along(loaded, observations), actions_along(policy, observations))


def test_the_state_goes_in_and_comes_out_and_a_start_of_an_episode_empties_it(name: str) -> None:
    agent = made(name)
    observations = np.array(history(agent.get_env().envs[0])[:3])
    state: Any = None
    for _ in range(3):
        _, state = agent.predict(observations, state, np.full(3, state is None))
    assert [part.shape for part in state] == [(1, 3, 8), (1, 3, 8)]
    fresh, after_fresh = agent.predict(observations, None, np.ones(3, bool), deterministic=True)
    mixed, after = agent.predict(observations, state, np.array([True, False, True]), deterministic=True)
    np.testing.assert_allclose(mixed[[0, 2]], fresh[[0, 2]], rtol=1e-5)
    np.testing.assert_allclose(after[0][:, [0, 2]], after_fresh[0][:, [0, 2]], rtol=1e-4, atol=1e-7)
    assert not np.allclose(after[0][:, 1], after_fresh[0][:, 1], atol=1e-4)


def test_the_same_observations_after_another_time_give_another_action(name: str) -> None:
    agent = made(name)
    short = history(agent.get_env().envs[0])
    long = [obs * np.array([1, 1, 1, 4], obs.dtype) for obs in short]
    found = actions_along(agent, short), actions_along(agent, long)
    assert np.abs(found[0] - found[1])[1:].min() > 1e-5
    np.testing.assert_array_equal(found[0][0], found[1][0])  # no time has passed at the start


def test_what_ppo_evaluates_on_its_buffer_is_what_it_did(name: str) -> None:
    """Sequences cut at episode ends give the values and probabilities of acting step by step."""
    env = DummyVecEnv([lambda: gymnasium.wrappers.TimeLimit(pendulum(), 7)] * 2)
    agent = made(name, env)
    agent.learn(1)  # collects, then one epoch of updates
    _, callback = agent._setup_learn(1, None)
    agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
    for batch in agent.rollout_buffer.get(16):
        values, log_prob, _ = agent.policy.evaluate_actions(
            batch.observations, batch.actions, batch.lstm_states, batch.episode_starts
        )
        mask = batch.mask > 0.5
        torch.testing.assert_close(log_prob[mask], batch.old_log_prob[mask], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(values.flatten()[mask], batch.old_values[mask], atol=1e-5, rtol=1e-4)


def test_gradients_reach_every_weight_and_the_optimiser_holds_them_all(name: str) -> None:
    agent = made(name)
    held = {id(p) for group in agent.policy.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in agent.policy.parameters()}
    before = {key: value.clone() for key, value in agent.policy.named_parameters()}
    agent.learn(16)
    still = [key for key, value in agent.policy.named_parameters() if torch.equal(value, before[key])]
    assert still == []


def test_critics_without_a_memory_and_with_a_shared_one_run(name: str) -> None:
    plain = made(name, enable_critic_lstm=False).learn(16).policy
    assert plain.lstm_critic is None
    shared = made(name, enable_critic_lstm=False, shared_lstm=True).learn(16).policy
    assert shared.lstm_critic is None


def test_the_age_of_a_dict_is_a_feature_and_its_time_the_last() -> None:
    env = pendulum("dt", since_valid=True)
    policy = made("GRUODEPolicy", env, time_constant=0.5).policy
    obs = {"observation": np.array([[1.0, 2.0, 3.0]]), "dt": np.array([[0.05, 0.2]])}
    features = policy.extract_features(policy.obs_to_tensor(obs)[0])
    torch.testing.assert_close(features, torch.tensor([[1.0, 2.0, 3.0, 0.4, 0.1]]))


def test_a_call_without_state_in_mid_episode_warns_once(name: str) -> None:
    agent = made(name)
    first, second, *_ = history(agent.get_env().envs[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, state = agent.predict(first)
        agent.predict(second, state)
        agent.predict(second, episode_start=np.array([True]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        agent.predict(second)
        agent.predict(second)
    (one,) = caught
    assert "without its state" in str(one.message)
    assert one.filename == __file__


def test_an_observation_without_its_time_is_refused_with_the_wrapper_named(name: str) -> None:
    obs = history(pendulum())[1]
    with pytest.raises(UsageError, match="TimeAware"):
        made(name).predict(obs[:3])
    keyed = made(name, pendulum("dt"))
    for bad in ({"observation": obs[:3]}, obs):
        with pytest.raises(UsageError, match=r"'dt'.*TimeAware"):
            keyed.predict(bad)
    with pytest.raises(UsageError, match="Dict"):
        made(name).predict({"observation": obs})


def test_an_environment_without_time_is_refused_when_the_policy_is_made(name: str) -> None:
    with pytest.raises(UsageError, match=r"component -1 from -(inf|8).*TimeAware"):
        made(name, "Pendulum-v1")
    with pytest.raises(UsageError, match="dt_index"):
        made(name, dt_index=4)
    with pytest.raises(UsageError, match="'seconds'"):
        made(name, pendulum("dt"), dt_key="seconds")


def test_normalised_times_are_refused_and_times_beside_normalised_observations_are_not(name: str) -> None:
    with pytest.raises(UsageError, match="norm_obs_keys"):
        made(name, VecNormalize(DummyVecEnv([pendulum]))).learn(16)
    keyed = DummyVecEnv([lambda: pendulum("dt")])
    assert made(name, VecNormalize(keyed, norm_obs_keys=["observation"])).learn(16).num_timesteps == 16


def test_layers_and_arguments_of_an_lstm_are_refused(name: str) -> None:
    for wrong in ({"n_lstm_layers": 2}, {"lstm_kwargs": {"dropout": 0.1}}):
        with pytest.raises(UsageError, match="one layer"):
            made(name, **wrong)
    with pytest.raises(UsageError, match="time_constant"):
        made(name, time_constant=0.0)


def test_without_sb3_contrib_the_module_imports_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sb3_contrib.ppo_recurrent", None)
    found = importlib.util.find_spec("ode_rl.agents.recurrent_policy")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    space = spaces.Box(0, 1, (2,), np.float32)
    with pytest.raises(UsageError, match=r"sb3-contrib.*contrib"):
        module.GRUODEPolicy(space, space, lambda _: 1e-3)


def test_without_ncps_the_closed_form_policy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ncps.torch", None)
    with pytest.raises(UsageError, match=r"ncps.*contrib"):
        made("CfCPolicy")
    assert made("GRUODEPolicy")


class Echo(gymnasium.Env[Any, Any]):
    """Shows a sign at the start alone, and pays 1 for saying it again once 0.3 s have passed, else -1.

    Steps last 0.1 or 0.3 s, so that counting them does not tell when.
    """

    metadata = {"render_modes": []}  # noqa: RUF012
    observation_space = spaces.Box(np.array([-1, 0], np.float32), np.ones(2, np.float32))
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.sign = int(self.np_random.integers(2)) * 2 - 1
        self.now = 0.0
        return np.array([self.sign, 0.0], np.float32), {}

    def step(self, action: Any) -> Any:
        ripe = self.now > 0.29
        right = (2 if self.sign > 0 else 1) if ripe else 0
        dt = float(self.np_random.choice([0.1, 0.3]))
        self.now += dt
        return np.array([0.0, dt], np.float32), float(action == right), self.now > 0.9, False, {}


@pytest.mark.slow
def test_it_learns_what_takes_a_memory_and_a_clock(name: str) -> None:
    env = DummyVecEnv([Echo] * 8)
    arguments: dict[str, Any] = dict(
        n_steps=32, batch_size=256, n_epochs=10, learning_rate=5e-3, gamma=0.5, ent_coef=0.01
    )
    policy_kwargs = {"lstm_hidden_size": 24, "net_arch": [], "time_constant": 0.2}
    agent = RecurrentPPO(name, env, policy_kwargs=policy_kwargs, seed=0, device="cpu", **arguments)
    agent.learn(12_000)
    done = Echo()
    done.reset(seed=99)
    earned, steps = 0.0, 0
    for k in range(50):
        obs, _ = done.reset(seed=1000 + k)
        state, over = None, False
        while not over:
            action, state = agent.predict(obs, state, np.array([state is None]), deterministic=True)
            obs, reward, over, _, _ = done.step(action)
            earned, steps = earned + reward, steps + 1
    assert earned / steps > 0.9
