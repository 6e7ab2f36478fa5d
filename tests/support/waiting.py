"""Waiting for what other threads and processes do: for the event itself, however long a busy machine takes to it."""

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

PATIENCE = 300.0
"""Seconds after which what was waited for never comes. Only a test that fails waits so long."""


def wait_until(happened: Callable[[], Found], seconds: float = PATIENCE, said: Callable[[], object] = str) -> Found:
    """Ask again until the answer is true, and return it.

    Raises:
        AssertionError: it did not happen within so many seconds; the error ends with what `said` returns.
    """
    until = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < until, f"did not happen within {seconds:g} s; {said()}"
        time.sleep(0.05)
    return found
