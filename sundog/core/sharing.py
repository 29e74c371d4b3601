"""What a node has told the directory of the objects that it shares with other nodes, and is about to tell it.

Parts of the object manager of a node in a cluster (``cluster_objects``). Whatever concerns one object is told in the order in
which it happened, so announcements are one queue; neighbours of a kind travel in one message.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from sundog.core import messages as msg
from sundog.core.actions import Send
from sundog.core.ids import Address, NodeID, ObjectID
from sundog.core.machine import Action, Fact
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
    """See the module. ``head`` is the address of the host with the directory; the owner sends what is ``said``."""

    def __init__(self, node: NodeID, head: Address, said: list[Action]) -> None:
        self._node = node
        self._head = head
        self._recorded = 0
        self._said = said
        #: The kind of message that is being gathered, to be closed before anything is sent; and what of it.
        self.gathering: type | None = None
        self._ids: list[ObjectID] = []
        self._sized: list[tuple[ObjectID, int]] = []
        self._specs: list[TaskSpec] = []

    def _gather(self, kind: type) -> None:
        """What follows is of this kind."""
        if kind is not self.gathering:
            self.close()
            self.gathering = kind

    def close(self) -> None:
        """Turn what was gathered into a message."""
        kind = self.gathering
        if kind is None:
            return
        ids, sized, specs = tuple(self._ids), tuple(self._sized), tuple(self._specs)
        self.gathering, self._ids, self._sized, self._specs = None, [], [], []
        fact: Fact
        if kind is msg.NodeHolds:
            fact = msg.NodeHolds(self._node, ids, tuple([object_id for object_id, made_here in sized if made_here]))
        elif kind is msg.NodeReleases:
            fact = msg.NodeReleases(self._node, ids)
        elif kind is msg.LocationsAdded:
            fact = msg.LocationsAdded(self._node, sized)
        elif kind is msg.RecipesRecorded:
            self._recorded += 1
            fact = msg.RecipesRecorded(self._recorded, specs, ids)
        else:
            fact = kind(ids)
        self._said.append(Send(self._head, fact))

    def holds(self, object_id: ObjectID, *, made_here: bool = False) -> None:
        """References exist here; ``made_here``: it will be sealed here."""
        self._gather(msg.NodeHolds)
        self._ids.append(object_id)
        self._sized.append((object_id, int(made_here)))

    def releases(self, object_id: ObjectID) -> None:
        """No reference is left here."""
        self._gather(msg.NodeReleases)
        self._ids.append(object_id)

    def located(self, object_id: ObjectID, size: int) -> None:
        """A copy of ``size`` bytes is here."""
        self._gather(msg.LocationsAdded)
        self._sized.append((object_id, size))

    def wants(self, object_id: ObjectID) -> None:
        """Who has it?"""
        self._gather(msg.LocationsWanted)
        self._ids.append(object_id)

    def wants_no_more(self, object_id: ObjectID) -> None:
        """That is no longer of interest."""
        self._gather(msg.LocationsUnwanted)
        self._ids.append(object_id)

    def records(self, object_id: ObjectID, specs: Iterable[TaskSpec]) -> None:
        """``specs`` make ``object_id``, which is about to leave."""
        self._gather(msg.RecipesRecorded)
        self._ids.append(object_id)
        self._specs.extend(specs)

    def say(self, fact: Fact) -> None:
        """Say ``fact`` after all that was announced."""
        if self.gathering is not None:
            self.close()
        self._said.append(Send(self._head, fact))
