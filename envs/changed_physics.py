"""A MuJoCo task in a body or a world that is not the one it was trained in."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from ode_rl.envs.time_wrapper import Env
from ode_rl.errors import UsageError

QUANTITIES = ("mass", "friction", "damping", "gravity")


class ChangedPhysics(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Multiply masses, friction, damping or gravity of the MuJoCo model of a task.

    - `mass`: masses and inertias of all bodies (not the armature of joints).
    - `friction`: sliding, torsional and rolling coefficients of all contacts.
    - `damping`: that of joints and tendons.
    - `gravity`: the vector of gravity.

    Factors of one change nothing, bit for bit. The model belongs to the environment and stays changed: make
    another one for the task as it was.

    Raises:
        UsageError: for a task without a MuJoCo model, a factor that is not a positive number (gravity and
            friction and damping may be zero), or a factor on what the model has none of.
    """

    def __init__(
        self, env: Env, mass: float = 1.0, friction: float = 1.0, damping: float = 1.0, gravity: float = 1.0
    ) -> None:
        factors: dict[str, Any] = {
            "mass": mass,
            "friction": friction,
            "damping": damping,
            "gravity": gravity,
        }
        RecordConstructorArgs.__init__(self, **factors)
        gymnasium.Wrapper.__init__(self, env)
        model = _model_of(env)
        for name, factor in factors.items():
            if factor != 1.0:
                _check(name, factor, model, env)
        if mass != 1.0:
            _scale_mass(model, mass)
        for field in _fields(model):
            for name, kind in _KINDS.items():
                if field.startswith(kind) and factors[name] != 1.0:
                    getattr(model, field)[:] *= factors[name]
        model.opt.gravity[:] *= gravity


_FIELDS = (
    *("geom_friction", "pair_friction"),
    *("dof_damping", "dof_dampingpoly", "tendon_damping", "tendon_dampingpoly"),
)
_KINDS = {"friction": ("geom_friction", "pair_friction"), "damping": ("dof_damping", "tendon_damping")}


def _fields(model: Any) -> list[str]:
    """Those of `_FIELDS` that this version of MuJoCo has."""
    return [field for field in _FIELDS if hasattr(model, field)]


def _model_of(env: Env) -> Any:
    model = getattr(env.unwrapped, "model", None)
    if model is not None:
        import mujoco  # only a task that has a model has it loaded

        if isinstance(model, mujoco.MjModel):
            return model
    got = f"{type(env.unwrapped).__name__}, which has none"
    raise UsageError("a task with a MuJoCo model to change", got, "Choose one such as Reacher-v5.")


def _check(name: str, factor: Any, model: Any, env: Env) -> None:
    try:
        number = float(factor)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0 and (number > 0 or name != "mass")):
        raise UsageError(f"a factor > 0 of {name}", repr(factor), f"Write {name}=1.5.")
    if not _has(model, name):
        got = f"{type(env.unwrapped).__name__}, whose model has none"
        raise UsageError(f"a task with {name} to change", got, "Change something else, such as its mass.")


def _has(model: Any, name: str) -> bool:
    """Whether a factor of this quantity would make a difference to a model."""
    if name == "mass":
        return bool(np.any(model.body_mass))
    if name == "gravity":
        return bool(np.any(model.opt.gravity))
    if name == "friction":
        touching = np.any(model.geom_contype) and np.any(model.geom_conaffinity)
        return bool(touching or model.npair)
    return any(np.any(getattr(model, field)) for field in _fields(model) if "damping" in field)


def _scale_mass(model: Any, factor: float) -> None:
    import mujoco

    model.body_mass[:] *= factor
    model.body_inertia[:] *= factor
    mujoco.mj_setConst(model, mujoco.MjData(model))  # what MuJoCo derives from masses
