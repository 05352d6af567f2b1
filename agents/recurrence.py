"""A continuous-time cell along sequences, where sb3-contrib's recurrent policies have an `nn.LSTM`."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

States = tuple[Tensor, Tensor]


class Cell(Protocol):
    """``(x [N, I], h [N, Z], time [N, 1]) -> h' [N, Z]``, the hidden state `time` after h, having seen x."""

    def __call__(self, x: Tensor, h: Tensor, time: Tensor) -> Tensor: ...


class Recurrence(nn.Module):
    """Steps a cell along sequences whose last feature is the time since the step before.

    ``x [L, N, I]`` and states ``(h, c)``, each ``[1, N, Z]``, give the hidden states after all steps
    ``[L, N, Z]``, and the states after the last. A continuous-time cell has one state, h; sb3-contrib keeps
    two of one shape, and c comes back as it went in. `input_size`, `hidden_size` and `num_layers` are what
    sb3-contrib reads of an `nn.LSTM`.
    """

    num_layers = 1

    def __init__(self, cell: nn.Module, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.cell, self.input_size, self.hidden_size = cell, input_size, hidden_size

    def forward(self, x: Tensor, states: States) -> tuple[Tensor, States]:
        (h,), c = states
        steps = []
        for now in x:
            h = self.cell(now, h, now[:, -1:])
            steps.append(h)
        return torch.stack(steps), (h[None], c)
