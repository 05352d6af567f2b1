"""How many trainings an hour a sweep finishes on one core and on two, and what Ray costs for each.

    python benchmarks/scale.py            # 6 trainings of Pendulum three times over
    python benchmarks/scale.py --quick    # 2 of them, shorter

The same trainings run one after the other in this process (row `direct`), and in a sweep on 1 and on 2 cores.
Nothing else should run on the machine. Rows that are there already are skipped.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# A training uses one thread wherever it runs; libraries read this when they are loaded.
os.environ["OMP_NUM_THREADS"] = "1"

import torch
from _table import RESULTS, Result, append, is_done, read, setting

from ode_rl.sweep import Resources, Trial, run_sweep
from ode_rl.train import TrainConfig, train

TASK, AGENT = "Pendulum-v1", "mpc"
WANTED = 1.8


def trials(n: int, steps: int, folder: Path) -> list[Trial]:
    """The trainings of one row: seeds 0 to n - 1."""
    own = {"steps": steps, "eval_episodes": 5, "video": False, "progress": False, "device": "cpu"}
    return [
        Trial(TrainConfig(TASK, AGENT, seed=seed, run_dir=str(folder / str(seed)), **own), None, {})  # type: ignore[arg-type]
        for seed in range(n)
    ]


def direct(own: list[Trial], folder: Path) -> None:
    """One after the other, here."""
    for trial in own:
        train(trial.config, say=lambda _: None)


def on_cores(cores: int) -> Callable[[list[Trial], Path], None]:
    """In a sweep on so many cores of this machine."""

    def run(own: list[Trial], folder: Path) -> None:
        outcomes = run_sweep(own, folder, Resources(cpus=1), cpus=cores)
        failed = [outcome.message for outcome in outcomes if outcome.state != "done"]
        if failed:
            raise RuntimeError(f"{len(failed)} trials failed, first: {failed[0]}")

    return run


ROWS = {"direct": direct, "1 core": on_cores(1), "2 cores": on_cores(2)}


def measure(row: str, n: int, steps: int, out: Path) -> None:
    """Time one row and write its numbers, with those that compare it with the rows before it."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        ROWS[row](trials(n, steps, Path(folder)), Path(folder))
        seconds = time.perf_counter() - began
    command = f"python benchmarks/scale.py --rows '{row}' --trials {n} --steps {steps}"
    about = dict(
        row=row, task=TASK, agent=AGENT, model="ode", seed=f"0-{n - 1}", dt_ratio="1", command=command
    )
    about["versions"] = setting()
    results = [
        Result(metric="wall clock", value=seconds, unit="s", asked="", ok="", **about),
        Result(metric="trials per hour", value=3600 * n / seconds, unit="1/h", asked="", ok="", **about),
    ]
    walls = {r["row"]: float(r["value"]) for r in read(out) if r["metric"] == "wall clock"}
    if row == "1 core" and "direct" in walls:
        overhead = (seconds - walls["direct"]) / n
        results.append(Result(metric="Ray per trial", value=overhead, unit="s", asked="", ok="", **about))
    if row == "2 cores" and "1 core" in walls:
        speedup = walls["1 core"] / seconds
        met = str(speedup >= WANTED).lower()
        asked = f">= {WANTED}"
        results.append(Result(metric="speed-up", value=speedup, unit="", asked=asked, ok=met, **about))
    append(out, results)
    for result in results:
        print(f"{row}: {result.metric} {result.value:.4g} {result.unit}", flush=True)


def main() -> None:
    """Measure what is asked for and not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--quick", action="store_true", help="2 trainings of 150 steps on 1 and 2 cores")
    parser.add_argument("--out", type=Path, default=RESULTS / "scale.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.quick:
        args.trials, args.steps = 2, 150
        args.out = args.out.with_name("scale_quick.csv")
        args.out.unlink(missing_ok=True)
    for row in args.rows:
        if not is_done(args.out, row=row):
            measure(row, args.trials, args.steps, args.out)


if __name__ == "__main__":
    main()
