"""Continuous-time reinforcement learning: the world as an ODE, time in seconds, Gymnasium on both sides.

Importing the package registers its environment ids and nothing more: every public name below is
loaded when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ode_rl.envs.registration import register_all

if TYPE_CHECKING:
    from ode_rl.buffer import ReplayBuffer as ReplayBuffer
    from ode_rl.errors import UsageError as UsageError
    from ode_rl.types import Segment as Segment
    from ode_rl.types import Solver as Solver
    from ode_rl.types import Trajectory as Trajectory
    from ode_rl.types import Transition as Transition
    from ode_rl.world_model import WorldModel as WorldModel

__version__ = "0.1.0"

# A name that is also a module (`integrate`, `fit`) cannot be here: the first import of the module would
# replace it. Those are written out: `from ode_rl.integrate import integrate`.
_HOME = {
    "ReplayBuffer": "ode_rl.buffer",
    "Segment": "ode_rl.types",
    "Solver": "ode_rl.types",
    "Trajectory": "ode_rl.types",
    "Transition": "ode_rl.types",
    "UsageError": "ode_rl.errors",
    "WorldModel": "ode_rl.world_model",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


register_all()
