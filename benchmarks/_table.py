"""The table that all benchmarks write: one CSV a topic, grown row by row, finished rows skipped."""

from __future__ import annotations

import csv
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from ode_rl.versions import installed_versions

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Result:
    """One measured number; `asked` and `ok` are empty where nothing was asked."""

    row: str
    task: str
    agent: str
    model: str
    seed: str
    dt_ratio: str
    metric: str
    value: float
    unit: str
    asked: str
    ok: str
    command: str
    versions: str


COLUMNS = [f.name for f in fields(Result)]


def processor() -> str:
    """Name of the processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def setting() -> str:
    """What an absolute time stands beside: processor, threads and versions."""
    found = installed_versions()
    names = ("ode_rl", "torch", "gymnasium", "mujoco", "stable_baselines3")
    versions = " ".join(f"{name} {found[name]}" for name in names if name in found)
    return f"{processor()}; {torch.get_num_threads()} threads; python {platform.python_version()} {versions}"


def read(path: Path) -> list[dict[str, str]]:
    """All results so far."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append(path: Path, results: Iterable[Result]) -> None:
    """Add results at the end of the table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.is_file()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        for result in results:
            row = asdict(result)
            writer.writerow(row | {"value": f"{result.value:.6g}"})


def is_done(path: Path, **key: str) -> bool:
    """Whether a result with these columns is there."""
    return any(all(row[name] == value for name, value in key.items()) for row in read(path))
