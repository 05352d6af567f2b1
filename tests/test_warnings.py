"""A normal run warns of nothing: a user who sees a warning shall have a reason to read it."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from ode_rl.cli import main
from ode_rl.train import train
from tests.test_dyna import TINY as TINY_DYNA
from tests.test_ode_policy import TINY as TINY_POLICY
from tests.tiny_runs import TINY, tiny, use_tiny_settings

SETTINGS = {"mpc": TINY, "ode-policy": TINY_POLICY, "dyna": TINY_DYNA, "sac": {}, "ppo": {"n_steps": 64}}


@pytest.mark.parametrize("agent", SETTINGS)
def test_training_evaluating_and_reporting_warn_of_nothing(
    agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {k: v for k, v in SETTINGS[agent].items() if k not in ("preset", "device")}
    use_tiny_settings(monkeypatch, own)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(tiny(agent=agent, run_dir=str(tmp_path / "run")))
        assert main(["evaluate", str(tmp_path / "run"), "--episodes", "2"]) == 0
        assert main(["report", str(tmp_path / "run")]) == 0


def test_importing_everything_warns_of_nothing() -> None:
    code = "import ode_rl, ode_rl.agents, ode_rl.envs, ode_rl.cli, ode_rl.train, ode_rl.report_html"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_run_from_the_command_line_says_nothing_of_warnings(tmp_path: Path) -> None:
    words = ["train", "Pendulum-v1", "--agent", "sac", "--steps", "120", "--eval-episodes", "1", "--run-dir"]
    done = subprocess.run(
        [sys.executable, "-W", "always", "-m", "ode_rl", *words, str(tmp_path / "a")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "warn" not in (done.stdout + done.stderr).lower()
