"""Trainings that take seconds, with everything in them that a long one has, and what they leave."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ode_rl.train
from ode_rl.callbacks import RunRecorder
from ode_rl.checkpoint import Checkpoint, read_checkpoint
from ode_rl.train import TrainConfig

CART = "tests.own_tasks:own/ShortCart-v0"
BALANCE = "tests.own_tasks:own/Balance-v0"

CHOSEN = ode_rl.train._chosen

# A fit every 20 steps, a learned value, exploration noise, a planner with a warm start.
TINY: dict[str, Any] = {
    "horizon": 0.15,
    "warmup_steps": 25,
    "fit_every": 20,
    "explore_std": 0.1,
    "model": {"hidden": (8,), "head_hidden": (8,), "n_members": 2},
    "fit": {"updates": 4, "warm_start_updates": 4, "batch_size": 16},
    "planner": {"candidates": 6, "elites": 3, "iterations": 1},
    "value": {"when": "always", "updates": 2, "refreshes": 1, "hidden": (8,)},
}


def tiny(env_id: str = CART, **more: Any) -> TrainConfig:
    """A training of 70 steps with all that can be left out left out."""
    settings = {"preset": None, "steps": 70, "seed": 3, "eval_episodes": 1, "checkpoint_seconds": 0.0}
    return TrainConfig(env_id, **{**settings, "video": False, "progress": False, **more})


def use_tiny_settings(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any] | None = None) -> None:
    """Let `train` make agents with `settings` (default: those of a tiny `mpc`)."""
    extra = TINY if settings is None else settings
    monkeypatch.setattr(ode_rl.train, "_chosen", lambda config: {**CHOSEN(config), **extra})
    monkeypatch.setattr(ode_rl.train, "EVALUATIONS", 1)


@contextmanager
def killed_at(steps: Sequence[int], run: Path, into: Path) -> Iterator[None]:
    """Copy the folder of a run, as SIGKILL would leave it, when it has made so many steps."""
    on_step = RunRecorder._on_step

    def spied(self: RunRecorder) -> bool:
        going = on_step(self)
        if self.num_timesteps in steps:
            shutil.copytree(run, into / f"at{self.num_timesteps}")
        return going

    RunRecorder._on_step = spied  # type: ignore[method-assign]
    try:
        yield
    finally:
        RunRecorder._on_step = on_step  # type: ignore[method-assign]


def episodes(run: Path) -> list[dict[str, str]]:
    """``episodes.csv`` without wall time."""
    with open(run / "episodes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["wall_s"]
    return rows


def assert_same_run(one: Path, other: Path) -> None:
    """Check that two runs are equal in all that no clock has a say in."""
    assert episodes(one) == episodes(other)
    assert len(episodes(one)) > 1
    for mine, theirs in zip(
        sorted(one.glob("*.monitor.csv")), sorted(other.glob("*.monitor.csv")), strict=True
    ):
        assert _without_time(mine) == _without_time(theirs)
    with np.load(one / "evaluations.npz") as mine, np.load(other / "evaluations.npz") as theirs:
        for name in ("timesteps", "results", "ep_lengths"):
            np.testing.assert_array_equal(mine[name], theirs[name])
    assert_same_checkpoint(read_checkpoint(one / "checkpoint"), read_checkpoint(other / "checkpoint"))


def assert_same_checkpoint(one: Checkpoint, other: Checkpoint) -> None:
    """Check that two checkpoints are equal number by number, but for the clock in their records."""
    for mine, theirs in ((one.tensors, other.tensors), (one.arrays, other.arrays)):
        assert mine.keys() == theirs.keys()
        for part in mine:
            assert mine[part].keys() == theirs[part].keys()
            for name, value in mine[part].items():
                np.testing.assert_array_equal(value, theirs[part][name], f"{part}/{name}")
    assert {**one.meta, "run": None} == {**other.meta, "run": None}


def _without_time(monitor: Path) -> list[list[str]]:
    return [line.split(",")[:2] for line in monitor.read_text().splitlines()[1:]]
