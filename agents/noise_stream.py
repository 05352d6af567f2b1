"""Random numbers of a decision: a function of its number, so that nothing random hides in an agent."""

from __future__ import annotations

import numpy as np
import torch


def noise_of_call(
    seed: int, call: int, stream: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """The generator of call number `call` (from -1) of an agent with `seed`; streams are independent."""
    key = np.random.SeedSequence((seed, call + 1, stream)).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(key >> np.uint64(1)))
