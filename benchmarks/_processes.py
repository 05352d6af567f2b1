"""Trainings as processes of their own, for benchmarks that interrupt them."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ode_rl.checkpoint import read_checkpoint
from ode_rl.errors import UsageError

ROOT = Path(__file__).resolve().parents[1]
# The command line has no flag for how often checkpoints are written: here it is after every episode.
TRAIN = """
from ode_rl.train import TrainConfig, train
train(TrainConfig({task!r}, agent={agent!r}, steps={steps}, seed={seed}, run_dir={run!r}, eval_episodes=1,
                  video=False, progress=False, checkpoint_seconds=0.0))
"""


def training(task: str, agent: str, steps: int, seed: int, run: Path) -> subprocess.Popen[str]:
    """Start a training that writes a checkpoint after every episode."""
    code = TRAIN.format(task=task, agent=agent, steps=steps, seed=seed, run=str(run))
    return start([sys.executable, "-c", code])


def command(*argv: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Start ``ode-rl`` with these arguments."""
    return start([sys.executable, "-m", "ode_rl", *argv], cwd)


def start(argv: list[str], cwd: Path | None = None) -> subprocess.Popen[str]:
    """Start a process that finds this very package, on one thread."""
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True, env=environment, cwd=cwd)


def said_where(process: subprocess.Popen[str]) -> None:
    """Wait until a training says that it begins."""
    assert process.stdout is not None
    process.stdout.readline()


def finished(process: subprocess.Popen[str]) -> int:
    """Wait for the end, and show what went wrong if anything did."""
    _, err = process.communicate()
    if process.returncode not in (0, 130, 143, -9):
        print(err, file=sys.stderr)
    return process.returncode


def episodes(run: Path) -> list[dict[str, str]]:
    """``episodes.csv`` without wall time."""
    with (run / "episodes.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "wall_s"} for row in csv.DictReader(file)]


def same_weights(one: Path, other: Path) -> bool:
    """Whether the last checkpoints of two runs hold the same tensors and arrays."""
    a, b = (read_checkpoint(run / "checkpoint") for run in (one, other))
    pairs: list[tuple[Any, Any]] = [(a.tensors, b.tensors), (a.arrays, b.arrays)]
    return all(
        mine.keys() == theirs.keys()
        and all(
            np.array_equal(value, theirs[part][name]) for part in mine for name, value in mine[part].items()
        )
        for mine, theirs in pairs
    )


def whole(checkpoint: Path) -> bool:
    """Whether a checkpoint can be read."""
    try:
        read_checkpoint(checkpoint)
    except UsageError:
        return False
    return True
