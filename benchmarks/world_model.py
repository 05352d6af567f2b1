"""What the world model is worth: off its training dt, with few data, in time, in memory, in calibration.

    python benchmarks/world_model.py                          # all rows (about three hours on one core)
    python benchmarks/world_model.py --rows off-dt --seeds 0  # one row
    python benchmarks/world_model.py --quick                  # one seed of one task, a few minutes

Rows: off-dt, coverage, data-limited, energy, termination, mechanics, warm-start, batch-dt, plateau,
adjoint.
Errors are on episodes recorded with other seeds. Results that are there already are skipped.
"""

from __future__ import annotations

from _model_cost import adjoint, batch_dt, plateau, warm_start
from _model_quality import coverage, data_limited, energy, mechanics, off_dt, termination
from _rows import Row, run_rows

ROWS: dict[str, Row] = {
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


if __name__ == "__main__":
    run_rows(
        "world_model",
        __doc__,
        ROWS,
        ONCE,
        threads=1,
        quick="off-dt",
        quick_tasks=["pendulum"],
        quick_help="one seed of off-dt on Pendulum",
    )
