"""Row of `reliability`: memory and open files over 100,000 steps of training."""

from __future__ import annotations

import gc
import os
import tempfile
from pathlib import Path
from typing import Any

from _rows import Table
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor

from ode_rl.agents.model_free import SAC
from ode_rl.agents.mpc import MPC
from ode_rl.callbacks import Evaluations, RunRecorder
from ode_rl.envs import Repeatable
from ode_rl.envs.task import make_task
from ode_rl.run import RunFolder

STEPS, EVERY = 100_000, 10_000
# What is allocated once, lazily, has been by then; the buffer is full.
WARM_UP = 20_000
TASK = "Pendulum-v1"
# Small enough for minutes, with everything that a training has: fits, plans, a learned value, checkpoints.
SETTINGS: dict[str, dict[str, Any]] = {
    "mpc": {
        "horizon": 0.15,
        "buffer_size": 5000,
        "fit_every": 2000,
        "fit_growth": 0.0,
        "model": {"hidden": (16,), "head_hidden": (16,), "n_members": 2},
        "fit": {"updates": 50, "warm_start_updates": 50, "batch_size": 32},
        "planner": {"candidates": 8, "elites": 3, "iterations": 1},
        "value": {"when": "always", "updates": 20, "hidden": (16,)},
    },
    "sac": {"buffer_size": 5000, "train_freq": 20, "gradient_steps": 1, "policy_kwargs": {"net_arch": [16]}},
}


class Gauge(BaseCallback):
    """Resident memory (MB) and open files, every so many steps."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: list[float] = []
        self.files: list[int] = []

    def _on_step(self) -> bool:
        if self.num_timesteps % EVERY == 0:
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.memory.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
            self.files.append(len(os.listdir("/proc/self/fd")))
            print(
                f"  {self.num_timesteps} steps: {self.memory[-1]:.1f} MB, {self.files[-1]} files", flush=True
            )
        return True


def soak(table: Table, seed: int) -> None:
    """Growth of resident memory per 10,000 steps after 20,000, and of open files."""
    for name, cls in (("mpc", MPC), ("sac", SAC)):
        if not table.wants(TASK, name, seed):
            continue
        gauge = Gauge()
        with tempfile.TemporaryDirectory() as folder:
            run = RunFolder.create(TASK, name, seed, Path(folder, "run"))
            env = Repeatable(Monitor(make_task(TASK), str(run.path / "0")), seed)
            agent: Any = cls(env, preset=None, seed=seed, device="cpu", **SETTINGS[name])
            agent.set_logger(configure(str(run.tensorboard), ["tensorboard"]))
            keepers = [RunRecorder(run, 5.0), Evaluations(run, TASK, 5000, 2)]
            agent.learn(STEPS, callback=[*keepers, gauge])
            agent.logger.close()
            env.close()
        first = WARM_UP // EVERY - 1
        growth = (gauge.memory[-1] - gauge.memory[first]) / (len(gauge.memory) - 1 - first)
        files = max(gauge.files[first:]) - min(gauge.files[first:])
        what = "growth of memory per 10,000 steps"
        numbers = [
            table.number(TASK, name, seed, what, growth, "MB", asked="< 1", ok=growth < 1),
            table.number(
                TASK, name, seed, "change of open files", files, "files", asked="= 0", ok=files == 0
            ),
            table.number(TASK, name, seed, "memory at the end", gauge.memory[-1], "MB"),
        ]
        table.write(TASK, name, seed, numbers)
