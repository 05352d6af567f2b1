"""Rows of `reliability`: SIGKILL, Ctrl-C and SIGTERM at random moments, and many runs at once."""

from __future__ import annotations

import random
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from _processes import command, episodes, finished, said_where, same_weights, training, whole
from _rows import Table

from ode_rl.run import RunFolder

# Task, environment steps, moments: episodes of 200 steps, and many short ones; 30 kills in all.
KILLED = {"InvertedPendulum-v5": (250, 24), "Pendulum-v1": (450, 6)}
STOPS = 6
AT_ONCE = 8


def kill(table: Table, seed: int) -> None:
    """SIGKILL at random moments, each third one during the write of a checkpoint; then resume."""
    for task, (steps, moments) in KILLED.items():
        if not table.wants(task, "ode", seed):
            continue
        with tempfile.TemporaryDirectory() as folder:
            undisturbed = Path(folder, "undisturbed")
            process = training(task, "mpc", steps, seed, undisturbed)
            said_where(process)
            began = time.perf_counter()
            finished(process)
            lasts = time.perf_counter() - began
            rng, equal, writing = random.Random(seed), 0, 0
            for moment in range(moments):
                run = Path(folder, f"run{moment}")
                process = training(task, "mpc", steps, seed, run)
                said_where(process)
                _wait(process, run, rng, lasts, during_a_write=moment % 3 == 2)
                process.kill()
                finished(process)
                writing += (run / "checkpoint.new").exists()
                resumed = command("train", "--resume", str(run), "--no-progress")
                same = finished(resumed) == 0 and episodes(run) == episodes(undisturbed)
                equal += same and same_weights(run, undisturbed)
            asked = f"= {moments}"
            what = "runs equal to the undisturbed one after SIGKILL"
            numbers = [
                table.number(task, "ode", seed, what, equal, "runs", asked=asked, ok=equal == moments),
                table.number(task, "ode", seed, "kills that fell into a write", writing, "kills"),
                table.number(task, "ode", seed, "an undisturbed run lasts", lasts, "s"),
            ]
            table.write(task, "ode", seed, numbers)


def _wait(
    process: subprocess.Popen[str], run: Path, rng: random.Random, lasts: float, during_a_write: bool
) -> None:
    time.sleep(rng.uniform(0, 0.9 * lasts))
    while during_a_write and process.poll() is None and not (run / "checkpoint.new").exists():
        time.sleep(0.0002)
    if during_a_write:
        time.sleep(rng.uniform(0, 0.02))


def stop(table: Table, seed: int) -> None:
    """Ctrl-C and SIGTERM at random moments of training: seconds until the process has ended."""
    task = "Pendulum-v1"
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # started in the background: children would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name, number, code in (("SIGINT", signal.SIGINT, 130), ("SIGTERM", signal.SIGTERM, 143)):
        if not table.wants(task, name, seed):
            continue
        rng, took, right, kept = random.Random(seed), [], 0, 0
        with tempfile.TemporaryDirectory() as folder:
            for moment in range(STOPS):
                run = Path(folder, f"run{moment}")
                argv = ["--run-dir", str(run), "--steps", "5000", "--seed", str(seed), "--no-progress"]
                process = command("train", task, *argv)
                said_where(process)
                # The warm-up takes a second; then about half of the time is fits.
                time.sleep(rng.uniform(0.5, 20))
                began = time.perf_counter()
                process.send_signal(number)
                right += finished(process) == code
                took.append(time.perf_counter() - began)
                kept += whole(RunFolder(run).newest_checkpoint())
        every = f"= {STOPS}"
        table.write(
            task,
            name,
            seed,
            [
                table.number(
                    task,
                    name,
                    seed,
                    "until a whole checkpoint and the end, worst",
                    max(took),
                    "s",
                    asked="<= 5",
                    ok=max(took) <= 5,
                ),
                table.number(
                    task, name, seed, f"exit code {code}", right, "runs", asked=every, ok=right == STOPS
                ),
                table.number(
                    task, name, seed, "whole checkpoints", kept, "runs", asked=every, ok=kept == STOPS
                ),
            ],
        )


def at_once(table: Table, seed: int) -> None:
    """Runs that start in the same second in one folder."""
    task = "Pendulum-v1"
    if not table.wants(task, "", seed):
        return
    argv = ["train", task, "--agent", "sac", "--steps", "250", "--eval-episodes", "1", "--no-progress"]
    with tempfile.TemporaryDirectory() as folder:
        processes = [command(*argv, "--no-video", cwd=Path(folder)) for _ in range(AT_ONCE)]
        done = [finished(process) == 0 for process in processes]
        runs = [run for run in Path(folder, "runs").iterdir() if (run / "evaluation.json").is_file()]
        same = all(episodes(run) == episodes(runs[0]) for run in runs)
    ok = all(done) and len(runs) == AT_ONCE and same
    what, asked = "runs with a folder of their own", f"= {AT_ONCE}"
    numbers = [table.number(task, "", seed, what, len(runs), "runs", asked=asked, ok=ok)]
    table.write(task, "", seed, numbers)


def repeat(table: Table, seed: int) -> None:
    """The same seed twice, and another one."""
    task = "Pendulum-v1"
    for agent, steps in (("mpc", 400), ("sac", 400), ("ppo", 2048)):
        if not table.wants(task, agent, seed):
            continue
        with tempfile.TemporaryDirectory() as folder:
            runs = [Path(folder, name) for name in ("one", "again", "other")]
            for run, its in zip(runs, (seed, seed, seed + 1), strict=True):
                finished(training(task, agent, steps, its, run))
            same = episodes(runs[0]) == episodes(runs[1]) and same_weights(runs[0], runs[1])
            differs = episodes(runs[0]) != episodes(runs[2])
        numbers = [
            table.number(task, agent, seed, "same seed, same run", same, asked="= 1", ok=same),
            table.number(task, agent, seed, "other seed, other run", differs, asked="= 1", ok=differs),
        ]
        table.write(task, agent, seed, numbers)
