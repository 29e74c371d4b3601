"""Ready tasks of one shape, in the order in which they are to run.

Urgent ones first (a blocked task waits for them), then by priority, then in the order of submission, not of becoming ready. Most
tasks become ready in the order of submission: they pass through a deque; the rest through a heap. An entry is stale once its
task is no longer READY; stale entries are skipped where they surface.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

from sundog.core.task import TaskState
from sundog.core.task_record import TaskRecord

_READY = TaskState.READY


class ReadyQueue:
    """See the module."""

    __slots__ = ("_heap", "_in_order", "_pushes")

    def __init__(self) -> None:
        self._in_order: deque[TaskRecord] = deque()
        #: (0 if urgent else 1, -priority, order, push number, record)
        self._heap: list[tuple[int, int, int, int, TaskRecord]] = []
        self._pushes = 0

    def push(self, record: TaskRecord) -> None:
        """Add a READY task; again, if it has become urgent."""
        in_order = self._in_order
        priority = record.spec.priority
        if not record.urgent and priority == 0 and (not in_order or record.order > in_order[-1].order):
            in_order.append(record)
        else:
            self._pushes += 1
            heappush(self._heap, (0 if record.urgent else 1, -priority, record.order, self._pushes, record))

    def peek(self) -> TaskRecord | None:
        """Return the task that is next, or None."""
        heap, in_order = self._heap, self._in_order
        while in_order and in_order[0].state is not _READY:
            in_order.popleft()
        while heap and heap[0][4].state is not _READY:
            heappop(heap)
        if not heap:
            return in_order[0] if in_order else None
        if in_order and (1, 0, in_order[0].order) < heap[0][:3]:
            return in_order[0]
        return heap[0][4]

    def __len__(self) -> int:
        """An upper bound: stale entries count until they surface."""
        return len(self._heap) + len(self._in_order)
