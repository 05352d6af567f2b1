"""The fast path of planning: the same roll-outs as `WorldModel.rollout`, with everything else left out.

What is done once per plan instead of once per stage: the action's half of all first layers, the scales of
state and rates (folded into the weights, so that the loop runs on normalised states), and the heads, whose
rates do not act on the state: they see all stages of all intervals in one product at the end. Biases are
weights of a unit that is always one: adding them takes a pass over memory that products alone spare.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ode_rl.errors import UsageError
from ode_rl.fields import MLPField
from ode_rl.fixed_step import FIXED_STEP, Tableau
from ode_rl.integrate import n_substeps
from ode_rl.names import PRECISIONS
from ode_rl.world_model import ONE_STEP, Rollout, WorldModel

# Below these sizes the conversions of bfloat16 cost more than its products save (benchmarks/planner.py).
LEAST_WIDTH, LEAST_ROWS = 192, 64
# silu(ONE) = 1, in float32 and, rounded, in bfloat16.
ONE = 1.2784645
# Matrix units take their rows in pieces of this width.
TILE = 16


def resolve_precision(
    name: str, device: torch.device | str, width: int = LEAST_WIDTH, rows: int = LEAST_ROWS
) -> str:
    """``"bfloat16"`` or ``"float32"`` for ``"auto"``: by what the processor can do, never by a timing.

    Processors with matrix units for bfloat16 (AMX, or a GPU from compute capability 8.0) get bfloat16 where
    products are large enough for them: hidden layers of `width` units, `rows` plans on every member.

    Raises:
        UsageError: for an unknown name.
    """
    if name not in PRECISIONS:
        raise UsageError(f"a precision among {', '.join(PRECISIONS)}", repr(name), "Write --precision auto.")
    if name != "auto":
        return name
    if width < LEAST_WIDTH or rows < LEAST_ROWS:
        return "float32"
    device = torch.device(device)
    if device.type == "cuda":
        able = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        able = bool(torch.backends.mkldnn.is_available() and torch.cpu._is_amx_tile_supported())
    return "bfloat16" if able else "float32"


class _Net(NamedTuple):
    """One of the model's networks for normalised states; what comes out still wants `scale` and `offset`.

    These two stay float32: a rate that hardly differs from its mean would drown in the rounding of bfloat16.
    """

    w_z: Tensor
    w_a: Tensor
    first_bias: Tensor
    weights: tuple[Tensor, ...]
    scale: Tensor
    offset: Tensor

    def code(self, a: Tensor) -> Tensor:
        """The first layer's share of actions ``[E, n, A]``."""
        return torch.baddbmm(self.first_bias, a, self.w_a)

    def tail(self, x: Tensor) -> Tensor:
        """What follows the first layer's pre-activation, which is overwritten."""
        for w in self.weights:
            x = torch.bmm(F.silu(x, inplace=True), w)
        return x


class FastModel:
    """A world model made ready for planning, in the given precision; it does not follow later fits.

    The state stays float32; with ``"bfloat16"`` the products do not. Models with another vector field than a
    plain network, and adaptive solvers, take the slow path: `rollout`.
    """

    def __init__(self, model: WorldModel, precision: str = "float32") -> None:
        self.model = model
        self.dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        solver = ONE_STEP if model.is_discrete else model.config.solver
        self.solver = solver
        self.tableau = FIXED_STEP.get(solver.method)
        self.is_fast = (
            isinstance(model.dynamics, MLPField)
            and self.tableau is not None
            and not self.tableau.error
            and not self.tableau.partitioned
        )
        if not self.is_fast or not isinstance(model.dynamics, MLPField):
            return
        self.mean, self.spread = model.dynamics.z_mean.clone(), model.dynamics.z_spread.clone()
        with torch.no_grad():
            # The loop has no time for scales: here they go into the last layer.
            self.dynamics = self._net(model.dynamics, fold=1 / self.spread)
            self.reward = self._net(model.reward)
            self.end = self._net(model.end)
            self.boundary = None if model.boundary is None else self._net(model.boundary)

    def _net(self, field: MLPField, fold: Tensor | None = None) -> _Net:
        # Copies: the next fit writes into the weights of the model.
        weights = [w.detach().clone() for w in field.net.weights]
        biases = [b.detach().clone() for b in field.net.biases]
        if fold is not None:
            weights[-1] = weights[-1] * (field.out_spread * fold)
            biases[-1] = (biases[-1] * field.out_spread + field.out_mean) * fold
        n = field.n_state
        first, first_bias = weights[0], biases[0]
        if len(weights) > 1:
            first, first_bias = _widened(first), _widened(first_bias, at=0)
        hidden = [
            _widened(_below(w, b), at=w.shape[-2]) for w, b in zip(weights[1:-1], biases[1:-1], strict=True)
        ]
        last = [_below(w, b) for w, b in zip(weights[1:][-1:], biases[1:][-1:], strict=True)]
        return _Net(
            w_z=first[:, :n].to(self.dtype).contiguous(),
            w_a=first[:, n:].to(self.dtype).contiguous(),
            first_bias=first_bias.to(self.dtype),
            weights=tuple(w.to(self.dtype).contiguous() for w in hidden + last),
            scale=field.out_spread.clone(),
            offset=field.out_mean.clone(),
        )

    @property
    def n_members(self) -> int:
        return self.model.n_members

    @property
    def reward_unit(self) -> Tensor:
        """A typical reward rate, per second."""
        return self.model.reward_unit

    @property
    def state_spread(self) -> Tensor:
        """Standard deviations of the recorded states, ``[Z]``."""
        return self.model.state_spread

    @torch.inference_mode()
    def rollout(self, z: Tensor, plan: Tensor, dt: Tensor, stop: Callable[[], None] | None = None) -> Rollout:
        """As `WorldModel.rollout`, without gradients."""
        if not self.is_fast or self.tableau is None:
            return self.model.rollout(z, plan, dt, stop)
        model = self.model
        e, m, h, _ = plan.shape
        seconds = dt.tolist()
        if model.config.structure == "residual-mlp":
            seconds = [model.native_dt] * h
        by_time = model.inputs(plan, dt).to(self.dtype).transpose(1, 2).reshape(e, h * m, -1)
        codes = self.dynamics.code(by_time).reshape(e, h, m, -1)
        y = (z - self.mean) / self.spread
        stages: list[Tensor] = []
        weights: list[tuple[int, float]] = []
        ends: list[Tensor] = []
        for k in range(h):
            y = self._interval(y, codes[:, k], seconds[k], self.tableau, stages, weights, k)
            ends.append(y)
            if stop is not None:
                stop()
        heads = _Heads(self, torch.stack(stages, 1), weights, by_time, (e, h, m))
        log_survival = self._log_survival(heads, torch.stack(ends, 1))
        path = None
        if model.known.reward is not None or model.known.termination is not None:
            path = [z, *(self.mean + self.spread * y for y in ends)]
        reward = heads.integral(self.reward)
        if path is not None and model.known.reward is not None:
            reward = torch.stack(
                [
                    model.known.reward(before, plan[:, :, k], after, dt[k].expand(e, m))
                    for k, (before, after) in enumerate(pairwise(path))
                ]
            )
        if path is not None and model.known.termination is not None:
            over = torch.stack([model.known.termination(after) for after in path[1:]])
            log_survival = torch.where(over, -torch.inf, torch.zeros_like(reward))
        ok = torch.isfinite(y).all(-1) & torch.isfinite(reward).all(0)
        return Rollout(self.mean + self.spread * y, reward, log_survival, ok)

    def _interval(
        self,
        y: Tensor,
        code: Tensor,
        seconds: float,
        tableau: Tableau,
        stages: list[Tensor],
        weights: list[tuple[int, float]],
        interval: int,
    ) -> Tensor:
        """Normalised states after one interval; the stages that the heads have to see are recorded."""
        n = 1 if math.isinf(self.solver.max_step) else n_substeps(seconds, self.solver)
        step = seconds / n
        net = self.dynamics
        for _ in range(n):
            after, rate = y, y
            for node, weight in zip(tableau.nodes, tableau.weights, strict=True):
                stage = y if node == 0.0 else torch.add(y, rate, alpha=step * node)
                low = stage.to(self.dtype)
                rate = net.tail(torch.baddbmm(code, low, net.w_z))
                if weight:
                    after = torch.add(after, rate, alpha=step * weight)
                    stages.append(low)
                    weights.append((interval, step * weight))
            y = after
        return y

    def _log_survival(self, heads: _Heads, ends: Tensor) -> Tensor | None:
        model = self.model
        if not model.ends or model.known.termination is not None:
            return None
        if model.ends_by == "hazard":
            return heads.integral(self.end, per=1 / model.native_dt, positive=True).neg_()
        net = self.end if self.boundary is None else self.boundary
        e, h, m, _ = ends.shape
        first = torch.baddbmm(net.first_bias, ends.reshape(e, h * m, -1).to(self.dtype), net.w_z)
        logit = torch.addcmul(net.offset, net.scale, net.tail(first).float())
        logit = logit.reshape(e, h, m).transpose(0, 1)
        return F.logsigmoid(-logit)


def _widened(rows: Tensor, at: int | None = None) -> Tensor:
    """A column more for the unit that is always one, led on to by row `at`, and zeros to a whole tile."""
    width = rows.shape[-1]
    wide = F.pad(rows, (0, _to_tile(width + 1) - width))
    if at is not None:
        wide[..., at, width] = ONE
    return wide


def _below(weight: Tensor, bias: Tensor) -> Tensor:
    """The bias as the row of the unit that is always one, and rows of zeros for those that fill the tile."""
    rows = torch.cat([weight, bias], -2)
    return F.pad(rows, (0, 0, 0, _to_tile(rows.shape[-2]) - rows.shape[-2]))


def _to_tile(width: int) -> int:
    return -(-width // TILE) * TILE


class _Heads:
    """The stages at which the rates of the heads are wanted: all of them in one product."""

    def __init__(
        self,
        fast: FastModel,
        stages: Tensor,
        weights: list[tuple[int, float]],
        actions: Tensor,
        shape: tuple[int, int, int],
    ) -> None:
        e, h, _ = shape
        self.shape, self.n_stages = shape, stages.shape[1]
        self.stages = stages.reshape(e, -1, stages.shape[-1])
        self.actions = actions
        self.interval = [k for k, _ in weights]
        per_interval = torch.zeros(h, self.n_stages)
        for j, (k, weight) in enumerate(weights):
            per_interval[k, j] = weight
        self.weights = per_interval.to(stages.device)
        self.one_each = self.interval == list(range(h))

    def integral(self, net: _Net, per: float = 1.0, positive: bool = False) -> Tensor:
        """``[H, E, M]``: the integral over each interval of a rate (with `positive`: of its softplus)."""
        e, h, m = self.shape
        code = net.code(self.actions)
        if not self.one_each:
            index = torch.tensor(self.interval, device=code.device)
            code = code.reshape(e, h, m, -1)[:, index].reshape(e, self.n_stages * m, -1)
        rate = net.tail(torch.baddbmm(code, self.stages, net.w_z)).float()
        rate = torch.addcmul(net.offset, net.scale, rate).reshape(e, self.n_stages, m)
        if positive:
            rate = F.softplus(rate)
        if self.one_each:
            own = self.weights.diagonal() * per
            return (rate * own[:, None]).transpose(0, 1)
        return torch.einsum("hs,esm->hem", self.weights * per, rate)
