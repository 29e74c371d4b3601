"""The unfinished tasks of a node, from their arrival until they are ready, and their end: what of the local scheduler does not
decide who runs where.

``tasks`` is the table (L1 of ``local_scheduler``); a task with missing arguments waits in an index by object, one that is ready in
the queue of its shape, or, if this node can never run it or not while others hold what it needs, it goes up.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sundog.core import messages as msg
from sundog.core.actions import Send
from sundog.core.config import Config
from sundog.core.dependencies import Dependencies
from sundog.core.errors import InvariantViolation
from sundog.core.ids import Address, NodeID, ObjectID, ProcessID, TaskID, process_of, producer_of
from sundog.core.journal import Journal
from sundog.core.lots import specs_of
from sundog.core.machine import Action
from sundog.core.messages import Result
from sundog.core.pipelines import Pipelines
from sundog.core.ready_queue import ReadyQueues
from sundog.core.resources import ResourceSet
from sundog.core.task import FailureKind, TaskSpec, TaskState, Value, failed
from sundog.core.task_record import FunctionRecord, TaskRecord, set_state, unready
from sundog.core.units import Nanos
from sundog.core.verdicts import epitaph, epitaphs
from sundog.core.worker_pool import WorkerPool

_WAITING, _READY, _SPILLED = TaskState.WAITING, TaskState.READY, TaskState.SPILLED
_DISPATCHED, _FINISHED = TaskState.DISPATCHED, TaskState.FINISHED
#: Stands in the record of a task whose function was never exported, while it fails.
UNKNOWN_FUNCTION = FunctionRecord("", Value(0))


class TaskTable:
    """See the module. ``here`` is this host's address, ``head`` that of the host with the global scheduler."""

    __slots__ = (
        "_actions", "_bytes_max", "_config", "_functions", "_head", "_here", "_node", "_now", "_order", "_paused", "_queues",
        "_retired", "_small_arguments", "_unfinished_max", "_waiting", "argument_bytes", "journal", "pipelines", "pool",
        "resources", "tasks",
    )  # fmt: skip

    def __init__(self, config: Config, node: NodeID, here: Address, head: Address, first: ProcessID) -> None:
        self._config = config
        self._unfinished_max, self._bytes_max = config.submitted_unfinished_max, config.submitted_bytes_max
        self._node, self._here, self._head = node, here, head
        self._now: Nanos = 0
        self.resources = ResourceSet(config.capacity)
        self.pool = WorkerPool(node, first, self.resources, usual=config.worker_count)
        #: L1.
        self.tasks: dict[TaskID, TaskRecord] = {}
        self._waiting: Dependencies[TaskRecord] = Dependencies()
        self._queues = ReadyQueues()
        self.pipelines = Pipelines(config, here, self.pool, self.tasks)
        self._functions = self.pipelines.functions
        self._order = 0
        #: What this step retires.
        self._retired: list[msg.TaskRetired] = []
        #: Bytes of the arguments of unfinished tasks that are in their specs. Small ones need no counting: as many as may be
        #: unfinished have no more than ``submitted_bytes_max`` together.
        self.argument_bytes = 0
        self._small_arguments = config.submitted_bytes_max // max(1, config.submitted_unfinished_max)
        #: Clients that were told to wait with submitting.
        self._paused: dict[Address, None] = {}
        #: Who was born and who is gone, for the control store; None when nobody asks.
        self.journal: Journal | None = None
        self._actions: list[Action] = []

    def _take(self, spec: TaskSpec, submitter: Address) -> TaskRecord:
        self._order = order = self._order + 1
        function = self._functions.get(spec.function_id)
        if function is not None:
            function.keep_once(spec)
        record = TaskRecord(spec, submitter, order, function or UNKNOWN_FUNCTION)
        if spec.dependencies:
            record.values, record.missing = unready(spec.dependencies)
        self._enter(record)
        if function is None:
            self._fail(record, FailureKind.FUNCTION_MISSING, f"function {spec.name} was never exported to this node")
        elif record.missing:
            self._await(record)
        else:
            self._to_ready(record)
        return record

    def _take_lot(self, lot: msg.TasksSubmitted, submitter: Address) -> bool:
        """As ``_take`` for each task of ``lot``, if they can simply run here; else False, and nothing has happened."""
        first = lot.spec
        function, queue = self._functions.get(first.function_id), self._queues.by_shape.get(first.resources)
        if function is None or queue is None or not queue.runs_here or first.priority:
            return False
        function.keep_once(first)
        specs, order = specs_of(lot), self._order + 1
        self._order += len(specs)
        plain = not first.calls_max
        records = [
            TaskRecord(spec, submitter, number, function, (), (), _READY, plain=plain) for number, spec in enumerate(specs, order)
        ]
        self.tasks.update(zip(lot.task_ids, records, strict=True))
        self.argument_bytes += sum([self._counted(spec) for spec in specs]) if lot.arguments or self._counted(first) else 0
        if self.journal is not None:
            self.journal.tasks_born.extend(lot.task_ids)
        self._queues.push_run(records, queue)
        return True

    def _enter(self, record: TaskRecord) -> None:
        """One more task is unfinished."""
        spec = record.spec
        self.tasks[spec.task_id] = record
        if spec.arguments.size > self._small_arguments:
            self.argument_bytes += self._counted(spec)
        if self.journal is not None:
            self.journal.tasks_born.append(spec.task_id)

    def _await(self, record: TaskRecord) -> None:
        """Wait for what is missing; the task may follow where a worker is about to return it (P5)."""
        followed = False
        for object_id in record.missing:
            self._waiting.add(object_id, record)
            producer = self.tasks.get(producer_of(object_id))
            if producer is None:
                continue
            if producer.dependents is None:
                producer.dependents = [record]
            else:
                producer.dependents.append(record)
            if producer.worker is not None and not followed:
                followed = True
                self.pipelines.may_follow(producer.worker, record)

    def _to_ready(self, record: TaskRecord) -> None:
        """Every argument is here. What this node can never run, or not while others hold it, goes up."""
        if record.state is _WAITING:
            record.state = _READY
        elif record.state is not _READY:
            set_state(record, _READY)
        shape, queues = record.spec.resources, self._queues
        queue = queues.by_shape.get(shape)
        if queue is None:
            queue = queues.add(shape, self.resources)
        if not queue.runs_here and not record.assigned and (not queue.feasible or self.resources.busy_beyond_cpus(shape)):
            self._spill(record)
            return
        queues.push(record, queue)

    def _spill(self, record: TaskRecord) -> None:
        set_state(record, _SPILLED)
        self._actions.append(Send(self._head, msg.TaskSpilled(record.spec, record.submitter, record.starts)))

    def _argument_ready(self, record: TaskRecord, object_id: ObjectID, value: Value) -> None:
        if record.state is _FINISHED or object_id not in record.missing:
            return
        missing, values = record.missing, record.values
        if isinstance(missing, dict) and isinstance(values, list):
            values[missing.pop(object_id)] = value
        else:
            record.values, record.missing = (value,), ()
        if value.offset >= 0:
            record.extents = True
        if record.state is not _WAITING:
            return  # it follows its producer in a pipeline already (P5)
        if value.error:
            self._fail_by_argument(record, value)
        elif not record.missing:
            self._to_ready(record)

    def _fail_by_argument(self, record: TaskRecord, value: Value) -> None:
        for object_id in record.missing:
            self._waiting.remove(object_id, record)
        trail = (record.spec.name, *value.trail)
        self._retire(record, (Result(msgspec.structs.replace(value, trail=trail)),), self._here)

    def _retire(self, record: TaskRecord, results: tuple[Result, ...], writer: Address) -> None:
        """The task is over, with values or with an error."""
        if record.state is _DISPATCHED:
            record.state = _FINISHED
        else:
            set_state(record, _FINISHED)
        spec = record.spec
        del self.tasks[spec.task_id]
        if spec.arguments.size > self._small_arguments:
            self.argument_bytes -= self._counted(spec)
        if self.journal is not None:
            ran = self._now - record.dispatched_at if record.sequence else 0
            worker = process_of(writer) if writer != self._here else None
            self.journal.tasks_gone.append(epitaph(record, results, ran, worker, self._node))
        self._retired.append(msg.TaskRetired(spec, results, writer))
        if record.assigned:
            self._end_assigned(record)
        if self._paused:
            self._go_on()

    def _retire_lot(self, records: Sequence[TaskRecord], lot: msg.TasksFinished, writer: Address) -> None:
        """As ``_retire`` for the first tasks of ``lot``, those of ``records``."""
        tasks, small, count = self.tasks, self._small_arguments, len(records)
        for record in records:
            spec = record.spec
            record.state = _FINISHED
            del tasks[spec.task_id]
            if spec.arguments.size > small:
                self.argument_bytes -= self._counted(spec)
        if self.journal is not None:
            self.journal.tasks_gone.extend(epitaphs(records, self._now, process_of(writer), self._node))
        whole = count == len(lot.task_ids)
        task_ids, values = (lot.task_ids, lot.values) if whole else (lot.task_ids[:count], lot.values[:count])
        self._actions.append(Send(self._here, msg.ValuesReturned(task_ids, values, writer)))
        if self._paused:
            self._go_on()

    def _pause(self, client: Address) -> None:
        """Too much is unfinished: the client is to wait with submitting."""
        if client not in self._paused:
            self._paused[client] = None
            self._actions.append(Send(client, msg.SubmissionsPaused(True)))

    def _go_on(self) -> None:
        """Once enough has ended, let those submit again that wait with it."""
        if 10 * len(self.tasks) <= 9 * self._unfinished_max and 10 * self.argument_bytes <= 9 * self._bytes_max:
            self._actions += [Send(client, msg.SubmissionsPaused(False)) for client in self._paused]
            self._paused = {}

    def _end_assigned(self, record: TaskRecord) -> None:
        """What the global scheduler counts on this node for the task is free."""
        self._actions.append(Send(self._head, msg.TaskEnded(record.spec.task_id, self._node)))

    def _fail(self, record: TaskRecord, kind: FailureKind, message: str) -> None:
        if record.state is _SPILLED:
            self._actions.append(Send(self._head, msg.TaskWithdrawn(record.spec.task_id)))
        for object_id in record.missing:
            self._waiting.remove(object_id, record)
        self._retire(record, (Result(failed(kind, message)),), self._here)

    def _again(self, record: TaskRecord) -> None:
        """A dispatched task goes back to where it can be dispatched from."""
        error = next((v for v in record.values if v is not None and v.error), None)
        if error is not None:
            set_state(record, _WAITING)
            self._fail_by_argument(record, error)
        elif record.missing:
            set_state(record, _WAITING)
            for object_id in record.missing:
                producer = self.tasks.get(producer_of(object_id))
                if producer is not None and producer.worker is not None:
                    self.pipelines.may_follow(producer.worker, record)
        else:
            self._to_ready(record)

    def _counted(self, spec: TaskSpec) -> int:
        """Return for how much the task's arguments count in ``argument_bytes``."""
        arguments = spec.arguments
        return arguments.size if arguments.offset == -1 and arguments.size > self._small_arguments else 0

    def _check_argument_bytes(self) -> None:
        counted = sum([self._counted(record.spec) for record in self.tasks.values()])
        if counted != self.argument_bytes:
            raise InvariantViolation(f"unfinished tasks have {counted} bytes of arguments, not {self.argument_bytes}")
