"""Stable-Baselines3 callbacks that keep a run folder up to date while any agent learns."""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from ode_rl.checkpoint import read_arrays
from ode_rl.envs.task_timing import Timing
from ode_rl.errors import Stopped, UsageError
from ode_rl.evaluate import EVALUATION_SEED, evaluate_agent
from ode_rl.files import replace_file
from ode_rl.random_streams import kept_random_streams as kept_random_streams
from ode_rl.run import Episode, RunFolder
from ode_rl.stops import Stops

if TYPE_CHECKING:
    from ode_rl.agents.learner import Learner

CHECKPOINT_SECONDS = 30.0
# A checkpoint of a large buffer takes its time: the share of it is kept below a twentieth.
CHECKPOINT_SHARE = 0.05
# Where episodes do not end, checkpoints are written within them, this many times more rarely.
WITHIN_EPISODES = 10
RECENT_EPISODES = 100


class RunRecorder(BaseCallback):
    """Write ``episodes.csv``, the training curves of TensorBoard and the checkpoint.

    There is a checkpoint from the start. It is renewed at the first safe point after an episode, at most
    every `checkpoint_seconds` of real time, and at any safe point once somebody asks to stop (`stops`),
    which ends the training.
    When it is renewed changes nothing of what is trained.
    """

    def __init__(
        self, run: RunFolder, checkpoint_seconds: float = CHECKPOINT_SECONDS, stops: Stops | None = None
    ) -> None:
        super().__init__()
        self._run, self._stops = run, stops
        self._every = checkpoint_seconds
        self._started, self._saved_at = time.perf_counter(), -np.inf
        self._cost = 0.0
        self._episode_ended = False
        self._episodes = 0
        self._sim_seconds = 0.0
        self._faults = 0
        self._recent: deque[Episode] = deque(maxlen=RECENT_EPISODES)

    def resume(self, agent: Learner) -> None:
        """Cut the run folder back to the checkpoint that `agent` was loaded from, and count on from there.

        Raises:
            UsageError: if the checkpoint is not one of a run, or the files of the run are damaged.
        """
        try:
            record = dict(agent.run_record or {})
            positions = {str(name): int(size) for name, size in record["positions"].items()}
            self._episodes, self._sim_seconds = int(record["episodes"]), float(record["sim_seconds"])
            self._started = time.perf_counter() - float(record["wall_s"])
            if min(self._episodes, positions[self._run.episodes.name], *positions.values()) < 0:
                raise ValueError("a number below 0")
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            got = f"{self._run.path}, whose checkpoint does not say where its files were ({error!r})"
            raise UsageError("a run that can be resumed", got, "Train again.") from error
        self._run.cut_back(positions)
        self._recent.extend(self._run.read_episodes()[-RECENT_EPISODES:])

    def _on_step(self) -> bool:
        for done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
            self._sim_seconds += float(info["dt"])
            if "fault" in info:
                self._faults += 1
                self.logger.record("rollout/steps_left_out", self._faults)
            if done:
                self._record(info["episode"], terminated=not info.get("TimeLimit.truncated", False))
                self._episode_ended = True
        return True

    def on_safe_point(self, agent: Learner) -> None:
        """Save if it is time to; save and end the training if somebody asked to stop."""
        stops = self._stops
        if stops is not None and stops.asked():
            stops.reached()
            self.save(agent)
            stops.leave()
        if self._is_due():
            self.save(agent)

    def save(self, agent: Learner) -> None:
        """Write the checkpoint, and what the files of the run held by then."""
        began = time.perf_counter()
        record = {
            "episodes": self._episodes,
            "sim_seconds": self._sim_seconds,
            "wall_s": began - self._started,
            "positions": self._run.positions(),
        }
        agent.save_run(self._run.checkpoint, record)
        self._episode_ended, self._saved_at = False, time.perf_counter()
        self._cost = self._saved_at - began

    def _is_due(self) -> bool:
        since = time.perf_counter() - self._saved_at
        every = max(self._every, self._cost / CHECKPOINT_SHARE) if self._every else 0.0
        return since >= (every if self._episode_ended else max(every, CHECKPOINT_SECONDS) * WITHIN_EPISODES)

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


class Evaluations(BaseCallback):
    """Evaluate every `eval_freq` environment steps into ``evaluations.npz``, as EvalCallback writes it.

    There, ``eval_s`` says besides how many seconds of real time each evaluation took.
    Every evaluation has environments and start seeds of its own, the same each time; the random streams
    of the training do not notice it. One under way is dropped when `stop_asked`, and made when the run
    is resumed.
    """

    def __init__(
        self,
        run: RunFolder,
        env_id: str,
        eval_freq: int,
        n_episodes: int = 5,
        timing: Timing = None,
        seed: int = EVALUATION_SEED,
        stop_asked: Callable[[], bool] = lambda: False,
        step_timeout: float | None = None,
    ) -> None:
        super().__init__()
        self._run, self._env_id, self._timing = run, env_id, timing
        self._eval_freq, self._n_episodes, self._seed = eval_freq, n_episodes, seed
        self._stop_asked, self._step_timeout = stop_asked, step_timeout
        self._next = eval_freq
        self._timesteps: list[int] = []
        self._results: list[list[float]] = []
        self._lengths: list[list[int]] = []
        self._seconds: list[float] = []

    def resume(self, num_timesteps: int) -> None:
        """Take up the evaluations of the first `num_timesteps` steps.

        Raises:
            UsageError: if their file is damaged.
        """
        if not self._run.evaluations.is_file():
            return
        try:
            found = read_arrays(self._run.evaluations)
            kept = found["timesteps"] <= num_timesteps
            self._timesteps = found["timesteps"][kept].tolist()
            self._results = found["results"][kept].tolist()
            self._lengths = found["ep_lengths"][kept].tolist()
            none = np.zeros(len(found["timesteps"]))  # older ones do not say how long they took
            self._seconds = found.get("eval_s", none)[kept].tolist()
        except (LookupError, TypeError, ValueError) as error:
            got, remedy = f"{self._run.evaluations} ({error})", "Remove the file, and resume again."
            raise UsageError("a file of evaluations", got, remedy) from error
        if self._timesteps:
            self._next = (self._timesteps[-1] // self._eval_freq + 1) * self._eval_freq
            self._write()
        else:
            self._run.evaluations.unlink()

    def _on_training_start(self) -> None:
        self.num_timesteps = self.model.num_timesteps
        self._on_step()

    def _on_step(self) -> bool:
        if self.num_timesteps >= self._next:
            try:
                self._evaluate()
            except Stopped:  # a safe point follows
                return True
            self._next = (self.num_timesteps // self._eval_freq + 1) * self._eval_freq
        return True

    def _evaluate(self) -> None:
        agent: Any = _UntilStopped(self.model, self._stop_asked)
        began = time.perf_counter()
        with kept_random_streams():
            evaluation = evaluate_agent(
                agent,
                self._env_id,
                self._n_episodes,
                self._seed,
                timing=self._timing,
                step_timeout=self._step_timeout,
            )
        self._timesteps.append(self.num_timesteps)
        self._results.append(evaluation.returns)
        self._lengths.append(evaluation.lengths)
        self._seconds.append(time.perf_counter() - began)
        self._write()
        self.logger.record("eval/mean_reward", evaluation.mean_return)
        self.logger.record("eval/mean_ep_length", float(np.mean(evaluation.lengths)))
        self.logger.dump(self.num_timesteps)

    def _write(self) -> None:
        buffer = io.BytesIO()
        np.savez(
            buffer,
            timesteps=np.array(self._timesteps),
            results=np.array(self._results),
            ep_lengths=np.array(self._lengths),
            eval_s=np.array(self._seconds),
        )
        replace_file(self._run.evaluations, buffer.getvalue())


class _UntilStopped:
    """An agent that acts until somebody asks to stop."""

    def __init__(self, agent: Any, stop_asked: Callable[[], bool]) -> None:
        self._agent, self._stop_asked = agent, stop_asked

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agent, name)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        if self._stop_asked():
            raise Stopped
        return self._agent.predict(*args, **kwargs)
