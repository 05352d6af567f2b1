"""A value of where a plan ends, for trouble that lies beyond its horizon."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ode_rl.agents.model_gradient import Discount
from ode_rl.buffer import ReplayBuffer
from ode_rl.ensemble import EnsembleMLP
from ode_rl.errors import UsageError
from ode_rl.normalize import Scale
from ode_rl.returns import lambda_returns
from ode_rl.settings import check_widths

WHEN = ("always", "never", "ends")
# Returns of equal worth are not blown up to full scale.
SMALLEST_SPREAD = 1e-3


@dataclass(frozen=True)
class ValueConfig:
    """The learned terminal value."""

    when: str = "ends"
    """Whether plans end in a learned value: always, never, or once the task was seen to end (ends). Young
    values mislead; they pay off where plans are too short to see an end coming."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    n_members: int = 3
    """Members; what they disagree about counts for less."""
    pessimism: float = 1.0
    """Spreads of the members below their mean: states that the data say little about are worth less."""
    updates: int = 200
    """Gradient steps after each fit of the world model."""
    refreshes: int = 4
    """How often the targets are computed anew within these steps."""
    batch_size: int = 128
    """Transitions per member and gradient step."""
    learning_rate: float = 1e-3
    """Rate of AdamW."""
    trace: float = 0.95
    """Lambda of the returns, per native step."""
    expectile: float = 0.5
    """Which expectile of the returns is learned. The data are those of all agents so far: 0.5, their mean,
    says what they got, 0.9 what the better ones got from there (Kostrikov et al. 2021, arXiv 2110.06169);
    with a short trace, so that good continuations are joined."""

    def __post_init__(self) -> None:
        check_widths("hidden", self.hidden)
        if not 0 < self.expectile < 1:
            raise UsageError("0 < expectile < 1", self.expectile, "Write value={'expectile': 0.9}.")
        if self.when not in WHEN:
            raise UsageError(f"when: {', '.join(WHEN)}", repr(self.when), "Write value={'when': 'ends'}.")

    def applies(self, ends: bool) -> bool:
        """Whether plans end in a value, in a task that was seen to end or not."""
        return self.when == "always" or (self.when == "ends" and ends)


class TerminalValue(nn.Module):
    """``V(z)``: the discounted return still to come, regressed on time-aware lambda-returns of the data.

    It promises no more, and threatens with no less, than the best and the worst recorded rate of reward for
    ever, or nothing: far from the data networks say anything, and a planner would rather let a task end than
    go where less than nothing is to be had.
    """

    z_mean: Tensor
    z_spread: Tensor
    out: Tensor
    bounds: Tensor
    n_fits: Tensor

    def __init__(self, n_state: int, config: ValueConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.net = EnsembleMLP(config.n_members, n_state, config.hidden, 1, generator)
        self.register_buffer("z_mean", torch.zeros(n_state))
        self.register_buffer("z_spread", torch.ones(n_state))
        self.register_buffer("out", torch.tensor([0.0, 1.0]))
        self.register_buffer("bounds", torch.tensor([-torch.inf, torch.inf]))
        self.register_buffer("n_fits", torch.zeros((), dtype=torch.int64))

    def forward(self, z: Tensor) -> Tensor:
        """``z [*, Z] -> V [*]``, the mean of the members less `pessimism` times their spread."""
        members = self._members(z)
        low: Tensor = members.mean(0) - self.config.pessimism * members.std(0, correction=0)
        return self._bounded(self.out[0] + self.out[1] * low)

    def mean(self, z: Tensor) -> Tensor:
        """``z [*, Z] -> [*]``, the mean of the members: what the targets are made of."""
        mean: Tensor = self._members(z).mean(0)
        return self._bounded(self.out[0] + self.out[1] * mean)

    def bound(self, rates: Tensor, seconds_of_ever: float) -> None:
        """Take the bounds from recorded rates of reward ``[n]`` per second; no discount, no bounds."""
        if math.isfinite(seconds_of_ever):
            low, high = rates.min().clamp(max=0.0), rates.max().clamp(min=0.0)
            self.bounds.copy_(torch.stack([low, high]) * seconds_of_ever)

    def _bounded(self, value: Tensor) -> Tensor:
        return value.clamp(self.bounds[0], self.bounds[1])

    def _members(self, z: Tensor) -> Tensor:
        flat = ((z - self.z_mean) / self.z_spread).reshape(-1, z.shape[-1])
        value: Tensor = self.net(flat.expand(self.config.n_members, *flat.shape))[..., 0]
        return value.reshape(-1, *z.shape[:-1])

    def fit(self, buffer: ReplayBuffer, rho: float, native_dt: float, rng: np.random.Generator) -> float:
        """Regress on lambda-returns of all data; returns the last loss in units of the returns' spread."""
        data = buffer.arrays()
        serials = buffer.serials()
        linked = buffer.following(serials)
        following = np.where(linked >= 0, linked - serials[0], -1)
        discount, mix = np.exp(-rho * data.dt), self.config.trace ** (data.dt / native_dt)
        device = self.out.device
        obs, after = torch.from_numpy(data.obs).to(device), torch.from_numpy(data.next_obs).to(device)
        scale = Scale.of(obs)
        self.take_input_scale(scale)
        for_ever = Discount(rho, native_dt).seconds_of_ever
        self.bound(torch.from_numpy(data.reward / data.dt), for_ever)
        optimiser = torch.optim.AdamW(self.net.parameters(), self.config.learning_rate, weight_decay=1e-4)
        last = 0.0
        for _ in range(self.config.refreshes):
            with torch.no_grad():
                known = (
                    self.mean(after).cpu().double().numpy() if int(self.n_fits) else np.zeros(len(data.dt))
                )
            reward = data.reward.astype(np.float64)
            returns = lambda_returns(reward, discount, mix, known, data.terminated, following)
            target = torch.from_numpy(returns).float()
            self.rescale(float(target.mean()), float(target.std(correction=0)))
            n_updates = max(1, self.config.updates // self.config.refreshes)
            last = self.regress(optimiser, obs, target.to(device), n_updates, rng)
            self.n_fits += 1
        return last

    @torch.no_grad()
    def take_input_scale(self, scale: Scale) -> None:
        """Normalise states by `scale`; what was learned stays."""
        if int(self.n_fits):
            self.net.take_input_scale(Scale(self.z_mean, self.z_spread), scale)
        self.z_mean.copy_(scale.mean)
        self.z_spread.copy_(scale.spread)

    @torch.no_grad()
    def rescale(self, mean: float, spread: float) -> None:
        """Let the networks' output be in units of these returns; what was learned stays."""
        spread = max(spread, SMALLEST_SPREAD)
        ratio = float(self.out[1]) / spread
        self.net.weights[-1].mul_(ratio)
        self.net.biases[-1].mul_(ratio).add_((float(self.out[0]) - mean) / spread)
        self.out.copy_(torch.tensor([mean, spread]))

    def _loss(self, missing: Tensor) -> Tensor:
        """The expectile loss of what the networks say too little, with linear tails."""
        share = torch.where(missing > 0, self.config.expectile, 1 - self.config.expectile)
        each = nn.functional.smooth_l1_loss(missing, torch.zeros_like(missing), reduction="none")
        return (2 * share * each).mean()

    def regress(
        self,
        optimiser: torch.optim.Optimizer,
        z: Tensor,
        target: Tensor,
        n_updates: int,
        rng: np.random.Generator,
    ) -> float:
        """Gradient steps towards returns ``target [n]`` of states ``z [n, Z]``; the last loss, in spreads."""
        z, target = (z - self.z_mean) / self.z_spread, (target - self.out[0]) / self.out[1]
        loss = target.new_zeros(())
        for _ in range(n_updates):
            at = torch.from_numpy(rng.integers(len(z), size=(self.config.n_members, self.config.batch_size)))
            loss = self._loss(target[at] - self.net(z[at])[..., 0])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        return float(loss.detach())
