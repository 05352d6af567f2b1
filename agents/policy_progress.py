"""Where a policy that learns is between two steps, and how its parameters are changed meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ode_rl.types import Transition

# Shares of a second within which the time of a change is over.
SLACK = 1e-6


class Progress(NamedTuple):
    """Where `learn` is between two steps, row by row of the environments.

    Observations ``obs [n, O]``, `starts` of episodes ``[n]``, the actor's ``memory [n, M]``, what is left of
    the exploration noise ``[T, n, A]``, and how the actor's parameters are changed: ``changes [n, N]`` in
    standard deviations, which hold for the seconds ``left [n]`` and have `earned` ``[n]`` so far.
    """

    obs: npt.NDArray[Any]
    starts: npt.NDArray[np.bool_]
    memory: Tensor | None = None
    noise: Tensor | None = None
    changes: Tensor | None = None
    left: Tensor | None = None
    earned: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """The part that a checkpoint keeps; observations come from the environments."""
        found = {"starts": torch.from_numpy(np.asarray(self.starts))}
        rest = {name: getattr(self, name) for name in self._fields[2:]}
        return found | {name: tensor for name, tensor in rest.items() if tensor is not None}

    @classmethod
    def of(cls, kept: dict[str, Tensor], device: torch.device) -> Progress:
        """What `tensors` gave; without observations."""
        memory, starts = kept.get("memory"), kept["starts"].numpy()
        rest = {name: kept[name] for name in cls._fields[3:] if name in kept}
        return cls(np.zeros((len(starts), 0)), starts, None if memory is None else memory.to(device), **rest)

    def changed(
        self, starts: npt.NDArray[np.bool_], n_parameters: int, every: float, rng: np.random.Generator
    ) -> Changed:
        """With changes for this step: drawn anew where an episode begins or their time, `every` seconds, is
        over; and in which rows they are new."""
        n = len(starts)
        changes, left, earned = self.changes, self.left, self.earned
        if changes is None or left is None or earned is None or changes.shape != (n, n_parameters):
            changes, left = torch.zeros(n, n_parameters), torch.zeros(n, dtype=torch.float64)
            earned = torch.zeros_like(left)
        anew = torch.from_numpy(np.asarray(starts, bool)) | (left <= SLACK)
        if anew.any():
            drawn = torch.from_numpy(rng.standard_normal((n, n_parameters))).to(changes)
            changes = torch.where(anew[:, None], drawn, changes)
            left = torch.where(anew, every, left)
            earned = torch.where(anew, 0.0, earned)
        return Changed(self._replace(changes=changes, left=left, earned=earned), anew)

    def after(self, transitions: Sequence[Transition]) -> Changed:
        """With these transitions counted; and in which rows the changes are over as a whole, because their
        time is or the task has ended."""
        if self.left is None or self.earned is None:
            raise RuntimeError("time that passes without changes")
        passed, paid, ended = (
            torch.tensor([getattr(each, name) for each in transitions], dtype=torch.float64)
            for name in ("dt", "reward", "terminated")
        )
        left = self.left - passed
        return Changed(self._replace(left=left, earned=self.earned + paid), (left <= SLACK) | (ended > 0))


class Changed(NamedTuple):
    """Progress, and the rows ``[n]`` in which something happened to the changes of the parameters."""

    progress: Progress
    rows: Tensor
