"""What a step of an environment lasts, in seconds."""

from __future__ import annotations

import math
from typing import Any

from ode_rl.errors import UsageError


def positive_seconds(value: Any, name: str = "dt") -> float:
    """Return `value` as a float if it is a positive, finite number of seconds.

    Raises:
        UsageError: if it is not.
    """
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"{name} > 0, in seconds", repr(value), f"Write --{name} 0.05 or {name}=0.05.")
    return seconds


def native_dt(env: Any, dt: float | None = None) -> float:
    """Seconds per step of an environment as it was made.

    Looked up in this order: ``env.unwrapped.dt``, ``metadata["native_dt"]`` (which wrappers leave that change
    the interval), ``metadata["dt"]``, the argument `dt`. A step's own
    ``info["dt"]`` wins over all of these wherever transitions are recorded.

    Raises:
        UsageError: if none of the three says it, or the value is not a positive number.
    """
    base = getattr(env, "unwrapped", env)
    metadata = getattr(env, "metadata", None) or {}
    for found in (getattr(base, "dt", None), metadata.get("native_dt"), metadata.get("dt"), dt):
        if found is not None:
            return positive_seconds(found)
    raise UsageError(
        "an environment that says how long a step lasts (a `dt` attribute or metadata['dt'], in seconds)",
        f"neither from {type(base).__name__}",
        "Write --dt SECONDS, or dt=SECONDS in Python.",
    )
