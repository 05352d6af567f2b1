"""The closed-form continuous-time cell of `ncps`, with one hidden state."""

from __future__ import annotations

from torch import Tensor, nn

from ode_rl.errors import UsageError

MODES = ("default", "pure", "no_gate")


class CfCCell(nn.Module):
    """`ncps.torch.CfCCell`: ``(x [N, I], h [N, Z], time [N, 1]) -> h' [N, Z]``.

    Not `ncps.torch.CfC`, which runs it along sequences: its times lose their last axis, so that they do not
    broadcast over the hidden units of a batch.

    Raises:
        UsageError: for an unknown mode, or without `ncps`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        mode: str = "default",
        backbone_units: int = 64,
        backbone_layers: int = 1,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise UsageError(f"a mode among {', '.join(MODES)}", repr(mode), "Write cfc_mode='default'.")
        try:
            from ncps.torch import CfCCell as Closed
        except ImportError as error:
            remedy = "Run pip install 'ode-rl[contrib]'."
            raise UsageError("the package ncps for CfCPolicy", error, remedy) from error
        self.closed = Closed(
            input_size, hidden_size, mode, backbone_units=backbone_units, backbone_layers=backbone_layers
        )

    def forward(self, x: Tensor, h: Tensor, time: Tensor) -> Tensor:
        after: Tensor = self.closed(x, h, time)[0]
        return after
