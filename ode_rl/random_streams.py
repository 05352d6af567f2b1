"""The global random streams of Python, numpy and torch: kept through an aside, and in checkpoints."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ode_rl.errors import UsageError

Arrays = dict[str, npt.NDArray[Any]]


@contextmanager
def kept_random_streams() -> Iterator[None]:
    """Leave the global random generators of Python, numpy and torch as they were."""
    python, legacy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


def random_streams() -> Arrays:
    """The state of the global streams as arrays of numbers, those of CUDA too where it is in use."""
    version, words, gauss = random.getstate()
    _, key, position, has_gauss, cached = np.random.get_state()
    return {
        "python": np.array([version, *words], np.uint64),
        "python_gauss": np.array([] if gauss is None else [gauss], np.float64),
        "numpy": np.asarray(key, np.uint64),
        "numpy_position": np.array([position, has_gauss], np.int64),
        "numpy_gauss": np.array([cached], np.float64),
        "torch": torch.get_rng_state().numpy(),
    } | {f"cuda_{i}": state.numpy() for i, state in enumerate(_cuda_states())}


def set_random_streams(arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Bring the global streams to where `random_streams` found them.

    Raises:
        UsageError: for arrays that are no such state.
    """
    try:
        _check_like(arrays, random_streams())
        words, gauss = arrays["python"].tolist(), arrays["python_gauss"].tolist()
        random.setstate((words[0], tuple(words[1:]), gauss[0] if gauss else None))
        position, has_gauss = arrays["numpy_position"].tolist()
        key, cached = arrays["numpy"].astype(np.uint32), float(arrays["numpy_gauss"][0])
        np.random.set_state(("MT19937", key, position, has_gauss, cached))
        torch.set_rng_state(torch.from_numpy(arrays["torch"]))
        for i in range(len(_cuda_states())):
            if f"cuda_{i}" in arrays:
                torch.cuda.set_rng_state(torch.from_numpy(arrays[f"cuda_{i}"]), i)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        remedy = "Restore the file or train again."
        raise UsageError("the state of random streams", f"damaged numbers ({error})", remedy) from error


def _check_like(arrays: Mapping[str, npt.NDArray[Any]], mine: Arrays) -> None:
    for name in ("python", "python_gauss", "numpy", "numpy_position", "numpy_gauss", "torch"):
        given, own = arrays[name], mine[name]
        shapes = ((0,), (1,)) if name == "python_gauss" else (own.shape,)
        if given.dtype != own.dtype or given.shape not in shapes or not np.isfinite(given).all():
            raise ValueError(f"{name} {given.dtype} {given.shape}")


def _cuda_states() -> list[torch.Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
