"""Vector fields, one noun a file; all are called as ``field(z, a) -> dz/dt``."""

from __future__ import annotations

from ode_rl.fields.gru import GRUField
from ode_rl.fields.lagrangian import LagrangianField
from ode_rl.fields.mlp import MLPField
from ode_rl.fields.nominal import NominalResidualField
from ode_rl.fields.observed import ObservedField, observed_field
from ode_rl.fields.port_hamiltonian import PortHamiltonianField
from ode_rl.fields.second_order import SecondOrderField

__all__ = [
    "GRUField",
    "LagrangianField",
    "MLPField",
    "NominalResidualField",
    "ObservedField",
    "PortHamiltonianField",
    "SecondOrderField",
    "observed_field",
]
