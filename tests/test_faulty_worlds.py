"""Trainings in worlds that fail, on disks that are full, with models that blow up."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ode_rl.checkpoint
import ode_rl.files
from ode_rl.agents.mpc import MPC
from ode_rl.buffer import ReplayBuffer
from ode_rl.checkpoint import read_checkpoint
from ode_rl.cli import main
from ode_rl.errors import UsageError
from ode_rl.fit import FitConfig, fit
from ode_rl.train import resume, train
from ode_rl.types import Transition
from ode_rl.world_model import WorldModel, WorldModelConfig
from tests.faulty_world import AT
from tests.tiny_runs import TINY, episodes, tiny, use_tiny_settings

QUIET: dict[str, Any] = {"say": lambda line: None}
# Without evaluations on the way: their environments fail like that of the training.
SETTINGS: dict[str, Any] = {**TINY, "value": {"when": "never"}, "fit_every": 200}
OFF = {"learning_starts": 20, "batch_size": 8, "policy_kwargs": {"net_arch": [8]}}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_tiny_settings(monkeypatch, SETTINGS)
    monkeypatch.setattr("ode_rl.train._results", lambda agent, config, run: None)
    monkeypatch.setattr("ode_rl.callbacks.Evaluations._on_step", lambda self: True)
    return tmp_path / "run"


def train_in(fault: str, run: Path, **more: Any) -> None:
    train(tiny(f"tests.faulty_world:faulty/{fault}-v0", run_dir=str(run), steps=80, **more), **QUIET)


@pytest.mark.parametrize("fault", ["obs-nan", "obs-leaps", "reward-inf", "reward-huge"])
def test_training_goes_on_and_no_poison_gets_into_the_buffer(
    run: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    train_in(fault, run)
    found = read_checkpoint(run / "checkpoint")
    assert found.meta["num_timesteps"] == 80
    buffer = found.arrays["buffer"]
    assert int(buffer["n_added"]) == 78  # two steps were left out
    for name in ("obs", "next_obs", "reward", "action"):
        assert np.abs(buffer[name]).max() < 1e3
    assert "step 47" in caplog.text
    assert "(2 so far)" in caplog.text
    for tensor in found.tensors["model"].values():
        assert bool(tensor.isfinite().all())
    # Nothing leads across the steps that were left out.
    following = buffer["successor"]
    assert following[AT[0] - 2] == -1


@pytest.mark.parametrize(
    "fault", ["obs-shape", "reward-text", "step-raises", "reset-raises", "obs-nan-forever"]
)
def test_training_stops_with_a_whole_checkpoint_and_names_the_fault(run: Path, fault: str) -> None:
    with pytest.raises(UsageError, match=f"faulty/{fault}-v0 at ") as raised:
        train_in(fault, run)
    assert f"ode-rl train --resume {run}" in str(raised.value)
    assert read_checkpoint(run / "checkpoint").meta["num_timesteps"] >= 20


@pytest.mark.parametrize("fault", ["obs-nan", "reward-huge"])
def test_an_algorithm_that_cannot_leave_a_step_out_stops(
    run: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_settings(monkeypatch, OFF)
    with pytest.raises(UsageError, match=f"faulty/{fault}-v0 at step 47"):
        train_in(fault, run, agent="sac")
    assert np.abs(read_checkpoint(run / "checkpoint").arrays["buffer"]["rewards"]).max() < 1e3


def test_a_step_that_hangs_stops_the_training_after_the_time_that_was_given(run: Path) -> None:
    with pytest.raises(UsageError, match=r"a step within 0.3 s from faulty/hangs-v0 at step 47"):
        train_in("hangs", run, step_timeout=0.3)
    assert read_checkpoint(run / "checkpoint").meta["num_timesteps"] == 40


@pytest.mark.parametrize("fault", ["ends-at-once", "never-ends"])
def test_episodes_of_one_step_and_without_end_are_learned_from(run: Path, fault: str) -> None:
    train_in(fault, run)
    assert len(episodes(run)) == (80 if fault == "ends-at-once" else 0)
    assert read_checkpoint(run / "checkpoint").meta["fits"] == 1


def test_a_world_that_fails_before_the_first_step_leaves_no_run_folder(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, **how: Any) -> None:
        raise OSError("no such robot")

    monkeypatch.setattr("tests.own_tasks.SpringCart.reset", fail)
    with pytest.raises(UsageError, match="no such robot"):
        train_in("obs-nan", run)
    assert not run.exists()


# --- disks -------------------------------------------------------------------------------------------------


def test_a_full_disk_stops_the_training_and_the_checkpoint_before_is_whole(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, write = [], ode_rl.files.write_synced

    def full(path: Path, data: bytes) -> None:
        written.append(path)
        if len(written) > 30:
            write(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(ode_rl.checkpoint, "write_synced", full)
        with pytest.raises(UsageError, match="No space left on device") as raised:
            train_in("ends-at-once", run)
    assert f"ode-rl train --resume {run}" in str(raised.value)
    steps = read_checkpoint(run / "checkpoint").meta["num_timesteps"]
    assert 0 < steps < 80
    resume(run, **QUIET)
    assert len(episodes(run)) == 80


def test_a_row_that_does_not_fit_on_the_disk_is_one_message(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, episode: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.episodes))

    monkeypatch.setattr("ode_rl.run.RunFolder.append_episode", full)
    with pytest.raises(UsageError, match=r"episodes\.csv .No space left on device"):
        train_in("ends-at-once", run)


@pytest.mark.slow
def test_a_small_disk_that_fills_up_leaves_a_run_that_goes_on_elsewhere(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs rights")
    try:
        argv = [
            "train",
            "tests.own_tasks:own/ShortCart-v0",
            "--preset",
            "none",
            "--steps",
            "5000",
            "--no-video",
        ]
        command = [sys.executable, "-m", "tests.tiny_driver", "{}", *argv, "--run-dir", str(disk / "run")]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
        assert done.returncode == 2, done.stderr
        assert "No space left on device" in done.stderr
        assert "Traceback" not in done.stderr
        assert read_checkpoint(disk / "run" / "checkpoint").meta["num_timesteps"] > 0
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("place", ["file/run", "file/a/b", "/proc/run", "/dev/null/run"])
def test_a_place_that_cannot_be_written_is_refused_before_training(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert main(["train", "Pendulum-v1", "--agent", "sac", "--steps", "10", "--run-dir", place]) == 2
    err = capfd.readouterr().err
    assert "--run-dir DIR" in err
    assert err.count("\n") == 1


# --- models that blow up -----------------------------------------------------------------------------------


def data(n: int = 120) -> ReplayBuffer:
    rng, buffer = np.random.default_rng(0), ReplayBuffer(500, 2, 1)
    obs = rng.normal(size=2)
    for _ in range(n):
        action = rng.uniform(-1, 1, 1)
        after = obs + 0.05 * np.array([obs[1], action[0] - obs[0]])
        buffer.add(Transition(obs, action, -float(obs[0] ** 2), after, 0.05, False, False))
        obs = after
    return buffer


def model() -> WorldModel:
    config = WorldModelConfig(n_members=2, hidden=(8,), head_hidden=(8,))
    return WorldModel(2, 1, 0.05, config, torch.Generator().manual_seed(0))


def finite(module: torch.nn.Module) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in module.state_dict().values())


def test_losses_that_explode_lead_back_to_the_last_good_weights_and_a_lower_rate(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import ode_rl.fit
    import ode_rl.losses

    true, calls = ode_rl.losses.segment_losses, 0

    def exploding(world: WorldModel, *rest: Any) -> Any:
        nonlocal calls
        calls += torch.is_grad_enabled()
        losses = true(world, *rest)
        if 30 < calls <= 45 and torch.is_grad_enabled():
            return (
                losses._replace(dynamics=losses.dynamics * torch.inf)
                if hasattr(losses, "_replace")
                else losses
            )
        return losses

    monkeypatch.setattr(ode_rl.fit, "segment_losses", exploding)
    world = model()
    config = FitConfig(updates=60, warm_start_updates=0, batch_size=16, check_every=10)
    with caplog.at_level(logging.WARNING):
        report = fit(world, data(), config, np.random.default_rng(0), "cpu")
    assert report.rolled_back == 1
    assert report.skipped == 15
    assert "back to the last good weights" in caplog.text
    assert finite(world)
    assert report.updates == 60
    assert report.scalars()["rolled_back"] == 1.0


def test_a_fit_of_a_field_that_is_far_too_stiff_ends_with_finite_weights() -> None:
    world = model()
    with torch.no_grad():
        for parameter in world.dynamics.parameters():
            parameter.mul_(1e12)
    report = fit(
        world,
        data(),
        FitConfig(updates=60, warm_start_updates=0, batch_size=16),
        np.random.default_rng(0),
        "cpu",
    )
    assert finite(world)
    assert report.updates <= 60


def test_the_planner_acts_within_bounds_when_no_plan_has_a_finite_score(
    caplog: pytest.LogCaptureFixture,
) -> None:
    agent = MPC("tests.own_tasks:own/ShortCart-v0", preset=None, seed=0, **TINY)
    agent.learn(30)
    with torch.no_grad():
        for parameter in agent.model.dynamics.parameters():
            parameter.fill_(1e30)
    agent.planning.renew()
    action, state = agent.predict(np.zeros((3, 2), np.float32))
    for _ in range(3):
        action, state = agent.predict(np.ones((3, 2), np.float32), state)
        assert np.isfinite(action).all()
        assert (np.abs(action) <= 3).all()
    assert "no plan of 3 robot(s) has a finite score" in caplog.text
