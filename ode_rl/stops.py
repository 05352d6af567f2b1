"""Ctrl-C and SIGTERM while a training runs: it ends where everything can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

# Seconds that a training has, once asked, to come to where it can be saved.
PATIENCE = 3.0


class Terminated(KeyboardInterrupt):
    """SIGTERM, as an exception, so that everything is closed as after Ctrl-C."""

    exit_code = 143


class Stops:
    """Turns the signals SIGINT and SIGTERM into exceptions, at once or, in `gracefully`, at a safe point.

    There the first signal only makes `asked` True. A second one, or `patience` seconds in which nobody
    calls `reached`, raise where the program is: something hangs, and the newest checkpoint has to do.
    Signals reach the main thread alone; in another one this does nothing.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._graceful = False
        self._signal: int | None = None
        self._timer: threading.Timer | None = None

    def asked(self) -> bool:
        """Whether somebody asked to stop."""
        return self._signal is not None

    def reached(self) -> None:
        """Say that the training is at a safe point: what is saved now will not be cut off."""
        if self._timer is not None:
            self._timer.cancel()

    def leave(self) -> NoReturn:
        """Raise what the signal asks for."""
        raise Terminated if self._signal == signal.SIGTERM else KeyboardInterrupt

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals within, and give them back to whom they belonged."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[int, Any] = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                before[number] = signal.signal(number, self._handle)
        try:
            yield
        finally:
            self.reached()
            for handled, handler in before.items():
                signal.signal(handled, handler)

    @contextmanager
    def gracefully(self) -> Iterator[None]:
        """Within, the first signal waits for a safe point."""
        self._graceful = True
        try:
            yield
        finally:
            self._graceful = False
            self.reached()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        first, self._signal = self._signal is None, number
        if not (self._graceful and first):
            self.leave()
        # A real signal, not a flag: it also wakes a step that sleeps.
        main = threading.main_thread().ident or 0
        self._timer = threading.Timer(self._patience, signal.pthread_kill, (main, number))
        self._timer.daemon = True
        self._timer.start()
