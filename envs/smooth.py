"""Tasks whose state follows a known differential equation, solved to within rounding for any interval."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from ode_rl.envs.canvas import Canvas, Window
from ode_rl.envs.runge_kutta import cooper_verner, crossing
from ode_rl.errors import UsageError
from ode_rl.timing import positive_seconds

Array = npt.NDArray[np.float64]
Vector = npt.NDArray[np.float32]

STRIDE = 0.15  # Radians (or metres) of the fastest motion within one substep: 1e-9 per native step and less.
SHORTEST = 1e-4  # Seconds of a substep at any speed, so that a state gone wild costs no more than time.
MOMENT = 1e-7  # Seconds that decide on which side of a kink a motion that starts on it goes on.


class SmoothTask(gymnasium.Env[Vector, Vector], ABC):
    """A mechanical task ``q'' = f(q, q', a)`` with the reward rate integrated beside it.

    The state is ``[q, q'] [*, S]`` in float64: positions in metres first, then angles in radians, then
    their velocities. Observations are ``[positions, cos and sin of each angle, velocities] [*, O]``. The
    action is held for an interval and the reward is ``int_0^dt reward_rate(q(t), q'(t), a) dt``.
    Tasks never terminate.

    `dt` is the native interval in seconds and `interval` that of the next step, which may be set at any
    time. ``reset(options={"state": [S], "dt": seconds})`` starts at a state, or sets the interval of one
    episode. ``info["dt"]`` is what a step lasted.
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"], "render_fps": 20}  # noqa: RUF012
    dt = 0.05
    n_position = 0
    """Linear positions, in metres."""
    n_angle = 1
    """Angles, in radians."""
    frequency = 1.0
    """Of the fastest small motion, in radians per second."""

    def __init__(self, n_action: int, max_action: float = 1.0, render_mode: str | None = None) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise UsageError("render_mode human or rgb_array", repr(render_mode), "Or leave it out.")
        place = [np.inf] * self.n_position + [1.0] * (2 * self.n_angle)
        high = np.array(place + [np.inf] * self.n_q, np.float32)
        self.observation_space = spaces.Box(-high, high, dtype=np.float32)
        self.action_space = spaces.Box(-max_action, max_action, (n_action,), np.float32)
        self.render_mode = render_mode
        self.n_action, self.max_action = n_action, max_action
        self._state = np.zeros(2 * self.n_q)
        self._action = np.zeros(n_action)
        self._interval = self.dt
        self._episode_interval: float | None = None
        self._window: Window | None = None

    # --- what a task says of itself ------------------------------------------------------------------------

    @abstractmethod
    def acceleration(self, state: Array, action: Array) -> Array:
        """``q'' [*, n_q]`` at ``state [*, S]`` under ``action [*, A]``."""

    @abstractmethod
    def reward_rate(self, state: Array, action: Array) -> Array:
        """Reward per second, ``[*]``."""

    @abstractmethod
    def energy(self, state: npt.ArrayLike) -> Array:
        """Kinetic and potential energy ``[*]`` in joules."""

    @abstractmethod
    def start(self) -> Array:
        """A state to start from ``[S]``, drawn with ``self.np_random``."""

    @abstractmethod
    def draw(self, state: Array, action: Array) -> Canvas:
        """A picture of one state, with the action that led to it."""

    def settle(self, state: Array, action: Array) -> Array:
        """The same states, written so that `smooth_reward_rate` is the reward rate up to the next kink."""
        return state

    def smooth_reward_rate(self, state: Array, action: Array) -> Array:
        """A smooth continuation of the reward rate on this side of a kink to beyond it."""
        return self.reward_rate(state, action)

    def kinks(self, state: Array) -> tuple[Array, ...]:
        """Functions ``[*]`` of the state at whose zeros the reward rate is not smooth.

        An interval is divided there. Each must be monotonic between the zeros of those before it.
        """
        return ()

    # --- the differential equation -------------------------------------------------------------------------

    @property
    def n_q(self) -> int:
        return self.n_position + self.n_angle

    def rate(self, state: npt.ArrayLike, action: npt.ArrayLike) -> Array:
        """The right-hand side ``[q', q''] [*, S]``."""
        state, action = np.asarray(state, np.float64), np.asarray(action, np.float64)
        velocities, accelerations = state[..., self.n_q :], self.acceleration(state, action)
        if velocities.shape != accelerations.shape:  # asked first: broadcasting takes a fifth of a small step
            velocities = np.broadcast_to(velocities, accelerations.shape)
        return np.concatenate([velocities, accelerations], -1)

    def simulate(self, state: npt.ArrayLike, action: npt.ArrayLike, dt: npt.ArrayLike) -> tuple[Array, Array]:
        """State ``[*, S]`` after `dt` seconds of held action, and the reward ``[*]`` of the interval.

        Shapes: ``state [*, S]``, ``action [*, A]`` (clipped to the action space), ``dt [*]`` or a number;
        the leading dimensions are broadcast, and no row depends on the others. Rows that are not finite
        become NaN.

        Raises:
            UsageError: for shapes that do not fit, or a `dt` that is not positive and finite.
        """
        rows, held, seconds, shape = self._rows(state, action, dt)
        reward = np.zeros(len(rows))
        left, active = seconds.copy(), np.arange(len(rows))
        with np.errstate(invalid="ignore", over="ignore"):
            while len(active):
                after, gain, h = self._substep(rows[active], held[active], left[active])
                rows[active] = after
                reward[active] += gain
                left[active] -= h
                active = active[left[active] > 0]
        return rows.reshape(*shape, 2 * self.n_q), reward.reshape(shape)

    def _substep(self, state: Array, action: Array, left: Array) -> tuple[Array, Array, Array]:
        """One substep of at most ``left [N]`` seconds: state after it, reward, and seconds."""
        state = self.settle(state, action)
        turning = self.frequency + np.abs(state[:, self.n_q :]).sum(-1)
        h = left / np.ceil(left / np.maximum(STRIDE / turning, SHORTEST))
        after, gain = cooper_verner(self.rate, self.smooth_reward_rate, state, action, h)
        for i, before in enumerate(self.kinks(self._a_moment_later(state, action))):
            crossed = np.flatnonzero(before * self.kinks(after)[i] < 0)
            if len(crossed):
                h[crossed] = self._time_of_kink(
                    i, state[crossed], action[crossed], before[crossed], h[crossed]
                )
                after[crossed], gain[crossed] = cooper_verner(
                    self.rate, self.smooth_reward_rate, state[crossed], action[crossed], h[crossed]
                )
        return after, gain, h

    def _time_of_kink(self, i: int, state: Array, action: Array, before: Array, h: Array) -> Array:
        def value(seconds: Array) -> Array:
            return self.kinks(cooper_verner(self.rate, None, state, action, seconds)[0])[i]

        return np.maximum(crossing(value, before, h), MOMENT)

    def _a_moment_later(self, state: Array, action: Array) -> Array:
        q, v = state[:, : self.n_q], state[:, self.n_q :]
        a = self.acceleration(state, action)
        return np.concatenate([q + MOMENT * v + MOMENT**2 / 2 * a, v + MOMENT * a], -1)

    def _rows(
        self, state: npt.ArrayLike, action: npt.ArrayLike, dt: npt.ArrayLike
    ) -> tuple[Array, Array, Array, tuple[int, ...]]:
        """States ``[N, S]``, actions ``[N, A]``, seconds ``[N]`` and the shape of the rows."""
        z, a, seconds = (np.asarray(x, np.float64) for x in (state, action, dt))
        want = f"state [*, {2 * self.n_q}], action [*, {self.n_action}] and dt [*] with rows that broadcast"
        got = f"shapes {z.shape}, {a.shape} and {seconds.shape}"
        remedy = "Give each state its action and its seconds, or one for all."
        if z.shape[-1:] != (2 * self.n_q,) or a.shape[-1:] != (self.n_action,):
            raise UsageError(want, got, remedy)
        try:
            shape = np.broadcast_shapes(z.shape[:-1], a.shape[:-1], seconds.shape)
        except ValueError:
            raise UsageError(want, got, remedy) from None
        if not (np.isfinite(seconds) & (seconds > 0)).all():
            raise UsageError("dt > 0 seconds in every row", dt, "Drop or mend the rows with such a dt.")
        held = np.clip(a, -self.max_action, self.max_action)
        rows, held = (_flat(x, shape) for x in (z, held))
        return rows.copy(), held, np.broadcast_to(seconds, shape).reshape(-1), shape

    # --- observations --------------------------------------------------------------------------------------

    def observe(self, state: npt.ArrayLike) -> Vector:
        """``state [*, S] -> obs [*, O]`` in float32."""
        z = np.asarray(state, np.float64)
        angle = z[..., self.n_position : self.n_q]
        circle = np.stack([np.cos(angle), np.sin(angle)], -1).reshape(*z.shape[:-1], 2 * self.n_angle)
        parts = [z[..., : self.n_position], circle, z[..., self.n_q :]]
        return np.concatenate(parts, -1).astype(np.float32)

    def state_of(self, obs: npt.ArrayLike) -> Array:
        """``obs [*, O] -> state [*, S]``, the inverse of `observe` with angles in [-pi, pi]."""
        x = np.asarray(obs, np.float64)
        end = self.n_position + 2 * self.n_angle
        cos, sin = x[..., self.n_position : end : 2], x[..., self.n_position + 1 : end : 2]
        return np.concatenate([x[..., : self.n_position], np.arctan2(sin, cos), x[..., end:]], -1)

    # --- Gymnasium -----------------------------------------------------------------------------------------

    @property
    def interval(self) -> float:
        """Seconds of the next step."""
        return self._interval if self._episode_interval is None else self._episode_interval

    @interval.setter
    def interval(self, seconds: float) -> None:
        self._interval, self._episode_interval = positive_seconds(seconds), None

    def get_state(self) -> Array:
        """The state ``[S]``."""
        return np.array(self._state)

    def set_state(self, state: npt.ArrayLike) -> None:
        """Go on from ``state [S]``.

        Raises:
            UsageError: if it has another shape or is not finite.
        """
        self._state = self._numbers(state, 2 * self.n_q, "a state", "Give positions, angles, velocities.")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Vector, dict[str, Any]]:
        super().reset(seed=seed)
        options = options or {}
        seconds = options.get("dt")
        self._episode_interval = None if seconds is None else positive_seconds(seconds)
        # Drawn in any case, so that a given state leaves the later starts of a seed as they are.
        start = self.start()
        self.set_state(start if options.get("state") is None else options["state"])
        self._action = np.zeros(self.n_action)
        if self.render_mode == "human":
            self.render()
        return self.observe(self._state), {}

    def step(self, action: npt.ArrayLike) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        held = self._numbers(action, self.n_action, "an action", "Give one number for each actuator.")
        self._action = np.clip(held, -self.max_action, self.max_action)
        self._state, reward = self.simulate(self._state, self._action, self.interval)
        if self.render_mode == "human":
            self.render()
        return self.observe(self._state), float(reward), False, False, {"dt": self.interval}

    def render(self) -> npt.NDArray[np.uint8] | None:
        """The picture ``[height, width, 3]`` of the current state, or None in a window."""
        if self.render_mode is None:
            gymnasium.logger.warn("To render, write gym.make(..., render_mode='rgb_array').")
            return None
        canvas = self.draw(self._state, self._action)
        if self.render_mode == "rgb_array":
            return canvas.pixels()
        self._window = self._window or Window(type(self).__name__)
        self._window.show(canvas, self.interval)
        return None

    def close(self) -> None:
        if self._window is not None:
            self._window.close()
            self._window = None

    def _numbers(self, value: npt.ArrayLike, width: int, what: str, remedy: str) -> Array:
        try:
            numbers = np.array(value, np.float64)
        except (TypeError, ValueError):
            raise UsageError(f"{what} of {width} numbers", repr(value), remedy) from None
        if numbers.shape != (width,) or not np.isfinite(numbers).all():
            raise UsageError(f"{what} of {width} finite numbers", repr(value), remedy)
        return numbers


def _flat(x: Array, shape: tuple[int, ...]) -> Array:
    width = x.shape[-1]
    return np.broadcast_to(x, (*shape, width)).reshape(math.prod(shape), width)


def solve_two(m11: Array, m12: Array, m22: Array, force1: Array, force2: Array) -> Array:
    """Accelerations ``[*, 2]`` of two coordinates with this symmetric mass matrix under these forces."""
    determinant = m11 * m22 - m12 * m12
    first, second = m22 * force1 - m12 * force2, m11 * force2 - m12 * force1
    return np.stack([first / determinant, second / determinant], -1)
