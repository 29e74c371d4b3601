"""Short words for IDs, values and specs, so that a test of a machine says what it is about and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from sundog.core.config import Config
from sundog.core.ids import (
    DRIVER,
    HOST,
    Address,
    FunctionID,
    IdSequence,
    NodeID,
    ObjectID,
    ProcessID,
    TaskID,
    address,
    return_id,
    root_task_id,
)
from sundog.core.messages import FunctionExported, Result, TaskSubmitted
from sundog.core.resources import Shape, shape
from sundog.core.task import TaskSpec, Value

NODE = NodeID(0)
AT_HOST = address(NODE, HOST)
AT_DRIVER = address(NODE, DRIVER)
FUNCTION = FunctionID(b"function".ljust(16, b"."))
EXPORT = FunctionExported(FUNCTION, "f", Value(1, data=b"f"))
CPUS_2 = shape({"CPU": 2})
GPU_1 = shape({"CPU": 1, "GPU": 1})


def config(cpus: float = 2, workers: int | None = None, gpus: float = 0, **fields: Any) -> Config:
    """Return a node with ``cpus`` and as many workers (or ``workers``); ``fields`` are those of Config."""
    count = int(cpus) if workers is None else workers
    return Config(capacity=shape({"CPU": cpus, "GPU": gpus}), worker_count=count, **fields)


def worker_at(number: int) -> Address:
    """Return the address of the worker process ``number`` (they count from 2)."""
    return address(NODE, ProcessID(number))


def task_id(number: int) -> TaskID:
    """Return the ID of task ``number``."""
    return TaskID(number.to_bytes(16, "big"))


def returned(number: int, index: int = 1) -> ObjectID:
    """Return the ID of a return of task ``number``."""
    return return_id(task_id(number), index)


def put_id(number: int) -> ObjectID:
    """Return the ID of a put."""
    return ObjectID(bytes(16) + (2**31 + number).to_bytes(4, "big"))


def ids(name: str) -> IdSequence:
    """Return the names that a program ``name`` gives."""
    return IdSequence(root_task_id(name.encode()), 1, 0)


def spec(
    number: int,
    *dependencies: ObjectID,
    name: str = "",
    resources: Shape | None = None,
    arguments: Value | None = None,
    **fields: Any,
) -> TaskSpec:
    """Return task ``number``, called ``f<number>``, which depends on ``dependencies``; ``fields`` are those of TaskSpec."""
    if resources is not None:
        fields["resources"] = resources
    return TaskSpec(
        task_id(number), FUNCTION, name or f"f{number}", arguments or Value(1, data=b"a"), dependencies=dependencies, **fields
    )


def submitted(number: int, *dependencies: ObjectID, **fields: Any) -> TaskSubmitted:
    """Return what a client says of :func:`spec`."""
    return TaskSubmitted(spec(number, *dependencies, **fields))


def inline(content: Any = None, *contained: ObjectID) -> Value:
    """Return a value that holds ``content`` (what msgpack can) and ``contained`` IDs."""
    data = msgspec.msgpack.encode([content, list(contained)])
    return Value(len(data), data=data)


def error(text: str = "boom") -> Value:
    """Return the error that a body raised."""
    return msgspec.structs.replace(inline(text), error=True)


def arena(offset: int, size: int = 64) -> Value:
    """Return a value in the arena."""
    return Value(size, offset=offset)


def result(content: Any = None, *contained: ObjectID) -> Result:
    """Return one return of a task."""
    return Result(inline(content, *contained), contained)


def opened(data: bytes) -> tuple[Any, list[ObjectID]]:
    """Return the content and the contained IDs of what :func:`inline` packed."""
    content, raw = msgspec.msgpack.decode(data)
    return content, [ObjectID(r) for r in raw]


def said(actions: Sequence[Any], kind: type) -> list[Any]:
    """Return the actions of one kind, or the messages of one kind that are sent."""
    return [a for a in actions if type(a) is kind] + [a.message for a in actions if type(getattr(a, "message", None)) is kind]
