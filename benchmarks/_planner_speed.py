"""Times of planning with models of HalfCheetah's size, in turn in one process."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from _rows import Table
from torch import Tensor
from torchdiffeq import odeint

from ode_rl.agents import MPC
from ode_rl.agents.plan_score import Objective, assigned_scores, ensemble_scores
from ode_rl.agents.presets import preset_ids
from ode_rl.inference import FastModel, resolve_precision
from ode_rl.types import Solver
from ode_rl.world_model import WorldModel, WorldModelConfig

MEMBERS, CANDIDATES, HORIZON, N_OBS, N_ACTION, HIDDEN, DT = 5, 200, 15, 17, 6, 200, 0.05
OBJECTIVE = Objective(rho=0.2)
TASK = "half-cheetah-size"
# Where episodes end, and plans are weighed by survival and a terminal value; the other tasks only time out.
ENDS = ("InvertedPendulum-v5",)


def world(method: str = "midpoint", ends: bool = False) -> WorldModel:
    """A model of HalfCheetah's size with plausible scales, not fitted to anything."""
    config = WorldModelConfig(MEMBERS, (HIDDEN, HIDDEN), (64, 64), Solver(method), "hazard")
    generator = torch.Generator().manual_seed(0)
    model = WorldModel(N_OBS, N_ACTION, DT, config, generator)
    rows = torch.randn(1000, N_OBS, generator=generator)
    model.rescale(rows, 5 * rows, 1 + rows[:, 0], ends)
    return model


def rounds(
    ways: dict[str, Callable[[], object]], n: int = 40, slow: tuple[str, ...] = ()
) -> dict[str, list[float]]:
    """Seconds of each way, all of them in every round, so that noise meets them alike."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for k in range(n + 3):
        for name, call in ways.items():
            if name in slow and k % 4:
                continue
            start = time.perf_counter()
            call()
            if k >= 3:
                times[name].append(time.perf_counter() - start)
    return times


def plain_scores(model: WorldModel, z: Tensor, plans: Tensor, dt: Tensor) -> Tensor:
    """All members on all candidates through torchdiffeq's rk4, the reward rate as one more state."""
    b, n = plans.shape[:2]
    e = model.n_members
    y = torch.cat([z.repeat_interleave(n, 0), z.new_zeros(b * n, 1)], -1).expand(e, -1, -1)
    score = z.new_zeros(e, b * n)
    for k in range(plans.shape[2]):
        a = plans[:, :, k].reshape(1, b * n, -1).expand(e, -1, -1)

        def flow(_t: Tensor, y: Tensor, a: Tensor = a) -> Tensor:
            state = y[..., :-1]
            return torch.cat([model.dynamics(state, a), model.reward(state, a)], -1)

        times = torch.stack([dt.new_zeros(()), dt[k]])
        after = odeint(flow, y, times, method="rk4")[-1]
        score = score + math.exp(-OBJECTIVE.rho * float(dt[:k].sum())) * (after[..., -1] - y[..., -1])
        y = after
    return score.mean(0).reshape(b, n)


def speed(table: Table, seed: int) -> None:
    """One iteration over 200 candidates x 15 steps x 5 members of 2x200, and its factors one by one."""
    if not table.wants(TASK, "ode", seed):
        return
    z, plans = torch.randn(1, N_OBS), torch.rand(1, CANDIDATES, HORIZON, N_ACTION) * 2 - 1
    dt = torch.full((HORIZON,), DT)
    rk4, midpoint = world("rk4"), world("midpoint")
    generator = torch.Generator().manual_seed(0)
    fast = {p: FastModel(midpoint, p) for p in ("float32", "bfloat16")}
    fast_rk4 = FastModel(rk4, "float32")
    auto = resolve_precision("auto", "cpu", HIDDEN, CANDIDATES // MEMBERS)

    def assigned(model: WorldModel | FastModel) -> Tensor:
        return assigned_scores(model, z, plans, dt, OBJECTIVE, generator)

    ways: dict[str, Callable[[], object]] = {
        "torchdiffeq rk4, all members": lambda: plain_scores(rk4, z, plans, dt),
        "own rk4, all members": lambda: ensemble_scores(rk4, z, plans, dt, OBJECTIVE),
        "own rk4, assigned": lambda: assigned(rk4),
        "own midpoint, assigned": lambda: assigned(midpoint),
        "own midpoint, assigned, nothing precomputed": lambda: _no_precomputation(
            midpoint, z, plans, dt, generator
        ),
        "fast rk4, all members": lambda: ensemble_scores(fast_rk4, z, plans, dt, OBJECTIVE),
        "fast midpoint, assigned, float32": lambda: assigned(fast["float32"]),
        "fast midpoint, assigned, bfloat16": lambda: assigned(fast["bfloat16"]),
    }
    slow = ("torchdiffeq rk4, all members", "own rk4, all members", "fast rk4, all members")
    with torch.inference_mode():
        times = rounds(ways, 60, slow)
        error = _disagreement(midpoint, fast["bfloat16"], z, plans, dt)
    median = {name: statistics.median(t) for name, t in times.items()}
    best = f"fast midpoint, assigned, {auto}"
    factors = {
        "whole: over torchdiffeq rk4 with all members": (slow[0], best, ">= 10"),
        "whole in float32": (slow[0], "fast midpoint, assigned, float32", ""),
        "assignment": ("own rk4, all members", "own rk4, assigned", ""),
        "method: midpoint for rk4": ("own rk4, assigned", "own midpoint, assigned", ""),
        "precomputed half": ("own midpoint, assigned, nothing precomputed", "own midpoint, assigned", ""),
        "fast path: heads and scales out of the loop": (
            "own midpoint, assigned",
            "fast midpoint, assigned, float32",
            "",
        ),
        "precision: bfloat16 for float32": (
            "fast midpoint, assigned, float32",
            "fast midpoint, assigned, bfloat16",
            "",
        ),
        "kernel at equal work: rk4, all members, float32": (slow[0], "fast rk4, all members", ">= 1"),
    }
    numbers = [table.number(TASK, "ode", seed, name, 1e3 * t, "ms") for name, t in median.items()]
    for name, (of, over, asked) in factors.items():
        ratio = median[of] / median[over]
        ok = ratio >= float(asked[3:]) if asked else None
        numbers.append(table.number(TASK, "ode", seed, name, ratio, "x", asked=asked, ok=ok))
    numbers.append(table.number(TASK, "ode", seed, "bfloat16: error of scores over their spread", error))
    table.write(TASK, "ode", seed, numbers)


def _no_precomputation(
    model: WorldModel, z: Tensor, plans: Tensor, dt: Tensor, generator: torch.Generator
) -> Tensor:
    """As assigned scores, the action's half of the first layer computed at every stage."""
    e, n = model.n_members, plans.shape[1]
    deal = torch.randperm(n, generator=generator)
    plan = plans[0][deal].reshape(n // e, e, *plans.shape[2:]).transpose(0, 1)
    y, score = z.expand(e, n // e, -1), z.new_zeros(e, n // e)
    for k in range(plan.shape[2]):
        a, h = plan[:, :, k], dt[k]
        middle = y + 0.5 * h * model.dynamics(y, a)
        score = score + math.exp(-OBJECTIVE.rho * DT * k) * h * model.reward(middle, a)[..., 0]
        y = y + h * model.dynamics(middle, a)
    return score


def _disagreement(model: WorldModel, fast: FastModel, z: Tensor, plans: Tensor, dt: Tensor) -> float:
    ours, theirs = (ensemble_scores(m, z, plans, dt, OBJECTIVE) for m in (fast, model))
    return float((ours - theirs).abs().max() / theirs.std())


def share(table: Table, seed: int) -> None:
    """The time of the bare matrix products of an iteration, same shapes and precision, over its own."""
    if not table.wants(TASK, "ode", seed):
        return
    dt = torch.full((HORIZON,), DT)
    generator = torch.Generator().manual_seed(0)
    model = world()
    numbers = []
    for precision in ("float32", "bfloat16"):
        for n in (200, 1000, 4000):
            z, plans = torch.randn(1, N_OBS), torch.rand(1, n, HORIZON, N_ACTION) * 2 - 1
            fast = FastModel(model, precision)
            products = _products(n // MEMBERS, fast.dtype)
            with torch.inference_mode():
                times = rounds(
                    {
                        "iteration": partial(assigned_scores, fast, z, plans, dt, OBJECTIVE, generator),
                        "products": products,
                    },
                    40 if n < 4000 else 12,
                )
            both = zip(times["iteration"], times["products"], strict=True)
            part = 100 * statistics.median(p / i for i, p in both)
            name = f"matrix products' share of an iteration, {n} candidates, {precision}"
            numbers.append(table.number(TASK, "ode", seed, name, part, "%", asked="aim 60"))
    table.write(TASK, "ode", seed, numbers)


def _products(rows: int, dtype: torch.dtype) -> Callable[[], None]:
    """The matrix products of one iteration, and nothing else."""

    def pair(n: int, w_in: int, w_out: int) -> tuple[Tensor, Tensor]:
        return torch.randn(MEMBERS, n, w_in).to(dtype), torch.randn(MEMBERS, w_in, w_out).to(dtype)

    once = [
        pair(rows * HORIZON, *w) for w in ((N_ACTION, HIDDEN), (N_ACTION, 64), (N_OBS, 64), (64, 64), (64, 1))
    ]
    stage = [pair(rows, *w) for w in ((N_OBS, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, N_OBS))]

    def run() -> None:
        for x, w in once:
            torch.bmm(x, w)
        for _ in range(2 * HORIZON):
            for x, w in stage:
                torch.bmm(x, w)

    return run


def growth(table: Table, seed: int) -> None:
    """Exponents in candidates and horizon, and the cost of several start states at once."""
    if not table.wants(TASK, "ode", seed):
        return
    fast = FastModel(world(), resolve_precision("auto", "cpu", HIDDEN, CANDIDATES // MEMBERS))
    generator = torch.Generator().manual_seed(0)

    def call(b: int, n: int, h: int) -> Callable[[], object]:
        z, plans = torch.randn(b, N_OBS), torch.rand(b, n, h, N_ACTION)
        dt = torch.full((h,), DT)
        return lambda: assigned_scores(fast, z, plans, dt, OBJECTIVE, generator)

    with torch.inference_mode():
        by_candidates = rounds({str(n): call(1, n, 15) for n in (2000, 4000, 8000)}, 40)
        by_horizon = rounds({str(h): call(1, 2000, h) for h in (10, 20, 40)}, 40)
        few = rounds({"1": call(1, 32, 15), "16": call(16, 32, 15)}, 40)
        many = rounds({"1": call(1, 200, 15), "16": call(16, 200, 15)}, 20)
    numbers = []
    for what, times in (("candidates (2,000 to 8,000)", by_candidates), ("horizon (10 to 40)", by_horizon)):
        x = np.log([float(k) for k in times])
        y = np.log([statistics.median(t) for t in times.values()])
        slope = float(np.polyfit(x, y, 1)[0])
        ok = 0.9 <= slope <= 1.1
        numbers.append(table.number(TASK, "ode", seed, f"exponent in {what}", slope, "", "", "0.9-1.1", ok))
    for n, times, most in ((32, few, 8), (200, many, 16)):
        ratio = statistics.median(b / a for a, b in zip(times["1"], times["16"], strict=True))
        name = f"16 start states over one, {n} candidates each"
        numbers.append(table.number(TASK, "ode", seed, name, ratio, "x", "", f"<= {most}", ratio <= most))
    table.write(TASK, "ode", seed, numbers)


def decision(table: Table, seed: int) -> None:
    """Whole decisions through `predict`: HalfCheetah's size with 3 iterations, and every preset."""
    for env_id in ("HalfCheetah-v5", *preset_ids("mpc")):
        # Presets of robots that come with gymnasium-robotics alone are left out.
        if env_id not in gymnasium.registry or not table.wants(env_id, "ode", seed):
            continue
        settings: dict[str, Any] = {}
        if env_id == "HalfCheetah-v5":
            settings = {
                "model": {"hidden": [HIDDEN, HIDDEN]},
                "horizon": HORIZON * DT,
                "planner": {"candidates": CANDIDATES, "iterations": 3},
            }
        agent = MPC(env_id, seed=0, device="cpu", **settings)
        env = gymnasium.make(env_id)
        rows = np.stack([env.reset(seed=k)[0] for k in range(50)]).astype(np.float32)
        scale = torch.from_numpy(rows)
        agent.model.rescale(scale, scale, scale[:, 0], env_id in ENDS)
        state, times = None, []
        for k in range(220):
            start = time.perf_counter()
            _, state = agent.predict(rows[k % 50], state)
            times.append(time.perf_counter() - start)
        p50, p99 = (1e3 * float(np.percentile(times[20:], q)) for q in (50, 99))
        hertz = 1e3 / p50
        numbers = [
            table.number(env_id, "ode", seed, "decision, median", p50, "ms"),
            table.number(env_id, "ode", seed, "decision, 99th percentile", p99, "ms"),
        ]
        if env_id == "HalfCheetah-v5":
            numbers.append(
                table.number(
                    env_id, "ode", seed, "decisions per second", hertz, "Hz", "", ">= 50", hertz >= 50
                )
            )
        elif agent.dt >= 0.02 - 1e-9:
            fits = p50 <= 1e3 * agent.dt
            asked = f"<= {1e3 * agent.dt:g} ms"
            numbers.append(
                table.number(
                    env_id,
                    "ode",
                    seed,
                    "median over the control interval",
                    p50 / (1e3 * agent.dt),
                    "x",
                    "",
                    asked,
                    fits,
                )
            )
        table.write(env_id, "ode", seed, numbers)


def anytime(table: Table, seed: int) -> None:
    """Decisions under a budget of 10 ms: how far the slowest overrun it."""
    if not table.wants(TASK, "ode", seed):
        return
    model = {"hidden": [HIDDEN, HIDDEN]}
    planner = {"candidates": CANDIDATES, "iterations": 20, "budget_ms": 10.0}
    agent = MPC("HalfCheetah-v5", seed=0, device="cpu", horizon=HORIZON * DT, model=model, planner=planner)
    rows = torch.randn(50, N_OBS)
    agent.model.rescale(rows, rows, rows[:, 0], False)
    z, plan, dt = (
        rows[:1].expand(MEMBERS, 40, -1),
        torch.zeros(MEMBERS, 40, 1, N_ACTION),
        torch.full((1,), DT),
    )
    fast = FastModel(agent.model, agent.settings.precision)
    state, times, steps = None, [], []
    for k in range(420):
        start = time.perf_counter()
        _, state = agent.predict(rows[k % 50].numpy(), state)
        times.append(1e3 * (time.perf_counter() - start))
        start = time.perf_counter()
        fast.rollout(z, plan, dt)
        steps.append(1e3 * (time.perf_counter() - start))
    p50, p99 = (float(np.percentile(times[20:], q)) for q in (50, 99))
    step = statistics.median(steps)
    numbers = [
        table.number(TASK, "ode", seed, "budget of 10 ms: median", p50, "ms"),
        table.number(TASK, "ode", seed, "one step of the roll-out", step, "ms"),
        table.number(
            TASK,
            "ode",
            seed,
            "budget of 10 ms: 99th percentile",
            p99,
            "ms",
            "",
            f"<= {10 + step:.2f}",
            p99 <= 10 + step,
        ),
    ]
    table.write(TASK, "ode", seed, numbers)
