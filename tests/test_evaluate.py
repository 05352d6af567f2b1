"""Evaluation: the returns are those of playing by hand, each seed once; curves and videos are real files."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import gymnasium
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from ode_rl.callbacks import kept_random_streams
from ode_rl.envs.task import make_task
from ode_rl.envs.task_timing import TaskTiming
from ode_rl.errors import UsageError
from ode_rl.evaluate import evaluate_agent
from ode_rl.files import write_json
from ode_rl.load_agent import load_agent
from ode_rl.plots import plot_learning_curve
from ode_rl.run import Episode, RunFolder
from ode_rl.video import _grid, in_real_time, record_video
from tests.fakes import FakeLearner, Push
from tests.own_tasks import Balance

CART, BALANCE = "tests.own_tasks:own/SpringCart-v0", "tests.own_tasks:own/Balance-v0"


def by_hand(env_id: str, seed: int) -> tuple[float, int]:
    env, agent = make_task(env_id), Push()
    obs, total, steps, over = env.reset(seed=seed)[0], 0.0, 0, False
    while not over:
        action = agent.predict(obs)[0]
        obs, reward, terminated, truncated, _ = env.step(action)
        total, steps, over = total + float(reward), steps + 1, terminated or truncated
    return total, steps


# --- returns -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", [CART, BALANCE, "Pendulum-v1"])
@pytest.mark.parametrize("n_envs", [1, 3, None])
def test_returns_and_lengths_are_those_of_playing_by_hand(env_id: str, n_envs: int | None) -> None:
    evaluation = evaluate_agent(Push(), env_id, 5, seed=40, n_envs=n_envs)
    expected = [by_hand(env_id, 40 + i) for i in range(5)]
    np.testing.assert_allclose(evaluation.returns, [total for total, _ in expected], rtol=1e-6)
    assert evaluation.lengths == [steps for _, steps in expected]
    assert evaluation.mean_return == pytest.approx(np.mean(evaluation.returns))
    assert evaluation.std_return == pytest.approx(np.std(evaluation.returns))


def test_the_evaluation_agrees_with_stable_baselines3() -> None:
    def make() -> gymnasium.Env[Any, Any]:
        return Monitor(make_task(CART))

    env = DummyVecEnv([make])
    env.seed(7)
    mean, _ = evaluate_policy(Push(), env, n_eval_episodes=1)
    assert evaluate_agent(Push(), CART, 1, seed=7).mean_return == pytest.approx(mean, rel=1e-5)


class SeedLog(Balance):
    """A task that remembers the seeds it was reset with."""

    seeds: list[int | None] = []  # noqa: RUF012

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.seeds.append(seed)
        return super().reset(seed=seed, options=options)


@pytest.mark.parametrize("n_envs", [1, 4, 20])
def test_every_seed_is_used_exactly_once(n_envs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    gymnasium.register("test/SeedLog-v0", entry_point=SeedLog, max_episode_steps=50)  # type: ignore[arg-type]
    monkeypatch.setattr(SeedLog, "seeds", [])
    try:
        evaluate_agent(Push(), "test/SeedLog-v0", 9, seed=100, n_envs=n_envs)
    finally:
        del gymnasium.registry["test/SeedLog-v0"]
    assert sorted(seed for seed in SeedLog.seeds if seed is not None) == list(range(100, 109))


def test_the_agent_sees_one_batch_of_constant_size() -> None:
    agent = Push()
    evaluate_agent(agent, BALANCE, 12)
    assert {shape for shape in agent.batches if shape != (1, 2)} == {(10, 2)}


def test_the_state_of_the_agent_is_carried_and_starts_are_marked() -> None:
    class Counting(Push):
        """Checks that its state is the number of steps since each start."""

        def predict(
            self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
        ) -> tuple[Any, Any]:
            assert episode_start is not None
            fresh = np.zeros(len(observation), int)
            count = np.where(episode_start, 0, fresh if state is None else state)
            longest.append(int(count.max()))
            return super().predict(observation)[0], count + 1

    longest: list[int] = []
    assert max(evaluate_agent(Counting(), CART, 4, n_envs=2).lengths) == 100
    assert max(longest) == 99


def test_an_environment_object_is_used_alone_and_left_open() -> None:
    env = make_task(CART)
    evaluation = evaluate_agent(Push(), env, 2, seed=40)
    assert evaluation.env_id == "own/SpringCart-v0"
    assert evaluation.returns == evaluate_agent(Push(), CART, 2, seed=40).returns
    env.reset()


def test_seconds_are_the_simulated_ones() -> None:
    evaluation = evaluate_agent(Push(), BALANCE, 3)
    np.testing.assert_allclose(evaluation.seconds, np.multiply(evaluation.lengths, 0.04))


def test_the_json_has_exactly_the_keys_that_others_read() -> None:
    data = json.loads(json.dumps(evaluate_agent(Push(), CART, 2, seed=5, agent_name="push").to_json()))
    assert set(data) == {
        *("schema", "env_id", "agent", "seed", "n_episodes", "mean_return", "std_return"),
        *("returns", "lengths", "seconds", "ms_per_decision", "ms_per_decision_p99"),
        *("return_per_second", "interquartile_mean", "interquartile_interval", "mean_length", "mean_seconds"),
        *("success_rate", "success_interval", "decisions_per_second", "action_fluctuation", "action_energy"),
    }
    assert (data["schema"], data["agent"], data["seed"], data["n_episodes"]) == (1, "push", 5, 2)
    assert isinstance(data["mean_return"], float)
    assert data["ms_per_decision_p99"] >= data["ms_per_decision"] > 0


class Reach(Balance):
    """Says whether the point ended near the middle."""

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated, truncated, {**info, "is_success": abs(obs[0]) < 0.5}


def test_statistics_are_those_of_the_episodes() -> None:
    gymnasium.register("test/Reach-v0", entry_point=Reach, max_episode_steps=50)  # type: ignore[arg-type]
    try:
        agent = Push(2.0)
        evaluation = evaluate_agent(agent, "test/Reach-v0", 8, seed=3, n_envs=3)
        alone = [evaluate_agent(Push(2.0), "test/Reach-v0", 1, seed=3 + i) for i in range(8)]
    finally:
        del gymnasium.registry["test/Reach-v0"]
    assert evaluation.success_rate == np.mean([each.success_rate for each in alone]) > 0
    assert evaluation.interquartile_mean == pytest.approx(np.mean(sorted(evaluation.returns)[2:-2]))
    assert evaluation.interquartile_interval is not None
    assert evaluation.interquartile_interval[0] <= evaluation.interquartile_mean
    assert alone[0].interquartile_interval is None
    assert evaluation.mean_seconds == pytest.approx(0.04 * evaluation.mean_length)
    for name in ("action_fluctuation", "action_energy"):
        each = [getattr(one, name) for one in alone]
        assert getattr(evaluation, name) == pytest.approx(np.mean(each))
        assert min(each) > 0


def test_a_task_that_does_not_speak_of_success_has_no_success_rate() -> None:
    evaluation = evaluate_agent(Push(), CART, 2)
    assert evaluation.success_rate is None
    assert evaluation.success_interval is None


# --- what is refused ---------------------------------------------------------------------------------------


def test_no_episodes_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one episode"):
        evaluate_agent(Push(), CART, 0)


def test_actions_of_a_wrong_shape_are_refused() -> None:
    class Single(Push):
        def predict(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
            return np.zeros(1), None

    with pytest.raises(UsageError, match=r"shape \(3, 1\).*batch"):
        evaluate_agent(Single(), CART, 3)


def test_a_task_of_another_shape_than_the_agents_is_refused() -> None:
    agent = Push()
    agent.observation_space = make_task(CART).observation_space  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="observation space"):
        evaluate_agent(agent, "Pendulum-v1", 1)


def test_a_task_that_never_ends_is_refused_instead_of_running_for_ever() -> None:
    gymnasium.register("test/Endless-v0", entry_point="tests.own_tasks:SpringCart")
    try:
        with pytest.raises(UsageError, match="max_episode_steps"):
            evaluate_agent(Push(), "test/Endless-v0", 1)
    finally:
        del gymnasium.registry["test/Endless-v0"]


# --- agents from outside -----------------------------------------------------------------------------------

an_agent = Push(2.0)
a_number = 3


def make_agent() -> Push:
    return Push(3.0)


def needs_arguments(gain: float) -> Push:
    return Push(gain)


@pytest.mark.parametrize(("name", "gain"), [("an_agent", 2.0), ("make_agent", 3.0), ("Push", 1.0)])
def test_an_object_a_function_and_a_class_of_a_module_are_agents(name: str, gain: float) -> None:
    loaded = load_agent(f"{__name__}:{name}")
    assert loaded.agent.gain == gain  # type: ignore[attr-defined]
    assert loaded.env_id is None


@pytest.mark.parametrize("name", ["a_number", "needs_arguments", "nothing_here", "np.pi", "", "Path"])
def test_an_object_that_cannot_act_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        load_agent(f"{__name__}:{name}")


@pytest.mark.parametrize("spec", ["nowhere", "no_such_module:agent", ":", ""])
def test_an_agent_that_is_nowhere_is_refused(spec: str) -> None:
    with pytest.raises(UsageError):
        load_agent(spec)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setitem(load_agent.__globals__["AGENTS"], "mpc", "tests.fakes:FakeLearner")
    run = RunFolder.create("Pendulum-v1", "mpc", 0, tmp_path / "run")
    run.write_config({"env_id": "Pendulum-v1", "agent": "mpc", "dt": 0.05, "seed": 0, "steps": 600})
    return run


def test_the_newest_checkpoint_of_a_run_is_loaded(run: RunFolder) -> None:
    agent = FakeLearner()
    agent.gain = 0.25
    agent.save(run.checkpoint)
    loaded = load_agent(str(run.path))
    assert (loaded.name, loaded.env_id, loaded.timing) == ("mpc", "Pendulum-v1", TaskTiming(native=0.05))
    assert loaded.agent.gain == 0.25  # type: ignore[attr-defined]


@pytest.mark.parametrize("change", [{"agent": "os:system"}, {"agent": 3}, {"env_id": None}, {"dt": "fast"}])
def test_a_run_of_an_agent_that_is_not_known_is_refused(run: RunFolder, change: dict[str, Any]) -> None:
    run.write_config({**run.read_config(), **change})
    with pytest.raises(UsageError):
        load_agent(str(run.path))


def test_random_streams_are_left_as_they_were() -> None:
    np.random.seed(3)
    expected = np.random.uniform(size=4)
    np.random.seed(3)
    first = np.random.uniform(size=2)
    with kept_random_streams():
        np.random.uniform(size=9)
    np.testing.assert_array_equal([*first, *np.random.uniform(size=2)], expected)


# --- pictures ----------------------------------------------------------------------------------------------


def test_the_learning_curve_shows_training_evaluations_and_the_final_evaluation(run: RunFolder) -> None:
    empty = np.asarray(Image.open(plot_learning_curve(run)).convert("RGB"), float)
    for k in range(3):
        run.append_episode(Episode(k + 1, 200 * (k + 1), 10.0 * (k + 1), -1000.0 + 300 * k, 200, False, k))
    results = np.array([[-900.0, -800.0], [-300.0, -200.0]])
    np.savez(run.evaluations, timesteps=[300, 600], results=results, ep_lengths=np.full((2, 2), 200))
    write_json(run.evaluation, evaluate_agent(Push(), "Pendulum-v1", 2).to_json())
    full = np.asarray(Image.open(plot_learning_curve(run)).convert("RGB"), float)
    assert run.learning_curve.stat().st_size > 10_000
    for colour in ([0, 114, 178], [213, 94, 0], [127, 127, 127]):
        near = np.abs(full - colour).max(-1) < 40
        before = np.abs(empty - colour).max(-1) < 40 if empty.shape == full.shape else np.zeros(1)
        assert near.sum() > before.sum() + 20, f"nothing drawn in {colour}"


def test_a_run_without_finished_episodes_still_has_a_learning_curve(run: RunFolder) -> None:
    assert plot_learning_curve(run).read_bytes().startswith(b"\x89PNG")


def test_a_video_plays_in_real_time(tmp_path: Path) -> None:
    written = record_video(Push(), "Pendulum-v1", tmp_path / "video.mp4")
    assert written == tmp_path / "video.mp4"
    meta = next(imageio_ffmpeg.read_frames(str(written)))
    assert meta["fps"] == 20  # dt = 0.05 s
    assert meta["pix_fmt"].startswith("yuv420p")
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(written))
    assert frames == 201
    assert seconds == pytest.approx(10.05)
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]


def picture(value: int, size: tuple[int, int] = (4, 6)) -> Any:
    return np.full((*size, 3), value, np.uint8)


def test_drawn_intervals_are_shown_for_as_long_as_they_last() -> None:
    frames = [(picture(1), 0.1), (picture(2), 0.3), (picture(3), 0.05), (picture(4), 0.05), (picture(5), 0.0)]
    shown = [int(frame[0, 0, 0]) for frame in in_real_time(iter(frames), fps=20)]
    assert shown == [1, 1, *([2] * 6), 3, 4, 5]
    # Frames that are over before the next is due are left out; the clock goes on.
    shown = [int(frame[0, 0, 0]) for frame in in_real_time(iter(frames), fps=10)]
    assert shown == [1, 2, 2, 2, 3, 5]


def test_a_video_at_other_intervals_lasts_as_long_as_the_episode(tmp_path: Path) -> None:
    for timing in (TaskTiming(dt=0.2), TaskTiming(dt_range=(0.05, 0.4))):
        written = record_video(Push(), "Pendulum-v1", tmp_path / "video.mp4", timing=timing)
        assert written is not None
        assert imageio_ffmpeg.count_frames_and_secs(str(written))[1] == pytest.approx(10, abs=0.3)


def test_several_episodes_are_a_grid_whose_ended_ones_stay_darkened() -> None:
    short, long = [picture(200)], [picture(100), picture(100)]
    one, two = _grid([iter(long), iter(short), iter(long)])
    assert one.shape == two.shape == (8, 12, 3)
    assert (one[:4, :6] == 100).all()
    assert (one[:4, 6:] == 200).all()
    assert (two[:4, 6:] == 100).all()  # half as bright
    assert (two[4:, :6] == 100).all()
    assert (two[4:, 6:] == 255).all()  # no fourth episode
    (big,) = _grid([iter([picture(9, (1000, 1400))]) for _ in range(4)])
    assert big.shape[1] <= 1920
    assert not any(side % 2 for side in big.shape[:2])


def test_the_episodes_of_a_grid_have_the_seeds_of_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = make_task("Pendulum-v1").unwrapped.__class__
    monkeypatch.setattr(env, "render", lambda self: np.full((8, 8, 3), 90, np.uint8))
    seen = []
    reset = env.reset

    def spied(self: Any, *, seed: int | None = None, options: Any = None) -> Any:
        seen.append(seed)
        return reset(self, seed=seed, options=options)

    monkeypatch.setattr(env, "reset", spied)
    written = record_video(Push(), "Pendulum-v1", tmp_path / "video.mp4", seed=70, episodes=4)
    assert next(imageio_ffmpeg.read_frames(str(written)))["size"] == (16, 16)
    assert set(seen) - {0} == {70, 71, 72, 73}


def test_a_task_that_cannot_render_gets_no_video_and_one_line_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert record_video(Push(), CART, tmp_path / "video.mp4") is None
    assert [record.getMessage() for record in caplog.records] == [
        f"no video: {CART} has no render mode rgb_array"
    ]
    assert not list(tmp_path.iterdir())


def test_a_machine_that_cannot_render_gets_no_video_and_one_line_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: Any) -> None:
        raise RuntimeError("no EGL\ndriver")

    monkeypatch.setattr(make_task("Pendulum-v1").unwrapped.__class__, "render", fail)
    with caplog.at_level(logging.WARNING):
        assert record_video(Push(), "Pendulum-v1", tmp_path / "video.mp4") is None
    assert "cannot render here (RuntimeError: no EGL driver)" in caplog.text


def test_odd_frames_are_cut_to_even_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_task("Pendulum-v1").unwrapped.__class__
    monkeypatch.setattr(env, "render", lambda _self: np.full((101, 75, 3), 90, np.uint8))
    written = record_video(Push(), "Pendulum-v1", tmp_path / "video.mp4")
    assert next(imageio_ffmpeg.read_frames(str(written)))["size"] == (74, 100)
