"""Scales of the data: what a network sees has mean 0 and spread 1, whatever the units of the task."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SMALLEST_SPREAD = 1e-6


class Scale(NamedTuple):
    """Mean and spread per dimension, ``[D]`` each, in the units of the data."""

    mean: Tensor
    spread: Tensor

    @staticmethod
    def of(x: Tensor) -> Scale:
        """Mean and standard deviation of ``x [N, D]``; a constant dimension has spread 1."""
        spread = x.std(0, correction=0)
        return Scale(x.mean(0), torch.where(spread > SMALLEST_SPREAD, spread, torch.ones_like(spread)))

    @staticmethod
    def unit(width: int) -> Scale:
        """Mean 0 and spread 1."""
        return Scale(torch.zeros(width), torch.ones(width))
