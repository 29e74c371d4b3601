"""What a driver or a worker does with objects and tasks: one implementation, for every backend.

A session names, serializes, writes facts and reads answers; the :class:`~sundog.backends.base.Port` beneath it runs the client
machine. Threads share a session without locks: they append to one deque, and wait for their own answers.

Interrupts: Python looks for signals after calls, at backward jumps and when functions begin. ``facts += (fact,)`` is none of
these, so after a birth has been written that way, the reference is made before Ctrl-C can strike (see ``object_ref``).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice, repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import msgspec

from sundog.backends import culprit
from sundog.backends.arguments import NO_ARGUMENTS, pack_arguments, pack_simple
from sundog.backends.base import Port
from sundog.backends.exceptions import (
    Details,
    ObjectStoreFullError,
    SerializationError,
    SundogError,
    failure_error,
    load_error,
    task_error,
)
from sundog.backends.functions import CallOptions, Definition, Functions
from sundog.backends.grants import Answer, Grant, Granted
from sundog.backends.object_ref import ObjectID, bind, split
from sundog.backends.pickling import ATOMS, PROTOCOL
from sundog.backends.serialization import ARRAY, BUFFERS, ERROR, PICKLE, Packed, dumps, inline, loads, pack, read_report, unpack
from sundog.core import ids
from sundog.core.actions import RejectRequest, ResolveGet, ResolveQuestion, ResolveWait
from sundog.core.events import Asked, GetRequested, RequestAbandoned, WaitRequested
from sundog.core.messages import (
    CancelAnswered,
    CancelRequested,
    ExplanationGiven,
    ExplanationRequested,
    ExtentGranted,
    ExtentReturned,
    ExtentWanted,
    IDsEscaped,
    ObjectPut,
    TableGiven,
    TableRequested,
    TaskSubmitted,
)
from sundog.core.task import TaskSpec, Value
from sundog.core.units import SECOND, Nanos

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future

_FIRST_RETURN = ids.FIRST_RETURN
_NO_ARGUMENTS = Value(len(NO_ARGUMENTS), PICKLE, NO_ARGUMENTS)
#: Extents of which this process keeps a view, and with it a grant, until their last reference dies: the latest so many.
_KEPT_MAX = 16
#: A put of more than this is told at once, lest the facts hold too much memory.
_KICK_BYTES = 16 << 10
_new_id: Callable[[type[ObjectID[Any]], bytes], ObjectID[Any]] = bytes.__new__
#: The whole slice: of a bytes subclass, that is a plain copy. In C.
_bytes_of: Callable[[ObjectID[Any]], ids.ObjectID] = itemgetter(slice(None))
#: Timeouts beyond this, in seconds, mean for ever.
_TIMEOUT_MAX = 1e9


class Session:
    """See the module. ``worker`` tells whether this process runs tasks rather than the user's program."""

    def __init__(self, port: Port, *, worker: bool = False) -> None:
        self.port = port
        self.worker = worker
        #: The class of this session's references.
        self.id_class = bind(self, port.facts)
        self.functions = Functions(self)
        self._facts = port.facts
        self._inline_bytes_max = port.config.inline_bytes_max
        #: The clock that deadlines are read from.
        self.now: Callable[[], Nanos] = getattr(port, "now", time.monotonic_ns)
        self._warned: set[str] = set()
        #: What is known to be ready, and small values: what needs no question is answered by the thread that calls.
        self._known: dict[Any, Value | None] = port.known.values
        #: ID -> Value and view of an extent that was got: getting it again needs no further grant.
        self._kept: dict[Any, Any] = port.known.kept
        self.scope: object = getattr(port, "scope", self)  #: all sessions of a scope export a function once: they share it

    # -- references ------------------------------

    def reference(self, raw: bytes) -> ObjectID[Any]:
        """Return a new, counted reference to the object named by the 20 bytes ``raw`` (exactly ``bytes``)."""
        new, made_of, facts = _new_id, self.id_class, self._facts
        facts += (raw,)
        return new(made_of, raw)

    def escaped(self, object_id: ObjectID[Any]) -> None:
        """``object_id`` was pickled by somebody else: hold it to the end, and say so once."""
        self._facts.append(IDsEscaped((ids.ObjectID(object_id[:]),)))
        self.warn(
            "an ObjectID was pickled outside sundog, where references to it cannot be counted: the object is kept until the "
            "session ends. Pass ObjectIDs as arguments, return values or inside sundog.put to have them counted"
        )

    def warn(self, text: str) -> None:
        """Say ``text`` to the user, once in this session."""
        if text not in self._warned and sys.stderr is not None:
            self._warned.add(text)
            sys.stderr.write(f"sundog: {text}\n")

    # -- tasks ------------------------------

    def submit(
        self, definition: Definition, options: CallOptions, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> ObjectID[Any] | list[ObjectID[Any]] | None:
        """Submit a task; return the ID of its return, a list of IDs for several, None for none.

        Raises TypeError if the function does not take these arguments, SerializationError if one of them does not pickle,
        ObjectStoreFullError if there is no room for them.
        """
        arity = definition.arity
        if kwargs or not arity.least <= len(args) <= arity.most:
            problem = arity.problem(args, kwargs)
            if problem is not None:
                raise TypeError(f"{options.name}.remote() {problem}")
        export = definition.export
        if export is not None and export.scope is self.scope and ((known := export.fingerprint) is None or known.holds()):
            function_id = export.function_id
        else:
            function_id = self.functions.exported(definition)
        if not kwargs:
            if not args:
                return self._submit(function_id, options, _NO_ARGUMENTS, (), ())
            dependencies: tuple[ids.ObjectID, ...] = ()
            made_of, any_id = self.id_class, False
            for argument in args:
                kind = type(argument)
                if kind is made_of:
                    any_id = True
                elif kind not in ATOMS:
                    break
            else:
                if any_id:
                    data, dependencies = pack_simple(made_of, args)
                else:
                    data = dumps((args, kwargs), PROTOCOL)
                size = len(data)
                if size <= self._inline_bytes_max:
                    return self._submit(function_id, options, Value(size, PICKLE, data), dependencies, ())
        packed, dependencies = pack_arguments(self, definition, options.name, args, kwargs)
        return self._submit(function_id, options, None, dependencies, packed.contained, packed)

    def _submit(
        self,
        function_id: ids.FunctionID,
        options: CallOptions,
        arguments: Value | None,
        dependencies: tuple[ids.ObjectID, ...],
        contained: tuple[ids.ObjectID, ...],
        packed: Packed | None = None,
    ) -> ObjectID[Any] | list[ObjectID[Any]] | None:
        """Tell of a task and make its references. Either ``arguments`` are ready, or ``packed`` is to be stored."""
        port = self.port
        try:
            if packed is not None:
                arguments = self.store(packed)
            assert arguments is not None
            task_id = port.lane().next_task()
            if options.duration_model is not None and (declare := getattr(port, "declare_duration", None)) is not None:
                declare(task_id, options.duration_model)  # real bodies take what they take
            count = options.return_count
            submitted = TaskSubmitted(
                TaskSpec(
                    task_id, function_id, options.name, arguments, dependencies, contained, count, options.resources,
                    options.retries_max, options.calls_max, options.priority, options.duration,
                )
            )  # fmt: skip
            references = map(_new_id, repeat(self.id_class), ids.return_ids(task_id, count)) if count != 1 else None
        except BaseException:
            if arguments is not None:
                self.give_back(arguments)
            raise
        facts, made_of, new = self._facts, self.id_class, _new_id
        if references is None:
            raw = task_id + _FIRST_RETURN
            facts += (submitted,)  # also tells that the returns' references are born
            reference = new(made_of, raw)
            port.submitted(arguments.size)
            return reference
        facts += (submitted,)
        made = list(references)
        port.submitted(arguments.size)
        return made if count else None

    def cancel(self, object_ids: Sequence[ObjectID[Any]]) -> list[bool]:
        """Cancel the tasks behind ``object_ids`` that have not started; tell for each whether its task was."""
        raws = raw_ids(object_ids)
        answer = self._question(CancelRequested(self.port.next_request(), raws))
        assert isinstance(answer, CancelAnswered)
        cancelled = dict.fromkeys(answer.object_ids)
        return [raw in cancelled for raw in raws]

    # -- objects ------------------------------

    def put(self, value: Any) -> ObjectID[Any]:
        """Store ``value``; return its ID. Raises SerializationError or ObjectStoreFullError."""
        if type(value) in ATOMS:
            data = dumps(value, PROTOCOL)
            packed = Packed(PICKLE, (data,), len(data))
        else:
            packed = self.pack("the value", value)
        return self._put(packed)

    def _put(self, packed: Packed) -> ObjectID[Any]:
        port = self.port
        stored = self.store(packed)
        try:
            raw = port.lane().next_put()
            put = ObjectPut(raw, stored, packed.contained)
        except BaseException:
            self.give_back(stored)
            raise
        facts, made_of, new = self._facts, self.id_class, _new_id
        facts += (put,)  # also tells that the reference is born
        reference = new(made_of, raw)
        if port.known.worth_remembering(stored):
            self._known[raw] = stored  # the machine will, too, and see to its end
        if packed.size > _KICK_BYTES:
            port.kick()
        else:
            port.submitted(0)
        return reference

    def pack(self, label: str, value: Any) -> Packed:
        """Serialize ``value``; an error names the culprit, ``label`` being what the whole is called."""
        try:
            return pack(self, value)
        except Exception as error:
            raise culprit.explain(label, value, error) from error

    def store(self, packed: Packed) -> Value:
        """Return ``packed`` as a Value: inline if small, else written into an extent of the arena, once.

        Until the fact that names the Value is written, it is the caller's to :meth:`give_back`.
        """
        size = packed.size
        if size <= self._inline_bytes_max:
            return inline(packed)
        granted = self._question(ExtentWanted(self.port.next_request(), size))
        assert isinstance(granted, ExtentGranted)
        offset = granted.offset
        try:
            self.port.arena.fill(offset, size, granted.warm, packed.placed(offset))
            return Value(size, packed.format, b"", offset)
        except OSError as error:
            self._facts.append(ExtentReturned(offset))
            raise ObjectStoreFullError(
                f"the machine has no memory left for {size} bytes of the object store ({error.strerror}): free some, or give the "
                "store less with sundog.init(object_store_memory=bytes)"
            ) from error
        except BaseException:
            self._facts.append(ExtentReturned(offset))
            raise

    def give_back(self, value: Value) -> None:
        """Return the extent of a Value that no fact will name."""
        if value.offset >= 0:
            self._facts.append(ExtentReturned(value.offset))

    # -- waiting ------------------------------

    def get_one(self, object_id: ObjectID[Any], timeout: float | None = None) -> Any:
        """Return the value of ``object_id``, waiting up to ``timeout`` seconds. Raises what the task raised; GetTimeoutError."""
        port = self.port
        raw: ids.ObjectID = object_id[:]  # type: ignore[assignment]  # a NewType's call is one of Python code
        value = self._known.get(raw)
        if value is None:
            if self._kept and (kept := self._kept.get(raw)) is not None:
                port.answered_here()
                return self._unpack(raw, *kept)
            deadline = None if timeout is None else self._deadline(timeout)
            answer = port.ask(GetRequested(port.next_request(), (raw,), deadline, port.current_task()))
            if type(answer) is ResolveGet:
                value = answer.values[0]
                if value.error:
                    raise self.error(raw, value)
            elif type(answer) is Granted:
                value, grant = answer.values[0], answer.grants[raw]
                if value.error:
                    raise self.error(raw, value, grant)
                self._keep(raw, value, view := self.data(value, grant))
                return self._unpack(raw, value, view)
            else:
                raise _rejection(answer)
        else:
            port.answered_here()
        return self._unpack(raw, value, value.data)

    def get_many(self, object_ids: Sequence[ObjectID[Any]], timeout: float | None = None) -> list[Any]:
        """Return the values of ``object_ids``, in order; an ID may stand there twice. See :meth:`get_one`."""
        if not object_ids:
            return []
        known = list(map(self._known.get, object_ids))
        raws = raw_ids(object_ids)
        if None not in known:
            self.port.answered_here()
            return self.read_many(raws, known)  # type: ignore[arg-type]  # just checked
        if len(known) <= _KEPT_MAX and all(value is not None or raw in self._kept for raw, value in zip(raws, known, strict=True)):
            return [self.get_one(object_id) for object_id in object_ids]
        answer = self._delivered(raws, timeout)
        return self.read_many(raws, answer.values, answer.grants if type(answer) is Granted else None)

    def wait(
        self, object_ids: Sequence[ObjectID[Any]], count: int, timeout: float | None = None
    ) -> tuple[list[ObjectID[Any]], list[ObjectID[Any]]]:
        """Wait until ``count`` of the distinct ``object_ids`` are ready, or for ``timeout`` seconds; return (ready, rest).

        Both are in the order given; at most ``count`` are ready.
        """
        if not count:
            return [], list(object_ids)
        port = self.port
        known = list(islice(filter(self._known.__contains__, object_ids), count))
        if len(known) == count:
            port.answered_here()
            return split(object_ids, known)
        deadline = None if timeout is None else self._deadline(timeout)
        answer = port.ask(WaitRequested(port.next_request(), raw_ids(object_ids), count, deadline, port.current_task()))
        if type(answer) is not ResolveWait:
            raise _rejection(answer)
        return split(object_ids, answer.ready)

    def _delivered(self, raws: tuple[ids.ObjectID, ...], timeout: float | None) -> ResolveGet | Granted:
        port = self.port
        deadline = None if timeout is None else self._deadline(timeout)
        answer = port.ask(GetRequested(port.next_request(), raws, deadline, port.current_task()))
        if type(answer) is ResolveGet or type(answer) is Granted:
            return answer
        raise _rejection(answer)

    def _deadline(self, timeout: float) -> Nanos | None:
        return None if timeout > _TIMEOUT_MAX else self.now() + int(timeout * SECOND)

    # -- reading ------------------------------

    def read(self, raw: bytes, value: Value, grant: Grant | None = None) -> Any:
        """Return what a delivered ``value`` holds, raise the error if it is one. ``grant``: if it lies in the arena, its own."""
        if value.error:
            raise self.error(raw, value, grant)
        return self._unpack(raw, value, value.data if value.offset < 0 else self.data(value, grant))

    def _unpack(self, raw: bytes, value: Value, data: bytes | memoryview) -> Any:
        try:
            return unpack(value.format, data)
        except SundogError:
            raise
        except Exception as error:
            raise load_error(raw, error) from error

    def data(self, value: Value, grant: Grant | None) -> bytes | memoryview:
        """Return the bytes of a delivered value; if it lies in the arena, its ``grant`` returns with the last view of it."""
        if value.offset < 0:
            return value.data
        return self.port.arena.read(value.offset, value.size, grant)

    def _keep(self, raw: bytes, value: Value, view: bytes | memoryview) -> None:
        """Keep a view of an extent, while the caller has a reference to it: with the last one the machine lets it go."""
        if value.format != ARRAY and value.format != BUFFERS:
            return  # it is copied, which takes as long as asking
        kept = self._kept
        kept[raw] = value, view
        while len(kept) > _KEPT_MAX:
            try:
                kept.pop(next(iter(kept)), None)
            except (StopIteration, RuntimeError):  # another thread is at it
                return

    def read_many(self, raws: Sequence[bytes], values: Sequence[Value], grants: dict[bytes, Grant] | None = None) -> list[Any]:
        """Return what delivered ``values`` hold; each extent comes with one of ``grants``, however often it is mentioned.

        If one is an error, the first is raised.
        """
        read: list[Any]
        if {(value.format, value.offset, value.error) for value in values} == {(PICKLE, -1, False)}:
            read = []
            try:
                for value in values:
                    read.append(loads(value.data))
            except Exception as error:
                raise load_error(raws[len(read)], error) from error
            return read
        grants = grants or {}
        for raw, value in zip(raws, values, strict=True):
            if value.error:
                raise self.error(raw, value, grants.get(raw))
        taken: dict[bytes, bytes | memoryview] = {}
        read = []
        for raw, value in zip(raws, values, strict=True):
            data = taken.get(raw)
            if data is None:
                data = taken[raw] = self.data(value, grants.get(raw))
                if value.offset >= 0:
                    self._keep(raw, value, data)
            read.append(self._unpack(raw, value, data))
        return read

    def error(self, raw: bytes, value: Value, grant: Grant | None = None) -> BaseException:
        """Return the exception that a failed object stands for. ``grant``: see :meth:`read`."""
        if value.failure is not None:
            return failure_error(value.failure, value.trail)
        data = self.data(value, grant)
        if value.format != ERROR:
            return SerializationError(f"object {raw.hex()} holds an error of unknown format {value.format}")
        report = read_report(data)
        cause: BaseException | None = None
        if report.exception is not None:
            try:
                cause = loads(report.exception)
            except Exception:
                cause = None
        message = f"task {report.function_name!r} failed ({report.place()}): {report.summary}"
        return task_error(Details(message, report.function_name, cause, report.traceback, value.trail, report.pid, report.node))

    # -- futures ------------------------------

    def future(self, object_id: ObjectID[Any]) -> Future[Any]:
        """Return a ``concurrent.futures.Future`` of the value of ``object_id``, which it keeps alive."""
        from sundog.backends.futures import future

        return future(self, object_id)

    def async_future(self, object_id: ObjectID[Any]) -> asyncio.Future[Any]:
        """Return an ``asyncio.Future`` of the value of ``object_id``, in the running event loop."""
        from sundog.backends.futures import async_future

        return async_future(self, object_id)

    def result(self, raw: bytes, answer: Answer) -> Any:
        """Return the value that ``answer``, to a get of one ID, brought; raise the error if it is one."""
        if type(answer) is ResolveGet:
            return self.read(raw, answer.values[0])
        if type(answer) is Granted:
            return self.read(raw, answer.values[0], answer.grants[raw])
        raise _rejection(answer)

    def abandon(self, request: int) -> None:
        """Nobody waits for ``request`` any more."""
        self._facts.append(RequestAbandoned(request))
        self.port.kick()

    # -- questions ------------------------------

    def table(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of one of the control tables, computed now."""
        answer = self._question(TableRequested(self.port.next_request(), name))
        assert isinstance(answer, TableGiven)
        rows: list[dict[str, Any]] = msgspec.msgpack.decode(answer.rows)
        return rows

    def explain(self, object_ids: Sequence[ObjectID[Any]]) -> str:
        """Return, for people, why ``object_ids`` are not ready."""
        answer = self._question(ExplanationRequested(self.port.next_request(), raw_ids(object_ids)))
        assert isinstance(answer, ExplanationGiven)
        return answer.text

    def _question(self, question: Any) -> Any:
        answer = self.port.ask(Asked(question.request, question))
        if type(answer) is ResolveQuestion:
            return answer.answer
        raise _rejection(answer)

    def close(self) -> None:
        """End the session; see ``Port.close``."""
        self.port.close()


def raw_ids(object_ids: Sequence[ObjectID[Any]]) -> tuple[ids.ObjectID, ...]:
    """Return the plain bytes of ``object_ids``: what facts hold, since a reference in a fact would count as one."""
    return tuple(map(_bytes_of, object_ids))


def _rejection(answer: Answer) -> BaseException:
    assert type(answer) is RejectRequest, answer
    return failure_error(answer.failure)
