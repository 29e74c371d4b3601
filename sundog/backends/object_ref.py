"""``ObjectID``: the user's handle to an object, counted from its birth to its death.

It is a ``bytes``, so that hashing and comparing run in C. Its class is made anew for each session (:func:`bind`), with the
session's deque inside: an instance needs no attribute to know where its death is to be told, and one that outlives its session
tells nobody who lives.

Death is told without a line of Python (see ``told_death``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, SupportsIndex, TypeVar

from sundog.backends import current
from sundog.backends.exceptions import NotInitializedError
from sundog.backends.told_death import told_death
from sundog.core.events import ReferenceDropped
from sundog.core.ids import OBJECT_ID_BYTES
from sundog.core.machine import Fact

if TYPE_CHECKING:
    from concurrent.futures import Future

    from sundog.backends.session import Session

T = TypeVar("T", covariant=True)


class ObjectID(bytes, Generic[T]):
    """A handle to an object that exists, or that a task will make. Immutable, hashable, comparable; pickles inside values.

    ``ObjectID(raw)`` makes a further handle from the 20 bytes of one that lives in the current session.
    """

    __slots__ = ()
    #: The session that counts it; set by :func:`bind`.
    session: Session

    def __new__(cls, raw: bytes) -> ObjectID[Any]:
        if current.session is None:
            raise NotInitializedError(current.absent or "an ObjectID means something only in a session: call sundog.init() first")
        if len(raw) != OBJECT_ID_BYTES:
            raise ValueError(f"an ObjectID has {OBJECT_ID_BYTES} bytes, not {len(raw)}")
        return current.session.reference(bytes(raw))

    def __repr__(self) -> str:
        return f"ObjectID({self.hex()})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def binary(self) -> bytes:
        """Return the 20 bytes."""
        return self[:]

    def future(self) -> Future[T]:
        """Return a ``concurrent.futures.Future`` of the value (or error). Its callbacks run on sundog's thread: keep them short."""
        self._check_session()
        return self.session.future(self)

    def __await__(self) -> Generator[Any, None, T]:
        self._check_session()
        return self.session.async_future(self).__await__()

    def _check_session(self) -> None:
        if current.session is None:
            raise NotInitializedError(current.absent or "the session of this ObjectID has ended")

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(
            f"{self!r} is one ObjectID and cannot be unpacked: a task with several returns declares them with "
            "@sundog.remote(num_returns=n), and a list has to be fetched with sundog.get first"
        )

    def __copy__(self) -> ObjectID[T]:
        return self

    def __deepcopy__(self, memo: object) -> ObjectID[T]:
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        """Pickled by somebody else than sundog: where it goes cannot be counted, so it is held until the session ends."""
        self.session.escaped(self)
        return (reference, (self[:],))


ObjectRef = ObjectID


def reference(raw: bytes) -> ObjectID[Any]:
    """Return a new reference in the current session: how a pickled ObjectID comes back."""
    session = current.session
    if session is None:
        raise NotInitializedError(current.absent or "an ObjectID can be unpickled only in a session: call sundog.init() first")
    return session.reference(raw)


def bind(session: Session, facts: deque[bytes | Fact]) -> type[ObjectID[Any]]:
    """Return the class of ``session``'s references: their deaths go into ``facts``.

    Instances are made by ``bytes.__new__(cls, raw)``, and whoever makes one has put the fact of its birth into ``facts``
    before, with nothing between the two at which Python looks for signals (no call, no loop).
    """

    told = told_death(facts, ReferenceDropped)
    return type("ObjectID", (ObjectID,), told | {"__module__": "sundog", "__new__": _not_by_hand, "session": session})


def _not_by_hand(cls: type, raw: bytes) -> NoReturn:
    raise TypeError("make an ObjectID by sundog.ObjectID(raw)")


def split(object_ids: Sequence[ObjectID[Any]], found: Sequence[bytes]) -> tuple[list[ObjectID[Any]], list[ObjectID[Any]]]:
    """Return those of ``object_ids`` that are ``found``, which stand in the same order there, and the rest."""
    if len(found) * 8 > len(object_ids):
        among = {*found}
        return [o for o in object_ids if o in among], [o for o in object_ids if o not in among]
    ready: list[ObjectID[Any]] = []
    rest = list(object_ids)
    at = 0
    for raw in found:
        at = rest.index(raw, at)  # type: ignore[arg-type]  # equal as bytes
        ready.append(rest.pop(at))
    return ready, rest
