"""Checkpoints: what is written is read, what is damaged or hostile is refused, a kill loses nothing."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ode_rl import checkpoint as module
from ode_rl import files
from ode_rl.checkpoint import SCHEMA, Checkpoint, read_checkpoint, write_checkpoint
from ode_rl.errors import UsageError

BOTH = pytest.mark.parametrize("name", ["checkpoint", "checkpoint.zip"])


def write(path: Path, number: float = 1.0) -> None:
    write_checkpoint(
        path,
        kind="mpc",
        tensors={"weights": {"w": torch.full((3, 2), number), "b": torch.tensor([1, 2])}},
        arrays={"buffer": {"obs": np.full((4, 2), number), "done": np.array([True, False])}},
        meta={"steps": 7, "names": ["a", "b"]},
    )


def number_in(checkpoint: Checkpoint) -> float:
    return float(checkpoint.tensors["weights"]["w"][0, 0])


def forge(folder: Path, name: str, data: bytes) -> None:
    """Replace a part, with a manifest that vouches for it."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["parts"][name] = {"bytes": len(data), "sha256": module._sha256(data)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def edit_manifest(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def zipped(entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compression) as archive:
        warnings.simplefilter("ignore")  # names given twice
        for name, data in entries:
            archive.writestr(name, data)
    return buffer.getvalue()


def npy(array: Any, **changes: Any) -> bytes:
    """An array file whose header may lie."""
    header = {
        "descr": np.lib.format.dtype_to_descr(array.dtype),
        "fortran_order": False,
        "shape": array.shape,
    }
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {**header, **changes})
    return buffer.getvalue() + bytes(array.tobytes())


# --- what is written is read -----------------------------------------------------------------------------


@BOTH
def test_every_part_comes_back_as_it_was(tmp_path: Path, name: str) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    tensors = {
        "a": {"transposed": base.T, "same_memory": base, "half": torch.ones(2).bfloat16()},
        "empty": {},
    }
    arrays = {
        "b": {
            "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            "scalar": np.float64(3),
            "none": np.zeros(0),
        },
        "c": {"file": np.array([1, 2], np.int16), "flag": np.array([True])},
    }
    meta = {"nested": {"list": [1, None, "ü"]}, "small": 1e-300}
    write_checkpoint(tmp_path / name, kind="any", tensors=tensors, arrays=arrays, meta=meta)
    back = read_checkpoint(tmp_path / name, kind="any")
    assert back.meta == meta
    assert back.kind == "any"
    assert set(back.tensors) == set(tensors)
    for part, named in tensors.items():
        for key, value in named.items():
            assert back.tensors[part][key].dtype == value.dtype
            assert torch.equal(back.tensors[part][key], value)
    for part, columns in arrays.items():
        assert set(back.arrays[part]) == set(columns)
        for key, column in columns.items():
            np.testing.assert_array_equal(back.arrays[part][key], column, strict=True)


def test_arrays_that_are_read_can_be_written_to(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint")
    read_checkpoint(tmp_path / "checkpoint").arrays["buffer"]["obs"][0] = 5


def test_plain_numpy_reads_the_arrays_without_pickle(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint")
    with np.load(tmp_path / "checkpoint" / "buffer.npz", allow_pickle=False) as arrays:
        assert arrays["obs"].shape == (4, 2)


def test_the_manifest_says_schema_kind_and_versions(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint")
    manifest = json.loads((tmp_path / "checkpoint" / "manifest.json").read_text())
    assert manifest["schema"] == SCHEMA
    assert manifest["kind"] == "mpc"
    assert {"python", "ode_rl", "torch", "numpy", "gymnasium", "mujoco", "stable_baselines3"} == set(
        manifest["versions"]
    )
    assert manifest["versions"]["torch"] == torch.__version__


def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint")
    with pytest.raises(UsageError, match=r"kind 'sac'.*'mpc'"):
        read_checkpoint(tmp_path / "checkpoint", kind="sac")


def test_a_missing_checkpoint_points_at_the_zip_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint.zip")
    with pytest.raises(UsageError, match=r"Did you mean .*checkpoint\.zip"):
        read_checkpoint(tmp_path / "checkpoint")


# --- a kill loses nothing --------------------------------------------------------------------------------


@BOTH
def test_writing_again_replaces_the_whole_and_leaves_nothing_beside_it(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, 1.0)
    (tmp_path / "checkpoint.new").mkdir()  # what a killed writer left
    (tmp_path / "checkpoint.new" / "junk").touch()
    write(tmp_path / name, 2.0)
    shutil.rmtree(tmp_path / "checkpoint.new", ignore_errors=True)
    assert number_in(read_checkpoint(tmp_path / name)) == 2.0
    assert [path.name for path in tmp_path.iterdir()] == [name]


class Killed(BaseException):
    """The process ends here."""


@BOTH
def test_a_kill_at_any_moment_leaves_a_whole_old_or_a_whole_new_one(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    for moment in range(100):
        target = tmp_path / str(moment) / name
        write(target, 1.0)
        with monkeypatch.context() as patch:
            countdown = iter([*[False] * moment, True])

            def dying(original: Callable[..., Any], patch_countdown: Any = countdown) -> Callable[..., Any]:
                def call(*args: Any, **kwargs: Any) -> Any:
                    if next(patch_countdown, False):
                        raise Killed
                    return original(*args, **kwargs)

                return call

            for owner, function in (
                (files, "write_synced"),
                (module, "write_synced"),
                (module, "sync_folder"),
                (shutil, "rmtree"),
                (Path, "rename"),
                (Path, "mkdir"),
                (os, "replace"),
            ):
                patch.setattr(owner, function, dying(getattr(owner, function)))
            try:
                write(target, 2.0)
                finished = True
            except Killed:
                finished = False
        seen.add(number_in(read_checkpoint(target)))
        if finished:
            break
        write(target, 3.0)
        assert number_in(read_checkpoint(target)) == 3.0
    else:
        pytest.fail("never finished")
    assert seen == {1.0, 2.0}


def test_a_folder_that_is_no_checkpoint_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(UsageError, match="something else"):
        write(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"


def test_a_path_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("checkpoint", "checkpoint.zip"):
        with pytest.raises(UsageError, match="can be written"):
            write(tmp_path / "file" / name)


@pytest.mark.parametrize(
    "bad",
    [
        {"arrays": {"a": {"x": np.array([{}], object)}}},
        {"arrays": {"a": {"x": np.array(["text"])}}},
        {"arrays": {"../a": {"x": np.zeros(1)}}},
        {"tensors": {"a/b": {"x": torch.zeros(1)}}},
        {"meta": {"x": float("nan")}},
        {"meta": {"x": {1, 2}}},
    ],
)
def test_what_only_pickle_could_store_is_refused_before_anything_is_written(
    tmp_path: Path, bad: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        write_checkpoint(tmp_path / "x", **{"kind": "k", "tensors": {}, "arrays": {}, "meta": {}, **bad})
    assert not list(tmp_path.iterdir())


# --- damage is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["manifest.json", "meta.json", "weights.safetensors", "buffer.npz"])
def test_any_flipped_bit_in_a_folder_is_refused_or_harmless(tmp_path: Path, part: str) -> None:
    folder = tmp_path / "checkpoint"
    write(folder)
    data = (folder / part).read_bytes()
    whole = read_checkpoint(folder)
    for position in range(0, len(data), max(1, len(data) // 60)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        (folder / part).write_bytes(damaged)
        if part != "manifest.json":
            with pytest.raises(UsageError, match="size or checksum"):
                read_checkpoint(folder)
        else:  # the manifest has no checksum of its own: a kind or a version may read differently
            assert refused_or_same_parts(folder, whole)


def test_any_flipped_bit_in_a_zip_is_refused_or_harmless(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.zip"
    write(file)
    data, whole = file.read_bytes(), read_checkpoint(file)
    for position in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        file.write_bytes(damaged)
        assert refused_or_same_parts(file, whole)


def refused_or_same_parts(path: Path, whole: Checkpoint) -> bool:
    try:
        back = read_checkpoint(path)
    except UsageError:
        return True
    same = torch.equal(back.tensors["weights"]["w"], whole.tensors["weights"]["w"])
    return same and np.array_equal(back.arrays["buffer"]["obs"], whole.arrays["buffer"]["obs"])


@pytest.mark.parametrize("part", ["manifest.json", "meta.json", "weights.safetensors", "buffer.npz"])
def test_a_truncated_part_is_refused(tmp_path: Path, part: str) -> None:
    folder = tmp_path / "checkpoint"
    write(folder)
    data = (folder / part).read_bytes()
    for length in (0, 1, len(data) // 2, len(data) - 2):
        (folder / part).write_bytes(data[:length])
        with pytest.raises(UsageError):
            read_checkpoint(folder)


def test_a_truncated_zip_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.zip"
    write(file)
    data = file.read_bytes()
    for length in range(0, len(data), len(data) // 20):
        file.write_bytes(data[:length])
        with pytest.raises(UsageError):
            read_checkpoint(file)


def test_a_newer_schema_names_the_version_to_install(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint")
    edit_manifest(tmp_path / "checkpoint", schema=SCHEMA + 1, versions={"ode_rl": "9.9.9"})
    with pytest.raises(UsageError, match=r"newer version \(9\.9\.9\).*Install ode_rl 9\.9\.9"):
        read_checkpoint(tmp_path / "checkpoint")


@pytest.mark.parametrize("schema", [None, True, "1", 0, -1, 1.0])
def test_a_schema_that_is_no_number_from_one_is_refused(tmp_path: Path, schema: Any) -> None:
    write(tmp_path / "checkpoint")
    edit_manifest(tmp_path / "checkpoint", schema=schema)
    with pytest.raises(UsageError, match="schema"):
        read_checkpoint(tmp_path / "checkpoint")


@pytest.mark.parametrize(
    "change",
    [
        {"parts": []},
        {"parts": {}},
        {"versions": None},
        {"kind": 3},
        {"parts": {"meta.json": {"bytes": 10**18, "sha256": ""}}},
        {"parts": {"../../etc/passwd": {}}},
        {"parts": {"/etc/passwd": {}}},
        {"parts": {"weights.pkl": {}}},
        {"parts": {"a/../weights.safetensors": {}}},
    ],
)
def test_a_manifest_that_does_not_describe_the_parts_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    write(tmp_path / "checkpoint")
    edit_manifest(tmp_path / "checkpoint", **change)
    with pytest.raises(UsageError, match="whole checkpoint"):
        read_checkpoint(tmp_path / "checkpoint")


@pytest.mark.parametrize("part", ["meta.json", "weights.safetensors"])
def test_a_missing_part_is_refused_by_name(tmp_path: Path, part: str) -> None:
    write(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / part).unlink()
    with pytest.raises(UsageError, match=part):
        read_checkpoint(tmp_path / "checkpoint")


def test_an_unlisted_part_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint")
    shutil.copy(tmp_path / "checkpoint" / "buffer.npz", tmp_path / "checkpoint" / "more.npz")
    with pytest.raises(UsageError, match=r"more\.npz"):
        read_checkpoint(tmp_path / "checkpoint")


def test_links_and_folders_inside_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint")
    part = tmp_path / "checkpoint" / "weights.safetensors"
    shutil.move(part, tmp_path / "elsewhere")
    part.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="not a plain file"):
        read_checkpoint(tmp_path / "checkpoint")
    part.unlink()
    part.mkdir()
    with pytest.raises(UsageError, match="not a plain file"):
        read_checkpoint(tmp_path / "checkpoint")


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b'{"a":' * 200 + b"1" + b"}" * 200,
        b'{"steps": NaN}',
        b'{"steps": 1e999}',
        b'{"a": 1, "a": 2}',
        b'{"a": ' + b"9" * 10_000 + b"}",
        b"\xff\xfe",
        b"[1, 2]",
    ],
)
def test_json_beyond_limits_is_refused(tmp_path: Path, text: bytes) -> None:
    write(tmp_path / "checkpoint")
    forge(tmp_path / "checkpoint", "meta.json", text)
    with pytest.raises(UsageError):
        read_checkpoint(tmp_path / "checkpoint")


def test_oversized_json_is_refused_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "checkpoint")
    forge(tmp_path / "checkpoint", "meta.json", b'{"a": "' + b"x" * 5000 + b'"}')
    monkeypatch.setattr(files, "MAX_JSON_BYTES", 4000)
    with pytest.raises(UsageError, match="more than 4000"):
        read_checkpoint(tmp_path / "checkpoint")


# --- hostile parts are refused even if the manifest vouches for them --------------------------------------


class Payload:
    """Would leave a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("part", ["weights.safetensors", "buffer.npz", "meta.json"])
def test_a_pickle_under_any_name_is_refused_and_never_run(tmp_path: Path, part: str) -> None:
    write(tmp_path / "checkpoint")
    forge(tmp_path / "checkpoint", part, pickle.dumps(Payload(tmp_path / "owned")))
    with pytest.raises(UsageError):
        read_checkpoint(tmp_path / "checkpoint")
    assert not (tmp_path / "owned").exists()


def test_an_array_of_objects_is_refused_and_never_unpickled(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint")
    buffer = io.BytesIO()
    np.savez(buffer, obs=np.array([Payload(tmp_path / "owned")], object))
    forge(tmp_path / "checkpoint", "buffer.npz", buffer.getvalue())
    with pytest.raises(UsageError, match="object"):
        read_checkpoint(tmp_path / "checkpoint")
    assert not (tmp_path / "owned").exists()


FLOATS = np.zeros(4)


@pytest.mark.parametrize(
    "data",
    [
        zipped([("obs.npy", bytes(10_000_000))], zipfile.ZIP_DEFLATED),
        zipped([("obs.npy", npy(FLOATS, shape=(10**12,)))]),
        zipped([("obs.npy", npy(FLOATS, shape=(-1, -4)))]),
        zipped([("obs.npy", npy(FLOATS, shape=(3,)))]),
        zipped([("obs.npy", npy(FLOATS, descr="|O"))]),
        zipped([("obs.npy", npy(FLOATS, descr=[("a", "|O"), ("b", "<f4")]))]),
        zipped([("obs.npy", npy(FLOATS, descr="<U8"))]),
        zipped([("obs.npy", b"\x93NUMPY\x03\x00" + struct.pack("<I", 2**31) + b"{")]),
        zipped([("obs.npy", npy(FLOATS)), ("obs.npy", npy(FLOATS))]),
        zipped([("obs.pkl", npy(FLOATS))]),
        b"",
        b"PK\x05\x06",
    ],
    ids=[
        "bomb",
        "huge",
        "negative",
        "short",
        "object",
        "structured",
        "text",
        "header",
        "twice",
        "name",
        "empty",
        "stub",
    ],
)
def test_arrays_that_lie_are_refused(tmp_path: Path, data: bytes) -> None:
    write(tmp_path / "checkpoint")
    forge(tmp_path / "checkpoint", "buffer.npz", data)
    with pytest.raises(UsageError):
        read_checkpoint(tmp_path / "checkpoint")


def safetensors(header: dict[str, Any] | bytes, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "data",
    [
        safetensors({"w": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4]}}, bytes(4)),
        safetensors({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 10**15]}}, bytes(4)),
        safetensors({"w": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, bytes(4)),
        safetensors(b"[" * 50_000),
        struct.pack("<Q", 2**63) + b"{}",
        b"",
    ],
    ids=["shape", "offsets", "negative", "deep", "length", "empty"],
)
def test_tensors_that_lie_are_refused(tmp_path: Path, data: bytes) -> None:
    write(tmp_path / "checkpoint")
    forge(tmp_path / "checkpoint", "weights.safetensors", data)
    with pytest.raises(UsageError, match=r"weights\.safetensors"):
        read_checkpoint(tmp_path / "checkpoint")


def entries_of(folder: Path) -> list[tuple[str, bytes]]:
    return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]


def test_a_compressed_zip_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint")
    (tmp_path / "c.zip").write_bytes(zipped(entries_of(tmp_path / "checkpoint"), zipfile.ZIP_DEFLATED))
    with pytest.raises(UsageError, match="compressed"):
        read_checkpoint(tmp_path / "c.zip")


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ([("meta.json", b"{}")], "twice"),
        ([("../escape.npz", b"")], "escape"),
        ([("/tmp/escape.npz", b"")], "escape"),
        ([("folder/", b"")], "not a plain file"),
        ([(f"part{i}.npz", b"") for i in range(300)], "more than 256"),
    ],
)
def test_a_zip_with_entries_of_its_own_is_refused(tmp_path: Path, extra: Any, reason: str) -> None:
    write(tmp_path / "checkpoint")
    (tmp_path / "c.zip").write_bytes(zipped([*entries_of(tmp_path / "checkpoint"), *extra]))
    with pytest.raises(UsageError, match=reason):
        read_checkpoint(tmp_path / "c.zip")


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("weights.safetensors")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("manifest.json", "{}")
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UsageError, match="not a plain file"):
        read_checkpoint(tmp_path / "c.zip")


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "c.zip")
    data = bytearray((tmp_path / "c.zip").read_bytes())
    central = data.index(b"PK\x01\x02")
    data[central + 8] |= 1
    (tmp_path / "c.zip").write_bytes(data)
    with pytest.raises(UsageError, match="encrypted"):
        read_checkpoint(tmp_path / "c.zip")


def test_a_zip_whose_entries_share_their_bytes_is_refused(tmp_path: Path) -> None:
    """A bomb without compression: many names for the same bytes."""
    data = zipped([("a.npz", bytes(5000))])
    central, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entry = data[central:end]
    copies = b"".join(entry.replace(b"a.npz", b"%c.npz" % letter) for letter in b"abcdefgh")
    tail = bytearray(data[end:])
    struct.pack_into("<HHII", tail, 8, 8, 8, len(copies), central)
    (tmp_path / "c.zip").write_bytes(data[:central] + copies + tail)
    with pytest.raises(UsageError, match="declares more bytes"):
        read_checkpoint(tmp_path / "c.zip")


def test_a_zip_of_stable_baselines3_is_refused_as_something_else(tmp_path: Path) -> None:
    (tmp_path / "sac.zip").write_bytes(zipped([("data", b"{}"), ("policy.pth", b"")]))
    with pytest.raises(UsageError, match=r"no manifest\.json"):
        read_checkpoint(tmp_path / "sac.zip")
