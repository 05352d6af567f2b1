"""What an algorithm of Stable-Baselines3 has learned, as tensors, arrays and JSON, without its pickles."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from ode_rl.agents.declared import check_tensors
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
    meta: dict[str, Any] = {"counts": {name: int(getattr(algorithm, name)) for name in COUNTS}}
    meta |= {"groups": {}, "moments": {}}
    for name, state in algorithm.get_parameters().items():
        if "param_groups" in state:
            part, meta["groups"][name] = _flat(state)
            meta["moments"][name] = len(part)
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
    for name, mine in algorithm.get_parameters().items():
        part = parts.tensors.get(_part_name(name), {})
        if "param_groups" in mine:
            if len(part) != meta.get("moments", {}).get(name, len(part)):  # older ones do not say
                raise _damaged(f"{meta['moments'][name]} tensors of {name}", len(part))
            states[name] = _nested(part, meta["groups"][name])
            _check_optimiser(attrgetter(name)(algorithm), states[name], name)
        else:
            check_tensors(mine, part, name, tuple(mine))
            states[name] = part
    algorithm.set_parameters(states, exact_match=True, device=algorithm.device)
    if variables := _variables(algorithm):
        check_tensors(variables, parts.tensors["variables"], algorithm.__class__.__name__, tuple(variables))
    for name, value in variables.items():
        with torch.no_grad():
            value.copy_(parts.tensors["variables"][name])
    for name in COUNTS:
        count = meta["counts"][name]
        if type(count) is not int or count < 0:
            raise _damaged(f"a count {name} >= 0", repr(count))
        setattr(algorithm, name, count)
    buffer = getattr(algorithm, "replay_buffer", None)
    if isinstance(buffer, ReplayBuffer):
        _restore_buffer(buffer, parts.arrays["buffer"], meta["buffer"])
    if normalizer is not None:
        stored = parts.arrays["normalizer"]
        for which, rms in _statistics(normalizer):
            mean, var, count = (stored[f"{which}_{moment}"] for moment in MOMENTS)
            for own, its in ((rms.mean, mean), (rms.var, var), (rms.count, count)):
                if its.shape != np.shape(own) or its.dtype != np.float64 or not np.isfinite(its).all():
                    raise _damaged(f"finite statistics {np.shape(own)} float64", f"{its.shape} {its.dtype}")
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


def _check_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any], name: str) -> None:
    """Refuse what `load_state_dict` would take and a later step would fail on, or take for numbers."""
    mine, stored = optimiser.state_dict()["param_groups"], state["param_groups"]
    if [set(group) for group in mine] != [set(group) for group in stored]:
        raise _damaged(f"the groups of {name}", [sorted(group) for group in stored])
    for own, its in zip(mine, stored, strict=True):
        for key, value in own.items():
            alike = type(its[key]) is type(value) or {type(its[key]), type(value)} <= {int, float}
            if not alike or (key == "params" and its[key] != value):
                raise _damaged(f"{name} with {key} like {value!r}"[:200], repr(its[key])[:200])
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    keys = {key for values in state["state"].values() for key in values}
    for at, values in state["state"].items():
        if set(values) != keys:
            raise _damaged(f"{', '.join(sorted(keys))} of {name}", f"{', '.join(sorted(values))} in {at}")
        for key, tensor in values.items():
            known = 0 <= at < len(weights) and tensor.shape in ((), weights[at].shape)
            if not known or tensor.dtype != weights[at].dtype:
                raise _damaged(f"the state of {name}", f"{at}.{key} of shape {tuple(tensor.shape)}")
            if not bool(tensor.isfinite().all()):
                raise _damaged(f"a finite state of {name}", f"NaN or infinity in {at}.{key}")


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
        if not np.isfinite(stored[name]).all():
            raise _damaged(f"finite rows of {name}", "NaN or infinity")
        mine[:n] = stored[name]
    buffer.pos, buffer.full = pos, full


def _damaged(expected: str, got: object) -> UsageError:
    return UsageError(expected, got, "Restore the file or train again.")
