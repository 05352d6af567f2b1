"""What an agent that was trained in an imagined world earns there, and in the real task."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from ode_rl.envs.imagined import ImaginedEnv
from ode_rl.envs.learned_world import LearnedWorld
from ode_rl.envs.task import make_task
from ode_rl.envs.task_timing import Timing
from ode_rl.evaluate import Evaluation, evaluate_agent
from ode_rl.types import Agent


class BothReturns(NamedTuple):
    """The same agent from starts of recorded episodes in imagination, and in the real task."""

    imagined: Evaluation
    real: Evaluation

    def to_json(self) -> dict[str, Any]:
        """Return what ``report.json`` says of them."""
        shown = ("env_id", "n_episodes", "mean_return", "std_return", "returns", "seconds")
        return {
            name: {key: getattr(evaluation, key) for key in shown}
            for name, evaluation in self._asdict().items()
        }


def imagined_world(env_id: str, timing: Timing = None) -> LearnedWorld | None:
    """The learned world behind an id, None for a real task."""
    env = make_task(env_id, timing)
    env.close()
    return env.unwrapped.world if isinstance(env.unwrapped, ImaginedEnv) else None


def both_returns(agent: Agent, world: LearnedWorld, episodes: int, seed: int) -> BothReturns | None:
    """Evaluate in imagination, where nothing truncates before the limit, and in the task of `world`.

    None for a world whose real task is not known.
    """
    if world.env_id is None:
        return None
    dream = ImaginedEnv(world, starts="episodes", max_disagreement=None)
    imagined = replace(evaluate_agent(agent, dream, episodes, seed), env_id="ode_rl/Imagined-v0")
    return BothReturns(imagined, evaluate_agent(agent, world.env_id, episodes, seed, timing=world.timing))
