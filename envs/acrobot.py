"""Two links that must be swung up by torques at their joints."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ode_rl.envs.canvas import BLUE, GREEN, INK, ORANGE, PALE, TEAL, Canvas
from ode_rl.envs.smooth import Array, SmoothTask, solve_two
from ode_rl.errors import UsageError

ACTUATORS = {"both": (0, 1), "elbow": (1,)}


class AcrobotEnv(SmoothTask):
    """Swing two hanging links up and balance them, with torques at shoulder and elbow or at the elbow alone.

    Gymnasium's links: each of mass 1 kg, length 1 m, centre of mass in the middle, moment of inertia
    1 kg m^2 about it; g = 9.8 m/s^2, no friction::

        M(theta2) [theta1'', theta2''] + c(theta, theta') + dV/dtheta = [u1, u2]

    theta1 is 0 hanging, theta2 is the angle from the first link to the second; both grow counter-clockwise.
    Each action in [-1, 1] is 5 N m. State ``[theta1, theta2, theta1', theta2']``, observation
    ``[cos theta1, sin theta1, cos theta2, sin theta2, theta1', theta2']``. Episodes start at rest, hanging,
    each number off by up to 0.1.

    The reward of an interval is ``(1 / 0.05 s) int_0^dt r dt``, at most 1 per native step, with
    ``r = exp(-(y_tip - 2)^2 - x_tip^2 - 0.01 |theta'|^2) - 1e-4 |u|^2``, u in N m.

    `actuators` is "both" (two actions, shoulder first) or "elbow" (one action).

    Source: constants and reward of Yildiz, Heinonen, Lahdesmaki, ICML 2021 (arXiv 2102.04764). The torque at
    the shoulder acts here as the equations of motion of the arm say.
    """

    n_angle = 2
    mass, length, centre, inertia, gravity, max_torque = 1.0, 1.0, 0.5, 1.0, 9.8, 5.0
    frequency = 4.0

    def __init__(self, actuators: str = "both", render_mode: str | None = None) -> None:
        if actuators not in ACTUATORS:
            raise UsageError(
                f"actuators {' or '.join(ACTUATORS)}", repr(actuators), "Write actuators='elbow'."
            )
        self._driven = ACTUATORS[actuators]
        super().__init__(n_action=len(self._driven), render_mode=render_mode)

    def acceleration(self, state: Array, action: Array) -> Array:
        theta1, theta2, spin1, spin2 = (state[..., i] for i in range(4))
        m, length, centre = self.mass, self.length, self.centre
        m11, m12, m22 = self._masses(theta2)
        bend = m * length * centre * np.sin(theta2)
        hang2 = m * self.gravity * centre * np.sin(theta1 + theta2)
        hang1 = m * self.gravity * (centre + length) * np.sin(theta1) + hang2
        torque1, torque2 = self._torques(action)
        force1 = torque1 + bend * spin2 * (2 * spin1 + spin2) - hang1
        force2 = torque2 - bend * spin1**2 - hang2
        return solve_two(m11, m12, m22, force1, force2)

    def reward_rate(self, state: Array, action: Array) -> Array:
        x, y = self._tip(state)
        near = np.exp(-((y - 2 * self.length) ** 2) - x**2 - 0.01 * (state[..., 2] ** 2 + state[..., 3] ** 2))
        effort = self.max_torque**2 * (action**2).sum(-1)
        rate: Array = (near - 1e-4 * effort) / self.dt
        return rate

    def energy(self, state: npt.ArrayLike) -> Array:
        z = np.asarray(state, np.float64)
        theta1, theta2, spin1, spin2 = (z[..., i] for i in range(4))
        m11, m12, m22 = self._masses(theta2)
        kinetic = m11 / 2 * spin1**2 + m12 * spin1 * spin2 + m22 / 2 * spin2**2
        height = -(self.centre + self.length) * np.cos(theta1) - self.centre * np.cos(theta1 + theta2)
        energy: Array = kinetic + self.mass * self.gravity * height
        return energy

    def start(self) -> Array:
        return self.np_random.uniform(-0.1, 0.1, 4)

    def draw(self, state: Array, action: Array) -> Canvas:
        canvas = Canvas(480, 480, 100.0)
        elbow = (self.length * math.sin(state[0]), -self.length * math.cos(state[0]))
        tip = tuple(float(coordinate) for coordinate in self._tip(state))
        canvas.ring((0.0, 0.0), 2 * self.length, PALE, 0.012)
        canvas.ring((0.0, 2 * self.length), 0.15, GREEN, 0.035)
        canvas.rod((0.0, 0.0), elbow, 0.2, BLUE)
        canvas.rod(elbow, (tip[0], tip[1]), 0.16, TEAL)
        torques = (float(torque) / self.max_torque for torque in self._torques(action))
        for joint, torque in zip(((0.0, 0.0), elbow), torques, strict=True):
            canvas.disc(joint, 0.06, INK)
            canvas.turn(joint, 0.3, 2.8 * torque, ORANGE, 0.045)
        return canvas

    def _masses(self, theta2: Array) -> tuple[Array, Array, Array]:
        m, length, centre = self.mass, self.length, self.centre
        m22 = np.asarray(m * centre**2 + self.inertia)
        m12 = m22 + m * length * centre * np.cos(theta2)
        m11 = 2 * m12 - m22 + m * (centre**2 + length**2) + self.inertia
        return m11, m12, m22

    def _torques(self, action: Array) -> tuple[Array, Array]:
        """At shoulder and elbow, in N m."""
        u = self.max_torque * action
        return (u[..., 0], u[..., 1]) if len(self._driven) == 2 else (np.zeros_like(u[..., 0]), u[..., 0])

    def _tip(self, state: Array) -> tuple[Array, Array]:
        theta1, theta12 = state[..., 0], state[..., 0] + state[..., 1]
        x: Array = self.length * (np.sin(theta1) + np.sin(theta12))
        y: Array = -self.length * (np.cos(theta1) + np.cos(theta12))
        return x, y
