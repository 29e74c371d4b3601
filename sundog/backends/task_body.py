"""Running a task's body: what a worker's loop calls between claiming a task and reporting it.

The loop brings ``run`` (a RunTask) and the values of its dependencies (``Executor.values``), and sends what
:class:`TaskBody` returns as TaskFinished. Births and deaths of references go into the port's facts as they happen, so the loop
appends TaskFinished to the same deque, after the call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from sundog.backends.arguments import NO_ARGUMENTS, unpack_arguments
from sundog.backends.exceptions import FunctionMissingError, SerializationError, TaskError, remote_traceback, root_cause
from sundog.backends.pickling import ATOMS, PROTOCOL
from sundog.backends.serialization import ERROR, PICKLE, ErrorReport, dumps, loads, pack, unpack
from sundog.core.ids import ObjectID
from sundog.core.messages import FunctionDelivered, Result, RunTask
from sundog.core.task import Failure, FailureKind, TaskSpec, Value, arguments_id
from sundog.core.units import Nanos

if TYPE_CHECKING:
    from traceback import TracebackException

    from sundog.backends.grants import Grant
    from sundog.backends.session import Session

#: Longer remote tracebacks lose their middle, in characters; and so do longer last lines of them where others repeat these.
_TRACEBACK_MAX = 20_000
_SUMMARY_MAX = 500
#: Errors travel inline, since tasks that fail by one return the same value. Of larger ones only text.
ERROR_BYTES_MAX = 1 << 20


#: Where the code lies that is not the user's: this package, and what of Python is not written in files.
_NOT_OURS = (os.path.dirname(os.path.dirname(__file__)) + os.sep, "<frozen ")
#: What a traceback says between an exception and the one that it led to.
_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"

_NONE_DATA = dumps(None, PROTOCOL)
#: What most tasks return that return nothing.
_NONE = (Result(Value(len(_NONE_DATA), PICKLE, _NONE_DATA)),)


class Outcome(msgspec.Struct, frozen=True):
    """How a body ended: its ``results`` for TaskFinished; if it ``failed``, that is one error."""

    results: tuple[Result, ...]
    failed: bool = False
    #: The exception is of a type after which the task wants to run again.
    retryable: bool = False
    #: What must live until TaskFinished is written: the value, whose IDs would else be released before their container holds them.
    kept: Any = None
    #: How long loading the function took, which is no part of the body's duration.
    loading: Nanos = 0


class TaskBody:
    """Runs the tasks of one worker; what its loop calls. ``session`` is the worker's, and the current one.

    ``on_call``, if given, is told of each task and its arguments right before its body is called.
    """

    def __init__(
        self, session: Session, on_call: Callable[[TaskSpec, tuple[Any, ...], dict[str, Any]], None] | None = None
    ) -> None:
        self._session = session
        self._loaded = session.functions.loaded
        self._on_call = on_call

    def __call__(self, run: RunTask, function: FunctionDelivered | None, values: Sequence[Value]) -> Outcome:
        """Load function and arguments, call, and pack what comes back. Lets no exception out.

        ``values`` are those of ``run.spec.dependencies``, ``function`` is None if it was never delivered. Grants of large
        values return with the last view of each.
        """
        session, spec = self._session, run.spec
        retry_exceptions: tuple[type[BaseException], ...] = ()
        loading = 0
        try:
            loaded = self._loaded.get(spec.function_id)
            if loaded is None:
                began = session.now()
                try:
                    loaded = session.functions.load(spec.function_id, function)
                except BaseException:
                    grants_of(session, run)  # nobody holds them: they return
                    raise
                loading = session.now() - began
            retry_exceptions = loaded.retry_exceptions
            args, kwargs = load_arguments(session, run, values)
            if self._on_call is not None:
                self._on_call(spec, args, kwargs)
            returned = loaded.call(*args, **kwargs)
            del args, kwargs
            if returned is None and spec.return_count == 1:
                return Outcome(_NONE) if not loading else Outcome(_NONE, loading=loading)
            return Outcome(pack_results(session, spec, returned), False, False, returned, loading)
        except BaseException as error:
            retryable = bool(retry_exceptions) and isinstance(error, retry_exceptions)
            return Outcome(pack_error(session, error, spec), True, retryable, loading=loading)


def load_arguments(session: Session, run: RunTask, values: Sequence[Value]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return ``(args, kwargs)`` of a task, with its dependencies' values in place.

    Raises SerializationError, naming the function, if they do not load, and the error that a dependency is.
    """
    spec = run.spec
    arguments = spec.arguments
    if not spec.dependencies and arguments.offset < 0:
        data = arguments.data
        return ((), {}) if data == NO_ARGUMENTS else _unpacked(spec, data, ())
    grants = grants_of(session, run)
    given: list[Any] = []
    for object_id, value, sent in zip(spec.dependencies, values, run.values, strict=True):
        if sent is None and value.offset >= 0:
            # Returned by a task before this one in the same pipeline: it came without a grant, so ask for one.
            given.append(session.get_one(session.reference(object_id)))
        else:
            given.append(session.read(object_id, value, grants.get(object_id)))
    return _unpacked(spec, session.data(arguments, grants.get(arguments_id(spec.task_id))), given)


def grants_of(session: Session, run: RunTask) -> dict[bytes, Grant]:
    """Return the grants that came with the arguments of a task. Those that are let go return."""
    spec = run.spec
    raws: list[bytes] = [
        raw for raw, sent in zip(spec.dependencies, run.values, strict=True) if sent is not None and sent.offset >= 0
    ]
    if spec.arguments.offset >= 0:
        raws.append(arguments_id(spec.task_id))
    return dict(zip(raws, session.port.grants.taken(raws), strict=True)) if raws else {}


def _unpacked(spec: TaskSpec, data: bytes | memoryview, given: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    try:
        if not given and spec.arguments.format == PICKLE:
            args, kwargs = loads(data)
            return args, kwargs
        return unpack_arguments(spec.arguments.format, data, given)
    except Exception as error:
        raise SerializationError(
            f"the arguments of {spec.name!r} do not load in the worker: {type(error).__name__}: {error}"
        ) from error


def pack_results(session: Session, spec: TaskSpec, returned: Any) -> tuple[Result, ...]:
    """Return the results for what a body returned, large ones written into extents.

    Raises TypeError or ValueError if it is not as many values as were declared, SerializationError naming the culprit, or
    ObjectStoreFullError; extents already written are given back then.
    """
    count = spec.return_count
    if count == 1:
        if type(returned) in ATOMS:
            data = dumps(returned, PROTOCOL)
            if len(data) <= session.port.config.inline_bytes_max:
                return (Result(Value(len(data), PICKLE, data)),)
        return (_result(session, f"{spec.name}: the return value", returned),)
    if not count:
        if returned is not None:
            raise ValueError(
                f"{spec.name} declares num_returns=0 but returned a {type(returned).__name__}: return None, or declare it"
            )
        return ()
    if not isinstance(returned, (tuple, list)):
        raise TypeError(
            f"{spec.name} declares num_returns={count} but returned one {type(returned).__name__}: return a tuple or list"
        )
    if len(returned) != count:
        raise ValueError(f"{spec.name} declares num_returns={count} but returned {len(returned)} values")
    results: list[Result] = []
    try:
        for index, value in enumerate(returned):
            results.append(_result(session, f"{spec.name}: return value {index}", value))
    except BaseException:
        for result in results:
            session.give_back(result.value)
        raise
    return tuple(results)


def _result(session: Session, label: str, value: Any) -> Result:
    packed = session.pack(label, value)
    return Result(session.store(packed), packed.contained)


def pack_error(session: Session, error: BaseException, spec: TaskSpec) -> tuple[Result, ...]:
    """Return the one result that stands for an exception: the exception itself, and its traceback as text.

    What does not pickle, or would not load again, goes as text only. Never raises.
    """
    failure = _as_failure(error)
    if failure is not None:
        return (Result(Value(size=0, error=True, failure=failure)),)
    try:
        summary, text = _traceback_text(error, spec.name)
    except Exception as trouble:  # an exception whose own __str__ raises, for one
        summary = type(error).__name__
        text = f"{summary} (its traceback cannot be shown: {type(trouble).__name__})\n"
    pid = getattr(session.port, "pid", 0) or os.getpid()
    pickled, contained = _pickled(session, error)
    node = getattr(session.port, "node_number", 0)
    report = ErrorReport(spec.name, summary, text, pid, pickled, node)
    data = msgspec.msgpack.encode(report)
    if len(data) > ERROR_BYTES_MAX:  # the text will have to do
        summary, text = _shortened(summary, _SUMMARY_MAX), _shortened(text, _TRACEBACK_MAX)
        data, contained = msgspec.msgpack.encode(ErrorReport(spec.name, summary, text, pid, node=node)), ()
    return (Result(Value(len(data), ERROR, data, error=True), contained),)


def _as_failure(error: BaseException) -> Failure | None:
    """Return what core calls it, where the trouble is the system's and not the body's."""
    if type(error) is FunctionMissingError:
        return Failure(FailureKind.FUNCTION_MISSING, str(error))
    return None


def _pickled(session: Session, error: BaseException) -> tuple[bytes | None, tuple[ObjectID, ...]]:
    try:
        packed = pack(session, error)
        # Joined in band: arrays inside exceptions are copied, since an exception outlives any view.
        data = packed.joined() if packed.format == PICKLE else dumps(unpack(packed.format, packed.joined()), PROTOCOL)
        again = loads(data)
        if type(again) is not type(error) and not isinstance(error, TaskError):
            return None, ()
    except Exception:
        return None, ()
    return data, packed.contained


def _traceback_text(error: BaseException, task: str) -> tuple[str, str]:
    """Return the last line, and the whole traceback without sundog's own frames at its top.

    Where it began with an error of another task, that one's text comes first, as it is, and then how it came to ``task``.
    """
    import traceback

    entry = error.__traceback__
    while entry is not None and entry.tb_frame.f_code.co_filename == __file__:
        entry = entry.tb_next
    shown = traceback.TracebackException(type(error), error, entry, compact=True)
    origin, link = _cut_what_is_told(shown, error)
    text = _came_from(origin, task) + link if origin is not None else ""
    if origin is not error:
        text += _shortened("".join(shown.format()), _TRACEBACK_MAX)
    if isinstance(error, TaskError):
        return _summary(root_cause(error)), text
    return "".join(traceback.format_exception_only(type(error), error)).strip(), text


def _summary(root: BaseException) -> str:
    """Return type and text of what failed a task before this one: shortened, since each task after it has them."""
    if isinstance(root, TaskError):
        return _shortened(f"{type(root).__name__}: {root._details.message or ', '.join(map(str, root.args))}", _SUMMARY_MAX)
    import traceback

    return _shortened("".join(traceback.format_exception_only(type(root), root)).strip(), _SUMMARY_MAX)


def _shortened(text: str, size: int) -> str:
    """Return ``text`` without its middle if it is longer than ``size`` characters."""
    if len(text) <= size:
        return text
    half = size // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


def _tells_all(error: TaskError) -> bool:
    """Tell whether the text of ``error`` tells all that is below it: nobody raised it from something else."""
    plain = error.__cause__ is error._details.cause and (error.__cause__ is not None or error.__context__ is None)
    return plain and bool(remote_traceback(error))


def _cut_what_is_told(shown: TracebackException, error: BaseException) -> tuple[TaskError | None, str]:
    """Take out of a traceback, before it is formatted, what texts of other tasks tell already.

    Return the error of another task that ``error`` began with, also taken out, and the words between the two.
    """
    origin: TaskError | None = None
    link = ""
    todo = [(shown, error, True)]
    while todo:
        shown, error, first = todo.pop()
        if isinstance(error, TaskError) and _tells_all(error):
            if first:  # only what is asked about may be that itself: else it was found from what it led to
                return error, ""
            shown.__cause__ = None
            continue
        cause, context = error.__cause__, error.__context__
        if shown.__cause__ is not None and cause is not None:
            if first and isinstance(cause, TaskError) and _tells_all(cause):
                shown.__cause__, origin, link = None, cause, _CAUSE
            else:
                todo.append((shown.__cause__, cause, first))
        elif shown.__context__ is not None and context is not None and not shown.__suppress_context__:
            if first and isinstance(context, TaskError) and _tells_all(context):
                shown.__context__, origin, link = None, context, _CONTEXT
            else:
                todo.append((shown.__context__, context, first))
        if shown.exceptions and isinstance(error, BaseExceptionGroup):
            todo += [(part, of, False) for part, of in zip(shown.exceptions, error.exceptions, strict=True)]
    return origin, link


def _came_from(error: TaskError, task: str) -> str:
    """Return the text of an error of another task and how it came to ``task``: which line of ours asked for its value."""
    details = error._details
    failed = f"task {details.function_name!r} ({ErrorReport('', '', '', details.pid, node=details.node).place()})"
    if details.trail:
        failed = f"{' -> '.join((*details.trail, details.function_name))} (each needed the value of the next)"
    below = remote_traceback(error)
    lines = [f"This failed {failed}, and so task {task!r}"]
    asked, entry = None, error.__traceback__
    while entry is not None:
        if not entry.tb_frame.f_code.co_filename.startswith(_NOT_OURS):
            asked = entry
        entry = entry.tb_next
    if asked is not None:
        import traceback

        frame = traceback.extract_tb(asked, 1)[0]
        lines[0] += ":"
        lines.append(f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}: {frame.line}')
    lines += [note for note in getattr(error, "__notes__", ()) if isinstance(note, str) and note not in below]
    return below + ("" if below.endswith("\n") else "\n") + "\n".join(lines) + "\n"
