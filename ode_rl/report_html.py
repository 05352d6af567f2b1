"""A run as one page that needs nothing else: figures, tables, videos, configuration and versions."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.resources import files
from pathlib import Path
from typing import Any

from ode_rl.files import read_json, replace_file
from ode_rl.run import RunFolder

TEMPLATE = "report.html.j2"
TYPES = {".png": "image/png", ".mp4": "video/mp4"}
# What the figures of `report` show; a figure that is not here goes by its name.
CAPTIONS = {
    "horizon.png": "Error of open-loop predictions against their horizon",
    "dt.png": "Error of one interval against its length",
    "one_interval.png": "Changes within one interval, recorded and predicted",
    "open_loop.png": "An open-loop prediction with its bands, beside what happened",
    "outcomes.png": "Rewards and ends of episodes, recorded and predicted",
    "returns.png": "Returns of single episodes where it learned, in imagination, and in the real task",
    "calibration.png": "How often the truth lies within the bands of the ensemble",
}


@dataclass(frozen=True)
class Part:
    """A figure, a video, a table or a text of a section."""

    title: str = ""
    caption: str = ""
    image: str = ""
    video: str = ""
    heads: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    text: str = ""
    open: bool = False


@dataclass(frozen=True)
class Section:
    """A heading and what is below it."""

    title: str
    parts: tuple[Part, ...]
    about: str = ""


def write_html(run: RunFolder) -> Path:
    """Write ``report.html`` of what lies in a run folder; what is missing is left out.

    Everything is inside the page, and its content security policy forbids it to load anything else.

    Raises:
        UsageError: if a file of the run is damaged.
    """
    import jinja2  # only here

    config = run.read_config()
    # Undefined names raise instead of leaving holes; what comes from files is escaped.
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = page.from_string(files("ode_rl").joinpath(TEMPLATE).read_text(encoding="utf-8"))
    sections = [_learning(run), _world_model(run), _robustness(run), _origin(run, config)]
    html = template.render(
        title=f"{config['env_id']} · {config['agent']} · seed {config.get('seed', '?')}",
        env_id=config["env_id"],
        agent=_agent(config),
        seed=config.get("seed", "?"),
        steps=config.get("steps", "?"),
        began=_began(run),
        facts=_facts(run),
        sections=[section for section in sections if section.parts],
    )
    path = run.path / "report.html"
    replace_file(path, html.encode())
    return path


# --- sections ----------------------------------------------------------------------------------------------


def _facts(run: RunFolder) -> list[tuple[str, str, str]]:
    """Name, value and a remark of each number of the final evaluation; older runs have fewer."""
    if not run.evaluation.is_file():
        return []
    found = read_json(run.evaluation)
    n = found["n_episodes"]
    facts = [("Mean return", f"{found['mean_return']:.2f}", f"± {found['std_return']:.2f} over {n} episodes")]
    if "interquartile_mean" in found:
        between = _between(found["interquartile_interval"])
        facts.append(("Interquartile mean", f"{found['interquartile_mean']:.2f}", between))
    if found.get("success_rate") is not None:
        facts.append(("Success", f"{found['success_rate']:.1%}", _between(found["success_interval"], ".1%")))
    if found.get("return_per_second") is not None:
        facts.append(("Return per simulated second", f"{found['return_per_second']:.4g}", ""))
    if "mean_length" in found:
        facts.append(("Episode", f"{found['mean_length']:.0f} steps", f"{found['mean_seconds']:.2f} s"))
    ms = found["ms_per_decision"]
    slow = found.get("ms_per_decision_p99")
    facts.append(("Decision", f"{ms:.2f} ms", f"99th percentile {slow:.2f} ms" if slow else ""))
    facts.append(("Decisions per second", f"{1e3 / ms:.0f} Hz", ""))
    if "action_fluctuation" in found:
        energy = f"energy {found['action_energy']:.3g} s per episode"
        facts.append(("Action fluctuation", f"{found['action_fluctuation']:.3f}", energy))
    return facts


def _learning(run: RunFolder) -> Section:
    parts = []
    if run.learning_curve.is_file():
        parts.append(Part(caption="Returns while it learned", image=_embedded(run.learning_curve)))
    if run.video.is_file():
        parts.append(Part(caption="The first evaluation, in real time", video=_embedded(run.video)))
    return Section("Learning", tuple(parts))


def _world_model(run: RunFolder) -> Section:
    folder = run.path / "report"
    if not (folder / "report.json").is_file():
        return Section("World model", ())
    found = read_json(folder / "report.json")
    if "imagined" in found:
        return _imagination(found, folder)
    parts = [_horizons(found["error_against_horizon"]), _intervals(found["error_against_dt"])]
    for name in found["figures"]:
        path = folder / Path(name).name
        parts.append(Part(caption=CAPTIONS.get(name, Path(name).stem), image=_embedded(path)))
    if found["video"]["file"]:
        caption = "Left as recorded, right as imagined from the same start"
        parts.append(Part(caption=caption, video=_embedded(folder / Path(found["video"]["file"]).name)))
    model = f"{found['model']}, {found['members']} members"
    about = f"{model}, on fresh episodes; errors are shares of the spread of each observation."
    return Section("World model", tuple(parts), about)


def _imagination(found: dict[str, Any], folder: Path) -> Section:
    """Of an agent that learned in an imagined world."""
    rows = tuple(
        (name, found[name]["env_id"], _number(found[name]["mean_return"]), _number(found[name]["std_return"]))
        for name in ("imagined", "real")
    )
    heads = ("", "task", "mean return", "standard deviation")
    table = Part("Imagined and real return", heads=heads, rows=rows)
    pictures = [Part(caption=CAPTIONS[name], image=_embedded(folder / name)) for name in found["figures"]]
    return Section("Imagination", (table, *pictures))


def _horizons(quality: dict[str, Any]) -> Part:
    rows = []
    for name, found in quality["sources"].items():
        for i, seconds in enumerate(found["times"]):
            numbers = (found[key][i] for key in ("error", "no_change", "spread"))
            rows.append((name, f"{seconds:g} s", *(_number(value) for value in numbers)))
    heads = ("episodes of", "horizon", "error", "predicting no change", "spread of the ensemble")
    return Part("Error against horizon", heads=heads, rows=tuple(rows))


def _intervals(quality: dict[str, Any]) -> Part:
    rows = tuple(
        (
            f"x{row['ratio']:.3g}",
            "yes" if row["seen"] else "no",
            _number(row["error"]),
            _number(row["no_change"]),
        )
        for row in quality["rows"]
    )
    heads = ("interval / native", "seen in training", "error", "predicting no change")
    return Part("Error of one interval", heads=heads, rows=rows)


def _robustness(run: RunFolder) -> Section:
    parts = []
    for path in sorted((run.path / "sweeps").glob("*.json")):
        found = read_json(path)
        image = path.with_suffix(".png")
        rows = tuple(_sweep_row(row) for row in found["rows"])
        heads = (
            found["axis"],
            "return",
            "per simulated second",
            "random actions",
            "share kept",
            "95 % interval",
        )
        picture = _embedded(image) if image.is_file() else ""
        parts.append(Part(found["sweep"], found["axis"], image=picture, heads=heads, rows=rows))
    about = "The trained agent in conditions that it was not trained in, from the same start seeds."
    return Section("Robustness", tuple(parts), about)


def _sweep_row(row: dict[str, Any]) -> tuple[str, ...]:
    found, kept, interval = row["evaluation"], row["share_kept"], row["share_interval"]
    return (
        row["label"],
        f"{found['mean_return']:.2f} ± {found['std_return']:.2f}",
        _number(found["return_per_second"]),
        _number(row["random_mean_return"]),
        "" if kept is None else f"{kept:.1%}",
        _between(interval, ".1%"),
    )


def _origin(run: RunFolder, config: dict[str, Any]) -> Section:
    parts = [Part(caption="Configuration", text=json.dumps(config, indent=2, ensure_ascii=False))]
    if run.versions.is_file():
        versions = tuple((str(name), str(version)) for name, version in read_json(run.versions).items())
        parts.append(Part("Versions", heads=("package", "version"), rows=versions))
    return Section("Where it comes from", tuple(parts))


# --- values ------------------------------------------------------------------------------------------------


def _embedded(path: Path) -> str:
    """A file as a data URI."""
    return f"data:{TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _agent(config: dict[str, Any]) -> str:
    settings = config.get("settings")
    model = settings.get("model") if isinstance(settings, dict) else None
    structure = model.get("structure") if isinstance(model, dict) else None
    return f"{config['agent']} on {structure}" if structure else str(config["agent"])


def _began(run: RunFolder) -> str:
    began = datetime.fromtimestamp(run.config.stat().st_mtime, timezone.utc)
    return began.strftime("%Y-%m-%d %H:%M UTC")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _between(interval: list[float] | None, form: str = ".2f") -> str:
    return f"{interval[0]:{form}} to {interval[1]:{form}}" if interval else ""
