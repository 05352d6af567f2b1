"""What the columns of an observation mean: positions, angles, velocities and the rest.

A structured field works on ``z = [q, v, rest]``; `StateSpec` says how an observation becomes one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from ode_rl.errors import UsageError
from ode_rl.normalize import Scale


@dataclass(frozen=True)
class Layout:
    """The order within ``z = [q, v, rest]``.

    ``q [*, n_q]`` are positions, linear ones first, then angles in radians; ``v [*, n_v]`` are their
    velocities, in this order, and after them those whose position is not observed (a cyclic coordinate:
    nothing depends on it); ``rest [*, n_rest]`` is all else.
    """

    n_position: int = 0
    """Linear positions."""
    n_angle: int = 0
    """Angles, in radians."""
    n_free: int = 0
    """Velocities without a position."""
    n_rest: int = 0
    """All else."""
    constant: tuple[int, ...] = ()
    """Which of the rest never change within an episode."""

    @property
    def n_q(self) -> int:
        return self.n_position + self.n_angle

    @property
    def n_v(self) -> int:
        return self.n_q + self.n_free

    @property
    def n_state(self) -> int:
        return self.n_q + self.n_v + self.n_rest

    @property
    def n_place(self) -> int:
        """Width of `place`."""
        return self.n_position + 2 * self.n_angle

    @property
    def n_features(self) -> int:
        """Width of `features`."""
        return self.n_place + self.n_v + self.n_rest

    def place(self, z: Tensor) -> Tensor:
        """What a network sees of the positions: ``[positions, cos(angles), sin(angles)]``, so angles wrap."""
        if not self.n_angle:
            return z[..., : self.n_q]
        angle = z[..., self.n_position : self.n_q]
        return torch.cat([z[..., : self.n_position], torch.cos(angle), torch.sin(angle)], -1)

    def features(self, z: Tensor) -> Tensor:
        """What a network sees of a state: ``[place, v, rest]``."""
        return torch.cat([self.place(z), z[..., self.n_q :]], -1) if self.n_angle else z

    def place_rate(self, place: Tensor, dq: Tensor) -> Tensor:
        """The rate of `place` under the rate ``dq [*, n_q]`` of the positions."""
        if not self.n_angle:
            return dq
        cos, sin = place[..., self.n_position :].chunk(2, -1)
        spin = dq[..., self.n_position :]
        return torch.cat([dq[..., : self.n_position], -sin * spin, cos * spin], -1)

    def place_gradient(self, place: Tensor, gradient: Tensor) -> Tensor:
        """The gradient by q, ``[*, n_q]``, of a function whose gradient by `place` is `gradient`."""
        if not self.n_angle:
            return gradient
        cos, sin = place[..., self.n_position :].chunk(2, -1)
        by_cos, by_sin = gradient[..., self.n_position :].chunk(2, -1)
        return torch.cat([gradient[..., : self.n_position], cos * by_sin - sin * by_cos], -1)

    def wrap(self, z: Tensor) -> Tensor:
        """`z` with its angles in (-pi, pi]."""
        if not self.n_angle:
            return z
        lo, hi = self.n_position, self.n_q
        angle = math.pi - torch.remainder(math.pi - z[..., lo:hi], 2 * math.pi)
        return torch.cat([z[..., :lo], angle, z[..., hi:]], -1)

    def difference(self, after: Tensor, before: Tensor) -> Tensor:
        """``after - before``, angles the short way round."""
        return self.wrap(after - before)

    def feature_scale(self, z: Scale) -> Scale:
        """The scale of `features` where z has scale `z`, its angles being normally distributed.

        ``E[e^(i q)] = e^(i mean - spread^2 / 2)``; cosine and sine of an angle share one spread, so that
        the cosine of a small angle is not blown up.
        """
        lo, hi = self.n_position, self.n_q
        mean, variance = z.mean[lo:hi], z.spread[lo:hi].square()
        size = torch.exp(-0.5 * variance)
        spread = torch.sqrt(-torch.expm1(-variance))
        means = torch.cat([z.mean[:lo], size * torch.cos(mean), size * torch.sin(mean), z.mean[hi:]])
        return Scale(means, torch.cat([z.spread[:lo], spread, spread, z.spread[hi:]]))


@dataclass(frozen=True)
class StateSpec:
    """Which columns of an observation are positions, angles, velocities or else.

    Every column stands in exactly one place. The velocities are those of `position`, `angle` and
    `angle_pair`, in this order.

    Raises:
        UsageError: for a column that is missing or stands twice, or where positions lack a velocity.
    """

    position: tuple[int, ...] = ()
    """Linear positions."""
    angle: tuple[int, ...] = ()
    """Angles in radians."""
    angle_pair: tuple[tuple[int, int], ...] = ()
    """Angles given as (cosine, sine)."""
    velocity: tuple[int, ...] = ()
    """Velocities of the positions, the angles and the pairs."""
    free_velocity: tuple[int, ...] = ()
    """Velocities whose position is not observed, such as that of a robot that walks away."""
    rest: tuple[int, ...] = ()
    """All else, positions without velocity included."""
    constant: tuple[int, ...] = ()
    """Columns of `rest` that never change within an episode, such as a target."""

    def __post_init__(self) -> None:
        columns = sorted(self._columns)
        if columns != list(range(len(columns))):
            raise UsageError(
                "every column from 0 on in one place", columns, "Put what is left in rest=(...)."
            )
        if not set(self.constant) <= set(self.rest):
            raise UsageError("constant columns among rest", self.constant, f"Write rest={self.constant}.")
        if len(self.velocity) != self.layout.n_q:
            raise UsageError(
                f"{self.layout.n_q} velocities, one for each position",
                len(self.velocity),
                "Put a position without velocity in rest=, a velocity without position in free_velocity=.",
            )

    @cached_property
    def layout(self) -> Layout:
        """The order within z."""
        constant = tuple(self.rest.index(c) for c in self.constant)
        n_angle = len(self.angle) + len(self.angle_pair)
        return Layout(len(self.position), n_angle, len(self.free_velocity), len(self.rest), constant)

    @property
    def n_obs(self) -> int:
        return len(self._columns)

    def encode(self, obs: Tensor) -> Tensor:
        """``obs [*, O] -> z [*, Z]``; angles from pairs lie in [-pi, pi]."""
        if obs.shape[-1] != self.n_obs:
            raise UsageError(f"observations of width {self.n_obs}", obs.shape[-1], "Mend the StateSpec.")
        columns = obs.index_select(-1, _index(self._columns, obs.device))
        if not self.angle_pair:
            return columns
        cos, sin = columns[..., self._n_plain : self._n_place].chunk(2, -1)
        return torch.cat(
            [columns[..., : self._n_plain], torch.atan2(sin, cos), columns[..., self._n_place :]], -1
        )

    def decode(self, z: Tensor) -> Tensor:
        """``z [*, Z] -> obs [*, O]``, the inverse of `encode`."""
        angle = z[..., self._n_plain : self.layout.n_q]
        return self._in_columns(z, torch.cos(angle), torch.sin(angle))

    def decode_rate(self, z: Tensor, dz: Tensor) -> Tensor:
        """The rate of the observation, ``[*, O]``, where z has the rate ``dz [*, Z]``."""
        angle, spin = (x[..., self._n_plain : self.layout.n_q] for x in (z, dz))
        return self._in_columns(dz, -torch.sin(angle) * spin, torch.cos(angle) * spin)

    def encode_scale(self, obs: Scale) -> Scale:
        """The scale of z where observations have scale `obs`; angles of pairs as if normally distributed."""
        order = _index(self._columns, obs.mean.device)
        mean, spread = obs.mean[order], obs.spread[order]
        lo, hi = self._n_plain, self._n_place
        cos, sin = mean[lo:hi].chunk(2)
        # 1 - E[cos]^2 - E[sin]^2 = 1 - exp(-spread^2); a uniform angle would have an infinite spread.
        variance = spread[lo:hi].square().reshape(2, -1).sum(0).clamp_max(1 - 1e-6)
        angle_spread = torch.sqrt(-torch.log1p(-variance))
        return Scale(
            torch.cat([mean[:lo], torch.atan2(sin, cos), mean[hi:]]),
            torch.cat([spread[:lo], angle_spread, spread[hi:]]),
        )

    def encode_rate_scale(self, obs: Scale) -> Scale:
        """The scale of dz/dt where the rates of observations have scale `obs`.

        The rate of an angle of a pair is its velocity, which nobody learns: its scale is 0 and 1.
        """
        order = _index(self._columns, obs.mean.device)
        lo, hi, n = self._n_plain, self._n_place, len(self.angle_pair)
        mean, spread = obs.mean[order], obs.spread[order]
        return Scale(
            torch.cat([mean[:lo], mean.new_zeros(n), mean[hi:]]),
            torch.cat([spread[:lo], spread.new_ones(n), spread[hi:]]),
        )

    @cached_property
    def _columns(self) -> tuple[int, ...]:
        """The columns in the order of z, each angle of a pair by its cosine, then all by their sines."""
        cos, sin = (tuple(pair[i] for pair in self.angle_pair) for i in (0, 1))
        return (
            *(*self.position, *self.angle, *cos, *sin),
            *(*self.velocity, *self.free_velocity, *self.rest),
        )

    @cached_property
    def _places(self) -> tuple[int, ...]:
        """Where in `_columns` each column of an observation stands."""
        return tuple(self._columns.index(i) for i in range(self.n_obs))

    @cached_property
    def _n_plain(self) -> int:
        return len(self.position) + len(self.angle)

    @cached_property
    def _n_place(self) -> int:
        return self._n_plain + 2 * len(self.angle_pair)

    def _in_columns(self, z: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        if self.angle_pair:
            z = torch.cat([z[..., : self._n_plain], cos, sin, z[..., self.layout.n_q :]], -1)
        return z.index_select(-1, _index(self._places, z.device))


@lru_cache(maxsize=256)
def _index(columns: tuple[int, ...], device: torch.device) -> Tensor:
    # A tensor made while planning (in inference mode) could not serve in a fit.
    with torch.inference_mode(False):
        return torch.tensor(columns, dtype=torch.int64, device=device)


# Read off `_get_obs` of Gymnasium 1.4. Locomotion tasks leave out the position along the track.
STATE_SPECS: dict[str, StateSpec] = {
    "Pendulum-v1": StateSpec(angle_pair=((0, 1),), velocity=(2,)),
    "InvertedPendulum-v5": StateSpec(position=(0,), angle=(1,), velocity=(2, 3)),
    # rest: the constraint force on the cart.
    "InvertedDoublePendulum-v5": StateSpec(
        position=(0,), angle_pair=((3, 1), (4, 2)), velocity=(5, 6, 7), rest=(8,)
    ),
    # rest: the target, then the way from it to the fingertip.
    "Reacher-v5": StateSpec(angle_pair=((0, 2), (1, 3)), velocity=(6, 7), rest=(4, 5, 8, 9), constant=(4, 5)),
    # rest: fingertip, object and goal.
    "Pusher-v5": StateSpec(
        angle=tuple(range(7)),
        velocity=tuple(range(7, 14)),
        rest=tuple(range(14, 23)),
        constant=(20, 21, 22),
    ),
    "Swimmer-v5": StateSpec(angle=(0, 1, 2), velocity=(5, 6, 7), free_velocity=(3, 4)),
    "Hopper-v5": StateSpec(position=(0,), angle=(1, 2, 3, 4), velocity=(6, 7, 8, 9, 10), free_velocity=(5,)),
    "HalfCheetah-v5": StateSpec(
        position=(0,), angle=tuple(range(1, 8)), velocity=tuple(range(9, 17)), free_velocity=(8,)
    ),
    "Walker2d-v5": StateSpec(
        position=(0,), angle=tuple(range(1, 8)), velocity=tuple(range(9, 17)), free_velocity=(8,)
    ),
    "ode_rl/Pendulum-v0": StateSpec(angle_pair=((0, 1),), velocity=(2,)),
    "ode_rl/CartPoleSwingUp-v0": StateSpec(position=(0,), angle_pair=((1, 2),), velocity=(3, 4)),
    "ode_rl/Acrobot-v0": StateSpec(angle_pair=((0, 1), (2, 3)), velocity=(4, 5)),
    "ode_rl/DoublePendulum-v0": StateSpec(angle_pair=((0, 1), (2, 3)), velocity=(4, 5)),
}


def state_spec(env_id: str, n_obs: int) -> StateSpec:
    """The specification of a standard task.

    `env_id` may be of the form ``module:id``; `n_obs` is the width of the observations it is meant for.

    Raises:
        UsageError: for a task without one, or whose observations are wider (or narrower) than it says.
    """
    name = env_id.split(":")[-1]
    spec = STATE_SPECS.get(name)
    if spec is None:
        raise UsageError(
            f"a task whose state is known ({', '.join(STATE_SPECS)})",
            repr(env_id),
            "Give StateSpec(position=..., angle=..., velocity=..., rest=...), or take the model 'ode'.",
        )
    if spec.n_obs != n_obs:
        raise UsageError(
            f"observations of width {spec.n_obs} from {name}",
            n_obs,
            "Leave out wrappers that change the observation, or give a StateSpec of your own.",
        )
    return spec
