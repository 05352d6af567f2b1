"""Errors a user can act on: what was expected, what came, what to type."""

from __future__ import annotations


class UsageError(ValueError):
    """Bad input from a user: one message with *expected*, *got* and the *remedy*.

    The command line prints it without a traceback and exits with code 2; the Python API
    raises it, and because it is a ``ValueError`` callers need not know this package's names.
    """

    def __init__(self, expected: str, got: object, remedy: str) -> None:
        self.expected = expected
        self.got = str(got)
        self.remedy = remedy
        super().__init__(f"expected {expected}, got {got}. {remedy}")

    def __reduce__(self) -> tuple[type[UsageError], tuple[str, str, str]]:
        # The default would re-create the error from the joined message alone.
        return type(self), (self.expected, self.got, self.remedy)


class Stopped(Exception):
    """A computation was dropped half way because somebody asked to stop; it has changed nothing."""
