"""Imagined against decoupled gradients on a task with contacts, at equal real steps."""

from __future__ import annotations

import time

from _rows import Table

from ode_rl.agents import ODEPolicy
from ode_rl.evaluate import evaluate_agent

TASK, STEPS, EPISODES = "Hopper-v5", 10_000, 10
# Decoupled courses are those of the policy of the last round; many updates on them go astray.
SOURCES: dict[str, dict[str, int]] = {"imagined": {}, "decoupled": {"updates": 20, "recent": 500}}


def contacts(table: Table, seed: int) -> None:
    """Both sources at equal steps and rounds, each with as many updates as its records bear."""
    for source, settings in SOURCES.items():
        if not table.wants(TASK, source, seed):
            continue
        began = time.perf_counter()
        agent = ODEPolicy(TASK, seed=seed, device="cpu", policy={"source": source, **settings}).learn(STEPS)
        wall = time.perf_counter() - began
        found = evaluate_agent(agent, TASK, EPISODES)
        numbers = [
            table.number(TASK, source, seed, "return", found.mean_return, "return", "1"),
            table.number(TASK, source, seed, "standard deviation over episodes", found.std_return, "return"),
            table.number(TASK, source, seed, "environment steps", STEPS, "steps"),
            table.number(TASK, source, seed, "wall clock", wall, "s"),
            table.number(TASK, source, seed, "gradients skipped", agent.skipped, ""),
        ]
        table.write(TASK, source, seed, numbers)
