"""Limits, timed actions, faults and times in the observation: hand-computed sequences and both checkers."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import ode_rl.envs
from ode_rl.envs import (
    ActionDelay,
    ActuatorFault,
    ControlInterval,
    Intervals,
    ObservationDelay,
    ObservationDropout,
    SecondsLimit,
    SensorNoise,
    TimeAware,
    TimedAction,
)
from ode_rl.errors import UsageError
from tests.own_tasks import Balance, SpringCart


class Echo(gymnasium.Env[Any, Any]):
    """Observes the steps so far twice, remembers the action it got; steps of 0.1 s."""

    metadata = {"dt": 0.1, "render_modes": []}  # noqa: RUF012
    observation_space = spaces.Box(0, 1e6, (2,), np.float64)
    action_space = spaces.Box(-2, 2, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.n = 0
        return np.zeros(2), {}

    def step(self, action: Any) -> Any:
        self.n, self.got = self.n + 1, action
        return np.full(2, float(self.n)), 1.0, False, False, {}


class Numbers(Echo):
    """Numbers instead of vectors."""

    observation_space = action_space = spaces.Discrete(3)  # type: ignore[assignment]


def observations(env: Any, steps: int, seed: int | None = 0) -> Any:
    """Observations ``[steps + 1, O]`` of an episode without action."""
    found = [env.reset(seed=seed)[0]]
    found += [env.step(np.zeros(env.action_space.shape, np.float32))[0] for _ in range(steps)]
    return np.array(found)


# --- every wrapper is a good citizen -----------------------------------------------------------------------

WRAPPERS: dict[str, Any] = {
    "fixed": (ControlInterval, {"dt": 0.1}),
    "drawn": (ControlInterval, {"dt": [0.05, 0.3]}),
    "limit": (SecondsLimit, {"seconds": 1.0}),
    "action delay": (ActionDelay, {"delay": 0.05, "history": 2}),
    "observation delay": (ObservationDelay, {"delay": (0.0, 0.1), "history": 1}),
    "hold": (ObservationDropout, {"p": 0.5}),
    "zero": (ObservationDropout, {"p": 0.5, "mode": "zero"}),
    "white": (SensorNoise, {"std": 0.1}),
    "ar1": (SensorNoise, {"std": np.array([0.1, 0.2]), "kind": "ar1", "time_constant": 0.3}),
    "bias": (SensorNoise, {"std": 0.1, "kind": "bias"}),
    "gain": (ActuatorFault, {"gain_range": (0.5, 1.0), "p": 0.5}),
    "stuck": (ActuatorFault, {"stuck": {0: 0.5}}),
    "aware": (TimeAware, {"since_valid": True}),
    "aware key": (TimeAware, {"key": "dt"}),
}


def test_every_public_wrapper_is_in_the_checks() -> None:
    public = {name for name in ode_rl.envs.__dir__() if name[0].isupper()}
    wrappers = {each for each in public if hasattr(getattr(ode_rl.envs, each), "wrapper_spec")}
    own_checks = {"ChangedPhysics", "FlatGoal", "Guarded", "MaskedObservation", "Repeatable", "TimedAction"}
    assert wrappers == {cls.__name__ for cls, _ in WRAPPERS.values()} | own_checks


def make(name: str) -> Any:
    cls, arguments = WRAPPERS[name]
    return cls(gymnasium.make("own/SpringCart-v0"), **arguments)


def timed() -> Any:
    return TimedAction(ControlInterval(gymnasium.make("own/SpringCart-v0")), 0.05, 0.2, switch_cost=0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*WRAPPERS, "timed"])
def test_both_checkers_accept_every_wrapper(name: str) -> None:
    env = timed() if name == "timed" else make(name)
    check_env(env, skip_render_check=True)
    check_env_sb3(env)


@pytest.mark.filterwarnings("ignore")
def test_both_checkers_accept_all_of_them_together() -> None:
    env: Any = ControlInterval(gymnasium.make("Swimmer-v5"), dt=Intervals("log-uniform", 0.01, 0.1))
    env = ActuatorFault(env, gain=0.8)
    env = SensorNoise(env, std=0.01)
    env = ObservationDropout(ObservationDelay(env, delay=0.02), p=0.2)
    env = TimeAware(ActionDelay(env, delay=0.02, history=2), since_valid=True)
    env = SecondsLimit(env, seconds=1.0)
    check_env(env, skip_render_check=True)
    check_env_sb3(env)
    again = gymnasium.make(env.spec.from_json(env.spec.to_json()))
    np.testing.assert_array_equal(observations(env, 5), observations(again, 5))


@pytest.mark.parametrize("name", [*WRAPPERS, "timed"])
def test_the_same_seed_gives_the_same_episode_and_info_says_dt(name: str) -> None:
    env = timed() if name == "timed" else make(name)
    episodes = []
    for _ in range(2):
        env.action_space.seed(0)
        episode: list[Any] = [env.reset(seed=5)]
        for _ in range(15):
            episode.append(env.step(env.action_space.sample()))
            assert episode[-1][4]["dt"] > 0
        episodes.append(repr(episode))
    assert episodes[0] == episodes[1]


@pytest.mark.parametrize("name", [*WRAPPERS, "timed"])
def test_every_wrapper_works_in_a_vector_environment_and_from_its_spec(name: str) -> None:
    env = timed() if name == "timed" else make(name)
    cls, arguments = (TimedAction, None) if name == "timed" else WRAPPERS[name]
    by_spec = gymnasium.make_vec(env.spec, num_envs=2, vectorization_mode="sync")
    venvs = [by_spec]
    if arguments is not None:
        wrappers = [partial(cls, **arguments)]
        mode = "sync"
        venvs.append(gymnasium.make_vec("own/SpringCart-v0", 2, mode, wrappers=wrappers))
    found = []
    for venv in venvs:
        venv.action_space.seed(0)
        venv.reset(seed=3)
        steps = [venv.step(venv.action_space.sample()) for _ in range(5)]
        assert (np.array([step[4]["dt"] for step in steps]) > 0).all()
        found.append(repr([step[:4] for step in steps]))
    assert len(set(found)) == 1


# --- SecondsLimit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "steps"), [(0.5, 5), (0.45, 5), (0.3, 3), (0.05, 1)])
def test_an_episode_ends_with_the_step_that_reaches_the_limit(seconds: float, steps: int) -> None:
    env = SecondsLimit(Echo(), seconds)
    for _ in range(2):
        env.reset(seed=0)
        ends = [env.step(np.zeros(2))[3] for _ in range(steps)]
        assert ends == [False] * (steps - 1) + [True]


def test_above_a_control_interval_the_last_interval_is_cut() -> None:
    env = SecondsLimit(ControlInterval(gymnasium.make("Swimmer-v5"), dt=0.07), 0.2)
    env.reset(seed=0)
    steps = [env.step(np.zeros(2)) for _ in range(3)]
    assert [s[4]["dt"] for s in steps] == pytest.approx([0.07, 0.07, 0.06])
    assert [s[3] for s in steps] == [False, False, True]


# --- TimedAction -------------------------------------------------------------------------------------------


def test_the_last_component_chooses_the_seconds() -> None:
    env = TimedAction(ControlInterval(Echo()), min_dt=0.1, max_dt=0.5, switch_cost=0.25)
    assert env.action_space.shape == (3,)
    env.reset(seed=0)
    for u, seconds in ((-1.0, 0.1), (1.0, 0.5), (0.0, 0.3), (0.2, 0.3), (0.3, 0.4), (7.0, 0.5)):
        _, reward, _, _, info = env.step(np.array([0.5, -0.5, u]))
        assert info["dt"] == pytest.approx(seconds)
        assert reward == pytest.approx(10 * seconds - 0.25)
        np.testing.assert_array_equal(env.unwrapped.got, [0.5, -0.5])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("lo", "hi", "cost", "message"),
    [
        (0.3, 0.1, 0, "min_dt < max_dt"),
        (0.1, 0.1, 0, "min_dt < max_dt"),
        (-0.1, 0.1, 0, "min_dt > 0"),
        (0.01, 0.3, 0, "at least one"),
        (0.11, 0.19, 0, r"0\.1 or 0\.2"),
        (0.1, 0.3, float("nan"), "switch_cost"),
    ],
)
def test_durations_that_cannot_be_are_refused(lo: float, hi: float, cost: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TimedAction(ControlInterval(Echo()), lo, hi, cost)


def test_timed_actions_in_a_wrong_order_are_refused() -> None:
    with pytest.raises(UsageError, match="a ControlInterval below"):
        TimedAction(Echo(), 0.1, 0.3)
    with pytest.raises(UsageError, match="directly on the task"):
        ControlInterval(TimedAction(ControlInterval(Echo()), 0.1, 0.3))
    env = TimedAction(ControlInterval(Echo()), 0.1, 0.3)
    with pytest.raises(UsageError, match="one TimedAction"):
        TimedAction(env, 0.1, 0.3)
    with pytest.raises(UsageError, match="that the actions choose"):
        env.reset(options={"dt": 0.2})


# --- ObservationDropout ------------------------------------------------------------------------------------


def lost(shown: Any) -> Any:
    """Which of the observations 1, 2, 3, ... did not arrive, from what `hold` shows."""
    return shown[1:, 0] != np.arange(1, len(shown))


def test_what_is_lost_is_held_or_blank_and_the_mask_says_it() -> None:
    hold = observations(ObservationDropout(Echo(), 0.4, mask=True), 200)
    gone = lost(hold)
    assert 0.3 < gone.mean() < 0.5
    np.testing.assert_array_equal(hold[1:, 2], ~gone)
    held = np.maximum.accumulate(np.where(gone, 0, np.arange(1, 201)))
    np.testing.assert_array_equal(hold[1:, 1], held)
    zero = observations(ObservationDropout(Echo(), 0.4, mode="zero"), 200)
    nan = observations(ObservationDropout(Echo(), 0.4, mode="nan"), 200)
    np.testing.assert_array_equal(zero[1:], np.where(gone[:, None], 0.0, hold[1:]))
    np.testing.assert_array_equal(np.isnan(nan[1:]).all(1), gone)
    assert nan.shape == (201, 2)


def test_the_age_is_the_seconds_since_what_is_known_was_taken() -> None:
    env = ObservationDropout(ControlInterval(Echo(), dt=(0.1, 0.5)), 0.5)
    env.reset(seed=1)
    age = 0.0
    for _ in range(50):
        obs, _, _, _, info = env.step(np.zeros(2))
        arrived = obs[0] == env.unwrapped.n  # type: ignore[attr-defined]
        age = 0.0 if arrived else age + info["dt"]
        assert info["observation_age"] == pytest.approx(age)


@pytest.mark.parametrize(
    ("p", "mode"), [(1.0, "hold"), (-0.1, "hold"), (float("nan"), "hold"), (0.1, "last")]
)
def test_a_dropout_that_cannot_be_is_refused(p: float, mode: str) -> None:
    with pytest.raises(UsageError):
        ObservationDropout(Echo(), p, mode)


# --- SensorNoise -------------------------------------------------------------------------------------------


def test_white_noise_has_its_deviation_and_no_memory() -> None:
    error = observations(SensorNoise(Echo(), [0.5, 0.0]), 4000) - np.arange(4001)[:, None]
    np.testing.assert_array_equal(error[:, 1], 0)
    inner = error[100:, 0]
    assert inner.std() == pytest.approx(0.5, rel=0.05)
    assert abs(np.corrcoef(inner[1:], inner[:-1])[0, 1]) < 0.06


@pytest.mark.parametrize("dt", [0.1, 0.3])
def test_correlated_noise_decays_in_seconds_at_any_interval(dt: float) -> None:
    env = SensorNoise(ControlInterval(Echo(), dt=dt), 0.5, "ar1", time_constant=0.4)
    steps = round(dt / 0.1)
    error = (observations(env, 8000) - steps * np.arange(8001)[:, None])[10:, 0]
    assert error.std() == pytest.approx(0.5, rel=0.1)
    assert np.corrcoef(error[1:], error[:-1])[0, 1] == pytest.approx(np.exp(-dt / 0.4), abs=0.05)


def test_a_bias_stays_for_an_episode_and_is_drawn_for_the_next() -> None:
    env = SensorNoise(SpringCart(), 0.5, "bias")
    clean = SpringCart()
    biases = []
    for seed in (0, 1, None, None):
        error = observations(env, 10, seed) - observations(clean, 10, seed)
        np.testing.assert_allclose(error, np.broadcast_to(error[0], error.shape), atol=1e-5)
        biases.append(error[0, 0])
    assert len(set(biases)) == 4


def test_two_sensors_err_independently() -> None:
    env = SensorNoise(SensorNoise(Echo(), 0.5), 0.5)
    error = (observations(env, 2000) - np.arange(2001)[:, None])[100:]
    assert error.std() == pytest.approx(0.5 * np.sqrt(2), rel=0.05)  # the same error twice: 1


def test_noisy_observations_stay_in_a_space_that_is_wider() -> None:
    env = SensorNoise(gymnasium.make("Pendulum-v1"), 0.2)
    assert env.observation_space.high.tolist() == pytest.approx([2, 2, 9])  # type: ignore[attr-defined]
    assert all(obs in env.observation_space for obs in observations(env, 50))


@pytest.mark.parametrize(
    "arguments",
    [
        {"std": -0.1},
        {"std": [0.1, 0.1, 0.1]},
        {"std": "much"},
        {"std": float("nan")},
        {"std": 0.1, "kind": "pink"},
        {"std": 0.1, "kind": "ar1"},
        {"std": 0.1, "time_constant": 1.0},
        {"std": 0.1, "kind": "ar1", "time_constant": 0.0},
    ],
)
def test_noise_that_cannot_be_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        SensorNoise(Echo(), **arguments)


# --- ActuatorFault -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "acting"),
    [
        ({"gain": 0.5}, [0.5, -0.75]),
        ({"gain": [1.0, -1.0]}, [1.0, 1.5]),
        ({"gain": 3.0}, [2.0, -2.0]),
        ({"stuck": {1: 0.25}}, [1.0, 0.25]),
        ({"gain": 0.5, "stuck": {"0": 2}}, [2.0, -0.75]),
        ({"gain": 0.5, "p": 0.0}, [1.0, -1.5]),
    ],
)
def test_a_fault_changes_what_acts(fault: dict[str, Any], acting: list[float]) -> None:
    env: Any = ActuatorFault(Echo(), **fault)
    env.reset(seed=0)
    action = np.array([1.0, -1.5], np.float32)
    info = env.step(action)[4]
    np.testing.assert_allclose(env.unwrapped.got, acting)
    assert info["fault"] == (fault.get("p") != 0.0)
    np.testing.assert_array_equal(action, [1.0, -1.5])


def test_a_fault_comes_after_its_seconds_and_with_its_probability() -> None:
    env = ActuatorFault(Echo(), gain=0.0, p=0.3, after=0.3)
    faulty = []
    for seed in range(200):
        env.reset(seed=seed)
        faults = [env.step(np.ones(2))[4]["fault"] for _ in range(5)]
        assert faults in ([False] * 5, [False] * 3 + [True] * 2)
        faulty.append(faults[-1])
    assert 0.2 < np.mean(faulty) < 0.4


def test_a_drawn_gain_stays_for_an_episode() -> None:
    env: Any = ActuatorFault(Echo(), gain_range=(0.2, 0.9))
    gains = []
    for _ in range(20):
        env.reset(seed=None)
        acted = [(env.step(np.ones(2, np.float32)), env.unwrapped.got)[1] for _ in range(2)]
        np.testing.assert_array_equal(acted[0], acted[1])
        gains.append(acted[0])
    assert np.min(gains) >= 0.2
    assert np.max(gains) <= 0.9
    assert len(np.unique(gains)) == 40


@pytest.mark.parametrize(
    "arguments",
    [
        {"gain": [1.0, 1.0, 1.0]},
        {"gain": "weak"},
        {"gain": float("inf")},
        {"gain_range": (1.0, 0.5)},
        {"gain_range": (0.5, 1.0), "gain": 0.5},
        {"stuck": {2: 0.0}},
        {"stuck": {0: 5.0}},
        {"stuck": {"first": 0.0}},
        {"stuck": 1},
        {"p": 1.5},
        {"after": -1.0},
    ],
)
def test_a_fault_that_cannot_be_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ActuatorFault(Echo(), **arguments)


# --- TimeAware ---------------------------------------------------------------------------------------------


def test_the_last_interval_stands_behind_the_observation() -> None:
    env = TimeAware(ControlInterval(Echo(), dt=(0.1, 0.5)))
    assert env.reset(seed=0)[0].tolist() == [0, 0, 0]
    for _ in range(20):
        obs, _, _, _, info = env.step(np.zeros(2))
        assert obs[2] == info["dt"]
    assert env.reset()[0].tolist() == [0, 0, 0]


def test_the_time_since_the_last_valid_observation_stands_behind_it() -> None:
    env = TimeAware(ObservationDropout(Echo(), 0.5), since_valid=True)
    env.reset(seed=0)
    ages = []
    for _ in range(30):
        obs, _, _, _, info = env.step(np.zeros(2))
        assert obs[2:].tolist() == [0.1, info["observation_age"]]
        ages.append(obs[3])
    assert min(ages) == 0
    assert max(ages) > 0.15


def test_a_key_keeps_time_apart_and_a_dict_gets_one_by_itself() -> None:
    env = TimeAware(Balance(), key="seconds")
    assert set(env.reset(seed=0)[0]) == {"observation", "seconds"}
    obs = env.step(np.zeros(1, np.float32))[0]
    assert obs["seconds"].tolist() == pytest.approx([0.04])
    in_dict = gymnasium.wrappers.TransformObservation(
        Echo(), lambda obs: {"x": obs}, spaces.Dict({"x": Echo.observation_space})
    )
    assert set(TimeAware(in_dict).reset(seed=0)[0]) == {"x", "dt"}
    with pytest.raises(UsageError, match="a key besides x"):
        TimeAware(in_dict, key="x")


def test_normalisers_can_leave_the_key_alone() -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    venv = VecNormalize(DummyVecEnv([lambda: TimeAware(Echo(), key="dt")]), norm_obs_keys=["observation"])
    venv.reset()
    obs: Any = venv.step(np.zeros((1, 2), np.float32))[0]
    assert obs["dt"].tolist() == [[pytest.approx(0.1)]]


@pytest.mark.parametrize(
    "above",
    [partial(SensorNoise, std=0.1), partial(ObservationDropout, p=0.1), partial(ObservationDelay, delay=0.1)],
)
def test_sensors_that_would_disturb_what_is_known_exactly_are_refused(above: Any) -> None:
    for exact in (TimeAware(Echo()), ObservationDropout(Echo(), 0.1, mask=True)):
        with pytest.raises(UsageError, match=f"on top of {type(exact).__name__}"):
            above(exact)


def test_two_time_aware_wrappers_are_refused() -> None:
    with pytest.raises(UsageError, match="one TimeAware"):
        TimeAware(TimeAware(Echo()))


@pytest.mark.parametrize(
    "wrapper", [TimeAware, partial(SensorNoise, std=0.1), partial(ActuatorFault, gain=0.5)]
)
def test_spaces_that_are_no_vectors_are_refused_by_name(wrapper: Any) -> None:
    with pytest.raises(UsageError, match=r"Discrete\(3\)"):
        wrapper(Numbers())
