"""The pendulum of Gymnasium, solved exactly and paid by the second."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ode_rl.envs.canvas import BLUE, GREEN, INK, ORANGE, PALE, Canvas
from ode_rl.envs.smooth import MOMENT, Array, SmoothTask


class PendulumEnv(SmoothTask):
    """Swing a rod up with a weak motor and hold it there, at any control interval.

    ``theta'' = 3 g / (2 l) sin(theta) + 3 / (m l^2) u`` with g = 10 m/s^2, m = 1 kg, l = 1 m and a torque
    u in [-2, 2] N m; theta is 0 upright and grows counter-clockwise. State ``[theta, theta']``,
    observation ``[cos theta, sin theta, theta']``. Episodes start at theta in [-pi, pi], theta' in [-1, 1].

    The reward of an interval is the integral of Gymnasium's reward of a step over the native step:
    ``-(1 / 0.05 s) int_0^dt (theta^2 + 0.1 theta'^2 + 0.001 u^2) dt`` with theta in [-pi, pi]. A native step
    so pays what Gymnasium's pays, a longer or shorter one in proportion.

    Differences to Pendulum-v1: the motion between two observations is the solution of the equation,
    where Gymnasium takes one semi-implicit Euler step; the reward looks at the whole step, not at its
    start alone; and theta' is not cut at 8 rad/s, which no differential equation does.
    """

    gravity, mass, length = 10.0, 1.0, 1.0
    frequency = math.sqrt(15.0)

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(n_action=1, max_action=2.0, render_mode=render_mode)

    def acceleration(self, state: Array, action: Array) -> Array:
        fall = 1.5 * self.gravity / self.length * np.sin(state[..., 0])
        return (fall + 3.0 / (self.mass * self.length**2) * action[..., 0])[..., None]

    def reward_rate(self, state: Array, action: Array) -> Array:
        wrapped = np.mod(state[..., :1] + np.pi, 2 * np.pi) - np.pi
        return self.smooth_reward_rate(np.concatenate([wrapped, state[..., 1:]], -1), action)

    def smooth_reward_rate(self, state: Array, action: Array) -> Array:
        # theta as it is written, so that nothing jumps where a substep ends a hair behind the lowest point.
        return -(state[..., 0] ** 2 + 0.1 * state[..., 1] ** 2 + 0.001 * action[..., 0] ** 2) / self.dt

    def energy(self, state: npt.ArrayLike) -> Array:
        z = np.asarray(state, np.float64)
        kinetic = self.mass * self.length**2 / 6 * z[..., 1] ** 2
        energy: Array = kinetic + self.mass * self.gravity * self.length / 2 * np.cos(z[..., 0])
        return energy

    def start(self) -> Array:
        return self.np_random.uniform([-np.pi, -1.0], [np.pi, 1.0])

    def settle(self, state: Array, action: Array) -> Array:
        """Write theta within [-pi, pi]; hanging, on the side to which the pendulum is about to move.

        The reward rate has its kink there: it is smooth on either side.
        """
        wrapped = np.mod(state[:, 0] + np.pi, 2 * np.pi) - np.pi
        past = np.where(wrapped < 0, wrapped + np.pi, wrapped - np.pi)  # how far past the lowest point
        soon = MOMENT * state[:, 1] + MOMENT**2 / 2 * self.acceleration(state, action)[:, 0]
        theta = np.where(past + soon > 0, past - np.pi, past + np.pi)
        near = np.abs(past) < 1.0
        return np.stack([np.where(near, theta, wrapped), state[:, 1]], -1)

    def kinks(self, state: Array) -> tuple[Array, ...]:
        theta, speed = state[:, 0], state[:, 1]
        # Rest is no turning point, however rounding shakes it.
        return np.where(np.abs(speed) < 1e-12, 0.0, speed), np.cos(theta / 2)

    def draw(self, state: Array, action: Array) -> Canvas:
        canvas = Canvas(480, 480, 180.0)
        tip = (-self.length * math.sin(state[0]), self.length * math.cos(state[0]))
        canvas.ring((0.0, 0.0), self.length, PALE, 0.008)
        canvas.ring((0.0, self.length), 0.11, GREEN, 0.02)
        canvas.rod((0.0, 0.0), tip, 0.14, BLUE)
        canvas.disc((0.0, 0.0), 0.045, INK)
        canvas.turn((0.0, 0.0), 0.3, 1.4 * float(action[0]), ORANGE, 0.03)
        return canvas
