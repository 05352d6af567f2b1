"""Presets: data that the code understands, found by the id of a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import pytest
import yaml

import ode_rl.agents.presets as presets
from ode_rl.agents.mpc_config import MPCConfig
from ode_rl.agents.ode_policy import ODEPolicyConfig
from ode_rl.agents.presets import RUN_SETTINGS, load_preset, preset_ids
from ode_rl.agents.registry import AGENTS
from ode_rl.agents.true_mpc import TrueMPCConfig
from ode_rl.envs.task import ROBOTICS_IDS
from ode_rl.errors import UsageError
from ode_rl.settings import build

FOLDER = Path(presets.__file__).parent / "presets"
ALL = [(file.stem, key) for file in sorted(FOLDER.glob("*.yml")) for key in yaml.safe_load(file.read_text())]


def test_every_file_of_presets_is_one_of_a_known_agent_and_has_a_default() -> None:
    expected = [*AGENTS, "mpc-true"]  # the last is mpc on the true dynamics
    assert sorted(file.stem for file in FOLDER.glob("*.yml")) == sorted(expected)
    assert all((agent, "default") in ALL for agent in expected)


@pytest.mark.parametrize(("agent", "key"), [pair for pair in ALL if pair[0] == "mpc"])
def test_every_preset_of_mpc_builds(agent: str, key: str) -> None:
    name, settings = load_preset(agent, key, key)
    assert name == key
    build(MPCConfig, {k: v for k, v in settings.items() if k not in RUN_SETTINGS})
    assert all(type(settings[k]) is int and settings[k] > 0 for k in RUN_SETTINGS if k in settings)


@pytest.mark.parametrize(("agent", "key"), [pair for pair in ALL if pair[0] == "ode-policy"])
def test_every_preset_of_ode_policy_builds(agent: str, key: str) -> None:
    name, settings = load_preset(agent, key, key)
    assert name == key
    build(ODEPolicyConfig, {k: v for k, v in settings.items() if k not in RUN_SETTINGS})


@pytest.mark.parametrize(("agent", "key"), [pair for pair in ALL if pair[0] == "mpc-true"])
def test_every_preset_of_mpc_on_the_true_dynamics_builds(agent: str, key: str) -> None:
    name, settings = load_preset(agent, key, key)
    assert name == key
    build(TrueMPCConfig, settings)


@pytest.mark.parametrize(("agent", "key"), [pair for pair in ALL if pair[1] != "default"])
def test_every_preset_is_for_a_task_that_exists(agent: str, key: str) -> None:
    if key.startswith(ROBOTICS_IDS):
        pytest.importorskip("gymnasium_robotics")
    assert key in gymnasium.registry
    assert key in preset_ids(agent)


def test_auto_takes_the_preset_of_the_task_and_else_the_default() -> None:
    assert load_preset("mpc", "Pendulum-v1")[0] == "Pendulum-v1"
    assert load_preset("mpc", "somebody:Pendulum-v1")[0] == "Pendulum-v1"
    assert load_preset("mpc", "own/Task-v0")[0] == "default"
    assert load_preset("mpc", "Pendulum-v1", "default")[0] == "default"
    assert load_preset("mpc", "own/Task-v0", "Pendulum-v1") == load_preset("mpc", "Pendulum-v1")


def test_the_preset_of_another_task_is_refused_where_there_is_an_own_one() -> None:
    with pytest.raises(UsageError, match=r"preset of Pendulum-v1, got Reacher-v5"):
        load_preset("mpc", "somebody:Pendulum-v1", "Reacher-v5")


@pytest.mark.parametrize("nothing", [None, "none"])
def test_no_preset_is_no_settings(nothing: str | None) -> None:
    assert load_preset("mpc", "Pendulum-v1", nothing) == ("none", {})


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'Pendulum-v2'.*Did you mean Pendulum-v1"):
        load_preset("mpc", "Pendulum-v1", "Pendulum-v2")


def test_an_agent_without_presets_is_refused() -> None:
    with pytest.raises(UsageError, match="'nobody'"):
        load_preset("nobody", "Pendulum-v1")


def test_a_preset_that_is_changed_by_its_reader_stays_as_it_was() -> None:
    _, settings = load_preset("mpc", "Pendulum-v1")
    before: dict[str, Any] = dict(settings)
    settings["total_timesteps"] = -1
    assert load_preset("mpc", "Pendulum-v1")[1] == before
