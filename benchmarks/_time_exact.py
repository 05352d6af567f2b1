"""What can be exact about time: rewards and physics at other intervals, the value of a constant rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium
import mujoco
import numpy as np
import torch
from _rows import Table
from gymnasium import spaces
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import TD3

import ode_rl  # noqa: F401  registers the tasks
from ode_rl.agents import TimedReplayBuffer
from ode_rl.envs import ControlInterval

NAMES = ["Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum"]
NAMES += ["InvertedPendulum", "Pusher", "Reacher", "Swimmer", "Walker2d"]
V5 = [f"{name}-v5" for name in NAMES]
MAY_STAY_ALIVE = ("Ant-v5", "Hopper-v5", "Humanoid-v5", "Walker2d-v5")
COASTING, SMOOTH = "constant velocity", "ode_rl/Pendulum-v0"
STEPS, EPISODES = 1000, 5
Env = Any

SLIDER = """<mujoco><option timestep="0.01" gravity="0 0 0"/><worldbody><body>
<joint name="x" type="slide" axis="1 0 0"/><geom size="0.1" mass="1"/></body></worldbody>
<actuator><motor joint="x" gear="1e-12" ctrlrange="-1 1" ctrllimited="true"/></actuator></mujoco>"""


class Slider(MujocoEnv):
    """Slides at 0.7 m/s. Paid as the locomotion tasks are: mean velocity + 1 - control cost, per step."""

    metadata = {"render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"]}  # noqa: RUF012

    def __init__(self, path: str) -> None:
        super().__init__(path, 4, spaces.Box(-np.inf, np.inf, (2,), np.float64))

    def reset_model(self) -> Any:
        self.set_state(np.zeros(1), np.array([0.7]))
        return self.state_vector()

    def step(self, action: Any) -> Any:
        before = self.data.qpos[0]
        self.do_simulation(action, self.frame_skip)
        reward = (self.data.qpos[0] - before) / self.dt + 1.0 - 0.1 * float(np.square(action).sum())
        return self.state_vector(), reward, False, False, {}


# --- rewards -----------------------------------------------------------------------------------------------


def rewards(table: Table, seed: int) -> None:
    """Bit for bit at native dt; at half and twice of it what the same actions earn, and the seconds."""
    for env_id in V5:
        if table.wants(env_id, "", seed):
            numbers = [
                _at_native(table, env_id, seed),
                *_at_other_dt(table, env_id, seed, _made(env_id), None),
            ]
            table.write(env_id, "", seed, numbers)
    if table.wants(COASTING, "", seed):
        with TemporaryDirectory() as folder:
            path = Path(folder) / "slider.xml"
            path.write_text(SLIDER, encoding="utf-8")
            make = lambda: TimeLimit(Slider(str(path)), 100)  # noqa: E731
            table.write(COASTING, "", seed, _at_other_dt(table, COASTING, seed, make, 1e-7))
    if table.wants(SMOOTH, "", seed):
        table.write(SMOOTH, "", seed, _at_other_dt(table, SMOOTH, seed, _made(SMOOTH), 2.0))


def _made(env_id: str) -> Callable[[], Env]:
    """Episodes that last to their limit: what falls earlier at another dt says nothing of its rewards."""
    alive = {"terminate_when_unhealthy": False} if env_id in MAY_STAY_ALIVE else {}
    return lambda: gymnasium.make(env_id, **alive)


def _at_native(table: Table, env_id: str, seed: int) -> Any:
    plain, wrapped = gymnasium.make(env_id), ControlInterval(gymnasium.make(env_id))
    plain.action_space.seed(seed)
    differ, over, episode = 0, True, 0
    for _ in range(STEPS):
        if over:
            plain.reset(seed=seed + episode)
            wrapped.reset(seed=seed + episode)
            episode += 1
        action = plain.action_space.sample()
        want, got = plain.step(action), wrapped.step(action)
        over = want[2] or want[3]
        differ += not (np.array_equal(want[0], got[0]) and want[1:4] == got[1:4])
    metric = f"steps of {STEPS} that differ in a bit"
    return table.number(env_id, "", seed, metric, differ, "steps", "1", "0", differ == 0)


def _at_other_dt(
    table: Table, task: str, seed: int, make: Callable[[], Env], percent: float | None
) -> list[Any]:
    """Returns of the same forces over the same seconds, against those at native dt."""
    control = ControlInterval(make())
    native, grid = control.grid.native, control.grid
    ticks: dict[float, Any] = {ratio: max(1, round(ratio * grid.native_ticks)) for ratio in (0.5, 2)}
    if grid.unit is None:
        ticks = {ratio: ratio * native for ratio in (0.5, 2)}
    intervals = {grid.seconds(n) / native: grid.seconds(n) for n in ticks.values()}
    at_native, limit = _returns(make, native, native, seed)
    numbers = [table.number(task, "", seed, "return", at_native.mean(), "", "1")]
    if not math.isnan(limit):
        numbers.append(table.number(task, "", seed, "seconds of an episode", limit, "s", "1"))
    for ratio, dt in intervals.items():
        if math.isclose(ratio, 1.0):
            continue
        found, seconds = _returns(make, dt, native, seed)
        change = 100 * abs(found.mean() - at_native.mean()) / abs(at_native.mean())
        asked = "" if percent is None else f"<= {percent:g}"
        ok = None if percent is None else change <= percent
        name = f"{ratio:.3g}"
        numbers.append(table.number(task, "", seed, "change of the return", change, "%", name, asked, ok))
        if not math.isnan(limit):
            same, asked = math.isclose(seconds, limit, rel_tol=1e-9), f"{limit:g}"
            numbers.append(
                table.number(task, "", seed, "seconds of an episode", seconds, "s", name, asked, same)
            )
    return numbers


def _returns(make: Callable[[], Env], dt: float, native: float, seed: int) -> tuple[Any, float]:
    """Returns of episodes, and the seconds of the last (NaN if it fell before its limit).

    Forces change every two native steps at every `dt`.
    """
    env = ControlInterval(make(), dt=dt)
    space: Any = env.action_space
    totals, seconds = [], 0.0
    for k in range(EPISODES):
        rng = np.random.default_rng([seed, k])
        env.reset(seed=seed + k)
        total, seconds, until, over = 0.0, 0.0, 0.0, False
        while not over:
            if seconds >= until - 1e-9:
                action = rng.uniform(space.low, space.high).astype(space.dtype)
                until += 2 * native
            _, reward, terminated, truncated, info = env.step(action)
            total, over = total + float(reward), terminated or truncated
            seconds += info["dt"]
        totals.append(total)
    return np.array(totals), math.nan if terminated else seconds


# --- physics -----------------------------------------------------------------------------------------------


def physics(table: Table, seed: int) -> None:
    """Random intervals against the same substeps taken by hand, bit for bit."""
    for env_id in V5:
        if table.wants(env_id, "", seed):
            differ = _differing_steps(env_id, seed)
            metric = f"steps of {STEPS} at random intervals that differ in a bit"
            table.write(
                env_id,
                "",
                seed,
                [table.number(env_id, "", seed, metric, differ, "steps", "", "0", differ == 0)],
            )


def _differing_steps(env_id: str, seed: int) -> int:
    base: Any = gymnasium.make(env_id).unwrapped
    timestep, native = base.model.opt.timestep, base.dt
    env: Any = ControlInterval(gymnasium.make(env_id), dt=(timestep, 2 * native))
    base = env.unwrapped
    env.action_space.seed(seed)
    over, differ, episode = True, 0, 0
    for _ in range(STEPS):
        if over:
            env.reset(seed=seed + episode)
            episode += 1
            by_hand = mujoco.MjData(base.model)
            by_hand.qpos[:], by_hand.qvel[:] = base.data.qpos, base.data.qvel
            by_hand.qacc_warmstart[:] = base.data.qacc_warmstart
        action = env.action_space.sample()
        _, _, terminated, truncated, info = env.step(action)
        over = terminated or truncated
        by_hand.ctrl[:] = action
        for _ in range(round(info["dt"] / timestep)):
            mujoco.mj_step(base.model, by_hand)
        same = np.array_equal(base.data.qpos, by_hand.qpos) and np.array_equal(base.data.qvel, by_hand.qvel)
        differ += not same
    return differ


# --- discount ----------------------------------------------------------------------------------------------


class Chain(gymnasium.Env[Any, Any]):
    """One state that pays 1 per second, for ever."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, dt: float) -> None:
        self.dt = dt

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.ones(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.ones(1, np.float32), self.dt, False, False, {"dt": self.dt}


def chain(table: Table, seed: int) -> None:
    """``V = rate / rho`` of a TD3 critic at dt, dt/2 and dt/4; beside it what a discount per step learns."""
    rho, dt = 1.0, 0.5
    for discount in ("time", "step"):
        if not table.wants("chain", discount, seed):
            continue
        values = {ratio: _learned_value(dt * ratio, rho, dt, discount, seed) for ratio in (1.0, 0.5, 0.25)}
        numbers = []
        for ratio, value in values.items():
            name = f"{ratio:g}"
            numbers.append(table.number("chain", discount, seed, "learned value", value, "s", name))
            change = 100 * abs(value / values[1.0] - 1)
            timed = discount == "time"
            asked, ok = ("<= 2", change <= 2) if timed else ("", None)
            numbers.append(
                table.number("chain", discount, seed, "change of the value", change, "%", name, asked, ok)
            )
        table.write("chain", discount, seed, numbers)


def _learned_value(dt: float, rho: float, native: float, discount: str, seed: int) -> float:
    timed: dict[str, Any] = {"replay_buffer_class": TimedReplayBuffer, "replay_buffer_kwargs": {"rho": rho}}
    agent = TD3(
        "MlpPolicy",
        Chain(dt),
        seed=seed,
        gamma=math.exp(-rho * native),
        learning_rate=3e-3,
        learning_starts=32,
        batch_size=16,
        tau=0.1,
        gradient_steps=0,
        policy_kwargs={"net_arch": [16]},
        device="cpu",
        **(timed if discount == "time" else {}),
    )
    agent.learn(64)
    for rate, updates in ((3e-3, 800), (3e-4, 600)):
        agent.lr_schedule = lambda _, rate=rate: rate  # type: ignore[misc]
        agent.train(gradient_steps=updates, batch_size=16)
    with torch.no_grad():
        return float(agent.critic.q1_forward(torch.ones(1, 1), torch.zeros(1, 1)))
