"""The words that settings and the command line share; a module that loads nothing."""

from __future__ import annotations

# Baselines that step over an interval instead of integrating it.
DISCRETE_MODELS = ("residual-mlp", "dt-mlp")
MODELS = ("ode", "second-order", "lagrangian", "port-hamiltonian", *DISCRETE_MODELS)
TERMINATIONS = ("hazard", "boundary")
