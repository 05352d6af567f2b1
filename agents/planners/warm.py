"""What one decision leaves for the next."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ode_rl.agents.planners.config import PlannerConfig
from ode_rl.agents.planners.sampling import draw


class Warm(NamedTuple):
    """The mean plan ``mean [B, K, A]`` and the best plans ``elites [B, k, K, A]``."""

    mean: Tensor
    elites: Tensor


def cold_start(shape: tuple[int, int, int], config: PlannerConfig, generator: torch.Generator) -> Warm:
    """The warm start of nobody: mean 0 and random elites, for ``shape = (B, K, A)``."""
    mean = torch.zeros(shape, device=generator.device)
    std = torch.full_like(mean, config.init_std)
    return Warm(mean, draw(mean, std, config.n_kept, config.noise_exponent, generator))


def renewed(warm: Warm, fresh: Warm, which: npt.ArrayLike) -> Warm:
    """`fresh` in the rows where `which`, one bool or ``[B]``, is true, and `warm` in the others."""
    rows = np.broadcast_to(np.asarray(which, bool), (len(warm.mean),)).copy()
    new = torch.from_numpy(rows).to(warm.mean.device)
    mean = torch.where(new[:, None, None], fresh.mean, warm.mean)
    return Warm(mean, torch.where(new[:, None, None, None], fresh.elites, warm.elites))


def shift(warm: Warm, matrix: Tensor | None = None) -> Warm:
    """Move the plans on by what was executed.

    ``matrix [K, K]`` does so for knots (`Knots.shift_matrix`); without one, a plan is one action per
    interval, moves on by one, and its last action is repeated.
    """
    if matrix is not None:
        return Warm(*((matrix @ x).clamp(-1, 1) for x in warm))
    return Warm(*(torch.cat([x[..., 1:, :], x[..., -1:, :]], -2) for x in warm))
