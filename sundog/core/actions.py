"""What a machine asks of the loop that runs it. Performed in list order; duties of order are in the docstrings."""

from __future__ import annotations

from sundog.core.ids import Address, NodeID, ObjectID, ProcessID
from sundog.core.machine import Action, Fact
from sundog.core.messages import RunTask
from sundog.core.task import Failure, Value

# --- any machine ------------------------------


class Send(Action, frozen=True, tag=1):
    """Deliver ``message`` to ``to``, after everything sent to it before. An action here is an event there."""

    to: Address
    message: Fact


# --- a node's host ------------------------------


class Dispatch(Action, frozen=True, tag=10):
    """Give ``worker`` one token for each task, THEN send it RunTasks(tasks, forget_through)."""

    worker: ProcessID
    tasks: tuple[RunTask, ...]
    forget_through: int


class ReclaimTasks(Action, frozen=True, tag=11):
    """Take back up to ``count`` of the worker's tokens and report TasksReclaimed, with 0 if none was left."""

    worker: ProcessID
    count: int


class StartWorker(Action, frozen=True, tag=12):
    """Start a worker process with this number; report WorkerStarted or WorkerStartFailed."""

    worker: ProcessID


class KillWorker(Action, frozen=True, tag=13):
    """Kill the worker and its process group; WorkerLost follows."""

    worker: ProcessID


class ReleasePages(Action, frozen=True, tag=14):
    """Give the pages of this free stretch of the arena back to the operating system."""

    offset: int
    size: int


class StartFetch(Action, frozen=True, tag=16):
    """Copy ``size`` bytes from ``source_offset`` of the arena of node ``source``, where they are pinned, to ``offset`` of this
    node's; report FetchFinished or FetchFailed. Only in a cluster."""

    object_id: ObjectID
    source: NodeID
    size: int
    offset: int
    attempt: int
    source_offset: int


class StopFetch(Action, frozen=True, tag=18):
    """StartFetch(attempt) takes too long: give it up, and report FetchFailed once nothing of it writes any more. Nothing happens
    if it is over. Only in a cluster."""

    attempt: int


class ClosePeer(Action, frozen=True, tag=17):
    """Node ``node`` is lost: close the connections with it, and report FetchFailed for what is being copied from it. Only in a
    cluster."""

    node: NodeID


class StopHost(Action, frozen=True, tag=15):
    """The session is over: flush every outbox, then end all processes and leave nothing."""


# --- a client (driver or worker) ------------------------------


class ResolveGet(Action, frozen=True, tag=20):
    """The values for ``request``, in the order asked, one grant with each extent *delivered* (distinct IDs, not mentions)."""

    request: int
    values: tuple[Value, ...]


class ResolveWait(Action, frozen=True, tag=21):
    """The IDs that are ready, in the order asked, at most as many as were asked for."""

    request: int
    ready: tuple[ObjectID, ...]


class ResolveQuestion(Action, frozen=True, tag=22):
    """The node's answer to Asked(request)."""

    request: int
    answer: Fact


class RejectRequest(Action, frozen=True, tag=23):
    """``request`` fails."""

    request: int
    failure: Failure


class ReportStuck(Action, frozen=True, tag=24):
    """A thread has waited long for ``request``: print ``text``, which says for what and why."""

    request: int
    text: str


class ShowOutput(Action, frozen=True, tag=25):
    """Driver: show what a worker printed, a failure that nobody looked at, or a warning; ``message`` says which."""

    message: Fact


class PauseSubmissions(Action, frozen=True, tag=26):
    """``.remote()`` waits while ``paused``."""

    paused: bool


class CloseClient(Action, frozen=True, tag=27):
    """The session is over, or the node is gone: reject what still waits. ``reason`` is for people."""

    reason: str
