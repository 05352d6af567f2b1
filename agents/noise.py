"""Coloured noise for action plans and for exploration."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Seconds after which noise for exploration is drawn anew.
STRETCH = 2.0


def coloured_noise(shape: tuple[int, ...], exponent: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise along the last axis with power ``1 / f^exponent`` and unit variance, ``[*shape]``.

    Exponent 0 is white, 2 brown: plans that keep their direction. Timmer and Koenig (1995); for planning
    Pinneri et al. (2020, arXiv 2008.06389).
    """
    n = shape[-1]
    if n == 1 or exponent == 0:
        return torch.randn(shape, generator=generator, device=generator.device)
    frequency = torch.fft.rfftfreq(n, device=generator.device)
    frequency[0] = frequency[1]
    amplitude = frequency ** (-exponent / 2)
    parts = torch.randn((*shape[:-1], len(frequency), 2), generator=generator, device=generator.device)
    parts[..., 0, 1] = 0.0
    parts[..., 0, 0] *= 2**0.5
    if n % 2 == 0:
        parts[..., -1, 1] = 0.0
        parts[..., -1, 0] *= 2**0.5
    spectrum = torch.view_as_complex(parts) * amplitude
    # Sum of the power of all (two-sided) frequencies: what irfft makes of it has variance 1.
    power = (
        2 * (amplitude**2).sum() * 2 - amplitude[0] ** 2 * 2 - (amplitude[-1] ** 2 * 2 if n % 2 == 0 else 0)
    )
    noise: Tensor = torch.fft.irfft(spectrum, n) * (n / power.sqrt())
    return noise


def next_noise(
    left: Tensor | None,
    starts: npt.NDArray[np.bool_],
    n_action: int,
    interval: float,
    exponent: float,
    rng: np.random.Generator,
    mirrored: bool = False,
) -> tuple[Tensor, Tensor]:
    """The noise ``[n, A]`` of this step and what is left of its stretch ``[T, n, A]``, drawn anew when `left`
    is used up, or where it is `mirrored` when an episode begins (``starts [n]``)."""
    if left is None or not len(left) or (mirrored and starts.any()):
        left = exploration_noise(len(starts), n_action, interval, exponent, rng, mirrored)
    return left[0], left[1:]


def exploration_noise(
    n: int,
    n_action: int,
    interval: float,
    exponent: float,
    rng: np.random.Generator,
    mirrored: bool = False,
) -> Tensor:
    """Coloured noise for the next seconds, ``[T, n, A]``, a row per control interval of `interval` seconds.

    A stretch `s` of `STRETCH` seconds, or where it is `mirrored` ``s, -s, -s, s``: whatever integrates the
    action twice (a cart without friction) is then back at rest where it was, while random pushes would send
    it further and further away from all that matters.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    shape = (n, n_action, max(2, round(STRETCH / interval)))
    stretch = coloured_noise(shape, exponent, generator).permute(2, 0, 1)
    return torch.cat([stretch, -stretch, -stretch, stretch] if mirrored else [stretch])
