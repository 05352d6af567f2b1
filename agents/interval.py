"""What an interval of any duration does to discounts and to the reward that is spread over it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ode_rl.errors import UsageError

Float64 = npt.NDArray[np.float64]


def reward_weight(dt: npt.ArrayLike, rho: float, unit_dt: float = 0.0) -> Float64:
    """The mean discount within an interval of `dt` seconds, relative to that within one of `unit_dt`.

    ``w = m(rho dt) / m(rho unit_dt)`` with ``m(x) = (1 - exp(-x)) / x``: what is left of a reward that comes
    evenly over the interval. With ``unit_dt = 0`` it is ``(1 - exp(-rho dt)) / (rho dt)``. With `unit_dt` the
    native step, rewards of native steps count whole, as in discrete time, and one interval of n native steps
    is worth exactly what its n native steps are. `rho` is per second.
    """
    found: Float64 = _mean_discount(rho * np.asarray(dt, np.float64)) / _mean_discount(
        np.float64(rho * unit_dt)
    )
    return found


def _mean_discount(x: Any) -> Float64:
    small = np.abs(x) < 1e-12
    whole: Float64 = np.where(small, 1.0, -np.expm1(-x) / np.where(small, 1.0, x))
    return whole


def true_seconds(infos: Any, dt: float | None) -> Float64:
    """Seconds of the step of each environment, ``[n]``: ``info["dt"]``, else `dt`.

    Raises:
        UsageError: if neither says it, or it is not positive.
    """
    seconds = np.array([np.nan if (found := info.get("dt", dt)) is None else found for info in infos], float)
    if not (np.isfinite(seconds).all() and (seconds > 0).all()):
        remedy = 'Put the seconds of a step into info["dt"], or give dt=SECONDS.'
        raise UsageError("steps that say how long they lasted", seconds.tolist(), remedy)
    return seconds
