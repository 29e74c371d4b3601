"""The machine that knows which nodes hold which objects. One in a cluster, on the head; it holds no bytes.

Nodes say what they hold and ask who holds what they want; who asked is told of every change until it says that it wants to
know no longer. When the last copy of a sealed object dies with a node, and somebody wants it, lineage hears ``ObjectLost``.
A node that removes its last copy itself does so because no reference is left: then the entry goes, silently.

References are counted on each node; between nodes, the copies and the subscriptions here are what keeps a node interested.

Invariants: D1. an entry has copies, or was lost and waits to be rebuilt or released; D2. ``_held`` is the inverse of the
copies; D3. nobody subscribes in the name of a lost node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from sundog.core import messages as msg
from sundog.core.actions import Send
from sundog.core.config import Config
from sundog.core.errors import InvariantViolation
from sundog.core.ids import Address, NodeID, ObjectID, node_of
from sundog.core.machine import Action, Event
from sundog.core.units import Nanos


class _Entry(msgspec.Struct):
    """An object that has been sealed somewhere. No nodes: it is lost."""

    size: int
    #: In the order in which they said so; an ordered set.
    nodes: dict[NodeID, None]


class ObjectDirectory:
    """See the module. ``here`` is the address of the host that also runs lineage."""

    HEARS = (
        msg.LocationsAdded,
        msg.LocationsRemoved,
        msg.LocationsWanted,
        msg.LocationsUnwanted,
        msg.RecipesReleased,
        msg.NodeLost,
    )

    def __init__(self, config: Config, here: Address) -> None:
        self._config = config
        self._here = here
        self._entries: dict[ObjectID, _Entry] = {}
        #: Ordered sets: what each node holds; who wants to know of an object; what each asker wants to know.
        self._held: dict[NodeID, dict[ObjectID, None]] = {}
        self._askers: dict[ObjectID, dict[Address, None]] = {}
        self._asked: dict[Address, dict[ObjectID, None]] = {}
        #: In this step: whose copies changed; who asked anew, to be answered although nothing changed; what was lost.
        self._changed: dict[ObjectID, None] = {}
        self._questions: dict[tuple[Address, ObjectID], None] = {}
        self._losses: dict[ObjectID, None] = {}
        self._handlers: dict[type, Callable[[Address, Any], None]] = {
            msg.LocationsAdded: self._on_locations_added,
            msg.LocationsRemoved: self._on_locations_removed,
            msg.LocationsWanted: self._on_locations_wanted,
            msg.LocationsUnwanted: self._on_locations_unwanted,
            msg.RecipesReleased: self._on_recipes_released,
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
                if entry is not None and not entry.nodes and askers:
                    actions.append(Send(self._here, msg.ObjectLost(object_id, tuple(askers))))
            self._losses = {}
        return actions

    def next_deadline(self) -> Nanos | None:
        """See ``machine.Machine``: the directory waits for nothing."""
        return None

    def check_invariants(self) -> None:
        """See ``machine.Machine``."""
        for object_id, entry in self._entries.items():
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
            if entry is None:
                entries[object_id] = _Entry(size, {fact.node: None})
            else:
                entry.size = size
                entry.nodes[fact.node] = None
            held[object_id] = None
            if object_id in askers:
                changed[object_id] = None

    def _on_locations_removed(self, sender: Address, fact: msg.LocationsRemoved) -> None:
        for object_id in fact.object_ids:
            entry = self._drop_copy(object_id, fact.node)
            if entry is None or entry.nodes:
                continue
            if object_id in self._askers:
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
            if entry is not None and not entry.nodes:
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
            if entry is not None and not entry.nodes:
                del self._entries[object_id]

    def _on_node_lost(self, sender: Address, fact: msg.NodeLost) -> None:
        for asker in [asker for asker in self._asked if node_of(asker) == fact.node]:
            for object_id in self._asked.pop(asker):
                self._unsubscribe(asker, object_id)
        for object_id in list(self._held.get(fact.node, ())):
            entry = self._drop_copy(object_id, fact.node)
            if entry is not None and not entry.nodes:
                self._losses[object_id] = None
        self._held.pop(fact.node, None)

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

    def _drop_copy(self, object_id: ObjectID, node: NodeID) -> _Entry | None:
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
