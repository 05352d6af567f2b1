"""What a checkpoint declares, held against what it holds, before anything of that size is made."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from torch import Tensor, nn

from ode_rl.errors import UsageError
from ode_rl.timing import positive_seconds

REMEDY = "Restore the file or train again."
# Parts that need no weights of their own (a known reward) may be declared all the same.
MUCH_LARGER, NEGLIGIBLE = 100, 10**6
LAYERS, INTERVALS = 64, 10**5
# Settings that multiply networks, that are counts of something held in memory, or lengths in seconds.
MEMBERS = ("n_members", "n_critics", "n_quantiles", "restarts")
COUNTS = {"n_envs": 10**4, "candidates": 10**6, "n_knots": 10**5, "n_memory": 10**5, "starts": 10**6}
SECONDS = ("horizon", "coast", "burn_in", "seconds", "longest")


def check_declared(config: Mapping[str, Any], parts: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Refuse settings that ask for networks or plans out of all proportion to the tensors in `parts`.

    Raises:
        UsageError: naming the setting.
    """
    settings = dict(_leaves(config.get("settings", {})))
    interval = positive_seconds(config.get("interval", config.get("dt", 1.0)))
    members = widths = 1
    for path, value in settings.items():
        name = path.rpartition(".")[2]
        number = value if type(value) in (int, float) else 0
        if isinstance(value, list) and all(type(each) is int for each in value):
            if len(value) > LAYERS or min(value, default=1) < 1:
                raise UsageError(f"widths > 0 of at most {LAYERS} layers for {path}", value[:9], REMEDY)
            widths += sum((a + 1) * b for a, b in zip((1, *value), (*value, 1), strict=True))
        elif name in MEMBERS:
            members = max(members, number)
        elif number > COUNTS.get(name, number):
            raise UsageError(f"at most {COUNTS[name]} for {path}", number, REMEDY)
        elif name in SECONDS and not 0 <= number <= INTERVALS * interval:
            raise UsageError(f"at most {INTERVALS} intervals for {path}", f"{number} s", REMEDY)
    held = sum(tensor.numel() for named in parts.values() for tensor in named.values())
    if members * widths > MUCH_LARGER * held + NEGLIGIBLE:
        got = f"networks of {members * widths} weights"
        raise UsageError(f"networks as large as the {held} weights that are there", got, REMEDY)


def _leaves(settings: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            yield from _leaves(value, f"{path}.{name}" if path else str(name))
    else:
        yield path, settings


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Load the state of a module if all names, shapes and types are its own, and all weights numbers.

    Raises:
        UsageError: naming the first tensor that is not as it should be.
    """
    weights = {name for name, _ in module.named_parameters()}
    check_tensors(module.state_dict(), tensors, what, weights)
    module.load_state_dict(dict(tensors))


def check_tensors(
    mine: Mapping[str, Tensor], tensors: Mapping[str, Tensor], what: str, weights: Collection[str]
) -> None:
    """Refuse tensors that are not like `mine` in names, shapes and types, or `weights` that are no numbers.

    Raises:
        UsageError: naming the first tensor that is not as it should be.
    """
    if odd := sorted(set(mine) ^ set(tensors)):
        raise UsageError(f"the tensors of {what}", f"{odd[0]!r} missing or too many", REMEDY)
    for name, tensor in mine.items():
        stored = tensors[name]
        if stored.shape != tensor.shape or stored.dtype != tensor.dtype:
            got = f"{tuple(stored.shape)} {stored.dtype}"
            raise UsageError(f"{what} {name} {tuple(tensor.shape)} {tensor.dtype}", got, REMEDY)
        if stored.isnan().any() or (name in weights and stored.isinf().any()):
            raise UsageError(f"finite {name} of {what}", "NaN or infinity", REMEDY)


def box_arrays(box: spaces.Box) -> dict[str, npt.NDArray[Any]]:
    """The bounds of a Box, for a checkpoint."""
    return {"low": box.low, "high": box.high}


def box_of(arrays: Mapping[str, npt.NDArray[Any]]) -> spaces.Box:
    """The Box with these bounds.

    Raises:
        UsageError: if they are no bounds of a vector.
    """
    low, high = arrays["low"], arrays["high"]
    alike = low.shape == high.shape and low.dtype == high.dtype and low.dtype.kind == "f" and low.ndim == 1
    if not alike or not low.size or not np.all(low <= high):
        got = f"{low.dtype} {low.shape} and {high.dtype} {high.shape}"
        raise UsageError("bounds low <= high of a vector", got, REMEDY)
    return spaces.Box(low, high, dtype=low.dtype.type)
