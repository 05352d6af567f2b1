"""Explicit one-step methods with a given number of substeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ode_rl.adjoint import steps_computed_again
from ode_rl.types import Held


class Tableau(NamedTuple):
    """An explicit Runge-Kutta method whose every stage depends on the one before alone.

    Stage i is evaluated at ``z + h * nodes[i] * k[i-1]``; the step is ``z + h * sum(weights[i] k[i])``.
    With `error`, ``h * sum(error[i] k[i])``, where the last k is the slope at the end of the step, is the
    difference to an embedded method; that slope is the next step's first. With `partitioned`, positions
    move along the new velocities.
    """

    order: int
    nodes: tuple[float, ...]
    weights: tuple[float, ...]
    error: tuple[float, ...] = ()
    partitioned: bool = False


FIXED_STEP: dict[str, Tableau] = {
    "euler": Tableau(1, (0.0,), (1.0,)),
    "semi_implicit": Tableau(1, (0.0,), (1.0,), partitioned=True),
    "midpoint": Tableau(2, (0.0, 0.5), (0.0, 1.0)),
    # Bogacki and Shampine, Appl. Math. Lett. 2 (1989) 321.
    "bosh3_fixed": Tableau(3, (0.0, 0.5, 0.75), (2 / 9, 1 / 3, 4 / 9), (-5 / 72, 1 / 12, 1 / 9, -1 / 8)),
    "rk4": Tableau(4, (0.0, 0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}


class End(NamedTuple):
    """The state ``z [*, Z]`` after all substeps, the integrals of the rates and the summed local errors."""

    z: Tensor
    integrals: Tensor | None
    error: Tensor | None


class _Substep(NamedTuple):
    z: Tensor
    rates: Tensor | None
    error: Tensor | None
    slope: Tensor | None


def kick_drift(n_q: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The semi-implicit update of ``z = [q, v, others]``: ``v' = v + h dv``, ``q' = q + h v'``."""

    def update(z: Tensor, dz: Tensor, h: Tensor) -> Tensor:
        kicked = torch.addcmul(z, h, dz)
        q = torch.addcmul(z[..., :n_q], h, kicked[..., n_q : 2 * n_q])
        return torch.cat([q, kicked[..., n_q:]], -1)

    return update


def fixed_step(
    field: Held,
    z: Tensor,
    h: Tensor,
    n_steps: int,
    tableau: Tableau,
    rates: Held | None,
    again: bool = False,
) -> End:
    """Take `n_steps` substeps of ``h`` seconds, ``[]`` or ``[*, 1]``, from ``z [*, Z]``.

    With `again` no substep keeps its intermediate results for the way back.
    """

    # The parts of a step that there are beside z: integrals, summed errors, the slope at its end.
    there = [0, *([] if rates is None else [1]), *([2, 3] if tableau.error else [])]

    def step(carry: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        old = dict(zip(there, carry, strict=False))  # at the start there is z alone
        z, dq, off, slope = _substep(field, old[0], h, tableau, rates, old.get(3))
        new = [z]
        if dq is not None:
            new.append(torch.addcmul(old[1], h, dq) if 1 in old else h * dq)
        if off is not None and slope is not None:
            new += [old[2] + off if 2 in old else off, slope]
        return tuple(new)

    carry: tuple[Tensor, ...] = (z,)
    if again:
        tensors = (*field.tensors, *(() if rates is None else rates.tensors), h)
        carry = steps_computed_again(step, n_steps, z, tensors)
    else:
        for _ in range(n_steps):
            carry = step(carry)
    end = dict(zip(there, carry, strict=True))
    return End(end[0], end.get(1), end.get(2))


def _substep(
    field: Held, z: Tensor, h: Tensor, tableau: Tableau, rates: Held | None, slope: Tensor | None
) -> _Substep:
    k = z
    dz: Tensor | None = None
    dq: Tensor | None = None
    off: Tensor | None = None
    for i, (node, weight) in enumerate(zip(tableau.nodes, tableau.weights, strict=True)):
        stage = z if node == 0.0 else torch.addcmul(z, h, k, value=node)
        k = field(stage) if slope is None or i else slope
        if tableau.error:
            off = k * tableau.error[i] if off is None else torch.add(off, k, alpha=tableau.error[i])
        if weight == 0.0:
            continue
        dz = k * weight if dz is None else torch.add(dz, k, alpha=weight)
        if rates is not None:
            g = rates(stage)
            dq = g * weight if dq is None else torch.add(dq, g, alpha=weight)
    if dz is None:
        raise RuntimeError("a method with no weights")
    if tableau.partitioned and field.kick_drift is not None:
        return _Substep(field.kick_drift(z, dz, h), dq, None, None)
    z = torch.addcmul(z, h, dz)
    if off is None:
        return _Substep(z, dq, None, None)
    last = field(z)
    return _Substep(z, dq, (h * torch.add(off, last, alpha=tableau.error[-1])).abs(), last)
