"""Episodes that can be repeated: every reset is seeded, every action is remembered."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.utils import RecordConstructorArgs

Env = gymnasium.Env[Any, Any]


class Repeatable(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Seed every reset from ``(seed, number of the episode, index)``, and remember the actions since.

    The first episode, and each that `reset` is given a seed for, begins from that very seed, as without the
    wrapper; those after it (a `VecEnv` resets on its own, without one) from seeds derived from it. `index`
    is the number of the environment among those of a `VecEnv`.

    With that an episode in progress is written down in few numbers whatever the task is made of, wrappers
    with random streams of their own included: where the task repeats itself, `resume_episode` brings a
    fresh environment to the same state.
    """

    def __init__(self, env: Env, seed: int = 0, index: int = 0) -> None:
        RecordConstructorArgs.__init__(self, seed=seed, index=index)
        gymnasium.Wrapper.__init__(self, env)
        self._seed, self._index, self._number = seed, index, -1
        self._actions = bytearray()  # an episode need not end
        self._obs: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._seed, self._number = seed, 0
        else:
            self._number += 1
        self._actions.clear()
        self._obs, info = self.env.reset(seed=self._seed_of_episode(), options=options)
        return self._obs, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        self._actions += np.asarray(action, self.action_space.dtype).tobytes()
        result = self.env.step(action)
        self._obs = result[0]
        return result

    def episode_state(self) -> dict[str, Any]:
        """The open episode: ``seed``, ``number``, ``actions [T, A]`` since its start, ``obs [O]`` now."""
        actions = np.frombuffer(bytes(self._actions), self.action_space.dtype)
        actions = actions.reshape(-1, *(self.action_space.shape or ()))
        return {"seed": self._seed, "number": self._number, "actions": actions, "obs": np.array(self._obs)}

    def resume_episode(self, state: dict[str, Any]) -> npt.NDArray[Any] | None:
        """Live an episode again up to where `episode_state` found it, and return the observation there.

        None if the task did not repeat itself; it has to be reset then.
        """
        self._seed, self._number = int(state["seed"]), int(state["number"]) - 1
        obs, _ = self.reset()
        for action in state["actions"]:
            obs, _, terminated, truncated, _ = self.step(action)
            if terminated or truncated:
                return None
        return np.array(obs) if np.array_equal(obs, state["obs"]) else None

    def _seed_of_episode(self) -> int:
        if self._number == 0:
            return self._seed
        # A VecEnv adds the index to the seed that it is given.
        key = (max(0, self._seed - self._index), self._number, self._index)
        return int(np.random.SeedSequence(key).generate_state(1)[0])
