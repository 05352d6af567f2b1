"""A line on which messages travel for a while."""

from __future__ import annotations

from typing import Generic, TypeVar

M = TypeVar("M")


class Channel(Generic[M]):
    """Messages that arrive some time after they are sent; the newest sent that has arrived is in effect.

    A message that is overtaken by a newer one is dropped when it arrives, as where messages carry a time
    stamp. Times are numbers that do not decrease; `slack` is how much earlier still counts as arrived.
    """

    def __init__(self, first: M, slack: float = 0.0) -> None:
        self.current = first
        self._slack = slack
        self._travelling: list[tuple[float, M]] = []  # oldest first

    def send(self, message: M, arrival: float) -> None:
        """Send a message that arrives at a time."""
        self._travelling.append((arrival, message))

    def receive(self, now: float) -> M:
        """Return the message in effect at a time."""
        arrived = [i for i, (arrival, _) in enumerate(self._travelling) if arrival <= now + self._slack]
        if arrived:
            self.current = self._travelling[arrived[-1]][1]
            del self._travelling[: arrived[-1] + 1]
        return self.current

    def next_arrival(self, before: float) -> float:
        """Time of the next arrival that is earlier than `before`, else `before`."""
        times = (arrival for arrival, _ in self._travelling if arrival < before - self._slack)
        return min(times, default=before)
