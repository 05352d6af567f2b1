"""Derivatives of small perceptrons as products: they work in inference mode, where autograd does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Layer = tuple[Tensor, Tensor]


class Pass(NamedTuple):
    """A forward pass through `layers`, with the slopes of SiLU at each hidden unit."""

    layers: Sequence[Layer]
    out: Tensor
    slopes: Sequence[Tensor]

    def push(self, dx: Tensor) -> Tensor:
        """The change of the output ``[E, N, out]`` with a change ``dx [E, N, in]`` of the input."""
        for (w, _), slope in zip(self.layers[:-1], self.slopes, strict=True):
            dx = torch.bmm(dx, w) * slope
        return torch.bmm(dx, self.layers[-1][0])

    def pull(self, gradient: Tensor) -> Tensor:
        """The gradient by the input ``[E, N, in]`` of what has `gradient [E, N, out]` by the output."""
        back = torch.bmm(gradient, self.layers[-1][0].mT)
        for (w, _), slope in zip(reversed(self.layers[:-1]), reversed(self.slopes), strict=True):
            back = torch.bmm(back * slope, w.mT)
        return back


def forward(layers: Sequence[Layer], x: Tensor) -> Pass:
    """Run ``x [E, N, in]`` through layers ``(w [E, in, out], b [E, 1, out])`` with SiLU in between."""
    slopes = []
    for w, b in layers[:-1]:
        before = torch.baddbmm(b, x, w)
        gate = torch.sigmoid(before)
        x = before * gate
        slopes.append(torch.addcmul(gate, x, 1 - gate))
    w, b = layers[-1]
    return Pass(layers, torch.baddbmm(b, x, w), slopes)
