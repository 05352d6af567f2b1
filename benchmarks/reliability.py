"""What is left of a run when it is interrupted, and what a long one costs.

    python benchmarks/reliability.py                        # all rows (about 40 minutes on 2 cores)
    python benchmarks/reliability.py --rows kill --seeds 0
    python benchmarks/reliability.py --quick                # same seed, same run; a few minutes

Rows: kill (SIGKILL at 30 random moments, also during writes, then resume), stop (Ctrl-C, SIGTERM), at-once
(8 runs in the same second), repeat (same seed, other seed), soak (100,000 steps). The column `model` says
the signal or the agent where there is no model. Results that are there already are skipped.
"""

from __future__ import annotations

from _interruptions import at_once, kill, repeat, stop
from _rows import Row, run_rows
from _soak import soak

ROWS: dict[str, Row] = {"repeat": repeat, "at-once": at_once, "stop": stop, "kill": kill, "soak": soak}


if __name__ == "__main__":
    run_rows(
        "reliability",
        __doc__,
        ROWS,
        once=tuple(ROWS),
        threads=1,
        quick="repeat",
        quick_tasks=None,
        quick_help="the row repeat alone",
    )
