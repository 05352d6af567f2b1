"""How fast the planner is, and what its shortcuts cost in return.

    python benchmarks/planner.py                        # all rows; time nothing else meanwhile
    python benchmarks/planner.py --rows speed --seeds 0
    python benchmarks/planner.py --quick                # the ratios of speed, a minute

Rows: speed, share, decision, growth, anytime, returns, methods, oracle. Ratios are of things measured in
turn in one process, medians over rounds. Results that are there already are skipped.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from _planner_returns import methods, oracle, returns
from _planner_speed import anytime, decision, growth, share, speed
from _rows import Table
from _table import RESULTS

ROWS: dict[str, Callable[[Table, int], None]] = {
    "speed": speed,
    "share": share,
    "growth": growth,
    "decision": decision,
    "anytime": anytime,
    "methods": methods,
    "oracle": oracle,
    "returns": returns,
}
# These measure ratios of times, many times over, in one run: seeds add nothing.
ONCE = ("speed", "share", "growth", "decision", "anytime", "oracle")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--tasks", nargs="+", default=None, help="only these tasks")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="the ratios of speed alone")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    rows, seeds = args.rows, args.seeds
    out = args.out or RESULTS / "planner.csv"
    if args.quick:
        rows, seeds, out = ["speed"], [0], args.out or RESULTS / "quick_planner.csv"
    torch.set_num_threads(args.threads)
    for seed in seeds:
        for name in rows:
            if name not in ONCE or seed == seeds[0]:
                command = (
                    f"python benchmarks/planner.py --rows {name} --seeds {seed} --threads {args.threads}"
                )
                ROWS[name](Table(out, name, command, args.tasks), seed)


if __name__ == "__main__":
    main()
