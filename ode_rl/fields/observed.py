"""A structured field for the observations of a task, and the ways to make one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from ode_rl.errors import UsageError
from ode_rl.fields.lagrangian import LagrangianField
from ode_rl.fields.nominal import NominalResidualField
from ode_rl.fields.port_hamiltonian import PortHamiltonianField
from ode_rl.fields.second_order import SecondOrderField
from ode_rl.normalize import Scale
from ode_rl.state import StateSpec
from ode_rl.types import Chart, Held, VectorField

STRUCTURES = ("second-order", "lagrangian", "port-hamiltonian", "nominal-residual")


class StructuredField(Protocol):
    """A field on ``z = [q, v, rest]``."""

    n_members: int
    n_action: int

    def __call__(self, z: Tensor, a: Tensor) -> Tensor: ...

    def hold(self, a: Tensor) -> Held: ...

    def hold_plan(self, a: Tensor) -> list[Held]: ...

    def rescale(self, z: Scale, out: Scale, keep_function: bool = True) -> None: ...


class ObservedField(nn.Module):
    """The rate of the observation, ``obs [E, N, O], a [E, N, A] -> [E, N, O]``, by a field on its state.

    Intervals are integrated in ``z = [q, v, rest]`` and only their ends are observations: angles wrap, and
    cosines stay cosines. To a world model this is what an `MLPField` is.
    """

    out_spread: Tensor

    def __init__(self, spec: StateSpec, inner: StructuredField) -> None:
        super().__init__()
        self.spec, self.inner = spec, inner
        self.n_members, self.n_state, self.n_action = inner.n_members, spec.n_obs, inner.n_action
        self.register_buffer("out_spread", torch.ones(spec.n_obs))

    def forward(self, obs: Tensor, a: Tensor) -> Tensor:
        return self.hold(a)(obs)

    def hold(self, a: Tensor) -> Held:
        """The autonomous field under a held action ``a [E, N, A]``."""
        return self._held(self.inner.hold(a))

    def hold_plan(self, a: Tensor) -> list[Held]:
        """The H autonomous fields of plans ``a [E, N, H, A]``."""
        return [self._held(held) for held in self.inner.hold_plan(a)]

    def _held(self, inner: Held) -> Held:
        def flow(obs: Tensor) -> Tensor:
            z = self.spec.encode(obs)
            return self.spec.decode_rate(z, inner(z))

        return Held(flow, inner.tensors, chart=Chart(inner, self.spec.encode, self.spec.decode))

    @torch.no_grad()
    def rescale(self, z: Scale, out: Scale, keep_function: bool = True) -> None:
        """Take new scales of the observation and of its rate, ``[O]`` each, as `MLPField` does."""
        self.inner.rescale(self.spec.encode_scale(z), self.spec.encode_rate_scale(out), keep_function)
        self.out_spread.copy_(out.spread)


def observed_field(
    structure: str,
    spec: StateSpec,
    n_members: int,
    n_action: int,
    hidden: Sequence[int],
    generator: torch.Generator,
    nominal: VectorField | None = None,
) -> ObservedField:
    """A field of one of the `STRUCTURES` for observations as `spec` describes them.

    `nominal`, for ``"nominal-residual"`` alone, is what is known: ``f(z, a) -> dz/dt`` per second in the
    order of ``spec.layout``, with actions scaled to [-1, 1].

    Raises:
        UsageError: for an unknown structure, or a nominal field too many or too few.
    """
    if structure not in STRUCTURES:
        raise UsageError(
            f"a structure among {', '.join(STRUCTURES)}", repr(structure), "Write 'second-order'."
        )
    if (nominal is not None) != (structure == "nominal-residual"):
        raise UsageError(
            "a nominal field for 'nominal-residual' and for no other structure",
            f"structure={structure!r}, nominal={nominal}",
            "Give nominal=f, a function of (z, a), together with 'nominal-residual'.",
        )
    args = (n_members, spec.layout, n_action, hidden, generator)
    if nominal is not None:
        return ObservedField(spec, NominalResidualField(nominal, *args))
    kinds = {
        "second-order": SecondOrderField,
        "lagrangian": LagrangianField,
        "port-hamiltonian": PortHamiltonianField,
    }
    return ObservedField(spec, kinds[structure](*args))
