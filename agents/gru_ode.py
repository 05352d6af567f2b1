"""A gated recurrent unit whose hidden state flows between observations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ode_rl.errors import UsageError


class GRUODECell(nn.Module):
    """The ODE of a gated unit between observations, a step of a GRU at each of them.

    The flow is ``dh/dt = (1 - u) (n - h)`` with ``u, r = sigmoid(W h)`` and ``n = tanh(V (r h))`` (De
    Brouwer et al., 2019, arXiv 1905.12374; as a policy: Zhao et al., 2023, arXiv 2309.14078), in the unit of
    `time`. Each of `n_substeps` is an exponential midpoint: the gates are taken halfway, and the linear
    equation that they leave is solved exactly, ``h' = h + (1 - exp(-(1 - u) s)) (n - h)``. It is of second
    order, and since h' lies between h and n, h stays in (-1, 1) after any pause, where an explicit
    Runge-Kutta step of a pause beyond the time constant would blow up. At a time of zero h stays as it is.

    Raises:
        UsageError: for fewer than one substep.
    """

    def __init__(self, input_size: int, hidden_size: int, n_substeps: int = 1) -> None:
        super().__init__()
        if n_substeps < 1:
            raise UsageError("n_substeps >= 1", n_substeps, "Write n_substeps=1.")
        self.n_substeps = n_substeps
        self.gates = nn.Linear(hidden_size, 2 * hidden_size)
        self.candidate = nn.Linear(hidden_size, hidden_size)
        self.jump = nn.GRUCell(input_size, hidden_size)

    def forward(self, x: Tensor, h: Tensor, time: Tensor) -> Tensor:
        after: Tensor = self.jump(x, self.flow(h, time))
        return after

    def flow(self, h: Tensor, time: Tensor) -> Tensor:
        """The hidden state ``h [N, Z]`` after ``time [N, 1]`` without an observation."""
        step = time / self.n_substeps
        for _ in range(self.n_substeps):
            halfway = self._exact(h, *self._rate_and_aim(h), step / 2)
            h = self._exact(h, *self._rate_and_aim(halfway), step)
        return h

    def _rate_and_aim(self, h: Tensor) -> tuple[Tensor, Tensor]:
        keep, reset = torch.sigmoid(self.gates(h)).chunk(2, -1)
        return 1 - keep, torch.tanh(self.candidate(reset * h))

    def _exact(self, h: Tensor, rate: Tensor, aim: Tensor, time: Tensor) -> Tensor:
        return torch.lerp(h, aim, -torch.expm1(-rate * time))
