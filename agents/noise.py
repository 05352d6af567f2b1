"""Coloured noise for action plans."""

from __future__ import annotations

import torch
from torch import Tensor


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
