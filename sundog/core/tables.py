"""The control state, computed from the machines when somebody asks: plain rows for ``redis-cli``, ``sundog.nodes()`` and tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from sundog.core.ids import FunctionID, ObjectID, ProcessID, TaskID, process_of, producer_of
from sundog.core.placement import NodeView
from sundog.core.resources import UNIT
from sundog.core.task import Value

if TYPE_CHECKING:
    from sundog.core.host import Host

Row: TypeAlias = dict[str, Any]


def _state_of(value: Value | None) -> str:
    if value is None:
        return "pending"
    return "failed" if value.error else "sealed"


def object_row(host: Host, object_id: ObjectID) -> Row | None:
    """Return what is known of one object, or None if nobody holds it."""
    record = host.object_manager.objects.get(object_id)
    if record is None:
        return None
    value = record.value
    return {
        "object_id": object_id.hex(),
        "node": int(host.node) if value is not None else None,
        "size": value.size if value is not None else None,
        "state": _state_of(value),
        "where": None if value is None else ("arena" if value.offset >= 0 else "inline"),
        "made_by": record.name if record.spec is None else record.spec.name,
        "task": producer_of(object_id).hex(),
        "holders": record.holders,
    }


def task_row(host: Host, task_id: TaskID) -> Row | None:
    """Return what is known of one unfinished task, or None."""
    record = host.local_scheduler.tasks.get(task_id)
    if record is None:
        return None
    worker = record.worker
    return {
        "task_id": task_id.hex(),
        "name": record.spec.name,
        "function_id": record.spec.function_id.hex(),
        "state": record.state.value,
        "node": int(host.node),
        "worker": int(worker.worker) if worker is not None else None,
        "attempt": record.attempt,
        "dependencies": [o.hex() for o in record.spec.dependencies],
        "returns": record.spec.return_count,
        "resources": {name: amount / UNIT for name, amount in record.spec.resources},
        "submitter": int(process_of(record.submitter)),
    }


def function_row(host: Host, function_id: FunctionID) -> Row | None:
    """Return what is known of one exported function, or None."""
    function = host.local_scheduler.pipelines.functions.get(function_id)
    if function is None:
        return None
    return {
        "function_id": function_id.hex(),
        "name": function.name,
        "bytes": function.code.size,
        "calls": function.calls,
        "mean_ns": function.mean,
    }


def worker_row(host: Host, worker: ProcessID) -> Row | None:
    """Return what is known of one worker process, or None."""
    record = host.local_scheduler.pool.workers.get(worker)
    if record is None:
        return None
    return {
        "worker": int(worker),
        "pid": record.pid,
        "node": int(host.node),
        "state": record.state.value,
        "running": record.pipeline[0].spec.name if record.pipeline else None,
        "pipeline": len(record.pipeline),
    }


def _objects(host: Host) -> list[Row]:
    return [row for o in host.object_manager.objects if (row := object_row(host, o)) is not None]


def _tasks(host: Host) -> list[Row]:
    return [row for t in host.local_scheduler.tasks if (row := task_row(host, t)) is not None]


def _functions(host: Host) -> list[Row]:
    return [row for f in host.local_scheduler.pipelines.functions if (row := function_row(host, f)) is not None]


def _workers(host: Host) -> list[Row]:
    return [row for w in host.local_scheduler.pool.workers if (row := worker_row(host, w)) is not None]


def _nodes(host: Host) -> list[Row]:
    resources = host.local_scheduler.resources
    ledger = host.object_manager.ledger
    return [
        {
            "node": int(host.node),
            "alive": True,
            "resources": {name: amount / UNIT for name, amount in resources.capacity.items()},
            "available": {name: max(0, amount) / UNIT for name, amount in resources.free.items()},
            "overdrawn": {name: amount / UNIT for name, amount in resources.overdrawn.items()},
            "workers": len(host.local_scheduler.pool.workers),
            "tasks": len(host.local_scheduler.tasks),
            "objects": len(host.object_manager.objects),
            "store_bytes": ledger.capacity,
            "store_bytes_used": ledger.used_bytes,
        },
        *[_other_node(view) for view in host.known_nodes() if view.node != host.node],
    ]


def _other_node(view: NodeView) -> Row:
    """Return what the head knows of another node."""
    return {
        "node": int(view.node),
        "alive": True,
        "resources": {name: amount / UNIT for name, amount in view.capacity},
        "available": {name: max(0, amount) / UNIT for name, amount in view.free},
        "overdrawn": {},
        "tasks": view.queued,
    }


def _errors(host: Host) -> list[Row]:
    rows = []
    for object_id, record in host.object_manager.objects.items():
        value = record.value
        if value is not None and value.error:
            failure = value.failure
            rows.append(
                {
                    "object_id": object_id.hex(),
                    "name": record.name,
                    "kind": failure.kind.value if failure is not None else "exception",
                    "message": failure.message if failure is not None else "",
                    "path": list(value.trail),
                    "heard": record.heard,
                }
            )
    return rows


TABLES: dict[str, Callable[[Host], list[Row]]] = {
    "objects": _objects,
    "tasks": _tasks,
    "functions": _functions,
    "workers": _workers,
    "nodes": _nodes,
    "errors": _errors,
}
