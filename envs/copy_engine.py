"""True dynamics of any task at all: copies of the environment, stepped one after another."""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from ode_rl.envs.engine import Env, Float64Array, TrueOutcome, same_kind, whole_steps
from ode_rl.envs.steppers import Stepper, stepper_for
from ode_rl.envs.time_grid import TimeGrid
from ode_rl.envs.time_wrapper import TimeWrapper, find, wrappers_of
from ode_rl.errors import UsageError
from ode_rl.types import FloatArray

KEPT = 256
"""Snapshots that are kept; taking more forgets the oldest."""


class CopyEngine:
    """A state is the number of a kept deep copy, ``[1]``: Python objects have no state to write down.

    Each plan steps a copy of its own, which is slow: hundreds of plans take seconds. What is random in the
    task is copied too, so plans are told the draws to come. Wrappers are copied as far as they are needed
    for flat Boxes of observations and actions. Intervals are those of `ControlInterval`.
    """

    n_state = 1

    def __init__(self, env: Env, grid: TimeGrid) -> None:
        self._base = env.unwrapped
        self._kept: OrderedDict[int, Env] = OrderedDict()
        self._taken = 0
        core = _core(env)
        _copied(core)  # refuses here what cannot be copied
        self._grid = grid
        plain = stepper_for(core, grid.native).grid
        self._physics_dt = None if plain.unit == grid.unit else grid.unit
        self.native_dt = grid.native
        self.n_action = _width(core.action_space)
        self._observation: Any = core.observation_space

    def snapshot(self, env: Env) -> Float64Array:
        same_kind(env, self._base)
        self._taken += 1
        self._kept[self._taken] = _copied(_core(env))
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return np.array([float(self._taken)])

    def restore(self, env: Env, state: Float64Array) -> None:
        same_kind(env, self._base)
        _copy_onto(list(wrappers_of(self._of(state))), list(wrappers_of(_core(env))))

    def rollout(self, states: Float64Array, plans: FloatArray, dt: Float64Array) -> TrueOutcome:
        b, n, h, _ = plans.shape
        unit = self._grid.unit
        ticks = (dt if unit is None else whole_steps(dt, unit)).tolist()
        outcome = TrueOutcome(
            np.zeros((b, n, h)),
            np.ones((b, n, h), np.bool_),
            np.zeros((b, n, h, *self._observation.shape), self._observation.dtype),
        )
        for i in range(b):
            start = self._of(states[i])
            for j in range(n):
                env = _copied(start)
                _forget_time_limits(env)
                stepper = stepper_for(env, self.native_dt, self._physics_dt)
                _step_plan(env, stepper, plans[i, j], ticks, outcome, (i, j))
        return outcome

    def _of(self, state: Float64Array) -> Env:
        number = int(state[0]) if np.isfinite(state[0]) else 0
        if number not in self._kept:
            raise UsageError(
                f"one of the last {KEPT} snapshots of this TrueDynamics", number, "Take a new snapshot."
            )
        return self._kept[number]


def _step_plan(
    env: Env, stepper: Stepper, plan: FloatArray, ticks: list[float], out: TrueOutcome, at: tuple[int, int]
) -> None:
    """Step `env` through a plan until it ends; what is left of `out` stays as it is."""
    for k, duration in enumerate(ticks):
        action = plan[k].astype(env.action_space.dtype)
        step = stepper.advance(env, action, duration)
        here = (at[0], at[1], k)
        out.reward[here] = step.reward
        out.terminated[here] = step.terminated
        out.next_obs[here] = step.obs
        if step.terminated:
            return


def _forget_time_limits(env: Env) -> None:
    for layer in wrappers_of(env):
        if isinstance(layer, TimeLimit):
            layer._max_episode_steps = sys.maxsize


def _core(env: Env) -> Env:
    """The innermost layer with flat Boxes of observations and actions."""
    for layer in reversed(list(wrappers_of(env))):
        if _width(layer.observation_space) and _width(layer.action_space):
            _refuse_time_wrappers(layer)
            return layer
    raise UsageError(
        "observations and actions in flat Boxes",
        f"the spaces {env.observation_space} and {env.action_space}",
        "Choose another task, or wrap it, e.g. in gymnasium.wrappers.FlattenObservation.",
    )


def _refuse_time_wrappers(core: Env) -> None:
    found = find(core, TimeWrapper)
    if found is not None:
        name = type(found).__name__
        raise UsageError("wrappers that depend on time outside of the others", name, f"Put {name} outermost.")


def _width(space: spaces.Space[Any]) -> int:
    flat = isinstance(space, spaces.Box) and len(space.shape) == 1
    return int(np.prod(space.shape)) if flat and space.shape is not None else 0


def _copied(env: Env) -> Env:
    chain = list(wrappers_of(env))
    blanks = [type(layer).__new__(type(layer)) for layer in chain]
    _copy_onto(chain, blanks)
    return blanks[0]


def _copy_onto(sources: list[Env], targets: list[Env]) -> None:
    """Give each target a deep copy of the attributes of its source.

    Not `copy.deepcopy` of the whole: an environment with Gymnasium's `EzPickle` (all of MuJoCo and Box2D)
    would be constructed anew and forget its state.
    """
    # References of the sources to each other become references to the targets.
    memo: dict[int, Any] = {id(s): t for s, t in zip(sources, targets, strict=True)}
    try:
        for source, target in zip(sources, targets, strict=True):
            own = getattr(source, "__deepcopy__", None)
            attributes = copy.deepcopy(source.__dict__, memo) if own is None else own(memo).__dict__
            target.__dict__.clear()
            target.__dict__.update(attributes)
    except Exception as error:  # a user's environment may fail in any way while it is copied
        raise UsageError(
            "an environment that copy.deepcopy can copy",
            f"{type(sources[-1]).__name__} ({type(error).__name__}: {error})",
            "Make it without a render_mode, or give it a __deepcopy__.",
        ) from error
