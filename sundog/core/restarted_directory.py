"""An object directory that begins anew where another has died.

Nodes tell (``ReferencesResent``) what they hold, have, will make and want. Before all have told, and a global scheduler knows
everything (results of which it has not heard have no holder yet), nothing is freed and nothing is lost. Then what nobody
holds goes, lineage hears of all that is held (``ObjectsKnown``), and what somebody wants and nobody has is lost.
"""

from __future__ import annotations

from collections.abc import Iterable

from sundog.core import events as ev
from sundog.core import messages as msg
from sundog.core.actions import Send
from sundog.core.config import Config
from sundog.core.ids import Address, ObjectID, node_of
from sundog.core.machine import Action, Event
from sundog.core.object_directory import Entry, ObjectDirectory
from sundog.core.recovery import Recovery, Service
from sundog.core.units import Nanos

#: Facts that count although their sender has not told yet what it knows.
_ALWAYS = (msg.ReferencesResent, msg.NodeLost, msg.ServiceRecovered, ev.ServiceLost)


class RestartedDirectory(ObjectDirectory):
    """See the module. ``scheduler_whole``: there is a global scheduler that knows everything."""

    HEARS = (*ObjectDirectory.HEARS, msg.ReferencesResent, msg.ServiceRecovered, ev.ServiceLost)

    def __init__(self, config: Config, here: Address, recovery: Recovery, *, scheduler_whole: bool) -> None:
        super().__init__(config, here)
        self._recovery = recovery
        self._scheduler_whole = scheduler_whole
        self._recovering = True
        self._handlers |= {
            msg.ReferencesResent: self._on_references_resent,
            msg.ServiceRecovered: self._on_service_recovered,
            ev.ServiceLost: self._on_service_lost,
        }

    # -- the door

    def step(self, now: Nanos, events: Iterable[Event]) -> list[Action]:
        """See ``machine.Machine``."""
        if not self._recovering:
            return super().step(now, events)
        recovery = self._recovery
        for sender, fact in events:
            if type(fact) in _ALWAYS or not recovery.awaits(node_of(sender)):
                self._handlers[type(fact)](sender, fact)
        actions: list[Action] = []
        if not recovery and self._scheduler_whole:
            self._recovering = False
            self._recover(actions)
        actions += super().step(now, ())
        actions += [Send(self._here, msg.NodeSilent(node)) for node in recovery.silent(now)]
        return actions

    def next_deadline(self) -> Nanos | None:
        """See ``machine.Machine``."""
        return self._recovery.next_deadline()

    def check_invariants(self) -> None:
        """See ``machine.Machine``."""
        if not self._recovering:
            super().check_invariants()

    # -- facts

    def _on_references_resent(self, sender: Address, fact: msg.ReferencesResent) -> None:
        if not self._recovery.heard(fact.node, fact.incarnation):
            return
        self._on_node_holds(sender, msg.NodeHolds(fact.node, fact.held))
        for object_id in fact.made_here:
            self._entry(object_id)  # it may be held by others only
        self._on_node_holds(sender, msg.NodeHolds(fact.node, (), fact.made_here))
        if fact.copies:
            self._on_locations_added(sender, msg.LocationsAdded(fact.node, fact.copies))
        if fact.wanted:
            self._on_locations_wanted(sender, msg.LocationsWanted(fact.wanted))

    def _on_node_lost(self, sender: Address, fact: msg.NodeLost) -> None:
        self._recovery.lost(fact.node)
        super()._on_node_lost(sender, fact)

    def _on_service_recovered(self, sender: Address, fact: msg.ServiceRecovered) -> None:
        if fact.service == Service.GLOBAL_SCHEDULER:
            self._scheduler_whole = True

    def _on_service_lost(self, sender: Address, fact: ev.ServiceLost) -> None:
        if fact.service == Service.GLOBAL_SCHEDULER:
            self._scheduler_whole = False

    def _on_locations_added(self, sender: Address, fact: msg.LocationsAdded) -> None:
        if self._recovering:
            for object_id, _ in fact.objects:
                self._entry(object_id)
        super()._on_locations_added(sender, fact)

    def _entry(self, object_id: ObjectID) -> None:
        if object_id not in self._entries:
            self._entries[object_id] = Entry(0, {}, {})

    # -- decisions

    def _answer(self, actions: list[Action]) -> None:
        """That nobody has it is no answer yet: such questions stay."""
        later: dict[tuple[Address, ObjectID], None] = {}
        if self._recovering:
            for asker, object_id in self._questions:
                entry = self._entries.get(object_id)
                if entry is None or not entry.nodes:
                    later[asker, object_id] = None
            for question in later:
                del self._questions[question]
        super()._answer(actions)
        self._questions = later

    def _recover(self, actions: list[Action]) -> None:
        for object_id, entry in list(self._entries.items()):
            if not entry.holders:
                self._release(object_id, entry)
        self._unheld = []  # lineage hears what is left instead
        self._losses = dict.fromkeys(self._askers)  # those of them that nobody has
        actions.append(Send(self._here, msg.ObjectsKnown(tuple(self._entries))))
