"""What an algorithm of Stable-Baselines3 has learned, as tensors, arrays and JSON, without its pickles."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from ode_rl.checkpoint import Checkpoint
from ode_rl.errors import UsageError

Tensors = dict[str, dict[str, Tensor]]
Arrays = dict[str, dict[str, npt.NDArray[Any]]]

ROWS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts", "seconds")
COUNTS = ("num_timesteps", "_n_updates", "_episode_num")
MOMENTS = ("mean", "var", "count")


def algorithm_parts(
    algorithm: BaseAlgorithm, normalizer: VecNormalize | None
) -> tuple[Tensors, Arrays, dict[str, Any]]:
    """Networks, optimisers, replay and statistics, for a checkpoint."""
    tensors: Tensors = {}
    arrays: Arrays = {}
    meta: dict[str, Any] = {"counts": {name: int(getattr(algorithm, name)) for name in COUNTS}, "groups": {}}
    for name, state in algorithm.get_parameters().items():
        if "param_groups" in state:
            part, meta["groups"][name] = _flat(state)
        else:
            part = {key: value.detach().clone() for key, value in state.items()}
        if part:
            tensors[_part_name(name)] = part
    if variables := _variables(algorithm):
        tensors["variables"] = {name: value.detach().clone() for name, value in variables.items()}
    buffer = getattr(algorithm, "replay_buffer", None)
    if isinstance(buffer, ReplayBuffer):
        n = buffer.size()
        arrays["buffer"] = {name: getattr(buffer, name)[:n].copy() for name in ROWS if hasattr(buffer, name)}
        meta["buffer"] = {"pos": int(buffer.pos), "full": bool(buffer.full)}
    if normalizer is not None:
        arrays["normalizer"] = {
            f"{which}_{moment}": np.asarray(getattr(rms, moment))
            for which, rms in _statistics(normalizer)
            for moment in MOMENTS
        }
    return tensors, arrays, meta


def restore_algorithm(algorithm: BaseAlgorithm, normalizer: VecNormalize | None, parts: Checkpoint) -> None:
    """Take up what `algorithm_parts` gave, in an algorithm with the same settings."""
    meta = parts.meta["algorithm"]
    states: dict[str, Any] = {}
    for name in algorithm.get_parameters():
        part = parts.tensors.get(_part_name(name), {})
        states[name] = _nested(part, meta["groups"][name]) if name in meta["groups"] else part
    algorithm.set_parameters(states, exact_match=True, device=algorithm.device)
    for name, value in _variables(algorithm).items():
        with torch.no_grad():
            value.copy_(parts.tensors["variables"][name])
    for name in COUNTS:
        setattr(algorithm, name, int(meta["counts"][name]))
    buffer = getattr(algorithm, "replay_buffer", None)
    if isinstance(buffer, ReplayBuffer):
        _restore_buffer(buffer, parts.arrays["buffer"], meta["buffer"])
    if normalizer is not None:
        stored = parts.arrays["normalizer"]
        for which, rms in _statistics(normalizer):
            mean, var, count = (stored[f"{which}_{moment}"] for moment in MOMENTS)
            if mean.shape != np.shape(rms.mean) or var.shape != np.shape(rms.var):
                raise _damaged(f"statistics of shape {np.shape(rms.mean)}", mean.shape)
            rms.mean, rms.var, rms.count = mean, var, float(count)


def _part_name(name: str) -> str:
    return name.replace(".", "-")


def _variables(algorithm: BaseAlgorithm) -> dict[str, Tensor]:
    """Learned tensors outside of the policy, such as the logarithm of the entropy coefficient."""
    found = {name: getattr(algorithm, name, None) for name in algorithm._get_torch_save_params()[1]}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _flat(state: dict[str, Any]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """The state of an optimiser as named tensors, and the plain settings of its groups."""
    tensors = {
        f"{at}.{key}": torch.as_tensor(value).detach().clone()
        for at, values in state["state"].items()
        for key, value in values.items()
    }
    return tensors, [dict(group) for group in state["param_groups"]]


def _nested(tensors: dict[str, Tensor], groups: list[dict[str, Any]]) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        at, _, key = name.partition(".")
        state.setdefault(int(at), {})[key] = value
    tupled = [{k: tuple(v) if k == "betas" else v for k, v in group.items()} for group in groups]
    return {"state": state, "param_groups": tupled}


def _statistics(normalizer: VecNormalize) -> list[tuple[str, RunningMeanStd]]:
    found = [("returns", normalizer.ret_rms)]
    if isinstance(rms := getattr(normalizer, "obs_rms", None), RunningMeanStd):
        found.append(("observations", rms))
    return found


def _restore_buffer(buffer: ReplayBuffer, stored: dict[str, npt.NDArray[Any]], where: dict[str, Any]) -> None:
    pos, full = int(where["pos"]), bool(where["full"])
    n = buffer.buffer_size if full else pos
    if not 0 <= pos < buffer.buffer_size:
        raise _damaged(f"a position below {buffer.buffer_size}", pos)
    for name in ROWS:
        mine = getattr(buffer, name, None)
        if mine is None:
            continue
        if stored[name].shape != (n, *mine.shape[1:]) or stored[name].dtype != mine.dtype:
            raise _damaged(f"{n} rows of {name} {mine.shape[1:]} {mine.dtype}", stored[name].shape)
        mine[:n] = stored[name]
    buffer.pos, buffer.full = pos, full


def _damaged(expected: str, got: object) -> UsageError:
    return UsageError(expected, got, "Restore the file or train again.")
