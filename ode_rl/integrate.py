"""Integration of a vector field over one interval of held action, with a `dt` for every sample.

Each interval is solved on unit time: with ``s = t / dt`` the problem ``dz/dt = f(z, a)`` becomes
``dz/ds = dt * f(z, a)`` on ``s in [0, 1]``, so that samples of different duration share one solve and
no step straddles a change of action. This is the only module that knows torchdiffeq.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ode_rl.adjoint import solve_with_adjoint
from ode_rl.errors import UsageError
from ode_rl.fixed_step import FIXED_STEP, fixed_step, kick_drift
from ode_rl.types import Held, Solver, VectorField


class Solution(NamedTuple):
    """The end of one interval.

    ``z [*, Z]`` is the state at the end, ``integrals [*, Q]`` the integrals of the rates over the
    interval (None without rates), ``ok [*]`` says whether every number of the row is finite and an
    adaptive method met its tolerance (a row that failed is NaN there), and `n_evals` counts evaluations
    of the field. ``error [*, Z]`` is the sum of the estimated local errors of the substeps, in the
    coordinates of the solve (None for methods without an estimate).
    """

    z: Tensor
    integrals: Tensor | None
    ok: Tensor
    n_evals: int
    error: Tensor | None = None

    @property
    def n_failures(self) -> int:
        """Number of rows that are not `ok`."""
        return int((~self.ok).sum())


# Not torchdiffeq's fehlberg2: its error estimate misses the tolerance by factors of hundreds.
ADAPTIVE = ("dopri5", "dopri8", "bosh3", "adaptive_heun")


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


def n_substeps(longest: float, solver: Solver) -> int:
    """Into how many substeps (at least) a batch is divided whose longest interval is `longest` seconds."""
    return max(1, math.ceil(longest / solver.max_step - 1e-9))


def least_rtol(dtype: torch.dtype) -> float:
    """The relative tolerance below which rounding in `dtype` hides the error of a step."""
    return 10 * torch.finfo(dtype).eps


def hold(field: VectorField, a: Tensor) -> Held:
    """Return ``z -> f(z, a)`` with the action's share of the work done once if the field can do so.

    A field with an attribute `n_q` says that its state is ``[q, dq/dt, others]`` with n_q positions q.
    """
    if hasattr(field, "hold"):
        held: Held = field.hold(a)
        return held
    own = tuple(field.parameters()) if isinstance(field, torch.nn.Module) else ()
    n_q = getattr(field, "n_q", None)
    return Held(lambda z: field(z, a), (a, *own), None if n_q is None else kick_drift(n_q))


def integrate(
    field: VectorField,
    z: Tensor,
    a: Tensor,
    dt: Tensor | float,
    solver: Solver,
    rates: VectorField | None = None,
    strict: bool = False,
) -> Solution:
    """Solve ``dz/dt = f(z, a)`` over `dt` seconds of held action, one duration a sample.

    Shapes: ``z [*, Z]``, ``a [*, A]``, ``dt`` a number or anything that broadcasts to ``[*]`` (seconds).
    `rates` are integrated along the solution, ``q = int_0^dt g(z(t), a) dt``, ``q [*, Q]``, and stay
    outside the error norm of adaptive methods. Rows that fail are marked in the solution and do not
    disturb the others; with `strict` they raise.

    Raises:
        UsageError: for a `dt` that is not positive and finite, shapes that do not fit, an unknown method,
            a tolerance below what the precision can meet, or, with `strict`, a row that failed.
    """
    seconds = _check_input(field, z, a, dt)
    held = hold(field, a)
    held_rates = None if rates is None else hold(rates, a)
    held = held._replace(flow=_checked(held.flow, z.shape[-1]))
    if held_rates is not None:
        held_rates = held_rates._replace(flow=_checked(held_rates.flow, None))
    solution = integrate_held(held, z, seconds, solver, held_rates)
    if strict and not bool(solution.ok.all()):
        raise _failure(solution, solver)
    return solution


def integrate_held(field: Held, z: Tensor, dt: Tensor, solver: Solver, rates: Held | None = None) -> Solution:
    """As `integrate`, for a field that already holds its action and a `dt` known to be valid.

    The inner loop of planning calls this: it looks at no value of a tensor, unless ``max_step`` bounds
    the substep or the method is adaptive.
    """
    tableau = FIXED_STEP.get(check_method(solver.method))
    if field.chart is not None:
        return _in_chart(field, z, dt, solver, rates)
    seconds = dt.expand(z.shape[:-1]).unsqueeze(-1) if dt.dim() else dt
    n = 1 if math.isinf(solver.max_step) else n_substeps(float(dt.max()), solver)
    if tableau is None:
        return _adaptive(field, z, seconds, n, solver, rates)
    if tableau.partitioned and field.kick_drift is None:
        raise UsageError(
            "a field that says what are positions and velocities (an attribute n_q)",
            "one without",
            "Write Solver(method='midpoint'), or give a field such as SecondOrderField.",
        )
    again = solver.adjoint and torch.is_grad_enabled()
    end = fixed_step(field, z, seconds / n, n, tableau, rates, again)
    n_evals = n * len(tableau.nodes) + (1 if tableau.error else 0)
    ok = torch.isfinite(end.z).all(-1)
    if end.integrals is not None:
        ok = ok & torch.isfinite(end.integrals).all(-1)
    return Solution(end.z, end.integrals, ok, n_evals, end.error)


def _in_chart(field: Held, z: Tensor, dt: Tensor, solver: Solver, rates: Held | None) -> Solution:
    chart = field.chart
    if chart is None:
        raise RuntimeError("a field without a chart")
    decode = chart.decode
    inner_rates = None
    if rates is not None:
        inner_rates = Held(lambda y, flow=rates.flow: flow(decode(y)), rates.tensors)  # type: ignore[misc]
    solution = integrate_held(chart.held, chart.encode(z), dt, solver, inner_rates)
    return solution._replace(z=decode(solution.z))


class _Guarded:
    """The flow on unit time for torchdiffeq, from which rows that cannot be solved drop out.

    The row that needs the shortest step chooses it; integrals have no say. Where the shortest step allowed
    is still too long for a row, or its flow is not finite, the row has failed: it stands still from there
    on, and the others choose. torchdiffeq itself would end the solve of all rows.
    """

    def __init__(self, field: Held, z: Tensor, seconds: Tensor, rates: Held | None) -> None:
        self.field, self.seconds, self.rates = field, seconds, rates
        self.n_evals = 0
        self.failed = ~torch.isfinite(z).all(-1, keepdim=True)
        self.start = torch.where(self.failed, 0.0, z)
        self.wild = torch.zeros_like(self.failed)
        self.too_rough = self.wild
        self.most = torch.finfo(z.dtype).max ** 0.5

    def __call__(self, s: Tensor, y: Tensor) -> Tensor:
        self.n_evals += 1
        state = torch.where(self.failed, self.start, y[..., : self.start.shape[-1]])
        dy = self.field(state)
        if self.rates is not None:
            dy = torch.cat([dy, self.rates(state)], -1)
        dy = self.seconds * dy
        wild = ~(dy.detach().abs() < self.most).all(-1, keepdim=True)
        self.wild = self.wild | wild
        return torch.where(wild | self.failed, 0.0, dy)

    def norm(self, y: Tensor) -> Tensor:
        size = y.detach()[..., : self.start.shape[-1]].square().mean(-1, keepdim=True)
        size = torch.where(self.failed, 0.0, torch.where(self.wild, torch.inf, size))
        # A hair above 1, so that rounding never fails a row of a step that torchdiffeq accepts.
        self.too_rough = ~(size < 1.01)
        return size.max().sqrt()

    def callback_step(self, s: Tensor, y: Tensor, h: Tensor) -> None:
        self.wild = torch.zeros_like(self.wild)

    def callback_accept_step(self, s: Tensor, y: Tensor, h: Tensor) -> None:
        self.failed = self.failed | self.too_rough


def _adaptive(
    field: Held, z: Tensor, seconds: Tensor, n: int, solver: Solver, rates: Held | None
) -> Solution:
    from torchdiffeq import odeint

    least = least_rtol(z.dtype)
    if solver.rtol < least:
        raise UsageError(
            f"rtol >= {least:.1e}, what {z.dtype} can meet",
            solver.rtol,
            f"Write Solver(rtol={2 * least:.0e}), or give float64.",
        )
    flow = _Guarded(field, z, seconds, rates)
    n_rates = 0 if rates is None else rates(flow.start).shape[-1]
    y0 = torch.cat([flow.start, z.new_zeros(*z.shape[:-1], n_rates)], -1)
    s = torch.tensor([0.0, 1.0], dtype=z.dtype, device=z.device)
    settings = {"rtol": solver.rtol, "atol": solver.atol, "method": solver.method}
    # A step ends at the end of the interval; with a shortest step, torchdiffeq never gives up.
    steps = {"max_step": 1 / n, "min_step": 1 / (n * solver.max_steps)}

    def solve(flow: Any, y: Tensor) -> Tensor:
        end: Tensor = odeint(flow, y, s, **settings, options=steps | {"norm": flow.norm, "step_t": s[1:]})[-1]
        return end

    def solve_back(back: Any, augmented: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        back.callback_step = flow.callback_step
        options = steps | {"norm": lambda y: max(flow.norm(y[0]), flow.norm(y[1])), "step_t": s[:1]}
        return tuple(y[-1] for y in odeint(back, augmented, s.flip(0), **settings, options=options))

    if solver.adjoint and torch.is_grad_enabled():
        tensors = (*field.tensors, *(() if rates is None else rates.tensors), seconds)
        end = solve_with_adjoint(flow, solve, solve_back, y0, tensors)
    else:
        end = solve(flow, y0)
    end = torch.where(flow.failed, torch.nan, end)
    integrals = None if rates is None else end[..., z.shape[-1] :]
    return Solution(end[..., : z.shape[-1]], integrals, torch.isfinite(end).all(-1), flow.n_evals)


def _check_input(field: VectorField, z: Tensor, a: Tensor, dt: Tensor | float) -> Tensor:
    """`dt` as a tensor of z's type, if everything fits."""
    if not (z.is_floating_point() and z.dim()):
        raise UsageError("z [*, Z] of floating point", f"{tuple(z.shape)} {z.dtype}", "Write z.float().")
    if a.dim() < 1 or a.shape[:-1] != z.shape[:-1]:
        want, got = tuple(z.shape[:-1]), tuple(a.shape)
        raise UsageError(f"actions of shape {(*want, 'A')}", got, "Give each row of z its action.")
    if hasattr(field, "n_members") and z.dim() != 3:
        raise UsageError("z [E, N, Z] for a field with members", tuple(z.shape), "Write z.expand(E, N, Z).")
    for name, width in (("n_members", z.shape[0]), ("n_state", z.shape[-1]), ("n_action", a.shape[-1])):
        own = getattr(field, name, width)
        if own != width:
            raise UsageError(f"{name} = {own}, as the field has", width, "Give z [E, N, Z] and a [E, N, A].")
    dt = torch.as_tensor(dt, dtype=z.dtype, device=z.device)
    if not bool(((dt > 0) & torch.isfinite(dt)).all()):
        raise UsageError(
            "dt > 0 seconds, finite, for every sample", dt, "Drop or mend the samples with such a dt."
        )
    fits = (n in (1, m) for n, m in zip(reversed(dt.shape), reversed(z.shape[:-1]), strict=False))
    if dt.dim() >= z.dim() or not all(fits):
        want, got = tuple(z.shape[:-1]), tuple(dt.shape)
        raise UsageError(f"dt that broadcasts to {want}", got, "Give one dt, or one for every row of z.")
    return dt


def _checked(flow: Callable[[Tensor], Tensor], width: int | None) -> Callable[[Tensor], Tensor]:
    def checked(z: Tensor) -> Tensor:
        out = flow(z)
        fits = out.shape[:-1] == z.shape[:-1] and width in (None, out.shape[-1]) and out.dtype == z.dtype
        if not (out.dim() and fits):
            raise UsageError(
                f"a field with values of shape {(*z.shape[:-1], width or 'Q')}, {z.dtype}",
                f"{tuple(out.shape)}, {out.dtype}",
                "Return one row of rates for each row of z, in z's type.",
            )
        return out

    return checked


def _failure(solution: Solution, solver: Solver) -> UsageError:
    first = (~solution.ok).nonzero()[0].tolist()
    remedy = (
        f"Write Solver(method={solver.method!r}, max_step=...) with a tenth of this step, or leave it out."
        if solver.method in FIXED_STEP
        else f"Raise rtol above {solver.rtol:g} or max_steps above {solver.max_steps}, or write "
        "Solver(method='rk4', max_step=...)."
    )
    got = f"{solution.n_failures} failed rows of {solution.ok.numel()}, the first at {first}"
    return UsageError(f"rows that {solver.method} can solve", got, remedy)
