"""Facts that only the loop around a machine can report; they never travel between processes.

First the host's loop (a node), then the client's (a driver or worker). Tags continue those of ``messages``, so one decoder
reads a recording.
"""

from __future__ import annotations

from sundog.core.ids import ObjectID, ProcessID, TaskID
from sundog.core.machine import Fact
from sundog.core.units import Nanos

# --- reported by a node's loop ------------------------------


class WorkerStarted(Fact, frozen=True, tag=100):
    """The process that StartWorker(worker) asked for runs and its link is open."""

    worker: ProcessID
    pid: int


class WorkerStartFailed(Fact, frozen=True, tag=101):
    """It could not be started; ``reason`` names the limit that was hit."""

    worker: ProcessID
    reason: str


class WorkerLost(Fact, frozen=True, tag=102):
    """The worker's exit has been reaped: nothing of it writes any more.

    ``started`` and ``finished`` are the last sequence numbers of its progress record. ``status`` is an exit code, or minus a
    signal. ``memory`` is the last sampled resident size in bytes, 0 if never sampled; ``output`` its last lines.
    """

    worker: ProcessID
    started: int
    finished: int
    status: int
    memory: int = 0
    output: str = ""


class TasksReclaimed(Fact, frozen=True, tag=103):
    """``count`` tokens were taken back: the last ``count`` tasks of the pipeline will not start there."""

    worker: ProcessID
    count: int


class ClientLost(Fact, frozen=True, tag=104):
    """A driver's connection ended or its process died."""

    process: ProcessID


class OutputRead(Fact, frozen=True, tag=105):
    """Bytes that a worker wrote to a standard stream, decoded; ``name`` is the function that ran then."""

    worker: ProcessID
    stream: int
    name: str
    text: str


class FetchFinished(Fact, frozen=True, tag=106):
    """All bytes that StartFetch(attempt) asked for are in the arena."""

    object_id: ObjectID
    attempt: int


class FetchFailed(Fact, frozen=True, tag=107):
    """StartFetch(attempt) is over without success, also because its source was lost: nothing of it writes any more."""

    object_id: ObjectID
    attempt: int
    reason: str = ""


class ServiceLost(Fact, frozen=True, tag=108):
    """A service of the head (``recovery.Service``) has died with all that it knew; the head's node lives."""

    service: int


class ServiceStarted(Fact, frozen=True, tag=109):
    """The service runs again, and knows nothing."""

    service: int


# --- reported by a client's loop (driver or worker) ------------------------------


class ReferenceDropped(Fact, frozen=True, tag=110):
    """One Python reference to the ID died. (That one was born is reported by the plain ``bytes`` of the ID.)"""

    object_id: ObjectID


class PinDropped(Fact, frozen=True, tag=111):
    """The last view of one delivered value died: one grant goes back."""

    object_id: ObjectID


class GetRequested(Fact, frozen=True, tag=112):
    """A thread waits for the values of all ``object_ids`` (duplicates allowed). ``task`` is set when the executing thread of
    that task blocks, so that its CPUs are released."""

    request: int
    object_ids: tuple[ObjectID, ...]
    deadline: Nanos | None = None
    task: TaskID | None = None


class WaitRequested(Fact, frozen=True, tag=113):
    """A thread waits until ``count`` of ``object_ids`` (distinct) are ready."""

    request: int
    object_ids: tuple[ObjectID, ...]
    count: int
    deadline: Nanos | None = None
    task: TaskID | None = None


class RequestAbandoned(Fact, frozen=True, tag=114):
    """The thread behind ``request`` no longer waits (an interrupt, a cancelled future)."""

    request: int


class Asked(Fact, frozen=True, tag=115):
    """A thread asks the node something and waits for the answer: ``question`` is one of the messages with a ``request``."""

    request: int
    question: Fact
