"""How many Python references there are to each ID in one process, and what of that its node has to be told.

A part of the client: births and deaths come in as facts, many at a time, and the node hears of the first reference to an ID and of
the last only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter

from sundog.core.events import ReferenceDropped
from sundog.core.ids import ObjectID

_id_of = attrgetter("object_id")


class ReferenceCounts:
    """See the module."""

    __slots__ = ("counts", "taken", "unreferenced")

    def __init__(self) -> None:
        #: ID -> live Python references in this process.
        self.counts: dict[ObjectID, int] = {}
        #: IDs that the node has to be told of.
        self.taken: list[ObjectID] = []
        #: IDs whose last reference is gone, if no other was born since; perhaps one twice.
        self.unreferenced: list[ObjectID] = []

    def born(self, object_id: ObjectID) -> None:
        """A reference came into being, other than those that a task or a put begins with."""
        count = self.counts.get(object_id)
        if count is None:
            self.counts[object_id] = 1
            self.taken.append(object_id)
        else:
            self.counts[object_id] = count + 1

    def born_run(self, object_ids: Iterable[ObjectID]) -> None:
        """References came into being with the tasks that return ``object_ids``."""
        counts = self.counts
        if counts.keys().isdisjoint(object_ids):
            counts.update(dict.fromkeys(object_ids, 1))
            return
        for object_id in object_ids:
            counts[object_id] = counts.get(object_id, 0) + 1

    def dropped(self, fact: ReferenceDropped) -> None:
        """A reference is gone."""
        object_id = fact.object_id
        count = self.counts.get(object_id)
        if not count:
            return  # its birth was interrupted before the node was told
        self.counts[object_id] = count - 1
        if count == 1:
            self.unreferenced.append(object_id)

    def dropped_run(self, facts: Sequence[ReferenceDropped]) -> None:
        """As :meth:`dropped` for each of ``facts``."""
        object_ids = list(map(_id_of, facts))
        if {*map(self.counts.get, object_ids)} == {1}:  # each was the last one
            self.counts.update(dict.fromkeys(object_ids, 0))
            self.unreferenced += object_ids
            return
        for fact in facts:
            self.dropped(fact)

    def take_taken(self) -> tuple[ObjectID, ...]:
        """Return, once, the IDs whose first reference came into being."""
        taken, self.taken = self.taken, []
        return tuple(taken)

    def take_released(self) -> list[ObjectID]:
        """Forget and return the IDs that have no reference any more."""
        counts, released = self.counts, []
        for object_id in self.unreferenced:
            if counts.get(object_id) == 0:
                del counts[object_id]
                released.append(object_id)
        self.unreferenced = []
        return released
