"""Actors: networks that act on what is observed and on how long the action will be held."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from ode_rl.ensemble import EnsembleMLP
from ode_rl.errors import UsageError
from ode_rl.integrate import integrate_held
from ode_rl.normalize import Scale
from ode_rl.types import Held, Solver

ACTORS = ("mlp", "ode")
# Seconds of a substep of the hidden state: its rates are of the order of 1 / s.
FLOW = Solver("midpoint", max_step=0.25)


class Actor(Protocol):
    """What acts: ``(z [*, Z], dt [*], memory [*, M]) -> (action [*, A] in [-1, 1], memory [*, M])``.

    `dt` are the seconds for which the action will be held, the memory that comes back is that of their end.
    """

    n_memory: int

    def __call__(self, z: Tensor, dt: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]: ...


def make_actor(
    kind: str,
    n_obs: int,
    n_action: int,
    hidden: Sequence[int],
    n_memory: int,
    interval: float,
    generator: torch.Generator,
) -> MLPActor | ODEActor:
    """The actor of this `kind`: mlp or ode.

    Raises:
        UsageError: for another kind.
    """
    if kind == "mlp":
        return MLPActor(n_obs, n_action, hidden, interval, generator)
    if kind == "ode":
        return ODEActor(n_obs, n_action, hidden, n_memory, interval, generator)
    raise UsageError(f"an actor among {', '.join(ACTORS)}", repr(kind), "Write actor='mlp'.")


class _Inputs(nn.Module):
    """What the networks of an actor see: the normalised observation and ``log(dt / interval)``."""

    z_mean: Tensor
    z_spread: Tensor
    n_scales: Tensor

    def __init__(self, n_obs: int, interval: float) -> None:
        super().__init__()
        self.n_obs, self.interval = n_obs, interval
        scale = Scale.unit(n_obs)
        self.register_buffer("z_mean", scale.mean)
        self.register_buffer("z_spread", scale.spread)
        self.register_buffer("n_scales", torch.zeros((), dtype=torch.int64))

    def forward(self, z: Tensor, dt: Tensor) -> Tensor:
        """``z [*, O]``, ``dt [*]`` seconds -> ``[*, O + 1]``."""
        age = (dt / self.interval).log().unsqueeze(-1)
        return torch.cat([(z - self.z_mean) / self.z_spread, age], -1)

    @torch.no_grad()
    def take_scale(self, scale: Scale, nets: Sequence[EnsembleMLP]) -> None:
        """Normalise by `scale` from now on; what `nets` have learned stays."""
        if int(self.n_scales):
            for net in nets:
                net.take_input_scale(Scale(self.z_mean, self.z_spread), scale)
        self.z_mean.copy_(scale.mean)
        self.z_spread.copy_(scale.spread)
        self.n_scales += 1


class MLPActor(nn.Module):
    """``a = s(net([z, log(dt / interval)]))``: no memory, smooth in z and dt.

    ``s(u) = u / sqrt(1 + u^2)`` keeps actions in [-1, 1]. Its slope falls with the cube of u, that of tanh
    exponentially: a policy that began with the strongest action everywhere finds back.
    """

    n_memory = 0

    def __init__(
        self, n_obs: int, n_action: int, hidden: Sequence[int], interval: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.inputs = _Inputs(n_obs, interval)
        self.net = EnsembleMLP(1, n_obs + 1, hidden, n_action, generator)

    def forward(self, z: Tensor, dt: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        return _bounded(_perceive(self.net, self.inputs(z, dt))), memory

    def take_scale(self, scale: Scale) -> None:
        """Normalise observations by `scale` from now on; the policy stays as it is."""
        self.inputs.take_scale(scale, [self.net])

    def vector(self) -> Tensor:
        """All parameters, ``[n]``."""
        return nn.utils.parameters_to_vector(self.net.parameters()).detach()

    def take_vector(self, parameters: Tensor) -> None:
        """Take parameters ``[n]``, in the order of `vector`."""
        like = next(self.net.parameters())
        nn.utils.vector_to_parameters(parameters.to(like), self.net.parameters())

    def crowd(self, parameters: Tensor) -> MLPActor:
        """P actors like this one, with ``parameters [P, n]``; each acts on its rows of ``z [P, *, Z]``."""
        found, at = copy.deepcopy(self).requires_grad_(False), 0
        for own in found.net.parameters():
            part = parameters[:, at : at + own[0].numel()]
            at += own[0].numel()
            own.data = part.reshape(len(part), *own.shape[1:]).to(own)
        return found


class ODEActor(nn.Module):
    """An actor with a hidden state that flows between observations and jumps at each of them.

    Jump: ``h+ = h + s(u) (tanh(c) - h)`` with ``[u, c] = W [z, log(dt / interval), h]`` and the sigmoid s;
    action: ``s(net([z, log(dt / interval), h+]))``, s as in `MLPActor`; flow for dt seconds:
    ``dh/dt = rate (tanh(g(h)) - h)``, bounded and so solvable over any dt. Rates start at 1 / s. The
    structure is that of GRU-ODE-Bayes (de Brouwer et al. 2019, arXiv 1905.12374), with a simpler gate.
    """

    def __init__(
        self,
        n_obs: int,
        n_action: int,
        hidden: Sequence[int],
        n_memory: int,
        interval: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if n_memory < 1:
            raise UsageError("n_memory >= 1 for the actor 'ode'", n_memory, "Write n_memory=32.")
        self.n_memory = n_memory
        self.inputs = _Inputs(n_obs, interval)
        self.jump = EnsembleMLP(1, n_obs + 1 + n_memory, (), 2 * n_memory, generator, out_gain=1.0)
        self.flow = EnsembleMLP(1, n_memory, (n_memory,), n_memory, generator, out_gain=1.0)
        self.net = EnsembleMLP(1, n_obs + 1 + n_memory, hidden, n_action, generator)
        self.log_rate = nn.Parameter(torch.full((n_memory,), math.log(math.e - 1)))

    def forward(self, z: Tensor, dt: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.inputs(z, dt)
        gate, candidate = _perceive(self.jump, torch.cat([seen, memory], -1)).chunk(2, -1)
        h = memory + gate.sigmoid() * (candidate.tanh() - memory)
        action = _bounded(_perceive(self.net, torch.cat([seen, h], -1)))
        rate = nn.functional.softplus(self.log_rate)
        flow = Held(lambda x: rate * (_perceive(self.flow, x).tanh() - x), ())
        return action, integrate_held(flow, h, dt.expand(h.shape[:-1]), FLOW).z

    def take_scale(self, scale: Scale) -> None:
        """Normalise observations by `scale` from now on; the policy stays as it is."""
        self.inputs.take_scale(scale, [self.jump, self.net])


def _bounded(u: Tensor) -> Tensor:
    return u * torch.rsqrt(1 + u * u)


def _perceive(net: EnsembleMLP, x: Tensor) -> Tensor:
    """One network for rows of any leading shape; one each for the first dimension if there are several."""
    out: Tensor = net(x.reshape(net.n_members, -1, x.shape[-1]))
    return out.reshape(*x.shape[:-1], out.shape[-1])
