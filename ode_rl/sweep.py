"""Many trainings at once, on the cores of this machine or on a cluster, with Ray."""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ode_rl.agents.registry import CHOICES, TAKES
from ode_rl.errors import UsageError
from ode_rl.files import read_json, replace_file
from ode_rl.run import RunFolder
from ode_rl.stops import Stops
from ode_rl.train import TrainConfig, asked_differs, check, resume, train
from ode_rl.user_code import load_known

RESULTS = "results.csv"
# Of the evaluation, in the table of results.
NUMBERS = ("mean_return", "std_return", "interquartile_mean", "success_rate", "return_per_second")
CONNECT_SECONDS = 5.0
# Bytes that Ray keeps for objects on this machine: trials hand over a few numbers.
OBJECT_STORE = 80 * 2**20


@dataclass(frozen=True)
class Resources:
    """What each trial gets."""

    cpus: int = 1
    """Cores, and threads."""
    gpus: float = 0.0
    """GPUs, or shares of one."""
    retries: int = 3
    """How many times a trial may lose its worker and go on from its checkpoint."""


@dataclass(frozen=True)
class Trial:
    """One training of a sweep; `varied` is what sets it apart besides task, agent and seed."""

    config: TrainConfig
    known: str | None
    """``module:object`` of what is known of the task."""
    varied: dict[str, str]

    @property
    def run_dir(self) -> Path:
        """Its run folder, whose name says what it is: the same sweep again goes on with it."""
        return Path(str(self.config.run_dir))

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.run_dir.name


@dataclass
class Outcome:
    """How far a trial has come: waiting, running, done or failed."""

    trial: Trial
    state: str = "waiting"
    message: str = ""
    evaluation: dict[str, Any] = field(default_factory=dict)


Watch = Callable[[Sequence[Outcome]], None]


def make_trials(
    env_ids: Sequence[str],
    agents: Sequence[str],
    seeds: Sequence[int],
    varied: Mapping[str, Sequence[str]],
    folder: Path,
    parse: Callable[[str, str, int, Mapping[str, str]], tuple[TrainConfig, str | None]],
) -> list[Trial]:
    """Every task with every agent, seed and combination of varied settings.

    `parse` reads these as ``ode-rl train`` would. A setting that an agent has no use for is left out for it.
    """
    trials: dict[str, Trial] = {}
    combinations = [dict(zip(varied, values, strict=True)) for values in itertools.product(*varied.values())]
    for env_id, agent, setting, seed in itertools.product(env_ids, agents, combinations, seeds):
        taken = {k: v for k, v in setting.items() if k not in CHOICES or k in TAKES.get(agent, ())}
        config, known = parse(env_id, agent, seed, taken)
        parts = [env_id, agent, *(f"{name}-{value}" for name, value in taken.items()), str(seed)]
        name = re.sub(r"[^\w.-]", "-", "__".join(parts), flags=re.ASCII)
        trials[name] = Trial(replace(config, run_dir=str(folder / name), progress=False), known, taken)
    return list(trials.values())


def check_trials(trials: Sequence[Trial]) -> None:
    """Find out before any starts what could not be trained.

    Raises:
        UsageError: for bad settings, or a folder that holds a run of other settings.
    """
    for trial in {(t.config.env_id, t.config.agent, *t.varied.items()): t for t in trials}.values():
        load_known(trial.known)
        check(trial.config)
    for trial in trials:
        if _begun(trial.run_dir) and asked_differs(RunFolder.open(trial.run_dir), trial.config):
            got = f"{trial.run_dir}, which was trained with others"
            raise UsageError("a sweep with the settings of its folder", got, "Choose another --dir.")


def run_sweep(
    trials: Sequence[Trial],
    folder: Path,
    resources: Resources | None = None,
    address: str | None = None,
    cpus: int | None = None,
    watch: Watch | None = None,
) -> list[Outcome]:
    """Train all, and write ``results.csv`` whenever one ends; trials that were cut off go on.

    `address` is that of a running Ray cluster, whose machines share `folder`; without one, Ray is started
    here for `cpus` cores (default: all). Ray decides what runs where and when, and starts a trial again whose
    worker died. `watch` sees how it goes, about once a second.

    Raises:
        UsageError: if there is no cluster at the address, or Ray is not installed.
    """
    outcomes = [Outcome(trial) for trial in trials]
    for outcome in outcomes:
        _take_finished(outcome)
    waiting = [outcome for outcome in outcomes if outcome.state == "waiting"]
    if waiting:
        with _cluster(address, cpus) as ray:
            folder.mkdir(parents=True, exist_ok=True)
            for _ in _ended(ray, waiting, resources or Resources()):
                _write_results(folder / RESULTS, outcomes)
                if watch is not None:
                    watch(outcomes)
    _write_results(folder / RESULTS, outcomes)
    if watch is not None:
        watch(outcomes)
    return outcomes


def run_trial(config: TrainConfig, known: str | None, threads: int, workplace: str) -> dict[str, Any]:
    """Train one trial, or go on with it, in a worker; returns its evaluation."""
    import torch

    torch.set_num_threads(threads)
    if os.path.isdir(workplace):  # where modules of the user are found
        os.chdir(workplace)
    run_dir = Path(str(config.run_dir))
    try:
        if _begun(run_dir):
            resume(run_dir, load_known(known), video=config.video, progress=False, say=_silent)
        else:
            shutil.rmtree(run_dir, ignore_errors=True)  # a worker that died before the first line
            train(replace(config, known=load_known(known)), say=_silent)
    except KeyboardInterrupt:
        # A machine that goes away asks politely. For Ray this worker has died: the trial goes on elsewhere.
        os._exit(143)
    evaluation: dict[str, Any] = read_json(RunFolder(run_dir).evaluation)
    return evaluation


# --- Ray ---------------------------------------------------------------------------------------------------


def _ended(ray: Any, outcomes: Sequence[Outcome], resources: Resources) -> Iterator[None]:
    """Submit the trials; yields whenever one has ended, and every second."""
    remote = ray.remote(
        num_cpus=resources.cpus,
        num_gpus=resources.gpus,
        max_retries=resources.retries,
        retry_exceptions=False,
    )(run_trial)
    pending = {}
    for outcome in outcomes:
        trial = outcome.trial
        absolute = replace(trial.config, run_dir=str(trial.run_dir.absolute()))
        pending[remote.remote(absolute, trial.known, resources.cpus, os.getcwd())] = outcome
    while pending:
        done, _ = ray.wait(list(pending), num_returns=1, timeout=1.0)
        for each in done:
            _take_result(ray, each, pending.pop(each))
        for outcome in pending.values():
            outcome.state = "running" if _begun(outcome.trial.run_dir) else "waiting"
        yield


def _take_result(ray: Any, result: Any, outcome: Outcome) -> None:
    try:
        outcome.evaluation, outcome.state = ray.get(result), "done"
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, UsageError) else error
        outcome.state, outcome.message = "failed", str(cause).strip().splitlines()[-1]
    except ray.exceptions.RayError as error:
        outcome.state, outcome.message = "failed", f"{type(error).__name__}: {str(error).splitlines()[0]}"


@contextmanager
def _cluster(address: str | None, cpus: int | None) -> Iterator[Any]:
    """Ray, connected to a cluster or to one of its own."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        remedy = "Run pip install 'ode-rl[ray]'."
        raise UsageError("the package ray for sweeps", str(error), remedy) from error
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        here: dict[str, Any] = {"num_cpus": cpus, "include_dashboard": False}
        ray.init(address="local", object_store_memory=OBJECT_STORE, **here, **quiet)
    else:
        _connect(ray, address, quiet)
    stops = Stops()
    try:
        with stops.installed():  # Ray's own handler would end the program with another code
            yield ray
    except KeyboardInterrupt:
        if stops.asked():  # Ray forgets which signal it was
            stops.leave()
        raise
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str, quiet: Mapping[str, Any]) -> None:
    remedy = "Write --address HOST:PORT as `ray start --head` said it, or leave it out."
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        if host and port.isdigit():  # Ray itself waits for a minute
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(f"a Ray cluster at {address}", f"none ({reason})", remedy) from error


# --- results -----------------------------------------------------------------------------------------------


def _begun(run_dir: Path) -> bool:
    """Whether a training has written what it is."""
    config = RunFolder(run_dir).config
    return config.is_file() and config.stat().st_size > 0


def _take_finished(outcome: Outcome) -> None:
    run = RunFolder(outcome.trial.run_dir)
    if _begun(run.path) and run.evaluation.is_file() and run.learning_curve.is_file():
        outcome.evaluation, outcome.state = read_json(run.evaluation), "done"


def _write_results(path: Path, outcomes: Sequence[Outcome]) -> None:
    varied = dict.fromkeys(name for outcome in outcomes for name in outcome.trial.varied)
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(["env_id", "agent", "seed", *varied, "state", *NUMBERS, "run_dir", "message"])
    for outcome in outcomes:
        config = outcome.trial.config
        own: Iterable[Any] = (outcome.trial.varied.get(name, "") for name in varied)
        numbers = (outcome.evaluation.get(name) for name in NUMBERS)
        about = (config.env_id, config.agent, config.seed)
        table.writerow([*about, *own, outcome.state, *numbers, config.run_dir, outcome.message])
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, buffer.getvalue().encode())


def _silent(_: str) -> None:
    """Workers have nobody to tell."""
