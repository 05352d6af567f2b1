"""Integration of a vector field over one interval of held action, with a `dt` for every sample.

Each interval is solved on unit time: with ``s = t / dt`` the problem ``dz/dt = f(z, a)`` becomes
``dz/ds = dt * f(z, a)`` on ``s in [0, 1]``, so that samples of different duration share one solve and
no step straddles a change of action. This is the only module that knows torchdiffeq.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ode_rl.errors import UsageError
from ode_rl.types import Held, Solver, VectorField


class Solution(NamedTuple):
    """The end of one interval.

    ``z [*, Z]`` is the state at the end, ``integrals [*, Q]`` the integrals of the rates over the
    interval (None without rates), ``ok [*]`` says whether every number of the row is finite, and
    `n_evals` counts evaluations of the field.
    """

    z: Tensor
    integrals: Tensor | None
    ok: Tensor
    n_evals: int


class Tableau(NamedTuple):
    """An explicit Runge-Kutta method whose every stage depends on the one before alone.

    Stage i is evaluated at ``z + h * nodes[i] * k[i-1]``; the step is ``z + h * sum(weights[i] k[i])``.
    Euler, midpoint and the classical fourth-order method are all of this form.
    """

    order: int
    nodes: tuple[float, ...]
    weights: tuple[float, ...]


FIXED_STEP: dict[str, Tableau] = {
    "euler": Tableau(1, (0.0,), (1.0,)),
    "midpoint": Tableau(2, (0.0, 0.5), (0.0, 1.0)),
    "rk4": Tableau(4, (0.0, 0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}
ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")


def check_method(method: str) -> str:
    """Return `method` if it is known.

    Raises:
        UsageError: if it is not.
    """
    known = (*FIXED_STEP, *ADAPTIVE)
    if method not in known:
        raise UsageError(
            f"a method among {', '.join(known)}", repr(method), "Write Solver(method='midpoint')."
        )
    return method


def hold(field: VectorField, a: Tensor) -> Held:
    """Return ``z -> f(z, a)`` with the action's share of the work done once if the field can do so."""
    if hasattr(field, "hold"):
        held: Held = field.hold(a)
        return held
    own = tuple(field.parameters()) if isinstance(field, torch.nn.Module) else ()
    return Held(lambda z: field(z, a), (a, *own))


def integrate(
    field: VectorField,
    z: Tensor,
    a: Tensor,
    dt: Tensor | float,
    solver: Solver,
    rates: VectorField | None = None,
) -> Solution:
    """Solve ``dz/dt = f(z, a)`` over `dt` seconds of held action, one duration a sample.

    Shapes: ``z [*, Z]``, ``a [*, A]``, ``dt`` a number or anything that broadcasts to ``[*]`` (seconds).
    `rates` are integrated along the solution, ``q = int_0^dt g(z(t), a) dt``, ``q [*, Q]``, and stay
    outside the error norm of adaptive methods.

    Raises:
        UsageError: for a `dt` that is not positive and finite, or an unknown method.
    """
    dt = torch.as_tensor(dt, dtype=z.dtype, device=z.device)
    if not bool(((dt > 0) & torch.isfinite(dt)).all()):
        raise UsageError(
            "dt > 0 seconds, finite, for every sample", dt, "Drop or mend the samples with such a dt."
        )
    held_rates = None if rates is None else hold(rates, a)
    return integrate_held(hold(field, a), z, dt, solver, held_rates)


def integrate_held(field: Held, z: Tensor, dt: Tensor, solver: Solver, rates: Held | None = None) -> Solution:
    """As `integrate`, for a field that already holds its action and a `dt` known to be valid.

    The inner loop of planning calls this: it looks at no value of a tensor, unless ``max_step`` bounds
    the substep or the method is adaptive.
    """
    tableau = FIXED_STEP.get(check_method(solver.method))
    seconds = dt.expand(z.shape[:-1]).unsqueeze(-1) if dt.dim() else dt
    if tableau is None:
        return _adaptive(field, z, seconds, solver, rates)
    n = 1 if math.isinf(solver.max_step) else max(1, math.ceil(float(dt.max()) / solver.max_step - 1e-9))
    return _fixed_step(field, z, seconds / n, n, tableau, rates)


def _fixed_step(
    field: Held, z: Tensor, h: Tensor, n_steps: int, tableau: Tableau, rates: Held | None
) -> Solution:
    integrals: Tensor | None = None
    for _ in range(n_steps):
        k = z
        dz: Tensor | None = None
        dq: Tensor | None = None
        for node, weight in zip(tableau.nodes, tableau.weights, strict=True):
            stage = z if node == 0.0 else torch.addcmul(z, h, k, value=node)
            k = field(stage)
            if weight == 0.0:
                continue
            dz = k * weight if dz is None else torch.add(dz, k, alpha=weight)
            if rates is not None:
                g = rates(stage)
                dq = g * weight if dq is None else torch.add(dq, g, alpha=weight)
        if dz is None:
            raise RuntimeError("a method with no weights")
        z = torch.addcmul(z, h, dz)
        if dq is not None:
            integrals = h * dq if integrals is None else torch.addcmul(integrals, h, dq)
    return Solution(z, integrals, torch.isfinite(z).all(-1), n_steps * len(tableau.nodes))


def _adaptive(field: Held, z: Tensor, seconds: Tensor, solver: Solver, rates: Held | None) -> Solution:
    from torchdiffeq import odeint, odeint_adjoint

    evals = 0
    width = z.shape[-1]
    n_rates = 0 if rates is None else rates(z).shape[-1]

    def flow(s: Tensor, y: Tensor) -> Tensor:
        nonlocal evals
        evals += 1
        state = y[..., :width]
        dy = field(state)
        return seconds * (dy if rates is None else torch.cat([dy, rates(state)], -1))

    def worst_row(y: Tensor) -> Tensor:
        # The sample that needs the shortest step chooses it; integrals have no say.
        return y.reshape(-1, width + n_rates)[:, :width].square().mean(-1).max().sqrt()

    y0 = torch.cat([z, z.new_zeros(*z.shape[:-1], n_rates)], -1)
    s = torch.tensor([0.0, 1.0], dtype=z.dtype, device=z.device)
    settings = {
        "rtol": solver.rtol,
        "atol": solver.atol,
        "method": solver.method,
        "options": {"norm": worst_row},
    }
    if solver.adjoint:
        tensors = (*field.tensors, *(() if rates is None else rates.tensors), seconds)
        adjoint = {
            "adjoint_params": tuple(t for t in tensors if t.requires_grad),
            "adjoint_options": {"norm": "seminorm"},
        }
        end = odeint_adjoint(flow, y0, s, **settings, **adjoint)[-1]
    else:
        end = odeint(flow, y0, s, **settings)[-1]
    integrals = None if rates is None else end[..., width:]
    return Solution(end[..., :width], integrals, torch.isfinite(end).all(-1), evals)
