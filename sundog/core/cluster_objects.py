"""The object manager of a node in a cluster: it also knows what other nodes have. (``lent_objects`` brings it here.)

What :class:`~sundog.core.object_manager.ObjectManager` does not do, and a node alone never pays for. An ID that never left its
node is never told to the directory. One that did is *shared*:

* the directory counts this node while anybody here holds the ID (NodeHolds, NodeReleases), and knows of copies (LocationsAdded);
* a record without holders here stays, *retained*, while the directory may send others to its copy, until ObjectsReleased;
* what is ready elsewhere has a value whose offset is ``REMOTE``: ready for ``wait``, pulled for ``get`` and for arguments.

An ID is announced before anything that mentions it leaves; who learns of one from another node announces that it holds it, and
whoever it came from holds it until then: the submitter of a task until the task is settled, a container until its last
reader has let go. What makes it goes with it (``recipes``).

A task of another node's (*foreign*) holds its own returns while it runs. Small ones go to the submitter and are forgotten here.

Invariants: C3. an object without holders is retained and shared; C4. a pull is for an object that is REMOTE here.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from sundog.core import messages as msg
from sundog.core.config import Config
from sundog.core.errors import InvariantViolation
from sundog.core.ids import HOST, Address, NodeID, ObjectID, TaskID, address, is_put, node_of, return_ids
from sundog.core.machine import Action, Event, Handlers
from sundog.core.messages import ReadyObject, Result
from sundog.core.object_manager import ObjectManager
from sundog.core.object_record import ObjectRecord, check_records
from sundog.core.pull import Pull, Pulls
from sundog.core.recipes import Recipes
from sundog.core.sharing import Announcements, Shared
from sundog.core.task import REMOTE, FailureKind, TaskSpec, Value, arguments_id, failed
from sundog.core.units import Nanos, seconds

_ELSEWHERE = Value(0)


class ClusterObjectManager(ObjectManager):
    """See the module. ``head`` is the address of the host with the directory."""

    HEARS = (
        *ObjectManager.HEARS, msg.TaskLeaving, msg.TaskSettled, msg.ObjectsReleased, msg.LocationsChanged,
        msg.ObjectUnrecoverable, msg.LineageRecorded, msg.NodeLost,
    )  # fmt: skip
    _CLUSTERED = True

    def __init__(self, config: Config, node: NodeID, here: Address, driver: Address, head: Address) -> None:
        super().__init__(config, node, here, driver)
        self._head = head
        self.shared: dict[ObjectID, Shared] = {}
        self.foreign: dict[TaskID, msg.TaskDeclared] = {}
        self.recipes = Recipes(config.lineage_bytes_max)
        self.pulls = Pulls(config, node, self._said)
        self._announce = Announcements(node, head, self._said)
        self._located_for_scheduler: list[tuple[ObjectID, int]] = []

    def _table(self) -> Handlers:
        return super()._table() | {
            msg.TaskLeaving: self._on_task_leaving,
            msg.TaskSettled: self._on_task_settled,
            msg.ObjectsReleased: self._on_objects_released,
            msg.LocationsChanged: self._on_locations_changed,
            msg.ObjectUnrecoverable: self._on_object_unrecoverable,
            msg.LineageRecorded: self._on_lineage_recorded,
            msg.NodeLost: self._on_node_lost,
        }

    # -- the door ------------------------------

    def step(self, now: Nanos, events: Iterable[Event]) -> list[Action]:
        """See ``machine.Machine``."""
        self._now = now
        handlers = self._handlers
        for sender, fact in events:
            handlers[type(fact)](self, sender, fact)
        if self.pulls.under_way:
            self._pull_on(now)
        return self._speak()

    def _pull_on(self, now: Nanos) -> None:
        """Start what may be started, and ask for the room that it needs."""
        self.pulls.decide(now)
        if self.pulls.unanswered:
            for pull in self.pulls.unanswered:
                self._tell_unanswered(pull)
            self.pulls.unanswered.clear()
        for attempt, size in self.pulls.rooms.items():
            self._on_extent_wanted(self._here, msg.ExtentWanted(attempt, size))
        self.pulls.rooms.clear()

    def _tell_unanswered(self, pull: Pull) -> None:
        here, waited = f"node {self._node}", seconds(self._now - pull.asked_at)
        what = f"ObjectID({pull.object_id.hex()}) ({pull.size:,} bytes)"
        nodes = ", ".join([f"node {node}" for node in sorted(pull.nodes)])
        text = (
            f"{here} has waited {waited:.3g} s for a copy of {what} and does not reach any that has one ({nodes}), although "
            "the head hears from all: look at the network between them. It goes on asking; where a node is stopped, what it had is "
            "computed again"
        )
        self._say(self._driver, msg.WarningRaised(text))

    def _speak(self) -> list[Action]:
        if self._announce.gathering is not None:
            self._announce.close()
        if self._located_for_scheduler:
            self._say(self._here, msg.ObjectsElsewhere(tuple(self._located_for_scheduler)))
            self._located_for_scheduler = []
        if self._said or self._ready or self._extent_requests.waiting:
            return super()._speak()
        return []

    def next_deadline(self) -> Nanos | None:
        """See ``machine.Machine``."""
        if not self.pulls.under_way:
            return super().next_deadline() if self._extent_requests.waiting else None
        room, rested = super().next_deadline(), self.pulls.next_deadline()
        return min(room, rested) if room is not None and rested is not None else room or rested

    # -- tasks that leave ------------------------------

    def _on_task_leaving(self, sender: Address, fact: msg.TaskLeaving) -> None:
        spec = fact.spec
        mentioned = [*spec.dependencies, *spec.contained]
        if spec.arguments.offset >= 0:
            mentioned.append(self._share_arguments(spec))
        self._share(mentioned)
        self._announce.say(msg.TaskSpilled(spec, fact.submitter, fact.starts))

    def _share_arguments(self, spec: TaskSpec) -> ObjectID:
        """Arguments in the arena become an object like others, which the task holds."""
        object_id = arguments_id(spec.task_id)
        if object_id not in self.objects:
            name = f"the arguments of {spec.name}"
            self.objects[object_id] = ObjectRecord(spec.arguments, name=name, holders=1, heard=True)
            self._tasks[spec.task_id] = _holding_arguments(spec)
        return object_id

    def _on_task_settled(self, sender: Address, fact: msg.TaskSettled) -> None:
        """The directory counts this node as a holder of what stays on the other: so it is, or it says otherwise."""
        for object_id in fact.kept:
            record = self.objects.get(object_id)
            if record is not None and record.holders:
                self.shared.setdefault(object_id, Shared()).hold = True
            else:
                self._announce.releases(object_id)

    # -- tasks that come ------------------------------

    def _on_task_declared(self, sender: Address, fact: msg.TaskDeclared) -> None:
        """A task of another node's: it holds its returns and its arguments."""
        spec = fact.spec
        for object_id in return_ids(spec.task_id, spec.return_count):
            record = self.objects.get(object_id)
            if record is None:
                record = self.objects[object_id] = ObjectRecord(name=spec.name, returns=spec.return_count, heard=True)
                self.shared[object_id] = Shared(foreign=True)
            record.holders += 1
        self.foreign[spec.task_id] = fact
        held = _holding_arguments(spec) if spec.arguments.offset >= 0 else spec
        self._tasks[spec.task_id] = held  # with or without arguments: it is over with _task_over
        for object_id in held.contained:
            self._hold(object_id)
        for object_id in spec.dependencies:
            record = self._hold(object_id)
            record.argument = True
            self._need(object_id, record)
        if held is not spec:
            object_id = arguments_id(spec.task_id)
            self._need(object_id, self.objects[object_id])

    def _task_over(self, spec: TaskSpec) -> None:
        super()._task_over(spec)
        foreign = self.foreign.pop(spec.task_id, None)
        if foreign is not None:
            self._end_foreign(foreign)

    def _end_foreign(self, declared: msg.TaskDeclared) -> msg.TaskEnded:
        """Say what the task returned: small values at once, of others that they are here."""
        spec, rebuild = declared.spec, declared.rebuild
        ids = return_ids(spec.task_id, spec.return_count)
        results: list[Result] = []
        kept: list[tuple[ObjectID, int]] = []
        for object_id in ids:
            record = self.objects[object_id]
            value = record.value if record.value is not None else _ELSEWHERE
            record.heard = True
            if rebuild or value.offset >= 0 or record.contained:
                if record.contained:
                    self._share(record.contained)
                self.shared.setdefault(object_id, Shared(foreign=True)).keeps = True
                kept.append((object_id, value.size))
            if value.offset < 0:
                results.append(Result(value, record.contained))
            else:
                remote = msgspec.structs.replace(value, offset=REMOTE)
                results.append(Result(remote))
        ended = msg.TaskEnded(spec.task_id, self._node, () if rebuild else tuple(results), tuple(kept))
        self._announce.say(ended)
        self._let_go(ids)
        return ended

    # -- what is shared ------------------------------

    def _share(self, object_ids: Iterable[ObjectID]) -> None:
        """These IDs, and those inside them, are about to leave the node.

        First who holds them: if the rest is lost with this node, the directory lets go of what it has heard of.
        """
        located: list[tuple[ObjectID, int]] = []
        recipes: list[tuple[ObjectID, list[TaskSpec]]] = []
        todo = list(object_ids)
        todo.reverse()
        while todo:
            object_id = todo.pop()
            shared = self.shared.get(object_id)
            if shared is None:
                shared = self.shared[object_id] = Shared()
            if shared.hold:
                continue
            record = self.objects[object_id]
            value = record.value
            shared.hold = True
            pending = value is None and not shared.foreign
            if not shared.foreign and not is_put(object_id):
                self._keep_recipe(record)
                specs = self.recipes.leaving(object_id)
                if specs is not None:
                    recipes.append((object_id, specs))
            self._announce.holds(object_id, made_here=pending)
            if pending:
                shared.keeps = True
            elif value is not None and value.offset != REMOTE:
                shared.keeps = True
                located.append((object_id, value.size))
                todo += reversed(record.contained)
        for object_id, specs in recipes:
            self._announce.records(object_id, specs)
        for object_id, size in located:
            self._announce.located(object_id, size)

    def _keep_recipe(self, record: ObjectRecord) -> None:
        """From here on the object's recipe is kept until it is gone, and with it the recipes of what its task needs."""
        todo: list[ObjectRecord | None] = [record]
        while todo:
            each = todo.pop()
            if each is None or each.spec is None:
                continue
            spec, each.spec = each.spec, None
            self.recipes.keep(spec)
            todo += [self.objects.get(needed) for needed in (*spec.dependencies, *spec.contained)]

    def _hold(self, object_id: ObjectID) -> ObjectRecord:
        """A task or container holds the ID; one that is new here comes from another node."""
        record = self.objects.get(object_id)
        if record is None:
            record = self.objects[object_id] = ObjectRecord(heard=True)
            self.shared[object_id] = Shared(hold=True, foreign=True)
            self._announce.holds(object_id)
        else:
            shared = self.shared.get(object_id)
            if shared is not None and not shared.hold:
                shared.hold = True
                self._announce.holds(object_id)
        record.holders += 1
        return record

    def _seal(
        self, object_id: ObjectID, record: ObjectRecord, value: Value, contained: tuple[ObjectID, ...], writer: Address
    ) -> None:
        if record.spec is not None:
            self._keep_recipe(record)
        if value.offset == REMOTE:
            if record.value is None:
                self._found(object_id, record, value)
            return
        shared = self.shared.get(object_id)
        if shared is None:
            super()._seal(object_id, record, value, contained, writer)
            return
        if record.value is not None and record.value.offset == REMOTE:
            record.value = None
        super()._seal(object_id, record, value, contained, writer)
        if record.value is None:
            return
        if object_id in self.pulls:
            self.pulls.forget(object_id)
        self._stop_asking(object_id, shared)
        if shared.hold or shared.keeps:
            shared.keeps = True
            if record.contained:
                self._share(record.contained)
            self._announce.located(object_id, record.value.size)

    def _retain(self, object_id: ObjectID, record: ObjectRecord) -> bool:
        """Nobody here holds it any more; True if its copy stays for others."""
        shared = self.shared.get(object_id)
        if shared is not None:
            self.pulls.forget(object_id)
            self._stop_asking(object_id, shared)
            if shared.hold:
                shared.hold = False
                self._announce.releases(object_id)
                self.recipes.released(object_id)
            value = record.value
            if shared.keeps and (not shared.foreign if value is None else value.offset != REMOTE):
                return True
            del self.shared[object_id]
        if record.spec is None:
            self.recipes.gone(object_id)
        return False

    def _on_objects_released(self, sender: Address, fact: msg.ObjectsReleased) -> None:
        for object_id in fact.object_ids:
            shared = self.shared.pop(object_id, None)
            if shared is None:
                continue
            record = self.objects.get(object_id)
            if record is None or not record.holders:
                self._free([object_id])
            else:
                # Learnt again from a node that was lost meanwhile, or held by its own task: say so anew.
                self.shared[object_id] = Shared(foreign=shared.foreign)
                if shared.hold:
                    self._share([object_id])

    def _on_lineage_recorded(self, sender: Address, fact: msg.LineageRecorded) -> None:
        """Everything that mentions an ID goes to the head behind its recipe, so nothing has waited for this."""

    # -- what is elsewhere ------------------------------

    def _ask(self, object_id: ObjectID) -> None:
        """Subscribe to where a foreign object is, once."""
        shared = self.shared.get(object_id)
        if shared is not None and shared.foreign and not shared.asked:
            shared.asked = True
            self._announce.wants(object_id)

    def _stop_asking(self, object_id: ObjectID, shared: Shared) -> None:
        if shared.asked:
            shared.asked = False
            self._announce.wants_no_more(object_id)

    def _pull(self, object_id: ObjectID) -> None:
        """Bring a REMOTE object here."""
        if self.pulls.want(object_id):
            self.shared.setdefault(object_id, Shared(foreign=True)).asked = True
            self._announce.wants(object_id)

    def _found(self, object_id: ObjectID, record: ObjectRecord, value: Value) -> None:
        """The object is ready on another node: enough for those who only want to know."""
        record.value = value
        for client in record.watching or ():
            self._ready[client].append(ReadyObject(object_id))
        record.watching = None
        if record.needed:
            record.needed = False
            self._located_for_scheduler.append((object_id, value.size))
        if record.wanting:
            self._pull(object_id)
        if not record.holders:  # retained, to be made here: it was made elsewhere
            self._free([object_id])

    def _need(self, object_id: ObjectID, record: ObjectRecord) -> None:
        value = record.value
        if value is None:
            record.needed = True
            self._ask(object_id)
        elif value.offset == REMOTE:
            self._located_for_scheduler.append((object_id, value.size))
        else:
            self._tell_scheduler(object_id, record)

    def _on_objects_needed(self, sender: Address, fact: msg.ObjectsNeeded) -> None:
        for object_id in fact.object_ids:
            record = self.objects.get(object_id)
            if record is not None and record.value is not None and record.value.offset == REMOTE:
                record.needed = True
                self._pull(object_id)
            else:
                super()._on_objects_needed(sender, msg.ObjectsNeeded((object_id,)))

    def _give(self, client: Address, object_id: ObjectID, record: ObjectRecord) -> None:
        if record.value is not None and record.value.offset == REMOTE:
            record.wanting = (*(record.wanting or ()), client)
            self._pull(object_id)
        else:
            super()._give(client, object_id, record)

    def _on_objects_wanted(self, sender: Address, fact: msg.ObjectsWanted) -> None:
        super()._on_objects_wanted(sender, fact)
        self._ask_for_unknown(fact.object_ids)

    def _on_objects_polled(self, sender: Address, fact: msg.ObjectsPolled) -> None:
        super()._on_objects_polled(sender, fact)
        self._ask_for_unknown(fact.object_ids)

    def _ask_for_unknown(self, object_ids: Iterable[ObjectID]) -> None:
        for object_id in object_ids:
            record = self.objects.get(object_id)
            if record is not None and record.value is None:
                self._ask(object_id)

    def _on_task_blocked(self, sender: Address, fact: msg.TaskBlocked) -> None:
        missing = []
        for object_id in fact.object_ids:
            record = self.objects.get(object_id)
            if record is None:
                continue
            if record.value is None:
                self._ask(object_id)
            elif not fact.deliver or record.value.offset != REMOTE:
                continue
            else:
                self._pull(object_id)
            missing.append(object_id)
            record.needed = True
        count = max(0, fact.count - (len(fact.object_ids) - len(missing)))
        self._say(self._here, msg.TaskWaits(fact.task_id, fact.request, tuple(missing), count, fact.deliver))

    def _on_locations_changed(self, sender: Address, fact: msg.LocationsChanged) -> None:
        object_id = fact.object_id
        record, shared = self.objects.get(object_id), self.shared.get(object_id)
        if record is None or shared is None or not shared.asked:
            return
        if record.value is None and any(node != self._node for node in fact.nodes):
            self._found(object_id, record, Value(fact.size, offset=REMOTE))
        if object_id in self.pulls:
            self.pulls.located(object_id, fact.size, fact.nodes)
        elif record.value is not None:
            self._stop_asking(object_id, shared)

    def _on_object_unrecoverable(self, sender: Address, fact: msg.ObjectUnrecoverable) -> None:
        object_id = fact.object_id
        record, shared = self.objects.get(object_id), self.shared.get(object_id)
        if record is None or shared is None or (record.value is not None and record.value.offset != REMOTE):
            return
        self.pulls.forget(object_id)
        self._stop_asking(object_id, shared)
        record.value = None
        super()._seal(object_id, record, failed(FailureKind.OBJECT_LOST, fact.message), (), self._here)

    # -- who is gone ------------------------------

    def _on_node_lost(self, sender: Address, fact: msg.NodeLost) -> None:
        """Of the tasks that it gave, those whose returns nobody here knows need not be started; lineage asks again for others."""
        self._release(self.ledger.process_lost(address(fact.node, HOST)))
        self.pulls.node_lost(fact.node)
        unheld = []
        for task_id, declared in self.foreign.items():
            if declared.rebuild or node_of(declared.submitter) != fact.node:
                continue
            ids = return_ids(task_id, declared.spec.return_count)
            if all(self.objects[o].holders == 1 and not self.shared[o].hold for o in ids if o in self.shared):
                unheld.append(task_id)
        if unheld:
            self._say(self._here, msg.ReturnsUnheld(tuple(unheld)))

    # -- tests ------------------------------

    def check_invariants(self) -> None:
        """See ``machine.Machine``."""
        for part in (self.ledger, self.asked, self._extent_requests):
            part.check_invariants()
        self.pulls.check_invariants()
        mentions = [o for spec in self._tasks.values() for o in (*spec.dependencies, *spec.contained)]
        for declared in self.foreign.values():
            mentions += return_ids(declared.spec.task_id, declared.spec.return_count)
        retained = [o for o, record in self.objects.items() if not record.holders and o in self.shared and self.shared[o].keeps]
        check_records(self.objects, self.references, mentions, retained)
        for object_id in self.shared:
            if object_id not in self.objects:
                raise InvariantViolation(f"{object_id.hex()} is shared and does not exist (C3)")


def _holding_arguments(spec: TaskSpec) -> TaskSpec:
    """Return ``spec`` for the table of who holds what: its arguments are an object among those that it mentions."""
    contained = (*spec.contained, arguments_id(spec.task_id))
    return msgspec.structs.replace(spec, arguments=Value(0), contained=contained)
