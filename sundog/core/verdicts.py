"""What is said of tasks that are over: to people when a worker died under one, to the control store always."""

from __future__ import annotations

from collections.abc import Iterable

from sundog.core import events as ev
from sundog.core.ids import NodeID, ProcessID, node_of
from sundog.core.journal import TaskGone
from sundog.core.messages import Result
from sundog.core.task import FailureKind
from sundog.core.task_record import TaskRecord, WorkerRecord
from sundog.core.units import MIB, Nanos

#: The signals that end workers, by number: those on which all of Linux agrees.
_SIGNALS = {1: "SIGHUP", 2: "SIGINT", 4: "SIGILL", 6: "SIGABRT", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}


def _signal(number: int) -> str:
    name = _SIGNALS.get(number)
    return f"signal {number}" if name is None else f"signal {number} ({name})"


def unborn_message(fact: ev.WorkerLost) -> str:
    """Return what a person needs to know of a worker that died before it ran anything."""
    text = f"worker {fact.worker} ended with status {fact.status} before its first task"
    last = fact.output.rstrip().rpartition("\n")[2]
    return f"{text}; the last it said was: {last}" if last else text


def crash_message(record: TaskRecord, worker: WorkerRecord, fact: ev.WorkerLost) -> str:
    """Return what a person needs to know of a task whose worker died under it."""
    how = _signal(-fact.status) if fact.status < 0 else f"exit code {fact.status}"
    spec = record.spec
    node = node_of(worker.where)
    where = f"node {node}, pid {worker.pid}" if node else f"pid {worker.pid}"
    text = f"the worker ({where}) running {spec.name} died with {how}, on start {record.starts} of it"
    text += f" (max_retries={spec.retries_max})"
    if fact.memory:
        text += f"; its memory was last seen at {fact.memory / MIB:,.0f} MiB"
    if fact.output:
        text += f"; its last output was:\n{fact.output}"
    return text


def epitaph(record: TaskRecord, results: tuple[Result, ...], ran: Nanos, worker: ProcessID | None, node: NodeID) -> TaskGone:
    """Return the journal's entry for a task that is over."""
    value = results[0].value if results else None
    failure = value.failure if value is not None else None
    state = "finished" if value is None or not value.error else "failed"
    if failure is not None and failure.kind is FailureKind.CANCELLED:
        state = "cancelled"
    spec = record.spec
    return TaskGone(spec.task_id, spec.name, state, ran, worker, node, failure.message if failure else "")


def epitaphs(records: Iterable[TaskRecord], now: Nanos, worker: ProcessID, node: NodeID) -> list[TaskGone]:
    """The same for tasks that ``worker`` has just run to their end."""
    return [TaskGone(r.spec.task_id, r.spec.name, "finished", now - r.dispatched_at, worker, node) for r in records]
