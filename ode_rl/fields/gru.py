"""A recurrent rival of the vector fields: a gated unit that remembers the plan so far."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ode_rl.fields.mlp import MLPField
from ode_rl.normalize import Scale
from ode_rl.types import Held

Memory = dict[str, Tensor]


class GRUField(nn.Module):
    """Rates of change by a gated recurrent unit (Cho et al., 2014, arXiv 1406.1078), one a member.

    With ``x = silu(W [(z - mean) / spread, a])`` and memory h, which is 0 at the start of a roll-out,
    ``h' = (1 - u) n(x, h) + u h`` and the rate is ``out_mean + out_spread * V h'``. The intervals of
    `hold_plan` share one memory, so they have to be evaluated in their order, once each: it is a model
    that steps, not a vector field. ``z [E, N, Z]``, ``a [E, N, A]``, output ``[E, N, D]`` per second.
    """

    def __init__(
        self,
        n_members: int,
        n_state: int,
        n_action: int,
        n_out: int,
        hidden: Sequence[int],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        width, memory = hidden[0], hidden[-1]
        self.encode = MLPField(n_members, n_state, n_action, width, (), generator)
        scale = 1 / math.sqrt(width + memory)
        self.from_input = _weights(n_members, width, 3 * memory, scale, generator)
        self.from_memory = _weights(n_members, memory, 3 * memory, scale, generator)
        self.bias = nn.Parameter(torch.zeros(n_members, 1, 3 * memory))
        self.decode = MLPField(n_members, memory, 0, n_out, (), generator)

    @property
    def out_spread(self) -> Tensor:
        """Spread of the rates, ``[D]``, as `MLPField` has it."""
        return self.decode.out_spread

    def forward(self, z: Tensor, a: Tensor) -> Tensor:
        return self.hold(a)(z)

    def hold(self, a: Tensor) -> Held:
        """The step from an empty memory under a held action ``a [E, N, A]``."""
        return self._held(self.encode.hold(a), {})

    def hold_plan(self, a: Tensor) -> list[Held]:
        """The H steps of plans ``a [E, N, H, A]``, which share the memory of one roll-out."""
        memory: Memory = {}
        return [self._held(encoded, memory) for encoded in self.encode.hold_plan(a)]

    def _held(self, encoded: Held, memory: Memory) -> Held:
        def flow(z: Tensor) -> Tensor:
            memory["h"] = h = self._cell(F.silu(encoded(z)), memory.get("h"))
            rate: Tensor = self.decode(h, h[..., :0])
            return rate

        own = (self.from_input, self.from_memory, self.bias, *self.decode.parameters())
        return Held(flow, (*encoded.tensors, *own))

    def _cell(self, x: Tensor, h: Tensor | None) -> Tensor:
        if h is None:
            h = x.new_zeros(*x.shape[:-1], self.from_memory.shape[1])
        u_x, r_x, n_x = torch.baddbmm(self.bias, x, self.from_input).chunk(3, -1)
        u_h, r_h, n_h = torch.bmm(h, self.from_memory).chunk(3, -1)
        new = torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h)
        return torch.lerp(new, h, torch.sigmoid(u_x + u_h))

    @torch.no_grad()
    def rescale(self, z: Scale, out: Scale, keep_function: bool = True) -> None:
        """Take new scales of the state and of its rate, as `MLPField` does."""
        code, memory = self.encode.out_mean, self.decode.z_mean
        self.encode.rescale(z, _unit_like(code), keep_function)
        self.decode.rescale(_unit_like(memory), out, keep_function)


def _unit_like(x: Tensor) -> Scale:
    return Scale(torch.zeros_like(x), torch.ones_like(x))


def _weights(e: int, n_in: int, n_out: int, scale: float, generator: torch.Generator) -> nn.Parameter:
    return nn.Parameter(torch.randn(e, n_in, n_out, generator=generator) * scale)
