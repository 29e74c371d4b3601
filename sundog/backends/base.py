"""What the api may ask of a backend, and what a session asks of the loop beneath it.

Three layers, each ignorant of the one above:

* ``api`` turns calls into calls of a :class:`Session` (``backends/session.py``: one implementation, for drivers and workers of
  every backend: it serializes, names, writes facts and reads answers);
* a session talks to a :class:`Port`: the loop that runs this process's ``client`` machine (a thread in a real driver, the
  main thread in a real worker, a greenlet in the simulator);
* the port performs the client machine's actions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sundog.backends.grants import Answer, Grants
from sundog.core.config import Config
from sundog.core.ids import IdSequence, TaskID
from sundog.core.known_objects import KnownObjects
from sundog.core.machine import Fact


class Arena(Protocol):
    """The node's shared memory, as one process sees it. Bytes only; who may touch which is the ledger's decision."""

    def fill(self, offset: int, size: int, warm: bool, segments: Sequence[Any]) -> None:
        """Write ``segments``, bytes-like and ``size`` together, into an extent granted to this process, once.

        Reserves its pages first unless ``warm``. Raises OSError (ENOSPC, ENOMEM) if the machine has no memory left for them.
        """

    def read(self, offset: int, size: int, grant: object) -> memoryview:
        """Return a read-only view that holds ``grant``, as does everything made of it: it dies with the last of these."""


class Port(Protocol):
    """The loop beneath a session. All methods may be called from any thread unless they say otherwise."""

    config: Config
    #: Facts for the client machine, in order. Threads append (one atomic call) and never remove. Plain ``bytes``: a Python
    #: reference to that ObjectID was born. Everything else is a Fact of ``messages`` or ``events``.
    #:
    #: TaskSubmitted and ObjectPut themselves count as the birth of one reference to each of their IDs. So a session makes those
    #: ObjectIDs FIRST, without a fact (``ObjectID.adopt(raw)``), THEN appends TaskSubmitted or ObjectPut, and returns them: an
    #: interrupt before the append leaves deaths of unknown IDs, which the client machine ignores; one after it leaves nothing.
    #: ObjectIDs found while reading values are born with a fact.
    facts: deque[bytes | Fact]
    arena: Arena
    #: Makes the grants that this process holds.
    grants: Grants
    #: What the client machine knows. Any thread may look: with a reference to the ID, or what it finds may be gone the next moment.
    known: KnownObjects

    def submitted(self, size: int) -> None:
        """A TaskSubmitted, with ``size`` bytes of arguments, or an ObjectPut (0) was appended: flush by the rules (protocols: 3).
        May wait while submissions are paused."""

    def answered_here(self) -> None:
        """A call was answered from :attr:`known`, without the machine: where time is virtual, it passes here."""

    def kick(self) -> None:
        """Facts were appended that should travel soon."""

    def next_request(self) -> int:
        """Return a number for a request, never given before in this process."""

    def ask(self, fact: Fact) -> Answer:
        """Append ``fact`` (GetRequested, WaitRequested or Asked), kick, and block until the client machine answers it.

        Returns the ResolveGet (Granted, if values of it lie in the arena), ResolveWait, ResolveQuestion or RejectRequest. Raises
        SessionClosedError if the session ends meanwhile.
        When interrupted (KeyboardInterrupt) appends RequestAbandoned and lets the exception pass.
        """

    def begin(self, fact: Fact, done: Callable[[Answer], None]) -> None:
        """Like :meth:`ask`, without blocking: ``done(answer)`` is called on the loop's thread. For futures and ``await``."""

    def lane(self) -> IdSequence:
        """Return the names for what the calling thread creates: of its task's execution in a worker, of the job in a driver."""

    def current_task(self) -> TaskID | None:
        """Return the task whose *own* thread is calling, else None: only that thread's blocking releases CPUs."""

    def close(self) -> None:
        """End the session (driver) or do nothing (worker). Idempotent."""
