"""Hostile files: a generated corpus, of which every file is refused with its reason before anything runs."""

from __future__ import annotations

import copy
import io
import json
import pickle
import shutil
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.monitor import Monitor

from ode_rl.agents.learner import Learner
from ode_rl.agents.model_free import SAC
from ode_rl.agents.mpc import MPC
from ode_rl.checkpoint import Checkpoint, read_arrays, read_checkpoint, write_checkpoint
from ode_rl.envs import Repeatable
from ode_rl.envs.task import make_task
from ode_rl.errors import UsageError
from tests.tiny_runs import TINY

Forgery = tuple[str, Callable[[Path], None]]


class Payload:
    """Would leave a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def cart() -> Repeatable:
    """The task as a run wraps it."""
    return Repeatable(Monitor(make_task("tests.own_tasks:own/ShortCart-v0")))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[type[Learner], Path]:
    """A checkpoint of a run by each kind of agent."""
    folder = tmp_path_factory.mktemp("good")
    sac: dict[str, Any] = {
        "learning_starts": 20,
        "buffer_size": 50,
        "batch_size": 8,
        "policy_kwargs": {"net_arch": [8]},
    }
    agents: list[Learner] = [
        MPC(cart(), preset=None, seed=0, **TINY),
        SAC(
            cart(), preset=None, seed=0, noise_type="ornstein-uhlenbeck", noise_std=0.1, normalize=True, **sac
        ),
    ]
    for agent in agents:
        agent.learn(30)
        record = {"episodes": 1, "sim_seconds": 1.5, "wall_s": 1.0, "positions": {"episodes.csv": 63}}
        agent.save_run(folder / agent.name, record)
    return {type(agent): folder / agent.name for agent in agents}


def rewrite(path: Path, parts: Checkpoint) -> None:
    """Write a checkpoint whose checksums all vouch for it."""
    write_checkpoint(path, kind=parts.kind, tensors=parts.tensors, arrays=parts.arrays, meta=parts.meta)


# --- the corpus --------------------------------------------------------------------------------------------


def pickles(folder: Path, owned: Path) -> Iterator[Forgery]:
    data = pickle.dumps(Payload(owned))
    packed = io.BytesIO()
    np.savez(packed, x=np.array([Payload(owned)], object))
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", data)
    for kind, content in (
        ("pickle", data),
        ("object array", packed.getvalue()),
        ("torch zip", zipped.getvalue()),
    ):
        for part in sorted(path.name for path in folder.iterdir()):
            yield f"{kind} as {part}", lambda p, part=part, content=content: _put(p, part, content)  # type: ignore[misc]
        for name in ("model.pkl", "policy.pth", "data", "__init__.py", "checkpoint.zip"):
            yield f"{kind} beside as {name}", lambda p, name=name, c=content: _put(p, name, c, listed=False)  # type: ignore[misc]


def damage(folder: Path) -> Iterator[Forgery]:
    rng = np.random.default_rng(0)
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        for share in (0.0, 0.3, 0.9):
            cut = data[: int(share * len(data))]
            yield f"truncated {path.name} {share}", lambda p, n=path.name, d=cut: (p / n).write_bytes(d)  # type: ignore[misc]
        yield f"longer {path.name}", lambda p, n=path.name, d=data: (p / n).write_bytes(d + b"\n{}")  # type: ignore[misc]
        yield f"missing {path.name}", lambda p, n=path.name: (p / n).unlink()  # type: ignore[misc]
        if path.name != "manifest.json":
            for at in rng.integers(len(data), size=4).tolist():
                flipped = bytearray(data)
                flipped[at] ^= 1 << int(rng.integers(8))
                yield f"flipped bit {path.name} {at}", partial(_overwrite, path.name, bytes(flipped))


def names(folder: Path) -> Iterator[Forgery]:
    escapes = [
        "../escape.npz",
        "/tmp/escape.npz",
        "..\\escape.npz",
        "a/b.npz",
        ".npz",
        "x.NPZ",
        "x.npy",
        "con:.npz",
    ]
    for name in [*escapes, "x" * 300 + ".npz", "é.npz", "nul\x00.npz", "x.safetensors.exe"]:
        yield f"a part named {name!r:.40}", lambda p, name=name: _listed(p, name)  # type: ignore[misc]
    for target in ("/etc/passwd", "meta.json", "."):
        yield f"a link to {target}", lambda p, t=target: _linked(p, t)  # type: ignore[misc]


def bombs(folder: Path) -> Iterator[Forgery]:
    header = b'{"w":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4]}}'
    huge = struct.pack("<Q", len(header)) + header + bytes(4)
    deflated = io.BytesIO()
    with zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("obs.npy", bytes(10**7))
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", 64)
    declared = npy + b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,)}"[:64].ljust(64)
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        archive.writestr("obs.npy", declared + bytes(8))
    deep = [b"[" * n + b"]" * n for n in (65, 1000, 10**6)]
    objects = [b'{"a":' * n + b"1" + b"}" * n for n in (65, 10**5)]
    for name, part, content in (
        ("huge tensor", "model.safetensors", huge),
        ("endless header", "model.safetensors", struct.pack("<Q", 2**62) + b"{}"),
        ("zip bomb", "buffer.npz", deflated.getvalue()),
        ("huge array", "buffer.npz", stored.getvalue()),
        *((f"deep JSON {i}", "meta.json", text) for i, text in enumerate([*deep, *objects])),
        ("a key twice", "meta.json", b'{"config": {}, "config": {}}'),
        ("not a number", "meta.json", b'{"config": NaN}'),
        ("too large a number", "meta.json", b'{"config": 1e999}'),
        ("a long number", "meta.json", b'{"config": ' + b"9" * 10**5 + b"}"),
        ("no object", "meta.json", b"[]"),
        ("bad text", "meta.json", b'{"a": "\xff"}'),
    ):
        yield name, lambda p, part=part, content=content: _put(p, part, content)  # type: ignore[misc]
    for schema in (0, -1, 2, 10**9, "1", None, True, [1], 1.0):
        yield f"schema {schema!r}", lambda p, schema=schema: _manifest(p, schema=schema)  # type: ignore[misc]
    for kind in ("ppo", "", None, 3, "../mpc"):
        yield f"kind {kind!r}", lambda p, kind=kind: _manifest(p, kind=kind)  # type: ignore[misc]


def wrong_numbers(parts: Checkpoint) -> Iterator[Forgery]:
    """Every tensor and array of another shape and type, away, or not finite, with checksums that fit."""
    for group in ("tensors", "arrays"):
        for part, named in getattr(parts, group).items():
            yield f"no part {part}", lambda p, g=group, part=part: _parts(p, g, part, None, None)  # type: ignore[misc]
            chosen = sorted(named) if len(named) < 5 else sorted(named)[:: max(1, len(named) // 4)]
            for name in chosen:
                for how in ("shape", "dtype", "gone", "nan"):
                    number = named[name]
                    floating = number.is_floating_point() if group == "tensors" else number.dtype.kind == "f"
                    if how == "nan" and (not floating or not np.asarray(number.shape).prod()):
                        continue
                    yield f"{how} of {part}/{name}", partial(_changed, group, part, name, how)


# Values by path in meta.json: what it is now must be refused as each of these.
WRONG_META: dict[str, list[Any]] = {
    "config": [None, [], "x"],
    "config.settings": [None, [], {"unknown": 1}],
    "config.seed": [-1, None, "x", 1e30],
    "config.dt": [0.0, -1.0, "x", None],
    "config.interval": [0.0, -1.0, "x"],
    "config.settings.buffer_size": [0, -1, 10**16, "x", 1.5],
    "config.settings.gamma": [2.0, -1.0, "x"],
}
WRONG_MPC: dict[str, list[Any]] = {
    "config.settings.model.hidden": [[10**6, 10**6], [10**9], [8] * 10**5, [0], [-3], ["x"], 8],
    "config.settings.model.n_members": [0, 10**7, 10**30, "x"],
    "config.settings.model.head_hidden": [[10**5, 10**5], [16]],
    "config.settings.model.structure": ["unknown", "gru-dt"],
    "config.settings.planner.candidates": [0, 10**10],
    "config.settings.horizon": [-1.0, 1e12],
    "config.settings.value.hidden": [[10**6, 10**6]],
    "num_timesteps": [None, "x", []],
    "rng": [None, {}, [], {"bit_generator": "MT19937"}, {"bit_generator": "os.system"}],
    "plan": [{}, {"calls": "x", "scored": 0}],
}
WRONG_SAC: dict[str, list[Any]] = {
    "config.settings.policy_kwargs": [
        {"net_arch": [10**6, 10**6]},
        {"net_arch": [16]},
        {"n_critics": 10**8},
        {"activation_fn": "os.system"},
        {"activation_fn": "__class__"},
        "dict(net_arch=__import__('os').system('true'))",
    ],
    "config.settings.n_envs": [0, 10**9, "x"],
    "config.settings.noise_type": ["os"],
    "config.settings.policy": ["CnnPolicy"],
    "algorithm": [None, {}, []],
    "algorithm.counts": [{}, {"num_timesteps": "x", "_n_updates": 0, "_episode_num": 0}],
    "algorithm.counts.num_timesteps": [-1, 1.5],
    "algorithm.groups": [{}, {"actor.optimizer": []}],
    "algorithm.buffer": [{}, {"pos": 10**9, "full": False}, {"pos": -1, "full": True}],
    "algorithm.buffer.full": [True],
}


def wrong_meta(parts: Checkpoint, table: dict[str, list[Any]]) -> Iterator[Forgery]:
    for path, values in table.items():
        for value in values:
            yield f"{path} = {value!r:.60}", lambda p, path=path, value=value: _meta(p, path, value)  # type: ignore[misc]
        if path != "config.interval" or "interval" in parts.meta["config"]:
            yield f"no {path}", lambda p, path=path: _meta(p, path, _meta)  # type: ignore[misc]


def corpus(folder: Path, owned: Path, table: dict[str, list[Any]]) -> list[Forgery]:
    parts = read_checkpoint(folder)
    outside = [*pickles(folder, owned), *damage(folder), *names(folder), *bombs(folder)]
    return [*outside, *wrong_numbers(parts), *wrong_meta(parts, WRONG_META | table)]


def _put(path: Path, part: str, content: bytes, listed: bool = True) -> None:
    """Write a part, and let the manifest vouch for it."""
    import hashlib

    if part == "manifest.json":
        (path / part).write_bytes(content)
        return
    known = (path / part).exists()
    (path / part).write_bytes(content)
    if listed or known:
        manifest = json.loads((path / "manifest.json").read_text())
        digest = hashlib.sha256(content).hexdigest()
        manifest["parts"][part] = {"bytes": len(content), "sha256": digest}
        (path / "manifest.json").write_text(json.dumps(manifest))


def _listed(path: Path, name: str) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["parts"][name] = {"bytes": 0, "sha256": ""}
    (path / "manifest.json").write_text(json.dumps(manifest))


def _linked(path: Path, target: str) -> None:
    (path / "meta.json").unlink()
    (path / "meta.json").symlink_to(target)


def _manifest(path: Path, **changes: Any) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def _overwrite(name: str, data: bytes, folder: Path) -> None:
    (folder / name).write_bytes(data)


def _changed(group: str, part: str, name: str, how: str, folder: Path) -> None:
    _parts(folder, group, part, name, how)


def _parts(path: Path, group: str, part: str, name: str | None, how: str | None) -> None:
    parts = read_checkpoint(path)
    named: Any = getattr(parts, group)[part]
    if name is None:
        del getattr(parts, group)[part]
    elif how == "gone":
        del named[name]
    elif how == "nan":
        named[name] = named[name] * np.nan
    elif group == "tensors":
        tensor = named[name]
        other = torch.float16 if tensor.dtype != torch.float16 else torch.float32
        named[name] = torch.zeros(2, 3, 5, 7).to(tensor.dtype) if how == "shape" else tensor.to(other)
    else:
        array = named[name]
        named[name] = np.zeros((2, 3, 5, 7), array.dtype) if how == "shape" else array.astype(np.float16)
    rewrite(path, parts)


def _meta(path: Path, where: str, value: Any) -> None:
    parts = read_checkpoint(path)
    meta = copy.deepcopy(parts.meta)
    *above, last = where.split(".")
    inner = meta
    for key in above:
        inner = inner[key]
    if value is _meta:
        del inner[last]
    else:
        inner[last] = value
    rewrite(path, Checkpoint(parts.kind, parts.tensors, parts.arrays, meta, {}))


# --- what the tests claim ----------------------------------------------------------------------------------

# What may be left out: an agent without it has a default, or nothing to go on with.
OPTIONAL = {
    *("no config.interval", "no config.settings.buffer_size", "no config.settings.gamma", "no plan"),
    *("no config.settings.model.hidden", "no config.settings.model.n_members", "no config.settings.horizon"),
    *("no config.settings.model.head_hidden", "no config.settings.model.structure", "no config.settings"),
    *("no config.settings.planner.candidates", "no config.settings.value.hidden"),
    *("no config.settings.policy_kwargs", "no config.settings.n_envs", "no config.settings.noise_type"),
    *("no config.settings.policy", "gone of progress/random_plan"),
}


def refusal(kind: Any, path: Path) -> str | None:
    """Why a checkpoint is not taken, up to where learning would go on; None if it is."""
    try:
        agent = kind.load(path, env=cart())
        agent.learn(0 if kind is MPC else 1, reset_num_timesteps=False)
    except UsageError as error:
        return str(error)
    except Exception as error:  # no message of ours
        return f"{type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize("kind", [MPC, SAC])
def test_every_file_of_the_corpus_is_refused_with_a_reason_and_nothing_runs(
    good: dict[type[Learner], Path], tmp_path: Path, kind: type[Learner]
) -> None:
    owned, table = tmp_path / "owned", WRONG_MPC if kind is MPC else WRONG_SAC
    tried, taken, odd, slow = 0, [], [], []
    for number, (name, forge) in enumerate(corpus(good[kind], owned, table)):
        if name in OPTIONAL:
            continue
        path = tmp_path / str(number)
        shutil.copytree(good[kind], path)
        forge(path)
        began = time.perf_counter()
        if (reason := refusal(kind, path)) is None:
            taken.append(name)
        elif not reason.startswith("expected ") or ", got " not in reason:
            odd.append(f"{name}: {reason}")
        if time.perf_counter() - began > 20:
            slow.append(name)
        tried += 1
        shutil.rmtree(path)
    assert taken == []
    assert odd == []
    assert slow == []
    assert not owned.exists()
    assert tried >= 200


@pytest.mark.parametrize("kind", [MPC, SAC])
def test_the_checkpoint_that_the_corpus_is_made_of_is_taken(
    good: dict[type[Learner], Path], kind: type[Learner]
) -> None:
    kind.load(good[kind], env=cart()).learn(5)


def test_evaluations_that_are_no_plain_numbers_are_refused(tmp_path: Path) -> None:
    owned = tmp_path / "owned"
    np.savez(tmp_path / "good.npz", timesteps=np.arange(3), results=np.zeros((3, 5)))
    assert read_arrays(tmp_path / "good.npz")["timesteps"].tolist() == [0, 1, 2]
    np.savez_compressed(tmp_path / "bomb.npz", timesteps=np.zeros(10**7))
    np.savez(tmp_path / "object.npz", timesteps=np.array([Payload(owned)], object))
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Payload(owned)))
    (tmp_path / "short.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:-40])
    for name in ("bomb", "object", "pickle", "short", "missing"):
        with pytest.raises(UsageError):
            read_arrays(tmp_path / f"{name}.npz")
    assert not owned.exists()
