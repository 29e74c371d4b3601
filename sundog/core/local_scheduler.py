"""The machine that decides, on one node, which task runs on which worker, when.

Bottom-up: what can run here runs here; what this node cannot run, or not soon, goes to the global scheduler, which assigns it
back or elsewhere. The parts that keep the books: ``worker_pool`` (who is idle), ``pipelines`` (what lies with each worker),
``blocking`` (whose body waits), ``dependencies`` (who waits for which object), ``ready_queue`` (the order of ready tasks).

Invariants:

* L1. every record in ``tasks`` is unfinished; a finished task leaves it in the step that retires it;
* L2. a READY task has a value for every dependency (S2); a WAITING one misses at least one;
* L3. a DISPATCHED, BLOCKED or RESUMABLE task is in the pipeline of exactly one worker, and only these are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sundog.core import events as ev
from sundog.core import messages as msg
from sundog.core.actions import Send
from sundog.core.blocking import BlockedTasks
from sundog.core.cancellation import Cancellations
from sundog.core.config import Config
from sundog.core.deadlines import NEVER
from sundog.core.explanation import explain, wait_for_blocked
from sundog.core.ids import TASK_ID_BYTES, Address, NodeID, ObjectID, ProcessID, process_of, producer_of
from sundog.core.lots import ends_of, specs_of
from sundog.core.machine import Action, Event, Fact, Handlers, handlers_of
from sundog.core.messages import Result
from sundog.core.pool_size import PoolSize
from sundog.core.ready_queue import ReadyQueue
from sundog.core.resources import Shape
from sundog.core.stalled import find_stalled
from sundog.core.task import FailureKind, TaskState, failed
from sundog.core.task_record import (
    AWAITED_NOW,
    AWAITED_TOGETHER,
    FunctionRecord,
    TaskRecord,
    WorkerRecord,
    WorkerState,
    check_tasks,
    set_state,
)
from sundog.core.task_table import TaskTable
from sundog.core.units import Nanos
from sundog.core.verdicts import crash_message, unborn_message

_WAITING, _READY, _SPILLED = TaskState.WAITING, TaskState.READY, TaskState.SPILLED
_DISPATCHED, _BLOCKED, _RESUMABLE = TaskState.DISPATCHED, TaskState.BLOCKED, TaskState.RESUMABLE
_LEASED = WorkerState.LEASED
_NOTHING: tuple[Action, ...] = ()


class LocalScheduler(TaskTable):
    """See the module. ``here`` is this host's address, ``head`` that of the host with the global scheduler."""

    __slots__ = (
        "_cancellations", "_driver", "_due", "_handlers", "_size", "_stall_at", "_start_refused", "blocking",
    )  # fmt: skip

    HEARS: tuple[type[Fact], ...] = (
        msg.TaskSubmitted, msg.TasksSubmitted, msg.TaskAssigned, msg.TaskInfeasible, msg.FunctionExported, msg.TaskFinished,
        msg.TasksFinished, msg.TaskSkipped,
        msg.ObjectsWanted, msg.TasksDropped, msg.ObjectsLocal, msg.TaskWaits, msg.ResumeRequested, msg.ReturnsUnheld,
        msg.CancelRequested, msg.ExplanationRequested, msg.NodeJoined, ev.WorkerStarted, ev.WorkerStartFailed, ev.WorkerLost,
        ev.TasksReclaimed,
    )  # fmt: skip

    #: States of tasks that may wait for ever, as far as this node can know.
    _UNSTARTED: tuple[TaskState, ...] = (_WAITING, _READY, _SPILLED)

    def __init__(self, config: Config, node: NodeID, here: Address, head: Address, driver: Address, first: ProcessID) -> None:
        super().__init__(config, node, here, head, first)
        self._driver = driver
        self.blocking = BlockedTasks(config, self.pool)
        self._cancellations = Cancellations()
        self._size = PoolSize(config, self.pool, self.resources)
        #: Why the last worker that did not come up did not.
        self._start_refused = ""
        #: When to look for a deadlock, while something is blocked.
        self._stall_at = NEVER
        #: When to decide again even if nothing happens.
        self._due = NEVER
        self._handlers = handlers_of(self)

    def _table(self) -> Handlers:
        return {
            msg.TaskSubmitted: self._on_task_submitted,
            msg.TasksSubmitted: self._on_tasks_submitted,
            msg.TaskAssigned: self._on_task_assigned,
            msg.TaskInfeasible: self._on_task_infeasible,
            msg.FunctionExported: self._on_function_exported,
            msg.TaskFinished: self._on_task_finished,
            msg.TasksFinished: self._on_tasks_finished,
            msg.TaskSkipped: self._on_task_skipped,
            msg.TasksDropped: self._on_tasks_dropped,
            msg.ObjectsLocal: self._on_objects_local,
            msg.ObjectsWanted: self._on_objects_wanted,
            msg.TaskWaits: self._on_task_waits,
            msg.ResumeRequested: self._on_resume_requested,
            msg.ReturnsUnheld: self._on_returns_unheld,
            msg.CancelRequested: self._on_cancel_requested,
            msg.ExplanationRequested: self._on_explanation_requested,
            msg.NodeJoined: self._on_node_joined,
            ev.WorkerStarted: self._on_worker_started,
            ev.WorkerStartFailed: self._on_worker_start_failed,
            ev.WorkerLost: self._on_worker_lost,
            ev.TasksReclaimed: self._on_tasks_reclaimed,
        }

    # -- the door ------------------------------

    def step(self, now: Nanos, events: Iterable[Event]) -> list[Action]:
        """See ``machine.Machine``."""
        return [*self.record(now, events), *self.decide(now)]

    def record(self, now: Nanos, events: Iterable[Event]) -> Sequence[Action]:
        """See ``machine.Decider``."""
        self._now = now
        handlers = self._handlers
        for sender, fact in events:
            handlers[type(fact)](self, sender, fact)
        return self._speak()

    def decide(self, now: Nanos) -> Sequence[Action]:
        """See ``machine.Decider``."""
        self._now = now
        self._due = self._decide(now)
        return self._speak()

    def _speak(self) -> Sequence[Action]:
        """Return and forget what was said, and after it what ended."""
        actions, retired = self._actions, self._retired
        if retired:
            self._retired = []
            actions.append(Send(self._here, retired[0] if len(retired) == 1 else msg.TasksRetired(tuple(retired))))
        elif not actions:
            return _NOTHING
        self._actions = []
        return actions

    def _decide(self, now: Nanos) -> Nanos:
        """Resumes, what follows in pipelines, ready tasks, what follows those, help for the late, then the size of the pool.

        Returns when to decide again even if nothing happens, or NEVER. Most steps bring one fact, and after it little is to be
        decided: each part is asked only if it has something to look at.
        """
        pipelines, pool, queues = self.pipelines, self.pool, self._queues
        if self._cancellations.pending:
            self._cancellations.settle(self.tasks, self._cancel, self._actions)
        if self.blocking.resumable:
            self._actions += self.blocking.resume(now)
        if pipelines.followed:
            pipelines.follow(now)
        short = False
        if queues.filled or queues.lone is not None:
            short = self._run_all(now)
            if pipelines.followed:
                pipelines.follow(now)  # what was ready took its dependents along; the next step may come when it has ended
        due = self._stall_at
        if now >= due:
            due = self._look_for_deadlock()
        if pipelines.deep and pool.idle:
            if not short:
                pipelines.help_late(now)
            due = min(due, pipelines.next_late())
        if self.blocking.resumable:
            due = min(due, self.blocking.next_deadline())
        if pipelines.dispatching or pipelines.before or pipelines.reclaims:
            pipelines.speak(self._actions)
        if short or pool.surplus or self._size.paused_until is not None:
            self._actions += self._size.adjust(now, queues.filled)
            due = min(due, self._size.next_deadline())
        return due

    def _run_all(self, now: Nanos) -> bool:
        """Run what is ready; True if something is left that would fit but finds no worker."""
        queues, record = self._queues, self._queues.lone
        if record is not None:
            queues.lone = None
            if record.state is not _READY:
                return False
            worker = self.pool.lease(record.spec.resources)
            if worker is not None:
                self.pipelines.assign(worker, record, now)
                return False
            queues.line_up(record, queues.by_shape[record.spec.resources])
        if len(queues.by_shape) == 1:
            [(shape, queue)] = queues.filled.items()
            return self._run_ready(shape, queue, now)
        short = False
        for shape, queue in queues.in_order(self.resources, now):
            short = self._run_ready(shape, queue, now) or short
        return short

    def _run_ready(self, shape: Shape, queue: ReadyQueue, now: Nanos) -> bool:
        """Run what is ready of one shape; True if something is left that would fit but finds no worker."""
        pool, pipelines = self.pool, self.pipelines
        while (record := queue.peek()) is not None:
            worker = pool.lease(shape)
            if worker is None:
                pipelines.deepen(shape, queue, record, now)
                return not pool.idle and self.resources.fits(shape) and queue.peek() is not None
            pipelines.assign(worker, record, now)
        self._queues.emptied(shape)
        return False

    def next_deadline(self) -> Nanos | None:
        """See ``machine.Machine``. As of the last decision."""
        due = self._due
        if due > self._now:
            return due if due < NEVER else None
        return self._now + 1

    # -- tasks ------------------------------

    def _on_task_submitted(self, sender: Address, fact: msg.TaskSubmitted) -> None:
        self._take(fact.spec, sender)
        self._bound(sender)

    def _on_tasks_submitted(self, sender: Address, fact: msg.TasksSubmitted) -> None:
        if not self._take_lot(fact, sender):
            for spec in specs_of(fact):
                self._take(spec, sender)
        self._bound(sender)

    def _bound(self, sender: Address) -> None:
        if len(self.tasks) > self._unfinished_max or self.argument_bytes > self._bytes_max:
            self._pause(sender)

    def _on_task_assigned(self, sender: Address, fact: msg.TaskAssigned) -> None:
        record = self.tasks.get(fact.spec.task_id)
        if record is None:
            self._actions.append(Send(self._here, msg.TaskDeclared(fact.spec, fact.submitter)))
            self._take(fact.spec, fact.submitter).assigned = True
        elif record.state is _SPILLED:
            record.assigned = True
            self._to_ready(record)

    def _on_task_infeasible(self, sender: Address, fact: msg.TaskInfeasible) -> None:
        record = self.tasks.get(fact.task_id)
        if record is not None and record.state is _SPILLED:
            self._fail(record, FailureKind.INFEASIBLE, fact.message)

    def _on_function_exported(self, sender: Address, fact: msg.FunctionExported) -> None:
        if fact.function_id not in self.pipelines.functions:
            self.pipelines.functions[fact.function_id] = FunctionRecord(fact.name, fact.code)
            if self.journal is not None:
                self.journal.functions_born.append(fact.function_id)

    def _on_objects_local(self, sender: Address, fact: msg.ObjectsLocal) -> None:
        blocked = self.blocking.blocked
        for ready in fact.objects:
            object_id, value = ready.object_id, ready.value
            assert value is not None
            for record in self._waiting.ready(object_id):
                self._argument_ready(record, object_id, value)
            if blocked:
                self.blocking.ready(object_id, self._now)

    def _on_objects_wanted(self, sender: Address, fact: msg.ObjectsWanted) -> None:
        """The object manager answers; here counts who is in a hurry."""
        tasks, awaited = self.tasks, AWAITED_TOGETHER if fact.patient else AWAITED_NOW
        for object_id in fact.object_ids:
            record = tasks.get(object_id[:TASK_ID_BYTES])  # type: ignore[call-overload]  # producer_of, without the call
            if record is not None and record.awaited < awaited:
                record.awaited = awaited

    # -- execution ------------------------------

    def _on_task_finished(self, sender: Address, fact: msg.TaskFinished) -> None:
        record = self.tasks.get(fact.task_id)
        if record is None or (worker := record.worker) is None or worker.where != sender or record.attempt != fact.attempt:
            self._actions.append(Send(self._here, msg.ResultsRefused(sender, fact.results)))
            return
        if record.state is not _DISPATCHED:
            self._unblock(record)
        if self._size.failures:
            self._size.worked()
        self.pipelines.finished(worker, record, self._now, fact.duration)
        if fact.retryable and record.charges < record.spec.retries_max:
            self._charge(record)
            self._actions.append(Send(self._here, msg.ResultsRefused(sender, fact.results)))
            self._again(record)
        else:
            self._retire(record, fact.results, sender)
        if not worker.pipeline:
            self._settle(worker)

    def _on_tasks_finished(self, sender: Address, fact: msg.TasksFinished) -> None:
        worker = self.pool.workers.get(process_of(sender))
        ended = self.pipelines.finished_lot(worker, fact, self._now) if worker is not None and worker.where == sender else []
        if worker is not None and ended:
            if self._size.failures:
                self._size.worked()
            self._retire_lot(ended, fact, sender)
            if not worker.pipeline:
                self._settle(worker)
        if len(ended) < len(fact.task_ids):
            for finished in ends_of(fact, len(ended)):
                self._on_task_finished(sender, finished)

    def _charge(self, record: TaskRecord) -> None:
        record.starts += 1
        record.charges += 1
        record.attempt += 1

    def _unblock(self, record: TaskRecord) -> None:
        """The body ended although it was blocked: it stopped waiting in some way of its own."""
        self.blocking.force_resume(record)
        if record.state is _BLOCKED:
            set_state(record, _RESUMABLE)
        set_state(record, _DISPATCHED)

    def _settle(self, worker: WorkerRecord) -> None:
        """If the worker's pipeline is empty, what it holds is free."""
        if worker.pipeline or worker.state is not _LEASED or worker.forgetting or worker.reclaiming:
            return
        self.pool.release(worker, self._now)
        if worker.retiring:
            self.pool.stop(worker)
            self._actions.append(Send(worker.where, msg.StopRequested()))

    def _on_task_skipped(self, sender: Address, fact: msg.TaskSkipped) -> None:
        record = self.tasks.get(fact.task_id)
        worker = record.worker if record is not None else None
        if record is None or worker is None or worker.where != sender or record.attempt != fact.attempt:
            return
        self.pipelines.revoke_pins(worker, record)
        self.pipelines.finished(worker, record, self._now, None)
        self._again(record)
        self._settle(worker)

    def _on_tasks_reclaimed(self, sender: Address, fact: ev.TasksReclaimed) -> None:
        worker = self.pool.workers.get(fact.worker)
        if worker is None:
            return
        if not fact.count:  # all have started, as will be heard: asking again at once would bring the same answer
            worker.late_at = worker.asked_in_vain_until = self._now + self._config.head_late_after
        for record in self.pipelines.reclaimed(worker, fact.count):
            self._again(record)
        self._settle(worker)

    def _on_tasks_dropped(self, sender: Address, fact: msg.TasksDropped) -> None:
        worker = self.pool.workers.get(process_of(sender))
        if worker is not None:
            worker.forgetting = False
            self._settle(worker)

    def _on_task_waits(self, sender: Address, fact: msg.TaskWaits) -> None:
        """From the object manager, which left out what is ready."""
        record = self.tasks.get(fact.task_id)
        worker = record.worker if record is not None else None
        if record is None or worker is None:
            return
        if record.state is not _DISPATCHED:
            self._unblock(record)  # it stopped waiting before, in some way of its own
        if fact.count <= 0 or record.expired == fact.request:
            self._actions.append(Send(worker.where, msg.TaskResumed(fact.request)))
            return
        self.blocking.block(record, fact)
        record.function.blocks = True
        self.pipelines.reclaim(worker, len(worker.pipeline) - 1)
        self._hurry(fact.object_ids, record.order)
        if self._stall_at == NEVER:
            self._stall_at = self._now + self._config.stall_after

    def _hurry(self, object_ids: Iterable[ObjectID], order: int) -> None:
        """Put what a blocked task (the ``order``-th) waits for, and what that waits for, before other ready tasks."""
        todo = list(object_ids)
        while todo:
            record = self.tasks.get(producer_of(todo.pop()))
            if record is None or record.urgent >= order:
                continue
            record.urgent = order
            if record.state is _READY:
                self._queues.hurry(record)
            todo.extend(record.missing)

    def _on_resume_requested(self, sender: Address, fact: msg.ResumeRequested) -> None:
        record = self.tasks.get(fact.task_id)
        if record is None or record.worker is None or record.worker.where != sender:
            return
        if record.state is _DISPATCHED:
            record.expired = fact.request  # perhaps its TaskBlocked is still with the object manager
        else:
            self.blocking.out_of_time(record, fact.request, self._now)

    # -- workers ------------------------------

    def _on_node_joined(self, sender: Address, fact: msg.NodeJoined) -> None:
        """The session begins: the step that follows starts the workers."""

    def _on_worker_started(self, sender: Address, fact: ev.WorkerStarted) -> None:
        worker = self.pool.workers.get(fact.worker)
        if worker is not None and worker.state is WorkerState.STARTING:
            self.pool.started(worker, fact.pid, self._now)

    def _on_worker_start_failed(self, sender: Address, fact: ev.WorkerStartFailed) -> None:
        worker = self.pool.workers.get(fact.worker)
        if worker is not None:
            self.pool.lost(worker)
            self._start_failed(fact.reason)

    def _start_failed(self, reason: str) -> None:
        """A worker did not come up: wait a little; if none ever does, what is ready fails rather than hangs."""
        self._start_refused = reason
        text = self._size.start_failed(self._now, reason)
        if text is not None:
            self._actions.append(Send(self._driver, msg.WarningRaised(text)))
        if self._size.hopeless and not self.pool.workers:
            for record in [r for r in self.tasks.values() if r.state is _READY]:
                self._fail(record, FailureKind.WORKER_CRASHED, f"no worker process could be started: {reason}")

    def _on_worker_lost(self, sender: Address, fact: ev.WorkerLost) -> None:
        worker = self.pool.workers.get(fact.worker)
        if worker is None:
            return
        unborn = not fact.started and worker.state is not WorkerState.STOPPING
        self.pool.lost(worker)
        self.pipelines.lost(worker)
        worker.reclaiming = False
        for record in worker.pipeline:
            if record.state is not _DISPATCHED:
                self.blocking.leave(record)
            record.worker, record.expired, record.pins = None, 0, ()
            self._worker_died(record, worker, fact)
        if unborn:
            self._start_failed(unborn_message(fact))

    def _worker_died(self, record: TaskRecord, worker: WorkerRecord, fact: ev.WorkerLost) -> None:
        """Blame only the task that was running; finished ones that were not reported run again uncharged (P3)."""
        sequence = record.sequence
        if sequence <= fact.finished:
            record.starts += 1
            record.attempt += 1
        elif sequence == fact.started:
            self._charge(record)
            if record.charges > record.spec.retries_max:
                message = crash_message(record, worker, fact)
                self._retire(record, (Result(failed(FailureKind.WORKER_CRASHED, message)),), self._here)
                return
        self._again(record)

    # -- cancelling, deadlock, people ------------------------------

    def _on_returns_unheld(self, sender: Address, fact: msg.ReturnsUnheld) -> None:
        """Children of a dead execution that have not started: nobody could ever ask for them."""
        for task_id in fact.task_ids:
            record = self.tasks.get(task_id)
            if record is not None and record.state in (_WAITING, _READY, _SPILLED):
                self._fail(record, FailureKind.CANCELLED, "the task that submitted it died")

    def _on_cancel_requested(self, sender: Address, fact: msg.CancelRequested) -> None:
        for worker in self._cancellations.ask(sender, fact, self.tasks):
            self.pipelines.reclaim(worker, len(worker.pipeline) - 1)

    def _cancel(self, record: TaskRecord) -> bool:
        """Cancel a task that has not started; False if it has."""
        if record.state not in (_WAITING, _READY, _SPILLED):
            return False
        self._fail(record, FailureKind.CANCELLED, f"task {record.spec.name} was cancelled before it started")
        return True

    def _look_for_deadlock(self) -> Nanos:
        """Return when to look again."""
        self._stall_at = NEVER
        if not self.blocking.blocked:
            return NEVER
        self._stall_at = self._now + self._config.stall_after
        if self.pool.starting_count:
            return self._stall_at
        unstarted = self._UNSTARTED
        workers_max, refused = self._config.worker_processes_max, ""
        if self._size.hopeless:  # the system has said more than once that there can be no more than these
            workers_max, refused = len(self.pool.workers), self._start_refused
        found = find_stalled(self.tasks, self.blocking.blocked, self.resources, workers_max, unstarted, refused)
        if found is not None:
            record, chain = found
            self.blocking.refuse(record, failed(FailureKind.DEADLOCK, chain), self._now)
            self._actions += self.blocking.resume(self._now)
        return self._stall_at

    def _on_explanation_requested(self, sender: Address, fact: msg.ExplanationRequested) -> None:
        text = explain(self.tasks, self.resources, fact.object_ids, self._now)
        blocked = wait_for_blocked(self.tasks, fact.object_ids)
        self._actions.append(Send(sender, msg.ExplanationGiven(fact.request, text, blocked)))

    def check_invariants(self) -> None:
        """See ``machine.Machine``."""
        self.resources.check_invariants()
        self.pool.check_invariants()
        check_tasks(self.tasks, self.pool.workers.values())
        self.blocking.check_invariants(self.tasks)
        self._check_argument_bytes()
