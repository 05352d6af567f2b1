"""Everything that acts: planners, policies and the agents made of them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if __name__ != "ode_rl.agents":
    raise ImportError(
        f"expected `import ode_rl.agents`, got `import {__name__}`. Write `from ode_rl import agents`."
    )

if TYPE_CHECKING:
    from ode_rl.agents.mpc import MPC as MPC

_HOME = {
    "MPC": "ode_rl.agents.mpc",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
