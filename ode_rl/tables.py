"""Results as lines of text for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ode_rl.evaluate import Evaluation
    from ode_rl.robustness import LeftOut, Row


def evaluation_lines(evaluation: Evaluation) -> list[str]:
    """What an evaluation found, a line each."""
    ms, slow = evaluation.ms_per_decision, evaluation.ms_per_decision_p99
    lines = {
        "mean return": f"{evaluation.mean_return:.2f} ± {evaluation.std_return:.2f} "
        f"over {evaluation.n_episodes} episodes of {evaluation.env_id}",
        "middle half": f"{evaluation.interquartile_mean:.2f}{between(evaluation.interquartile_interval)}",
    }
    if evaluation.return_per_second is not None:
        lines["return per s"] = f"{evaluation.return_per_second:.4g} per simulated second"
    if evaluation.success_rate is not None:
        lines["success"] = f"{evaluation.success_rate:.1%}{between(evaluation.success_interval, '.1%')}"
    lines |= {
        "episode length": f"{evaluation.mean_length:.1f} steps, {evaluation.mean_seconds:.2f} s",
        "decisions": f"{ms:.2f} ms each ({slow:.2f} ms at the 99th percentile), {1e3 / ms:.0f} Hz",
        "actions": f"fluctuation {evaluation.action_fluctuation:.3f} per decision, "
        f"energy {evaluation.action_energy:.3g} s per episode",
    }
    return [f"{name:<16}{text}" for name, text in lines.items()]


def between(interval: tuple[float, float] | None, form: str = ".2f") -> str:
    """An interval in parentheses; nothing where there is none."""
    return f" (95 % interval {interval[0]:{form}} to {interval[1]:{form}})" if interval else ""


def sweep_heading(name: str) -> str:
    """The line above those of `sweep_line`."""
    return f"{name:<16}{'return ± std':>20}{'per second':>14}{'random':>12}{'kept (95 % interval)':>28}"


def sweep_line(step: Row | LeftOut) -> str:
    """One condition of a robustness sweep."""
    from ode_rl.robustness import LeftOut

    if isinstance(step, LeftOut):
        return f"{step.label:<16}left out: {step.why}"
    found = step.evaluation
    earned = f"{found.mean_return:.2f} ± {found.std_return:.2f}"
    per_second = "" if found.return_per_second is None else f"{found.return_per_second:.4g}"
    kept = "" if step.share_kept is None else f"{step.share_kept:.1%}"
    if step.share_interval:
        kept += f" ({step.share_interval[0]:.1%} to {step.share_interval[1]:.1%})"
    return f"{step.label:<16}{earned:>20}{per_second:>14}{step.random_mean_return:>12.2f}{kept:>28}"


def comparison_lines(comparison: dict[str, Any]) -> list[str]:
    """A table per task, then the probabilities of improvement."""
    lines = []
    for env_id, task in comparison["tasks"].items():
        threshold = task["threshold"]
        asked = "no threshold" if threshold is None else f"threshold {threshold:g}"
        lines += ["", f"{env_id} ({asked})"]
        width = max(len(name) for name in task["groups"]) + 2
        heads = ("seeds", "final return (95 % interval)", "solved", "steps", "simulated s", "real s")
        lines.append(f"{'':<{width}}" + "".join(_cell(head, i) for i, head in enumerate(heads)))
        for name, own in task["groups"].items():
            interval = own["interval"]
            final = f"{own['interquartile_mean']:.2f}"
            final += f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
            reached = sum(each["env_steps"] is not None for each in own["to_threshold"])
            median = own["median_to_threshold"]
            cells = [
                str(len(own["seeds"])),
                final,
                "" if threshold is None else f"{reached} of {len(own['seeds'])}",
                *(_or_dash(median[key]) for key in ("env_steps", "sim_seconds", "wall_s")),
            ]
            lines.append(f"{name:<{width}}" + "".join(_cell(cell, i) for i, cell in enumerate(cells)))
    if comparison["improvement"]:
        lines += ["", "probability of improvement"]
    for row in comparison["improvement"]:
        interval = row["interval"]
        lines.append(f"{row['x']} > {row['y']}: {row['probability']:.2f}{between(interval)}")
    return lines


def _cell(text: str, column: int) -> str:
    return f"{text:>{32 if column == 1 else 12}}"


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
