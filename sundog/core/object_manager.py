"""The machine that owns a node's objects: their values, who holds them, who waits for them, and the bytes they occupy.

The one owner of a node's memory. It hears what clients put, want, hold and release, and from the local scheduler what tasks
returned; it answers waiting clients, and tells the local scheduler when a needed object is here.

Invariants (besides those of ``references`` and ``store_ledger``):

* O1. an object is in ``objects`` exactly while somebody holds it;
* O2. somebody waits only for objects that are not ready;
* O3. every ID inside a sealed container, and every argument of an unfinished task, is held.

It does not move objects between nodes (``object_directory`` and the cluster's pulls do) and it touches no bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

from sundog.core import events as ev
from sundog.core import messages as msg
from sundog.core.actions import Send
from sundog.core.config import Config
from sundog.core.explanation import explain_full
from sundog.core.extent_requests import ExtentRequests
from sundog.core.ids import (
    FIRST_RETURN,
    Address,
    NodeID,
    ObjectID,
    ProcessID,
    TaskID,
    address,
    first_returns,
    process_of,
    producer_of,
    return_ids,
)
from sundog.core.lots import specs_of
from sundog.core.machine import Action, Event, Fact, Handlers, handlers_of
from sundog.core.messages import ReadyObject, Result
from sundog.core.object_record import ObjectRecord, check_records, siblings, unheard_failures
from sundog.core.object_table import LOST, ObjectTable
from sundog.core.task import TaskSpec, arguments_id
from sundog.core.units import Nanos


class ObjectManager(ObjectTable):
    """See the module; what hears no messages is in ``object_table``."""

    HEARS: tuple[type[Fact], ...] = (
        msg.TaskSubmitted, msg.TasksSubmitted, msg.TaskDeclared, msg.TaskRetired, msg.TasksRetired, msg.ValuesReturned,
        msg.ResultsRefused, msg.ObjectPut, msg.HoldsTaken, msg.HoldsReleased, msg.PinsReturned, msg.PinsTaken, msg.PinsRevoked,
        msg.IDsEscaped, msg.ObjectsWanted, msg.ObjectsPolled, msg.ObjectsNeeded, msg.TaskBlocked, msg.ExtentWanted,
        msg.ExtentReturned, msg.SessionEnding, ev.WorkerLost, ev.ClientLost,
    )  # fmt: skip

    def __init__(self, config: Config, node: NodeID, here: Address, driver: Address) -> None:
        super().__init__(config, node, here, driver)
        #: Unfinished tasks, whose arguments are held (O3).
        self._tasks: dict[TaskID, TaskSpec] = {}
        self._extent_requests = ExtentRequests(config, self.ledger, self._full)
        #: Until the host's step ends: which processes ended.
        self._ended: list[ProcessID] = []
        self._handlers = handlers_of(self)

    def _table(self) -> Handlers:
        return {
            msg.TaskSubmitted: self._on_task_submitted,
            msg.TasksSubmitted: self._on_tasks_submitted,
            msg.TaskDeclared: self._on_task_declared,
            msg.TaskRetired: self._on_task_retired,
            msg.TasksRetired: self._on_tasks_retired,
            msg.ValuesReturned: self._on_values_returned,
            msg.ResultsRefused: self._on_results_refused,
            msg.ObjectPut: self._on_object_put,
            msg.HoldsTaken: self._on_holds_taken,
            msg.HoldsReleased: self._on_holds_released,
            msg.PinsReturned: self._on_pins_returned,
            msg.PinsTaken: self._on_pins_taken,
            msg.PinsRevoked: self._on_pins_revoked,
            msg.IDsEscaped: self._on_ids_escaped,
            msg.ObjectsWanted: self._on_objects_wanted,
            msg.ObjectsPolled: self._on_objects_polled,
            msg.ObjectsNeeded: self._on_objects_needed,
            msg.TaskBlocked: self._on_task_blocked,
            msg.ExtentWanted: self._on_extent_wanted,
            msg.ExtentReturned: self._on_extent_returned,
            msg.SessionEnding: self._on_session_ending,
            ev.WorkerLost: self._on_worker_lost,
            ev.ClientLost: self._on_client_lost,
        }

    # -- the door ------------------------------

    def step(self, now: Nanos, events: Iterable[Event]) -> list[Action]:
        """See ``machine.Machine``."""
        self._now = now
        handlers = self._handlers
        for sender, fact in events:
            handlers[type(fact)](self, sender, fact)
        return self._speak()

    def settle(self, now: Nanos) -> list[Action]:
        """Free what nobody holds, and forget the processes that ended. The host calls it when a step has nothing else to say.

        Not before: a result that the scheduler still has in hand may contain what its worker has let go, or lie in an extent
        of a worker that died right after it.
        """
        self.unsettled = False
        unheld, self._unheld = self._unheld, []
        self._free(unheld)
        if self._ended:
            ended, self._ended = self._ended, []
            for process in ended:
                self._process_lost(process)
        return self._speak()

    def _speak(self) -> list[Action]:
        """Return what this step says: first what is ready."""
        if self._extent_requests.waiting:
            self._said += self._extent_requests.answer(self._now)
        actions: list[Action] = []
        if self._ready:
            for to, ready in self._ready.items():
                told = tuple(ready)
                actions.append(Send(to, msg.ObjectsLocal(told) if to == self._here else msg.ObjectsReady(told)))
            self._ready.clear()
        if self._said:
            actions += self._said
            self._said.clear()
        return actions

    def next_deadline(self) -> Nanos | None:
        """See ``machine.Machine``."""
        return self._extent_requests.next_deadline()

    # -- tasks ------------------------------

    def _on_task_declared(self, sender: Address, fact: msg.TaskDeclared) -> None:
        self._on_task_submitted(fact.submitter, fact)

    def _on_task_submitted(self, submitter: Address, fact: msg.TaskSubmitted | msg.TaskDeclared) -> None:
        """From here on the returns exist, held by the submitter, and the arguments are held by the task."""
        spec, objects = fact.spec, self.objects
        returns = spec.return_count
        for object_id in (ObjectID(spec.task_id + FIRST_RETURN),) if returns == 1 else return_ids(spec.task_id, returns):
            if object_id in objects:
                self.references.declare(object_id, objects[object_id], submitter)
            else:
                objects[object_id] = ObjectRecord(None, (), "", returns, 1, spec)
                self.references.by_process[submitter][object_id] = None
        if spec.dependencies or spec.contained or spec.arguments.offset >= 0:
            self._hold_arguments(spec, submitter)

    def _on_tasks_submitted(self, submitter: Address, fact: msg.TasksSubmitted) -> None:
        ids = first_returns(fact.task_ids)
        if not self.objects.keys().isdisjoint(ids):
            for spec in specs_of(fact):
                self._on_task_submitted(submitter, msg.TaskSubmitted(spec))
            return
        name = fact.spec.name
        self.objects.update([(object_id, ObjectRecord(None, (), name, 1, 1)) for object_id in ids])
        self.references.by_process[submitter].update(dict.fromkeys(ids))

    def _hold_arguments(self, spec: TaskSpec, submitter: Address) -> None:
        self._tasks[spec.task_id] = spec
        for object_id in spec.contained:
            self._hold(object_id)
        for object_id in spec.dependencies:
            record = self._hold(object_id)
            record.argument = True
            self._need(object_id, record)
        if spec.arguments.offset >= 0:
            self.ledger.seal(spec.arguments.offset, arguments_id(spec.task_id), submitter)

    def _on_objects_needed(self, sender: Address, fact: msg.ObjectsNeeded) -> None:
        for object_id in fact.object_ids:
            record = self.objects.get(object_id)
            if record is None:
                self._ready[self._here].append(ReadyObject(object_id, LOST))
            else:
                self._need(object_id, record)

    def _on_task_retired(self, sender: Address, fact: msg.TaskRetired) -> None:
        spec = fact.spec
        if spec.return_count == 1:
            object_id, result = ObjectID(spec.task_id + FIRST_RETURN), fact.results[0]
            record = self.objects.get(object_id)
            if record is not None:
                self._seal(object_id, record, result.value, result.contained, fact.writer)
            elif result.value.error:
                self._say_unheard(spec.name, object_id, result.value)
            elif result.value.offset >= 0:
                self._discard(result.value, fact.writer)
        else:
            self._seal_all(spec, fact.results, fact.writer)
        held = self._tasks.pop(spec.task_id, None)
        if held is not None:
            self._task_over(held)

    def _task_over(self, spec: TaskSpec) -> None:
        """Let go of what the task held."""
        self._let_go((*spec.dependencies, *spec.contained))
        if spec.arguments.offset >= 0:
            self._release(self.ledger.free(arguments_id(spec.task_id)))

    def _seal_all(self, spec: TaskSpec, results: tuple[Result, ...], writer: Address) -> None:
        """Seal what a task returned, as far as anybody holds it. One failure stands for all returns, or for none, not held."""
        ids = return_ids(spec.task_id, spec.return_count or 1)
        if len(results) == 1:
            results = results * len(ids)
        objects, unheard = self.objects, False
        for object_id, result in zip(ids, results, strict=spec.return_count > 0):
            record = objects.get(object_id)
            if record is None:
                unheard = unheard or result.value.error
                self._discard(result.value, writer)
            else:
                self._seal(object_id, record, result.value, result.contained, writer)
        if unheard and not any(o in objects for o in ids):
            self._say_unheard(spec.name, ids[0], results[0].value)

    def _on_tasks_retired(self, sender: Address, fact: msg.TasksRetired) -> None:
        for retired in fact.tasks:
            self._on_task_retired(sender, retired)

    def _on_values_returned(self, sender: Address, fact: msg.ValuesReturned) -> None:
        objects, tasks, ready, journal = self.objects, self._tasks, self._ready, self.journal
        for task_id, object_id, value in zip(fact.task_ids, first_returns(fact.task_ids), fact.values, strict=True):
            record = objects.get(object_id)
            if record is not None:
                if record.value is not None or record.spec is not None or record.needed or record.watching is not None:
                    self._seal(object_id, record, value, (), fact.writer)
                else:  # the same, without what is not the case
                    record.value = value
                    if record.wanting is not None:
                        for client in record.wanting:
                            ready[client].append(ReadyObject(object_id, value))
                        record.wanting = None
                    if journal is not None:
                        journal.objects_born.append(object_id)
            if tasks and (held := tasks.pop(task_id, None)) is not None:
                self._task_over(held)

    def _on_results_refused(self, sender: Address, fact: msg.ResultsRefused) -> None:
        for result in fact.results:
            self._discard(result.value, fact.writer)

    # -- objects ------------------------------

    def _on_object_put(self, sender: Address, fact: msg.ObjectPut) -> None:
        if fact.object_id in self.objects:
            self._discard(fact.value, sender)  # a repeated put of the same execution: the first seal wins
            return
        record = self.objects[fact.object_id] = ObjectRecord(name="put")
        self.references.declare(fact.object_id, record, sender)
        self._seal(fact.object_id, record, fact.value, fact.contained, sender)

    def _on_objects_wanted(self, sender: Address, fact: msg.ObjectsWanted) -> None:
        objects, ready, alone = self.objects, self._ready[sender], (sender,)
        if sender != self._driver:
            self.asked.add(sender, fact.object_ids)
        for object_id in fact.object_ids:
            record = objects.get(object_id)
            if record is None:
                ready.append(ReadyObject(object_id, LOST if fact.deliver else None))
            elif (value := record.value) is None:
                if fact.deliver:
                    record.wanting = alone if record.wanting is None else (*record.wanting, sender)
                else:
                    record.watching = alone if record.watching is None else (*record.watching, sender)
            elif not fact.deliver:
                self._say_news(sender, object_id, value)
            elif value.offset != -1 or value.error:
                self._give(sender, object_id, record)
            else:
                ready.append(ReadyObject(object_id, value))
        if not ready:
            del self._ready[sender]

    def _is_ready(self, object_id: ObjectID) -> bool:
        record = self.objects.get(object_id)
        return record is None or record.value is not None

    def _on_objects_polled(self, sender: Address, fact: msg.ObjectsPolled) -> None:
        ready = tuple([o for o in fact.object_ids if self._is_ready(o)])
        self._say(sender, msg.ObjectsPolledReady(fact.request, ready))

    def _on_task_blocked(self, sender: Address, fact: msg.TaskBlocked) -> None:
        """Pass it on to the scheduler, without what is ready already; the scheduler then hears of the rest."""
        missing = []
        for object_id in fact.object_ids:
            if not self._is_ready(object_id):
                missing.append(object_id)
                self.objects[object_id].needed = True
        count = max(0, fact.count - len(fact.object_ids) + len(missing))
        self._say(self._here, msg.TaskWaits(fact.task_id, fact.request, tuple(missing), count))

    # -- references ------------------------------

    def _on_holds_taken(self, sender: Address, fact: msg.HoldsTaken) -> None:
        for object_id in fact.object_ids:
            self.references.process_holds(object_id, self.objects.get(object_id), sender)

    def _on_holds_released(self, sender: Address, fact: msg.HoldsReleased) -> None:
        objects, held = self.objects, self.references.by_process.get(sender)
        if held is None:
            return
        unheld = self._unheld
        for object_id in fact.object_ids:
            if held.pop(object_id, 0) is None:  # else it did not hold it
                record = objects[object_id]
                record.holders = left = record.holders - 1
                if not left:
                    unheld.append(object_id)
        if unheld:
            self.unsettled = True

    def _on_ids_escaped(self, sender: Address, fact: msg.IDsEscaped) -> None:
        for object_id in fact.object_ids:
            self.references.escape(object_id, self.objects.get(object_id))

    def _on_worker_lost(self, sender: Address, fact: ev.WorkerLost) -> None:
        self._ended.append(fact.worker)
        self.unsettled = True

    def _on_client_lost(self, sender: Address, fact: ev.ClientLost) -> None:
        self._ended.append(fact.process)
        self.unsettled = True

    def _process_lost(self, process: ProcessID) -> None:
        where = address(self._node, process)
        objects = self.objects
        self._let_go(self.references.process_lost(where))
        gone, self._unheld = self._unheld, []
        unfinished = {producer_of(o): (o, record.returns) for o in gone if (record := objects[o]).value is None}
        self.asked.client_lost(where)
        self._ready.pop(where, None)
        self._extent_requests.process_lost(where)
        self._release(self.ledger.process_lost(where))
        self._free(gone)
        unheld = tuple([task for task, (o, n) in unfinished.items() if not (siblings(objects, o, n) or o in objects)])
        if unheld:
            self._say(self._here, msg.ReturnsUnheld(unheld))

    # -- the arena ------------------------------

    def _on_pins_returned(self, sender: Address, fact: msg.PinsReturned) -> None:
        for object_id in fact.object_ids:
            self._release(self.ledger.give_back(object_id, sender))

    def _on_pins_taken(self, sender: Address, fact: msg.PinsTaken) -> None:
        for object_id in fact.object_ids:
            self.ledger.grant(object_id, fact.worker)

    def _on_pins_revoked(self, sender: Address, fact: msg.PinsRevoked) -> None:
        for object_id in fact.object_ids:
            self._release(self.ledger.give_back(object_id, fact.worker))

    def _on_extent_wanted(self, sender: Address, fact: msg.ExtentWanted) -> None:
        self._said += self._extent_requests.add(sender, fact.request, fact.size, self._now)

    def _on_extent_returned(self, sender: Address, fact: msg.ExtentReturned) -> None:
        self._release(self.ledger.abandon(fact.offset, sender, written=True))

    def _full(self, size: int) -> str:
        """Return what a person needs to know about a full store."""

        def name(object_id: ObjectID) -> str:
            record = self.objects.get(object_id)
            return record.name if record is not None else "the arguments of a task"

        return explain_full(self.ledger, size, name, self.holders_of, self._process_name, self._config.store_full_grace)

    def _process_name(self, where: Address) -> str:
        return "the driver" if where == self._driver else f"worker {process_of(where)}"

    # -- endings, people, tests ------------------------------

    def _on_session_ending(self, sender: Address, fact: msg.SessionEnding) -> None:
        for object_id, record in unheard_failures(self.objects):
            if record.value is not None:
                self._say_unheard(record.name, object_id, record.value)
        self._say(sender, msg.SessionEnded())

    def holders_of(self, object_id: ObjectID) -> list[str]:
        """Return who holds the object, in words."""
        return [self._process_name(p) for p in self.references.holders(object_id)]

    def check_invariants(self) -> None:
        """See ``machine.Machine``."""
        for part in (self.ledger, self.asked, self._extent_requests):
            part.check_invariants()
        mentions = [o for spec in self._tasks.values() for o in (*spec.dependencies, *spec.contained)]
        check_records(self.objects, self.references, mentions, retained={})
