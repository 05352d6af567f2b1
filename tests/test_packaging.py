"""What a user gets from the wheel, and what `import ode_rl` does and does not do."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ode_rl.envs import registration

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
FOLDERS = {"ode_rl": ROOT / "ode_rl", "ode_rl.envs": ROOT / "envs", "ode_rl.agents": ROOT / "agents"}
PACKAGES = ["ode_rl", "ode_rl.envs", "ode_rl.agents"]


def source_files() -> dict[str, Path]:
    """Path inside site-packages -> file of the repository, for everything that is to be installed."""
    files = {}
    for name, folder in FOLDERS.items():
        for parent, subfolders, names in os.walk(folder):  # does not follow the links in ode_rl/
            subfolders[:] = [sub for sub in subfolders if sub != "__pycache__"]
            for path in (Path(parent) / file for file in names):
                if path.suffix not in {".pyc", ".pyo"}:
                    files[f"{name.replace('.', '/')}/{path.relative_to(folder).as_posix()}"] = path
    return files


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def run_python(code: str, cwd: Path, *path: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` in a new interpreter with `path` in front of everything installed."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the contents of the wheel, as pip would install them."""
    pytest.importorskip("setuptools", "77", reason="building without isolation needs the build backend")
    work = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*command, "--no-build-isolation", "-w", str(work), str(clone_of_sources(work / "clone"))],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = work.glob("ode_rl-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(work / "site")
    return work / "site"


def clone_of_sources(clone: Path) -> Path:
    """A copy to build from, because setuptools writes build/ and *.egg-info beside the sources."""
    for path in [*source_files().values(), *(ROOT / n for n in ("pyproject.toml", "README.md", "LICENSE"))]:
        copy = clone / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    for name in ("envs", "agents"):
        (clone / "ode_rl" / name).symlink_to(Path("..") / name)
    return clone


def test_the_listed_packages_are_the_folders_with_python_files() -> None:
    files = source_files()
    found = {str(Path(name).parent) for name in files if name.endswith(".py")}
    assert sorted(SETUPTOOLS["packages"]) == sorted(folder.replace("/", ".") for folder in found)
    assert not [folder for folder in found if f"{folder}/__init__.py" not in files]


def test_the_tested_set_pins_every_direct_dependency_within_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    version = {p.name: str(p.specifier)[2:] for p in pins if p.marker is None or p.marker.evaluate()}
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    used = [line for name in ("test", "video", "contrib", "ray") for line in extras[name]]
    for line in project["dependencies"] + used:
        need = Requirement(line)
        if need.name != project["name"] and (need.marker is None or need.marker.evaluate()):
            assert need.specifier.contains(version[canonicalize_name(need.name)]), line


def test_the_links_lead_to_the_mapped_folders() -> None:
    for name, folder in SETUPTOOLS["package-dir"].items():
        assert (ROOT / name.replace(".", "/")).resolve() == (ROOT / folder).resolve()


def test_the_wheel_holds_every_file_of_the_package(site: Path) -> None:
    installed = {p.relative_to(site).as_posix() for p in (site / "ode_rl").rglob("*") if p.is_file()}
    assert installed == set(source_files())
    assert [p.name for p in site.iterdir() if p.suffix != ".dist-info"] == ["ode_rl"]


def test_every_module_of_the_wheel_imports_from_another_directory(site: Path, tmp_path: Path) -> None:
    names = [module_name(path) for path in source_files() if path.endswith(".py")]
    code = f"""
import importlib, pathlib, sys
for name in {names!r}:
    file = importlib.import_module(name).__file__
    assert pathlib.Path(file).is_relative_to({str(site)!r}), file
"""
    done = run_python(code, tmp_path, site)
    assert done.returncode == 0, done.stderr


def test_a_users_own_envs_and_agents_folders_do_not_break_ours(site: Path, tmp_path: Path) -> None:
    for name in ("envs", "agents"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OWNER = 'user'")
    code = """
import envs, agents, ode_rl.envs, ode_rl.agents
assert envs.OWNER == agents.OWNER == "user"
assert not hasattr(ode_rl.envs, "OWNER") and not hasattr(ode_rl.agents, "OWNER")
"""
    for places in ([tmp_path, site], [site, tmp_path]):
        done = run_python(code, tmp_path, *places)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["envs", "agents"])
def test_the_bare_name_is_refused_with_the_right_spelling(name: str) -> None:
    done = run_python(f"import {name}", ROOT)
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: expected `import ode_rl.{name}`")


def test_import_ode_rl_loads_nothing_heavy(tmp_path: Path) -> None:
    code = """
import sys, ode_rl, ode_rl.envs, ode_rl.agents
heavy = {"torch", "mujoco", "stable_baselines3", "matplotlib", "tensorboard"} & set(sys.modules)
assert not heavy, heavy
"""
    done = run_python(code, tmp_path, ROOT)
    assert done.returncode == 0, done.stderr


def test_import_ode_rl_registers_every_environment_id() -> None:
    missing = set(registration.SPECS) - set(gym.registry)
    assert not missing
    assert all(isinstance(kwargs["entry_point"], str) for kwargs in registration.SPECS.values())


def test_registering_twice_keeps_what_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registration.SPECS, "ode_rl/OnlyHere-v0", {"entry_point": "nowhere:Env"})
    try:
        registration.register_all()
        first = gym.spec("ode_rl/OnlyHere-v0")
        registration.register_all()
        assert gym.spec("ode_rl/OnlyHere-v0") is first
    finally:
        gym.registry.pop("ode_rl/OnlyHere-v0", None)


def imports_for_type_checkers(package: Any) -> dict[str, str]:
    tree = ast.parse(Path(package.__file__).read_text())
    blocks = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    imports = [n for block in blocks for n in block.body if isinstance(n, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


@pytest.mark.parametrize("name", PACKAGES)
def test_public_names_are_loaded_from_where_type_checkers_see_them(name: str) -> None:
    package = import_module(name)
    homes = package._HOME
    assert imports_for_type_checkers(package) == homes
    for public, home in homes.items():
        assert getattr(package, public) is getattr(import_module(home), public)
        assert public in dir(package)


@pytest.mark.parametrize("name", PACKAGES)
def test_no_public_name_is_also_a_module(name: str) -> None:
    # The first import of the module would replace the name.
    modules = {module_name(path) for path in source_files() if path.endswith(".py")}
    assert not {public for public in import_module(name)._HOME if f"{name}.{public}" in modules}


@pytest.mark.parametrize("name", PACKAGES)
def test_an_unknown_name_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = import_module(name).no_such_name
