"""What is learned when time is known: discounts of SAC, policies from imagination alone, goals of robots."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium
import numpy as np
import torch
from _rows import Table
from stable_baselines3 import SAC

from ode_rl.agents.model_free import SAC as TimedSAC
from ode_rl.buffer import ReplayBuffer
from ode_rl.cli import main
from ode_rl.envs import ImaginedEnv, ImaginedVecEnv, ImaginedVectorEnv, LearnedWorld, make_task
from ode_rl.evaluate import evaluate_agent
from ode_rl.fit import FitConfig, fit
from ode_rl.types import Transition
from ode_rl.world_model import WorldModel, WorldModelConfig

EPISODES = 10

# --- SAC with both discounts -------------------------------------------------------------------------------

# Environment steps at native dt; at another dt as many as the same simulated seconds take.
NATIVE_STEPS = {"ode_rl/Pendulum-v0": 10_000, "Swimmer-v5": 20_000}
SETTINGS: dict[str, dict[str, Any]] = {"ode_rl/Pendulum-v0": {"learning_rate": 1e-3}}


def discount_sac(table: Table, seed: int) -> None:
    """SAC at dt and dt/2, discounted by seconds and by steps (which are the same at dt)."""
    for env_id, steps in NATIVE_STEPS.items():
        for ratio, discount in ((1.0, "time"), (0.5, "time"), (0.5, "step")):
            model = f"{discount} x{ratio:g}"
            if not table.wants(env_id, model, seed):
                continue
            native = float(make_task(env_id).unwrapped.dt)  # type: ignore[attr-defined]
            dt = ratio * native
            settings = {"discount": discount, **SETTINGS.get(env_id, {})}
            agent = TimedSAC(make_task(env_id, dt), seed=seed, device="cpu", **settings)
            agent.learn(round(steps / ratio))
            found = evaluate_agent(agent, env_id, EPISODES, timing=dt)
            name = f"{ratio:g}"
            numbers = [
                table.number(env_id, model, seed, "mean return", found.mean_return, "", name),
                table.number(env_id, model, seed, "simulated seconds", steps * native, "s", name),
            ]
            table.write(env_id, model, seed, numbers)


# --- imagined worlds ---------------------------------------------------------------------------------------

PENDULUM, RANDOM_STEPS = "Pendulum-v1", 2000
FIT = FitConfig(updates=1500, warm_start_updates=400, patience=100)
# Enough where only time is measured.
QUICK_FIT = FitConfig(updates=50, warm_start_updates=50)
WORLDS, UPDATES = 32, 4000


def learned_pendulum(seed: int, fit_config: FitConfig = FIT) -> LearnedWorld:
    """A world model of Pendulum from uniform random actions, and these data."""
    env: Any = make_task(PENDULUM)
    buffer, rng = ReplayBuffer(RANDOM_STEPS, 3, 1), np.random.default_rng(seed)
    obs, _ = env.reset(seed=seed)
    for _ in range(RANDOM_STEPS):
        action = rng.uniform(-1, 1, 1).astype(np.float32)
        after, reward, terminated, truncated, info = env.step(2 * action)
        buffer.add(Transition(obs, action, float(reward), after, info["dt"], terminated, truncated))
        obs = env.reset()[0] if truncated else after
    weights = torch.Generator().manual_seed(seed)
    model = WorldModel(3, 1, env.unwrapped.dt, WorldModelConfig(), weights)
    fit(model, buffer, fit_config, np.random.default_rng(seed), "cpu")
    return LearnedWorld.of(model, buffer, PENDULUM)


def imagination(table: Table, seed: int) -> None:
    """Stock SAC, trained only in worlds that a model of random steps imagines, in the real task."""
    if not table.wants(PENDULUM, "ode", seed):
        return
    start = time.perf_counter()
    world = learned_pendulum(seed)
    fitted = time.perf_counter()
    agent = SAC(
        "MlpPolicy",
        ImaginedVecEnv(world, WORLDS),
        learning_rate=1e-3,
        learning_starts=20 * WORLDS,
        buffer_size=WORLDS * UPDATES,
        policy_kwargs={"net_arch": [128, 128]},
        seed=seed,
        device="cpu",
    ).learn(WORLDS * UPDATES)
    learned = time.perf_counter()
    real = evaluate_agent(agent, PENDULUM, EPISODES).mean_return
    dream = ImaginedEnv(world, starts="episodes", max_disagreement=None)
    imagined = evaluate_agent(agent, dream, EPISODES).mean_return
    numbers = [
        table.number(PENDULUM, "ode", seed, "return in the real task", real, "", "", ">= -200", real >= -200),
        table.number(PENDULUM, "ode", seed, "return in imagination", imagined),
        table.number(PENDULUM, "ode", seed, "real steps", RANDOM_STEPS, "steps"),
        table.number(PENDULUM, "ode", seed, "fit", fitted - start, "s"),
        table.number(PENDULUM, "ode", seed, "SAC", learned - fitted, "s"),
    ]
    table.write(PENDULUM, "ode", seed, numbers)


def imagined_speed(table: Table, seed: int) -> None:
    """Imagined steps per second of 1,024 worlds and of one, real ones beside them, taking turns."""
    if not table.wants(PENDULUM, "ode", seed):
        return
    world = learned_pendulum(seed, QUICK_FIT)
    many = ImaginedVectorEnv(world, 1024)
    rates = _rates(
        {
            "1024 worlds": (_stepping(many), 1024),
            "one world": (_stepping(ImaginedEnv(world)), 1),
            "the real task": (_stepping(gymnasium.make(PENDULUM)), 1),
        }
    )
    ratio = rates["1024 worlds"] / rates["one world"]
    numbers = [
        table.number(PENDULUM, "ode", seed, f"steps per second of {what}", rate, "1/s")
        for what, rate in rates.items()
    ]
    name = "1024 worlds over one"
    numbers.append(table.number(PENDULUM, "ode", seed, name, ratio, "", "", ">= 50", ratio >= 50))
    table.write(PENDULUM, "ode", seed, numbers)


def _stepping(env: Any) -> Callable[[], None]:
    env.action_space.seed(0)
    env.reset(seed=0)
    action, is_batch = env.action_space.sample(), hasattr(env, "num_envs")

    def step() -> None:
        _, _, terminated, truncated, _ = env.step(action)
        if not is_batch and (terminated or truncated):
            env.reset()

    return step


def _rates(tasks: dict[str, tuple[Callable[[], None], int]], rounds: int = 30, seconds: float = 0.1) -> Any:
    """Medians of steps per second over rounds in which all take their turn."""
    found: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, (step, worlds) in tasks.items():
            n, start = 0, time.perf_counter()
            while time.perf_counter() - start < seconds:
                step()
                n += worlds
            found[name].append(n / (time.perf_counter() - start))
    return {name: float(np.median(rates)) for name, rates in found.items()}


# --- robots with goals -------------------------------------------------------------------------------------


def fetch_reach(table: Table, seed: int) -> None:
    """FetchReach (sparse) by mpc with the known distance to the goal."""
    arguments = ["--agent", "mpc", "--known", "ode_rl.envs.goal_distance:fetch"]
    _success(table, seed, "FetchReach-v4", "mpc", arguments, least=0.9)


def point_maze(table: Table, seed: int) -> None:
    """PointMaze_UMaze by sac on the dense reward, actions held for 0.05 s; whatever comes of it."""
    arguments = ["--agent", "sac", "--dt", "0.05", "--steps", "10000"]
    _success(table, seed, "PointMaze_UMazeDense-v3", "sac", arguments, None, 0.05)


class _Random:
    """Uniform actions."""

    def __init__(self, env_id: str) -> None:
        self.space: Any = make_task(env_id).action_space
        self.space.seed(0)

    def predict(self, observation: Any, *_: Any) -> tuple[Any, None]:
        return np.stack([self.space.sample() for _ in observation]), None


def _success(
    table: Table,
    seed: int,
    env_id: str,
    agent: str,
    arguments: list[str],
    least: float | None,
    dt: float | None = None,
) -> None:
    """Train through the command line; the success rate of its evaluation, and that of random actions."""
    if not table.wants(env_id, agent, seed):
        return
    if importlib.util.find_spec("gymnasium_robotics") is None:
        print(f"{table.row}: left out, gymnasium-robotics is not installed")
        return
    with TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        shown = ["--eval-episodes", "50", "--no-video", "--no-progress", "--run-dir", str(run)]
        if main(["train", env_id, *arguments, "--seed", str(seed), *shown]) != 0:
            raise SystemExit(f"{table.row}: the training failed")
        found = json.loads((run / "evaluation.json").read_text())
    rate = float(found["success_rate"])
    asked, ok = ("", None) if least is None else (f">= {least:g}", rate >= least)
    random = evaluate_agent(_Random(env_id), env_id, 50, timing=dt).success_rate
    numbers = [
        table.number(env_id, agent, seed, "success rate", rate, "", "", asked, ok),
        table.number(env_id, agent, seed, "success rate of random actions", float(random or 0.0)),
        table.number(env_id, agent, seed, "mean return", found["mean_return"]),
    ]
    table.write(env_id, agent, seed, numbers)
