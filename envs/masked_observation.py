"""Observations of which some components are not shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from ode_rl.envs.action_delay import ActionDelay
from ode_rl.envs.control_interval import ControlInterval
from ode_rl.envs.observation_dropout import ObservationDropout
from ode_rl.envs.time_aware import KEY, TimeAware
from ode_rl.envs.time_wrapper import Env, flat_box
from ode_rl.errors import UsageError


class MaskedObservation(gymnasium.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Leave the `hidden` components out of a vector; None: the velocities, of a task whose state is known.

    What is left does not tell the state: an agent needs a memory. A `ControlInterval` belongs below, what
    loses, delays or times observations above.

    Raises:
        UsageError: for a component that is not there or stands twice, if none is left, or where None is given
            and it is not known which components are velocities.
    """

    def __init__(self, env: Env, hidden: Sequence[int] | None = None) -> None:
        RecordConstructorArgs.__init__(self, hidden=None if hidden is None else [int(i) for i in hidden])
        super().__init__(env)
        space = flat_box(env.observation_space, "observations")
        n = space.shape[0]
        hidden = velocity_columns(env) if hidden is None else hidden
        places = {i % n for i in hidden if -n <= i < n}
        if len(places) != len(hidden) or len(places) == n:
            want = f"some, not all, of the components 0 to {n - 1}, each once"
            raise UsageError(want, list(hidden), f"Write hidden=[{n - 1}].")
        self._shown = [i for i in range(n) if i not in places]
        dtype: Any = space.dtype
        self.observation_space = spaces.Box(space.low[self._shown], space.high[self._shown], dtype=dtype)

    def observation(self, observation: Any) -> npt.NDArray[Any]:
        """Return the components that are shown."""
        return np.asarray(observation)[self._shown]


def velocity_columns(env: Env) -> tuple[int, ...]:
    """The components of a task's observation that are velocities.

    Raises:
        UsageError: for a task whose state is not known.
    """
    from ode_rl.state import state_spec  # loads torch, which no other wrapper needs

    env_id = env.spec.id if env.spec else type(env.unwrapped).__name__
    try:
        spec = state_spec(env_id, flat_box(env.observation_space, "observations").shape[0])
    except UsageError as error:
        remedy = "Write MaskedObservation(env, hidden=[...])."
        raise UsageError(error.expected, error.got, remedy) from error
    return (*spec.velocity, *spec.free_velocity)


def partly_observed(
    env: str | Env,
    dt: Any = None,
    dropout: float = 0.0,
    hidden: Sequence[int] | None = None,
    history: int = 1,
) -> Env:
    """A task for agents with a memory: components hidden, observations lost, intervals that vary.

    From the inside out: `ControlInterval` with `dt` (seconds, or ``(lo, hi)`` for a uniform draw a step);
    `MaskedObservation` without the `hidden` components (None: the velocities); `ObservationDropout`, which
    shows the last observation that arrived, and behind it 1 where it is new and else 0; `ActionDelay` with no
    delay, which shows the last `history` actions, without which nobody could tell where a lost observation
    would have been; `TimeAware`. The observation is ``{"observation": [shown, new, actions], "dt": [seconds
    since the step before]}``.

    Raises:
        UsageError: where one of these does.
    """
    task: Env = gymnasium.make(env) if isinstance(env, str) else env
    task = MaskedObservation(ControlInterval(task, dt=dt), hidden)
    task = ActionDelay(ObservationDropout(task, dropout, mask=True), 0.0, history=history)
    return TimeAware(task, key=KEY)
