"""With default settings, from the command line alone, a task that nobody tuned for is learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import ode_rl.train
from ode_rl.cli import main
from ode_rl.evaluate import evaluate_agent
from tests import own_tasks

CART, BALANCE = "tests.own_tasks:own/SpringCart-v0", "tests.own_tasks:own/Balance-v0"
EPISODES = 5


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and one evaluation on the way: more of them cost time and change nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ode_rl.train, "EVALUATIONS", 1)
    return tmp_path


def learned(env_id: str, steps: int, seed: int) -> dict[str, Any]:
    """What evaluation.json says after a training of which only the length and the seed are chosen."""
    arguments = ["--steps", str(steps), "--seed", str(seed), "--eval-episodes", str(EPISODES)]
    assert main(["train", env_id, *arguments, "--run-dir", "run", "--no-video", "--no-progress"]) == 0
    found: dict[str, Any] = json.loads(Path("run/evaluation.json").read_text())
    return found


class Random:
    """Uniform actions."""

    def __init__(self, env_id: str) -> None:
        self.space = gymnasium.make(env_id).action_space
        self.space.seed(0)

    def predict(self, observation: Any, *_: Any) -> tuple[Any, None]:
        return np.stack([self.space.sample() for _ in observation]), None


def at_random(env_id: str) -> dict[str, Any]:
    return evaluate_agent(Random(env_id), env_id, EPISODES).to_json()


def push_to_the_target(observation: Any, *_: Any) -> tuple[Any, None]:
    """What one who knows the spring-cart would do: the force that holds it there, and feedback."""
    cart = own_tasks.SpringCart
    x, v = np.asarray(observation).T
    force = cart.stiffness * cart.target + 10 * (cart.target - x) - 3 * v
    return np.clip(force, -3, 3)[:, None].astype(np.float32), None


class Expert:
    predict = staticmethod(push_to_the_target)


def check_cart(found: dict[str, Any], least: float) -> None:
    """Compare the share of the way from random actions to those of the expert."""
    random = at_random(CART)["mean_return"]
    best = evaluate_agent(Expert(), CART, EPISODES).mean_return
    assert random < -90
    assert best > -20
    share = (found["mean_return"] - random) / (best - random)
    assert share > least, found["returns"]


def check_balance(found: dict[str, Any]) -> None:
    assert np.mean(at_random(BALANCE)["lengths"]) < 35
    assert np.mean(found["lengths"]) > 120, found["lengths"]


def test_a_spring_cart_is_held_where_the_reward_is_after_few_hundred_steps() -> None:
    check_cart(learned(CART, 400, seed=0), least=0.8)


def test_an_unstable_point_is_kept_from_its_end_after_few_hundred_steps() -> None:
    check_balance(learned(BALANCE, 300, seed=0))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_spring_cart_is_held_whatever_the_seed(seed: int) -> None:
    check_cart(learned(CART, 600, seed), least=0.8)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_an_unstable_point_is_kept_by_other_seeds_too(seed: int) -> None:
    check_balance(learned(BALANCE, 300, seed))
