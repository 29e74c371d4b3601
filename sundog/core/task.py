"""Values, task specs, and the states a task goes through.

A :class:`Value` is opaque: core moves it and reads its ``size``, ``error`` and ``offset``, never its bytes.
"""

from __future__ import annotations

from enum import Enum, StrEnum

import msgspec

from sundog.core.ids import FunctionID, ObjectID, TaskID
from sundog.core.resources import ONE_CPU, Shape
from sundog.core.units import Nanos


class FailureKind(StrEnum):
    """Why sundog itself, rather than a task's own code, failed an object."""

    WORKER_CRASHED = "worker-crashed"
    INFEASIBLE = "infeasible"
    DEADLOCK = "deadlock"
    CANCELLED = "cancelled"
    OBJECT_LOST = "object-lost"
    STORE_FULL = "store-full"
    TIMEOUT = "timeout"
    FUNCTION_MISSING = "function-missing"
    SESSION_CLOSED = "session-closed"


class Failure(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A failure that core found. ``message`` says what, where and what to do; the api turns ``kind`` into its exception."""

    kind: FailureKind
    message: str


class Value(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A serialized value or error: bytes that travel inline, or an extent of the node's arena.

    ``format`` is the serializer's business. ``trail`` names, outermost first, the tasks through whose arguments an error
    came; ``failure`` is set where core itself made the error, and then there are no bytes.
    """

    size: int
    format: int = 0
    data: bytes = b""
    #: Where in the arena the bytes lie, or -1 when they are in ``data``, or :data:`REMOTE`.
    offset: int = -1
    error: bool = False
    trail: tuple[str, ...] = ()
    failure: Failure | None = None


#: The offset of a value whose bytes lie on another node: its size is known, it is ready, and it is pulled when it is needed.
REMOTE = -2


def arguments_id(task_id: TaskID) -> ObjectID:
    """Return the name under which the ledger keeps a task's arguments when they lie in the arena: index 0 of the task."""
    return ObjectID(task_id + b"\x00\x00\x00\x00")


def failed(kind: FailureKind, message: str) -> Value:
    """Return the value of an object that sundog failed."""
    return Value(size=0, error=True, failure=Failure(kind, message))


class TaskSpec(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What to run. Immutable; an *attempt* to run it is a number beside it."""

    task_id: TaskID
    function_id: FunctionID
    #: The function's name, for people: prefixes, errors, tables.
    name: str
    #: The serialized ``(args, kwargs)``, in which each top-level ObjectID is a mark: index i stands for ``dependencies[i]``.
    arguments: Value
    #: Objects that must be ready before the body starts, each once, in order of first mention.
    dependencies: tuple[ObjectID, ...] = ()
    #: IDs that travel inside the arguments as IDs; the task holds them until it is over.
    contained: tuple[ObjectID, ...] = ()
    return_count: int = 1
    resources: Shape = ONE_CPU
    #: How often the task may be started again after its worker died, or after an exception that it declared retryable.
    retries_max: int = 3
    #: A worker is replaced after this many calls of the function; 0 means never.
    calls_max: int = 0
    #: Higher goes first among ready tasks.
    priority: int = 0
    #: How long the body takes in virtual time, where declared as a number. Real backends ignore it.
    duration: Nanos | None = None


class Result(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One return of a task: its value and the IDs inside it, which it keeps alive."""

    value: Value
    contained: tuple[ObjectID, ...] = ()


class ReadyObject(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """An object that is ready. ``value`` is None where only the news was asked for.

    A value with an extent comes with one *grant*: the receiver returns it (:class:`PinsReturned`) once nothing reads it.
    """

    object_id: ObjectID
    value: Value | None = None


class RunTask(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A task for a worker's pipeline. ``values[i]`` is that of ``spec.dependencies[i]``, or None if a task ahead of this one
    in the same pipeline returns it."""

    spec: TaskSpec
    #: Counts dispatches that were charged; a result counts only for the current attempt.
    attempt: int
    #: Counts starts of the body from 1; part of the names of what the body creates.
    start: int
    #: Position in everything ever dispatched to this worker, from 1; the worker's progress record speaks of it.
    sequence: int
    values: tuple[Value | None, ...] = ()
    #: Nobody can go on with this task's returns alone: its end may be told with those of tasks behind it.
    patient: bool = False


class TaskState(Enum):
    """Where a task is. The legal moves are :data:`TRANSITIONS`."""

    WAITING = "waiting"  # for arguments
    READY = "ready"  # could run as soon as resources and a worker are free
    SPILLED = "spilled"  # given to the global scheduler
    DISPATCHED = "dispatched"  # in the pipeline of a worker, perhaps running
    BLOCKED = "blocked"  # its body waits in get or wait; its CPUs are given back
    RESUMABLE = "resumable"  # what it waited for is there; it waits for its CPUs
    FINISHED = "finished"  # its returns are sealed, with values or with errors

    #: Enum's own hash is a call of Python code; states are looked up several times a task.
    __hash__ = object.__hash__


#: state -> states that may follow. The diagram in ARCHITECTURE.md is drawn from this table.
TRANSITIONS: dict[TaskState, tuple[TaskState, ...]] = {
    TaskState.WAITING: (TaskState.READY, TaskState.DISPATCHED, TaskState.SPILLED, TaskState.FINISHED),
    TaskState.READY: (TaskState.DISPATCHED, TaskState.SPILLED, TaskState.FINISHED),
    TaskState.SPILLED: (TaskState.WAITING, TaskState.READY, TaskState.FINISHED),
    TaskState.DISPATCHED: (TaskState.BLOCKED, TaskState.READY, TaskState.WAITING, TaskState.FINISHED),
    TaskState.BLOCKED: (TaskState.RESUMABLE, TaskState.READY, TaskState.WAITING, TaskState.FINISHED),
    TaskState.RESUMABLE: (TaskState.DISPATCHED, TaskState.READY, TaskState.WAITING, TaskState.FINISHED),
    TaskState.FINISHED: (),
}
