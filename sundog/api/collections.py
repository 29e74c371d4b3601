"""Many tasks at once: ``map``, ``as_completed`` and ``cancel``."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar, overload

from sundog.api import get_put_wait, lifecycle
from sundog.api.remote import RemoteFunction, remote
from sundog.backends.exceptions import GetTimeoutError
from sundog.backends.functions import Definition
from sundog.backends.object_ref import ObjectID
from sundog.core.units import SECOND

T = TypeVar("T")
U = TypeVar("U")

#: Chunks for each worker where the caller names no size: enough that a slow one does not keep the rest waiting long.
_CHUNKS_EACH = 8
_CHUNK_MAX = 4096


class Chunk:
    """Calls a function for each item of a list: the body of the tasks of :func:`map`."""

    __slots__ = ("__wrapped__",)

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.__wrapped__ = function

    def __call__(self, items: Sequence[Any]) -> list[Any]:
        """Return the function's value for each of ``items``."""
        function = self.__wrapped__
        return [function(item) for item in items]


#: Definition of a function -> the remote function for chunks of it, so that it is exported once.
_chunked: weakref.WeakKeyDictionary[Definition, RemoteFunction[Any, Any]] = weakref.WeakKeyDictionary()


@overload
def map(function: RemoteFunction[..., T], iterable: Iterable[Any], *, chunk_size: int | None = ...) -> Iterator[T]: ...
@overload
def map(function: Callable[[U], T], iterable: Iterable[U], *, chunk_size: int | None = ...) -> Iterator[T]: ...
def map(function: Any, iterable: Iterable[Any], *, chunk_size: int | None = None) -> Iterator[Any]:
    """Call ``function`` for each item in tasks of ``chunk_size`` items; return an iterator over the values, in order.

    All tasks are submitted before this returns. ``function`` may be plain or remote (its options then hold for every
    chunk). Items that are ObjectIDs are passed as they are. An exception is raised where its chunk's values would come.
    """
    if chunk_size is not None and (type(chunk_size) is not int or chunk_size < 1):
        raise ValueError(f"map: chunk_size={chunk_size!r}: give a whole number from 1")
    made: RemoteFunction[..., Any] = function if isinstance(function, RemoteFunction) else remote(function)
    if made._options.return_count != 1:
        raise ValueError(f"map: {made!r} has num_returns={made._options.return_count}, and map takes one value of each call")
    session = lifecycle.session()
    if made._definition.function is None:  # known here by its ID only: it cannot be put into another function
        return _each([made.remote(item) for item in iterable])
    items = iterable if isinstance(iterable, (list, tuple, range)) else list(iterable)
    if chunk_size is None:
        share = -(-len(items) // (session.port.config.worker_count * _CHUNKS_EACH))
        chunk_size = min(max(1, share), _CHUNK_MAX)
    chunked = _chunked_of(made)
    return _flatten([chunked.remote(items[start : start + chunk_size]) for start in range(0, len(items), chunk_size)])


def _chunked_of(function: RemoteFunction[..., Any]) -> RemoteFunction[..., Any]:
    definition = function._definition
    found = _chunked.get(definition)
    if found is None or found._asked != function._asked:
        inner = Definition(Chunk(definition.function), f"map({definition.name})", definition.retry_exceptions)
        found = _chunked[definition] = RemoteFunction(inner, function._asked)
    return found


def _flatten(chunks: list[ObjectID[list[T]]]) -> Iterator[T]:
    chunks.reverse()
    while chunks:
        yield from get_put_wait.get(chunks.pop())


def _each(object_ids: list[ObjectID[T]]) -> Iterator[T]:
    object_ids.reverse()
    while object_ids:
        yield get_put_wait.get(object_ids.pop())


def as_completed(ids: Iterable[ObjectID[T]], *, timeout: float | None = None) -> Iterator[ObjectID[T]]:
    """Yield each of ``ids`` as soon as it is ready. ``timeout``: seconds for all of them; then GetTimeoutError is raised."""
    rest = list(dict.fromkeys(ids))
    now = lifecycle.session().now
    deadline = None if timeout is None else now() + timeout * SECOND
    while rest:
        left = None if deadline is None else max(0.0, (deadline - now()) / SECOND)
        ready, rest = get_put_wait.wait(rest, 1, left)
        if not ready:
            raise GetTimeoutError(f"as_completed: {len(rest)} objects were not ready within {timeout:g} s")
        yield ready.pop()
        if rest:
            ready, rest = get_put_wait.wait(rest, len(rest), 0)
            yield from ready


@overload
def cancel(ids: ObjectID[Any]) -> bool: ...
@overload
def cancel(ids: Sequence[ObjectID[Any]]) -> list[bool]: ...
def cancel(ids: ObjectID[Any] | Sequence[ObjectID[Any]]) -> bool | list[bool]:
    """Cancel the tasks that return ``ids``, if they have not started; ``get`` then raises TaskCancelledError.

    Returns, for one ID or for each of a list, whether its task was cancelled. Raises TypeError for what is no ObjectID.
    """
    session = lifecycle.session()
    if not isinstance(ids, (ObjectID, Iterable)):
        get_put_wait._refuse(session, ids, "cancel was given")
    several = [ids] if isinstance(ids, ObjectID) else list(ids)
    for place, object_id in enumerate(several):
        if type(object_id) is not session.id_class:
            get_put_wait._refuse(session, object_id, f"cancel: element {place} is")
    cancelled = session.cancel(several)
    return cancelled[0] if isinstance(ids, ObjectID) else cancelled
