"""Which versions made a run: a number without them cannot be reproduced."""

from __future__ import annotations

import importlib.metadata
import platform

from ode_rl import __version__

PACKAGES = ("torch", "numpy", "gymnasium", "mujoco", "stable_baselines3")


def installed_versions() -> dict[str, str]:
    """Return the version of Python and of every package that shapes a result; imports none of them."""
    packages = {name: _version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "ode_rl": __version__, **packages}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
