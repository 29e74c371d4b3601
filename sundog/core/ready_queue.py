"""Ready tasks of one shape, in the order in which they are to run.

Urgent ones first (a blocked task waits for them): those of the newest blocked task before those of older ones, so that a tree of
tasks that wait for their children is run depth first and few of them are blocked at a time. Then by priority, then in the order
of submission, not of becoming ready. Most tasks become ready in the order of submission: they pass through a deque; the rest
through a heap. An entry is stale once its task is no longer READY; stale entries are skipped where they surface.

Mostly only one task is ready, and then it does not queue at all. Shapes share the node: one whose next task finds no room lets
others go ahead, since what is free would lie idle, but not for ever: see :class:`ReadyQueues`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from itertools import islice

from sundog.core.resources import CPU, ResourceSet, Shape
from sundog.core.task import TaskState
from sundog.core.task_record import TaskRecord
from sundog.core.units import MILLISECOND, Nanos

_READY = TaskState.READY
#: How long tasks of other shapes may go ahead of one that finds no room.
_PATIENCE: Nanos = 20 * MILLISECOND
#: Goes before every rank.
_STARVED = (-(1 << 63), 0)


class ReadyQueue:
    """See the module."""

    __slots__ = ("_heap", "_in_order", "_pushes", "feasible", "runs_here", "stuck_since")

    def __init__(self, *, feasible: bool = True, only_cpus: bool = True) -> None:
        """``feasible``: the shape fits the node when it is empty; ``only_cpus``: it asks for nothing else."""
        self.feasible = feasible
        #: Whether tasks of this shape are run here, without a look at what is free.
        self.runs_here = feasible and only_cpus
        self._in_order: deque[TaskRecord] = deque()
        #: (-urgent, -priority, order, push number, record)
        self._heap: list[tuple[int, int, int, int, TaskRecord]] = []
        self._pushes = 0
        #: Since when its next task has found no room.
        self.stuck_since: Nanos | None = None

    def push(self, record: TaskRecord) -> None:
        """Add a READY task; again, if it has become urgent."""
        in_order = self._in_order
        priority = record.spec.priority
        if not record.urgent and priority == 0 and (not in_order or record.order > in_order[-1].order):
            in_order.append(record)
        else:
            self._pushes += 1
            heappush(self._heap, (-record.urgent, -priority, record.order, self._pushes, record))

    def push_run(self, records: Sequence[TaskRecord]) -> None:
        """Add READY tasks, in the order of their submission, which are neither urgent nor of any priority: the newest of all."""
        self._in_order.extend(records)

    def take_run(self, count: int) -> list[TaskRecord]:
        """Remove and return the next tasks, up to ``count``, as far as they are plain and like the first: of one function, awaited
        in the same way. Perhaps none."""
        in_order = self._in_order
        taken: list[TaskRecord] = []
        if not in_order or self._heap:
            return taken
        function, awaited = in_order[0].function, in_order[0].awaited
        for record in islice(in_order, count):
            if not record.plain or record.state is not _READY or record.function is not function or record.awaited != awaited:
                break
            if record.dependents is not None:
                break
            taken.append(record)
        if len(taken) == len(in_order):
            in_order.clear()
        else:
            for _ in taken:
                in_order.popleft()
        return taken

    def peek(self) -> TaskRecord | None:
        """Return the task that is next, or None."""
        in_order = self._in_order
        while in_order and in_order[0].state is not _READY:
            in_order.popleft()
        first = in_order[0] if in_order else None
        return self._before(first) if self._heap else first

    def _before(self, first: TaskRecord | None) -> TaskRecord | None:
        """Return what goes before ``first``, the next of those in order, or else that."""
        heap = self._heap
        while heap and heap[0][4].state is not _READY:
            heappop(heap)
        if heap and (first is None or heap[0][:3] < (0, 0, first.order)):
            return heap[0][4]
        return first

    def __len__(self) -> int:
        """An upper bound: stale entries count until they surface."""
        return len(self._heap) + len(self._in_order)


def _rank(record: TaskRecord) -> tuple[int, int]:
    return (-record.urgent, -record.spec.priority)


class ReadyQueues:
    """The queues of all shapes, in the order in which their next tasks should run.

    Where the next task of one shape finds no room, shapes behind it leave it what it lacks, if it is urgent or of higher
    priority, or has been stuck for long: then nothing new of theirs starts that wants the same resources.
    """

    __slots__ = ("by_shape", "filled", "lone", "noted")

    def __init__(self) -> None:
        self.by_shape: dict[Shape, ReadyQueue] = {}
        #: Those in which something may be ready. Whoever finds one empty says :meth:`emptied`.
        self.filled: dict[Shape, ReadyQueue] = {}
        #: If only one task is ready, as mostly, it is here and in no queue. Whoever takes it away puts None.
        self.lone: TaskRecord | None = None
        #: Where tasks that have to queue are noted, too, if somebody else looks for those.
        self.noted: list[TaskRecord] | None = None

    def add(self, shape: Shape, resources: ResourceSet) -> ReadyQueue:
        """Return a new queue for ``shape``."""
        only_cpus = len(shape) == 1 and shape[0][0] == CPU
        queue = self.by_shape[shape] = ReadyQueue(feasible=resources.could_fit(shape), only_cpus=only_cpus)
        return queue

    def push(self, record: TaskRecord, queue: ReadyQueue) -> None:
        """Add a READY task, to be kept in ``queue``, that of its shape."""
        if not self.filled:
            lone = self.lone
            if lone is None:
                self.lone = record
                return
            self.lone = None
            self.line_up(lone, self.by_shape[lone.spec.resources])
        self.line_up(record, queue)

    def push_run(self, records: Sequence[TaskRecord], queue: ReadyQueue) -> None:
        """The same for several of one shape, in the order of their submission, of no priority and newer than all others."""
        lone, self.lone = self.lone, None
        if lone is not None:
            self.line_up(lone, self.by_shape[lone.spec.resources])
        self.line_up(records[0], queue)
        queue.push_run(records[1:])
        if self.noted is not None:
            self.noted += records[1:]

    def hurry(self, record: TaskRecord) -> None:
        """A READY task has become urgent."""
        if record is not self.lone:
            self.by_shape[record.spec.resources].push(record)

    def line_up(self, record: TaskRecord, queue: ReadyQueue) -> None:
        """Put ``record`` into ``queue`` even if it is the only one that is ready."""
        queue.push(record)
        self.filled[record.spec.resources] = queue
        if self.noted is not None:
            self.noted.append(record)

    def emptied(self, shape: Shape) -> None:
        """Nothing of ``shape`` is ready any more."""
        self.filled.pop(shape).stuck_since = None

    def in_order(self, resources: ResourceSet, now: Nanos) -> Iterator[tuple[Shape, ReadyQueue]]:
        """Yield each shape whose tasks may be run now. The caller runs what fits before it asks for the next.

        A node that has only ever known one shape need not ask.
        """
        heads = []
        for shape, queue in list(self.filled.items()):
            head = queue.peek()
            if head is None:
                self.emptied(shape)
            else:
                heads.append((_rank(head), head.order, shape, queue))
        heads.sort(key=lambda entry: entry[:2])
        lacking: dict[str, tuple[int, int]] = {}
        for rank, _, shape, queue in heads:
            if lacking and any(name in lacking and lacking[name] < rank for name, _ in shape):
                continue
            yield shape, queue
            head = queue.peek()
            if head is None or resources.fits(shape):
                queue.stuck_since = None
                continue
            if queue.stuck_since is None:
                queue.stuck_since = now
            claim = _STARVED if now - queue.stuck_since >= _PATIENCE else _rank(head)
            free = resources.free
            for name, amount in shape:
                if free.get(name, 0) < amount and name not in lacking:
                    lacking[name] = claim
