"""Gradients of a solve whose memory does not grow with its evaluations.

An adaptive solve goes back along the adjoint ODE; substeps of a given number are computed again, one at a
time, so that the gradient is that of back-propagation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Flow = Callable[[Tensor, Tensor], Tensor]
Augmented = tuple[Tensor, ...]
Carry = tuple[Tensor, ...]
AugmentedFlow = Callable[[Tensor, Augmented], Augmented]


def solve_with_adjoint(
    flow: Flow,
    solve: Callable[[Flow, Tensor], Tensor],
    solve_back: Callable[[AugmentedFlow, Augmented], Augmented],
    y: Tensor,
    tensors: Sequence[Tensor],
) -> Tensor:
    """``solve(flow, y)``, with gradients for `y` and for the `tensors` that `flow` closes over.

    On the way back `solve_back` takes the end, its gradient ``g`` and zeros for the tensors ``t`` from 1 to 0
    along ``dy/ds = f``, ``dg/ds = -g df/dy``, ``dt/ds = -g df/dt``. Tensors may be computed from one another.
    Source: Chen et al., Neural Ordinary Differential Equations, 2018, arXiv 1806.07366.
    """
    wanted = list({id(t): t for t in tensors if t.requires_grad}.values())
    end: Tensor = _Adjoint.apply(flow, solve, solve_back, y, *wanted)
    return end


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flow: Flow, solve: Any, solve_back: Any, y: Tensor, *tensors: Tensor) -> Tensor:
        end: Tensor = solve(flow, y)
        ctx.save_for_backward(end)
        # Kept as they are: gradients are asked for these very tensors, not for saved copies of them.
        ctx.flow, ctx.solve_back, ctx.tensors = flow, solve_back, tensors
        return end

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (end,) = ctx.saved_tensors
        tensors = ctx.tensors

        def back(s: Tensor, augmented: Augmented) -> Augmented:
            with torch.enable_grad():
                y = augmented[0].detach().requires_grad_()
                dy = ctx.flow(s, y)
                found = torch.autograd.grad(
                    dy, (y, *tensors), -augmented[1], allow_unused=True, retain_graph=True
                )
            like = (y, *tensors)
            rates = (torch.zeros_like(x) if g is None else g for x, g in zip(like, found, strict=True))
            return (dy.detach(), *rates)

        start = (end, gradient, *(torch.zeros_like(t) for t in tensors))
        with torch.no_grad():
            _, by_y, *by_tensors = ctx.solve_back(back, start)
        return None, None, None, by_y, *_direct(tensors, list(by_tensors))


def steps_computed_again(
    step: Callable[[Carry], Carry], n: int, start: Tensor, tensors: Sequence[Tensor]
) -> Carry:
    """``step(step(... (start,)))``, n times, with gradients for `start` and the `tensors` that `step` uses.

    Between the passes it holds `start` alone. On the way back it halves the steps again and again, and holds
    what ``1 + log2 n`` of them began with and the intermediate results of a single one; each step is taken
    ``1 + log2(n) / 2`` times more. Tensors may be computed from one another.
    Source: Griewank, Achieving logarithmic growth of temporal and spatial complexity in reverse automatic
    differentiation, 1992, doi 10.1080/10556789208805505.
    """
    wanted = list({id(t): t for t in tensors if t.requires_grad}.values())
    end: Carry = _Again.apply(step, n, start, *wanted)
    return end


class _Again(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: Callable[[Carry], Carry], n: int, start: Tensor, *tensors: Tensor) -> Carry:
        ctx.save_for_backward(start)
        # Kept as they are: gradients are asked for these very tensors, not for saved copies of them.
        ctx.step, ctx.n, ctx.tensors = step, n, tensors
        carry: Carry = (start,)
        for _ in range(n):
            carry = step(carry)
        return carry

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        totals = [torch.zeros_like(t) for t in ctx.tensors]
        by_start = _Again.back(ctx, ctx.n, ctx.saved_tensors, gradients, totals)
        return None, None, *by_start, *_direct(ctx.tensors, totals)

    @staticmethod
    def back(ctx: Any, n: int, start: Carry, gradients: Carry, totals: list[Tensor]) -> Carry:
        """From the gradients at the end of n steps to those at their `start`; `totals` are added to."""
        if n == 1:
            return _Again.back_one(ctx, start, gradients, totals)
        first = n // 2
        middle = start
        with torch.no_grad():
            for _ in range(first):
                middle = ctx.step(middle)
        gradients = _Again.back(ctx, n - first, middle, gradients, totals)
        return _Again.back(ctx, first, start, gradients, totals)

    @staticmethod
    def back_one(ctx: Any, start: Carry, gradients: Carry, totals: list[Tensor]) -> Carry:
        with torch.enable_grad():
            carry = tuple(c.detach().requires_grad_() for c in start)
            like = (*carry, *ctx.tensors)
            found = torch.autograd.grad(
                ctx.step(carry), like, gradients, allow_unused=True, retain_graph=True
            )
        whole = [torch.zeros_like(x) if g is None else g for x, g in zip(like, found, strict=True)]
        for i, g in enumerate(whole[len(carry) :]):
            totals[i] = totals[i] + g
        return tuple(whole[: len(carry)])


def _direct(tensors: Sequence[Tensor], total: list[Tensor]) -> list[Tensor]:
    """From total to partial derivatives, where some of `tensors` are computed from others.

    ``total_i = sum_j partial_j dt_j/dt_i``. Autograd passes the partial derivative of ``t_j`` on to
    ``t_i``; it would count the total one twice.
    """
    made = [t.grad_fn._sequence_nr() if t.grad_fn is not None else -1 for t in tensors]
    order = sorted(range(len(tensors)), key=lambda i: made[i], reverse=True)
    for at, j in enumerate(order):
        before = order[at + 1 :]
        if made[j] < 0 or not before:
            break
        known = torch.autograd.grad(
            tensors[j], [tensors[i] for i in before], total[j], allow_unused=True, retain_graph=True
        )
        for i, g in zip(before, known, strict=True):
            if g is not None:
                total[i] = total[i] - g
    return total
