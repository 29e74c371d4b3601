"""Cancelling what has not started, also where that must first be taken back from a worker's pipeline."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from sundog.core import messages as msg
from sundog.core.actions import Send
from sundog.core.ids import Address, ObjectID, TaskID, producer_of
from sundog.core.machine import Action
from sundog.core.task import TaskState
from sundog.core.task_record import TaskRecord, WorkerRecord


class _Pending(msgspec.Struct):
    client: Address
    request: int
    object_ids: tuple[ObjectID, ...]
    #: Workers whose answer (tokens taken back, or none left) is awaited.
    workers: list[WorkerRecord]


class Cancellations:
    """Requests to cancel that wait for workers' answers. Normally empty, and then it costs nothing."""

    def __init__(self) -> None:
        self.pending: list[_Pending] = []

    def ask(self, client: Address, fact: msg.CancelRequested, tasks: dict[TaskID, TaskRecord]) -> list[WorkerRecord]:
        """Take a request; returns the workers from whose pipelines tasks have to be reclaimed first."""
        workers: dict[int, WorkerRecord] = {}
        for object_id in fact.object_ids:
            record = tasks.get(producer_of(object_id))
            worker = record.worker if record is not None else None
            if record is not None and worker is not None and worker.pipeline[0] is not record:
                workers[worker.worker] = worker
        self.pending.append(_Pending(client, fact.request, fact.object_ids, list(workers.values())))
        return list(workers.values())

    def settle(self, tasks: dict[TaskID, TaskRecord], cancel: Callable[[TaskRecord], bool], actions: list[Action]) -> None:
        """Answer the requests whose workers have all answered. ``cancel`` fails a task if it has not started."""
        if not self.pending:
            return
        still: list[_Pending] = []
        for pending in self.pending:
            if any(worker.reclaiming for worker in pending.workers):
                still.append(pending)
                continue
            cancelled = []
            for object_id in pending.object_ids:
                record = tasks.get(producer_of(object_id))
                if record is None:
                    continue
                if record.state is not TaskState.FINISHED and cancel(record):
                    cancelled.append(object_id)
            actions.append(Send(pending.client, msg.CancelAnswered(pending.request, tuple(cancelled))))
        self.pending = still
