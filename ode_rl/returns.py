"""Discounted returns in continuous time."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

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


def lambda_returns(
    reward: Float64,
    discount: Float64,
    mix: Float64,
    next_value: Float64,
    terminated: npt.NDArray[np.bool_],
    following: npt.NDArray[np.int64],
) -> Float64:
    """Lambda-returns of linked intervals of any duration, all ``[n]``.

    ``G_k = R_k + g_k ((1 - l_k) V_k + l_k G_{k+1})`` with the discount ``g_k = exp(-rho dt_k)``, the mix
    ``l_k = lambda^(dt_k / native dt)`` and ``V_k`` the value where interval k ends. ``G_k = R_k`` where the
    task terminated; the value alone continues where the record stops. `following[k]` is the position of
    the next interval of the same episode, later than k, or -1.
    """
    returns = np.zeros(len(reward))
    for k in range(len(reward) - 1, -1, -1):
        if terminated[k]:
            returns[k] = reward[k]
            continue
        after = next_value[k]
        if following[k] >= 0:
            after = (1 - mix[k]) * after + mix[k] * returns[following[k]]
        returns[k] = reward[k] + discount[k] * after
    return returns
