"""What the world model is worth: off its training dt, with few data, in time, in memory, in calibration.

    python benchmarks/world_model.py                          # all rows (about three hours on one core)
    python benchmarks/world_model.py --rows off-dt --seeds 0  # one row
    python benchmarks/world_model.py --quick                  # one seed of one task, a few minutes

Rows: off-dt, coverage, data-limited, energy, termination, mechanics, warm-start, batch-dt, plateau,
adjoint.
Errors are on episodes recorded with other seeds. Results that are there already are skipped.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from _model_cost import adjoint, batch_dt, plateau, warm_start
from _model_quality import coverage, data_limited, energy, mechanics, off_dt, termination
from _rows import Table
from _table import RESULTS

ROWS: dict[str, Callable[[Table, int], None]] = {
    "off-dt": off_dt,
    "data-limited": data_limited,
    "energy": energy,
    "coverage": coverage,
    "termination": termination,
    "mechanics": mechanics,
    "warm-start": warm_start,
    "batch-dt": batch_dt,
    "plateau": plateau,
    "adjoint": adjoint,
}
# Ratios of times, measured several times over in one run, or too long for several seeds.
ONCE = ("batch-dt", "adjoint", "plateau", "mechanics")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--tasks", nargs="+", default=None, help="only these tasks")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one seed of off-dt on Pendulum")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    rows, seeds, tasks = args.rows, args.seeds, args.tasks
    out = args.out or RESULTS / "world_model.csv"
    if args.quick:
        rows, seeds, tasks = ["off-dt"], [0], ["pendulum"]
        out = args.out or RESULTS / "quick_world_model.csv"
    torch.set_num_threads(args.threads)
    for seed in seeds:
        for name in rows:
            if name not in ONCE or seed == seeds[0]:
                command = (
                    f"python benchmarks/world_model.py --rows {name} --seeds {seed} --threads {args.threads}"
                )
                ROWS[name](Table(out, name, command, tasks), seed)


if __name__ == "__main__":
    main()
