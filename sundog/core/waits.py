"""Which waits of a client's threads hang on the news that an object is ready. A part of the client.

A wait over many objects is mostly over when few of them are ready, so an index of all of them would cost more than it saves. The
first few waits are therefore looked through, one by one, for each object; only those that begin while so many wait are indexed.
"""

from __future__ import annotations

from sundog.core.errors import InvariantViolation
from sundog.core.ids import ObjectID
from sundog.core.request import Request

#: So many waits are looked through.
LOOKED_THROUGH_MAX = 8


class Waits:
    """See the module."""

    __slots__ = ("_by_object", "_few", "_others")

    def __init__(self) -> None:
        self._few: dict[int, Request] = {}
        self._others: dict[int, Request] = {}
        #: Every object that one of ``_others`` misses -> their numbers, in the order of their beginning.
        self._by_object: dict[ObjectID, dict[int, None]] = {}

    def add(self, number: int, request: Request) -> None:
        """The request begins to wait."""
        if len(self._few) < LOOKED_THROUGH_MAX:
            self._few[number] = request
            return
        self._others[number] = request
        by_object = self._by_object
        for object_id in request.missing:
            numbers = by_object.get(object_id)
            if numbers is None:
                by_object[object_id] = {number: None}
            else:
                numbers[number] = None

    def remove(self, number: int) -> None:
        """The request waits no longer, if it did."""
        if self._few.pop(number, None) is not None or not self._others:
            return
        request = self._others.pop(number, None)
        if request is None:
            return
        by_object = self._by_object
        for object_id in request.missing:
            numbers = by_object[object_id]
            del numbers[number]
            if not numbers:
                del by_object[object_id]

    def take(self, object_id: ObjectID) -> list[int]:
        """Return the requests that miss ``object_id``, each of which is about to miss it no more."""
        found = [number for number, request in self._few.items() if object_id in request.missing]
        if self._others:
            found += self._by_object.pop(object_id, ())
        return found

    def check_invariants(self) -> None:
        """Raise InvariantViolation unless what is indexed is what is missed."""
        missed: dict[ObjectID, dict[int, None]] = {}
        for number, request in self._others.items():
            for object_id in request.missing:
                missed.setdefault(object_id, {})[number] = None
        if missed != self._by_object:
            raise InvariantViolation("the index of waits is not what they miss")
