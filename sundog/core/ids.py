"""Identities: derived from what they name, never drawn.

An ``ObjectID`` is 20 bytes: the 16 bytes of the task that made it, then a 4-byte big-endian index. Returns count from 1,
puts from 2**31, so the producer of any object is the first 16 bytes of its ID and no table is needed to find it.

What a body creates (child tasks, puts, exported functions) is named after its *execution*: a 12-byte prefix hashed from the
task, the number of times its body has started, and the lane (thread) that asks. The same program therefore has the same IDs
on every backend, and a retry that takes another branch never meets the values of its dead twin.

>>> root = root_task_id(b"seed 7")
>>> ids = IdSequence(root, start=1, lane=0)
>>> task = ids.next_task()
>>> producer_of(return_id(task, 1)) == task
True
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NewType

try:
    from _blake2 import blake2b  # what hashlib would give, without the OpenSSL that it loads (a tenth of starting a process)
except ImportError:  # an interpreter that was built without it
    from hashlib import blake2b

TaskID = NewType("TaskID", bytes)
ObjectID = NewType("ObjectID", bytes)
FunctionID = NewType("FunctionID", bytes)
#: A node's number within its session; the head numbers them in the order in which they join, from 0, never again the same.
NodeID = NewType("NodeID", int)
#: A process's number within its node, never given twice, so a restarted worker is never mistaken for the one that died.
ProcessID = NewType("ProcessID", int)
#: Where a message goes: a process of a node. See :func:`address`.
Address = NewType("Address", int)

TASK_ID_BYTES = 16
OBJECT_ID_BYTES = 20
PREFIX_BYTES = 12
RETURN_INDEX_FIRST = 1
PUT_INDEX_FIRST = 1 << 31
#: What makes the ID of a task's first return, mostly its only one, of the task's.
FIRST_RETURN = RETURN_INDEX_FIRST.to_bytes(4, "big")
#: Functions count from here, so that no function has the bytes of a task.
FUNCTION_INDEX_FIRST = 0xF0000000
#: Returns a task may have at most; far below the first put index.
RETURN_COUNT_MAX = 1 << 20

#: The process that runs a node's host.
HOST = ProcessID(0)
#: The first client of a node: the driver of a single machine.
DRIVER = ProcessID(1)
_PROCESS_BITS = 32
_PROCESS_MASK = (1 << _PROCESS_BITS) - 1
#: "The loop that runs this machine": the sender of facts that no message brought.
LOOP = Address(-1)


def address(node: NodeID, process: ProcessID) -> Address:
    """Return the address of ``process`` on ``node``."""
    return Address(node << _PROCESS_BITS | process)


def node_of(where: Address) -> NodeID:
    """Return the node that ``where`` lies on."""
    return NodeID(where >> _PROCESS_BITS)


def process_of(where: Address) -> ProcessID:
    """Return the process, within its node, that ``where`` names."""
    return ProcessID(where & _PROCESS_MASK)


def root_task_id(seed: bytes) -> TaskID:
    """Return the task that stands for a driver's own program, derived from ``seed`` (any bytes)."""
    return TaskID(blake2b(seed, digest_size=TASK_ID_BYTES, person=b"sundog-driver").digest())


def return_id(task_id: TaskID, index: int) -> ObjectID:
    """Return the ID of the ``index``-th return (from 1) of ``task_id``."""
    return ObjectID(task_id + index.to_bytes(4, "big"))


def return_ids(task_id: TaskID, count: int) -> tuple[ObjectID, ...]:
    """Return the IDs of all ``count`` returns of ``task_id``, in order."""
    if count == 1:
        return (ObjectID(task_id + FIRST_RETURN),)
    return tuple([ObjectID(task_id + index.to_bytes(4, "big")) for index in range(1, count + 1)])


def first_returns(task_ids: Iterable[TaskID]) -> list[ObjectID]:
    """Return the ID of the first return of each of ``task_ids``."""
    first = FIRST_RETURN
    return [task_id + first for task_id in task_ids]  # type: ignore[misc]  # a NewType's call is one of Python code


def producer_of(object_id: ObjectID) -> TaskID:
    """Return the task whose return ``object_id`` is. For a put, a task-shaped name that no task has."""
    return TaskID(object_id[:TASK_ID_BYTES])


def return_index(object_id: ObjectID) -> int:
    """Return which return of its task ``object_id`` is, from 1."""
    return int.from_bytes(object_id[TASK_ID_BYTES:], "big")


def is_put(object_id: ObjectID) -> bool:
    """Tell whether ``object_id`` was made by ``put`` rather than returned by a task."""
    return object_id[TASK_ID_BYTES] >= 0x80


def execution_prefix(task_id: TaskID, start: int, lane: int) -> bytes:
    """Return the 12 bytes that name what one execution's lane creates.

    ``start`` counts, from 1, how often the body has really begun; ``lane`` is 0 for the task's own thread, then one more for
    each further thread in the order of their first calls.
    """
    material = task_id + start.to_bytes(4, "big") + lane.to_bytes(4, "big")
    return blake2b(material, digest_size=PREFIX_BYTES, person=b"sundog-exec").digest()


class IdSequence:
    """The names that one lane of one execution gives, in the order of its asking. Not thread-safe: one lane, one thread."""

    __slots__ = ("_functions", "_prefix", "_put_prefix", "_puts", "_tasks")

    def __init__(self, task_id: TaskID, start: int, lane: int) -> None:
        self._prefix = execution_prefix(task_id, start, lane)
        self._put_prefix = self._prefix + b"\x00\x00\x00\x00"
        self._tasks = 0
        self._puts = 0
        self._functions = 0

    def next_task(self) -> TaskID:
        """Return the name of the next child task."""
        self._tasks += 1
        return TaskID(self._prefix + self._tasks.to_bytes(4, "big"))

    def next_put(self) -> ObjectID:
        """Return the name of the next object that is put."""
        index = PUT_INDEX_FIRST + self._puts
        self._puts += 1
        return ObjectID(self._put_prefix + index.to_bytes(4, "big"))

    def next_function(self) -> FunctionID:
        """Return the name of the next function that is exported."""
        index = FUNCTION_INDEX_FIRST + self._functions
        self._functions += 1
        return FunctionID(self._prefix + index.to_bytes(4, "big"))
