"""Futures whose waiting lets the simulation go on: ``result``, ``exception``, and ``concurrent.futures.wait`` of them."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sundog.backends.simulated.programs.client_process import ClientProcess


class DrivingFuture(Future[Any]):
    """A future of ``process``'s. Waited for by the code of ``process``, it drives the simulation; by a thread, it just waits."""

    def __init__(self, process: ClientProcess) -> None:
        super().__init__()
        self._condition = DrivingCondition(process)
        self._waiters = _Waiters(process)


class DrivingCondition(threading.Condition):
    """A condition that user code of the simulation may wait for: what notifies it happens in the simulation."""

    def __init__(self, process: ClientProcess) -> None:
        super().__init__()
        self._process = process
        self._notified = 0

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for a notification, or for ``timeout`` virtual seconds."""
        if not self._process.may_wait():
            return super().wait(timeout)
        seen = self._notified
        saved = self._release_save()  # type: ignore[attr-defined]
        try:
            return self._process.wait_until(lambda: self._notified != seen, timeout)
        finally:
            self._acquire_restore(saved)  # type: ignore[attr-defined]

    def notify_all(self) -> None:
        """Let all go on that wait."""
        self._notified += 1
        super().notify_all()


class _DrivingEvent:
    """Stands in for the ``threading.Event`` by which ``concurrent.futures`` waits for several futures."""

    def __init__(self, process: ClientProcess, event: threading.Event) -> None:
        self._process = process
        self._event = event

    def __getattr__(self, name: str) -> Any:
        return getattr(self._event, name)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, or for ``timeout`` virtual seconds."""
        if not self._process.may_wait():
            return self._event.wait(timeout)
        return self._process.wait_until(self._event.is_set, timeout)


class _Waiters(list[Any]):
    """The list into which ``concurrent.futures.wait`` puts whoever waits: they are given an event that drives."""

    def __init__(self, process: ClientProcess) -> None:
        super().__init__()
        self._process = process

    def append(self, waiter: Any) -> None:
        """Add a waiter."""
        if not isinstance(waiter.event, _DrivingEvent):
            waiter.event = _DrivingEvent(self._process, waiter.event)
        super().append(waiter)
