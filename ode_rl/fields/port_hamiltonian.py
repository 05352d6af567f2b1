"""A vector field that stores, exchanges and loses a learned energy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ode_rl.fields.mechanics import Forces, MechanicalField, Motion, product, transposed_product
from ode_rl.fields.mlp import MLPField
from ode_rl.normalize import Scale
from ode_rl.state import Layout
from ode_rl.types import Held

# Friction starts weak: the factor K of K K^T has this on its diagonal.
WEAK = 0.3


class PortHamiltonianField(MechanicalField):
    """``dx/dt = (J(x) - R(x)) dH/dx + G(x) a`` for ``x = [q, v]`` and ``H = v^T M(q) v / 2 + V(q)``.

    ``J = [[0, M^-1], [-M^-1, M^-1 S M^-1]]`` is skew-symmetric, ``R = [[0, 0], [0, M^-1 K K^T M^-1]]``
    positive semi-definite and ``G = [0, M^-1 B(q)]``; M, V, B depend on q, S (skew-symmetric) and K (lower
    triangular) on q and v. This gives ``dq/dt = v`` and
    ``M dv/dt = -dH/dq + (S - K K^T) v + B a``, and with the output ``y = G^T dH/dx = B^T v`` the field is
    passive, ``dH/dt = y^T a - |K^T v|^2``, whatever is learned. More general than `LagrangianField`: forces
    that do no work need not come from M. Shapes and arguments as in `MechanicalField`; with `damped` false,
    K = 0. Source: van der Schaft and Jeltsema, Port-Hamiltonian Systems Theory, 2014.
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
        n, self.damped = layout.n_v, damped
        self.n_skew = n * (n - 1) // 2
        self.n_friction = n * (n + 1) // 2 if damped else 0
        self.structure: MLPField | None = None
        if self.n_skew + self.n_friction:
            self.structure = MLPField(
                n_members, layout.n_place + n, 0, self.n_skew + self.n_friction, hidden, generator
            )
            with torch.no_grad():
                self.structure.net.biases[-1][..., self.n_skew : self.n_skew + n * damped] += WEAK

    def forces(self) -> Forces:
        if self.structure is None:
            return self._conservative, ()
        held = self.structure.hold(self.unit.new_zeros(self.n_members, 1, 0))

        def forces(motion: Motion) -> Tensor:
            skew, factor = self._structure(motion, held)
            scale = self.friction_unit.sqrt()
            v = scale * motion.v
            turned = product(skew, v) - transposed_product(skew, v)
            if factor is not None:
                turned = turned - product(factor, transposed_product(factor, v))
            return self._conservative(motion) + scale * turned

        return forces, held.tensors

    def _conservative(self, motion: Motion) -> Tensor:
        return self.gradient(motion, kinetic=-1.0)

    def _structure(self, motion: Motion, held: Held) -> tuple[Tensor, Tensor | None]:
        """The lower half of S and K, ``[E, N, n, n]``."""
        n = self.layout.n_v
        out = held(torch.cat([motion.place, motion.v], -1))
        skew = F.pad(out[..., : self.n_skew], (n, 0))
        friction = out[..., self.n_skew :]
        skew_half = self.fill(skew[..., :n], skew)
        return skew_half, self.fill(friction[..., :n], friction) if self.damped else None

    # -- what can be looked at ------------------------------------------------------------------------

    def output(self, z: Tensor) -> Tensor:
        """``y = B(q)^T v``, ``[E, N, A]``: the power that an action brings in is ``y^T a``."""
        motion = self.motion(z, self.layers())
        return (self.input_map(motion) * motion.v.unsqueeze(-1)).sum(-2)

    @torch.no_grad()
    def rescale(self, z: Scale, out: Scale, keep_function: bool = True) -> None:
        """Take new scales of the state and of its rate, ``[Z]`` each, as `MLPField` does."""
        super().rescale(z, out, keep_function)
        if self.structure is None:
            return
        features, layout = self.layout.feature_scale(z), self.layout
        n_place, n_seen = layout.n_place, layout.n_place + layout.n_v
        mean = torch.cat([features.mean[:n_place], features.mean[n_place:n_seen] / self.unit])
        spread = torch.cat([features.spread[:n_place], features.spread[n_place:n_seen] / self.unit])
        unit = Scale(torch.zeros_like(self.structure.out_mean), torch.ones_like(self.structure.out_mean))
        self.structure.rescale(Scale(mean, spread), unit, keep_function)
