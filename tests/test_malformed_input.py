"""Malformed command lines, configurations and calls, generated: one message each, and nothing half made."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import string
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tests.own_tasks  # noqa: F401
from ode_rl.agents.dyna import Dyna
from ode_rl.agents.model_free import PPO, SAC
from ode_rl.agents.mpc import MPC
from ode_rl.agents.ode_policy import ODEPolicy
from ode_rl.cli import main
from ode_rl.envs import ActionDelay, ControlInterval, Guarded, ObservationDropout, SensorNoise, make_task
from ode_rl.evaluate import evaluate_agent
from ode_rl.run import RunFolder
from ode_rl.train import TrainConfig, train
from tests.fakes import Push

CART = "tests.own_tasks:own/ShortCart-v0"
ROOT = Path(__file__).resolve().parents[1]
Case = list[str]
THOROUGH = settings(
    max_examples=260, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module", autouse=True)
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a file in it, as the current one."""
    folder, before = tmp_path_factory.mktemp("workplace"), Path.cwd()
    (folder / "file").touch()
    os.chdir(folder)
    yield folder
    os.chdir(before)


# --- command lines -----------------------------------------------------------------------------------------

WORDS = st.text(string.ascii_letters + string.digits + " _./\\%ß\x00\n'\"", max_size=12)
NO_NUMBERS = st.one_of(
    st.text(string.ascii_letters + " _,:/", min_size=1, max_size=9).filter(
        lambda text: text.strip().lower() not in ("inf", "infinity", "nan") or True
    ),
    st.sampled_from(
        ["", " ", "nan", "-inf", "1e", "--", "0x10", "1,5", "1_", "½", "1 2", "None", "[1]", "true"]
    ),
).filter(lambda text: not _is_number(text))
NEGATIVE = st.floats(max_value=-1e-6, allow_nan=False, allow_infinity=False).map(repr)
COUNTS = ("--steps", "--num-envs", "--eval-episodes")
SECONDS = ("--dt", "--action-delay", "--obs-delay", "--step-timeout")
CHOICES = ("--agent", "--model", "--planner", "--termination", "--device", "--precision")
FLAGS = (
    *COUNTS,
    *SECONDS,
    *CHOICES,
    "--seed",
    "--obs-dropout",
    "--dt-range",
    "--run-dir",
    "--preset",
    "--known",
)


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _with(flags: Any, values: Any) -> Any:
    return st.tuples(st.sampled_from(flags), values).map(lambda pair: ["train", CART, f"{pair[0]}={pair[1]}"])


BAD_LINES: Any = st.one_of(
    _with(COUNTS, st.one_of(NO_NUMBERS, NEGATIVE, st.sampled_from(["0", "1.5", "inf"]))),
    _with(SECONDS, st.one_of(NO_NUMBERS, NEGATIVE, st.just("inf"))),
    _with(("--dt",), st.sampled_from(["0", "0.0", "1e-300", "-0.0", "0.07", "0.049"])),
    _with(("--seed",), st.one_of(NO_NUMBERS, NEGATIVE, st.sampled_from(["0.5", "1e3"]))),
    _with(("--obs-dropout",), st.one_of(NO_NUMBERS, NEGATIVE, st.sampled_from(["1", "1.0001", "inf"]))),
    _with(CHOICES, WORDS.filter(lambda word: word not in ("auto", "cpu", "cuda", "float32", "ode", "true"))),
    st.tuples(NO_NUMBERS, NO_NUMBERS).map(lambda pair: ["train", CART, "--dt-range", *pair]),
    st.tuples(st.floats(0.05, 9), st.floats(1e-9, 9)).map(
        lambda pair: ["train", CART, "--dt-range", repr(pair[0] + pair[1]), repr(pair[0])]
    ),
    st.sampled_from(FLAGS).map(lambda flag: ["train", CART, flag]),
    st.text(string.ascii_lowercase, min_size=3, max_size=9)
    .filter(lambda name: not any(flag[2:].startswith(name) for flag in (*FLAGS, "--help", "--video")))
    .map(lambda name: ["train", CART, f"--x{name}"]),
    WORDS.filter(lambda word: word not in ("", "train", "list") and not word.startswith("-")).map(
        lambda word: [f"x{word}", CART]
    ),
    WORDS.map(lambda word: ["train", CART, f"x{word}"]),
    WORDS.map(lambda word: ["train", f"nothing/{word}"]),
    WORDS.map(lambda word: ["train", f"no_such_module_{word}:own/Task-v0"]),
    WORDS.map(lambda word: ["train", CART, f"--preset=x{word}"]),
    WORDS.map(lambda word: ["train", CART, f"--known=x{word}"]),
    WORDS.map(lambda word: ["train", f"--resume=x{word}"]),
    WORDS.map(lambda word: ["evaluate", f"x{word}"]),
    WORDS.map(lambda word: ["evaluate", "tests.fakes:Push", "--env", f"x{word}"]),
    WORDS.map(lambda word: ["report", f"x{word}"]),
    st.sampled_from(["file", "file/run", ".", "/dev/null", "..", "/proc/self/mem"]).flatmap(
        lambda path: st.sampled_from(["evaluate", "report"]).map(lambda command: [command, path])
    ),
    st.sampled_from(["file/run", "/dev/null/run", "/proc/nothing/run", "\x00"]).map(
        lambda path: ["train", CART, "--run-dir", path]
    ),
    st.sampled_from(["CartPole-v1", "Taxi-v3", "FrozenLake-v1", "MountainCarContinuous-v0"]).map(
        lambda name: ["train", name]
    ),
    st.tuples(
        st.sampled_from(["ppo", "sac", "td3"]), st.sampled_from(["model", "planner", "termination"])
    ).map(
        lambda pair: [
            *("train", CART, "--agent", pair[0], f"--{pair[1]}"),
            {"model": "ode", "planner": "cem", "termination": "hazard"}[pair[1]],
        ]
    ),
)


def tree(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in str(path)
    )


def assert_one_message(code: int, out: str, err: str, argv: Any) -> None:
    assert code == 2, (argv, out, err)
    assert out == "", argv
    assert err.startswith("error: expected "), (argv, err)
    assert ", got " in err, (argv, err)
    assert "Traceback" not in err, argv
    assert err.rstrip().endswith((".", "?", "`", ")")), (argv, err)


def run(argv: Case) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(argv)
    return code, out.getvalue(), err.getvalue()


@THOROUGH
@given(BAD_LINES)
def test_a_malformed_command_line_is_one_message_and_exit_code_2(argv: Case) -> None:
    assert_one_message(*run(argv), argv)
    assert tree(Path.cwd()) == ["file"]


@pytest.mark.slow
def test_real_processes_say_the_same(workplace: Path) -> None:
    rng, found = random.Random(0), []

    @settings(max_examples=60, deadline=None, database=None, derandomize=True)
    @given(BAD_LINES)
    def collect(argv: Case) -> None:
        if not any("\x00" in word or "\n" in word for word in argv):
            found.append(argv)

    collect()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for argv in rng.sample(found, 20):
        done = subprocess.run(
            [sys.executable, "-m", "ode_rl", *argv], capture_output=True, text=True, env=environment
        )
        assert_one_message(done.returncode, done.stdout, done.stderr, argv)
    assert tree(workplace) == ["file"]


# --- configurations ----------------------------------------------------------------------------------------

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.floats(allow_nan=False), WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=6,
)
GOOD_CONFIG: dict[str, Any] = {
    "schema": 1,
    "env_id": CART,
    "agent": "mpc",
    "steps": 50,
    "eval_freq": 10,
    "num_envs": 1,
    "asked": {
        "env_id": CART,
        "agent": "mpc",
        "steps": 50,
        "device": "cpu",
        "video": False,
        "progress": False,
    },
}
WRONG: dict[tuple[str, ...], Any] = {
    ("schema",): JSON.filter(lambda value: value != 1 or value is True),
    ("steps",): JSON.filter(lambda value: not (type(value) is int and value > 0)),
    ("eval_freq",): JSON.filter(lambda value: not (type(value) is int and value > 0)),
    ("num_envs",): JSON.filter(lambda value: not (type(value) is int and value > 0)),
    ("asked",): JSON.filter(lambda value: value != {}),
    ("asked", "env_id"): JSON,
    ("asked", "agent"): JSON.map(lambda value: f"x{value}" if isinstance(value, str) else value),
    ("asked", "seed"): JSON.filter(lambda value: type(value) is not int or value < 0),
    ("asked", "dt"): st.one_of(WORDS, st.floats(max_value=0.0, allow_nan=False), st.booleans()),
    ("asked", "preset"): st.one_of(WORDS.map(lambda word: f"x{word}"), st.integers(), st.booleans()),
    ("asked", "dt_range"): st.one_of(
        WORDS, st.just([0.2, 0.1]), st.just([0.1]), st.just([1, 2, 3]), st.just(5)
    ),
    ("asked", "obs_dropout"): st.one_of(WORDS, st.floats(1.0, 9), st.just(-0.1)),
    ("asked", "unknown"): JSON,
}
BAD_CONFIGS: Any = st.one_of(
    st.sampled_from(sorted(WRONG)).flatmap(lambda path: WRONG[path].map(lambda value: (path, value)))
)


@settings(THOROUGH, max_examples=160)
@given(BAD_CONFIGS)
def test_a_malformed_config_is_one_message_and_changes_nothing(
    case: tuple[tuple[str, ...], Any],
) -> None:
    path, value = case
    config: dict[str, Any] = json.loads(json.dumps(GOOD_CONFIG))
    inner = config if len(path) == 1 else config[path[0]]
    inner[path[-1]] = value
    folder = RunFolder.create(CART, "mpc", 0, "run")
    try:
        folder.config.write_text(json.dumps(config))
        before = tree(folder.path)
        assert_one_message(*run(["train", "--resume", str(folder.path)]), case)
        assert tree(folder.path) == before
    finally:
        folder.discard()


# --- calls -------------------------------------------------------------------------------------------------


def cart() -> Any:
    return gymnasium.make("own/ShortCart-v0")


BAD_NUMBERS: Any = st.one_of(
    st.sampled_from([0, -1, -0.5, float("nan"), float("inf"), -float("inf"), "x", [], {}, True]),
    st.floats(max_value=-1e-9),
)
CALLS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "horizon": (BAD_NUMBERS, lambda v: MPC(cart(), preset=None, horizon=v)),
    "planner": (BAD_NUMBERS, lambda v: MPC(cart(), preset=None, planner={"candidates": v})),
    "hidden": (
        st.sampled_from([[0], [-1], ["x"], 5, [[8]], [1.5]]),
        lambda v: MPC(cart(), preset=None, model={"hidden": v}),
    ),
    "unknown": (WORDS, lambda v: MPC(cart(), preset=None, **dict[str, Any]({f"x{v}": 1}))),
    "preset": (WORDS, lambda v: MPC(cart(), preset=f"x{v}")),
    "gamma": (
        st.sampled_from([-0.1, 1.5, float("nan"), "x", None]),
        lambda v: MPC(cart(), preset=None, gamma=v),
    ),
    "policy": (BAD_NUMBERS, lambda v: ODEPolicy(cart(), preset=None, policy={"updates": v})),
    "rounds": (BAD_NUMBERS, lambda v: ODEPolicy(cart(), preset=None, round_every=v)),
    "share": (st.sampled_from([-0.1, 1.1, "x", None]), lambda v: Dyna(cart(), preset=None, real_share=v)),
    "sac": (WORDS, lambda v: SAC(cart(), preset=None, **dict[str, Any]({f"x{v}": 1}))),
    "rate": (
        st.sampled_from(["x", "lin_x", None, [], {}]),
        lambda v: SAC(cart(), preset=None, learning_rate=v),
    ),
    "net": (WORDS, lambda v: PPO(cart(), preset=None, policy_kwargs=v or "x")),
    "steps": (st.sampled_from([0, -1]), lambda v: MPC(cart(), preset=None, model={"hidden": (4,)}).learn(v)),
    "no task": (WORDS, lambda v: make_task(f"x{v}")),
    "interval": (BAD_NUMBERS, lambda v: ControlInterval(cart(), dt=v)),
    "timing": (BAD_NUMBERS, lambda v: make_task(CART, v)),
    "delay": (
        st.sampled_from([-1, float("nan"), "x", (0.2, 0.1)]),
        lambda v: ActionDelay(ControlInterval(cart()), v),
    ),
    "dropout": (st.sampled_from([-0.1, 1.5, float("nan"), "x"]), lambda v: ObservationDropout(cart(), v)),
    "noise": (st.sampled_from([-1.0, float("nan"), "x"]), lambda v: SensorNoise(cart(), v)),
    "episodes": (st.sampled_from([0, -1]), lambda v: evaluate_agent(Push(), CART, v)),
    "train": (WORDS, lambda v: train(TrainConfig(CART, agent=f"x{v}"))),
    "train steps": (st.sampled_from([0, -3]), lambda v: train(TrainConfig(CART, steps=v))),
    "train time-out": (
        st.sampled_from([0.0, -1.0, float("nan")]),
        lambda v: train(TrainConfig(CART, step_timeout=v)),
    ),
    "run": (WORDS, lambda v: RunFolder.open(f"x{v}")),
    "load": (WORDS, lambda v: MPC.load(f"x{v}")),
    "observation": (
        st.sampled_from([np.zeros(3), np.zeros((2, 3)), np.full(2, np.nan), np.zeros((1, 1, 2))]),
        lambda v: MPC(cart(), preset=None, model={"hidden": (4,)}).predict(v),
    ),
}
BAD_CALLS: Any = st.sampled_from(sorted(CALLS)).flatmap(
    lambda name: CALLS[name][0].map(lambda value: (name, value))
)


@settings(THOROUGH, max_examples=160)
@given(BAD_CALLS)
def test_a_malformed_call_raises_a_value_or_type_error_with_a_remedy(case: tuple[str, Any]) -> None:
    name, value = case
    with pytest.raises((ValueError, TypeError)) as raised:
        CALLS[name][1](value)
    assert str(raised.value).startswith("expected "), (case, raised.value)
    assert tree(Path.cwd()) == ["file"]


def test_the_calls_are_wrong_by_their_values_alone() -> None:
    Guarded(cart()).reset()
    MPC(cart(), preset=None, horizon=0.5, planner={"candidates": 20}, model={"hidden": (4,)}, gamma=0.9)
    ODEPolicy(cart(), preset=None, policy={"updates": 3}, round_every=9)
    SAC(cart(), preset=None, learning_rate="lin_1e-3")
    ControlInterval(cart(), dt=0.1)
