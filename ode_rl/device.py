"""Where tensors live."""

from __future__ import annotations

import torch

from ode_rl.errors import UsageError


def resolve_device(device: str) -> torch.device:
    """The device for ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        UsageError: for CUDA on a machine without it, or an unknown name.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.split(":")[0] not in ("cpu", "cuda"):
        raise UsageError("a device: auto, cpu or cuda", repr(device), "Write --device auto.")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError("a machine with CUDA for device cuda", "none here", "Write --device cpu, or auto.")
    return torch.device(device)
