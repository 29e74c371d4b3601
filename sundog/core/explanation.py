"""Why is this not ready? Why is there no room? In words, from the machines' tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from sundog.core.ids import Address, NodeID, ObjectID, TaskID, is_put, producer_of
from sundog.core.resources import ResourceSet, describe
from sundog.core.store_ledger import StoreLedger
from sundog.core.task import TaskState
from sundog.core.task_record import TaskRecord
from sundog.core.units import Nanos, seconds

#: Tasks of a chain, in which each waits for the next, that are told one by one; the end of it is told, too.
_DEPTH_MAX = 4
#: No longer chain is followed.
_CHAIN_MAX = 10_000
#: Extents of a full store that are named.
_LARGEST_MAX = 5


class NodeTasks(NamedTuple):
    """What one node of a cluster knows."""

    node: NodeID
    tasks: Mapping[TaskID, TaskRecord]
    resources: ResourceSet


def explain(tasks: Mapping[TaskID, TaskRecord], resources: ResourceSet, object_ids: Iterable[ObjectID], now: Nanos) -> str:
    """Return one sentence for each of ``object_ids``."""
    return _in_words(_Known(tasks, resources), object_ids, now)


def explain_cluster(nodes: Sequence[NodeTasks], object_ids: Iterable[ObjectID], now: Nanos) -> str:
    """The same, from what several nodes know; of a task that was given away the node that has it knows most."""
    tasks: dict[TaskID, TaskRecord] = {}
    where: dict[TaskID, NodeTasks] = {}
    for view in nodes:
        for task_id, record in view.tasks.items():
            if task_id not in tasks or tasks[task_id].state is TaskState.SPILLED:
                tasks[task_id] = record
                where[task_id] = view
    return _in_words(_Known(tasks, nodes[0].resources, where if len(nodes) > 1 else {}), object_ids, now)


def wait_for_blocked(tasks: Mapping[TaskID, TaskRecord], object_ids: Iterable[ObjectID]) -> bool:
    """Tell whether each of ``object_ids`` waits, itself or through its task's arguments, for a task that is blocked."""
    found = False
    for object_id in object_ids:
        record = tasks.get(producer_of(object_id))
        for _ in range(_CHAIN_MAX):
            if record is None or record.state is not TaskState.WAITING:
                break
            record = tasks.get(producer_of(next(iter(record.missing))))
        if record is None or record.state is not TaskState.BLOCKED:
            return False
        found = True
    return found


class _Known(NamedTuple):
    tasks: Mapping[TaskID, TaskRecord]
    own: ResourceSet
    where: Mapping[TaskID, NodeTasks] = {}

    def resources(self, task_id: TaskID) -> ResourceSet:
        view = self.where.get(task_id)
        return self.own if view is None else view.resources

    def place(self, task_id: TaskID) -> str:
        view = self.where.get(task_id)
        return "" if view is None else f" on node {view.node}"


def _in_words(known: _Known, object_ids: Iterable[ObjectID], now: Nanos) -> str:
    return " ".join(_explain(known, object_id, now, 0) for object_id in object_ids) or "Nothing is missing."


def _explain(known: _Known, object_id: ObjectID, now: Nanos, depth: int) -> str:
    record = known.tasks.get(producer_of(object_id))
    label = f"ObjectID({object_id.hex()})"
    if record is None:
        if is_put(object_id):
            return f"{label} is put, or was freed."
        return f"{label} has no unfinished task: it is ready, or was freed."
    return f"{label} is returned by {_state(known, record, now, depth)}"


def _state(known: _Known, record: TaskRecord, now: Nanos, depth: int) -> str:
    spec, state, worker = record.spec, record.state, record.worker
    name = f"{spec.name}(){known.place(spec.task_id)}"
    resources = known.resources(spec.task_id)
    if state is TaskState.WAITING:
        first = next(iter(record.missing))
        more = f" and {len(record.missing) - 1} more" if len(record.missing) > 1 else ""
        why = _explain(known, first, now, depth + 1) if depth < _DEPTH_MAX else _explain_end(known, first, now)
        return f"{name}, which waits for its argument{more}: {why}"
    if state is TaskState.READY:
        short = [(n, a) for n, a in spec.resources if resources.free.get(n, 0) < a]
        if short:
            return f"{name}, which needs {describe(spec.resources)}; free now: {describe(_free(resources))}."
        return f"{name}, which waits for a worker; free now: {describe(_free(resources))}."
    if state is TaskState.SPILLED:
        return f"{name}, which needs {describe(spec.resources)} and waits for a node that has them."
    if worker is not None and state is TaskState.DISPATCHED:
        if worker.pipeline[0] is record:
            ran = seconds(now - record.dispatched_at)
            return f"{name}, which has been running for {ran:.3g} s on the worker with pid {worker.pid}."
        return f"{name}, which is next on the worker with pid {worker.pid}, after {worker.pipeline[0].spec.name}()."
    if state is TaskState.BLOCKED and record.blocking is not None:
        first = next(iter(record.blocking.missing))
        why = _explain(known, first, now, depth + 1) if depth < _DEPTH_MAX else _explain_end(known, first, now)
        return f"{name}, which is itself blocked: {why}"
    return f"{name}, which waits for its CPUs to go on."


def _explain_end(known: _Known, object_id: ObjectID, now: Nanos) -> str:
    """Explain what the last task of a chain waits for, which goes on from ``object_id``."""
    last = object_id
    for passed in range(_CHAIN_MAX):
        record = known.tasks.get(producer_of(last))
        inner = None if record is None else _waited_for(record)
        if inner is None:
            if passed <= 1:  # as long as saying that there is more
                return _explain(known, object_id, now, _DEPTH_MAX - passed)
            return f"{passed} more tasks wait each for the next, and the last of them so: {_explain(known, last, now, _DEPTH_MAX)}"
        last = inner
    return f"ObjectID({last.hex()}), after {_CHAIN_MAX} more tasks that wait each for the next."


def _waited_for(record: TaskRecord) -> ObjectID | None:
    """Return the first object that the task waits for, as an argument or in its body."""
    if record.state is TaskState.WAITING:
        return next(iter(record.missing))
    if record.state is TaskState.BLOCKED and record.blocking is not None:
        return next(iter(record.blocking.missing))
    return None


def _free(resources: ResourceSet) -> list[tuple[str, int]]:
    return [(name, max(0, amount)) for name, amount in resources.free.items()]


def explain_full(
    ledger: StoreLedger,
    size: int,
    name: Callable[[ObjectID], str],
    holders: Callable[[ObjectID], list[str]],
    process: Callable[[Address], str],
    waited: Nanos,
) -> str:
    """Return why ``size`` bytes find no room: what occupies it, by ``name`` of object and names of ``holders`` and processes."""
    head = f"the object store has no room for {size:,} bytes: {ledger.used_bytes:,} of {ledger.capacity:,} are in use"
    if size > ledger.capacity:
        return f"{head}, and it is larger than the whole store; raise object_store_memory in sundog.init()"
    lines = []
    for extent in sorted(ledger.extents(), key=lambda e: (-e.size, e.offset))[:_LARGEST_MAX]:
        owner = extent.object_id
        what = name(owner) if owner is not None else f"an unfinished write of {process(extent.writer)}"
        who = (holders(owner) if owner is not None else []) + [f"views in {process(p)}" for p in extent.grants]
        held = f", held by {', '.join(who) or 'tasks or containers'}" if owner is not None else ""
        lines.append(f"{extent.size:,} bytes by {what}{held}")
    return f"{head}; waited {seconds(waited):g} s. The largest: {'; '.join(lines)}. Drop references that are not needed."
