"""A vector field that starts from what is known of the robot, and learns what is missing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ode_rl.fields.mlp import MLPField
from ode_rl.fields.second_order import still
from ode_rl.fixed_step import kick_drift
from ode_rl.integrate import hold
from ode_rl.normalize import Scale
from ode_rl.state import Layout
from ode_rl.types import Held, VectorField


class NominalResidualField(nn.Module):
    """``f(z, a) = nominal(z, a) + net(z, a)`` with ``net = 0`` before it is fitted.

    ``z [E, N, Z]`` in the order of `layout`, ``a [E, N, A]`` scaled to [-1, 1], output ``[E, N, Z]`` per
    second; `nominal` is called alike. The rates of the positions are those of `nominal` alone, which
    has to give ``dq/dt = v``. Gradients reach `nominal` as far as torch can follow it: the parameters of
    a Module are fitted too, a function that leaves torch counts as constant in the state. For a state of
    unknown structure write ``Layout(n_rest=Z)``.
    """

    out_spread: Tensor

    def __init__(
        self,
        nominal: VectorField,
        n_members: int,
        layout: Layout,
        n_action: int,
        hidden: Sequence[int],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.n_members, self.n_state, self.n_action = n_members, layout.n_state, n_action
        self.layout, self.nominal = layout, nominal
        n_out = layout.n_v + layout.n_rest
        self.net = MLPField(n_members, layout.n_features, n_action, n_out, hidden, generator)
        nn.init.zeros_(self.net.net.weights[-1])
        self.register_buffer("out_spread", torch.ones(layout.n_state))

    def forward(self, z: Tensor, a: Tensor) -> Tensor:
        return self.hold(a)(z)

    def hold(self, a: Tensor) -> Held:
        """The autonomous field under a held action ``a [E, N, A]``."""
        return self._held(hold(self.nominal, a), self.net.hold(a))

    def hold_plan(self, a: Tensor) -> list[Held]:
        """The H autonomous fields of plans ``a [E, N, H, A]``."""
        nominal = [hold(self.nominal, a[..., k, :]) for k in range(a.shape[-2])]
        return [self._held(known, net) for known, net in zip(nominal, self.net.hold_plan(a), strict=True)]

    def _held(self, nominal: Held, net: Held) -> Held:
        n_q, features = self.layout.n_q, self.layout.features

        def flow(z: Tensor) -> Tensor:
            known = nominal(z)
            return torch.cat([known[..., :n_q], known[..., n_q:] + net(features(z))], -1)

        return Held(flow, (*nominal.tensors, *net.tensors), kick_drift(n_q) if n_q else None)

    @torch.no_grad()
    def rescale(self, z: Scale, out: Scale, keep_function: bool = True) -> None:
        """Take new scales of the state and of its rate, ``[Z]`` each, as `MLPField` does."""
        out = still(self.layout, out)
        learned = out.spread[self.layout.n_q :]
        scale = Scale(torch.zeros_like(learned), learned)
        self.net.rescale(self.layout.feature_scale(z), scale, keep_function)
        self.out_spread.copy_(out.spread)
