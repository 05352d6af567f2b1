"""Settings: from plain dictionaries to dataclasses and back, with a name for every mistake."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from ode_rl.agents.mpc_config import MPCConfig
from ode_rl.errors import UsageError
from ode_rl.settings import build, merged, nearest, plain


@dataclass(frozen=True)
class Inner:
    widths: tuple[int, ...] = (8, 8)
    rate: float = 0.5
    limit: float = math.inf


@dataclass(frozen=True)
class Outer:
    count: int = 3
    name: str = "a"
    fast: bool = False
    horizon: float | None = None
    inner: Inner = field(default_factory=Inner)


def test_what_is_left_out_keeps_its_default() -> None:
    assert build(Outer, {}) == Outer()
    assert build(Outer, {"inner": {"rate": 0.25}}) == Outer(inner=Inner(rate=0.25))


def test_values_take_the_types_of_their_fields() -> None:
    built = build(Outer, {"horizon": 1, "inner": {"widths": [4, 2], "rate": 1, "limit": "inf"}})
    assert built == Outer(horizon=1.0, inner=Inner((4, 2), 1.0, math.inf))
    assert type(built.horizon) is float
    assert type(built.inner.widths) is tuple
    assert build(Outer, {"horizon": None}).horizon is None
    assert build(Outer, {"inner": Inner(rate=0.1)}).inner == Inner(rate=0.1)


UNKNOWN: list[tuple[dict[str, Any], list[str]]] = [
    ({"cuont": 1}, ["'cuont'", "Did you mean count?"]),
    ({"zzz": 1}, ["'zzz'", "Known: count, fast, horizon, inner, name."]),
    ({"inner": {"ratee": 1}}, ["'inner.ratee'", "Did you mean rate?", "a setting of inner"]),
]


@pytest.mark.parametrize(("settings", "named"), UNKNOWN)
def test_an_unknown_name_is_refused_with_its_path_and_the_nearest(
    settings: dict[str, Any], named: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        build(Outer, settings)
    assert all(part in str(caught.value) for part in named)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"count": 1.5}, "int for count"),
    ({"count": "3"}, "int for count"),
    ({"count": True}, "int for count"),
    ({"count": None}, "int for count"),
    ({"name": 3}, "str for name"),
    ({"fast": 1}, "bool for fast"),
    ({"fast": "yes"}, "bool for fast"),
    ({"horizon": "long"}, "float for horizon"),
    ({"horizon": False}, "float for horizon"),
    ({"inner": 3}, "settings by name for inner"),
    ({"inner": {"widths": 8}}, "a list for inner.widths"),
    ({"inner": {"widths": "88"}}, "a list for inner.widths"),
    ({"inner": {"widths": [8, 2.5]}}, "int for inner.widths"),
    ({"inner": {"rate": "fast"}}, "float for inner.rate"),
]


@pytest.mark.parametrize(("settings", "named"), WRONG)
def test_a_value_of_a_wrong_type_is_refused_by_its_path(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        build(Outer, settings)


@pytest.mark.parametrize(
    "settings",
    [
        Outer(),
        Outer(7, "b", True, 0.5, Inner((1,), 2.0, 3.0)),
        MPCConfig(),
        build(MPCConfig, {"horizon": 0.4, "model": {"solver": {"method": "rk4", "max_step": 0.05}}}),
    ],
)
def test_settings_survive_the_way_to_json_and_back(settings: Any) -> None:
    text = json.dumps(plain(settings), allow_nan=False)
    assert build(type(settings), json.loads(text)) == settings


def test_plain_settings_are_json_values_all_the_way_down() -> None:
    assert plain(Outer()) == {
        "count": 3,
        "name": "a",
        "fast": False,
        "horizon": None,
        "inner": {"widths": [8, 8], "rate": 0.5, "limit": "inf"},
    }


def test_merging_replaces_only_what_is_named_and_changes_neither_side() -> None:
    base = {"a": 1, "inner": {"x": 1, "y": 2}}
    over = {"inner": {"y": 3}, "b": 4}
    assert merged(base, over) == {"a": 1, "b": 4, "inner": {"x": 1, "y": 3}}
    assert base == {"a": 1, "inner": {"x": 1, "y": 2}}
    assert over == {"inner": {"y": 3}, "b": 4}
    assert merged({"inner": {"x": 1}}, {"inner": 5}) == {"inner": 5}


def test_the_nearest_names_are_offered_or_all_of_them() -> None:
    assert nearest("planer", ["planner", "value"]) == "Did you mean planner?"
    assert nearest("q", ["planner", "value"]) == "Known: planner, value."
