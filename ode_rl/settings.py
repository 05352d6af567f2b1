"""From plain dictionaries (YAML, JSON, keyword arguments) to frozen dataclasses and back."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from ode_rl.errors import UsageError

T = TypeVar("T")


def nearest(
    name: str, known: Iterable[str], n: int = 3, cutoff: float = 0.5, otherwise: str | None = None
) -> str:
    """A sentence that names what the user may have meant, or says `otherwise` (default: all there is)."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n, cutoff)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"Known: {', '.join(sorted(names))}." if otherwise is None else otherwise


def build(cls: type[T], settings: Mapping[str, Any], where: str = "") -> T:
    """Build the dataclass `cls` from nested settings; what is left out keeps its default.

    Raises:
        UsageError: for a name that `cls` does not have (with the nearest ones) or a value of a wrong type.
    """
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    values = {}
    for name, value in settings.items():
        path = f"{where}.{name}" if where else str(name)
        if name not in names:
            raise UsageError(f"a setting of {where or cls.__name__}", repr(path), nearest(str(name), names))
        values[name] = _convert(hints[name], value, path)
    return cls(**values)


def _convert(kind: Any, value: Any, path: str) -> Any:
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if isinstance(value, kind):
            return value
        if not isinstance(value, Mapping):
            raise UsageError(f"settings by name for {path}", repr(value), f"Write {path}={{...}}.")
        return build(kind, value, path)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, path)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise UsageError(f"a list for {path}", repr(value), f"Write {path}=[128, 128].")
        return tuple(_convert(args[0], v, path) for v in value)
    wrong = UsageError(f"{getattr(kind, '__name__', kind)} for {path}", repr(value), "Mend the value.")
    if kind is bool or isinstance(value, bool):
        if kind is bool and isinstance(value, bool):
            return value
        raise wrong
    if kind is float and isinstance(value, int | float):
        return float(value)
    if kind is float and value in ("inf", "Infinity"):
        return float("inf")
    if kind in (int, str) and isinstance(value, kind):
        return value
    raise wrong


def plain(settings: Any) -> Any:
    """A dataclass as nested dictionaries of JSON values; an infinite number becomes ``"inf"``."""
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        return {f.name: plain(getattr(settings, f.name)) for f in dataclasses.fields(settings)}
    if isinstance(settings, Mapping):
        return {str(k): plain(v) for k, v in settings.items()}
    if isinstance(settings, list | tuple):
        return [plain(v) for v in settings]
    if isinstance(settings, float) and settings == float("inf"):
        return "inf"
    return settings


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings `base` with those of `over` in their place."""
    out = dict(base)
    for name, value in over.items():
        both = isinstance(value, Mapping) and isinstance(out.get(name), Mapping)
        out[name] = merged(out[name], value) if both else value
    return out


def check_counts(config: Any, names: Iterable[str], usual: int, part: str = "") -> None:
    """Refuse settings of these `names` that are below 1; `part` is the group of settings that they are in.

    Raises:
        UsageError: naming the setting, and the `usual` number in its remedy.
    """
    for name in names:
        if getattr(config, name) < 1:
            remedy = f"{part}={{'{name}': {usual}}}" if part else f"{name}={usual}"
            raise UsageError(f"{name} >= 1", getattr(config, name), f"Write {remedy}.")


def check_widths(name: str, widths: tuple[int, ...]) -> None:
    """Refuse widths of hidden layers that are none.

    Raises:
        UsageError: naming the setting.
    """
    if min(widths, default=1) < 1:
        raise UsageError(f"widths >= 1 for {name}", list(widths), f"Write {name}=[128, 128].")
