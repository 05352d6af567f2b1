"""Vector fields, one noun a file; all are called as ``field(z, a) -> dz/dt``."""

from __future__ import annotations

from ode_rl.fields.mlp import MLPField

__all__ = ["MLPField"]
