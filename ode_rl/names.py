"""The words that settings and the command line share; a module that loads nothing."""

from __future__ import annotations

# Baselines that step over an interval instead of integrating it.
DISCRETE_MODELS = ("residual-mlp", "dt-mlp", "gru-dt")
# Models that need not know which observations are positions, velocities and angles.
PLAIN_MODELS = ("ode", *DISCRETE_MODELS)
MODELS = ("ode", "second-order", "lagrangian", "port-hamiltonian", "nominal-residual", *DISCRETE_MODELS)
TERMINATIONS = ("hazard", "boundary", "auto")
PLANNERS = ("icem", "cem", "mppi", "shooting", "gradient")
PRECISIONS = ("auto", "float32", "bfloat16")
# Families of conditions that `ode-rl evaluate --sweep` goes through.
SWEEPS = (
    *("interval", "jitter", "action-delay", "obs-delay", "dropout", "noise", "actuator", "dead-motor"),
    *("mass", "friction", "damping", "gravity"),
)
PROPOSALS = ("none", "policy")
