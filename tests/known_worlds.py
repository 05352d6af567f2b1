"""World models whose vector fields are given functions, so that every outcome has a closed form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ode_rl.types import Held, Solver
from ode_rl.world_model import WorldModel, WorldModelConfig

Rate = Callable[[Tensor, Tensor], Tensor]


class KnownField(nn.Module):
    """A vector field that is a given function of ``z [E, N, Z]`` and ``a [E, N, A]``."""

    def __init__(self, rate: Rate, n_out: int, n_state: int = 1) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("z_spread", torch.ones(n_state))
        self.register_buffer("out_mean", torch.zeros(n_out))
        self.register_buffer("out_spread", torch.ones(n_out))

    def forward(self, z: Tensor, a: Tensor) -> Tensor:
        return self.rate(z, a)

    def hold(self, a: Tensor) -> Held:
        return Held(lambda z: self.rate(z, a), (a,))

    def hold_plan(self, plan: Tensor) -> list[Held]:
        return [self.hold(plan[:, :, k]) for k in range(plan.shape[2])]


def zero(z: Tensor, a: Tensor) -> Tensor:
    return torch.zeros_like(z[..., :1])


def known_world(
    dynamics: Rate,
    reward: Rate = zero,
    hazard: Rate | None = None,
    end_logit: Rate | None = None,
    *,
    n_obs: int = 1,
    n_action: int = 1,
    n_members: int = 2,
    native_dt: float = 0.1,
    method: str = "rk4",
) -> WorldModel:
    """A world in float64 with these rates per second; it ends by `hazard`, by `end_logit`, or never."""
    config = WorldModelConfig(
        n_members=n_members,
        hidden=(1,),
        head_hidden=(1,),
        solver=Solver(method),
        termination="hazard" if end_logit is None else "boundary",
    )
    model = WorldModel(n_obs, n_action, native_dt, config, torch.Generator().manual_seed(0))
    ends: dict[str, Rate] = {}
    if hazard is not None:
        # The model's hazard is softplus(field) / native dt.
        ends["end"] = lambda z, a: torch.log(torch.expm1(hazard(z, a) * native_dt))
    if end_logit is not None:
        ends["end"] = end_logit
    model.dynamics = KnownField(dynamics, n_obs)  # type: ignore[assignment]
    model.reward = KnownField(reward, 1, n_obs)  # type: ignore[assignment]
    for name, rate in ends.items():
        setattr(model, name, KnownField(rate, 1))
    model.ends = bool(ends)
    model.may_end.fill_(bool(ends))
    return model.double()
