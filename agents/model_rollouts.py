"""Short roll-outs of a policy in a learned world, branched from recorded states."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor

from ode_rl.buffer import ReplayBuffer
from ode_rl.errors import UsageError
from ode_rl.settings import check_counts
from ode_rl.state import STATE_SPECS
from ode_rl.timing import positive_seconds
from ode_rl.types import FloatArray
from ode_rl.world_model import WorldModel

Act = Callable[[Tensor], Tensor]
Bools = npt.NDArray[np.bool_]

# Recorded transitions on which the disagreement is measured that all others are compared with.
N_MEASURED, USUAL = 2000, 0.99
# Shares of a second within which a roll-out has reached its horizon.
SLACK = 1e-6


@dataclass(frozen=True)
class RolloutConfig:
    """Roll-outs of the policy in the world model, from recorded states."""

    seconds: float | None = None
    """Length of a roll-out in seconds; None means one control interval."""
    last_seconds: float | None = None
    """Length that it grows to; None means that it stays."""
    from_step: int = 0
    """Environment step at which it begins to grow, linearly."""
    to_step: int = 0
    """Environment step at which it has grown."""
    every: int = 25
    """Environment steps between two rounds of roll-outs."""
    per_step: int = 400
    """Imagined intervals per environment step."""
    keep: int = 1000
    """Environment steps for which imagined intervals are kept; a fit of the world model drops them all."""
    max_disagreement: float | None = 5.0
    """A roll-out ends before an interval about whose end two members differ by more than this many times
    what 99 % of the recorded transitions stay below; None: never."""
    penalty: float = 0.0
    """What a disagreement of 1 (in the same measure) costs, in shares of the typical reward rate."""

    def __post_init__(self) -> None:
        for name in ("seconds", "last_seconds", "max_disagreement"):
            if getattr(self, name) is not None:
                positive_seconds(getattr(self, name), name)
        check_counts(self, ("every", "per_step", "keep"), 100, "rollout")
        if not 0 <= self.from_step <= self.to_step:
            got = f"from_step={self.from_step}, to_step={self.to_step}"
            raise UsageError("0 <= from_step <= to_step", got, "Write rollout={'to_step': 10000}.")
        if not (math.isfinite(self.penalty) and self.penalty >= 0):
            raise UsageError("a penalty >= 0", self.penalty, "Write rollout={'penalty': 0.1}.")

    def horizon(self, step: int, interval: float) -> float:
        """Seconds of a roll-out at this environment step, for control intervals of `interval` seconds."""
        first = interval if self.seconds is None else self.seconds
        last = first if self.last_seconds is None else self.last_seconds
        if step >= self.to_step:
            return last
        share = max(0.0, (step - self.from_step) / (self.to_step - self.from_step))
        return first + share * (last - first)


class Rows(NamedTuple):
    """Imagined intervals: ``obs, next_obs [n, O]``, ``action [n, A]`` in [-1, 1], and ``[n]`` each: the
    `reward` of the interval, the chance that it `ended` the task, and its `seconds`."""

    obs: FloatArray
    action: FloatArray
    reward: FloatArray
    next_obs: FloatArray
    ended: FloatArray
    seconds: FloatArray


class Gauge(NamedTuple):
    """What disagreements are measured in: the spread of recorded rates of change, ``unit [O]``, and the
    disagreement that is `usual` in recorded transitions."""

    unit: Tensor
    usual: Tensor

    @classmethod
    @torch.inference_mode()
    def measured(cls, model: WorldModel, buffer: ReplayBuffer) -> Gauge:
        """That of a world model and the data that it was fitted to."""
        serials = buffer.serials()
        data = buffer.arrays(
            serials[np.linspace(0, len(serials) - 1, min(len(serials), N_MEASURED)).astype(int)]
        )
        z, a, after, dt = (_tensor(x, model) for x in (data.obs, data.action, data.next_obs, data.dt))
        spread = ((after - z) / dt[:, None]).std(0, correction=0)
        unit = torch.where(spread > 0, spread, torch.inf)  # what never changes has no say
        one = cls(unit, torch.ones_like(unit[0]))
        z, a, dt = (x.expand(model.n_members, *x.shape) for x in (z, a, dt))
        gaps = one.disagreement(model, z, a, dt, model.step(z, a, dt).z).flatten()
        usual = gaps.sort().values[round(USUAL * (len(gaps) - 1))]
        fit = torch.isfinite(usual) & (usual > 0)
        return cls(unit.clone(), torch.where(fit, usual, torch.ones_like(usual)))

    def disagreement(self, model: WorldModel, z: Tensor, a: Tensor, dt: Tensor, after: Tensor) -> Tensor:
        """How far the next member is from ``after [E, N, Z]``, where each member sees the end: ``[E, N]``.

        ``sqrt(mean_O (difference / dt / unit)^2) / usual``; infinite where it is not a number.
        """
        if model.n_members == 1:
            return torch.zeros_like(after[..., 0])
        other = model.step(z.roll(1, 0), a.roll(1, 0), dt.roll(1, 0)).z.roll(-1, 0)
        rate = (after - other) / dt.unsqueeze(-1) / self.unit
        return (rate.square().mean(-1).sqrt() / self.usual).nan_to_num(nan=torch.inf, posinf=torch.inf)


class Projection:
    """The nearest observations that a task could show.

    Cosine and sine of an angle go onto the unit circle, columns that never change onto the value that they
    had, all onto the bounds of the space.
    """

    def __init__(self, env_id: str, space: spaces.Box, like: Tensor) -> None:
        spec = STATE_SPECS.get(env_id.split(":")[-1])
        known = spec is not None and spec.n_obs <= space.shape[0]
        pairs = spec.angle_pair if known and spec is not None else ()
        constant = spec.constant if known and spec is not None else ()
        self.cos, self.sin = ([pair[i] for pair in pairs] for i in (0, 1))
        self.constant = list(constant)
        self.low, self.high = (torch.as_tensor(bound).to(like) for bound in (space.low, space.high))

    def __call__(self, obs: Tensor, before: Tensor) -> Tensor:
        """Project ``obs [*, O]``, which follow those `before`."""
        found = obs.clone()
        if self.cos:
            cos, sin = obs[..., self.cos], obs[..., self.sin]
            size = torch.hypot(cos, sin)
            found[..., self.cos] = torch.where(size > 0, cos / size, 1.0)
            found[..., self.sin] = torch.where(size > 0, sin / size, 0.0)
        if self.constant:
            found[..., self.constant] = before[..., self.constant]
        return found.clamp(self.low, self.high)


@torch.inference_mode()
def branched_rollouts(
    model: WorldModel,
    act: Act,
    buffer: ReplayBuffer,
    n: int,
    horizon: float,
    gauge: Gauge,
    project: Callable[[Tensor, Tensor], Tensor],
    config: RolloutConfig,
    rng: np.random.Generator,
) -> Rows:
    """Let the policy act in each member of the world model from `n` recorded states, for `horizon` seconds.

    ``act(z [E, N, O])`` gives actions ``[E, N, A]`` in [-1, 1]. The first interval lasts as long as the one
    that was recorded there, the later ones as long as others that were recorded. A roll-out goes on with
    the chance to survive, and ends before an interval whose end is not finite or on which the members
    disagree too much. Source: Janner et al. 2019 (arXiv 1906.08253), algorithm 2.
    """
    start = buffer.arrays(rng.choice(buffer.serials(), (model.n_members, n)))
    z, seconds = _tensor(start.obs, model), start.dt
    elapsed, alive = np.zeros_like(seconds), np.ones(seconds.shape, bool)
    found: list[Rows] = []
    while alive.any():
        dt, action = _tensor(seconds, model), act(z)
        outcome = model.step(z, action, dt)
        gap = gauge.disagreement(model, z, action, dt, outcome.z)
        reward = outcome.reward - config.penalty * model.reward_unit * dt * gap
        ok = outcome.ok & reward.isfinite() & outcome.z.isfinite().all(-1)
        after = project(torch.where(ok.unsqueeze(-1), outcome.z, z), z)
        ended = torch.zeros_like(reward) if outcome.log_survival is None else -outcome.log_survival.expm1()
        trusted = ok & (gap <= (config.max_disagreement or torch.inf))
        alive &= trusted.cpu().numpy()
        columns = (z, action, reward, after, ended, dt)
        found.append(Rows(*(x.cpu().numpy()[alive].astype(np.float32) for x in columns)))
        elapsed += seconds
        alive &= (rng.random(alive.shape) >= ended.cpu().numpy()) & (elapsed < horizon - SLACK)
        z, seconds = after, buffer.arrays(rng.choice(buffer.serials(), seconds.shape)).dt
    return Rows(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _tensor(x: FloatArray, model: WorldModel) -> Tensor:
    return torch.as_tensor(x).to(model.log_noise)
