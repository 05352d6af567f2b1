"""Everything that is acted on: Gymnasium tasks and the wrappers that tell time."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if __name__ != "ode_rl.envs":
    raise ImportError(
        f"expected `import ode_rl.envs`, got `import {__name__}`. Write `from ode_rl import envs`."
    )

if TYPE_CHECKING:
    from ode_rl.envs.task import make_task as make_task

_HOME = {
    "make_task": "ode_rl.envs.task",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
