"""A pole on a cart that must be swung up by pushing the cart."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ode_rl.envs.canvas import BLUE, GREEN, INK, ORANGE, PALE, TEAL, Canvas
from ode_rl.envs.smooth import Array, SmoothTask, solve_two


class CartPoleSwingUpEnv(SmoothTask):
    """Swing a hanging pole up and balance it over the origin of an endless track, without friction.

    A uniform pole of mass m = 0.1 kg and half length l = 1 m stands on a cart of M = 1 kg; g = 9.8 m/s^2::

        (M + m) x'' + m l cos(theta) theta'' = F + m l sin(theta) theta'^2
        m l cos(theta) x'' + 4/3 m l^2 theta'' = m g l sin(theta)

    theta is 0 upright and grows clockwise, towards positive x. The action a in [-1, 1] pushes with F = 9 a
    newtons. State ``[x, theta, x', theta']``, observation ``[x, cos theta, sin theta, x', theta']``.
    Episodes start at rest, hanging, each number off by up to 0.05.

    The reward of an interval is ``(1 / 0.05 s) int_0^dt r dt``, at most 1 per native step, with
    ``r = exp(-(x + l sin theta)^2 - l^2 (cos theta - 1)^2 - 0.01 (x'^2 + theta'^2)) - 0.09 a^2``:
    how near the middle of the pole is to its place above the origin.

    Source: constants and reward of Yildiz, Heinonen, Lahdesmaki, ICML 2021 (arXiv 2102.04764), whose action
    3 a in [-3, 3] is multiplied by 3 N.
    """

    n_position = 1
    cart_mass, pole_mass, half_length, gravity, max_force = 1.0, 0.1, 1.0, 9.8, 9.0
    frequency = 3.0

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(n_action=1, render_mode=render_mode)

    def acceleration(self, state: Array, action: Array) -> Array:
        theta, spin = state[..., 1], state[..., 3]
        m, length, sin = self.pole_mass, self.half_length, np.sin(theta)
        push = self.max_force * action[..., 0] + m * length * sin * spin**2
        fall = m * self.gravity * length * sin
        inertia = np.asarray(4 / 3 * m * length**2)
        total = np.asarray(self.cart_mass + m)
        return solve_two(total, m * length * np.cos(theta), inertia, push, fall)

    def reward_rate(self, state: Array, action: Array) -> Array:
        x, theta, speed, spin = (state[..., i] for i in range(4))
        off = (x + self.half_length * np.sin(theta)) ** 2 + self.half_length**2 * (np.cos(theta) - 1) ** 2
        near = np.exp(-off - 0.01 * (speed**2 + spin**2))
        rate: Array = (near - 0.09 * action[..., 0] ** 2) / self.dt
        return rate

    def energy(self, state: npt.ArrayLike) -> Array:
        z = np.asarray(state, np.float64)
        theta, speed, spin = (z[..., i] for i in (1, 2, 3))
        m, length = self.pole_mass, self.half_length
        kinetic = (self.cart_mass + m) / 2 * speed**2 + 2 / 3 * m * length**2 * spin**2
        kinetic = kinetic + m * length * np.cos(theta) * speed * spin
        energy: Array = kinetic + m * self.gravity * length * np.cos(theta)
        return energy

    def start(self) -> Array:
        return np.array([0.0, np.pi, 0.0, 0.0]) + self.np_random.uniform(-0.05, 0.05, 4)

    def draw(self, state: Array, action: Array) -> Canvas:
        x, theta = float(state[0]), float(state[1])
        # The cart moves within the picture, and pushes the picture along at its borders.
        canvas = Canvas(640, 440, 90.0, (x - min(max(x, -2.2), 2.2), 0.0))
        left, right = (canvas.center[0] + side * 3.8 for side in (-1, 1))
        canvas.rod((left, -0.16), (right, -0.16), 0.02, PALE)
        for tick in range(math.ceil(2 * left), math.floor(2 * right) + 1):
            canvas.rod((tick / 2, -0.16), (tick / 2, -0.24), 0.02, INK if tick == 0 else PALE)
        length = 2 * self.half_length
        tip = (x + length * math.sin(theta), length * math.cos(theta))
        canvas.ring((0.0, length), 0.13, GREEN, 0.03)
        canvas.box((x, 0.0), 0.6, 0.3, INK)
        canvas.rod((x, 0.0), tip, 0.09, BLUE)
        canvas.disc((x, 0.0), 0.06, TEAL)
        side = math.copysign(0.34, float(action[0]))
        canvas.arrow((x + side, 0.0), (x + side + 0.8 * float(action[0]), 0.0), ORANGE)
        return canvas
