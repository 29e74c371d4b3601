"""Who holds which object: processes, tasks, containers, and the session itself.

An object lives while its count of holders is over 0. A process counts once however many Python references it has (its client
machine tells of the first and the last); a task counts for each object among its arguments, a container for each ID inside it.

Invariant R4: ``count(id)`` = processes that hold it + mentions by unfinished tasks + mentions by sealed containers
(+ 1 if it escaped).
"""

from __future__ import annotations

from collections.abc import Iterable

from sundog.core.ids import Address, ObjectID


class References:
    """See the module. The owner frees what :meth:`drop` and :meth:`process_lost` say has no holder left."""

    __slots__ = ("_by_process", "_escaped", "counts")

    def __init__(self) -> None:
        #: ID -> number of holders, > 0 for every object that exists.
        self.counts: dict[ObjectID, int] = {}
        self._by_process: dict[Address, dict[ObjectID, None]] = {}
        self._escaped: dict[ObjectID, None] = {}

    def declare(self, object_id: ObjectID, process: Address) -> None:
        """A new object, held by the process that made it."""
        held = self._by_process.get(process)
        if held is None:
            held = self._by_process[process] = {}
        if object_id not in held:
            held[object_id] = None
            counts = self.counts
            counts[object_id] = counts.get(object_id, 0) + 1

    def hold(self, object_id: ObjectID) -> None:
        """A task or a container holds the object, once more."""
        self.counts[object_id] = self.counts.get(object_id, 0) + 1

    def drop(self, object_id: ObjectID) -> bool:
        """A task or a container lets it go; True if nobody is left."""
        left = self.counts[object_id] - 1
        if left:
            self.counts[object_id] = left
            return False
        del self.counts[object_id]
        return True

    def process_holds(self, object_id: ObjectID, process: Address) -> bool:
        """The process has its first reference. False if the object does not exist (never a resurrection)."""
        if object_id not in self.counts:
            return False
        self.declare(object_id, process)
        return True

    def process_releases(self, object_id: ObjectID, process: Address) -> bool:
        """The process's last reference is gone; True if nobody is left."""
        held = self._by_process.get(process)
        if held is None or held.pop(object_id, 0) is not None:
            return False
        counts = self.counts
        left = counts[object_id] - 1
        if left:
            counts[object_id] = left
            return False
        del counts[object_id]
        return True

    def process_lost(self, process: Address) -> list[ObjectID]:
        """Everything the process held is let go; returns what nobody holds any more, in the order of its taking."""
        return [o for o in self._by_process.pop(process, {}) if self.drop(o)]

    def escape(self, object_id: ObjectID) -> None:
        """The ID was pickled where it cannot be counted: hold it until the session ends."""
        if object_id not in self._escaped and object_id in self.counts:
            self._escaped[object_id] = None
            self.hold(object_id)

    def holders(self, object_id: ObjectID) -> list[Address]:
        """Return the processes that hold it, for people."""
        return [process for process, held in self._by_process.items() if object_id in held]

    def held_by_processes(self) -> Iterable[tuple[Address, int]]:
        """Return how many objects each process holds."""
        return [(process, len(held)) for process, held in self._by_process.items()]

    def expected(self, mentions: Iterable[ObjectID]) -> dict[ObjectID, int]:
        """Return what ``counts`` must be, given every mention by tasks and containers. For check_invariants."""
        counts: dict[ObjectID, int] = {}
        for held in self._by_process.values():
            for object_id in held:
                counts[object_id] = counts.get(object_id, 0) + 1
        for object_id in [*mentions, *self._escaped]:
            counts[object_id] = counts.get(object_id, 0) + 1
        return counts
