"""A strand of user code in the simulation: the driver's program, or one body. It has a greenlet, and can wait in virtual time."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet

from sundog.backends import current
from sundog.core.units import Nanos

if TYPE_CHECKING:
    from simpy.events import Event

    from sundog.backends.session import Session
    from sundog.backends.simulated.programs.client_process import ClientProcess
    from sundog.backends.simulated.sim_loop import Loop


class WorkerKilled(BaseException):
    """Raised in the body of a simulated worker that was killed, when the session ends and its stack is unwound."""


class Strand:
    """See the module. ``process`` is whose code it is; ``where`` the greenlet that it runs on."""

    __slots__ = ("_ticket", "_waking", "doomed", "loop", "process", "session", "sleeping", "suspended", "where")

    def __init__(self, loop: Loop, process: ClientProcess, where: greenlet) -> None:
        self.loop = loop
        self.process = process
        self.where = where
        self.suspended = False
        #: Suspended until a time.
        self.sleeping = False
        #: The session that its code was in when it was last suspended.
        self.session: Session | None = None
        #: Its worker was killed, or the session is over: whatever it asks for, it is told so.
        self.doomed = False
        #: Counts suspensions: a timer of an earlier one is void.
        self._ticket = 0
        self._waking = False

    def begins(self, session: Session) -> None:
        """Its code runs from now on, in ``session``."""
        self.loop.running = self
        current.switch(session)

    def ends(self) -> None:
        """Its code is over; what runs is the loop."""
        self.loop.running = None

    def check(self) -> None:
        """Raise if this is not the code of this strand, so that it could not wait: RuntimeError, or WorkerKilled if doomed."""
        if self.doomed:
            raise WorkerKilled(f"the worker of this task was killed at {self.loop.now} ns, or the session has ended")
        if self.loop.running is not self or getcurrent() is not self.where:
            if self.loop.running is None:
                raise RuntimeError(
                    "a blocking sundog call in a finalizer or a future's callback would wait for itself: do it where you wait"
                )
            raise RuntimeError("in the simulator only the main greenlet of the driver or of a task's body may wait")

    def suspend(self, until: Nanos | None = None, *, flush: bool = True) -> None:
        """Let the simulation go on until :meth:`wake`, or until it is ``until``; ``flush``: tell first what the code has said."""
        self.check()
        loop, process = self.loop, self.process
        if flush and process.has_said():
            process.turn_soon()
        self._ticket += 1
        self._waking = False
        self.suspended = True
        if until is not None:
            loop.call_at(until, partial(self._resume, self._ticket))
            self.sleeping = True
            loop.timers += 1
        event_loop = _take_event_loop()
        session = self.session = current.get()
        loop.running = None
        try:
            loop.enter()
        finally:
            self.suspended = False
            self.sleeps_no_more()
            current.switch(session)
            loop.running = self
            if event_loop is not None:
                _set_event_loop(event_loop)
        if self.doomed:
            raise WorkerKilled("the worker of this task was killed, or the session has ended")

    def sleeps_no_more(self) -> None:
        """It goes on, or never will."""
        if self.sleeping:
            self.sleeping = False
            self.loop.timers -= 1
            self.loop.active_at = self.loop.now

    def wake(self, _: Any = None) -> None:
        """End the suspension, if there is one, after everything else that happens at this instant already."""
        if self.suspended and not self._waking:
            self._waking = True
            self.loop.call_at(self.loop.now, partial(self._resume, self._ticket))

    def _resume(self, ticket: int, _: Event) -> None:
        if self.suspended and ticket == self._ticket and not self.doomed:
            self.loop.resume(self.where)

    def spend(self, span: Nanos) -> None:
        """Let ``span`` pass, and what happens in it happen."""
        loop = self.loop
        until = loop.now + span
        if loop.next_event() > until and not loop.calls and not self.process.has_said():
            loop.environment.advance(until)
        else:
            self.suspend_until(until)

    def suspend_until(self, until: Nanos) -> None:
        """Let the simulation go on until it is ``until``, whoever wakes this strand before."""
        while self.loop.now < until:
            self.suspend(until)

    def tick(self, cost: Nanos) -> Nanos:
        """Return the time, for user code that reads a clock; reading costs ``cost``."""
        loop = self.loop
        if loop.running is self and getcurrent() is self.where and not self.doomed:
            until = loop.now + cost
            if loop.next_event() > until:
                loop.environment.advance(until)
            else:
                while loop.now < until:
                    self.suspend(until, flush=False)
        return loop.now

    def throw(self, error: BaseException) -> None:
        """Unwind a suspended strand: raise ``error`` where it waits. For the end of the session."""
        self.doomed = True
        self.where.throw(error)


def _take_event_loop() -> Any:
    """Return the asyncio loop that runs in this thread, and hide it: the code that runs next is not inside it."""
    asyncio = sys.modules.get("asyncio.events")
    if asyncio is None:
        return None
    running = asyncio._get_running_loop()
    if running is not None:
        asyncio._set_running_loop(None)
    return running


def _set_event_loop(running: Any) -> None:
    sys.modules["asyncio.events"]._set_running_loop(running)
