"""Settings that must stand before any library is imported."""

from __future__ import annotations

import ctypes
import os
import signal
import sys


def loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


# No screen is needed: MuJoCo renders through EGL, pygame and matplotlib into memory. Asked for an EGL that
# is not there, MuJoCo would not even import.
if sys.platform == "linux" and loads("libEGL.so.1"):
    os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("MPLBACKEND", "agg")

# A shell starts what it runs in the background with Ctrl-C ignored; the tests of signals need it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
