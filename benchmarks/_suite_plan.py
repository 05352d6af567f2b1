"""What the suite asks of its tasks, and which trainings it is made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

REFERENCES = ("mpc", "true"), ("random", "none")
SHARE = 0.9
MODEL_FREE = ("sac", "td3", "ppo", "tqc", "crossq")


@dataclass(frozen=True)
class Task:
    """What is asked of a task.

    `threshold` is a return, or None where it is `SHARE` of the way from random actions to the planner on the
    true dynamics, or what SAC reaches at `sac_steps`. It must be reached by `must` steps, and `aim` is where
    that would lead the field; a training lasts `fewer` where that is enough. There is an evaluation every
    `eval_freq` steps. `agent` is the model-based one that is measured, where `ablated` on a residual MLP too.
    """

    env_id: str
    threshold: float | None
    must: int
    aim: int
    eval_freq: int
    agent: str
    seeds: int = 3
    sac_steps: int = 0
    fewer: int = 0
    ablated: bool = False

    @property
    def steps(self) -> int:
        """How many steps a training of the suite lasts."""
        return self.fewer or self.must

    @property
    def needs_references(self) -> bool:
        """Whether the threshold is a share of what the true dynamics allow."""
        return self.threshold is None and not self.sac_steps


TASKS = {
    task.env_id: task
    for task in (
        Task("Pendulum-v1", -200.0, 400, 200, 100, "mpc", ablated=True),
        Task("InvertedPendulum-v5", 950.0, 3000, 1000, 500, "mpc", ablated=True),
        Task("ode_rl/CartPoleSwingUp-v0", None, 5000, 3000, 500, "mpc"),
        Task("InvertedDoublePendulum-v5", 9100.0, 15_000, 5000, 500, "dyna", fewer=5000),
        Task("Reacher-v5", -3.75, 10_000, 5000, 1000, "mpc", fewer=5000, ablated=True),
        Task("Pusher-v5", None, 30_000, 15_000, 2500, "dyna", fewer=25_000, sac_steps=100_000),
        # The most that can be asked, whatever a planner earns on the true dynamics.
        Task("Swimmer-v5", SHARE * 340.0, 60_000, 20_000, 1000, "ode-policy", seeds=2, fewer=20_000),
        Task("HalfCheetah-v5", 5000.0, 40_000, 15_000, 1000, "dyna", seeds=2, fewer=20_000),
    )
}


@dataclass(frozen=True)
class Unit:
    """One training (or, of a reference, one evaluation): what is measured, stored and skipped as a whole."""

    env_id: str
    agent: str
    model: str
    seed: int
    steps: int

    @property
    def name(self) -> str:
        """Its part of file names: ``<env>__<agent>__<model>__<seed>``."""
        return f"{self.env_id}__{self.agent}__{self.model}__{self.seed}".replace("/", "-")

    @property
    def row(self) -> str:
        """Its row of the table."""
        return f"{self.env_id}/{self.agent}/{self.model}"

    @property
    def key(self) -> dict[str, str]:
        """The columns of its results."""
        return {"task": self.env_id, "agent": self.agent, "model": self.model, "seed": str(self.seed)}

    @property
    def is_reference(self) -> bool:
        return (self.agent, self.model) in REFERENCES

    def curve(self, results: Path) -> Path:
        """Where its learning curve is stored, beside the table `results`."""
        return results.parent / "curves" / f"{self.name}.csv"


def units_of(
    task: Task,
    seeds: Iterable[int] | None = None,
    steps: int | None = None,
    more_agents: Iterable[str] = (),
) -> list[Unit]:
    """All units of a task, what others are compared with first.

    `steps` takes the place of those that are asked of the task; `more_agents` are ones that the table does
    not have by itself.
    """
    kinds = [("sac", "none", max(task.steps, task.sac_steps))]
    models = ["ode", "residual-mlp"] if task.ablated else ["ode"]
    kinds += [(task.agent, model, task.steps) for model in models]
    there = {agent for agent, _, _ in kinds}
    for agent in more_agents:
        if agent not in there:
            kinds.append((agent, "none" if agent in MODEL_FREE else "ode", task.steps))
    found = [Unit(task.env_id, *pair, 0, 0) for pair in REFERENCES] if task.needs_references else []
    for seed in range(task.seeds) if seeds is None else seeds:
        found += [Unit(task.env_id, agent, model, seed, steps or last) for agent, model, last in kinds]
    return found
