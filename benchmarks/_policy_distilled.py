"""A policy against the planner that it was distilled from: share of the return kept, and latency."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from _rows import Table

from ode_rl.agents import MPC, ODEPolicy
from ode_rl.agents.presets import load_preset
from ode_rl.envs.task import make_task
from ode_rl.evaluate import evaluate_agent
from ode_rl.robustness import RandomActions

TASKS = ("Pendulum-v1", "InvertedPendulum-v5", "Reacher-v5")
EPISODES, DECISIONS = 30, 1000


def decision_ms(agent: Any, env_id: str, n: int) -> np.ndarray[Any, Any]:
    """Milliseconds ``[n]`` of decisions on one observation each, along episodes of the task."""
    env = make_task(env_id)
    obs, _ = env.reset(seed=0)
    times, state, start = [], None, True
    for _ in range(n + 20):
        began = time.perf_counter()
        action, state = agent.predict(obs, state, np.array([start]))
        times.append(1e3 * (time.perf_counter() - began))
        obs, _, terminated, truncated, _ = env.step(action)
        start = terminated or truncated
        if start:
            obs, _ = env.reset()
    return np.array(times[20:])


def distilled(table: Table, seed: int) -> None:
    """Train the planner as its preset says, distil a policy, compare both and random actions."""
    for env_id in TASKS:
        if not table.wants(env_id, "ode", seed):
            continue
        steps = int(load_preset("mpc", env_id)[1]["total_timesteps"])
        planner = MPC(env_id, seed=seed, device="cpu").learn(steps)
        began = time.perf_counter()
        settings = load_preset("ode-policy", env_id)[1]
        policy = ODEPolicy.distilled(planner, policy=settings.get("policy", {}))
        wall = time.perf_counter() - began
        anyhow = RandomActions(planner.action_space, 0)
        returns = {
            name: evaluate_agent(agent, env_id, EPISODES).mean_return
            for name, agent in (("random", anyhow), ("planner", planner), ("policy", policy))
        }
        share = (returns["policy"] - returns["random"]) / (returns["planner"] - returns["random"])
        slow, quick = decision_ms(planner, env_id, DECISIONS // 10), decision_ms(policy, env_id, DECISIONS)
        ratio = float(np.median(slow) / np.median(quick))
        p50, p99 = (float(np.percentile(quick, q)) for q in (50, 99))

        def number(metric: str, value: float, unit: str, asked: str = "", ok: bool | None = None) -> Any:
            return table.number(env_id, "ode", seed, metric, value, unit, "1", asked, ok)  # noqa: B023

        numbers = [number(f"return, {name}", value, "return") for name, value in returns.items()]
        numbers += [
            number("share of the planner's return kept", share, "", ">= 0.95", share >= 0.95),
            number("decision of the planner, median", float(np.median(slow)), "ms"),
            number("decision of the policy, median", p50, "ms", "< 0.3", p50 < 0.3),
            number("decision of the policy, 99th percentile", p99, "ms"),
            number("planner's latency over policy's", ratio, "", ">= 10", ratio >= 10),
            number("wall clock of distilling", wall, "s"),
        ]
        table.write(env_id, "ode", seed, numbers)
