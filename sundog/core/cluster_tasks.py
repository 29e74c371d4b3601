"""The local scheduler of a node in a cluster: it also gives tasks away, takes those of others, and tells the head how it is doing.

What :class:`~sundog.core.local_scheduler.LocalScheduler` does not do, and a node alone never pays for:

* ready tasks whose turn would come late are offered to the global scheduler (``offers``), and tasks that wait for something large
  that lies elsewhere, before it is brought here. Their records stay, SPILLED, until they are settled, and so do their arguments;
* a task that was assigned is taken like one's own, with its arguments brought here; the object manager tells the head of its end;
* every ``config.heartbeat_every`` the head hears LoadReported, once there is anybody but the head.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sundog.core import messages as msg
from sundog.core.actions import Send
from sundog.core.config import Config
from sundog.core.deadlines import NEVER
from sundog.core.ids import Address, NodeID, ObjectID, ProcessID, TaskID, node_of
from sundog.core.local_scheduler import LocalScheduler
from sundog.core.machine import Action, Handlers
from sundog.core.offers import Offers
from sundog.core.recovery import Service
from sundog.core.task import FailureKind, TaskState, Value, arguments_id
from sundog.core.task_record import Missing, TaskRecord, Values, set_state, unready
from sundog.core.task_table import UNKNOWN_FUNCTION
from sundog.core.units import Nanos

_WAITING, _READY, _SPILLED = TaskState.WAITING, TaskState.READY, TaskState.SPILLED
#: In place of an index into ``TaskRecord.values``: the task misses its arguments themselves.
_ARGUMENTS = -1


class ClusterScheduler(LocalScheduler):
    """See the module."""

    __slots__ = (
        "_asked_by", "_mean", "_offers", "_peers", "_report_at", "_reported_at", "foreign",
    )  # fmt: skip

    HEARS = (*LocalScheduler.HEARS, msg.TaskSettled, msg.TaskWithdrawn, msg.ObjectsElsewhere, msg.NodeLost, msg.ServiceRestarted)
    #: What was spilled is on its way as far as this node can know.
    _UNSTARTED = (_WAITING, _READY)

    def __init__(self, config: Config, node: NodeID, here: Address, head: Address, driver: Address, first: ProcessID) -> None:
        super().__init__(config, node, here, head, driver, first)
        #: Tasks of other nodes that are here, as they were assigned.
        self.foreign: dict[TaskID, msg.TaskAssigned] = {}
        #: A global scheduler that begins anew is to hear of all tasks: its incarnation.
        self._asked_by: int | None = None
        #: Others that are known: to the head all, to the rest the head.
        self._peers: dict[NodeID, None] = {} if head == here else {node_of(head): None}
        self.pipelines.others = bool(self._peers)
        self._offers = Offers(config, self.pool, self.resources)
        self._queues.noted = self._offers.fresh
        #: When the head hears of this node's load; never while the head is alone.
        self._report_at: Nanos = NEVER if head == here else 0
        self._due = self._report_at
        self._reported_at: Nanos = 0
        self._mean: Nanos = 0

    def _table(self) -> Handlers:
        return super()._table() | {
            msg.TaskSettled: self._on_task_settled,
            msg.TaskWithdrawn: self._on_task_withdrawn,
            msg.ObjectsElsewhere: self._on_objects_elsewhere,
            msg.NodeLost: self._on_node_lost,
            msg.ServiceRestarted: self._on_service_restarted,
        }

    # -- the door ------------------------------

    def decide(self, now: Nanos) -> Sequence[Action]:
        """See ``machine.Decider``."""
        self._now = now
        pipelines, offers = self.pipelines, self._offers
        if pipelines.deep and self._peers:
            pipelines.free_tails(now)
        due = self._decide(now)
        if offers.fresh or offers.queues:
            self._offer(now)
            due = min(due, offers.again_at)
        if pipelines.deep and self._peers:
            due = min(due, pipelines.next_tail())
        report_at = self._report_at
        if now >= report_at:
            report_at = self._report(now)
        self._due = due if due < report_at else report_at
        return self._speak() if self._asked_by is None else self._answer(self._asked_by)

    def _report(self, now: Nanos) -> Nanos:
        """Tell the head how this node is doing. Returns when to do so again."""
        self._report_at = now + self._config.heartbeat_every
        self._reported_at = now
        free = tuple([(name, max(0, amount)) for name, amount in self.resources.free.items()])
        # As long as a body of a function that was quick so far runs, what the node has measured is not true.
        mean = max(self._mean, self.pipelines.lateness(now))
        report = msg.LoadReported(self._node, free, len(self._offers) + self.pipelines.behind(), mean)
        self._actions.append(Send(self._head, report))
        return self._report_at

    # -- giving away ------------------------------

    def _offer(self, now: Nanos) -> None:
        """Let go, if there are others, of ready tasks whose turn would come late."""
        if not self._peers:
            self._offers.update()
            self._offers.again_at = NEVER
            return
        offered = self._offers.choose(now)
        if offered and now - self._reported_at >= self._config.offer_after:
            self._report(now)  # else this node would look idler than it is
        for record in offered:
            if record.state is _READY:  # not if it is there twice
                self._spill(record)

    def _spill(self, record: TaskRecord) -> None:
        set_state(record, _SPILLED)
        self._actions.append(Send(self._here, msg.TaskLeaving(record.spec, record.submitter, record.starts)))

    def _on_objects_elsewhere(self, sender: Address, fact: msg.ObjectsElsewhere) -> None:
        """What a task waits for is on another node: bring it, or go there."""
        needed: list[ObjectID] = []
        for object_id, size in fact.objects:
            wanted = self.blocking.ready_elsewhere(object_id, self._now)
            for record in list(self._waiting.waiting_for(object_id)):
                if record.state is not _WAITING:
                    continue
                if self._peers and not record.assigned and size > self._config.inline_bytes_max:
                    self._spill(record)
                else:
                    wanted = True
            if wanted:
                needed.append(object_id)
        if needed:
            self._actions.append(Send(self._here, msg.ObjectsNeeded(tuple(needed))))

    def _on_task_settled(self, sender: Address, fact: msg.TaskSettled) -> None:
        record = self.tasks.get(fact.task_id)
        if record is None or record.state is not _SPILLED:
            return
        for object_id in record.missing:
            self._waiting.remove(object_id, record)
        self._retire(record, fact.results, self._here)

    # -- taking ------------------------------

    def _on_task_assigned(self, sender: Address, fact: msg.TaskAssigned) -> None:
        record = self.tasks.get(fact.spec.task_id)
        if record is not None:
            if record.state is _SPILLED:
                record.assigned = True
                record.starts = max(record.starts, fact.starts)  # a lost node may have begun it, and named what it created
                if record.missing:
                    self._actions.append(Send(self._here, msg.ObjectsNeeded(tuple(record.missing))))
                self._again(record)
        elif node_of(fact.submitter) != self._node or fact.rebuild:
            self._take_foreign(fact)
        else:  # it was cancelled meanwhile
            self._actions.append(Send(self._head, msg.TaskEnded(fact.spec.task_id, self._node)))

    def _take_foreign(self, fact: msg.TaskAssigned) -> None:
        spec = fact.spec
        self._actions.append(Send(self._here, msg.TaskDeclared(spec, fact.submitter, fact.rebuild)))
        self._order += 1
        values: Values = ()
        missing: Missing = ()
        if spec.dependencies:
            values, missing = unready(spec.dependencies)
        if spec.arguments.offset >= 0:
            places = {object_id: index for index, object_id in enumerate(spec.dependencies)}
            values, missing = [None] * len(places), {**places, arguments_id(spec.task_id): _ARGUMENTS}
        function = self.pipelines.functions.get(spec.function_id)
        record = TaskRecord(
            spec, fact.submitter, self._order, function or UNKNOWN_FUNCTION, values, missing, starts=fact.starts, assigned=True
        )
        self._enter(record)
        self.foreign[spec.task_id] = fact
        if function is None:
            self._fail(record, FailureKind.FUNCTION_MISSING, f"function {spec.name} was never exported to this session")
        elif missing:
            self._await(record)
        else:
            self._to_ready(record)

    def _argument_ready(self, record: TaskRecord, object_id: ObjectID, value: Value) -> None:
        missing = record.missing
        if type(missing) is not dict or missing.get(object_id) != _ARGUMENTS:
            super()._argument_ready(record, object_id, value)
            return
        del missing[object_id]
        if record.state is not _WAITING:
            return
        if value.error:
            self._fail_by_argument(record, value)
            return
        record.spec = msgspec.structs.replace(record.spec, arguments=value)
        self.argument_bytes += self._counted(record.spec)
        if not record.missing:
            self._to_ready(record)

    def _end_assigned(self, record: TaskRecord) -> None:
        if self.foreign.pop(record.spec.task_id, None) is None:
            super()._end_assigned(record)  # of others' tasks the object manager tells, with the results

    def _on_task_withdrawn(self, sender: Address, fact: msg.TaskWithdrawn) -> None:
        record = self.tasks.get(fact.task_id)
        if record is not None and fact.task_id in self.foreign and record.state in (_WAITING, _READY):
            self._fail(record, FailureKind.CANCELLED, f"task {record.spec.name} was cancelled before it started")

    # -- the cluster ------------------------------

    def _on_function_exported(self, sender: Address, fact: msg.FunctionExported) -> None:
        super()._on_function_exported(sender, fact)
        if self._head != self._here and node_of(sender) == self._node:
            self._actions.append(Send(self._head, fact))

    def _on_task_finished(self, sender: Address, fact: msg.TaskFinished) -> None:
        mean = self._mean
        self._mean = mean + ((fact.duration - mean) >> self._config.mean_shift) if mean else fact.duration
        super()._on_task_finished(sender, fact)

    def _on_node_joined(self, sender: Address, fact: msg.NodeJoined) -> None:
        super()._on_node_joined(sender, fact)
        if fact.node != self._node:
            self._peers[fact.node] = None
            self.pipelines.others = True
            if self._report_at == NEVER:
                self._report_at = self._now

    def _on_service_restarted(self, sender: Address, fact: msg.ServiceRestarted) -> None:
        if fact.service == Service.GLOBAL_SCHEDULER:
            self._asked_by = fact.incarnation

    def _answer(self, incarnation: int) -> list[Action]:
        """For a global scheduler that begins anew, behind all that this step says: functions and load, and the tasks."""
        actions = list(self._speak())
        self._asked_by = None
        self._actions += [
            Send(self._head, msg.FunctionExported(function_id, function.name, function.code))
            for function_id, function in self.pipelines.functions.items()
        ]
        spilled = [msg.TaskSpilled(r.spec, r.submitter, r.starts) for r in self.tasks.values() if r.state is _SPILLED]
        listed = msg.TasksListed(incarnation, tuple(spilled), tuple(self.foreign.values()))
        self._actions.append(Send(self._here, listed))
        if self._report_at < NEVER:
            self._report(self._now)
        return [*actions, *self._speak()]

    def _on_node_lost(self, sender: Address, fact: msg.NodeLost) -> None:
        self._peers.pop(fact.node, None)
        self.pipelines.others = bool(self._peers)
