"""A vector field that knows what a velocity is, and learns the accelerations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ode_rl.fields.mlp import MLPField
from ode_rl.fixed_step import kick_drift
from ode_rl.normalize import Scale
from ode_rl.state import Layout
from ode_rl.types import Held


class SecondOrderField(nn.Module):
    """``dq/dt = v`` exactly; ``dv/dt`` and the rates of the rest are a perceptron of state and action.

    ``z [E, N, Z]`` in the order of `layout`, ``a [E, N, A]`` scaled to [-1, 1], output ``[E, N, Z]`` per
    second. The perceptron sees angles by their cosines and sines; what is constant has the rate 0.
    """

    out_spread: Tensor

    def __init__(
        self,
        n_members: int,
        layout: Layout,
        n_action: int,
        hidden: Sequence[int],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.n_members, self.n_state, self.n_action = n_members, layout.n_state, n_action
        self.layout = layout
        n_out = layout.n_v + layout.n_rest
        self.net = MLPField(n_members, layout.n_features, n_action, n_out, hidden, generator)
        self.register_buffer("out_spread", torch.ones(layout.n_state))

    def forward(self, z: Tensor, a: Tensor) -> Tensor:
        return self.hold(a)(z)

    def hold(self, a: Tensor) -> Held:
        """The autonomous field under a held action ``a [E, N, A]``."""
        return self._held(self.net.hold(a))

    def hold_plan(self, a: Tensor) -> list[Held]:
        """The H autonomous fields of plans ``a [E, N, H, A]``."""
        return [self._held(held) for held in self.net.hold_plan(a)]

    def _held(self, net: Held) -> Held:
        n_q, features = self.layout.n_q, self.layout.features

        def flow(z: Tensor) -> Tensor:
            return torch.cat([z[..., n_q : 2 * n_q], net(features(z))], -1)

        return Held(flow, net.tensors, kick_drift(n_q))

    @torch.no_grad()
    def rescale(self, z: Scale, out: Scale, keep_function: bool = True) -> None:
        """Take new scales of the state and of its rate, ``[Z]`` each, as `MLPField` does."""
        out = still(self.layout, out)
        learned = Scale(out.mean[self.layout.n_q :], out.spread[self.layout.n_q :])
        self.net.rescale(self.layout.feature_scale(z), learned, keep_function)
        self.out_spread.copy_(out.spread)


def still(layout: Layout, out: Scale) -> Scale:
    """`out` with mean and spread 0 where `layout` says that the state never changes."""
    at = [layout.n_state - layout.n_rest + i for i in layout.constant]
    mean, spread = out.mean.clone(), out.spread.clone()
    mean[at], spread[at] = 0.0, 0.0
    return Scale(mean, spread)
