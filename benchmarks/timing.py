"""What time is worth: rewards, physics and discounts at other intervals, imagined worlds, robots with goals.

    python benchmarks/timing.py                          # all rows (several hours on one core)
    python benchmarks/timing.py --rows rewards physics   # some rows, a minute each
    python benchmarks/timing.py --quick                  # one seed of one row, a few minutes

Rows: rewards, physics, chain, discount-sac, imagination, imagined-speed, fetch-reach, point-maze.
The last two need gymnasium-robotics (the extra `robotics`, in an environment of its own) and are left out
without it. Results that are there already are skipped.
"""

from __future__ import annotations

from _rows import Row, run_rows
from _time_exact import chain, physics, rewards
from _time_learned import discount_sac, fetch_reach, imagination, imagined_speed, point_maze

ROWS: dict[str, Row] = {
    "rewards": rewards,
    "physics": physics,
    "chain": chain,
    "discount-sac": discount_sac,
    "imagination": imagination,
    "imagined-speed": imagined_speed,
    "fetch-reach": fetch_reach,
    "point-maze": point_maze,
}
# Exact, or a ratio of times measured several times over.
ONCE = ("rewards", "physics", "imagined-speed")


if __name__ == "__main__":
    run_rows(
        "timing",
        __doc__,
        ROWS,
        ONCE,
        threads=1,
        quick="imagination",
        quick_tasks=None,
        quick_help="one seed of imagination on Pendulum",
    )
