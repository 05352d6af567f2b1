"""Features of continuous depth: a closed-form flow, its order, and the algorithms that take it."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC, TD3
from torch import nn

from ode_rl.agents import ODEExtractor
from ode_rl.errors import UsageError

BOX = spaces.Box(-1, 1, (3,), np.float32)


def linear(extractor: ODEExtractor, rate: float) -> None:
    """Let the flow be ``dz/ds = rate z``."""
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(rate * torch.eye(2))
    extractor.field = nn.Sequential(layer)


def test_a_linear_flow_is_the_power_of_its_steps_and_its_depth_converges_to_the_exponential() -> None:
    obs = torch.tensor([[0.3, -0.2, 0.9]])
    errors = []
    for n_steps in (1, 2, 4):
        extractor = ODEExtractor(BOX, features_dim=2, n_steps=n_steps, method="euler")
        linear(extractor, -0.8)
        start = extractor.encode(obs)
        torch.testing.assert_close(extractor(obs), start * (1 - 0.8 / n_steps) ** n_steps)
        exact = ODEExtractor(BOX, features_dim=2, n_steps=n_steps, method="rk4")
        linear(exact, -0.8)
        with torch.no_grad():
            errors.append(float((exact(obs) / exact.encode(obs) - math.exp(-0.8)).abs().max()))
    assert errors[0] < 5e-3
    assert errors[2] < 2e-5


def test_depth_costs_no_parameters_and_changes_the_features() -> None:
    found = []
    for n_steps in (1, 8):
        torch.manual_seed(0)
        extractor = ODEExtractor(BOX, n_steps=n_steps, method="euler")
        found.append((sum(p.numel() for p in extractor.parameters()), extractor(torch.ones(2, 3))))
    assert found[0][0] == found[1][0]
    assert found[0][1].shape == (2, 64)
    assert not torch.equal(found[0][1], found[1][1])


def test_each_row_of_a_batch_is_on_its_own_and_gradients_reach_every_weight() -> None:
    extractor = ODEExtractor(BOX, features_dim=8, hidden_dim=8)
    obs = torch.randn(5, 3)
    torch.testing.assert_close(extractor(obs), torch.cat([extractor(row[None]) for row in obs]))
    extractor(obs).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in extractor.parameters())


@pytest.mark.parametrize("wrong", [{"n_steps": 0}, {"features_dim": 0}, {"hidden_dim": -1}])
def test_sizes_below_one_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} >= 1"):
        ODEExtractor(BOX, **wrong)


@pytest.mark.parametrize("method", ["dopri5", "semi_implicit", "magic"])
def test_a_method_whose_steps_are_not_fixed_is_refused(method: str) -> None:
    with pytest.raises(UsageError, match="euler, midpoint"):
        ODEExtractor(BOX, method=method)


ALGORITHMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "SAC": (SAC, {"learning_starts": 8, "buffer_size": 100, "batch_size": 8}),
    "TD3": (TD3, {"learning_starts": 8, "buffer_size": 100, "batch_size": 8}),
    "PPO": (PPO, {"n_steps": 16, "batch_size": 16, "n_epochs": 1}),
    "TQC": (None, {"learning_starts": 8, "buffer_size": 100, "batch_size": 8}),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_it_learns_and_is_loaded_to_the_same_actions_in(name: str, tmp_path: Any) -> None:
    algorithm, arguments = ALGORITHMS[name]
    if algorithm is None:
        algorithm = pytest.importorskip("sb3_contrib").TQC
    policy_kwargs = {
        "features_extractor_class": ODEExtractor,
        "features_extractor_kwargs": {"features_dim": 8, "hidden_dim": 8, "n_steps": 2},
        "net_arch": [8],
    }
    env = gymnasium.make("Pendulum-v1")
    agent = algorithm("MlpPolicy", env, policy_kwargs=policy_kwargs, seed=0, device="cpu", **arguments)
    before = {k: v.clone() for k, v in agent.policy.state_dict().items() if "field" in k}
    assert before
    agent.learn(16)
    after = agent.policy.state_dict()
    assert any(not torch.equal(after[k], v) for k, v in before.items())
    agent.save(tmp_path / "agent")
    obs = np.array([[1.0, 0.0, 0.5]], np.float32)
    found = [each.predict(obs, deterministic=True)[0] for each in (agent, algorithm.load(tmp_path / "agent"))]
    np.testing.assert_array_equal(*found)


def test_a_dict_of_vectors_is_taken_together() -> None:
    space = spaces.Dict({"a": BOX, "b": spaces.Box(0, 1, (2,), np.float32)})
    extractor = ODEExtractor(space, features_dim=4)
    obs = {"a": torch.zeros(2, 3), "b": torch.ones(2, 2)}
    assert extractor(obs).shape == (2, 4)


@pytest.mark.slow
def test_it_fits_what_an_encoder_of_its_width_alone_cannot() -> None:
    torch.manual_seed(0)
    obs = torch.rand(256, 3) * 2 - 1
    wanted = torch.sin(4 * obs[:, :1]) * obs[:, 1:2]
    losses = {}
    for frozen in (False, True):
        extractor = ODEExtractor(BOX, features_dim=3, hidden_dim=32)
        if frozen:
            stop(extractor)
        head = nn.Linear(3, 1)
        trained = [*extractor.encode.parameters(), *head.parameters()]
        trained += [] if frozen else list(extractor.field.parameters())
        optimizer = torch.optim.Adam(trained, lr=1e-2)
        for _ in range(600):
            loss = (head(extractor(obs)) - wanted).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[frozen] = loss.item()
    assert losses[False] < 0.3 * losses[True]


def stop(extractor: ODEExtractor) -> None:
    """Let nothing flow."""
    with torch.no_grad():
        for parameter in extractor.field.parameters():
            parameter.zero_()
