"""Observations split into what was seen and how much time has passed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor
from torch import Tensor

from ode_rl.errors import UsageError

REMEDY = "Wrap the environment in ode_rl.envs.TimeAware, or say where the time is: dt_index=, dt_key=."
NORMALISED = (
    "Do not normalise times: TimeAware(env, key='dt') with VecNormalize(norm_obs_keys=['observation'])."
)


class TimedFeatures(BaseFeaturesExtractor):
    """The features of `inner`, and behind them the seconds of the last interval over `time_constant`.

    The seconds are component `dt_index` of a vector, or the first of the entry `dt_key` of a Dict, as
    `ode_rl.envs.TimeAware` puts them there; further components of that entry become features in the same
    unit. `inner` is an extractor of Stable-Baselines3 for all the rest (None: the usual one).

    Raises:
        UsageError: for a space without such a component or entry, or where it could be negative; for seconds
            that are negative or NaN.
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        dt_index: int,
        dt_key: str,
        time_constant: float,
        inner: type[BaseFeaturesExtractor] | None = None,
        inner_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if not time_constant > 0:
            raise UsageError("time_constant > 0 seconds", time_constant, "Write time_constant=0.1.")
        is_dict = isinstance(space, spaces.Dict)
        rest, n_times, columns = _split(space, dt_index, dt_key)
        made = (inner or (CombinedExtractor if is_dict else FlattenExtractor))(rest, **(inner_kwargs or {}))
        super().__init__(space, made.features_dim + n_times)
        self.inner = made
        self.dt_key, self.time_constant = dt_key if is_dict else None, time_constant
        self.dt_index = 0 if is_dict else dt_index
        self.register_buffer("columns", torch.tensor(columns, dtype=torch.int64), persistent=False)

    columns: Tensor

    def forward(self, observations: Any) -> Tensor:
        if self.dt_key is None:
            rest = observations.index_select(-1, self.columns)
            times = observations[:, self.dt_index, None]
        else:
            rest = {key: value for key, value in observations.items() if key != self.dt_key}
            times = observations[self.dt_key]
        if not bool((times[:, :1] >= 0).all()):
            raise UsageError("seconds >= 0 since the last observation", float(times.min()), NORMALISED)
        # sb3-contrib's recurrent policies pass the last feature on to the cell as time.
        return torch.cat([self.inner(rest), times.flip(-1) / self.time_constant], -1)


def _split(space: spaces.Space[Any], index: int, key: str) -> tuple[spaces.Space[Any], int, list[int]]:
    """The space without the time, how many numbers tell the time, and the components of a vector beside."""
    if isinstance(space, spaces.Dict):
        rest, n_times = _split_dict(space, key)
        return rest, n_times, []
    return _split_box(space, index)


def _split_dict(space: spaces.Dict, key: str) -> tuple[spaces.Dict, int]:
    if key not in space.spaces or len(space.spaces) < 2:
        got = ", ".join(space.spaces)
        raise UsageError(f"observations with an entry {key!r} of seconds beside others", got, REMEDY)
    times = space.spaces[key]
    if not (isinstance(times, spaces.Box) and len(times.shape) == 1 and times.shape[0] and times.low[0] >= 0):
        raise UsageError(f"an entry {key!r} of seconds >= 0", times, REMEDY)
    rest = {name: each for name, each in space.spaces.items() if name != key}
    return spaces.Dict(rest), times.shape[0]


def _split_box(space: spaces.Space[Any], index: int) -> tuple[spaces.Box, int, list[int]]:
    if not (isinstance(space, spaces.Box) and len(space.shape) == 1 and space.shape[0] > 1):
        raise UsageError("observations in a vector with seconds among others, or a Dict", space, REMEDY)
    n = space.shape[0]
    if not -n <= index < n:
        raise UsageError(f"a dt_index among the {n} components", index, REMEDY)
    if not space.low[index] >= 0:
        got = f"component {index} from {space.low[index]:g} on"
        raise UsageError("a component of the observation that is seconds >= 0", got, REMEDY)
    columns = [i for i in range(n) if i != index % n]
    return spaces.Box(space.low[columns], space.high[columns], dtype=_dtype(space)), 1, columns


def _dtype(space: spaces.Box) -> Any:
    return space.dtype or np.float32
