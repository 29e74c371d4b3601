"""What a thread waits on until its request is answered, and the table of those who wait.

A waiter is a raw lock, because that is what Ctrl-C can interrupt and what costs least. Threads put waiters in and take their
answers out; the loop's thread answers. Every operation on the table is one atomic call, so an interrupt between any two
leaves it consistent.
"""

from __future__ import annotations

import sys
from _thread import allocate_lock
from collections.abc import Callable

from sundog.backends.grants import Answer, Grants
from sundog.core.actions import RejectRequest, ResolveGet, ResolveQuestion
from sundog.core.machine import Action, Fact
from sundog.core.messages import ExtentGranted, ExtentReturned
from sundog.core.task import Failure, FailureKind


class Waiter:
    """One request: what was asked, and once it is there, the answer. ``done``, if given, is called with the answer."""

    __slots__ = ("_lock", "answer", "done", "fact")

    def __init__(self, fact: Fact, done: Callable[[Answer], None] | None = None) -> None:
        self.fact = fact
        self.done = done
        self.answer: Answer | None = None
        self._lock = lock = allocate_lock()
        lock.acquire()

    def wait(self, timeout: float = -1) -> None:
        """Block until answered, or for ``timeout`` seconds. To be called by one thread, once; Ctrl-C interrupts it."""
        self._lock.acquire(True, timeout)

    def resolve(self, answer: Answer) -> None:
        """Give the answer; a second one is ignored."""
        if self.answer is not None:
            return
        self.answer = answer
        if self.done is None:
            self._lock.release()
        else:
            try:
                self.done(answer)
            except Exception:  # a callback's failure is its own; the loop goes on
                sys.excepthook(*sys.exc_info())

    def unread(self) -> list[Fact]:
        """Drop an answer that its thread never took, because it was interrupted; return what gives back what came with it."""
        answer, self.answer = self.answer, None
        if type(answer) is ResolveQuestion and type(answer.answer) is ExtentGranted:
            return [ExtentReturned(answer.answer.offset)]
        return []


class Waiters:
    """The table: request number -> waiter."""

    __slots__ = ("by_request", "callbacks", "grants")

    def __init__(self, grants: Grants) -> None:
        self.grants = grants
        #: Request number -> waiter. A thread that waits for its own answer enters and takes it out here, at one atomic call each.
        self.by_request: dict[int, Waiter] = {}
        #: Whether there ever was a waiter with a callback: one that can be abandoned without its thread.
        self.callbacks = False

    def __len__(self) -> int:
        return len(self.by_request)

    def add(self, request: int, waiter: Waiter) -> None:
        """Enter a waiter; entering it again changes nothing."""
        self.by_request[request] = waiter
        if waiter.done is not None:
            self.callbacks = True

    def take(self, request: int) -> Waiter | None:
        """Remove and return the waiter for ``request``, if it is there."""
        return self.by_request.pop(request, None)

    def resolve(self, request: int, answer: Action) -> None:
        """Answer ``request``. A thread's waiter stays until the thread takes it; a callback's leaves now."""
        waiter = self.by_request.get(request)
        if waiter is not None:
            given: Answer = answer
            if type(answer) is ResolveGet:
                given = self.grants.of_answer(answer, waiter.fact.object_ids)  # type: ignore[attr-defined]  # a GetRequested
            if waiter.done is not None:
                self.take(request)
            waiter.resolve(given)

    def unanswered(self) -> list[Waiter]:
        """Return those that wait."""
        return [waiter for waiter in list(self.by_request.values()) if waiter.answer is None]

    def reject_all(self, reason: str) -> None:
        """Fail all that wait: the session is over. Entering and then looking whether it is over misses nothing."""
        for request in list(self.by_request):
            self.resolve(request, RejectRequest(request, Failure(FailureKind.SESSION_CLOSED, reason)))
