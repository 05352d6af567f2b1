"""Stable-Baselines3 callbacks that keep a run folder up to date while any agent learns."""

from __future__ import annotations

import io
import random
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from ode_rl.envs.task_timing import Timing
from ode_rl.evaluate import EVALUATION_SEED, Evaluation, evaluate_agent
from ode_rl.files import replace_file
from ode_rl.run import Episode, RunFolder

CHECKPOINT_SECONDS = 30.0
RECENT_EPISODES = 100


class RunRecorder(BaseCallback):
    """Write ``episodes.csv``, the training curves of TensorBoard and the checkpoint.

    The checkpoint is renewed after episodes, at most every `checkpoint_seconds` of real time, and at the
    end of the training.
    """

    def __init__(self, run: RunFolder, checkpoint_seconds: float = CHECKPOINT_SECONDS) -> None:
        super().__init__()
        self._run = run
        self._checkpoint_seconds = checkpoint_seconds
        self._checkpoint_due = False
        self._saved_at = -np.inf
        self._episodes = 0
        self._sim_seconds = 0.0
        self._recent: deque[Episode] = deque(maxlen=RECENT_EPISODES)

    def _on_training_start(self) -> None:
        self._started = time.perf_counter()

    def _on_step(self) -> bool:
        # One step after the end of an episode, so that what was fitted at its end is in the checkpoint.
        if self._checkpoint_due and time.perf_counter() - self._saved_at >= self._checkpoint_seconds:
            self._save()
        for done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
            self._sim_seconds += float(info["dt"])
            if done:
                self._record(info["episode"], terminated=not info.get("TimeLimit.truncated", False))
                self._checkpoint_due = True
        return True

    def _on_training_end(self) -> None:
        self._save()

    def _record(self, episode: dict[str, float], terminated: bool) -> None:
        self._episodes += 1
        row = Episode(
            episode=self._episodes,
            env_steps=self.num_timesteps,
            sim_seconds=round(self._sim_seconds, 6),
            episode_return=float(episode["r"]),
            length=int(episode["l"]),
            terminated=terminated,
            wall_s=round(time.perf_counter() - self._started, 3),
        )
        self._run.append_episode(row)
        self._recent.append(row)
        self.logger.record("rollout/ep_rew_mean", float(np.mean([e.episode_return for e in self._recent])))
        self.logger.record("rollout/ep_len_mean", float(np.mean([e.length for e in self._recent])))
        self.logger.record("time/sim_seconds", row.sim_seconds)
        self.logger.record("time/time_elapsed", row.wall_s)
        self.logger.dump(self.num_timesteps)

    def _save(self) -> None:
        self.model.save(str(self._run.checkpoint))
        self._checkpoint_due = False
        self._saved_at = time.perf_counter()


class Evaluations(BaseCallback):
    """Evaluate every `eval_freq` environment steps into ``evaluations.npz``, as EvalCallback writes it.

    Every evaluation has environments and start seeds of its own, the same each time; the random streams
    of the training do not notice it.
    """

    def __init__(
        self,
        run: RunFolder,
        env_id: str,
        eval_freq: int,
        n_episodes: int = 5,
        timing: Timing = None,
        seed: int = EVALUATION_SEED,
    ) -> None:
        super().__init__()
        self._run, self._env_id, self._timing = run, env_id, timing
        self._eval_freq, self._n_episodes, self._seed = eval_freq, n_episodes, seed
        self._next = eval_freq
        self._timesteps: list[int] = []
        self._evaluations: list[Evaluation] = []

    def _on_step(self) -> bool:
        if self.num_timesteps >= self._next:
            self._next = (self.num_timesteps // self._eval_freq + 1) * self._eval_freq
            self._evaluate()
        return True

    def _evaluate(self) -> None:
        with kept_random_streams():
            evaluation = evaluate_agent(
                self.model, self._env_id, self._n_episodes, self._seed, timing=self._timing
            )
        self._timesteps.append(self.num_timesteps)
        self._evaluations.append(evaluation)
        buffer = io.BytesIO()
        np.savez(
            buffer,
            timesteps=np.array(self._timesteps),
            results=np.array([e.returns for e in self._evaluations]),
            ep_lengths=np.array([e.lengths for e in self._evaluations]),
        )
        replace_file(self._run.evaluations, buffer.getvalue())
        self.logger.record("eval/mean_reward", evaluation.mean_return)
        self.logger.record("eval/mean_ep_length", float(np.mean(evaluation.lengths)))
        self.logger.dump(self.num_timesteps)


@contextmanager
def kept_random_streams() -> Iterator[None]:
    """Leave the global random generators of Python, numpy and torch as they were."""
    python, legacy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
