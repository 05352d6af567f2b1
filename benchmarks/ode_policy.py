"""Policies that a world model teaches: swing-ups solved, planners matched, contacts.

    python benchmarks/ode_policy.py                              # all rows, seeds 0 1 2
    python benchmarks/ode_policy.py --quick                      # one seed of Pendulum, some minutes
    python benchmarks/ode_policy.py --rows swing-up --tasks ode_rl/Acrobot-v0 --seeds 0

Rows: ``settling`` (how soon the planner on the true dynamics has a swing-up up), ``swing-up`` (experience
until the policy alone does it), ``swing-up-known-reward``, ``swing-up-uniform`` and ``swing-up-exponential``
(the same where the reward need not be learned, and with random control intervals), ``taught``,
``taught-uniform`` and ``taught-exponential`` (a planner collects and teaches the policy, which is tested
alone), ``planner`` (a policy against the planner that it was distilled from), ``contacts`` (the two sources
of gradients on Hopper). Each task and seed takes up to fifteen minutes on one thread; results that are
there already are skipped. Wall clocks leave evaluations out.
"""

from __future__ import annotations

from _policy_contacts import contacts
from _policy_distilled import distilled
from _policy_swing_up import exponential, fixed, known_reward, settling, uniform
from _policy_taught import taught, taught_exponential, taught_uniform
from _rows import Row, run_rows

ROWS: dict[str, Row] = {
    "settling": settling,
    "swing-up": fixed,
    "swing-up-known-reward": known_reward,
    "swing-up-uniform": uniform,
    "swing-up-exponential": exponential,
    "taught": taught,
    "taught-uniform": taught_uniform,
    "taught-exponential": taught_exponential,
    "planner": distilled,
    "contacts": contacts,
}

if __name__ == "__main__":
    run_rows(
        "ode_policy",
        __doc__,
        ROWS,
        once=("settling",),
        threads=1,
        quick="swing-up",
        quick_tasks=["ode_rl/Pendulum-v0"],
        quick_help="measure seed 0 of Pendulum's swing-up again",
    )
