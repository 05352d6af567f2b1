"""How fast the planner is, and what its shortcuts cost in return.

    python benchmarks/planner.py                        # all rows; time nothing else meanwhile
    python benchmarks/planner.py --rows speed --seeds 0
    python benchmarks/planner.py --quick                # the ratios of speed, a minute

Rows: speed, share, decision, growth, anytime, returns, methods, oracle. Ratios are of things measured in
turn in one process, medians over rounds. Results that are there already are skipped.
"""

from __future__ import annotations

from _planner_returns import methods, oracle, returns
from _planner_speed import anytime, decision, growth, share, speed
from _rows import Row, run_rows

ROWS: dict[str, Row] = {
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


if __name__ == "__main__":
    run_rows(
        "planner",
        __doc__,
        ROWS,
        ONCE,
        threads=2,
        quick="speed",
        quick_tasks=None,
        quick_help="the ratios of speed alone",
    )
