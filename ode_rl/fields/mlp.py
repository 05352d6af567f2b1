"""A plain neural vector field: a perceptron of state and action."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ode_rl.ensemble import EnsembleMLP
from ode_rl.normalize import Scale
from ode_rl.types import Held


class MLPField(nn.Module):
    """``f(z, a) = out_mean + out_spread * net((z - mean) / spread, a)``, one net a member.

    ``z [E, N, Z]`` in the units of the task, ``a [E, N, A]`` scaled to [-1, 1], output ``[E, N, D]`` per
    second. With ``D = Z`` it is a vector field, with other widths it gives rates (of reward, of hazard).
    A dimension whose `out_spread` is 0 is exactly constant.
    """

    z_mean: Tensor
    z_spread: Tensor
    out_mean: Tensor
    out_spread: Tensor

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
        self.n_state = n_state
        self.net = EnsembleMLP(n_members, n_state + n_action, hidden, n_out, generator)
        for name, scale in (("z", Scale.unit(n_state)), ("out", Scale.unit(n_out))):
            self.register_buffer(f"{name}_mean", scale.mean)
            self.register_buffer(f"{name}_spread", scale.spread)

    def forward(self, z: Tensor, a: Tensor) -> Tensor:
        return self.hold(a)(z)

    def hold(self, a: Tensor) -> Held:
        """The autonomous field under a held action ``a [E, N, A]``."""
        w_z, b = self._first_layer()
        return self._held(w_z, torch.baddbmm(b, a, self.net.weights[0][:, self.n_state :]))

    def hold_plan(self, a: Tensor) -> list[Held]:
        """The H autonomous fields of plans ``a [E, N, H, A]``: one product for all intervals."""
        e, n, h, _ = a.shape
        w_z, b = self._first_layer()
        by_time = a.transpose(1, 2).reshape(e, h * n, -1)
        code = torch.baddbmm(b, by_time, self.net.weights[0][:, self.n_state :]).reshape(e, h, n, -1)
        return [self._held(w_z, code[:, k]) for k in range(h)]

    def _first_layer(self) -> tuple[Tensor, Tensor]:
        # (z - mean) / spread folded into the weights: nothing to normalise in the inner loop.
        w_z = self.net.weights[0][:, : self.n_state] / self.z_spread.unsqueeze(-1)
        return w_z, self.net.biases[0] - (self.z_mean @ w_z).unsqueeze(1)

    def _held(self, w_z: Tensor, code: Tensor) -> Held:
        def flow(z: Tensor) -> Tensor:
            first = torch.baddbmm(code, z, w_z)
            return torch.addcmul(self.out_mean, self.out_spread, self.net.tail(first))

        return Held(flow, (w_z, code, *list(self.net.weights)[1:], *list(self.net.biases)[1:]))

    @torch.no_grad()
    def rescale(self, z: Scale, out: Scale, keep_function: bool = True) -> None:
        """Take new scales; with `keep_function` the weights change so that the function does not.

        The scales of a growing data set move with every fit: what was learned stays.
        """
        if keep_function:
            self.net.take_input_scale(Scale(self.z_mean, self.z_spread), z)
            spread = torch.where(out.spread > 0, out.spread, torch.ones_like(out.spread))
            self.net.weights[-1].mul_(self.out_spread / spread)
            self.net.biases[-1].mul_(self.out_spread / spread).add_((self.out_mean - out.mean) / spread)
        for mine, new in zip(
            (self.z_mean, self.z_spread, self.out_mean, self.out_spread), (*z, *out), strict=True
        ):
            mine.copy_(new)
