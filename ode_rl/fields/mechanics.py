"""What mechanical fields share: a learned mass matrix, potential and input map, and one equation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ode_rl.errors import UsageError
from ode_rl.fields.derivatives import Layer, Pass, forward
from ode_rl.fields.mlp import MLPField
from ode_rl.fields.second_order import still
from ode_rl.fixed_step import kick_drift
from ode_rl.normalize import Scale
from ode_rl.state import Layout
from ode_rl.types import Held

# softplus(ONE) = 1: masses start at 1 in units in which accelerations have spread 1, above the floor.
ONE = 0.5413248546129181
FLOOR = 0.2


class Motion(NamedTuple):
    """A state in the units of the equation: ``place [E, N, P]``, velocity ``v [E, N, n]``, the Cholesky
    factor of the mass matrix, ``L [E, N, n, n]``, and the network's pass that gave it."""

    place: Tensor
    v: Tensor
    factor: Tensor
    seen: Pass


Forces = tuple[Callable[[Motion], Tensor], tuple[Tensor, ...]]


class MechanicalField(nn.Module, ABC):
    """``dq/dt = v``, ``M(q) dv/dt = forces`` with ``M = L L^T`` positive definite; learned rates of the rest.

    ``z [E, N, Z]`` in the order of `layout`, ``a [E, N, A]`` scaled to [-1, 1], output ``[E, N, Z]`` per
    second. One perceptron of the positions gives L, the potential V and the input map B. Each coordinate
    is measured in units in which its acceleration has spread 1 (as of the first `rescale`): masses,
    potentials and forces are then numbers around 1. Only their ratios can be learned from motion.
    """

    out_spread: Tensor
    unit: Tensor
    potential_unit: Tensor
    friction_unit: Tensor
    lower: Tensor
    entries: Tensor

    def __init__(
        self,
        n_members: int,
        layout: Layout,
        n_action: int,
        hidden: Sequence[int],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if layout.n_q < 1:
            raise UsageError("a state with positions", layout, "Take a field without mechanics.")
        self.n_members, self.n_state, self.n_action = n_members, layout.n_state, n_action
        self.layout = layout
        n = layout.n_v
        n_entries = n * (n + 1) // 2
        self.energies = MLPField(
            n_members, layout.n_place, 0, n_entries + 1 + n * n_action, hidden, generator
        )
        self.rest: MLPField | None = None
        if layout.n_rest:
            self.rest = MLPField(n_members, layout.n_features, n_action, layout.n_rest, hidden, generator)
        for name, size in (("out_spread", layout.n_state), ("unit", n), ("friction_unit", n)):
            self.register_buffer(name, torch.ones(size))
        self.register_buffer("potential_unit", torch.ones(()))
        lower, entries = triangle(n)
        self.register_buffer("lower", lower, persistent=False)
        self.register_buffer("entries", entries, persistent=False)

    @abstractmethod
    def forces(self) -> Forces:
        """The forces beyond ``-dV/dq + B a``, a function of the motion, and the tensors it closes over."""

    # -- the equation ---------------------------------------------------------------------------------

    def forward(self, z: Tensor, a: Tensor) -> Tensor:
        return self.hold(a)(z)

    def hold(self, a: Tensor) -> Held:
        """The autonomous field under a held action ``a [E, N, A]``."""
        rest = None if self.rest is None else self.rest.hold(a)
        return self._held(a, self.layers(), self.forces(), rest)

    def hold_plan(self, a: Tensor) -> list[Held]:
        """The H autonomous fields of plans ``a [E, N, H, A]``."""
        rests = [None] * a.shape[-2] if self.rest is None else self.rest.hold_plan(a)
        layers, forces = self.layers(), self.forces()
        return [self._held(a[..., k, :], layers, forces, rest) for k, rest in enumerate(rests)]

    def _held(self, a: Tensor, layers: Sequence[Layer], forces: Forces, rest: Held | None) -> Held:
        n_q, features = self.layout.n_q, self.layout.features
        other_forces, tensors = forces

        def flow(z: Tensor) -> Tensor:
            motion = self.motion(z, layers)
            force = other_forces(motion) + (self.input_map(motion) * a.unsqueeze(-2)).sum(-1)
            dv = torch.cholesky_solve(force.unsqueeze(-1), motion.factor).squeeze(-1) * self.unit
            dz = [z[..., n_q : 2 * n_q], dv]
            return torch.cat(dz if rest is None else [*dz, rest(features(z))], -1)

        own = (a, *(x for layer in layers for x in layer), *tensors)
        return Held(flow, own if rest is None else (*own, *rest.tensors), kick_drift(n_q))

    def layers(self) -> list[Layer]:
        """The layers of the network of the positions, with their scale folded into the first."""
        weights, biases = list(self.energies.net.weights), list(self.energies.net.biases)
        w = weights[0] / self.energies.z_spread.unsqueeze(-1)
        b = biases[0] - (self.energies.z_mean @ w).unsqueeze(1)
        return [(w, b), *zip(weights[1:], biases[1:], strict=True)]

    def motion(self, z: Tensor, layers: Sequence[Layer]) -> Motion:
        """Where ``z [E, N, Z]`` is and how it moves."""
        n_q, n_v = self.layout.n_q, self.layout.n_v
        place = self.layout.place(z)
        seen = forward(layers, place)
        diagonal = F.softplus(seen.out[..., :n_v] + ONE) + FLOOR
        v = z[..., n_q : n_q + n_v] / self.unit
        return Motion(place, v, self.fill(diagonal, seen.out), seen)

    def potential(self, motion: Motion) -> Tensor:
        """``V(q)``, ``[E, N]``."""
        return motion.seen.out[..., len(self.entries)] * self.potential_unit

    def input_map(self, motion: Motion) -> Tensor:
        """``B(q)``, ``[E, N, n, A]``: how the action pushes."""
        flat = motion.seen.out[..., len(self.entries) + 1 :]
        return flat.reshape(*flat.shape[:-1], self.layout.n_v, self.n_action)

    def gradient(self, motion: Motion, kinetic: float) -> Tensor:
        """``d/dq (kinetic * T - V)`` with ``T = v^T M v / 2``, ``[E, N, n]``."""
        n_v = self.layout.n_v
        by_factor = motion.v.unsqueeze(-1) * transposed_product(motion.factor, motion.v).unsqueeze(-2)
        by_entry = by_factor.flatten(-2).index_select(-1, self.entries) * kinetic
        by_diagonal = by_entry[..., :n_v] * torch.sigmoid(motion.seen.out[..., :n_v] + ONE)
        by_potential = (-self.potential_unit).expand(*motion.v.shape[:-1], 1)
        by_input = torch.zeros_like(motion.seen.out[..., len(self.entries) + 1 :])
        by_out = torch.cat([by_diagonal, by_entry[..., n_v:], by_potential, by_input], -1)
        by_q = self.layout.place_gradient(motion.place, motion.seen.pull(by_out))
        return F.pad(by_q, (0, self.layout.n_free)) * self.unit

    def momentum_change(self, motion: Motion) -> Tensor:
        """``(dM/dt) v``, the change of the momentum by the change of the masses, ``[E, N, n]``."""
        n_q, n_v = self.layout.n_q, self.layout.n_v
        dq = motion.v[..., :n_q] * self.unit[:n_q]
        change = motion.seen.push(self.layout.place_rate(motion.place, dq))
        d_diagonal = change[..., :n_v] * torch.sigmoid(motion.seen.out[..., :n_v] + ONE)
        d_factor = self.fill(d_diagonal, change)
        return product(d_factor, transposed_product(motion.factor, motion.v)) + product(
            motion.factor, transposed_product(d_factor, motion.v)
        )

    def fill(self, diagonal: Tensor, out: Tensor) -> Tensor:
        """The lower triangular matrices with this diagonal and, below it, what follows it in `out`."""
        n = self.layout.n_v
        off = out[..., n : len(self.entries)]
        entries = torch.cat([diagonal, off, torch.zeros_like(diagonal[..., :1])], -1)
        return entries.index_select(-1, self.lower).reshape(*diagonal.shape, n)

    # -- what can be looked at ------------------------------------------------------------------------

    def mass_matrix(self, z: Tensor) -> Tensor:
        """``M(q)``, ``[E, N, n, n]``, symmetric and positive definite, for ``z [E, N, Z]``."""
        factor = self.motion(z, self.layers()).factor / self.unit.unsqueeze(-1)
        return factor @ factor.mT

    def energy(self, z: Tensor) -> Tensor:
        """``v^T M(q) v / 2 + V(q)``, ``[E, N]``, for ``z [E, N, Z]``."""
        motion = self.motion(z, self.layers())
        return 0.5 * transposed_product(motion.factor, motion.v).square().sum(-1) + self.potential(motion)

    # -- scales ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def rescale(self, z: Scale, out: Scale, keep_function: bool = True) -> None:
        """Take new scales of the state and of its rate, ``[Z]`` each, as `MLPField` does.

        With `keep_function` the units of the equation stay what they are.
        """
        layout, n_q, n_v = self.layout, self.layout.n_q, self.layout.n_v
        out, features = still(layout, out), layout.feature_scale(z)
        place = Scale(features.mean[: layout.n_place], features.spread[: layout.n_place])
        unit = Scale(torch.zeros_like(self.energies.out_mean), torch.ones_like(self.energies.out_mean))
        self.energies.rescale(place, unit, keep_function)
        if self.rest is not None:
            learned = Scale(out.mean[n_q + n_v :], out.spread[n_q + n_v :])
            self.rest.rescale(features, learned, keep_function)
        self.out_spread.copy_(out.spread)
        if not keep_function:
            spread = out.spread[n_q : n_q + n_v]
            self.unit.copy_(torch.where(spread > 0, spread, torch.ones_like(spread)))
            self.friction_unit.copy_(self.unit / z.spread[n_q : n_q + n_v])
            # A potential that changes by 1 over the data would push by unit / spread.
            push = self.unit[:n_q] / place.spread[: layout.n_q]
            self.potential_unit.copy_(push.square().mean().rsqrt())


def triangle(n: int) -> tuple[Tensor, Tensor]:
    """How n (n + 1) / 2 entries, the diagonal first, fill a lower triangular matrix, and are read from it.

    The first index tensor picks each of the n^2 elements from the entries followed by a zero, the second
    picks the entries from the elements.
    """
    row, column = torch.tril_indices(n, n, -1)
    on = torch.arange(n)
    entries = torch.cat([on * n + on, row * n + column])
    lower = torch.full((n * n,), len(entries))
    lower[entries] = torch.arange(len(entries))
    return lower, entries


def product(matrix: Tensor, vector: Tensor) -> Tensor:
    """``matrix [*, n, m] @ vector [*, m]``."""
    return (matrix * vector.unsqueeze(-2)).sum(-1)


def transposed_product(matrix: Tensor, vector: Tensor) -> Tensor:
    """``matrix^T @ vector``, for ``matrix [*, n, m]`` and ``vector [*, n]``."""
    return (matrix * vector.unsqueeze(-1)).sum(-2)
