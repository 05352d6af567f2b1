"""A checkpoint: named parts in a folder or in one zip, which can be read without trusting its writer.

``manifest.json`` lists every other file with its size and SHA-256: ``<name>.safetensors`` (torch tensors),
``<name>.npz`` (numpy arrays of plain numbers) and ``meta.json``. There is no pickle, so that reading never
runs code. A reader refuses everything that it does not expect before it uses any of it.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import shutil
import stat
import struct
import tokenize
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError

from ode_rl.errors import UsageError
from ode_rl.files import from_json, replace_file, sync_folder, to_json, write_synced
from ode_rl.versions import installed_versions

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = dict[str, Tensor]

Arrays = dict[str, npt.NDArray[Any]]

SCHEMA = 1
MANIFEST = "manifest.json"
META = "meta.json"
TENSORS = ".safetensors"
ARRAYS = ".npz"
MAX_FILES = 256
PARSER_ERRORS = (
    *(zipfile.BadZipFile, SafetensorError, struct.error),
    *(RuntimeError, EOFError, OSError, LookupError, ValueError, ArithmeticError, MemoryError),
    *(SyntaxError, tokenize.TokenError),  # numpy reads the headers of arrays as literals
)
PART_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
NUMBERS = "biuf"  # numpy kinds: bool, int, unsigned, float
PART_FILE = re.compile(rf"{PART_NAME.pattern}\.(safetensors|npz)|meta\.json")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds: ``tensors[part][name]``, ``arrays[part][name]``, `meta` and its origin."""

    kind: str
    tensors: dict[str, Tensors]
    arrays: dict[str, Arrays]
    meta: dict[str, Any]
    versions: dict[str, str]


def write_checkpoint(
    path: str | os.PathLike[str],
    *,
    kind: str,
    tensors: Mapping[str, Mapping[str, Tensor]],
    arrays: Mapping[str, Mapping[str, npt.ArrayLike]],
    meta: Mapping[str, Any],
    keep_old: bool = False,
) -> None:
    """Write a checkpoint as a folder, or as one file if `path` ends with ``.zip``.

    Killed at any moment, it leaves a whole old checkpoint or a whole new one. With `keep_old` the folder
    that was there stays, as ``<path>.old``.

    Raises:
        UsageError: if a part cannot be stored without pickle, or if `path` holds something else.
    """
    target = Path(path)
    files = _encode(tensors, arrays, meta)
    listing = {name: {"bytes": len(data), "sha256": _sha256(data)} for name, data in files.items()}
    manifest = {"schema": SCHEMA, "kind": kind, "versions": installed_versions(), "parts": listing}
    files = {MANIFEST: to_json(manifest), **files}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".zip":
            replace_file(target, _zipped(files))
        else:
            _replace_folder(target, files, keep_old)
    except OSError as error:
        raise UsageError(
            "a path that can be written", f"{target} ({error.strerror})", "Choose one."
        ) from error


def read_checkpoint(path: str | os.PathLike[str], kind: str | None = None) -> Checkpoint:
    """Read a checkpoint, of the given `kind` if one is named; tensors come on the CPU.

    Raises:
        UsageError: if it is missing, damaged, of another kind, from a newer version, or holds anything
            that :func:`write_checkpoint` would not have written.
    """
    source = existing_checkpoint(path)
    files = _read_zip(source) if source.is_file() else _read_folder(source)
    manifest = _checked_manifest(files, source)
    if kind is not None and manifest["kind"] != kind:
        got = f"{manifest['kind']!r} in {source}"
        raise UsageError(f"a checkpoint of kind {kind!r}", got, "Load it as what it is.")
    meta = from_json(files[META], f"{source}: {META}")
    if not isinstance(meta, dict):
        _refuse(source, f"{META} holds no object")
    tensors, arrays = {}, {}
    for name, data in files.items():
        if name.endswith(TENSORS):
            tensors[Path(name).stem] = _tensors(data, source, name)
        elif name.endswith(ARRAYS):
            arrays[Path(name).stem] = _arrays(data, source, name)
    return Checkpoint(manifest["kind"], tensors, arrays, meta, manifest["versions"])


def existing_checkpoint(path: str | os.PathLike[str]) -> Path:
    """Return where the checkpoint lies: `path`, or what a kill between two renames left beside it.

    Raises:
        UsageError: if there is none.
    """
    target = Path(path)
    for candidate in (target, older_checkpoint(target)):
        if candidate.exists():
            return candidate
    with_suffix = target.with_name(target.name + ".zip")
    remedy = f"Did you mean {with_suffix}?" if with_suffix.is_file() else "Check the path."
    raise UsageError("a checkpoint folder or zip", f"nothing at {target}", remedy)


def older_checkpoint(path: str | os.PathLike[str]) -> Path:
    """Return where the checkpoint before the one at `path` is kept, if it is."""
    target = Path(path)
    return target.with_name(target.name + ".old")


def read_arrays(path: str | os.PathLike[str]) -> Arrays:
    """Read a ``.npz`` of plain numbers, as Stable-Baselines3 writes evaluations, from anybody.

    Raises:
        UsageError: if it is missing, damaged, compressed, or holds anything but numbers.
    """
    source = Path(path)
    try:
        data = source.read_bytes()
    except OSError as error:
        raise UsageError("a file of arrays", f"{path} ({error.strerror})", "Check the path.") from error
    return _arrays(data, source, source.name)


# --- writing ---------------------------------------------------------------------------------------------


def _encode(
    tensors: Mapping[str, Mapping[str, Tensor]],
    arrays: Mapping[str, Mapping[str, npt.ArrayLike]],
    meta: Mapping[str, Any],
) -> dict[str, bytes]:
    import safetensors.torch
    import torch

    for name in (*tensors, *arrays):
        if not PART_NAME.fullmatch(name):
            raise UsageError("part names of letters, digits, _ and -", repr(name), "Rename the part.")
    files = {}
    for part, named in tensors.items():
        # A copy of its own for each: safetensors refuses tensors that share memory or are not contiguous.
        copies = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in named.items()
        }
        files[part + TENSORS] = safetensors.torch.save(copies)
    for part, columns in arrays.items():
        files[part + ARRAYS] = _zipped({f"{name}.npy": _npy(name, value) for name, value in columns.items()})
    return files | {META: to_json(dict(meta))}


def _npy(name: str, value: npt.ArrayLike) -> bytes:
    array = np.asarray(value)
    if array.dtype.kind not in NUMBERS:
        raise UsageError("arrays of numbers", f"dtype {array.dtype} in {name!r}", "Store text in meta.")
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _replace_folder(target: Path, files: dict[str, bytes], keep_old: bool) -> None:
    if target.exists() and not _is_ours(target):
        raise UsageError(
            "a new path or an older checkpoint", f"{target}, which is something else", "Choose one."
        )
    fresh, old = target.with_name(target.name + ".new"), older_checkpoint(target)
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for name, data in files.items():
        write_synced(fresh / name, data)
    sync_folder(fresh)
    if target.exists():  # otherwise `old` may be the only whole checkpoint
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    fresh.rename(target)
    sync_folder(target.parent)
    if not keep_old:
        shutil.rmtree(old, ignore_errors=True)


def _is_ours(path: Path) -> bool:
    return path.is_dir() and ((path / MANIFEST).is_file() or not any(path.iterdir()))


# --- reading ---------------------------------------------------------------------------------------------


def _read_folder(folder: Path) -> dict[str, bytes]:
    entries = sorted(folder.iterdir())
    if MANIFEST not in (entry.name for entry in entries):
        _refuse(folder, f"no {MANIFEST}")
    if len(entries) > MAX_FILES:
        _refuse(folder, f"more than {MAX_FILES} files")
    for entry in entries:
        if not stat.S_ISREG(entry.lstat().st_mode):
            _refuse(folder, f"{entry.name!r} is not a plain file")
    return {entry.name: entry.read_bytes() for entry in entries}


def _read_zip(file: Path) -> dict[str, bytes]:
    with _refusing(file, "zip"), zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        _check_entries(entries, file.stat().st_size, file)
        if MANIFEST not in archive.namelist():
            _refuse(file, f"no {MANIFEST}")
        return {entry.filename: archive.read(entry) for entry in entries}


def _check_entries(entries: list[zipfile.ZipInfo], total: int, source: Path) -> None:
    """Refuse what a plain stored zip never holds; stored parts cannot unpack to more than the file has."""
    names = [entry.filename for entry in entries]
    if len(names) > MAX_FILES or len(set(names)) < len(names):
        _refuse(source, f"a name given twice or more than {MAX_FILES} files")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            _refuse(source, f"{entry.filename!r} is compressed")
        if entry.flag_bits & 0x1:
            _refuse(source, f"{entry.filename!r} is encrypted")
        if entry.is_dir() or stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            _refuse(source, f"{entry.filename!r} is not a plain file")
    if sum(entry.file_size for entry in entries) > total:
        _refuse(source, "it declares more bytes than it has")


def _checked_manifest(files: dict[str, bytes], source: Path) -> dict[str, Any]:
    """Return the manifest if it describes exactly the files that are there."""
    manifest: dict[str, Any] = from_json(files[MANIFEST], f"{source}: {MANIFEST}")
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if type(schema) is not int or schema < 1:
        _refuse(source, f"{MANIFEST} has no schema number")
    if schema > SCHEMA:
        writer = manifest.get("versions", {})
        version = writer.get("ode_rl", "unknown") if isinstance(writer, dict) else "unknown"
        raise UsageError(
            f"a checkpoint of schema {SCHEMA} or older",
            f"schema {schema} in {source}, written by a newer version ({version})",
            f"Install ode_rl {version} or later.",
        )
    parts, versions = manifest.get("parts"), manifest.get("versions")
    if not (isinstance(manifest.get("kind"), str) and isinstance(parts, dict) and isinstance(versions, dict)):
        _refuse(source, f"{MANIFEST} lacks kind, versions or parts")
    if bad := [name for name in parts if not PART_FILE.fullmatch(name)]:
        _refuse(source, f"{bad[0]!r} is not the name of a part")
    if odd := ({META} - set(parts)) | (set(parts) ^ (set(files) - {MANIFEST})):
        _refuse(source, f"{min(odd)!r} is listed or there, but not both")
    for name, listed in parts.items():
        if listed != {"bytes": len(files[name]), "sha256": _sha256(files[name])}:
            _refuse(source, f"{name!r} has another size or checksum than listed")
    return manifest


def _tensors(data: bytes, source: Path, name: str) -> Tensors:
    import safetensors.torch

    with _refusing(source, name):
        return safetensors.torch.load(data)


def _arrays(data: bytes, source: Path, name: str) -> Arrays:
    with _refusing(source, name), zipfile.ZipFile(io.BytesIO(data)) as archive:
        _check_entries(archive.infolist(), len(data), source)
        return {_stem(entry, ".npy"): _array(archive.read(entry)) for entry in archive.namelist()}


def _array(data: bytes) -> npt.NDArray[Any]:
    """Decode one array after its declared shape is known to fit the bytes that are there."""
    buffer = io.BytesIO(data)
    version = np.lib.format.read_magic(buffer)
    if version != (1, 0):
        raise ValueError(f"array format {version}")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(buffer)
    if dtype.kind not in NUMBERS:
        raise ValueError(f"dtype {dtype} instead of numbers")
    if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != len(data) - buffer.tell():
        raise ValueError(f"shape {shape} does not fit its bytes")
    flat: npt.NDArray[Any] = np.frombuffer(data, dtype, offset=buffer.tell())
    array: npt.NDArray[Any] = flat.reshape(shape, order="F" if fortran_order else "C").copy()
    return array


def _stem(name: str, suffix: str) -> str:
    if not name.endswith(suffix):
        raise ValueError(f"{name!r} does not end in {suffix}")
    return name[: -len(suffix)]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _refuse(source: Path, reason: str, cause: BaseException | None = None) -> NoReturn:
    remedy = "Use a copy that is not damaged."
    raise UsageError("a whole checkpoint of ode_rl", f"{source} ({reason})", remedy) from cause


@contextmanager
def _refusing(source: Path, name: str) -> Iterator[None]:
    """Turn whatever a parser says of damaged bytes into a refusal."""
    try:
        yield
    except UsageError:
        raise
    except PARSER_ERRORS as error:
        _refuse(source, f"{name}: {error}", error)
