"""A run folder: where one training leaves everything that it did."""

from __future__ import annotations

import csv
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
from typing import Any

from ode_rl.checkpoint import existing_checkpoint, older_checkpoint, read_checkpoint
from ode_rl.errors import UsageError
from ode_rl.files import read_json, sync_file, write_json
from ode_rl.versions import installed_versions

SCHEMA = 1
CONFIG = "config.json"
RUNS = Path("runs")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Episode:
    """One row of ``episodes.csv``: a finished training episode."""

    episode: int
    """Number of the episode, from 1."""
    env_steps: int
    """Environment steps of the whole training so far."""
    sim_seconds: float
    """Simulated seconds of the whole training so far."""
    episode_return: float
    """Sum of the rewards (column ``return``)."""
    length: int
    """Steps of this episode."""
    terminated: bool
    """Whether the task ended it, rather than a time limit (column: 0 or 1)."""
    wall_s: float
    """Seconds of real time since the training started."""


COLUMNS = tuple("return" if field.name == "episode_return" else field.name for field in fields(Episode))


class RunFolder:
    """The paths of one run, and the files that it appends to.

    Use :meth:`create` for a new run and :meth:`open` for one that exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / CONFIG
        self.versions = path / "versions.json"
        self.episodes = path / "episodes.csv"
        self.monitor = path / "0.monitor.csv"
        self.evaluations = path / "evaluations.npz"
        self.tensorboard = path / "tb"
        self.checkpoint = path / "checkpoint"
        self.evaluation = path / "evaluation.json"
        self.learning_curve = path / "learning_curve.png"
        self.video = path / "video.mp4"

    @classmethod
    def create(
        cls, env_id: str, agent: str, seed: int, run_dir: str | os.PathLike[str] | None = None
    ) -> RunFolder:
        """Make a new run folder: `run_dir`, or ``runs/<env>__<agent>__<seed>__<utc>``.

        A name that is taken gets the suffix ``-2``, ``-3``, ...; an empty folder is not taken.

        Raises:
            UsageError: if the folder cannot be made or written.
        """
        wanted = Path(run_dir) if run_dir is not None else RUNS / run_name(env_id, agent, seed)
        try:
            run = cls(_claim(wanted))
            write_json(run.versions, installed_versions())
            run._write_header()
        except (OSError, ValueError) as error:  # a name may hold what no file system takes
            raise UsageError(
                "a run folder that can be written",
                f"{str(wanted)!r} ({getattr(error, 'strerror', error)})",
                "Choose another place with --run-dir DIR.",
            ) from error
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """Open the run folder that a training left at `path`.

        Raises:
            UsageError: if there is none, or if a newer version of ode_rl wrote it.
        """
        run = cls(Path(path))
        if not run.path.is_dir():
            raise UsageError("a run folder", f"{path}, which is not a folder", "Look for it with `ls runs`.")
        if not run.config.is_file():
            raise UsageError("a run folder", f"{path}, which has no {CONFIG}", _inside(run.path))
        run.read_config()
        return run

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write ``config.json``: everything that was resolved for this run."""
        write_json(self.config, {"schema": SCHEMA, **config})

    def read_config(self) -> dict[str, Any]:
        """Read ``config.json``.

        Raises:
            UsageError: if it is damaged or from a newer version.
        """
        if not self.config.stat().st_size:
            raise UsageError("a run that has begun", f"{self.path}, which ended before", "Train again.")
        config = read_json(self.config)
        schema = config.get("schema") if isinstance(config, dict) else None
        if type(schema) is int and schema > SCHEMA:
            raise UsageError(
                f"a run folder of schema {SCHEMA} or older",
                f"schema {schema} in {self.config}",
                "Install the newer version of ode_rl that wrote it (see versions.json).",
            )
        if type(schema) is not int or schema < 1:
            raise UsageError("a run folder", f"{self.config} without a schema number", "Train again.")
        return {key: value for key, value in config.items() if key != "schema"}

    def append_episode(self, episode: Episode) -> None:
        """Append one row to ``episodes.csv``; a reader at any time sees whole rows."""
        row = [int(value) if isinstance(value, bool) else value for value in astuple(episode)]
        with open(self.episodes, "a", newline="") as file:
            csv.writer(file).writerow(row)

    def read_episodes(self) -> list[Episode]:
        """Read ``episodes.csv``.

        Raises:
            UsageError: if it is damaged.
        """
        try:
            with open(self.episodes, newline="") as file:
                return [_episode(row) for row in csv.DictReader(file)]
        except (OSError, csv.Error, KeyError, TypeError, ValueError) as error:
            remedy = "Use a copy that is not damaged."
            raise UsageError("whole rows of episodes", f"{self.episodes} ({error!r})", remedy) from error

    def positions(self) -> dict[str, int]:
        """Bytes of each file that only grows, once the disk has them: what a checkpoint knows of."""
        found = {}
        for path in self._growing():
            sync_file(path)
            found[path.relative_to(self.path).as_posix()] = path.stat().st_size
        return found

    def cut_back(self, positions: Mapping[str, int]) -> None:
        """Bring the files that only grow back to `positions`: what was written later will be lived again."""
        for path in self._growing():
            size = positions.get(path.relative_to(self.path).as_posix())
            if size is None:
                path.unlink()
            elif path.stat().st_size > size:
                os.truncate(path, size)
            elif path.stat().st_size < size:
                log.warning("%s is shorter than its checkpoint knows it: rows are missing", path)

    def begin_anew(self) -> None:
        """Remove what a training recorded and no checkpoint knows of: the run starts at step 0."""
        self.cut_back({})
        self.evaluations.unlink(missing_ok=True)
        self._write_header()

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the run for this process.

        Raises:
            UsageError: if another process holds it.
        """
        if os.name == "nt":  # no such locks there
            yield
            return
        import fcntl

        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                remedy = "Wait until it has ended, or stop it."
                got = f"{self.path}, which a process is writing"
                raise UsageError("a run that nobody is working on", got, remedy) from error
            except OSError as error:  # some network file systems have no locks
                log.warning("%s cannot be locked (%s): start no second process on it", self.path, error)
            yield
        finally:
            os.close(descriptor)

    def _growing(self) -> list[Path]:
        found = [self.episodes, *self.path.glob("*.monitor.csv"), *self.tensorboard.rglob("*")]
        return sorted(path for path in found if path.is_file() and not path.is_symlink())

    def _write_header(self) -> None:
        with open(self.episodes, "x", newline="") as file:
            csv.writer(file).writerow(COLUMNS)

    def newest_checkpoint(self) -> Path:
        """Return where the newest checkpoint lies.

        Raises:
            UsageError: if the run has none yet.
        """
        try:
            return existing_checkpoint(self.checkpoint)
        except UsageError as error:
            remedy = "The first one comes after the first episode: train for longer."
            raise UsageError("a run with a checkpoint", f"none in {self.path}", remedy) from error

    def checkpoint_to_resume(self) -> Path | None:
        """Return where the newest whole checkpoint lies, None if none was ever written.

        A damaged one is set aside as ``checkpoint.damaged`` if the one before it is whole.

        Raises:
            UsageError: if there are some and all are damaged.
        """
        newest, older = self.checkpoint, older_checkpoint(self.checkpoint)
        if not newest.exists():
            return older if older.exists() and read_checkpoint(older) else None
        try:
            read_checkpoint(newest)
        except UsageError as error:
            if not older.exists():
                raise
            read_checkpoint(older)
            aside = newest.with_name(newest.name + ".damaged")
            log.warning("%s The one before it is taken; this one is kept as %s.", error, aside)
            shutil.rmtree(aside, ignore_errors=True)
            newest.rename(aside)  # it must not take the place of the whole one
            return older
        return newest

    def discard(self) -> None:
        """Remove the folder: a run that never began leaves nothing."""
        shutil.rmtree(self.path, ignore_errors=True)


def run_name(env_id: str, agent: str, seed: int) -> str:
    """Return ``<env>__<agent>__<seed>__<utc>`` with only letters, digits and ``._-`` in it."""
    utc = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    return re.sub(r"[^\w.-]", "-", f"{env_id}__{agent}__{seed}__{utc}", flags=re.ASCII)


def _episode(row: Mapping[str, str]) -> Episode:
    return Episode(
        int(row["episode"]),
        int(row["env_steps"]),
        float(row["sim_seconds"]),
        float(row["return"]),
        int(row["length"]),
        row["terminated"] == "1",
        float(row["wall_s"]),
    )


def _claim(wanted: Path) -> Path:
    """Take the first free name: of two runs, the one that creates its config file has the folder."""
    for number in count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                continue
            with open(folder / CONFIG, "xb"):
                return folder
        except FileExistsError:
            continue
    raise AssertionError("count() never ends")


def _inside(folder: Path) -> str:
    """Return a remedy that names the newest run inside `folder`, if there is one."""
    runs = sorted(folder.glob(f"*/{CONFIG}"), key=lambda path: path.stat().st_mtime)
    return f"Did you mean {runs[-1].parent}?" if runs else "Look for it with `ls runs`."
