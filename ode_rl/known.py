"""What the user knows of a task, so that the world model need not learn it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ode_rl.types import VectorField


class Known(NamedTuple):
    """Functions of a task that are known; None is learned.

    ``reward(obs, action, next_obs, dt) -> [*]`` is the reward of an interval, ``termination(next_obs) ->
    [*]`` (bool) says whether the task ends with it, and ``nominal(z, action) -> dz/dt`` is the vector field
    that ``nominal-residual`` starts from, per second, in the order of ``state_spec(env_id, O).layout``.
    Shapes: ``obs [*, O]``, ``action [*, A]`` in the units of the task, ``dt [*]`` seconds. They are written
    in torch, differentiable where a planner or a policy is to follow their gradient.
    """

    reward: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None = None
    termination: Callable[[Tensor], Tensor] | None = None
    nominal: VectorField | None = None

    @property
    def names(self) -> list[str]:
        """Names of what is known."""
        return [name for name, value in zip(self._fields, self, strict=True) if value is not None]


NOTHING_KNOWN = Known()


def scaled(known: Known, low: Tensor, high: Tensor) -> Known:
    """The same functions for actions in [-1, 1], where -1 stands for `low` and 1 for `high` ``[A]``."""

    def unscale(a: Tensor) -> Tensor:
        lo, hi = low.to(a), high.to(a)
        return lo + 0.5 * (a + 1) * (hi - lo)

    reward = known.reward
    nominal = known.nominal
    return Known(
        None if reward is None else lambda obs, a, after, dt: reward(obs, unscale(a), after, dt),
        known.termination,
        None if nominal is None else _Unscaled(nominal, unscale),
    )


class _Unscaled(nn.Module):
    """A nominal field behind the scale of its actions; its parameters, if it has any, stay visible."""

    def __init__(self, nominal: VectorField, unscale: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.nominal, self.unscale = nominal, unscale

    def forward(self, z: Tensor, a: Tensor) -> Tensor:
        return torch.as_tensor(self.nominal(z, self.unscale(a)))
