"""Discounted returns in continuous time."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ode_rl.buffer import NO_SUCCESSOR, ReplayBuffer
from ode_rl.errors import UsageError

Float64 = npt.NDArray[np.float64]


def discount_rate(gamma: float, native_dt: float) -> float:
    """``rho = -ln(gamma) / native dt`` per second: the discount of an interval is ``exp(-rho dt)``.

    Raises:
        UsageError: unless 0 < gamma <= 1.
    """
    if not 0 < gamma <= 1:
        raise UsageError("0 < gamma <= 1 per native step", gamma, "Write gamma=0.99.")
    return -math.log(gamma) / native_dt


def lambda_returns(buffer: ReplayBuffer, next_value: Float64, rho: float, trace: float, native_dt: float) -> Float64:
    """Time-aware lambda-returns of all stored transitions, oldest first, ``[n]``.

    ``G_k = R_k + g_k ((1 - l_k) V(z_{k+1}) + l_k G_{k+1})`` with ``g_k = exp(-rho dt_k)`` and
    ``l_k = trace^(dt_k / native dt)``; ``G_k = R_k`` where the task terminated, and the value alone
    continues where the recording stops. ``next_value [n]`` holds V at the end of each transition.
    """
    serials = buffer.serials()
    data = buffer.arrays(serials)
    discount = np.exp(-rho * data.dt)
    mix = trace ** (data.dt / native_dt)
    following = buffer.following(serials)
    returns = np.zeros(len(serials))
    first = serials[0] if len(serials) else 0
    for i in range(len(serials) - 1, -1, -1):
        if data.terminated[i]:
            returns[i] = data.reward[i]
            continue
        after = next_value[i]
        if following[i] != NO_SUCCESSOR:
            after = (1 - mix[i]) * after + mix[i] * returns[following[i] - first]
        returns[i] = data.reward[i] + discount[i] * after
    return returns
