"""Plans in continuous time: the values of the action at knots, and a curve through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ode_rl.errors import UsageError
from ode_rl.settings import nearest
from ode_rl.timing import positive_seconds

KINDS = ("held", "linear", "cubic")


@dataclass(frozen=True)
class Knots:
    """A plan as its values at `n` knots, evenly over `horizon_s` seconds.

    held: n pieces of equal length, each with one value. linear, cubic: knots at 0, ..., horizon_s. The
    cubic is the natural spline, of all curves through the knots the one with the least integral of the
    squared second derivative: actions as smooth as they can be, at the price that every knot has a
    say everywhere, falling to about a quarter from one to the next. It may leave [-1, 1] between
    knots, where `held_actions` cuts it off. Behind the horizon the end is repeated.

    All maps are linear in the values, so that plans of any batch are interpolated by one product.
    """

    kind: str
    n: int
    horizon_s: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(
                f"knots of a kind among {', '.join(KINDS)}", self.kind, nearest(self.kind, KINDS)
            )
        least = 1 if self.kind == "held" else 2
        if self.n < least:
            raise UsageError(f"at least {least} {self.kind} knots", self.n, f"Write n={max(4, least)}.")
        positive_seconds(self.horizon_s, "horizon")

    @property
    def spacing(self) -> float:
        """Seconds from one knot to the next."""
        return self.horizon_s / (self.n if self.kind == "held" else self.n - 1)

    @property
    def times(self) -> Tensor:
        """When each knot stands, ``[n]`` seconds from now; the beginning of a held piece."""
        return self.spacing * torch.arange(self.n, dtype=torch.float64)

    def weights(self, dt: Sequence[float] | Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The map ``W [H, n]`` from knots to the action held in each interval of ``dt [H]`` seconds.

        It is the value of the curve in the middle of the interval. The map lies on the CPU.

        Raises:
            UsageError: for durations that are not positive.
        """
        lengths = torch.as_tensor(dt, dtype=torch.float64)
        if lengths.dim() != 1 or not len(lengths) or not bool(((lengths > 0) & lengths.isfinite()).all()):
            raise UsageError("durations dt [H] > 0, in seconds", dt, "Make them with interval_grid.")
        middles = self._place(lengths.cumsum(0) - lengths / 2)
        return self._curve(middles.clamp(max=self.n - 1)).to(dtype)

    def shift_matrix(self, seconds: float, dtype: torch.dtype = torch.float32) -> Tensor:
        """The map ``S [n, n]`` from the knots of a plan to those of the same plan begun `seconds` later.

        The end is repeated. A held piece becomes the mean of the old plan over it, so that a plan
        also moves on where `seconds` is a small part of a piece; nothing is lost where it is a multiple.

        Raises:
            UsageError: for `seconds` that are not positive.
        """
        place = self._place(self.times + positive_seconds(seconds)).clamp(max=self.n - 1)
        return (_hats(place, self.n) if self.kind == "held" else self._curve(place)).to(dtype)

    def _place(self, times: Tensor) -> Tensor:
        """Times in units of the spacing; those that are whole but for rounding are whole."""
        place = times / self.spacing
        whole = place.round()
        return torch.where((place - whole).abs() < 1e-9, whole, place)

    def _curve(self, place: Tensor) -> Tensor:
        """The map ``[T, n]`` from knots to the curve at ``place [T]`` in [0, n - 1], in float64."""
        if self.kind == "held":
            return _hats(place.floor(), self.n)
        linear = _hats(place, self.n)
        if self.kind == "linear":
            return linear
        # In units of the spacing, between knots j and j + 1, with weights u = 1 - v of either:
        # s = u y_j + v y_{j+1} + ((u^3 - u) m_j + (v^3 - v) m_{j+1}) / 6, where m = s''.
        return linear + (linear**3 - linear) @ _second_derivatives(self.n) / 6


def held_actions(weights: Tensor, plans: Tensor) -> Tensor:
    """The actions ``[*, H, A]`` held in the intervals of ``weights [H, n]``, of plans ``[*, n, A]``.

    Cut to [-1, 1], which a cubic may leave between its knots.
    """
    return (weights @ plans).clamp(-1, 1)


def _hats(place: Tensor, n: int) -> Tensor:
    """Weights ``[T, n]`` of linear interpolation at ``place [T]`` in [0, n - 1], in units of the spacing."""
    return (1 - (place.unsqueeze(-1) - torch.arange(n, dtype=place.dtype)).abs()).clamp_min(0)


@lru_cache(maxsize=64)
def _second_derivatives(n: int) -> Tensor:
    """The map ``[n, n]`` from values at unit spacing to the natural spline's second derivatives there.

    ``m_{j-1} + 4 m_j + m_{j+1} = 6 (y_{j-1} - 2 y_j + y_{j+1})``, and m = 0 at both ends.
    """
    system, right = torch.eye(n, dtype=torch.float64), torch.zeros(n, n, dtype=torch.float64)
    for j in range(1, n - 1):
        system[j, j - 1 : j + 2] = torch.tensor([1.0, 4.0, 1.0], dtype=torch.float64)
        right[j, j - 1 : j + 2] = torch.tensor([6.0, -12.0, 6.0], dtype=torch.float64)
    second: Tensor = torch.linalg.solve(system, right)
    return second
