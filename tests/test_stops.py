"""Stops: the first signal waits for a safe point, the second and a hang do not."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from ode_rl.stops import Stops, Terminated

pytestmark = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread only"
)
CASES = [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "kind"), CASES)
def test_a_signal_stops_at_once_where_nothing_could_be_saved(number: int, kind: type[BaseException]) -> None:
    with Stops().installed(), pytest.raises(kind):
        send(number)


@pytest.mark.parametrize(("number", "kind"), CASES)
def test_in_a_training_the_first_signal_waits_for_a_safe_point(
    number: int, kind: type[BaseException]
) -> None:
    stops = Stops()
    with stops.installed(), stops.gracefully():
        assert not stops.asked()
        send(number)
        assert stops.asked()
        stops.reached()
        with pytest.raises(kind):
            stops.leave()


def test_a_second_signal_does_not_wait() -> None:
    stops = Stops()
    with stops.installed(), stops.gracefully():
        send(signal.SIGINT)
        with pytest.raises(Terminated):
            send(signal.SIGTERM)


def test_a_step_that_hangs_is_left_when_patience_is_over() -> None:
    stops = Stops(patience=0.05)
    began = time.perf_counter()
    with stops.installed(), stops.gracefully():
        send(signal.SIGTERM)
        with pytest.raises(Terminated):
            time.sleep(30)
    assert time.perf_counter() - began < 10


def test_what_is_saved_at_a_safe_point_is_not_cut_off() -> None:
    stops = Stops(patience=0.05)
    with stops.installed(), stops.gracefully():
        send(signal.SIGTERM)
        stops.reached()
        time.sleep(0.2)


def test_the_handlers_are_given_back() -> None:
    before = [signal.getsignal(number) for number, _ in CASES]
    stops = Stops(patience=0.05)
    with stops.installed():
        with stops.gracefully():
            send(signal.SIGINT)
        with pytest.raises(Terminated):
            send(signal.SIGTERM)
    assert [signal.getsignal(number) for number, _ in CASES] == before
    time.sleep(0.1)  # and no timer is left that would send anything


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stops().installed():
            send(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_nothing_is_installed() -> None:
    found = []

    def work() -> None:
        with Stops().installed():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]
