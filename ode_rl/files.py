"""Files that are either whole or not there: written beside their place, synced, then renamed."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from ode_rl.errors import UsageError

MAX_JSON_BYTES = 64 * 2**20
MAX_JSON_DEPTH = 64


def write_synced(path: Path, data: bytes) -> None:
    """Write `data` to `path` and wait until the disk has it."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Wait until the disk has what was written to a file so far."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in a folder, so that a rename survives a power cut."""
    if os.name == "nt":  # Windows opens no folders, and syncs names with the files
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` so that a reader sees either the whole old file or the whole new one."""
    fresh = path.with_name(path.name + ".new")
    write_synced(fresh, data)
    os.replace(fresh, path)
    sync_folder(path.parent)


def to_json(value: Any) -> bytes:
    """Encode a value as JSON that every reader accepts: no NaN, no Infinity.

    Raises:
        UsageError: if the value holds something that JSON cannot say.
    """
    try:
        text = json.dumps(value, indent=2, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            "finite numbers, text, lists and dicts, which JSON can hold", error, "Leave it out or use None."
        ) from error
    return (text + "\n").encode()


def from_json(data: bytes, source: object) -> Any:
    """Decode JSON of bounded size and depth, without NaN and without keys given twice.

    Raises:
        UsageError: naming `source`, if `data` is anything else.
    """
    try:
        if len(data) > MAX_JSON_BYTES:
            raise ValueError(f"{len(data)} bytes, more than {MAX_JSON_BYTES}")
        value = json.loads(data, parse_constant=_no_constant, object_pairs_hook=_unique_keys)
        if _deeper_than(value, MAX_JSON_DEPTH):
            raise ValueError(f"more than {MAX_JSON_DEPTH} levels")
    except RecursionError as error:
        raise _not_json(source, f"more than {MAX_JSON_DEPTH} levels") from error
    except ValueError as error:  # also bad UTF-8 and bad syntax
        raise _not_json(source, str(error)) from error
    return value


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that is either whole or untouched."""
    replace_file(path, to_json(value))


def read_json(path: Path) -> Any:
    """Read a JSON file that may have been written by anybody.

    Raises:
        UsageError: if it cannot be read or is not plain JSON.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        got = f"{path} ({error.strerror})"
        raise UsageError("a JSON file that can be read", got, "Check the path.") from error
    return from_json(data, path)


def _not_json(source: object, reason: str) -> UsageError:
    return UsageError("plain JSON", f"{source} ({reason})", "Use a copy that is not damaged.")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a key is given twice")
    return result


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        level = [child for node in level for child in _children(node)]
        if not level:
            return False
    return True


def _children(node: Any) -> list[Any]:
    if isinstance(node, float) and not math.isfinite(node):  # 1e999 parses as infinity
        raise ValueError("a number is too large")
    return list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
