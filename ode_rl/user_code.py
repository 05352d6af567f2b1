"""Objects from a user's own modules, named on the command line."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ode_rl.envs.task import current_folder_importable
from ode_rl.errors import UsageError

if TYPE_CHECKING:
    from ode_rl.known import Known


def import_object(spec: str) -> Any:
    """The object of ``module:object``; the module is found as Python finds it in the current folder.

    Raises:
        UsageError: if there is no such thing.
    """
    module, colon, name = spec.partition(":")
    if not (module and colon and name):
        raise UsageError("MODULE:OBJECT", repr(spec), "Write for example my_task:known.")
    with current_folder_importable():
        try:
            found: Any = importlib.import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
        except Exception as error:  # a user's module may fail in any way while it is imported
            got = f"{spec!r} ({type(error).__name__}: {error})"
            raise UsageError("a module:object that can be imported", got, "Check both names.") from error
    return found


def load_known(spec: str | None) -> Known | None:
    """What is known of a task, from ``module:object``; None for None.

    Raises:
        UsageError: if the object is no `Known`.
    """
    if spec is None:
        return None
    from ode_rl.known import Known  # which loads torch

    found = import_object(spec)
    if not isinstance(found, Known):
        remedy = "Write in that module: known = Known(reward=..., termination=...)."
        raise UsageError("an ode_rl.known.Known", f"{spec!r}, a {type(found).__name__}", remedy)
    return found
