"""Tasks whose body waits in get or wait (P2): they give back their CPUs, and take them again before they go on.

RUNNING -TaskBlocked-> BLOCKED -enough is ready-> RESUMABLE -grant-> running. Resumes go before all new work; a task that finds
no free CPU for ``config.overdraft_after`` is granted it as overdraft, counted apart. GPUs and custom resources are kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from heapq import heapify, heappop, heapreplace

from sundog.core import messages as msg
from sundog.core.actions import Send
from sundog.core.config import Config
from sundog.core.deadlines import NEVER
from sundog.core.dependencies import Dependencies
from sundog.core.errors import InvariantViolation
from sundog.core.ids import ObjectID, TaskID
from sundog.core.machine import Action
from sundog.core.resources import Shape, only_cpu
from sundog.core.task import TaskState, Value
from sundog.core.task_record import Blocking, TaskRecord, WorkerState, set_state
from sundog.core.units import Nanos
from sundog.core.worker_pool import WorkerPool


class BlockedTasks:
    """See the module."""

    def __init__(self, config: Config, pool: WorkerPool) -> None:
        self._config = config
        self._pool = pool
        self._waiting: Dependencies[TaskRecord] = Dependencies()
        #: BLOCKED tasks, in the order of their blocking.
        self.blocked: dict[TaskID, TaskRecord] = {}
        #: RESUMABLE tasks by the CPUs that they need, each with its place in the order in which they became so. One that no
        #: longer waits in this way (its ``blocking`` is another) is dropped when it is first. No queue is empty.
        self.resumable: dict[Shape, deque[tuple[int, TaskRecord, Blocking]]] = {}
        self._order = 0

    def block(self, record: TaskRecord, fact: msg.TaskWaits) -> None:
        """DISPATCHED -> BLOCKED."""
        worker = record.worker
        assert worker is not None
        set_state(record, TaskState.BLOCKED)
        record.blocking = Blocking(fact.request, dict.fromkeys(fact.object_ids), fact.count, fact.deliver)
        self.blocked[record.spec.task_id] = record
        for object_id in fact.object_ids:
            self._waiting.add(object_id, record)
        self._pool.block(worker)

    def ready(self, object_id: ObjectID, now: Nanos) -> None:
        """An object is here: whoever waited for it may have enough."""
        for record in self._waiting.ready(object_id):
            blocking = record.blocking
            if blocking is not None and blocking.missing.pop(object_id, 0) is None:
                blocking.count -= 1
                if blocking.count <= 0 and record.state is TaskState.BLOCKED:
                    self._to_resumable(record, now)

    def ready_elsewhere(self, object_id: ObjectID, now: Nanos) -> bool:
        """An object is on another node: that is enough for a wait. True if a get needs it here."""
        needed = False
        for record in list(self._waiting.waiting_for(object_id)):
            blocking = record.blocking
            if blocking is None or blocking.deliver:
                needed = True
                continue
            self._waiting.remove(object_id, record)
            if blocking.missing.pop(object_id, 0) is None:
                blocking.count -= 1
                if blocking.count <= 0 and record.state is TaskState.BLOCKED:
                    self._to_resumable(record, now)
        return needed

    def out_of_time(self, record: TaskRecord, request: int, now: Nanos) -> None:
        """The wait of ``request`` expired: resume although not everything is ready."""
        if record.state is TaskState.BLOCKED and record.blocking is not None and record.blocking.request == request:
            self._to_resumable(record, now)

    def refuse(self, record: TaskRecord, failure: Value, now: Nanos) -> None:
        """The task's wait can never end: it gets its CPUs again, and ``failure`` instead of what it waited for."""
        assert record.blocking is not None
        record.blocking.failure = failure
        self._to_resumable(record, now)

    def _to_resumable(self, record: TaskRecord, now: Nanos) -> None:
        worker, blocking = record.worker, record.blocking
        assert worker is not None
        assert blocking is not None
        self._stop_waiting(record)
        del self.blocked[record.spec.task_id]
        set_state(record, TaskState.RESUMABLE)
        blocking.resumable_at = now
        self._order += 1
        self.resumable.setdefault(only_cpu(worker.shape), deque()).append((self._order, record, blocking))

    def _stop_waiting(self, record: TaskRecord) -> None:
        if record.blocking is not None:
            for object_id in record.blocking.missing:
                self._waiting.remove(object_id, record)
            record.blocking.missing = {}

    def resume(self, now: Nanos) -> list[Action]:
        """Grant CPUs to resumable tasks, oldest first: those that are free, or overdraft to those that waited long.

        Where the first of those that need the same CPUs does not go on, none behind it would.
        """
        queues = self.resumable
        actions: list[Action] = []
        if len(queues) == 1:
            firsts = list(enumerate(queues))
        else:
            firsts = [(queue[0][0], cpus) for cpus, queue in queues.items()]
            heapify(firsts)
        while firsts:
            cpus = firsts[0][1]
            queue = queues[cpus]
            _, record, blocking = queue[0]
            if record.blocking is blocking:
                if now - blocking.resumable_at < self._config.overdraft_after and not self._pool.resources_fit(cpus):
                    heappop(firsts)
                    continue
                actions.append(self._resume(record, blocking))
            queue.popleft()
            if queue:
                heapreplace(firsts, (queue[0][0], cpus))
            else:
                heappop(firsts)
                del queues[cpus]
        return actions

    def _resume(self, record: TaskRecord, blocking: Blocking) -> Action:
        """RESUMABLE -> DISPATCHED."""
        worker = record.worker
        assert worker is not None
        self._pool.unblock(worker)
        set_state(record, TaskState.DISPATCHED)
        record.blocking = None
        if blocking.failure is None:
            return Send(worker.where, msg.TaskResumed(blocking.request))
        return Send(worker.where, msg.RequestRefused(blocking.request, blocking.failure))

    def leave(self, record: TaskRecord) -> None:
        """The task is over, or its worker died, while it was blocked or resumable; the pool is told by the caller."""
        self._stop_waiting(record)
        self.blocked.pop(record.spec.task_id, None)
        record.blocking = None

    def next_deadline(self) -> Nanos:
        """Return when the next overdraft is due, or NEVER."""
        first = min([queue[0][2].resumable_at for queue in self.resumable.values()], default=NEVER)
        return first + self._config.overdraft_after if first < NEVER else NEVER

    def force_resume(self, record: TaskRecord) -> None:
        """A task went on without its grant (it must have failed in its own thread): take its CPUs again."""
        worker = record.worker
        assert worker is not None
        self.leave(record)
        if worker.state is WorkerState.BLOCKED:
            self._pool.unblock(worker)

    def check_invariants(self, tasks: Mapping[TaskID, TaskRecord]) -> None:
        """Raise InvariantViolation unless those of ``tasks`` that are blocked or resumable are here, oldest first."""
        if {t for t, record in tasks.items() if record.state is TaskState.BLOCKED} != self.blocked.keys():
            raise InvariantViolation("blocked tasks differ from those in this state")
        here = {record.spec.task_id for queue in self.resumable.values() for _, record, b in queue if record.blocking is b}
        if {t for t, record in tasks.items() if record.state is TaskState.RESUMABLE} != here:
            raise InvariantViolation("resumable tasks differ from those in this state")
        for queue in self.resumable.values():
            ages = [(order, blocking.resumable_at) for order, _, blocking in queue]
            if not ages or ages != sorted(ages) or [at for _, at in ages] != sorted([at for _, at in ages]):
                raise InvariantViolation("resumable tasks are not in the order in which they became so")
