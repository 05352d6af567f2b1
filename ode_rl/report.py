"""The report on the world model of a run: numbers, figures and a video from episodes it has not seen."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ode_rl import report_plots
from ode_rl.envs.learned_world import LearnedWorld
from ode_rl.envs.stage import CannotRender
from ode_rl.envs.task_timing import Timing
from ode_rl.errors import UsageError
from ode_rl.files import write_json
from ode_rl.held_out import HeldOutTask, agent_policy
from ode_rl.imagined_return import both_returns, imagined_world
from ode_rl.imagined_video import write_imagined_video
from ode_rl.known import Known
from ode_rl.load_agent import LoadedAgent, load_agent
from ode_rl.model_quality import (
    HORIZONS,
    calibration_quality,
    horizon_quality,
    interval_quality,
    reward_quality,
    solver_quality,
    termination_quality,
)
from ode_rl.open_loop import OpenLoop, one_interval, open_loop
from ode_rl.run import RunFolder
from ode_rl.state import STATE_SPECS
from ode_rl.types import Agent, Trajectory
from ode_rl.world_model import WorldModel

SCHEMA = 1
# Far from the seeds of trainings and of evaluations.
REPORT_SEED = 2_000_000
RATIOS = (0.25, 0.5, 1.0, 2.0, 4.0)
STARTS_PER_EPISODE = 8
VIDEO_CLIPS = 3
AGENT, RANDOM = "agent with its exploration", "random actions"

logger = logging.getLogger(__name__)


class NoWorldModel(UsageError):
    """A run whose agent has none to measure."""


@dataclass(frozen=True)
class _Data:
    """Episode i of each kind began with seed ``seeds[i]`` of its list."""

    agent: list[Trajectory]
    random: list[Trajectory]
    by_ratio: list[tuple[float, list[Trajectory]]]
    """(ratio asked for, episodes) at other intervals."""
    left_out: list[dict[str, Any]]
    native: float

    @property
    def both(self) -> list[Trajectory]:
        return self.agent + self.random


def write_report(
    run: RunFolder | str | os.PathLike[str],
    episodes: int = 6,
    seed: int = REPORT_SEED,
    device: str = "auto",
    video: bool = True,
    known: Known | None = None,
) -> Path:
    """Write ``RUN/report/`` (``report.json``, figures, a video) and return it; an older one is replaced.

    Of a run without a world model of its own, but in an imagined world, it says the returns there and in
    the real task.

    `episodes` are recorded with the agent acting as in training and as many with random actions, from seeds
    `seed` on, then replayed at other intervals. `known` are the functions that the run was trained with.

    Raises:
        NoWorldModel: for a run of an agent without a world model.
        UsageError: for a folder that is no run or cannot be written, a model that was never fitted, or fewer
            than two episodes.
    """
    if episodes < 2:
        got = f"{episodes}; bands are set on one half and judged on the other"
        raise UsageError("at least two episodes", got, "Write --episodes 6.")
    folder = run.path if isinstance(run, RunFolder) else RunFolder.open(Path(run)).path
    if not os.access(folder, os.W_OK):
        raise UsageError("a run folder that can be written", folder, "Change its rights, or copy the run.")
    loaded = load_agent(str(folder), device, known)
    env_id = str(loaded.env_id)
    if not isinstance(getattr(loaded.agent, "model", None), WorldModel) and (
        world := imagined_world(env_id, loaded.timing)
    ):
        with _whole_folder(folder / "report") as into:
            _write_returns(into, loaded, world, episodes, seed)
        return folder / "report"
    model = _model_of(loaded.agent, folder)
    with _whole_folder(folder / "report") as into:
        with HeldOutTask(env_id, loaded.timing) as task:
            data = _collect(task, loaded.agent, episodes, seed)
        _write(into, model, loaded.agent, data, env_id, loaded.timing, seed, video)
    return folder / "report"


def _write_returns(into: Path, loaded: LoadedAgent, world: LearnedWorld, episodes: int, seed: int) -> None:
    both = both_returns(loaded.agent, world, episodes, seed)
    if both is None:
        raise UsageError("an imagined world of a task with an id", "none", "Train in one of a run.")
    title = f"{loaded.name}  ·  {world.env_id}"
    returns = {name: evaluation.returns for name, evaluation in both._asdict().items()}
    report_plots.plot_returns(into / "returns.png", returns, title)
    about = {"schema": SCHEMA, "env_id": loaded.env_id, "agent": loaded.name, "seed": seed}
    write_json(into / "report.json", {**about, **both.to_json(), "figures": ["returns.png"]})


def _write(
    into: Path,
    model: WorldModel,
    agent: Agent,
    data: _Data,
    env_id: str,
    timing: Timing,
    seed: int,
    video: bool,
) -> None:
    title = f"{env_id}  ·  {model.config.structure}"
    names = _names(env_id, data.agent[0].obs.shape[1])
    loop = open_loop(model, data.both, HORIZONS[-1], STARTS_PER_EPISODE)
    singles = one_interval(model, data.both)
    by_agent = loop.trajectory < len(data.agent)
    horizon = horizon_quality(loop, {AGENT: by_agent, RANDOM: ~by_agent})
    at_native = interval_quality(model, data.both)
    ratios = _dt_quality(model, agent, data, at_native)
    reward, termination = reward_quality(singles), termination_quality(model, singles)
    calibration = calibration_quality(loop)

    report_plots.plot_horizon(into / "horizon.png", horizon, title)
    report_plots.plot_dt(into / "dt.png", ratios, title)
    errors = at_native["per_dimension"]
    report_plots.plot_changes(into / "one_interval.png", singles, names, errors, title)
    temperature = calibration["temperature"] or 1.0
    row = _judged_row(loop, by_agent)
    report_plots.plot_open_loop(into / "open_loop.png", loop, row, temperature, names, title)
    report_plots.plot_outcomes(into / "outcomes.png", singles, reward, termination, title)
    report_plots.plot_calibration(into / "calibration.png", calibration, title)
    note = _video(into / "open_loop.mp4", loop, by_agent, env_id, timing, seed) if video else "not asked for"
    report = {
        "schema": SCHEMA,
        "env_id": env_id,
        "model": model.config.structure,
        "members": model.n_members,
        "native_dt": model.native_dt,
        "seed": seed,
        "episodes": {AGENT: _extent(data.agent), RANDOM: _extent(data.random)},
        "dimensions": [
            {"name": name, "one_interval_error": error} for name, error in zip(names, errors, strict=True)
        ],
        "error_against_horizon": horizon,
        "error_against_dt": ratios,
        "reward": reward,
        "termination": termination,
        "calibration": calibration,
        "solver": solver_quality(model, data.both),
        "video": {"file": None if note else "open_loop.mp4", "why_none": note},
        "figures": sorted(path.name for path in into.glob("*.png")),
    }
    write_json(into / "report.json", report)


# --- data --------------------------------------------------------------------------------------------------


def _collect(task: HeldOutTask, agent: Agent, episodes: int, seed: int) -> _Data:
    seeds = [[seed + i for i in range(first, first + episodes)] for first in (0, episodes)]
    acted = task.record(agent_policy(agent, task.intervals), seeds[0])
    random = task.record(task.random_policy(seed), seeds[1])
    by_ratio, left_out = [], []
    for ratio in RATIOS:
        try:
            dt = task.nearest_dt(ratio)
        except UsageError as error:
            left_out.append({"ratio": ratio, "why": f"expected {error.expected}"})
            continue
        if not np.isclose(dt, task.native):
            pairs = zip([*acted, *random], [*seeds[0], *seeds[1]], strict=True)
            replayed = [task.replay(episode, own, dt) for episode, own in pairs]
            if whole := [episode for episode in replayed if len(episode)]:
                by_ratio.append((ratio, whole))
            else:
                left_out.append({"ratio": ratio, "why": "no episode lasts as long"})
    return _Data(acted, random, by_ratio, left_out, task.native)


def _dt_quality(model: WorldModel, agent: Agent, data: _Data, at_native: dict[str, Any]) -> dict[str, Any]:
    trained = agent.buffer.arrays().dt / data.native  # type: ignore[attr-defined]
    lo, hi = float(trained.min()), float(trained.max())
    rows = [{"ratio_asked": 1.0, **at_native}]
    rows += [{"ratio_asked": ratio, **interval_quality(model, found)} for ratio, found in data.by_ratio]
    for row in rows:
        row["ratio"] = row["dt"] / data.native
        row["seen"] = bool(lo * 0.99 <= row["ratio"] <= hi * 1.01)
    rows.sort(key=lambda row: row["ratio"])
    return {"training_ratios": [lo, hi], "rows": rows, "left_out": data.left_out}


def _extent(episodes: list[Trajectory]) -> dict[str, Any]:
    return {
        "episodes": len(episodes),
        "intervals": sum(len(t) for t in episodes),
        "seconds": float(sum(t.dt.sum() for t in episodes)),
        "terminated": sum(t.terminated for t in episodes),
    }


def _names(env_id: str, width: int) -> list[str]:
    """What is known of each column of the observation."""
    spec = STATE_SPECS.get(env_id.rpartition(":")[2])
    kinds = dict.fromkeys(range(width), "")
    if spec is not None and spec.n_obs == width:
        kinds |= dict.fromkeys(spec.position, " position") | dict.fromkeys(spec.angle, " angle")
        kinds |= dict.fromkeys((*spec.velocity, *spec.free_velocity), " velocity")
        for i, (cos, sin) in enumerate(spec.angle_pair):
            kinds |= {cos: f" cos {i}", sin: f" sin {i}"}
    return [f"obs[{i}]{kind}" for i, kind in kinds.items()]


def _judged_row(loop: OpenLoop, by_agent: npt.NDArray[np.bool_]) -> int:
    """The longest piece of the agent among those that the temperature was not fitted on."""
    eligible = by_agent & (loop.trajectory % 2 == 1)
    return int(np.argmax(np.where(eligible, loop.mask.sum(1), -1)))


# --- video -------------------------------------------------------------------------------------------------


def _video(
    path: Path, loop: OpenLoop, by_agent: npt.NDArray[np.bool_], env_id: str, timing: Timing, seed: int
) -> str | None:
    """Write the video; why not, where there is none."""
    rows = np.flatnonzero(by_agent & (loop.mask.sum(1) > 1))
    rows = rows[np.linspace(0, len(rows) - 1, min(VIDEO_CLIPS, len(rows))).astype(int)]
    if not len(rows):
        return "no episode of the agent is long enough"
    try:
        write_imagined_video(path, loop.rows(rows), env_id, timing, seed)
    except CannotRender as reason:
        logger.warning("no video: %s", reason)
        return str(reason)
    return None


# --- folders -----------------------------------------------------------------------------------------------


def _model_of(agent: Agent, folder: Path) -> WorldModel:
    model = getattr(agent, "model", None)
    if not isinstance(model, WorldModel):
        got = f"a run of {type(agent).__name__}, which has none"
        raise NoWorldModel("a run with a world model", got, "Choose a run of --agent mpc.")
    if not int(model.n_fits):
        remedy = "Train for longer: the first fit comes after the warm-up."
        raise UsageError("a fitted world model", f"{folder}, whose model never was", remedy)
    return model


@contextmanager
def _whole_folder(final: Path) -> Iterator[Path]:
    """A folder that takes the place of `final` when all is written, and leaves nothing when it is not."""
    new = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    try:
        yield new
        new.chmod(0o777 & ~_umask())
        old = new.with_name(f"{new.name}.old")
        if final.exists():
            os.replace(final, old)
        os.replace(new, final)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
