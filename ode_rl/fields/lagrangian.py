"""A vector field that is the motion of a learned Lagrangian."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ode_rl.fields.mechanics import Forces, MechanicalField, Motion
from ode_rl.state import Layout

# Damping starts weak: softplus(-2) = 0.13 of the typical acceleration at a typical velocity.
WEAK = -2.0


class LagrangianField(MechanicalField):
    """``M(q) dv/dt + C(q, v) v + dV/dq + D v = B(q) a`` with learned M, V, D, B, where
    ``C v = (dM/dt) v - d/dq (v^T M v / 2)``.

    M is positive definite and the diagonal D >= 0, so that without action the energy never grows; without
    damping it is conserved. Shapes and arguments as in `MechanicalField`; with `damped` false, D = 0.
    Source: Lutter et al., Deep Lagrangian Networks, 2019, arXiv 1907.04490.
    """

    def __init__(
        self,
        n_members: int,
        layout: Layout,
        n_action: int,
        hidden: Sequence[int],
        generator: torch.Generator,
        damped: bool = True,
    ) -> None:
        super().__init__(n_members, layout, n_action, hidden, generator)
        start = torch.full((n_members, 1, layout.n_v), WEAK)
        self.raw_damping = nn.Parameter(start) if damped else None

    def forces(self) -> Forces:
        if self.raw_damping is None:
            return self._inertia, ()
        damping = F.softplus(self.raw_damping) * self.friction_unit

        def forces(motion: Motion) -> Tensor:
            return torch.addcmul(self._inertia(motion), damping, motion.v, value=-1)

        return forces, (damping,)

    def _inertia(self, motion: Motion) -> Tensor:
        return self.gradient(motion, kinetic=1.0) - self.momentum_change(motion)
