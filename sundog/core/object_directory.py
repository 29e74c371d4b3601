"""The machine that knows which nodes hold which objects. One in a cluster, on the head; it holds no bytes.

Two things are known of an object that has been on several nodes: which of them have *references* to it (holders), and which
have *copies*. Processes, tasks and containers are counted on each node; here nodes are counted. When no node holds references
any more, those with copies are told to let them go (``ObjectsReleased``), and lineage the recipe.

Nodes ask who has what they want; who asked is told of every change until it says that it wants to know no longer. An object
that somebody wants and that nobody has, nor is about to make (its *maker*), is lost: lineage hears ``ObjectLost``.

Invariants: D1. an entry has holders, or it has copies; D2. ``_held`` is the inverse of the copies; D3. nobody subscribes, holds
or makes in the name of a lost node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from sundog.core import messages as msg
from sundog.core.actions import Send
from sundog.core.config import Config
from sundog.core.errors import InvariantViolation
from sundog.core.ids import HOST, Address, NodeID, ObjectID, address, node_of
from sundog.core.machine import Action, Event, Fact
from sundog.core.units import Nanos


class Entry(msgspec.Struct):
    """An object that has been on several nodes, or has a copy that another may want."""

    size: int
    #: Who has copies, in the order in which they said so; an ordered set.
    nodes: dict[NodeID, None]
    #: Who has references.
    holders: dict[NodeID, None]
    #: Who will seal it, until somebody has; and who said so once, and may keep a record of it without references.
    maker: NodeID | None = None
    home: NodeID | None = None

    def lost(self) -> bool:
        """Tell whether nobody has it, or is to make it."""
        return not self.nodes and self.maker is None


class ObjectDirectory:
    """See the module. ``here`` is the address of the host that also runs lineage."""

    HEARS: tuple[type[Fact], ...] = (
        msg.LocationsAdded,
        msg.LocationsRemoved,
        msg.LocationsWanted,
        msg.LocationsUnwanted,
        msg.RecipesReleased,
        msg.NodeHolds,
        msg.NodeReleases,
        msg.NodeLost,
    )

    def __init__(self, config: Config, here: Address) -> None:
        self._config = config
        self._here = here
        #: It has begun anew and does not know everything yet: nothing is freed, nothing is lost (``restarted_directory``).
        self._recovering = False
        self._entries: dict[ObjectID, Entry] = {}
        #: Ordered sets: what each node holds; who wants to know of an object; what each asker wants to know.
        self._held: dict[NodeID, dict[ObjectID, None]] = {}
        self._askers: dict[ObjectID, dict[Address, None]] = {}
        self._asked: dict[Address, dict[ObjectID, None]] = {}
        #: In this step: whose copies changed; who asked anew, to be answered although nothing changed; what was lost.
        self._changed: dict[ObjectID, None] = {}
        self._questions: dict[tuple[Address, ObjectID], None] = {}
        self._losses: dict[ObjectID, None] = {}
        #: In this step: which copies are to go from whom, and what has no holder left.
        self._released: dict[NodeID, list[ObjectID]] = {}
        self._unheld: list[ObjectID] = []
        self._handlers: dict[type, Callable[[Address, Any], None]] = {
            msg.LocationsAdded: self._on_locations_added,
            msg.LocationsRemoved: self._on_locations_removed,
            msg.LocationsWanted: self._on_locations_wanted,
            msg.LocationsUnwanted: self._on_locations_unwanted,
            msg.RecipesReleased: self._on_recipes_released,
            msg.NodeHolds: self._on_node_holds,
            msg.NodeReleases: self._on_node_releases,
            msg.NodeLost: self._on_node_lost,
        }

    # -- the door

    def step(self, now: Nanos, events: Iterable[Event]) -> list[Action]:
        """See ``machine.Machine``."""
        handlers = self._handlers
        for sender, fact in events:
            handlers[type(fact)](sender, fact)
        actions: list[Action] = []
        if self._changed or self._questions:
            self._answer(actions)
        if self._losses:
            for object_id in self._losses:
                entry = self._entries.get(object_id)
                askers = self._askers.get(object_id)
                if askers and (entry is None or entry.lost()):
                    actions.append(Send(self._here, msg.ObjectLost(object_id, tuple(askers))))
            self._losses = {}
        for node, object_ids in self._released.items():
            actions.append(Send(address(node, HOST), msg.ObjectsReleased(tuple(object_ids))))
        self._released = {}
        if self._unheld:
            actions.append(Send(self._here, msg.RecipesReleased(tuple(self._unheld))))
            self._unheld = []
        return actions

    def next_deadline(self) -> Nanos | None:
        """See ``machine.Machine``: the directory waits for nothing."""
        return None

    def check_invariants(self) -> None:
        """See ``machine.Machine``."""
        for object_id, entry in self._entries.items():
            if not entry.nodes and not entry.holders:
                raise InvariantViolation(f"D1: nobody has or holds {object_id.hex()}")
            for node in entry.nodes:
                if object_id not in self._held.get(node, {}):
                    raise InvariantViolation(f"D2: node {node} is not known to hold {object_id.hex()}")
        copies = sum(len(entry.nodes) for entry in self._entries.values())
        if copies != sum(len(held) for held in self._held.values()):
            raise InvariantViolation("D2: a node holds what no entry says")
        pairs = sum(len(askers) for askers in self._askers.values())
        if pairs != sum(len(asked) for asked in self._asked.values()):
            raise InvariantViolation("subscriptions and their inverse differ")

    # -- read by the global scheduler of the same host

    def bytes_held(self, object_ids: Iterable[ObjectID]) -> Mapping[NodeID, int]:
        """Return how many bytes of these objects each node holds; nodes that hold none are left out."""
        held: dict[NodeID, int] = {}
        for object_id in object_ids:
            entry = self._entries.get(object_id)
            if entry is not None:
                for node in entry.nodes:
                    held[node] = held.get(node, 0) + entry.size
        return held

    # -- facts

    def _on_locations_added(self, sender: Address, fact: msg.LocationsAdded) -> None:
        held = self._held.setdefault(fact.node, {})
        entries, changed, askers = self._entries, self._changed, self._askers
        for object_id, size in fact.objects:
            entry = entries.get(object_id)
            if entry is None or not (entry.holders or self._recovering):
                self._released.setdefault(fact.node, []).append(object_id)  # they are gone meanwhile
                continue
            entry.size = size
            entry.maker = None
            entry.nodes[fact.node] = None
            held[object_id] = None
            if object_id in askers:
                changed[object_id] = None
        if not held:
            del self._held[fact.node]

    def _on_locations_removed(self, sender: Address, fact: msg.LocationsRemoved) -> None:
        for object_id in fact.object_ids:
            entry = self._drop_copy(object_id, fact.node)
            if entry is None or entry.nodes or self._recovering:
                continue
            if entry.holders:
                self._losses[object_id] = None
            else:
                del self._entries[object_id]

    def _on_locations_wanted(self, sender: Address, fact: msg.LocationsWanted) -> None:
        asked = self._asked.setdefault(sender, {})
        for object_id in fact.object_ids:
            asked[object_id] = None
            self._askers.setdefault(object_id, {})[sender] = None
            self._questions[sender, object_id] = None
            entry = self._entries.get(object_id)
            if (entry is None or entry.lost()) and not self._recovering:
                self._losses[object_id] = None

    def _on_locations_unwanted(self, sender: Address, fact: msg.LocationsUnwanted) -> None:
        asked = self._asked.get(sender)
        if asked is None:
            return
        for object_id in fact.object_ids:
            if asked.pop(object_id, 0) is None:
                self._unsubscribe(sender, object_id)
        if not asked:
            del self._asked[sender]

    def _on_recipes_released(self, sender: Address, fact: msg.RecipesReleased) -> None:
        for object_id in fact.object_ids:
            entry = self._entries.get(object_id)
            if entry is not None and not entry.nodes and not entry.holders:
                del self._entries[object_id]

    def _on_node_holds(self, sender: Address, fact: msg.NodeHolds) -> None:
        for object_id in fact.object_ids:
            entry = self._entries.get(object_id)
            if entry is None:
                entry = self._entries[object_id] = Entry(0, {}, {})
            entry.holders[fact.node] = None
        for object_id in fact.made_here:
            entry = self._entries[object_id]
            entry.home = fact.node
            if entry.lost():
                entry.maker = fact.node

    def _on_node_releases(self, sender: Address, fact: msg.NodeReleases) -> None:
        for object_id in fact.object_ids:
            entry = self._entries.get(object_id)
            if entry is not None and entry.holders.pop(fact.node, 0) is None and not (entry.holders or self._recovering):
                self._release(object_id, entry)

    def _release(self, object_id: ObjectID, entry: Entry) -> None:
        """No node holds references: copies, and what would become one, may go."""
        if entry.home is not None and entry.home not in entry.nodes:
            self._released.setdefault(entry.home, []).append(object_id)
        for node in list(entry.nodes):
            self._released.setdefault(node, []).append(object_id)
            self._drop_copy(object_id, node)
        del self._entries[object_id]
        self._unheld.append(object_id)

    def _on_node_lost(self, sender: Address, fact: msg.NodeLost) -> None:
        for asker in [asker for asker in self._asked if node_of(asker) == fact.node]:
            for object_id in self._asked.pop(asker):
                self._unsubscribe(asker, object_id)
        held = dict(self._held.get(fact.node, {}))
        for object_id in held:
            self._drop_copy(object_id, fact.node)
        for object_id, entry in list(self._entries.items()):
            entry.holders.pop(fact.node, None)
            made_there = entry.maker == fact.node
            if made_there:
                entry.maker = None
            if self._recovering:
                continue
            if not entry.holders:
                self._release(object_id, entry)
            elif entry.lost() and (made_there or object_id in held):
                self._losses[object_id] = None
        self._released.pop(fact.node, None)

    # -- decisions

    def _answer(self, actions: list[Action]) -> None:
        """Tell the subscribers of what changed, and those who asked just now, once each."""
        for object_id in self._changed:
            askers = self._askers.get(object_id, ())
            actions += [Send(asker, self._locations(object_id)) for asker in askers]
        for asker, object_id in self._questions:
            if object_id not in self._changed and object_id in self._asked.get(asker, ()):
                actions.append(Send(asker, self._locations(object_id)))
        self._changed = {}
        self._questions = {}

    def _locations(self, object_id: ObjectID) -> msg.LocationsChanged:
        entry = self._entries.get(object_id)
        if entry is None:
            return msg.LocationsChanged(object_id, 0, ())
        return msg.LocationsChanged(object_id, entry.size, tuple(entry.nodes))

    def _drop_copy(self, object_id: ObjectID, node: NodeID) -> Entry | None:
        """Forget one copy; return the entry if there was one."""
        entry = self._entries.get(object_id)
        if entry is None or entry.nodes.pop(node, 0) is not None:
            return None
        held = self._held[node]
        del held[object_id]
        if not held:
            del self._held[node]
        if object_id in self._askers:
            self._changed[object_id] = None
        return entry

    def _unsubscribe(self, asker: Address, object_id: ObjectID) -> None:
        askers = self._askers[object_id]
        del askers[asker]
        if not askers:
            del self._askers[object_id]
