"""Puts the local scheduler's tables before ``stall``: is anything blocked for ever?"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from sundog.core.ids import ObjectID, TaskID, producer_of
from sundog.core.resources import ResourceSet, without_cpu
from sundog.core.stall import BlockedTask, PendingTask, find_deadlock
from sundog.core.task import TaskState
from sundog.core.task_record import TaskRecord


class _Unstarted(Mapping[ObjectID, PendingTask]):
    """Tasks that have not started, by what they return: made as they are asked for, since few ever are."""

    def __init__(self, tasks: dict[TaskID, TaskRecord], states: Collection[TaskState]) -> None:
        self._tasks = tasks
        self._states = states

    def __getitem__(self, object_id: ObjectID) -> PendingTask:
        record = self._tasks[producer_of(object_id)]
        if record.state not in self._states:
            raise KeyError(object_id)
        task_id = record.spec.task_id
        # Its own arguments, if they are elsewhere, are on their way: it does not wait for itself.
        needs = tuple([needed for needed in record.missing if producer_of(needed) != task_id])
        return PendingTask(task_id, record.spec.name, needs, record.spec.resources)

    def __iter__(self) -> Iterator[ObjectID]:
        raise TypeError("too many to list; ask for one")

    def __len__(self) -> int:
        return len(self._tasks)


def find_stalled(
    tasks: dict[TaskID, TaskRecord],
    blocked: Mapping[TaskID, TaskRecord],
    resources: ResourceSet,
    workers_max: int,
    unstarted: Collection[TaskState],
    refused: str = "",
) -> tuple[TaskRecord, str] | None:
    """Return the newest blocked task that can never move and the chain of who waits for what, or None.

    Tasks in a state that is not among ``unstarted`` are taken to be on their way. ``refused``: see ``find_deadlock``.
    """
    waiting = [
        BlockedTask(
            record.spec.task_id,
            record.spec.name,
            record.order,
            tuple(record.blocking.missing),
            record.blocking.count,
            without_cpu(record.worker.shape),
        )
        for record in blocked.values()
        if record.blocking is not None and record.worker is not None
    ]
    found = find_deadlock(waiting, _Unstarted(tasks, unstarted), resources, workers_max, refused)
    return (blocked[found.task_id], found.message) if found is not None else None
