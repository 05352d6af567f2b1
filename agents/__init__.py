"""Everything that acts: planners, policies and the agents made of them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if __name__ != "ode_rl.agents":
    raise ImportError(
        f"expected `import ode_rl.agents`, got `import {__name__}`. Write `from ode_rl import agents`."
    )

if TYPE_CHECKING:
    from ode_rl.agents.dyna import Dyna as Dyna
    from ode_rl.agents.mpc import MPC as MPC
    from ode_rl.agents.ode_extractor import ODEExtractor as ODEExtractor
    from ode_rl.agents.ode_policy import ODEPolicy as ODEPolicy
    from ode_rl.agents.recurrent_policy import CfCPolicy as CfCPolicy
    from ode_rl.agents.recurrent_policy import GRUODEPolicy as GRUODEPolicy
    from ode_rl.agents.timed_ppo import TimedPPO as TimedPPO
    from ode_rl.agents.timed_replay import TimedDictReplayBuffer as TimedDictReplayBuffer
    from ode_rl.agents.timed_replay import TimedReplayBuffer as TimedReplayBuffer

_HOME = {
    "CfCPolicy": "ode_rl.agents.recurrent_policy",
    "Dyna": "ode_rl.agents.dyna",
    "GRUODEPolicy": "ode_rl.agents.recurrent_policy",
    "MPC": "ode_rl.agents.mpc",
    "ODEExtractor": "ode_rl.agents.ode_extractor",
    "ODEPolicy": "ode_rl.agents.ode_policy",
    "TimedDictReplayBuffer": "ode_rl.agents.timed_replay",
    "TimedPPO": "ode_rl.agents.timed_ppo",
    "TimedReplayBuffer": "ode_rl.agents.timed_replay",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
