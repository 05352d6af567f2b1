"""Files of Stable-Baselines3: the algorithm is found without running anything, and trust is asked for."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3 as sb3

from ode_rl.agents.model_free import SAC
from ode_rl.cli import main
from ode_rl.envs.task import make_task
from ode_rl.errors import UsageError
from ode_rl.load_agent import load_agent

ALGORITHMS = [
    *("stable_baselines3:SAC", "stable_baselines3:TD3", "stable_baselines3:PPO", "stable_baselines3:A2C"),
    *("sb3_contrib:TQC", "sb3_contrib:CrossQ", "sb3_contrib:TRPO", "sb3_contrib:RecurrentPPO"),
    "sb3_contrib:ARS",
]


@pytest.mark.parametrize("source", ALGORITHMS)
def test_each_algorithm_is_found_and_acts_as_saved(source: str, tmp_path: Path) -> None:
    module, _, name = source.partition(":")
    library = pytest.importorskip(module, reason=f"{module} is not installed")
    policy = "MlpLstmPolicy" if name == "RecurrentPPO" else "MlpPolicy"
    small = {"policy_kwargs": {"net_arch": [4]}, "device": "cpu", "seed": 0}
    saved: Any = getattr(library, name)(policy, make_task("Pendulum-v1"), **small)
    saved.save(tmp_path / "agent.zip")
    loaded = load_agent(str(tmp_path / "agent.zip"), device="cpu", trust=True)
    assert (loaded.name, loaded.env_id) == (name.lower(), None)
    obs = make_task("Pendulum-v1").reset(seed=1)[0][None]
    np.testing.assert_array_equal(
        loaded.agent.predict(obs, deterministic=True)[0], saved.predict(obs, deterministic=True)[0]
    )


class Bomb:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("exploded",)


def write_zip(path: Path, settings: Any, policy: bytes = b"") -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", settings if isinstance(settings, str) else json.dumps(settings))
        archive.writestr("policy.pth", policy)


BOMB = {
    "target_entropy": 1,
    "seed": {":type:": "x", ":serialized:": base64.b64encode(pickle.dumps(Bomb())).decode()},
}
FILES: dict[str, Any] = {
    "of no algorithm": {"gamma": 0.99},
    "a list": [1, 2],
    "not JSON": "{",
    "without weights": {"target_entropy": 1},
}


def test_nothing_of_a_file_that_is_not_trusted_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    write_zip(tmp_path / "agent.zip", BOMB)
    assert main(["evaluate", "agent.zip", "--env", "Pendulum-v1"]) == 2
    err = capfd.readouterr().err
    assert "pickle" in err
    assert "--trust" in err
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("case", FILES)
def test_a_foreign_or_damaged_file_is_refused_in_one_message(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    write_zip(tmp_path / "agent.zip", FILES[case])
    assert main(["evaluate", "agent.zip", "--env", "Pendulum-v1", "--trust"]) == 2
    err = capfd.readouterr().err
    assert err.startswith("error: expected ")
    assert "agent.zip" in err


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("cat.jpg", b"")
    with pytest.raises(UsageError):
        load_agent(str(tmp_path / "photos.zip"), trust=True)


def test_the_command_line_evaluates_a_trusted_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    sb3.PPO("MlpPolicy", make_task("Pendulum-v1"), device="cpu").save("agent")
    assert main(["evaluate", "agent.zip", "--env", "Pendulum-v1", "--trust", "--episodes", "1"]) == 0
    assert "over 1 episodes" in capfd.readouterr().out
    assert main(["evaluate", "agent.zip", "--trust"]) == 2
    assert "--env ENV_ID" in capfd.readouterr().err


def test_an_agent_that_this_package_saved_needs_no_trust(tmp_path: Path) -> None:
    agent = SAC("Pendulum-v1", seed=0, device="cpu", policy_kwargs={"net_arch": [4]})
    agent.save(tmp_path / "own.zip")
    loaded = load_agent(str(tmp_path / "own.zip"), device="cpu")
    assert (loaded.name, loaded.env_id) == ("sac", "Pendulum-v1")
    obs = make_task("Pendulum-v1").reset(seed=1)[0][None]
    np.testing.assert_array_equal(loaded.agent.predict(obs)[0], agent.predict(obs)[0])
