"""Rewards, ends and observations of Gymnasium's MuJoCo tasks (v5) for whole batches of trajectories.

Each function does for ``[M, H]`` control intervals what ``step`` of the task does for one, with the same
operations in the same types, and with the constructor arguments of the environment it is given.
Source: https://github.com/Farama-Foundation/Gymnasium/tree/main/gymnasium/envs/mujoco.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ode_rl.envs.engine import Float64Array, TrueOutcome
from ode_rl.types import FloatArray

BoolArray = npt.NDArray[np.bool_]


class Trajectories(NamedTuple):
    """M trajectories of H control intervals, with the H + 1 states between them.

    Shapes: ``qpos [M, H+1, nq]``, ``qvel [M, H+1, nv]``, ``derived[name] [M, H+1, *]`` as the simulator left
    them (MuJoCo's positions of bodies are those before its last integration), ``action [M, H, A]`` and
    ``seconds [H]``.
    """

    qpos: Float64Array
    qvel: Float64Array
    derived: Mapping[str, Float64Array]
    action: FloatArray
    seconds: Float64Array

    @property
    def x_velocity(self) -> Float64Array:
        """Mean velocity of the first coordinate over each interval, ``[M, H]``."""
        return self.mean_velocity(self.qpos[..., 0])

    def mean_velocity(self, x: Float64Array) -> Float64Array:
        """Mean velocity of ``x [M, H+1]`` over each interval, ``[M, H]``."""
        return np.diff(x, axis=1) / self.seconds


class Rules(NamedTuple):
    """How a task pays, given its environment, and which derived quantities of MuJoCo it looks at."""

    outcome: Callable[[Any, Trajectories], TrueOutcome]
    derived: tuple[str, ...] = ()


def inverted_pendulum(task: Any, t: Trajectories) -> TrueOutcome:
    obs = _joined(t.qpos[:, 1:], t.qvel[:, 1:])
    terminated = ~np.isfinite(obs).all(-1) | (np.abs(obs[..., 1]) > 0.2)
    return TrueOutcome((~terminated).astype(np.float64), terminated, obs)


def inverted_double_pendulum(task: Any, t: Trajectories) -> TrueOutcome:
    x, y = (t.derived["site_xpos"][:, 1:, 0, axis] for axis in (0, 2))
    v1, v2 = t.qvel[:, 1:, 1], t.qvel[:, 1:, 2]
    terminated = y <= 1
    distance = 0.01 * x**2 + (y - 2) ** 2
    velocity = 1e-3 * v1**2 + 5e-3 * v2**2
    reward = task._healthy_reward * ~terminated - distance - velocity
    angles = t.qpos[:, 1:, 1:]
    obs = _joined(
        t.qpos[:, 1:, :1],
        np.sin(angles),
        np.cos(angles),
        np.clip(t.qvel[:, 1:], -10, 10),
        np.clip(t.derived["qfrc_constraint"][:, 1:, :1], -10, 10),
    )
    return TrueOutcome(reward, terminated, obs)


def reacher(task: Any, t: Trajectories) -> TrueOutcome:
    gap = _body(task, t, "fingertip") - _body(task, t, "target")
    distance = -np.linalg.norm(gap, axis=-1) * task._reward_dist_weight
    reward = distance + -_squares(t.action) * task._reward_control_weight
    angles = t.qpos[:, 1:, :2]
    obs = _joined(np.cos(angles), np.sin(angles), t.qpos[:, 1:, 2:], t.qvel[:, 1:, :2], gap[..., :2])
    return TrueOutcome(reward, _never(reward), obs)


def pusher(task: Any, t: Trajectories) -> TrueOutcome:
    tips, thing, goal = (_body(task, t, name) for name in ("tips_arm", "object", "goal"))
    near = -np.linalg.norm(thing - tips, axis=-1) * task._reward_near_weight
    distance = -np.linalg.norm(thing - goal, axis=-1) * task._reward_dist_weight
    reward = distance + -_squares(t.action) * task._reward_control_weight + near
    obs = _joined(t.qpos[:, 1:, :7], t.qvel[:, 1:, :7], tips, thing, goal)
    return TrueOutcome(reward, _never(reward), obs)


def swimmer(task: Any, t: Trajectories) -> TrueOutcome:
    reward = task._forward_reward_weight * t.x_velocity - _control_cost(task, t)
    return TrueOutcome(reward, _never(reward), _joined(_position(task, t, hidden=2), t.qvel[:, 1:]))


def half_cheetah(task: Any, t: Trajectories) -> TrueOutcome:
    reward = task._forward_reward_weight * t.x_velocity - _control_cost(task, t)
    return TrueOutcome(reward, _never(reward), _joined(_position(task, t, hidden=1), t.qvel[:, 1:]))


def hopper(task: Any, t: Trajectories) -> TrueOutcome:
    rest = _joined(t.qpos[:, 1:, 2:], t.qvel[:, 1:])
    healthy = _walker_healthy(task, t) & _within(rest, task._healthy_state_range).all(-1)
    return _upright(task, t, healthy)


def walker2d(task: Any, t: Trajectories) -> TrueOutcome:
    return _upright(task, t, _walker_healthy(task, t))


def ant(task: Any, t: Trajectories) -> TrueOutcome:
    main = task.model.body(task._main_body).id
    forces = np.clip(t.derived["cfrc_ext"][:, 1:], *task._contact_force_range)
    low, high = task._healthy_z_range
    z = t.qpos[:, 1:, 2]
    finite = np.isfinite(t.qpos[:, 1:]).all(-1) & np.isfinite(t.qvel[:, 1:]).all(-1)
    healthy = finite & (low <= z) & (z <= high)
    forward = t.mean_velocity(t.derived["xpos"][:, :, main, 0]) * task._forward_reward_weight
    costs = _control_cost(task, t) + task._contact_cost_weight * _squares(_flat(forces))
    reward = forward + healthy * task._healthy_reward - costs
    parts = [_position(task, t, hidden=2), t.qvel[:, 1:]]
    if task._include_cfrc_ext_in_observation:
        parts.append(_flat(forces[..., 1:, :]))
    return TrueOutcome(reward, ~healthy & task._terminate_when_unhealthy, _joined(*parts))


def humanoid(task: Any, t: Trajectories) -> TrueOutcome:
    mass = task.model.body_mass[:, None]
    centre = (mass * t.derived["xipos"]).sum(-2) / mass.sum()
    low, high = task._healthy_z_range
    z = t.qpos[:, 1:, 2]
    healthy = (low < z) & (z < high)
    forward = task._forward_reward_weight * t.mean_velocity(centre[..., 0])
    control = task._ctrl_cost_weight * _squares(t.action.astype(np.float64))  # the task reads MuJoCo's copy
    contact = task._contact_cost_weight * _squares(_flat(t.derived["cfrc_ext"][:, 1:]))
    costs = control + np.clip(contact, *task._contact_cost_range)
    reward = forward + healthy * task._healthy_reward - costs
    return TrueOutcome(reward, ~healthy & task._terminate_when_unhealthy, _humanoid_obs(task, t))


def humanoid_standup(task: Any, t: Trajectories) -> TrueOutcome:
    height = (t.qpos[:, 1:, 2] - 0) / task.model.opt.timestep
    control = task._ctrl_cost_weight * _squares(t.action.astype(np.float64))
    impact = task._impact_cost_weight * _squares(_flat(t.derived["cfrc_ext"][:, 1:]))
    reward = height - control - np.clip(impact, *task._impact_cost_range) + 1
    return TrueOutcome(reward, _never(reward), _humanoid_obs(task, t))


_HUMANOID = ("xipos", "cinert", "cvel", "qfrc_actuator", "cfrc_ext")

RULES = {
    f"gymnasium.envs.mujoco.{kind}": rules
    for kind, rules in {
        "inverted_pendulum_v5:InvertedPendulumEnv": Rules(inverted_pendulum),
        "inverted_double_pendulum_v5:InvertedDoublePendulumEnv": Rules(
            inverted_double_pendulum, ("site_xpos", "qfrc_constraint")
        ),
        "reacher_v5:ReacherEnv": Rules(reacher, ("xpos",)),
        "pusher_v5:PusherEnv": Rules(pusher, ("xpos",)),
        "swimmer_v5:SwimmerEnv": Rules(swimmer),
        "half_cheetah_v5:HalfCheetahEnv": Rules(half_cheetah),
        "hopper_v5:HopperEnv": Rules(hopper),
        "walker2d_v5:Walker2dEnv": Rules(walker2d),
        "ant_v5:AntEnv": Rules(ant, ("xpos", "cfrc_ext")),
        "humanoid_v5:HumanoidEnv": Rules(humanoid, _HUMANOID),
        "humanoidstandup_v5:HumanoidStandupEnv": Rules(humanoid_standup, _HUMANOID),
    }.items()
}
"""``module:class`` of an environment -> its rules."""


def _upright(task: Any, t: Trajectories, healthy: BoolArray) -> TrueOutcome:
    """Hopper and Walker2d: paid for forward velocity and for being healthy."""
    forward = task._forward_reward_weight * t.x_velocity
    reward = forward + healthy * task._healthy_reward - _control_cost(task, t)
    obs = _joined(_position(task, t, hidden=1), np.clip(t.qvel[:, 1:], -10, 10))
    return TrueOutcome(reward, ~healthy & task._terminate_when_unhealthy, obs)


def _walker_healthy(task: Any, t: Trajectories) -> BoolArray:
    z, angle = t.qpos[:, 1:, 1], t.qpos[:, 1:, 2]
    return _within(z, task._healthy_z_range) & _within(angle, task._healthy_angle_range)


def _humanoid_obs(task: Any, t: Trajectories) -> Float64Array:
    parts = [_position(task, t, hidden=2), t.qvel[:, 1:]]
    if task._include_cinert_in_observation is True:
        parts.append(_flat(t.derived["cinert"][:, 1:, 1:]))
    if task._include_cvel_in_observation is True:
        parts.append(_flat(t.derived["cvel"][:, 1:, 1:]))
    if task._include_qfrc_actuator_in_observation is True:
        parts.append(t.derived["qfrc_actuator"][:, 1:, 6:])
    if task._include_cfrc_ext_in_observation is True:
        parts.append(_flat(t.derived["cfrc_ext"][:, 1:, 1:]))
    return _joined(*parts)


def _position(task: Any, t: Trajectories, hidden: int) -> Float64Array:
    """Positions after each interval, without the first `hidden` where the task leaves them out."""
    return t.qpos[:, 1:, hidden if task._exclude_current_positions_from_observation else 0 :]


def _body(task: Any, t: Trajectories, name: str) -> Float64Array:
    return t.derived["xpos"][:, 1:, task.model.body(name).id]


def _control_cost(task: Any, t: Trajectories) -> FloatArray:
    cost: FloatArray = task._ctrl_cost_weight * _squares(t.action)
    return cost


def _squares(x: FloatArray) -> FloatArray:
    squares: FloatArray = np.square(x).sum(-1)
    return squares


def _within(x: Float64Array, bounds: tuple[float, float]) -> BoolArray:
    inside: BoolArray = (bounds[0] < x) & (x < bounds[1])
    return inside


def _flat(x: Float64Array) -> Float64Array:
    return x.reshape(*x.shape[:2], -1)


def _joined(*parts: Float64Array) -> Float64Array:
    return np.concatenate(parts, -1)


def _never(reward: FloatArray) -> BoolArray:
    return np.zeros(reward.shape, np.bool_)
