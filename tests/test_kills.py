"""Real signals to real processes: what is left is a whole run, and it goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ode_rl.checkpoint import read_checkpoint
from ode_rl.run import RunFolder
from tests.tiny_runs import CART, assert_same_run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
ARGV = ["train", CART, "--steps", "300", "--seed", "3", "--preset", "none", "--no-video", "--no-progress"]
RESUME = ["train", "--no-video", "--no-progress", "--resume"]


@contextmanager
def started(argv: list[str], settings: dict[str, Any] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A training in a process of its own, from the moment that it says where it trains."""
    command = [sys.executable, "-m", "tests.tiny_driver", json.dumps(settings or {}), *argv]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "training mpc" in line or "resuming mpc" in line or "come to its end" in line, line
            yield process
        finally:
            process.kill()


def wait_for_a_write(run: Path, process: subprocess.Popen[str]) -> None:
    while process.poll() is None and not (run / "checkpoint.new").exists():
        time.sleep(0.0002)


def test_a_run_that_is_killed_again_and_again_ends_like_one_that_was_not(tmp_path: Path) -> None:
    rng, whole, run = random.Random(0), tmp_path / "whole", tmp_path / "run"
    with started([*ARGV, "--run-dir", str(whole)]) as process:
        assert process.communicate()[1] == ""
        assert process.returncode == 0
    killed_while_writing = 0
    for number in range(9):
        argv = [*RESUME, str(run)] if number else [*ARGV, "--run-dir", str(run)]
        with started(argv) as process:
            if number % 3 == 1:
                wait_for_a_write(run, process)
                time.sleep(rng.uniform(0, 0.01))
            else:
                time.sleep(rng.uniform(0, 2))
            process.kill()
            process.wait()
        killed_while_writing += (run / "checkpoint.new").exists()
    assert killed_while_writing
    with started([*RESUME, str(run)]) as process:
        process.communicate()
        assert process.returncode == 0
    assert_same_run(whole, run)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("what", ["a fit without end", "planning"])
def test_a_stop_leaves_a_whole_checkpoint_within_seconds(
    tmp_path: Path, number: int, code: int, what: str
) -> None:
    run = tmp_path / "run"
    settings = {"fit": {"updates": 10**7, "patience": 10**7}} if what == "a fit without end" else {}
    argv = [*ARGV, "--run-dir", str(run), "--steps", "100000"]
    with started(argv, settings) as process:
        while not (run / "checkpoint.old").exists():  # one at the start, one after an episode
            time.sleep(0.05)
        time.sleep(3)
        began = time.perf_counter()
        process.send_signal(number)
        err = process.communicate(timeout=60)[1]
        took = time.perf_counter() - began
    assert process.returncode == code
    assert took < 10  # 5 on a machine that does nothing else, see benchmarks/reliability.py
    assert f"ode-rl train --resume {run}" in err
    assert "Traceback" not in err
    found = read_checkpoint(RunFolder(run).newest_checkpoint()).meta
    if what == "a fit without end":
        assert (found["num_timesteps"], found["fits"]) == (25, 0)
    assert found["run"]["wall_s"] > 0
