"""How a simulated worker comes by its next task (protocol P1): a token for each, and what never got its values is skipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sundog.core.executor import Executor
from sundog.core.machine import Fact
from sundog.core.messages import RunTask
from sundog.core.task import Value


class Claimant(Protocol):
    """What claims: tokens that the node gives and takes, and a progress record that it reads."""

    tokens: int
    started: int
    finished: int


def claim(worker: Claimant, executor: Executor, say: Callable[[Fact], None]) -> tuple[RunTask, tuple[Value, ...]] | None:
    """Return the next task that ``worker`` may run, with the values of its dependencies, or None. ``say`` tells the node of others
    that it skips on the way."""
    while (run := executor.next()) is not None:
        if not worker.tokens:
            continue  # reclaimed
        worker.tokens -= 1
        values = executor.values(run) if run.values else ()
        if values is not None:
            return run, values
        worker.started = worker.finished = run.sequence
        say(executor.skip(run))
    return None
