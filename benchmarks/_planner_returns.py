"""What planners earn: on the true dynamics, and with learned models along fast and plain ways."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from _rows import Table

from ode_rl.agents import MPC
from ode_rl.agents.true_mpc import TrueMPC
from ode_rl.envs import TrueDynamics
from ode_rl.envs.task import make_task
from ode_rl.evaluate import Evaluation, evaluate_agent

# What counts as solved; HalfCheetah has to run.
SOLVED = {
    "Pendulum-v1": -200.0,
    "InvertedPendulum-v5": 950.0,
    "InvertedDoublePendulum-v5": 9100.0,
    "Reacher-v5": -3.75,
    "HalfCheetah-v5": 1000.0,
}
EPISODES = {"HalfCheetah-v5": 1, "InvertedDoublePendulum-v5": 3, "InvertedPendulum-v5": 3}


def true_planner(env_id: str, seed: int, **settings: Any) -> TrueMPC:
    """The planner on the true dynamics of a task."""
    env = make_task(env_id)
    space: Any = env.action_space
    return TrueMPC(TrueDynamics(env), env_id, space.low, space.high, seed=seed, **settings)


def evaluated(agent: TrueMPC | MPC, env_id: str, n: int) -> tuple[Evaluation, float]:
    """The evaluation and the seconds it took."""
    start = time.perf_counter()
    return evaluate_agent(agent, env_id, n), time.perf_counter() - start


def oracle(table: Table, seed: int) -> None:
    """The planner on the true dynamics: the upper bound of every learned model."""
    for env_id, threshold in SOLVED.items():
        if not table.wants(env_id, "true", seed):
            continue
        n = EPISODES.get(env_id, 10)
        found, seconds = evaluated(true_planner(env_id, seed), env_id, n)
        mean = found.mean_return
        numbers = [
            table.number(
                env_id, "true", seed, "return", mean, "return", "1", f">= {threshold:g}", mean >= threshold
            ),
            table.number(
                env_id, "true", seed, "standard deviation over episodes", found.std_return, "return"
            ),
            table.number(env_id, "true", seed, "episodes", n, "episodes"),
            table.number(env_id, "true", seed, "evaluation", seconds, "s"),
        ]
        table.write(env_id, "true", seed, numbers)


def methods(table: Table, seed: int) -> None:
    """Every planner on the true dynamics at several budgets of plans per decision."""
    compared = {
        "Pendulum-v1": ("icem", "cem", "mppi", "shooting"),
        "Reacher-v5": ("icem", "cem", "mppi", "shooting"),
        "ode_rl/CartPoleSwingUp-v0": ("icem", "cem"),
    }
    for env_id, tried in compared.items():
        for method in tried:
            if not table.wants(env_id, method, seed):
                continue
            numbers = []
            for budget in (30, 60, 120):
                settings = {"method": method, "budget_evaluations": budget, "iterations": 3, "elites": 6}
                settings["candidates"] = max(6, budget // 3)
                found, _ = evaluated(true_planner(env_id, seed, planner=settings), env_id, 10)
                name = f"return with {budget} plans per decision"
                numbers.append(table.number(env_id, method, seed, name, found.mean_return, "return"))
            table.write(env_id, method, seed, numbers)


def returns(table: Table, seed: int) -> None:
    """The same trained model, planned with along the fast way, the plain one and by gradients."""
    for env_id, steps in (("Pendulum-v1", 400), ("InvertedPendulum-v5", 1000), ("Reacher-v5", 1500)):
        if not table.wants(env_id, "ode", seed):
            continue
        agent = MPC(env_id, seed=seed, device="cpu").learn(steps)
        ways = {"fast way": agent, "plain way": _plain(agent), "gradient planner": _gradient(agent)}
        numbers = []
        for name, acting in ways.items():
            found, _ = evaluated(acting, env_id, 10)
            half = 1.96 * found.std_return / np.sqrt(10)
            numbers.append(table.number(env_id, "ode", seed, f"return, {name}", found.mean_return, "return"))
            numbers.append(table.number(env_id, "ode", seed, f"95 % half interval, {name}", half, "return"))
        fast, plain = numbers[0].value, numbers[2].value
        overlap = fast + numbers[1].value >= plain - numbers[3].value
        numbers.append(
            table.number(
                env_id,
                "ode",
                seed,
                "fast less plain",
                fast - plain,
                "return",
                "",
                "intervals overlap",
                overlap,
            )
        )
        table.write(env_id, "ode", seed, numbers)


def _copy(agent: MPC, **settings: Any) -> MPC:
    other = MPC(agent.env_id, seed=agent.seed, device="cpu", **settings)
    other.model.load_state_dict(agent.model.state_dict())
    other.value.load_state_dict(agent.value.state_dict())
    other.fits = agent.fits
    return other


def _gradient(agent: MPC) -> MPC:
    return _copy(agent, planner={"method": "gradient"})


def _plain(agent: MPC) -> MPC:
    """Plans with all members on all candidates in float32 through rk4, as a straightforward program would."""
    other = MPC(
        agent.env_id,
        seed=agent.seed,
        device="cpu",
        members="all",
        precision="float32",
        model={"solver": {"method": "rk4"}},
    )
    other.model.load_state_dict(agent.model.state_dict())
    other.value.load_state_dict(agent.value.state_dict())
    other.fits = agent.fits
    other.planning._fast_model = lambda: other.model  # type: ignore[method-assign, assignment, return-value]
    return other
