"""What sundog raises. Everything is a :class:`SundogError`, pickles, and says what was wrong, where, and what to do.

An error that a *task* met is a :class:`TaskError`, and at the same time of the type that the task raised: ``except ValueError``
and ``except sundog.TaskError`` both catch it. Such classes are made on demand by :func:`task_error_type`.
"""

from __future__ import annotations

from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any, NamedTuple, cast

from sundog.core.task import Failure, FailureKind


class SundogError(Exception):
    """The base of everything that sundog raises on its own account."""


class NotInitializedError(SundogError, RuntimeError):
    """There is no session: none was started, it was shut down, or this is a forked child."""


class SessionClosedError(SundogError, RuntimeError):
    """The session ended while the call waited, or had ended before."""


class NodeDiedError(SessionClosedError):
    """The node process is gone, and with it all objects."""


class GetTimeoutError(SundogError, TimeoutError):
    """``get`` did not have all values within its timeout. The tasks go on; ``get`` may be called again."""


class SerializationError(SundogError, TypeError):
    """Something cannot be pickled, or what was pickled cannot be loaded. The message names the part that is to blame."""


class DeadlockError(SundogError):
    """Tasks wait for each other, or for resources that tasks waiting for them hold; the message is the chain."""


class ObjectLostError(SundogError):
    """No copy of the object is left and it cannot be made again."""


class ObjectStoreFullError(SundogError, MemoryError):
    """There was no room for a value; the message names who holds what."""


#: The same, by its other name.
ObjectStoreFull = ObjectStoreFullError


class Details(NamedTuple):
    """What is known of a task's failure."""

    message: str = ""
    function_name: str = ""
    cause: BaseException | None = None
    remote_traceback: str = ""
    trail: tuple[str, ...] = ()
    pid: int = 0
    node: int = 0
    #: ``remote_traceback`` goes on where that of the cause, a TaskError, ends. So a chain of tasks that waited for each other
    #: holds each line once, however long it is.
    continued: bool = False
    #: It is the cause of another whose text continues its own: it is shown below that one, and does not repeat it.
    told: bool = False


_UNKNOWN = Details()


class _Detail:
    """Reads one of the details; an attribute of the same name that the task's own exception has goes first."""

    __slots__ = ("_index",)

    def __init__(self, name: str) -> None:
        self._index = Details._fields.index(name)

    def __get__(self, error: BaseException | None, kind: type) -> Any:
        return self if error is None else error.__dict__.get("_details", _UNKNOWN)[self._index]


class _RemoteTraceback(_Detail):
    """Reads the whole text, from its beginning in the innermost task on."""

    def __get__(self, error: BaseException | None, kind: type) -> Any:
        return remote_traceback(error) if isinstance(error, TaskError) else self


class TaskError(SundogError):
    """A task failed. Besides the arguments and attributes of the exception that it raised, an instance has these."""

    #: The name of the task's function.
    function_name = cast(str, _Detail("function_name"))
    #: The exception that the task raised, or None if it could not be brought here.
    cause = cast("BaseException | None", _Detail("cause"))
    #: Its traceback, as text: that of the innermost task, and then a line or two for each task that waited for the one before.
    remote_traceback = cast(str, _RemoteTraceback("remote_traceback"))
    #: The tasks, outermost first, that did not run because this error was one of their arguments.
    trail = cast("tuple[str, ...]", _Detail("trail"))
    #: The worker's process, 0 if unknown.
    pid = cast(int, _Detail("pid"))
    #: The number of the node that it ran on.
    node = cast(int, _Detail("node"))

    _details: Details = _UNKNOWN

    def __init__(self, *args: object) -> None:
        self.args = args

    def __str__(self) -> str:
        details = self._details
        text = details.message or ", ".join(map(str, self.args))
        if details.trail:
            path = " -> ".join((*details.trail, details.function_name or "?"))
            text = f"{path} (each needed the value of the next)\n{text}"
        if not details.told and (remote := remote_traceback(self)):
            text += "\n" + remote.rstrip("\n")
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        plain = next(kind for kind in type(self).__mro__ if "_made_for" not in vars(kind))
        made_for = getattr(type(self), "_made_for", None)
        details = self._details if self._details.message else Details(message=str(self))
        return (_rebuild, (plain, made_for if details.cause is None else None, *details))


class TaskCrashedError(TaskError):
    """A task failed for a reason of the system's, not of its own code: the base of the kinds below."""


class WorkerCrashedError(TaskCrashedError):
    """The worker process died while it ran the task, on every attempt that the task is allowed."""


class InfeasibleError(TaskCrashedError):
    """The task asks for resources that no node has; the message names what is missing."""


class TaskCancelledError(TaskCrashedError):
    """The task was cancelled before it started."""


class FunctionMissingError(TaskCrashedError):
    """The task's function is not known to the worker, or cannot be loaded there."""


_BY_KIND: dict[FailureKind, type[SundogError]] = {
    FailureKind.WORKER_CRASHED: WorkerCrashedError,
    FailureKind.INFEASIBLE: InfeasibleError,
    FailureKind.DEADLOCK: DeadlockError,
    FailureKind.CANCELLED: TaskCancelledError,
    FailureKind.OBJECT_LOST: ObjectLostError,
    FailureKind.STORE_FULL: ObjectStoreFullError,
    FailureKind.TIMEOUT: GetTimeoutError,
    FailureKind.FUNCTION_MISSING: FunctionMissingError,
    FailureKind.SESSION_CLOSED: SessionClosedError,
}

#: Py_TPFLAGS_HEAPTYPE: the class was written in Python.
_HEAP_TYPE = 1 << 9
_types: dict[type[BaseException], type[TaskError]] = {}


def failure_error(failure: Failure, trail: tuple[str, ...] = ()) -> SundogError:
    """Return the exception for what core found. With a ``trail``, tasks failed because of it, and it is a TaskError too."""
    kind = _BY_KIND.get(failure.kind, SundogError)
    if not trail and not issubclass(kind, TaskError):
        return kind(failure.message)
    error = _blank(task_error_type(kind), kind, (failure.message,))
    error._details = Details(failure.message, trail[-1] if trail else "", trail=trail[:-1])
    return error


def task_error(details: Details) -> TaskError:
    """Return the TaskError of ``details``: also an instance of its cause's type wherever that is possible."""
    return _rebuild(TaskError, None, *details)


def remote_traceback(error: TaskError) -> str:
    """Return the whole remote traceback of ``error``, whatever attribute of that name its own exception may have."""
    parts: list[str] = []
    details = error._details
    while details.continued and isinstance(details.cause, TaskError):
        parts.append(details.remote_traceback)
        details = details.cause._details
    parts.append(details.remote_traceback)
    return "".join(reversed(parts))


def root_cause(error: BaseException) -> BaseException:
    """Return what the first of the tasks that failed one after the other raised, or the innermost TaskError that came as text."""
    while isinstance(error, TaskError) and error._details.cause is not None:
        error = error._details.cause
    return error


def task_error_type(kind: type[BaseException]) -> type[TaskError]:
    """Return the class that is both TaskError and ``kind``; TaskError itself if Python cannot make one.

    What ends programs rather than reports errors (SystemExit, KeyboardInterrupt) stays out: a driver that catches
    ``Exception`` is to survive a task that called ``sys.exit``.
    """
    if issubclass(kind, TaskError):
        return kind
    made = _types.get(kind)
    if made is None:
        made = TaskError
        if issubclass(kind, Exception) and kind is not Exception:
            try:
                made = type(f"TaskError({kind.__name__})", (TaskError, kind), {"_made_for": kind, "__module__": __name__})
            except TypeError:
                pass
        if len(_types) >= 1024:  # classes defined inside tasks: each is a new one
            _types.clear()
        _types[kind] = made
    return made


def _rebuild(plain: type[TaskError], made_for: type[BaseException] | None, *described: Any) -> TaskError:
    details = _continuing(Details(*described))
    root = root_cause(details.cause) if details.cause is not None else None
    if plain is not TaskError:
        error = plain(details.message)
    elif root is not None:
        kind = getattr(type(root), "_made_for", type(root))
        error = _blank(task_error_type(kind), kind, root.args, root)
    elif made_for is not None:
        error = _blank(task_error_type(made_for), made_for, (details.message,))
    else:
        error = TaskError(details.message)
    error._details = details
    if details.cause is not None:
        error.__cause__ = details.cause
    return error


def _continuing(details: Details) -> Details:
    """Return ``details`` without what the cause tells too."""
    cause = details.cause
    if not isinstance(cause, TaskError):
        return details
    if not details.continued:
        below = remote_traceback(cause)
        if not below or not details.remote_traceback.startswith(below):
            return details
        details = details._replace(remote_traceback=details.remote_traceback[len(below) :], continued=True)
    cause._details = cause._details._replace(told=True)
    return details


def _blank(
    kind: type[TaskError], natural: type[BaseException], args: tuple[Any, ...], like: BaseException | None = None
) -> TaskError:
    """Return an instance of ``kind`` with the arguments and attributes of ``like``, without running anybody's ``__init__``.

    A user's ``__init__`` may want other arguments than ``args`` holds, so only that of the built-in base runs.
    """
    written_in_c = [base for base in natural.__mro__ if not base.__flags__ & _HEAP_TYPE and base is not object]
    try:
        error = kind(*args)
        written_in_c[0].__init__(error, *args)  # type: ignore[misc]  # the class's own, and on purpose
    except Exception:
        error = TaskError(*args)
    error.args = args
    if like is not None:
        for base in written_in_c[:-1]:
            for name, descriptor in vars(base).items():
                if not name.startswith("_") and isinstance(descriptor, (MemberDescriptorType, GetSetDescriptorType)):
                    try:
                        setattr(error, name, getattr(like, name))
                    except (AttributeError, TypeError):
                        pass  # read-only, or not set
        own = getattr(like, "__dict__", None)
        if own:
            error.__dict__.update(own)
    return error


def load_error(raw: bytes, error: Exception) -> SerializationError:
    """Return the error for the value of the object ``raw``, whose reading raised ``error``."""
    return SerializationError(f"the value of ObjectID({raw.hex()}) does not load here: {type(error).__name__}: {error}")
