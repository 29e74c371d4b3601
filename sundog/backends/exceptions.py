"""What sundog raises. Everything is a :class:`SundogError`, pickles, and says what was wrong, where, and what to do.

An error that a *task* met is a :class:`TaskError`, and at the same time of the type that the task raised: ``except ValueError``
and ``except sundog.TaskError`` both catch it. Such classes are made on demand by :func:`task_error_type`.
"""

from __future__ import annotations

from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

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


class TaskError(SundogError):
    """A task failed.

    ``function_name``: the task's function; ``cause``: the exception that it raised, or None if that could not be brought here;
    ``remote_traceback``: its traceback as text; ``trail``: the tasks, outermost first, that did not run because this error was
    one of their arguments; ``pid``: the worker, 0 if unknown.
    """

    def __init__(
        self,
        message: str = "",
        *,
        function_name: str = "",
        cause: BaseException | None = None,
        remote_traceback: str = "",
        trail: tuple[str, ...] = (),
        pid: int = 0,
    ) -> None:
        self.args = (message,)
        self._describe(message, function_name, cause, remote_traceback, trail, pid)

    def _describe(
        self,
        message: str,
        function_name: str,
        cause: BaseException | None,
        remote_traceback: str,
        trail: tuple[str, ...],
        pid: int,
    ) -> None:
        self.message = message
        self.function_name = function_name
        self.cause = cause
        self.remote_traceback = remote_traceback
        self.trail = trail
        self.pid = pid

    def __str__(self) -> str:
        text = self.message
        if self.trail:
            text += f"\n  path: {' -> '.join((*self.trail, self.function_name or '?'))} (each waited for the next one's value)"
        if self.remote_traceback:
            text += "\n" + self.remote_traceback.rstrip("\n")
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        described = (self.message, self.function_name, self.cause, self.remote_traceback, self.trail, self.pid)
        plain = next(kind for kind in type(self).__mro__ if "_made_for" not in vars(kind))
        made_for = getattr(type(self), "_made_for", None)
        return (_rebuild, (plain, made_for if self.cause is None else None, described))


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

_types: dict[type[BaseException], type[TaskError]] = {}


def failure_error(failure: Failure, trail: tuple[str, ...] = ()) -> SundogError:
    """Return the exception for what core found. With a ``trail``, tasks failed because of it, and it is a TaskError too."""
    kind = _BY_KIND.get(failure.kind, SundogError)
    if issubclass(kind, TaskError):
        return kind(failure.message, function_name=trail[-1] if trail else "", trail=trail[:-1])
    if not trail:
        return kind(failure.message)
    error = _blank(task_error_type(kind), kind, (failure.message,))
    error._describe(failure.message, trail[-1], None, "", trail[:-1], 0)
    return error


def task_error(
    message: str, function_name: str, cause: BaseException | None, remote_traceback: str, trail: tuple[str, ...], pid: int
) -> TaskError:
    """Return the TaskError for a task that raised ``cause``: also an instance of the cause's type wherever that is possible."""
    return _rebuild(TaskError, None, (message, function_name, cause, remote_traceback, trail, pid))


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


def _rebuild(plain: type[TaskError], made_for: type[BaseException] | None, described: tuple[Any, ...]) -> TaskError:
    cause = described[2]
    root = cause
    while isinstance(root, TaskError) and root.cause is not None:
        root = root.cause
    error: TaskError | None = None
    if plain is not TaskError:
        error = plain(described[0])
    elif root is not None:
        kind = _natural_type(root)
        error = _blank(task_error_type(kind), kind, root.args, root)
    elif made_for is not None:
        error = _blank(task_error_type(made_for), made_for, (described[0],))
    if error is None:
        error = TaskError(described[0])
    error._describe(*described)
    if cause is not None:
        error.__cause__ = cause
    return error


def _natural_type(error: BaseException) -> type[BaseException]:
    """Return the error's type; for a class made by :func:`task_error_type`, the one that it was made for."""
    kind: type[BaseException] = getattr(type(error), "_made_for", type(error))
    return kind


def _blank(
    kind: type[TaskError], natural: type[BaseException], args: tuple[Any, ...], like: BaseException | None = None
) -> TaskError:
    """Return an instance of ``kind`` with the arguments and attributes of ``like``, without running anybody's ``__init__``.

    A user's ``__init__`` may want other arguments than ``args`` holds, so only that of the built-in base runs.
    """
    builtin = next(base for base in natural.__mro__ if not base.__flags__ & (1 << 9))  # not a heap type: written in C
    try:
        error = builtin.__new__(kind, *args)
        assert isinstance(error, TaskError)
        builtin.__init__(error, *args)  # type: ignore[misc]  # the class's own, and on purpose
    except Exception:
        error = TaskError.__new__(kind if builtin is Exception else TaskError)
    error.args = args
    if like is not None:
        for name, descriptor in vars(builtin).items():
            if not name.startswith("_") and isinstance(descriptor, (MemberDescriptorType, GetSetDescriptorType)) and name != "args":
                try:
                    setattr(error, name, getattr(like, name))
                except (AttributeError, TypeError):
                    pass
        own = getattr(like, "__dict__", None)
        if own:
            error.__dict__.update(own)
    return error
