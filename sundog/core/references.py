"""Who holds which object: processes, tasks, containers, and the session itself.

An object lives while its count of holders is over 0. A process counts once however many Python references it has (its client
machine tells of the first and the last); a task counts for each object among its arguments, a container for each ID inside it.

The count stands in the object's own record, so that one look finds both; here is which of its holders are processes.

Invariant R4: the holders of an object = processes that hold it + mentions by unfinished tasks + mentions by sealed containers
(+ 1 if it escaped).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Protocol

from sundog.core.ids import Address, ObjectID


class Held(Protocol):
    """Something whose holders are counted."""

    holders: int


class References:
    """See the module. The owner frees what has no holder left."""

    __slots__ = ("_escaped", "by_process")

    def __init__(self) -> None:
        #: What each process holds, in the order of its taking: an ordered set.
        self.by_process: defaultdict[Address, dict[ObjectID, None]] = defaultdict(dict)
        self._escaped: dict[ObjectID, None] = {}

    def declare(self, object_id: ObjectID, record: Held, process: Address) -> None:
        """The process holds the object, perhaps already."""
        held = self.by_process[process]
        if object_id not in held:
            held[object_id] = None
            record.holders += 1

    def process_holds(self, object_id: ObjectID, record: Held | None, process: Address) -> bool:
        """The process has its first reference. False if the object does not exist (never a resurrection)."""
        if record is None or not record.holders:
            return False
        self.declare(object_id, record, process)
        return True

    def process_lost(self, process: Address) -> Iterable[ObjectID]:
        """Everything the process held is to be let go; returns that, in the order of its taking."""
        return self.by_process.pop(process, {})

    def escape(self, object_id: ObjectID, record: Held | None) -> None:
        """The ID was pickled where it cannot be counted: hold it until the session ends."""
        if object_id not in self._escaped and record is not None and record.holders:
            self._escaped[object_id] = None
            record.holders += 1

    def holders(self, object_id: ObjectID) -> list[Address]:
        """Return the processes that hold it, for people."""
        return [process for process, held in self.by_process.items() if object_id in held]

    def held_by_processes(self) -> Iterable[tuple[Address, int]]:
        """Return how many objects each process holds."""
        return [(process, len(held)) for process, held in self.by_process.items()]

    def expected(self, mentions: Iterable[ObjectID]) -> dict[ObjectID, int]:
        """Return how many holders each object must have, given every mention by tasks and containers. For check_invariants."""
        counts: dict[ObjectID, int] = {}
        for held in self.by_process.values():
            for object_id in held:
                counts[object_id] = counts.get(object_id, 0) + 1
        for object_id in [*mentions, *self._escaped]:
            counts[object_id] = counts.get(object_id, 0) + 1
        return counts
