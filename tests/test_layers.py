"""Rules about the source that no linter of the project knows: nothing that is read can run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for folder in ("ode_rl", "envs", "agents") for path in (ROOT / folder).rglob("*.py"))

BANNED_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
BANNED_CALLS = {
    "eval",
    "exec",
    "yaml.load",
    "yaml.load_all",
    "yaml.full_load",
    "yaml.unsafe_load",
    "torch.hub.load",
}


def imported_modules(tree: ast.Module) -> Iterator[str]:
    """Top-level name of every import, wherever in the file it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def full_names(tree: ast.Module) -> dict[str, str]:
    """Local name -> what was imported under it: `from torch import load as l` gives l: torch.load."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({a.asname: a.name for a in node.names if a.asname})
        elif isinstance(node, ast.ImportFrom):
            names.update({a.asname or a.name: f"{node.module}.{a.name}" for a in node.names})
    return names


def called_name(call: ast.Call, names: dict[str, str]) -> str:
    head, dot, tail = ast.unparse(call.func).partition(".")
    return names.get(head, head) + dot + tail


def is_true(call: ast.Call, keyword: str) -> bool:
    return any(k.arg == keyword and ast.unparse(k.value) == "True" for k in call.keywords)


def violations(source: str) -> list[str]:
    """What in `source` can run what it reads, or hides an error."""
    tree = ast.parse(source)
    names = full_names(tree)
    found = [f"import {module}" for module in imported_modules(tree) if module in BANNED_MODULES]
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append("bare except")
        elif isinstance(node, ast.Call):
            name = called_name(node, names)
            unsafe_load = name == "torch.load" and not is_true(node, "weights_only")
            if name in BANNED_CALLS or unsafe_load or is_true(node, "allow_pickle"):
                found.append(name)
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "def f():\n    import dill",
        "eval('1 + 1')",
        "import torch\ntorch.load('model.pt')",
        "import torch\ntorch.load('model.pt', weights_only=False)",
        "from torch import load\nload('model.pt')",
        "import torch as t\nt.load('model.pt')",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "import numpy as np\nnp.load('data.npz', allow_pickle=True)",
        "try:\n    f()\nexcept:\n    pass",
    ],
)
def test_the_scan_finds_what_it_looks_for(source: str) -> None:
    assert len(violations(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('model.pt', weights_only=True)",
        "import yaml\nyaml.safe_load(text)",
        "import numpy as np\nnp.load('data.npz')",
        "model.eval()",
        "try:\n    f()\nexcept ValueError:\n    pass",
    ],
)
def test_the_scan_lets_safe_code_pass(source: str) -> None:
    assert violations(source) == []


def test_the_scan_sees_all_three_folders() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == {"ode_rl", "envs", "agents"}


def test_nothing_in_the_package_can_run_what_it_reads_or_hides_errors() -> None:
    found = {str(path.relative_to(ROOT)): violations(path.read_text()) for path in SOURCES}
    assert {path: bad for path, bad in found.items() if bad} == {}


def test_only_integrate_knows_torchdiffeq() -> None:
    knowing = [p for p in SOURCES if "torchdiffeq" in set(imported_modules(ast.parse(p.read_text())))]
    assert [str(path.relative_to(ROOT)) for path in knowing] == ["ode_rl/integrate.py"]
