"""Resume of Stable-Baselines3's algorithms: the same numbers from the start of a roll-out on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ode_rl.agents.model_free import SAC
from ode_rl.errors import UsageError
from ode_rl.train import resume, train
from tests.tiny_runs import CART, assert_same_run, killed_at, tiny, use_tiny_settings

QUIET: dict[str, Any] = {"say": lambda line: None}
SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}}
OFF: dict[str, Any] = {**SMALL, "learning_starts": 20, "buffer_size": 45, "batch_size": 8}

# Agent, its settings, changes of the run. The buffer is full before the end.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "sac": ("sac", OFF, {}),
    "td3, noise that walks": ("td3", {**OFF, "noise_type": "ornstein-uhlenbeck", "noise_std": 0.3}, {}),
    "sac, gSDE, rare training, linear rate": (
        "sac",
        {**OFF, "use_sde": True, "train_freq": 4, "gradient_steps": 2, "learning_rate": "lin_1e-2"},
        {},
    ),
    "sac, two environments": (
        "sac",
        {**OFF, "noise_type": "ornstein-uhlenbeck", "noise_std": 0.3},
        {"num_envs": 2, "steps": 71, "dt_range": (0.05, 0.2)},
    ),
    "tqc": ("tqc", OFF, {}),
    "crossq": ("crossq", OFF, {}),
    "ppo, scales": (
        "ppo",
        {**SMALL, "n_steps": 16, "batch_size": 8, "n_epochs": 2, "normalize": True},
        {"num_envs": 2},
    ),
    "ppo, gSDE": (
        "ppo",
        {**SMALL, "n_steps": 16, "batch_size": 8, "use_sde": True, "sde_sample_freq": 4},
        {},
    ),
}
QUICK = ("sac", "sac, gSDE, rare training, linear rate", "ppo, scales")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES]
)
def test_a_run_that_was_killed_ends_like_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    agent, settings, changes = CASES[case]
    if agent in ("tqc", "crossq"):
        pytest.importorskip("sb3_contrib")
    use_tiny_settings(monkeypatch, settings)
    monkeypatch.setattr("ode_rl.callbacks.RunRecorder._is_due", lambda self: self.num_timesteps % 3 != 1)
    whole = tmp_path / "whole"
    moments = (12, 54) if case == "sac" else (54,)
    with killed_at(moments, whole, tmp_path):
        train(tiny(agent=agent, run_dir=str(whole), **changes), **QUIET)
    for moment in moments:
        assert resume(tmp_path / f"at{moment}", **QUIET) is not None
        assert_same_run(whole, tmp_path / f"at{moment}")


def test_a_checkpoint_of_a_run_can_also_be_the_start_of_another(tmp_path: Path) -> None:
    agent = SAC(CART, seed=0, **OFF)
    agent.learn(30)
    agent.save_run(tmp_path / "c", {})
    again = SAC.load(tmp_path / "c", env=CART)
    assert again.num_timesteps == 30
    again.learn(25)
    assert again.num_timesteps == 25
    again.learn(5, reset_num_timesteps=False)
    assert again.num_timesteps == 30


def test_damaged_noise_is_refused(tmp_path: Path) -> None:
    agent = SAC(CART, seed=0, noise_type="ornstein-uhlenbeck", noise_std=0.1, normalize=True, **OFF)
    assert agent.normalizer is not None
    agent.normalizer.returns = np.zeros(3)
    agent.save(tmp_path / "c")
    with pytest.raises(UsageError, match="finite numbers of shape"):
        SAC.load(tmp_path / "c")
