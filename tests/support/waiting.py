"""Waiting in tests: for a condition, bounded, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds after which a condition that should come true has failed. Generous: only a failing test pays it.
PATIENCE = 20.0
#: Seconds between two looks.
EVERY = 0.005


def wait_until(condition: Callable[[], T], timeout: float = PATIENCE, what: str | Callable[[], str] = "") -> T:
    """Return the first true value of ``condition``; fail, naming ``what``, if there is none within ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            text = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {timeout:g} s: {text or condition!r} (last: {found!r})")
        time.sleep(EVERY)
