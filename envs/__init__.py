"""Everything that is acted on: Gymnasium tasks and the wrappers that tell time."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if __name__ != "ode_rl.envs":
    raise ImportError(
        f"expected `import ode_rl.envs`, got `import {__name__}`. Write `from ode_rl import envs`."
    )

if TYPE_CHECKING:
    from ode_rl.envs.action_delay import ActionDelay as ActionDelay
    from ode_rl.envs.actuator_fault import ActuatorFault as ActuatorFault
    from ode_rl.envs.changed_physics import ChangedPhysics as ChangedPhysics
    from ode_rl.envs.control_interval import ControlInterval as ControlInterval
    from ode_rl.envs.flat_goal import FlatGoal as FlatGoal
    from ode_rl.envs.guarded import Guarded as Guarded
    from ode_rl.envs.imagined import ImaginedEnv as ImaginedEnv
    from ode_rl.envs.imagined_vec_env import ImaginedVecEnv as ImaginedVecEnv
    from ode_rl.envs.imagined_vector import ImaginedVectorEnv as ImaginedVectorEnv
    from ode_rl.envs.intervals import Intervals as Intervals
    from ode_rl.envs.learned_world import LearnedWorld as LearnedWorld
    from ode_rl.envs.masked_observation import MaskedObservation as MaskedObservation
    from ode_rl.envs.masked_observation import partly_observed as partly_observed
    from ode_rl.envs.nominal_mujoco import NominalMuJoCo as NominalMuJoCo
    from ode_rl.envs.observation_delay import ObservationDelay as ObservationDelay
    from ode_rl.envs.observation_dropout import ObservationDropout as ObservationDropout
    from ode_rl.envs.registration import register_world as register_world
    from ode_rl.envs.repeatable import Repeatable as Repeatable
    from ode_rl.envs.seconds_limit import SecondsLimit as SecondsLimit
    from ode_rl.envs.sensor_noise import SensorNoise as SensorNoise
    from ode_rl.envs.task import make_task as make_task
    from ode_rl.envs.task_timing import TaskTiming as TaskTiming
    from ode_rl.envs.time_aware import TimeAware as TimeAware
    from ode_rl.envs.timed_action import TimedAction as TimedAction
    from ode_rl.envs.true_dynamics import TrueDynamics as TrueDynamics

_HOME = {
    "ActionDelay": "ode_rl.envs.action_delay",
    "ActuatorFault": "ode_rl.envs.actuator_fault",
    "ChangedPhysics": "ode_rl.envs.changed_physics",
    "ControlInterval": "ode_rl.envs.control_interval",
    "FlatGoal": "ode_rl.envs.flat_goal",
    "ImaginedEnv": "ode_rl.envs.imagined",
    "ImaginedVecEnv": "ode_rl.envs.imagined_vec_env",
    "ImaginedVectorEnv": "ode_rl.envs.imagined_vector",
    "Intervals": "ode_rl.envs.intervals",
    "MaskedObservation": "ode_rl.envs.masked_observation",
    "LearnedWorld": "ode_rl.envs.learned_world",
    "NominalMuJoCo": "ode_rl.envs.nominal_mujoco",
    "ObservationDelay": "ode_rl.envs.observation_delay",
    "ObservationDropout": "ode_rl.envs.observation_dropout",
    "Guarded": "ode_rl.envs.guarded",
    "Repeatable": "ode_rl.envs.repeatable",
    "SecondsLimit": "ode_rl.envs.seconds_limit",
    "SensorNoise": "ode_rl.envs.sensor_noise",
    "TaskTiming": "ode_rl.envs.task_timing",
    "TimeAware": "ode_rl.envs.time_aware",
    "TimedAction": "ode_rl.envs.timed_action",
    "TrueDynamics": "ode_rl.envs.true_dynamics",
    "make_task": "ode_rl.envs.task",
    "partly_observed": "ode_rl.envs.masked_observation",
    "register_world": "ode_rl.envs.registration",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
