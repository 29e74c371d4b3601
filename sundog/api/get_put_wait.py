"""``put``, ``get`` and ``wait``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

from sundog.api import lifecycle
from sundog.backends import current
from sundog.backends.object_ref import ObjectID

if TYPE_CHECKING:
    from sundog.backends.session import Session

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
K = TypeVar("K")
T = TypeVar("T")


def put(value: T) -> ObjectID[T]:
    """Store ``value`` and return its ID. Large arrays and bytes are written once into shared memory, and read from there.

    Raises TypeError for an ObjectID; SerializationError, naming the part, for what does not pickle; ObjectStoreFullError.
    """
    if isinstance(value, ObjectID):
        raise TypeError(f"put takes a value, and {value!r} is the ID of one already; to store the ID itself, put a list with it")
    return (current.session or lifecycle.session()).put(value)


@overload
def get(ids: ObjectID[T], *, timeout: float | None = ...) -> T: ...
@overload
def get(ids: list[ObjectID[T]], *, timeout: float | None = ...) -> list[T]: ...
@overload
def get(ids: tuple[ObjectID[A], ObjectID[B]], *, timeout: float | None = ...) -> tuple[A, B]: ...
@overload
def get(ids: tuple[ObjectID[A], ObjectID[B], ObjectID[C]], *, timeout: float | None = ...) -> tuple[A, B, C]: ...
@overload
def get(ids: tuple[ObjectID[T], ...], *, timeout: float | None = ...) -> tuple[T, ...]: ...
@overload
def get(ids: dict[K, ObjectID[T]], *, timeout: float | None = ...) -> dict[K, T]: ...
def get(ids: Any, *, timeout: float | None = None) -> Any:
    """Return the value of an ID; or of each in a list, tuple or dict, in the same form. Waits until all are there.

    ``timeout``: seconds to wait at most. Arrays and the like are read-only views of shared memory. Raises what the task
    raised (which is a TaskError too); GetTimeoutError; TypeError, naming the place, for what is no ObjectID.
    """
    session = current.session or lifecycle.session()
    if timeout is not None:
        timeout = _seconds(timeout, "get")
    if type(ids) is session.id_class:
        return session.get_one(ids, timeout)
    if isinstance(ids, (list, tuple)):
        if [*map(type, ids)].count(session.id_class) != len(ids):
            for place, object_id in enumerate(ids):
                if type(object_id) is not session.id_class:
                    _refuse(session, object_id, f"get: element {place} is")
        values = session.get_many(ids, timeout)
        if isinstance(ids, list):
            return values
        return tuple(values) if not hasattr(ids, "_fields") else type(ids)(*values)
    if isinstance(ids, dict):
        for key, object_id in ids.items():
            if type(object_id) is not session.id_class:
                _refuse(session, object_id, f"get: the value of {key!r} is")
        return dict(zip(ids, session.get_many(list(ids.values()), timeout), strict=True))
    return _refuse(session, ids, "get was given")


def wait(
    ids: Sequence[ObjectID[T]], num_returns: int = 1, timeout: float | None = None
) -> tuple[list[ObjectID[T]], list[ObjectID[T]]]:
    """Wait until ``num_returns`` of the (distinct) ``ids`` are ready, or for ``timeout`` seconds; 0 looks without waiting.

    Returns (ready, the rest), both in the order given; ready are at most ``num_returns``. An ID whose task failed is ready.
    Raises TypeError or ValueError for what is no list of distinct IDs, and for a ``num_returns`` that they cannot fulfil.
    """
    session = current.session or lifecycle.session()
    given: Any = ids
    if isinstance(given, ObjectID):
        raise TypeError(f"wait takes a list of ObjectIDs: wait([{ids!r}])")
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"wait takes a list of ObjectIDs, not a {type(ids).__name__}")
    if [*map(type, ids)].count(session.id_class) != len(ids):
        for place, object_id in enumerate(ids):
            if type(object_id) is not session.id_class:
                _refuse(session, object_id, f"wait: element {place} is")
    if len({*ids}) != len(ids):
        seen: set[Any] = set()
        for place, object_id in enumerate(ids):
            if object_id in seen:
                raise ValueError(f"wait: element {place}, {object_id!r}, stands in the list twice")
            seen.add(object_id)
    if isinstance(num_returns, bool) or not isinstance(num_returns, int):
        raise TypeError(f"wait: num_returns takes a whole number, not {num_returns!r}")
    if not ids and num_returns == 1:
        num_returns = 0
    if not 0 <= num_returns <= len(ids):
        raise ValueError(f"wait: num_returns={num_returns}, and there are {len(ids)} IDs")
    if timeout is not None:
        timeout = _seconds(timeout, "wait")
    return session.wait(ids, num_returns, timeout)


def _seconds(timeout: Any, what: str) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"{what}: timeout takes seconds, not {timeout!r}")
    if not timeout >= 0:
        raise ValueError(f"{what}: timeout={timeout!r}: give 0 seconds or more, or None to wait for ever")
    return timeout


def _refuse(session: Session, thing: Any, where: str) -> NoReturn:
    if isinstance(thing, ObjectID):
        raise ValueError(f"{where} {thing!r}, which belongs to a session that has ended: objects do not outlive their session")
    text = repr(thing)
    if len(text) > 80:
        text = text[:77] + "..."
    raise TypeError(f"{where} {text}, a {type(thing).__name__}, which is not an ObjectID: give what .remote() or put returned")
