"""What a node has told the directory of the objects that it shares with other nodes, and is about to tell it.

Parts of the object manager of a node in a cluster (``cluster_objects``). Whatever concerns one object is told in the order in
which it happened, so announcements are one queue; neighbours of a kind travel in one message.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from sundog.core import messages as msg
from sundog.core.ids import NodeID, ObjectID
from sundog.core.machine import Fact
from sundog.core.task import TaskSpec


class Shared(msgspec.Struct):
    """An object that other nodes know, or may come to know."""

    #: The directory counts this node among those that hold references.
    hold: bool = False
    #: The directory knows of a copy here, or that one will be made here: it will say ObjectsReleased.
    keeps: bool = False
    #: Another node makes it, or has made it.
    foreign: bool = False
    #: The directory was asked where it is, and tells of changes.
    asked: bool = False


class Announcements:
    """See the module."""

    def __init__(self, node: NodeID) -> None:
        self._node = node
        self._recorded = 0
        #: (kind, what) in order; ``what`` is a list for kinds that are gathered.
        self._queue: list[tuple[type, list[ObjectID], list[tuple[ObjectID, int]], list[TaskSpec]]] = []
        self._facts: list[Fact] = []

    def _open(self, kind: type) -> tuple[type, list[ObjectID], list[tuple[ObjectID, int]], list[TaskSpec]]:
        if self._queue and self._queue[-1][0] is kind:
            return self._queue[-1]
        self._close()
        entry: tuple[type, list[ObjectID], list[tuple[ObjectID, int]], list[TaskSpec]] = (kind, [], [], [])
        self._queue.append(entry)
        return entry

    def _close(self) -> None:
        """Turn what was gathered into a message."""
        if not self._queue:
            return
        kind, ids, sized, specs = self._queue.pop()
        if kind is msg.NodeHolds:
            made = tuple([object_id for object_id, made_here in sized if made_here])
            self._facts.append(msg.NodeHolds(self._node, tuple(ids), made))
        elif kind is msg.NodeReleases:
            self._facts.append(msg.NodeReleases(self._node, tuple(ids)))
        elif kind is msg.LocationsAdded:
            self._facts.append(msg.LocationsAdded(self._node, tuple(sized)))
        elif kind is msg.RecipesRecorded:
            self._recorded += 1
            self._facts.append(msg.RecipesRecorded(self._recorded, tuple(specs), tuple(ids)))
        else:
            self._facts.append(kind(tuple(ids)))

    def holds(self, object_id: ObjectID, *, made_here: bool = False) -> None:
        """References exist here; ``made_here``: it will be sealed here."""
        entry = self._open(msg.NodeHolds)
        entry[1].append(object_id)
        entry[2].append((object_id, int(made_here)))

    def releases(self, object_id: ObjectID) -> None:
        """No reference is left here."""
        self._open(msg.NodeReleases)[1].append(object_id)

    def located(self, object_id: ObjectID, size: int) -> None:
        """A copy of ``size`` bytes is here."""
        self._open(msg.LocationsAdded)[2].append((object_id, size))

    def wants(self, object_id: ObjectID) -> None:
        """Who has it?"""
        self._open(msg.LocationsWanted)[1].append(object_id)

    def wants_no_more(self, object_id: ObjectID) -> None:
        """That is no longer of interest."""
        self._open(msg.LocationsUnwanted)[1].append(object_id)

    def records(self, object_id: ObjectID, specs: Iterable[TaskSpec]) -> None:
        """``specs`` make ``object_id``, which is about to leave."""
        entry = self._open(msg.RecipesRecorded)
        entry[1].append(object_id)
        entry[3].extend(specs)

    def say(self, fact: Fact) -> None:
        """Say ``fact`` after all that was announced."""
        self._close()
        self._facts.append(fact)

    def take(self) -> list[Fact]:
        """Return and forget what is to be told, in order."""
        if self._queue:
            self._close()
        facts, self._facts = self._facts, []
        return facts
