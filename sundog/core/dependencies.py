"""Which tasks wait for which objects: the index that a sealed object is looked up in."""

from __future__ import annotations

from typing import Generic, TypeVar

from sundog.core.ids import ObjectID

Waiter = TypeVar("Waiter")


class Dependencies(Generic[Waiter]):
    """Waiters by object, each list in the order of its asking. Whoever waits knows itself how much is missing."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: dict[ObjectID, list[Waiter]] = {}

    def add(self, object_id: ObjectID, waiter: Waiter) -> None:
        """``waiter`` wants to know when ``object_id`` is ready."""
        waiters = self._waiters.get(object_id)
        if waiters is None:
            self._waiters[object_id] = [waiter]
        else:
            waiters.append(waiter)

    def remove(self, object_id: ObjectID, waiter: Waiter) -> None:
        """``waiter`` no longer wants to know."""
        waiters = self._waiters.get(object_id)
        if waiters is None:
            return
        waiters[:] = [other for other in waiters if other is not waiter]
        if not waiters:
            del self._waiters[object_id]

    def ready(self, object_id: ObjectID) -> list[Waiter]:
        """Remove and return all that wait for ``object_id``."""
        return self._waiters.pop(object_id, [])

    def waiting_for(self, object_id: ObjectID) -> list[Waiter]:
        """Return all that wait for ``object_id``."""
        return self._waiters.get(object_id, [])

    def __len__(self) -> int:
        return len(self._waiters)
