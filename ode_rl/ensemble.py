"""E independent multi-layer perceptrons as batched matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ode_rl.normalize import Scale


class EnsembleMLP(nn.Module):
    """E perceptrons of equal shape with SiLU between the layers: ``x [E, N, in] -> [E, N, out]``.

    The weights of all members stand in one tensor a layer, so that one batched product serves the
    ensemble (no loop over members, no vmap). Members start from independent draws of `generator`.
    """

    def __init__(
        self,
        n_members: int,
        n_in: int,
        hidden: Sequence[int],
        n_out: int,
        generator: torch.Generator,
        out_gain: float = 0.1,
    ) -> None:
        super().__init__()
        widths = [n_in, *hidden, n_out]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for i, (w_in, w_out) in enumerate(pairwise(widths)):
            gain = out_gain if i == len(hidden) else 1.0
            scale = gain / math.sqrt(w_in)
            w = torch.randn(n_members, w_in, w_out, generator=generator) * scale
            self.weights.append(nn.Parameter(w))
            self.biases.append(nn.Parameter(torch.zeros(n_members, 1, w_out)))

    @property
    def n_members(self) -> int:
        return int(self.weights[0].shape[0])

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(torch.baddbmm(self.biases[0], x, self.weights[0]))

    def tail(self, first: Tensor) -> Tensor:
        """Continue from the first layer's pre-activation ``[E, N, hidden]``."""
        x = first
        for w, b in zip(list(self.weights)[1:], list(self.biases)[1:], strict=True):
            x = torch.baddbmm(b, F.silu(x), w)
        return x

    @torch.no_grad()
    def take_input_scale(self, old: Scale, new: Scale) -> None:
        """Change the first layer so that inputs normalised by `new` give what those by `old` gave.

        The scales are those of the first inputs ``[D]``; others stay as they are.
        """
        n = len(new.mean)
        w, b = self.weights[0], self.biases[0]
        b += (((new.mean - old.mean) / old.spread) @ w[:, :n]).unsqueeze(1)
        w[:, :n] *= (new.spread / old.spread).unsqueeze(-1)
