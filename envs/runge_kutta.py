"""One step of an eighth-order Runge-Kutta method for many rows, each with a step length of its own."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def _stages() -> tuple[Array, ...]:
    """The rows of the method of Cooper and Verner, SIAM J. Numer. Anal. 9 (1972) 389."""
    s = math.sqrt(21)
    rows = [
        [1 / 2],
        [1 / 4, 1 / 4],
        [1 / 7, (-7 - 3 * s) / 98, (21 + 5 * s) / 49],
        [(11 + s) / 84, 0, (18 + 4 * s) / 63, (21 - s) / 252],
        [(5 + s) / 48, 0, (9 + s) / 36, (-231 + 14 * s) / 360, (63 - 7 * s) / 80],
        [
            *((10 - s) / 42, 0, (-432 + 92 * s) / 315, (633 - 145 * s) / 90),
            *((-504 + 115 * s) / 70, (63 - 13 * s) / 35),
        ],
        [1 / 14, 0, 0, 0, (14 - 3 * s) / 126, (13 - 3 * s) / 63, 1 / 9],
        [1 / 32, 0, 0, 0, (91 - 21 * s) / 576, 11 / 72, (-385 - 75 * s) / 1152, (63 + 13 * s) / 128],
        [
            *(1 / 14, 0, 0, 0, 1 / 9, (-733 - 147 * s) / 2205, (515 + 111 * s) / 504),
            *((-51 - 11 * s) / 56, (132 + 28 * s) / 245),
        ],
        [
            *(0, 0, 0, 0, (-42 + 7 * s) / 18, (-18 + 28 * s) / 45, (-273 - 53 * s) / 72),
            *((301 + 53 * s) / 72, (28 - 28 * s) / 45, (49 - 7 * s) / 18),
        ],
    ]
    return tuple(np.array(row) for row in rows)


STAGES = _stages()
LAST = (0, 7, 8, 9, 10)  # the only stages that count in the end
WEIGHTS = np.array([1 / 20, 49 / 180, 16 / 45, 49 / 180, 1 / 20])


def cooper_verner(
    rate: Callable[[Array, Array], Array],
    reward_rate: Callable[[Array, Array], Array] | None,
    state: Array,
    action: Array,
    h: Array,
) -> tuple[Array, Array]:
    """States after ``h [N]`` seconds of ``dz/dt = rate(z, a)``, and the integrals of the reward rate.

    Shapes: ``state [N, S]``, ``action [N, A]``; the integrals are ``[N]`` (zeros without a reward rate).
    """
    n, width = state.shape
    step = h[:, None]
    slopes = np.empty((len(STAGES) + 1, n, width))
    slopes[0] = rate(state, action)
    flat = slopes.reshape(len(slopes), -1)
    gain = np.zeros(n) if reward_rate is None else WEIGHTS[0] * reward_rate(state, action)
    for i, row in enumerate(STAGES, 1):
        stage = state + step * (row @ flat[:i]).reshape(n, width)
        slopes[i] = rate(stage, action)
        if reward_rate is not None and i in LAST:
            gain = gain + WEIGHTS[LAST.index(i)] * reward_rate(stage, action)
    slope = (WEIGHTS @ flat[list(LAST)]).reshape(n, width)
    return state + step * slope, h * gain


def crossing(value: Callable[[Array], Array], before: Array, h: Array) -> Array:
    """Where in ``(0, h [N]]`` each row of `value` is zero, given that it has the sign of `before` at 0.

    The Illinois variant of regula falsi; ``value(h)`` must have the other sign.
    """
    lo, hi, f_lo, f_hi = np.zeros_like(h), h, before, value(h)
    for _ in range(60):
        middle = hi - f_hi * (hi - lo) / (f_hi - f_lo)
        if (np.abs(middle - hi) < 1e-9).all():
            return middle
        f = value(middle)
        same = np.sign(f) == np.sign(f_hi)
        # The end that stays twice counts half, or one side alone would creep to the zero.
        lo, f_lo = np.where(same, lo, hi), np.where(same, f_lo / 2, f_hi)
        hi, f_hi = middle, f
    return hi
