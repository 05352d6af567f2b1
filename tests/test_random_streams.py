"""The global random streams: kept through an aside, and brought back from a checkpoint."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from ode_rl.checkpoint import read_checkpoint, write_checkpoint
from ode_rl.errors import UsageError
from ode_rl.random_streams import kept_random_streams, random_streams, set_random_streams


def draws() -> list[float]:
    gauss = (random.gauss(0, 1), float(np.random.normal()))  # both keep a second number for later
    return [random.random(), float(np.random.uniform()), float(torch.rand(())), *gauss]


def test_an_aside_leaves_the_streams_as_they_were() -> None:
    state = random_streams()
    expected = draws()
    set_random_streams(state)
    with kept_random_streams():
        draws()
    assert draws() == expected


def test_the_streams_come_back_through_a_checkpoint(tmp_path: Path) -> None:
    draws()
    write_checkpoint(tmp_path / "c", kind="k", tensors={}, arrays={"streams": random_streams()}, meta={})
    expected = [draws() for _ in range(3)]
    set_random_streams(read_checkpoint(tmp_path / "c").arrays["streams"])
    assert [draws() for _ in range(3)] == expected


@pytest.mark.parametrize(
    "name", ["python", "python_gauss", "numpy", "numpy_position", "numpy_gauss", "torch"]
)
@pytest.mark.parametrize("damage", ["missing", "of another shape", "of another type"])
def test_damaged_states_are_refused(name: str, damage: str) -> None:
    good = random_streams()
    bad = dict(good)
    if damage == "missing":
        del bad[name]
    elif damage == "of another shape":
        bad[name] = np.zeros((2, 2), good[name].dtype)
    else:
        bad[name] = np.full(3, np.nan)
    try:
        with pytest.raises(UsageError, match="random streams"):
            set_random_streams(bad)
    finally:
        set_random_streams(good)
