"""Search among the parameters of a policy for those that earn most in a learned world.

The cross-entropy method over the parameters of an actor: where returns are decided by many seconds of motion,
gradients along them explode and plans of some seconds see too little, but the return of a whole roll-out is
still a good judge of a policy. Sources: Wang and Ba 2019 (arXiv 1906.08649), who plan in this space; Mania
et al. 2018 (arXiv 1803.07055), whose linear policies are enough for locomotion.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ode_rl.agents.actor import MLPActor
from ode_rl.agents.courses import drawn_seconds, extreme_rates
from ode_rl.buffer import Arrays, ReplayBuffer
from ode_rl.errors import Stopped, UsageError
from ode_rl.normalize import Scale
from ode_rl.settings import check_counts
from ode_rl.world_model import WorldModel

if TYPE_CHECKING:
    from ode_rl.agents.actor_critic import ActorCritic

# What a policy earns whose roll-out is not finite, in spreads of what the others earn.
WORST = 10.0
# What searches end with is compared on so many times their starts.
JUDGES = 4


@dataclass(frozen=True)
class SearchConfig:
    """The search of a round, which begins at what earned most in the real task so far."""

    population: int = 64
    """Policies that are tried in each generation."""
    elites: int = 8
    """The best of them, to which the next generation is fitted."""
    generations: int = 10
    """Generations of a round."""
    starts: int = 4
    """States from which each policy is tried, on every member of the world model; every other one began an
    episode."""
    heirs: int = 5
    """Changed parameters (`explore_parameters`) that earned most per second in the real task: the first
    generation is around them and the policy. A model that promises too much is corrected so."""
    spread: float = 0.3
    """Standard deviation of the first generation around its parents (observations are normalised)."""
    least_spread: float = 0.05
    """What it does not fall below."""
    fresh: int = 0
    """Further searches of a round, which begin around zero. In the first round the best of what all of them
    end with is taken. Later ones would win by what the model promises of policies that nobody has tried: the
    best of theirs is tried in the real task first, as one of the changes of parameters."""
    fresh_spread: float = 0.7
    """Standard deviation of the first generation of these."""
    momentum: float = 0.3
    """Share of the last generation's mean and spread that the next one keeps."""
    doubt: float = 1.0
    """What a policy loses for each standard deviation of its return over the members of the world model."""
    margin: float = 0.2
    """How far beyond what was recorded imagined states may go, in half ranges of each observation. They are
    kept there, and an interval that would leave earns no more than the mean of what was recorded."""

    def __post_init__(self) -> None:
        check_counts(self, ("population", "elites", "generations", "starts", "heirs"), 4, "search")
        if self.elites > self.population:
            got = f"elites={self.elites}, population={self.population}"
            raise UsageError("elites <= population", got, "Write search={'elites': 8}.")
        for name in ("spread", "least_spread", "fresh", "fresh_spread", "doubt", "margin"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                remedy = f"Write search={{'{name}': {SearchConfig.__dataclass_fields__[name].default}}}."
                raise UsageError(f"{name} >= 0", getattr(self, name), remedy)
        if not 0 <= self.momentum < 1:
            raise UsageError("0 <= momentum < 1", self.momentum, "Write search={'momentum': 0.3}.")


class SearchReport(NamedTuple):
    """What a search ended with: the mean return of its policy in the world model, the standard deviation of
    that over the members, and the mean spread of the parameters."""

    objective: float
    disagreement: float
    spread: float
    skipped: int = 0

    def scalars(self) -> dict[str, float]:
        """The numbers for a logger."""
        return {name: float(number) for name, number in self._asdict().items() if name != "skipped"}


class Record(nn.Module):
    """The parameters ``best [K, n]`` that earned most in the real task, ``rates [K]`` per second (-inf: there
    is none yet), and ``untried [n]``, which are to be tried there next, if there `is_untried`."""

    best: Tensor
    rates: Tensor
    untried: Tensor
    is_untried: Tensor

    def __init__(self, n_kept: int, n_parameters: int) -> None:
        super().__init__()
        self.register_buffer("best", torch.zeros(n_kept, n_parameters))
        self.register_buffer("rates", torch.full((n_kept,), -torch.inf))
        self.register_buffer("untried", torch.zeros(n_parameters))
        self.register_buffer("is_untried", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def add(self, parameters: Tensor, rate: float) -> None:
        """Keep ``parameters [n]`` if they earned more than the least of those that are kept."""
        least = int(self.rates.argmin())
        if rate > float(self.rates[least]):
            self.best[least], self.rates[least] = parameters, rate

    def known(self) -> Tensor:
        """The parameters that are there, ``[<= K, n]``."""
        return self.best[self.rates.isfinite()]

    @torch.no_grad()
    def take_scale(self, actor: MLPActor, scale: Scale) -> None:
        """Let the kept actors do the same where `actor` normalises by `scale` from now on."""
        crowd = actor.crowd(torch.cat([self.best, self.untried[None]]))
        crowd.take_scale(scale)
        vectors = torch.cat([each.flatten(1) for each in crowd.net.parameters()], 1)
        self.best.copy_(vectors[:-1])
        self.untried.copy_(vectors[-1])

    @torch.no_grad()
    def propose(self, parameters: Tensor) -> None:
        """Let ``parameters [n]`` be tried next."""
        self.untried.copy_(parameters)
        self.is_untried.fill_(True)

    def next_untried(self) -> Tensor | None:
        """What is to be tried next ``[n]``, once."""
        found = self.untried.clone() if bool(self.is_untried) else None
        self.is_untried.fill_(False)
        return found


def search(
    policy: ActorCritic,
    model: WorldModel,
    buffer: ReplayBuffer,
    rng: np.random.Generator,
    stop: Callable[[], bool] | None = None,
) -> SearchReport:
    """One round: let the actor of `policy` be the mean of the last generation of the best search.

    Raises:
        Stopped: as soon as `stop()` says True, asked before each generation; the policy acts as before then.
        UsageError: for an actor with a memory.
    """
    actor, config = policy.actor, policy.config.search
    if not isinstance(actor, MLPActor):
        raise UsageError("source 'searched' with the actor 'mlp'", "another actor", "Write actor='mlp'.")
    course = Trial(policy, model, buffer, rng)
    policy.take_scale(Scale.of(torch.from_numpy(course.data.obs).to(policy.rounds.device)))
    own = actor.vector()[None]
    parents = torch.cat([own, policy.record.known()]).cpu().numpy().astype(np.float64)
    found = [_evolved(course, actor, parents, config.spread, stop)]
    for _ in range(config.fresh):
        found.append(_evolved(course, actor, np.zeros_like(parents[:1]), config.fresh_spread, stop))
    last = np.stack([each.mean for each in found])
    returns = course.returns(actor, last, JUDGES * config.starts)
    score = _score(returns, config.doubt)
    best = int(np.argmax(score)) if not policy.rounds else 0
    actor.take_vector(torch.from_numpy(last[best]))
    if policy.rounds and config.fresh:
        policy.record.propose(torch.from_numpy(last[1 + int(np.argmax(score[1:]))]))
    policy.rounds += 1
    own_returns, spread = returns[:, best], found[best].spread
    return SearchReport(float(own_returns.mean()), float(own_returns.std()), float(spread.mean()))


class Found(NamedTuple):
    """The last generation of a search: mean and standard deviation of each parameter, ``[n]``."""

    mean: npt.NDArray[np.float64]
    spread: npt.NDArray[np.float64]


def _evolved(
    course: Trial,
    actor: MLPActor,
    parents: npt.NDArray[np.float64],
    first_spread: float,
    stop: Callable[[], bool] | None,
) -> Found:
    """The cross-entropy method from ``parents [K, n]``."""
    config, rng = course.policy.config.search, course.rng
    mean, spread = parents[0], np.full(parents.shape[1], first_spread)
    for k in range(config.generations):
        if stop is not None and stop():
            raise Stopped
        # What is halfway between two good policies need not be one: the first generation has all as parents.
        centres = mean[None] if k else parents
        tried = centres[rng.integers(len(centres), size=config.population)]
        tried = tried + spread * rng.standard_normal(tried.shape)
        tried[: len(centres)] = centres[: config.population]
        score = _score(course.returns(actor, tried, config.starts), config.doubt)
        best = tried[np.argsort(-score)[: config.elites]]
        keep = config.momentum if k else 0.0
        mean = keep * mean + (1 - keep) * best.mean(0)
        spread = np.maximum(keep * spread + (1 - keep) * best.std(0), config.least_spread)
    return Found(mean, spread)


def _score(returns: npt.NDArray[np.float64], doubt: float) -> npt.NDArray[np.float64]:
    """What policies are worth ``[P]`` that return ``[E, P]`` on the members."""
    score: npt.NDArray[np.float64] = returns.mean(0) - doubt * returns.std(0)
    return score


class Trial:
    """Roll-outs on which policies are compared: all of a generation from the same states, over the same
    intervals, within what was recorded."""

    data: Arrays

    def __init__(
        self, policy: ActorCritic, model: WorldModel, buffer: ReplayBuffer, rng: np.random.Generator
    ) -> None:
        self.policy, self.model, self.rng = policy, model, rng
        self.data = buffer.arrays()
        self.first = buffer.firsts() - buffer.serials()[0]
        self.rates = extreme_rates(self.data)
        self.mean_rate = float(self.data.reward.sum() / self.data.dt.sum())
        low, high = self.data.next_obs.min(0), self.data.next_obs.max(0)
        room = policy.config.search.margin * (high - low) / 2
        self.low, self.high = (self._tensor(x) for x in (low - room, high + room))

    @torch.no_grad()
    def returns(
        self, actor: MLPActor, parameters: npt.NDArray[np.float64], s: int
    ) -> npt.NDArray[np.float64]:
        """Mean discounted returns ``[E, P]`` of actors with ``parameters [P, n]`` on each member, from `s`
        states."""
        p, e = len(parameters), self.model.n_members
        crowd = actor.crowd(torch.from_numpy(parameters))
        z = self._starts(s).expand(e, p, s, -1).reshape(e, p * s, -1)
        total, onward = torch.zeros_like(z[..., 0]), torch.ones_like(z[..., 0])
        seconds = self._seconds(s)
        weight, fade = self.policy.discount.over(seconds)
        for k in range(len(seconds)):
            dt = seconds[k].expand(e, p, s).reshape(e, p * s)
            share = weight[k].repeat(p)
            low, high, mean = (share * rate * dt for rate in (*self.rates, self.mean_rate))
            outcome = self.model.step(z, self._act(crowd, z, dt), dt)
            # Where the data say little the model promises too much, and a search finds it.
            inside = torch.minimum(torch.maximum(outcome.z, self.low), self.high)
            most = torch.where((inside == outcome.z).all(-1), high, mean)
            paid = torch.minimum(torch.maximum(share * outcome.reward, low), most)
            total, onward = total + onward * paid, onward * fade[k].repeat(p)
            if outcome.log_survival is not None:
                onward = onward * outcome.log_survival.exp()
            z = inside
        found: npt.NDArray[np.float64] = _finite(total.reshape(e, p, s).cpu().double().numpy()).mean(-1)
        return found

    def _act(self, crowd: MLPActor, z: Tensor, dt: Tensor) -> Tensor:
        """What actor p of the crowd does in its rows of ``z [E, P * S, Z]``."""
        p = crowd.net.n_members
        rows, held = (x.unflatten(1, (p, -1)).transpose(0, 1) for x in (z, dt))
        action: Tensor = crowd(rows, held, rows[..., :0])[0]
        return action.transpose(0, 1).flatten(1, 2)

    def _starts(self, n: int) -> Tensor:
        """States ``[n, Z]``: recorded ones, and ones with which an episode began."""
        anywhere = self.rng.integers(len(self.data.dt), size=n - n // 2)
        return self._tensor(self.data.obs[np.concatenate([anywhere, self.rng.choice(self.first, n // 2)])])

    def _seconds(self, n: int) -> Tensor:
        """Intervals ``[K, n]`` in seconds."""
        return drawn_seconds(self.policy, self.data, (n,), self.rng)

    def _tensor(self, x: npt.NDArray[np.floating]) -> Tensor:
        return torch.from_numpy(x).float().to(self.policy.rounds.device)


def _finite(returns: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """`returns`, the worst of all in place of those that are not finite."""
    good = np.isfinite(returns)
    if good.all():
        return returns
    if not good.any():
        return np.zeros_like(returns)
    known = returns[good]
    return np.where(good, returns, known.min() - WORST * max(float(known.std()), 1.0))
