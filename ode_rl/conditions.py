"""Conditions that an agent was not trained in, a family of them by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ode_rl.envs.actuator_fault import ActuatorFault
from ode_rl.envs.changed_physics import QUANTITIES, ChangedPhysics
from ode_rl.envs.control_interval import ControlInterval
from ode_rl.envs.sensor_noise import SensorNoise
from ode_rl.envs.task import make_task
from ode_rl.envs.task_timing import Disturb, TaskTiming
from ode_rl.envs.time_grid import TimeGrid
from ode_rl.envs.time_wrapper import Env, find
from ode_rl.errors import UsageError
from ode_rl.settings import nearest

INTERVALS = (0.25, 0.5, 1.0, 2.0, 4.0)
JITTERS = ((1.0, 1.0), (0.75, 1.25), (0.5, 2.0), (0.25, 4.0), (1.0, 2.0), (1.0, 4.0))
DELAYS = (0.0, 0.5, 1.0, 2.0, 4.0)
DROPOUTS = (0.0, 0.1, 0.25, 0.5, 0.75)
NOISES = (0.0, 0.01, 0.05, 0.1, 0.25)
GAINS = (1.0, 0.9, 0.75, 0.5, 0.25)
FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)


@dataclass(frozen=True)
class Condition:
    """One point of a sweep; `why_not` says why a task cannot have it."""

    label: str
    timing: TaskTiming
    disturb: Disturb | None = None
    value: float | None = None
    """Its place on a numeric axis; None: it only has a name."""
    why_not: str | None = None


@dataclass(frozen=True)
class Setup:
    """What conditions are made from: the task as it was trained on, and what it can take."""

    env_id: str
    timing: TaskTiming
    """Resolved: what the agent is shown stays the same in all conditions."""
    grid: TimeGrid
    n_action: int
    rest: tuple[float, ...]
    """The action nearest to none, within the bounds."""

    @classmethod
    def of(cls, env_id: str, timing: TaskTiming) -> Setup:
        """Look at the task.

        Raises:
            UsageError: for a task that there is not, or that cannot be timed in this way.
        """
        env = make_task(env_id, timing)
        try:
            space: Any = env.action_space
            control = find(env, ControlInterval)
            known = timing if timing.native is not None else replace(timing, native=timing.dt)
            resolved = timing.resolved(env)
            grid = control.grid if control is not None else ControlInterval(env, native=known.native).grid
            rest = tuple(np.clip(0.0, space.low, space.high).tolist())
            return cls(env_id, resolved, grid, space.shape[0], rest)
        finally:
            env.close()


@dataclass(frozen=True)
class Sweep:
    """A family of conditions along one axis."""

    name: str
    axis: str
    """What the axis says."""
    conditions: Callable[[Setup], Iterator[Condition]]
    logarithmic: bool = False


def plan_sweep(name: str, setup: Setup) -> list[Condition]:
    """The conditions of a sweep that a task can take, those that it cannot included with the reason.

    Raises:
        UsageError: for an unknown sweep, or one of which the task can do nothing new.
    """
    if name not in TABLE:
        raise UsageError("the name of a sweep", repr(name), nearest(name, TABLE))
    conditions = list(TABLE[name].conditions(setup))
    others = [c for c in conditions if c.why_not is None and not same_as_trained(c, setup)]
    if not others:
        reason = next((c.why_not for c in conditions if c.why_not), "nothing to vary")
        raise UsageError(f"a task that can do the sweep {name}", f"{setup.env_id}: {reason}", _others(name))
    return conditions


def same_as_trained(condition: Condition, setup: Setup) -> bool:
    """Whether a condition is the one that the agent was trained in."""
    return condition.disturb is None and condition.timing == setup.timing


def noise(env: Env, share: float, spread: npt.NDArray[np.float64]) -> Env:
    """White noise of `share` times the spread of each observation; entries added by wrappers have none."""
    width = env.observation_space.shape[0]  # type: ignore[index]
    return SensorNoise(env, share * spread[:width])


def changed(env: Env, quantity: str, factor: float) -> Env:
    """The task with one quantity of its physics multiplied by a factor."""
    factors: dict[str, Any] = {quantity: factor}
    return ChangedPhysics(env, **factors)


# --- families ----------------------------------------------------------------------------------------------


def _intervals(setup: Setup) -> Iterator[Condition]:
    grid = setup.grid
    for ratio in INTERVALS:
        if grid.unit is not None and ratio * grid.native < grid.unit * (1 - 1e-6):
            why = f"shorter than one of the {grid.noun} of {grid.unit:g} s"
            yield Condition(f"x{ratio:g}", setup.timing, why_not=why)
            continue
        dt = grid.seconds(grid.nearest(ratio * grid.native, at_least=1))
        native = bool(np.isclose(dt, grid.native))
        timing = replace(setup.timing, dt=None if native else dt, dt_range=None)
        yield Condition(f"x{dt / grid.native:.3g}", timing, value=dt / grid.native)


def _jitters(setup: Setup) -> Iterator[Condition]:
    for lo, hi in JITTERS:
        label = f"x{lo:g}" if lo == hi else f"x{lo:g} to x{hi:g}"
        if lo == hi:
            yield Condition(label, replace(setup.timing, dt=None, dt_range=None))
            continue
        seconds = (lo * setup.grid.native, hi * setup.grid.native)
        try:
            least, most = setup.grid.within(*seconds)
        except UsageError as error:
            yield Condition(label, setup.timing, why_not=f"expected {error.expected}")
            continue
        if least == most:
            why = f"only one whole number of {setup.grid.noun} in it"
            yield Condition(label, setup.timing, why_not=why)
        else:
            yield Condition(label, replace(setup.timing, dt=None, dt_range=seconds))


def _delays(setup: Setup, field: str) -> Iterator[Condition]:
    for multiple in DELAYS:
        seconds = multiple * setup.grid.native
        label, why = f"{seconds:g} s", None
        if multiple and field == "action_delay":
            try:
                setup.grid.ticks(seconds)
            except UsageError as error:
                why = f"expected {error.expected}"
        elif multiple % 1:
            continue  # observations are taken at the ends of intervals: half of one is as late as a whole
        timing = replace(setup.timing, **{field: seconds})  # type: ignore[arg-type]
        yield Condition(label, timing, value=seconds, why_not=why)


def _dropouts(setup: Setup) -> Iterator[Condition]:
    for p in DROPOUTS:
        yield Condition(f"{p:g}", replace(setup.timing, obs_dropout=p), value=p)


def _noises(setup: Setup) -> Iterator[Condition]:
    for share in NOISES:
        # The spread is measured later: `robustness` fills it in.
        disturb = partial(noise, share=share) if share else None
        yield Condition(f"{share:g}", setup.timing, disturb, value=share)


def _gains(setup: Setup) -> Iterator[Condition]:
    for gain in GAINS:
        disturb = partial(ActuatorFault, gain=gain) if gain != 1.0 else None
        yield Condition(f"{gain:g}", setup.timing, disturb, value=gain)


def _dead_motors(setup: Setup) -> Iterator[Condition]:
    yield Condition("none", setup.timing)
    for i, rest in enumerate(setup.rest):
        yield Condition(f"motor {i}", setup.timing, partial(ActuatorFault, stuck={i: rest}))


def _factors(setup: Setup, quantity: str) -> Iterator[Condition]:
    why = _cannot(setup, quantity)
    for factor in FACTORS:
        disturb = partial(changed, quantity=quantity, factor=factor) if factor != 1.0 else None
        yield Condition(f"x{factor:g}", setup.timing, disturb, value=factor, why_not=why)


def _cannot(setup: Setup, quantity: str) -> str | None:
    """Why the physics of a task cannot be changed; None where it can."""
    env = make_task(setup.env_id, setup.timing)
    try:
        changed(env, quantity, 2.0)
    except UsageError as error:
        return f"expected {error.expected}, got {error.got}"
    finally:
        env.close()
    return None


def _others(name: str) -> str:
    changes_physics = name in QUANTITIES
    return "Choose " + ("interval, noise or actuator." if changes_physics else "another sweep.")


TABLE = {
    sweep.name: sweep
    for sweep in (
        Sweep("interval", "control interval / native", _intervals, logarithmic=True),
        Sweep("jitter", "range of drawn control intervals / native", _jitters),
        Sweep("action-delay", "delay of actions (s)", partial(_delays, field="action_delay")),
        Sweep("obs-delay", "delay of observations (s)", partial(_delays, field="obs_delay")),
        Sweep("dropout", "probability that an observation is lost", _dropouts),
        Sweep("noise", "sensor noise / spread of the observation under random actions", _noises),
        Sweep("actuator", "gain of all actuators", _gains),
        Sweep("dead-motor", "actuator that is dead", _dead_motors),
        *(
            Sweep(name, f"{name} / that of training", partial(_factors, quantity=name), logarithmic=True)
            for name in QUANTITIES
        ),
    )
}
