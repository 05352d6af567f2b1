"""What world models cost: mixed dt in one solve, the warm start, the fit of 20,000 transitions, memory."""

from __future__ import annotations

import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from _rows import Table
from _worlds import WORLDS, buffer_of, record
from torch import Tensor

from ode_rl.fields import MLPField
from ode_rl.fit import FitConfig, fit
from ode_rl.integrate import integrate
from ode_rl.losses import Losses
from ode_rl.types import Solver
from ode_rl.world_model import WorldModel, WorldModelConfig


def batch_dt(table: Table, seed: int) -> None:
    """One solve with 256 different dt against the same batch with one dt, and what torchdiffeq offers."""
    if not table.wants("half-cheetah", "ode", seed):
        return
    generator = torch.Generator().manual_seed(seed)
    field = MLPField(1, 17, 6, 17, (200, 200), generator)
    z, a = torch.randn(1, 256, 17, generator=generator), torch.rand(1, 256, 6, generator=generator)
    mixed = torch.exp(torch.empty(1, 256).uniform_(math.log(0.035), math.log(0.07), generator=generator))
    same = torch.full((1, 256), float(mixed.max()))
    solver = Solver("rk4", max_step=0.07)

    ways: dict[str, Callable[[], object]] = {
        "one dt": lambda: integrate(field, z, a, same, solver),
        "256 dt": lambda: integrate(field, z, a, mixed, solver),
        "torchdiffeq rk4, a loop over samples": lambda: _loop(field, z, a, mixed),
        "torchdiffeq rk4, the union of all times": lambda: _union(field, z, a, mixed),
    }
    with torch.no_grad():
        # The slow ways fewer times; every round measures all ways, so that noise meets them alike.
        times = _rounds(
            ways, {"torchdiffeq rk4, a loop over samples": 5, "torchdiffeq rk4, the union of all times": 5}
        )
        adaptive = Solver("dopri5")
        more = _rounds(
            {
                "one dt": lambda: integrate(field, z, a, same, adaptive),
                "256 dt": lambda: integrate(field, z, a, mixed, adaptive),
            },
            {},
        )
    base = statistics.median(times["one dt"])
    ratio = statistics.median(b / a for a, b in zip(times["one dt"], times["256 dt"], strict=True))
    numbers = [
        table.number(
            "half-cheetah",
            "ode",
            seed,
            "256 dt over one dt, rk4",
            ratio,
            "x",
            asked="<= 1.1",
            ok=ratio <= 1.1,
        )
    ]
    adaptive_ratio = statistics.median(b / a for a, b in zip(more["one dt"], more["256 dt"], strict=True))
    numbers.append(
        table.number("half-cheetah", "ode", seed, "256 dt over one dt, dopri5", adaptive_ratio, "x")
    )
    for name, found in times.items():
        median = statistics.median(found)
        numbers.append(table.number("half-cheetah", "ode", seed, name, 1e3 * median, "ms"))
        numbers.append(table.number("half-cheetah", "ode", seed, f"{name}, over one dt", median / base, "x"))
    table.write("half-cheetah", "ode", seed, numbers)


def _rounds(
    ways: dict[str, Callable[[], object]], fewer: dict[str, int], n: int = 60
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for k in range(n + 5):
        for name, call in ways.items():
            if k - 5 >= fewer.get(name, n):
                continue
            start = time.perf_counter()
            call()
            if k >= 5 or name in fewer:
                times[name].append(time.perf_counter() - start)
    return times


def _loop(field: MLPField, z: Tensor, a: Tensor, dt: Tensor) -> Tensor:
    from torchdiffeq import odeint

    ends = []
    for i in range(z.shape[1]):
        held = field.hold(a[:, i : i + 1])
        times = torch.stack([dt.new_zeros(()), dt[0, i]])
        ends.append(odeint(lambda t, y, held=held: held(y), z[:, i : i + 1], times, method="rk4")[-1])
    return torch.cat(ends, 1)


def _union(field: MLPField, z: Tensor, a: Tensor, dt: Tensor) -> Tensor:
    from torchdiffeq import odeint

    held = field.hold(a)
    times, place = torch.unique(dt[0], return_inverse=True)
    path = odeint(lambda t, y: held(y), z, torch.cat([times.new_zeros(1), times]), method="rk4")
    return path[place + 1, 0, torch.arange(z.shape[1])]


class _Race:
    """The same fit with and without the warm start, from the same weights on the same data."""

    def __init__(self, task: str, seed: int) -> None:
        self.world, self.seed = WORLDS[task], seed
        self.buffer = buffer_of(record(self.world, 10_000, (0.7, 1.4), seed))

    def curve(self, warm: int, updates: int, stop: float = -math.inf) -> list[tuple[float, float]]:
        """(seconds since the start, held-out loss) at every check, until the loss is `stop`."""
        config = WorldModelConfig(solver=Solver("rk4", max_step=1.4 * self.world.native_dt))
        n_obs, n_action = self.buffer.obs.shape[1], self.buffer.action.shape[1]
        generator = torch.Generator().manual_seed(self.seed)
        model = WorldModel(n_obs, n_action, self.world.native_dt, config, generator)
        start, found = time.perf_counter(), []

        def watch(_updates: int, losses: Losses) -> bool:
            found.append((time.perf_counter() - start, float(losses.dynamics.mean())))
            return found[-1][1] <= stop

        settings = FitConfig(
            updates=updates,
            warm_start_updates=warm,
            batch_size=128,
            segment_length=8,
            patience=1000,
            check_every=20,
        )
        fit(model, self.buffer, settings, np.random.default_rng(self.seed), "cpu", watch)
        return found


def warm_start(table: Table, seed: int) -> None:
    """Wall clock to the same held-out error: segments alone, and after derivative matching."""
    for task in ("swimmer", "half-cheetah"):
        if not table.wants(task, "ode", seed) or (task == "half-cheetah" and seed > 0):
            continue
        race = _Race(task, seed)
        alone = race.curve(0, 600)
        level = min(loss for _, loss in alone)
        reached = next(seconds for seconds, loss in alone if loss <= level)
        warm = race.curve(1500, 600, stop=level)
        met = [seconds for seconds, loss in warm if loss <= level]
        numbers = [
            table.number(task, "ode", seed, "held-out NLL reached by segments alone", level, "nats"),
            table.number(task, "ode", seed, "segments alone", reached, "s"),
            table.number(
                task, "ode", seed, "NLL reached after the warm start", min(x for _, x in warm), "nats"
            ),
        ]
        if met:
            share = met[0] / reached
            numbers.append(table.number(task, "ode", seed, "with warm start", met[0], "s"))
            numbers.append(
                table.number(
                    task, "ode", seed, "share of the wall clock", share, "", "", "<= 0.333", share <= 1 / 3
                )
            )
        table.write(task, "ode", seed, numbers)


def plateau(table: Table, seed: int) -> None:
    """20,000 HalfCheetah transitions, 5 members of 2x200: seconds to the plateau of the held-out error."""
    task = "half-cheetah"
    if not table.wants(task, "ode", seed):
        return
    world = WORLDS[task]
    episodes = record(world, 20_000, 1.0, seed)
    buffer = buffer_of(episodes)
    n_obs, n_action = episodes[0].obs.shape[1], episodes[0].action.shape[1]
    model = WorldModel(
        n_obs,
        n_action,
        world.native_dt,
        WorldModelConfig(hidden=(200, 200)),
        torch.Generator().manual_seed(seed),
    )
    errors: list[float] = []
    config = FitConfig(updates=7500, warm_start_updates=2000, batch_size=256, patience=1000, check_every=100)
    start = time.perf_counter()

    def watch(_updates: int, found: Losses) -> bool:
        if found.square is not None:
            errors.append(math.exp(float(found.square.log().mean()) / 2))
        return False

    fit(model, buffer, config, np.random.default_rng(seed), "cpu", watch)
    seconds = time.perf_counter() - start
    best = np.minimum.accumulate(errors)
    gain = 100 * (1 - best[-1] / best[int(0.8 * len(best)) - 1])
    numbers = [
        table.number(task, "ode", seed, "fit", seconds, "s", asked="<= 300", ok=seconds <= 300),
        table.number(task, "ode", seed, "gain over the last fifth", gain, "%", asked="< 1", ok=gain < 1),
        table.number(task, "ode", seed, "threads", torch.get_num_threads(), "threads"),
        table.number(task, "ode", seed, "held-out error over the typical change", best[-1]),
    ]
    table.write(task, "ode", seed, numbers)


def adjoint(table: Table, seed: int) -> None:
    """Peak memory of one gradient against the number of substeps, with and without adjoint."""
    task = "half-cheetah"
    for method in ("rk4", "dopri5"):
        if not table.wants(task, method, seed):
            continue
        numbers = []
        for adjoint_on in (True, False):
            peaks = {}
            # Seven stages of 64 adaptive steps, all kept, are more than the memory of a laptop.
            most = 8 if method == "dopri5" and not adjoint_on else 64
            for n in (n for n in (1, 8, 64) if n <= most):
                call = [sys.executable, __file__, method, str(n), str(int(adjoint_on))]
                peaks[n] = float(subprocess.run(call, check=True, capture_output=True, text=True).stdout)
                name = (
                    f"memory of a gradient, {n} substeps, {'adjoint' if adjoint_on else 'back-propagation'}"
                )
                numbers.append(table.number(task, method, seed, name, peaks[n], "MB"))
            growth = peaks[most] / max(peaks[1], 1.0)
            name = f"{most} substeps over one, " + ("adjoint" if adjoint_on else "back-propagation")
            ok = growth <= 1.5 if adjoint_on else None
            asked = "flat: <= 1.5" if adjoint_on else ""
            numbers.append(table.number(task, method, seed, name, growth, "x", asked=asked, ok=ok))
        table.write(task, method, seed, numbers)


def _gradient(method: str, n: int, adjoint_on: bool) -> float:
    """Megabytes that one gradient adds to the peak of this process."""
    generator = torch.Generator().manual_seed(0)
    field = MLPField(5, 17, 6, 17, (200, 200), generator)
    z, a = torch.randn(5, 2000, 17, generator=generator), torch.zeros(5, 2000, 6)

    def gradient(n: int) -> None:
        solver = Solver(method, max_step=0.05 / n, adjoint=adjoint_on)
        integrate(field, z, a, 0.05, solver).z.square().sum().backward()

    with torch.no_grad():
        integrate(field, z[:, :10], a[:, :10], 0.05, Solver(method))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gradient(n)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


if __name__ == "__main__":
    print(_gradient(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1"))
