"""The worker's side of its pipeline: which task is next, with which values, and what is kept for the tasks behind it.

A part, not a machine: the worker's loop calls it between bodies. It holds no clock and no token; whether a task was claimed
(protocol P1) is told to it. Invariants:

* ``queue`` holds tasks in the order of their sequence, none of them started;
* ``kept`` holds returns of finished tasks of this worker, all with sequence > ``forget_through`` as last told. A task's
  missing value is therefore in ``kept``, or its producer raised, was dropped or was skipped, and then it is skipped too (P5).
"""

from __future__ import annotations

from collections import deque

from sundog.core.ids import TaskID, producer_of, return_index
from sundog.core.machine import Fact
from sundog.core.messages import Result, RunTask, RunTasks, TasksDropped, TasksForgotten, TaskSkipped
from sundog.core.task import Value


class Executor:
    """See the module."""

    __slots__ = ("_kept_order", "kept", "queue")

    def __init__(self) -> None:
        self.queue: deque[RunTask] = deque()
        #: What tasks behind may need: the results of finished tasks.
        self.kept: dict[TaskID, tuple[Result, ...]] = {}
        #: (sequence, task), oldest first, for forgetting.
        self._kept_order: deque[tuple[int, TaskID]] = deque()

    def accept(self, message: RunTasks) -> None:
        """Take new tasks into the queue, and forget what the node says is no longer needed."""
        self.queue.extend(message.tasks)
        order = self._kept_order
        while order and order[0][0] <= message.forget_through:
            self.kept.pop(order.popleft()[1], None)

    def forget(self, message: TasksForgotten) -> Fact:
        """Drop what was reclaimed; return the answer for the node."""
        self.queue = deque([run for run in self.queue if not message.after < run.sequence <= message.sequence])
        return TasksDropped(message.sequence)

    def next(self) -> RunTask | None:
        """Remove and return the head of the queue, or None. The caller claims it, and forgets it if there is no token."""
        return self.queue.popleft() if self.queue else None

    def values(self, run: RunTask) -> tuple[Value, ...] | None:
        """Return the values of the task's dependencies, or None if one of them never came: then :meth:`skip` it."""
        if None not in run.values:
            return run.values  # type: ignore[return-value]  # just checked
        found = []
        for object_id, value in zip(run.spec.dependencies, run.values, strict=True):
            if value is None:
                results = self.kept.get(producer_of(object_id))
                if results is None:
                    return None
                value = results[return_index(object_id) - 1].value
            found.append(value)
        return tuple(found)

    def skip(self, run: RunTask) -> Fact:
        """Return what to tell the node about a task that cannot run because one ahead of it gave no value."""
        return TaskSkipped(run.spec.task_id, run.attempt)

    def finished(self, run: RunTask, results: tuple[Result, ...]) -> None:
        """Keep the returns of a task that gave values, for the tasks behind it. Not to be called for one that raised."""
        task_id = run.spec.task_id
        self.kept[task_id] = results
        self._kept_order.append((run.sequence, task_id))
