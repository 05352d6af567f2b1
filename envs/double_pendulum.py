"""A double pendulum without friction, whose energy is a test of every model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ode_rl.envs.canvas import BLUE, GREEN, INK, ORANGE, PALE, TEAL, Canvas
from ode_rl.envs.smooth import Array, SmoothTask, solve_two
from ode_rl.errors import UsageError


class DoublePendulumEnv(SmoothTask):
    """Two point masses on massless rods, free unless `max_torque` gives the joints motors::

        (m1 + m2) l1^2 p'' + m2 l1 l2 (cos(p - q) q'' + sin(p - q) q'^2) + (m1 + m2) g l1 sin p = u1 - u2
        m2 l2^2 q'' + m2 l1 l2 (cos(p - q) p'' - sin(p - q) p'^2) + m2 g l2 sin q = u2

    Both angles p and q are measured from the vertical, 0 hanging, and grow counter-clockwise. State
    ``[p, q, p', q']``, observation ``[cos p, sin p, cos q, sin q, p', q']``. The actions in [-1, 1] are
    torques ``u = max_torque * a`` at the first joint and between the rods; by default they do nothing and
    the energy is constant.

    The reward of an interval is ``(1 / 0.05 s) int_0^dt r dt``, at most 1 per native step, with
    ``r = exp(-(y_tip - l1 - l2)^2 - x_tip^2 - 0.01 (p'^2 + q'^2)) - 1e-4 |u|^2``.

    Args:
        masses: in kg.
        lengths: in metres.
        gravity: in m/s^2.
        max_torque: in N m.
        start_angle: episodes start at angles within plus or minus this many radians,
        start_speed: and at angular velocities within plus or minus this many radians per second.
    """

    n_angle = 2

    def __init__(
        self,
        masses: Sequence[float] = (1.0, 1.0),
        lengths: Sequence[float] = (1.0, 1.0),
        gravity: float = 9.81,
        max_torque: float = 0.0,
        start_angle: float = math.pi / 2,
        start_speed: float = 1.0,
        render_mode: str | None = None,
    ) -> None:
        self.masses, self.lengths = (_pair("masses", masses), _pair("lengths", lengths))
        settings = {"gravity": gravity, "max_torque": max_torque}
        settings.update(start_angle=start_angle, start_speed=start_speed)
        for name, value in settings.items():
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{name} >= 0", value, f"Write {name}=1.0, or leave it out.")
        self.gravity, self.max_torque = float(gravity), float(max_torque)
        self._spread = np.array([start_angle, start_angle, start_speed, start_speed])
        self.frequency = self._fastest()
        super().__init__(n_action=2, render_mode=render_mode)

    def acceleration(self, state: Array, action: Array) -> Array:
        p, q, spin1, spin2 = (state[..., i] for i in range(4))
        (m1, m2), (l1, l2), g = self.masses, self.lengths, self.gravity
        u1, u2 = (self.max_torque * action[..., i] for i in (0, 1))
        link = m2 * l1 * l2 * np.sin(p - q)
        force1 = u1 - u2 - link * spin2**2 - (m1 + m2) * g * l1 * np.sin(p)
        force2 = u2 + link * spin1**2 - m2 * g * l2 * np.sin(q)
        return solve_two(*self._mass_matrix(p, q), force1, force2)

    def reward_rate(self, state: Array, action: Array) -> Array:
        x, y = self._tip(state)
        off = (y - sum(self.lengths)) ** 2 + x**2
        near = np.exp(-off - 0.01 * (state[..., 2] ** 2 + state[..., 3] ** 2))
        rate: Array = (near - 1e-4 * self.max_torque**2 * (action**2).sum(-1)) / self.dt
        return rate

    def energy(self, state: npt.ArrayLike) -> Array:
        z = np.asarray(state, np.float64)
        p, q, spin1, spin2 = (z[..., i] for i in range(4))
        (m1, m2), (l1, l2), g = self.masses, self.lengths, self.gravity
        m11, m12, m22 = self._mass_matrix(p, q)
        kinetic = m11 / 2 * spin1**2 + m12 * spin1 * spin2 + m22 / 2 * spin2**2
        energy: Array = kinetic - (m1 + m2) * g * l1 * np.cos(p) - m2 * g * l2 * np.cos(q)
        return energy

    def start(self) -> Array:
        return self.np_random.uniform(-self._spread, self._spread)

    def draw(self, state: Array, action: Array) -> Canvas:
        reach = sum(self.lengths)
        canvas = Canvas(480, 480, 200.0 / reach)
        unit = reach / 2
        elbow = (self.lengths[0] * math.sin(state[0]), -self.lengths[0] * math.cos(state[0]))
        x, y = self._tip(state)
        tip = (float(x), float(y))
        canvas.ring((0.0, 0.0), reach, PALE, 0.012 * unit)
        canvas.ring((0.0, reach), 0.18 * unit, GREEN, 0.035 * unit)
        canvas.rod((0.0, 0.0), elbow, 0.05 * unit, INK)
        canvas.rod(elbow, tip, 0.05 * unit, INK)
        canvas.disc((0.0, 0.0), 0.05 * unit, INK)
        heaviest = max(self.masses)
        for at, mass, color in zip((elbow, tip), self.masses, (BLUE, TEAL), strict=True):
            canvas.disc(at, 0.15 * unit * (mass / heaviest) ** (1 / 3), color)
        for joint, torque in zip(((0.0, 0.0), elbow), action, strict=True):
            turn = 2.8 * float(torque) if self.max_torque else 0.0
            canvas.turn(joint, 0.3 * unit, turn, ORANGE, 0.045 * unit)
        return canvas

    def _mass_matrix(self, p: Array, q: Array) -> tuple[Array, Array, Array]:
        (m1, m2), (l1, l2) = self.masses, self.lengths
        return np.asarray((m1 + m2) * l1**2), m2 * l1 * l2 * np.cos(p - q), np.asarray(m2 * l2**2)

    def _tip(self, state: Array) -> tuple[Array, Array]:
        l1, l2 = self.lengths
        x: Array = l1 * np.sin(state[..., 0]) + l2 * np.sin(state[..., 1])
        y: Array = -l1 * np.cos(state[..., 0]) - l2 * np.cos(state[..., 1])
        return x, y

    def _fastest(self) -> float:
        """The higher frequency of the two small motions about hanging at rest, in radians per second."""
        (m1, m2), (l1, l2), g = self.masses, self.lengths, self.gravity
        mass = np.array([[(m1 + m2) * l1**2, m2 * l1 * l2], [m2 * l1 * l2, m2 * l2**2]])
        stiffness = np.diag([(m1 + m2) * g * l1, m2 * g * l2])
        return max(1.0, float(np.sqrt(np.linalg.eigvals(np.linalg.solve(mass, stiffness)).real.max())))


def _pair(name: str, values: Sequence[float]) -> tuple[float, float]:
    if len(values) != 2 or not all(math.isfinite(value) and value > 0 for value in values):
        raise UsageError(f"{name} of two positive numbers", values, f"Write {name}=(1.0, 1.0).")
    return float(values[0]), float(values[1])
