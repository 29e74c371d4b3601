"""Keeps the pool from starting workers in a tight loop when they do not come up."""

from __future__ import annotations

from sundog.core.config import Config
from sundog.core.units import MILLISECOND, Nanos

_FIRST_PAUSE: Nanos = 100 * MILLISECOND
_PAUSE_MAX: Nanos = 5_000 * MILLISECOND
_HOPELESS_AFTER = 6


class WorkerWatch:
    """After each worker that dies before its first task, starting waits twice as long; after six in a row it is hopeless."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._failures = 0
        self._until: Nanos | None = None

    def failed(self, now: Nanos, reason: str) -> str | None:
        """A worker did not come up. Returns a warning for people, the first time and when it becomes hopeless."""
        self._failures += 1
        self._until = now + min(_PAUSE_MAX, _FIRST_PAUSE << (self._failures - 1))
        if self._failures == 1:
            return f"a worker process did not come up: {reason}; trying again"
        if self._failures == _HOPELESS_AFTER:
            return f"{self._failures} worker processes in a row did not come up: {reason}"
        return None

    @property
    def hopeless(self) -> bool:
        """Whether so many failed in a row that what waits should fail."""
        return self._failures >= _HOPELESS_AFTER

    def waits(self, now: Nanos) -> bool:
        """Tell whether starting workers has to wait."""
        if self._until is not None and now >= self._until:
            self._until = None
        return self._until is not None

    def worked(self) -> None:
        """A worker ran a task: whatever was wrong is over."""
        self._failures = 0
        self._until = None

    def next_deadline(self) -> Nanos | None:
        """Return when starting may go on."""
        return self._until
