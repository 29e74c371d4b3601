"""Which tasks wait for which objects: the index that a sealed object is looked up in."""

from __future__ import annotations

from collections.abc import Collection
from typing import Generic, Protocol, TypeVar

from sundog.core.ids import ObjectID


class Ordered(Protocol):
    """What has a number of its own."""

    @property
    def order(self) -> int:
        """No other waiter's."""


Waiter = TypeVar("Waiter", bound=Ordered)


class Dependencies(Generic[Waiter]):
    """Waiters by object, each once, in the order of their asking. Whoever waits knows itself how much is missing."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        #: Object -> waiters by their number, so that one of many can go without a look at the rest.
        self._waiters: dict[ObjectID, dict[int, Waiter]] = {}

    def add(self, object_id: ObjectID, waiter: Waiter) -> None:
        """``waiter`` wants to know when ``object_id`` is ready."""
        waiters = self._waiters.get(object_id)
        if waiters is None:
            self._waiters[object_id] = {waiter.order: waiter}
        else:
            waiters[waiter.order] = waiter

    def remove(self, object_id: ObjectID, waiter: Waiter) -> None:
        """``waiter`` no longer wants to know."""
        waiters = self._waiters.get(object_id)
        if waiters is None:
            return
        waiters.pop(waiter.order, None)
        if not waiters:
            del self._waiters[object_id]

    def ready(self, object_id: ObjectID) -> Collection[Waiter]:
        """Remove and return all that wait for ``object_id``."""
        waiters = self._waiters.pop(object_id, None)
        return () if waiters is None else waiters.values()

    def waiting_for(self, object_id: ObjectID) -> list[Waiter]:
        """Return all that wait for ``object_id``."""
        waiters = self._waiters.get(object_id)
        return [] if waiters is None else list(waiters.values())

    def __len__(self) -> int:
        return len(self._waiters)
