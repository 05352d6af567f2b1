"""Settings that must stand before any library is imported."""

from __future__ import annotations

import os

# No screen is needed: MuJoCo renders through EGL, pygame into memory.
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("MPLBACKEND", "agg")
