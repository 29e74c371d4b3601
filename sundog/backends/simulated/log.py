"""The event log of a simulation, and its SHA-256: two runs are the same if, and only if, theirs is.

Every turn is an entry: when, whose, what it was told and what it asked for. IDs, sizes and decisions go in; payloads, texts and
code do not, since pickled bytes hang on hash seeds and code on paths. A client's turn is counted only: what it says is in its
host's turn, a hop later.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from sundog.core import messages as msg
from sundog.core.actions import Dispatch, Send
from sundog.core.ids import Address
from sundog.core.machine import Action, Event
from sundog.core.task import ReadyObject, Result, RunTask, TaskSpec, Value
from sundog.core.units import Nanos

_encode = msgspec.msgpack.Encoder().encode
#: Bytes gathered before they are hashed.
_TOGETHER = 1 << 16


class EventLog:
    """See the module. ``path``, if given, is a file that gets the entries: msgpack values after their lengths in 4 bytes."""

    #: Whether anybody asks for it.
    wanted = True

    def __init__(self, path: str | None = None) -> None:
        self._sha = hashlib.sha256()
        self._buffer = bytearray()
        self.entries = 0
        self._file: Any = None
        if path is not None:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            self._file = open(descriptor, "wb")  # noqa: SIM115 (closed by close())

    def host_turn(self, now: Nanos, where: Address, events: Sequence[Event], actions: Sequence[Action]) -> None:
        """Enter a step of a host."""
        self._enter((now, where, [(sender, essence(fact)) for sender, fact in events], [essence(action) for action in actions]))

    def client_turn(self, now: Nanos, where: Address, events: Sequence[Event], actions: Sequence[Action]) -> None:
        """Enter a step of a driver's or worker's client machine."""
        self._enter((now, where, len(events), len(actions)))

    def digest(self) -> str:
        """Return the SHA-256 of all entries so far, as 64 hex digits."""
        self._flush()
        return self._sha.hexdigest()

    def close(self) -> None:
        """Write what is left and close the file. Idempotent; the digest stays."""
        self._flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _enter(self, entry: object) -> None:
        body = _encode(entry)
        self.entries += 1
        buffer = self._buffer
        buffer += len(body).to_bytes(4, "big")
        buffer += body
        if len(buffer) > _TOGETHER:
            self._flush()

    def _flush(self) -> None:
        buffer, self._buffer = self._buffer, bytearray()
        self._sha.update(buffer)
        if self._file is not None:
            self._file.write(buffer)


class NoLog(EventLog):
    """In place of a log where nobody asks for one: it costs next to nothing."""

    wanted = False

    def host_turn(self, now: Nanos, where: Address, events: Sequence[Event], actions: Sequence[Action]) -> None:
        """See :class:`EventLog`."""

    def client_turn(self, now: Nanos, where: Address, events: Sequence[Event], actions: Sequence[Action]) -> None:
        """See :class:`EventLog`."""

    def digest(self) -> str:
        """Return nothing."""
        return ""

    def close(self) -> None:
        """See :class:`EventLog`."""


# -- what is the same in every run --------------------------------------------------------------------------------------------


def essence(item: Any) -> Any:
    """Return what of a fact or action is the same in every run of the same program and seed."""
    kind = type(item)
    reduce = _REDUCERS.get(kind)
    if reduce is None:
        reduce = _REDUCERS[kind] = _as_it_is if not _holds_payload(kind) else _fields_of(kind)
    return reduce(item)


def _as_it_is(item: Any) -> Any:
    return item


def _fields_of(kind: type) -> Callable[[Any], Any]:
    name, fields = kind.__name__, kind.__struct_fields__  # type: ignore[attr-defined]

    def reduce(item: Any) -> Any:
        return (name, *[_part(getattr(item, field)) for field in fields])

    return reduce


def _part(part: Any) -> Any:
    if isinstance(part, tuple):
        return [_part(inner) for inner in part]
    return essence(part) if isinstance(part, msgspec.Struct) else part


def _holds_payload(kind: type) -> bool:
    from sundog.backends.payloads import payload_fields  # the same question as a recorder's

    return bool(payload_fields(kind))


def _value(value: Value) -> Any:
    failure = value.failure
    return (value.size, value.format, value.offset, value.error, value.trail, failure.kind if failure is not None else None)


def _values(values: tuple[Value | None, ...]) -> Any:
    return [None if value is None else _value(value) for value in values]


def _spec(spec: TaskSpec) -> Any:
    return (
        spec.task_id, spec.function_id, spec.name, _value(spec.arguments), spec.dependencies, spec.contained, spec.return_count,
        spec.resources, spec.retries_max, spec.calls_max, spec.priority, spec.duration,
    )  # fmt: skip


def _run(run: RunTask) -> Any:
    return (run.spec.task_id, run.attempt, run.start, run.sequence, _values(run.values))


def _result(result: Result) -> Any:
    return (_value(result.value), result.contained)


def _ready(ready: ReadyObject) -> Any:
    return (ready.object_id, None if ready.value is None else _value(ready.value))


_REDUCERS: dict[type, Callable[[Any], Any]] = {
    Value: _value,
    TaskSpec: _spec,
    RunTask: _run,
    Result: _result,
    ReadyObject: _ready,
    Send: lambda a: ("Send", a.to, essence(a.message)),
    Dispatch: lambda a: ("Dispatch", a.worker, [_run(run) for run in a.tasks], a.forget_through),
    msg.TaskSubmitted: lambda m: ("TaskSubmitted", _spec(m.spec)),
    msg.TaskFinished: lambda m: ("TaskFinished", m.task_id, m.attempt, [_result(r) for r in m.results], m.duration, m.retryable),
    msg.ObjectsReady: lambda m: ("ObjectsReady", [_ready(ready) for ready in m.objects]),
    msg.ObjectPut: lambda m: ("ObjectPut", m.object_id, _value(m.value), m.contained),
    # Of functions only the names: the length of pickled code hangs on paths and versions.
    msg.FunctionExported: lambda m: ("FunctionExported", m.function_id, m.name),
    msg.FunctionDelivered: lambda m: ("FunctionDelivered", m.function_id, m.name),
    # Texts for people are made of what is in the log already.
    msg.TableGiven: lambda m: ("TableGiven", m.request),
    msg.ExplanationGiven: lambda m: ("ExplanationGiven", m.request),
    msg.WarningRaised: lambda m: ("WarningRaised",),
}
