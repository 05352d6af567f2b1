"""Errors of world models on recorded episodes: off the training dt, with few data, over long horizons."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import torch
from _rows import Table
from _worlds import WORLDS, World, buffer_of, record

from ode_rl.calibration import coverage_at, fit_temperature
from ode_rl.fit import FitConfig, fit
from ode_rl.losses import segment_losses
from ode_rl.names import PLAIN_MODELS
from ode_rl.open_loop import change_unit, horizon_error, one_interval_nrmse, open_loop
from ode_rl.state import state_spec
from ode_rl.types import Solver, Trajectory
from ode_rl.world_model import WorldModel, WorldModelConfig

FIVE = ("pendulum", "inverted-double-pendulum", "reacher", "swimmer", "half-cheetah")
SMOOTH = ("pendulum", "inverted-double-pendulum", "reacher", "swimmer")
TRAINING_RATIOS = (0.7, 1.4)
# x0.4 and x0.6 bracket x0.5 where five physics steps make a control interval.
TEST_RATIOS = (0.25, 0.4, 0.5, 0.6, 1.0, 2.0, 4.0)
SEEN, FEW, UNSEEN = 10_000, 2_000, 2_000
FIT = FitConfig(updates=1500, warm_start_updates=500, batch_size=128, patience=100, check_every=100)


def fitted(
    world: World,
    structure: str,
    episodes: list[Trajectory],
    seed: int,
    fit_config: FitConfig = FIT,
    solver: Solver | None = None,
) -> tuple[WorldModel, float]:
    """A model of one structure fitted to the episodes, and the seconds it took."""
    n_obs, n_action = episodes[0].obs.shape[1], episodes[0].action.shape[1]
    # One step of RK4 per training interval, several at the longest ones.
    solver = solver or Solver("rk4", max_step=1.4 * world.native_dt)
    config = WorldModelConfig(structure=structure, solver=solver)
    spec = None if structure in PLAIN_MODELS else state_spec(world.env_id, n_obs)
    generator = torch.Generator().manual_seed(seed)
    model = WorldModel(n_obs, n_action, world.native_dt, config, generator, spec)
    start = time.perf_counter()
    fit(model, buffer_of(episodes), fit_config, np.random.default_rng(seed), "cpu")
    return model, time.perf_counter() - start


def off_dt(table: Table, seed: int) -> None:
    """Train on log-uniform 0.7-1.4x native, test outside; residual-mlp gets its best use."""
    for task in FIVE:
        # dt-mlp is the rival that counts; the recurrent one is measured once.
        rivals = ("residual-mlp", "dt-mlp", "gru-dt") if seed == 0 else ("residual-mlp", "dt-mlp")
        models = [m for m in ("ode", *rivals) if table.wants(task, m, seed)]
        if not models:
            continue
        world = WORLDS[task]
        episodes = record(world, SEEN, TRAINING_RATIOS, seed)
        ratios = [r for r in TEST_RATIOS if world.exists(r)]
        tests = {r: record(world, UNSEEN, r, 1000 + seed) for r in ratios}
        for structure in models:
            model, seconds = fitted(world, structure, episodes, seed)
            errors = {r: one_interval_nrmse(model, tests[r]).mean for r in ratios}
            low, high = TRAINING_RATIOS
            outside = [e for r, e in errors.items() if not low <= r <= high]
            numbers = [
                table.number(task, structure, seed, "one-interval NRMSE", e, dt_ratio=f"{r:g}")
                for r, e in errors.items()
            ]
            mean = float(np.mean(outside))
            numbers.append(table.number(task, structure, seed, "mean NRMSE outside the training dt", mean))
            numbers.append(table.number(task, structure, seed, "fit", seconds, "s"))
            table.write(task, structure, seed, numbers)


def coverage(table: Table, seed: int) -> None:
    """Share of held-out truth inside the 90 % bands of the ode models of the row off-dt."""
    for task in SMOOTH:
        if table.wants(task, "ode", seed):
            model, _ = fitted(WORLDS[task], "ode", record(WORLDS[task], SEEN, TRAINING_RATIOS, seed), seed)
            _coverage(table, model, task, seed)


def data_limited(table: Table, seed: int) -> None:
    """2,000 transitions at native dt: plain against second-order (and Lagrangian, for small robots)."""
    for task in FIVE:
        # The mass matrices of larger robots take too long here.
        mechanical = ("second-order", "lagrangian") if task in FIVE[:2] and seed == 0 else ("second-order",)
        models = [m for m in ("ode", *mechanical) if table.wants(task, m, seed)]
        if not models:
            continue
        world = WORLDS[task]
        episodes = record(world, FEW, 1.0, seed)
        test = record(world, UNSEEN, 1.0, 1000 + seed)
        unit = change_unit(test)
        for structure in models:
            config = replace(FIT, updates=800)
            # Mechanical fields are stiffer than plain ones: the same short steps for all.
            solver = Solver("midpoint", max_step=0.025)
            model, seconds = fitted(world, structure, episodes, seed, config, solver)
            error = one_interval_nrmse(model, test, unit).mean
            ahead = horizon_error(open_loop(model, test, 0.5, 8), (0.1, 0.5))
            numbers = [
                table.number(task, structure, seed, "one-interval NRMSE", error, dt_ratio="1"),
                *(
                    table.number(task, structure, seed, f"open-loop NRMSE after {t:g} s", e)
                    for t, e in zip(ahead.times, ahead.error, strict=True)
                    if np.isfinite(e)
                ),
                table.number(task, structure, seed, "fit", seconds, "s"),
            ]
            table.write(task, structure, seed, numbers)


# Joint angles (0: hanging) and rates of the starts of the energy row, at rest.
STARTS = ((0.5, 0.0), (1.0, -0.5), (1.2, 0.8), (1.5, 1.5))


def energy(table: Table, seed: int) -> None:
    """Frictionless double pendulum, no torque, 10 s: drift of the true energy along the model's roll-out."""
    task = "double-pendulum"
    world = World("ode_rl/DoublePendulum-v0", 0.05, 0.05 / 1000)
    models = [
        m for m in ("ode", "second-order", "lagrangian", "port-hamiltonian") if table.wants(task, m, seed)
    ]
    if not models:
        return
    env = gymnasium.make(world.env_id)
    truth: Any = env.unwrapped
    # From hanging to upright.
    scale = float(truth.energy([np.pi, np.pi, 0, 0]) - truth.energy([0, 0, 0, 0]))
    spec = state_spec(world.env_id, env.observation_space.shape[0])  # type: ignore[index]
    episodes = record(world, SEEN, 1.0, seed)
    for structure in models:
        config = WorldModelConfig(
            n_members=1, structure=structure, hidden=(128, 128), solver=Solver("rk4", 0.0125)
        )
        generator = torch.Generator().manual_seed(seed)
        n_obs, n_action = episodes[0].obs.shape[1], episodes[0].action.shape[1]
        model = WorldModel(n_obs, n_action, world.native_dt, config, generator, spec)
        start = time.perf_counter()
        fit(
            model,
            buffer_of(episodes),
            replace(FIT, updates=2500, batch_size=256),
            np.random.default_rng(seed),
            "cpu",
        )
        seconds = time.perf_counter() - start
        drifts = []
        for angles in STARTS:
            state = np.array([*angles, 0.0, 0.0])
            z = torch.from_numpy(truth.observe(state)).float().reshape(1, 1, -1)
            level = truth.energy(state)
            worst = 0.0
            with torch.no_grad():
                for outcome in model.roll(z, torch.zeros(1, 1, 200, n_action), torch.full((200,), 0.05)):
                    q = spec.encode(outcome.z)[0, 0].double().numpy()
                    worst = max(worst, abs(truth.energy(q) - level))
            drifts.append(100 * worst / scale)
        numbers = [
            table.number(
                task, structure, seed, "mean of worst energy drift in 10 s", float(np.mean(drifts)), "%"
            ),
            table.number(task, structure, seed, "largest energy drift in 10 s", max(drifts), "%"),
            table.number(task, structure, seed, "fit", seconds, "s"),
        ]
        table.write(task, structure, seed, numbers)


def _coverage(table: Table, model: WorldModel, task: str, seed: int) -> None:
    """Share of held-out truth inside the 90 % bands, one temperature fitted on other episodes."""
    world = WORLDS[task]
    other, test = (record(world, 12_000, TRAINING_RATIOS, s + seed) for s in (2000, 3000))
    temperature = fit_temperature(open_loop(model, other, 1.0, 8))
    loop = open_loop(model, test, 1.0, 8)
    numbers = [table.number(task, "ode", seed, "temperature", temperature)]
    for seconds in (0.1, 0.25, 0.5, 1.0):
        if (loop.column_at(seconds) >= 0).sum() < 50:
            continue
        for t, what in ((1.0, "raw "), (temperature, "")):
            share = 100 * coverage_at(loop, 0.9, seconds, t)
            ok = None if what else 85 <= share <= 95
            asked = "" if what else "85-95"
            name = f"{what}coverage of 90 % bands after {seconds:g} s"
            numbers.append(table.number(task, "ode", seed, name, share, "%", asked=asked, ok=ok))
    table.write(task, "ode", seed, numbers)


def termination(table: Table, seed: int) -> None:
    """Both ways to end on the same data, and which of them the held-out likelihood chooses."""
    for task in ("inverted-pendulum", "hopper"):
        if not table.wants(task, "ode", seed):
            continue
        world = WORLDS[task]
        episodes, test = record(world, 5000, 1.0, seed), record(world, 5000, 1.0, 1000 + seed)
        n_obs, n_action = episodes[0].obs.shape[1], episodes[0].action.shape[1]
        config = WorldModelConfig(termination="auto")
        model = WorldModel(n_obs, n_action, world.native_dt, config, torch.Generator().manual_seed(seed))
        report = fit(model, buffer_of(episodes), FIT, np.random.default_rng(seed), "cpu")
        fresh = buffer_of(test)
        starts = np.broadcast_to(fresh.serials(), (model.n_members, len(fresh)))
        with torch.no_grad():
            losses = segment_losses(model, fresh.segments(starts, 1))
        share = fresh.arrays().terminated.mean()
        base = -(share * np.log(share) + (1 - share) * np.log(1 - share))
        numbers = [
            table.number(task, "ode", seed, f"held-out {name} NLL", float(loss.mean()), "nats")
            for name, loss in (("hazard", losses.end), ("boundary", losses.boundary))
            if loss is not None
        ]
        numbers += [
            table.number(task, "ode", seed, "NLL of the base rate", base, "nats"),
            table.number(task, "ode", seed, "chose the boundary", float(report.ends_by == "boundary")),
        ]
        table.write(task, "ode", seed, numbers)


def mechanics(table: Table, seed: int) -> None:
    """Second-order and Lagrangian models inside `mpc` on InvertedDoublePendulum, beside the plain one."""
    from ode_rl.agents import MPC
    from ode_rl.evaluate import evaluate_agent

    env_id, task, steps = "InvertedDoublePendulum-v5", "inverted-double-pendulum", 600
    for structure in ("ode", "second-order", "lagrangian"):
        if not table.wants(task, structure, seed):
            continue
        start = time.perf_counter()
        model = {"structure": structure, "solver": {"method": "midpoint", "max_step": 0.025}}
        agent = MPC(env_id, seed=seed, device="cpu", model=model).learn(steps)
        seconds = time.perf_counter() - start
        found = evaluate_agent(agent, env_id, 10)
        numbers = [
            table.number(task, structure, seed, f"return after {steps} steps", found.mean_return, "return"),
            table.number(task, structure, seed, "learning", seconds, "s"),
        ]
        table.write(task, structure, seed, numbers)
