"""What lies in the workers' pipelines: how deep they may be, what follows what, and what is taken back.

A pipeline holds as much work as hides the round trip to the node (``config.pipeline_work_max``), measured by each function's
mean duration. What a worker has not started can be taken back at any moment by its tokens (P1): when its head blocks, or is
late while another worker idles, or might on another node. A task may follow one whose return it needs on the same worker (P5).

Invariant P: for each worker, tokens given - tokens taken back - tasks started = tasks of the pipeline not started, so the last
k tokens taken back are those of the last k tasks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import msgspec

from sundog.core import messages as msg
from sundog.core.actions import Dispatch, ReclaimTasks, Send
from sundog.core.config import Config
from sundog.core.dependencies import Dependencies
from sundog.core.ids import Address, FunctionID, ObjectID, TaskID, producer_of, return_ids
from sundog.core.machine import Action
from sundog.core.messages import RunTask
from sundog.core.ready_queue import ReadyQueue
from sundog.core.resources import Shape
from sundog.core.task import TaskSpec, TaskState, Value, arguments_id
from sundog.core.task_record import TaskRecord, WorkerRecord, WorkerState, set_state
from sundog.core.units import Nanos
from sundog.core.worker_pool import WorkerPool

_WAITING = TaskState.WAITING
_DISPATCHED = TaskState.DISPATCHED


class FunctionRecord(msgspec.Struct):
    """An exported function, and what the node has learnt of it."""

    name: str
    code: Value
    #: Smoothed duration of its body; None until it has run once here.
    mean: Nanos | None = None
    calls: int = 0


class Pipelines:
    """See the module."""

    def __init__(
        self,
        config: Config,
        here: Address,
        pool: WorkerPool,
        tasks: Mapping[TaskID, TaskRecord],
        waiting: Dependencies[TaskRecord],
    ) -> None:
        self._config = config
        self._here = here
        self._pool = pool
        #: All unfinished tasks, and who waits for which object; the local scheduler's.
        self._tasks = tasks
        self._waiting = waiting
        self.functions: dict[FunctionID, FunctionRecord] = {}
        #: Other nodes could run what lies behind a late head here.
        self.others = False
        #: What this step dispatches, by worker; and what must be said before.
        self._runs: dict[int, tuple[WorkerRecord, list[RunTask]]] = {}
        self._before: list[Action] = []
        self._reclaims: list[Action] = []

    # -- filling --------------------------------------------------------------------------------------------------------------

    def assign(self, worker: WorkerRecord, record: TaskRecord, now: Nanos, *, follows: bool = False) -> None:
        """Put ``record`` at the end of the worker's pipeline."""
        spec = record.spec
        function = self.functions[spec.function_id]
        if not worker.pipeline:
            worker.work = 0
            worker.followed = False
        set_state(record, _DISPATCHED)
        worker.sequence += 1
        record.worker, record.sequence, record.dispatched_at = worker, worker.sequence, now
        record.estimate = function.mean or 0
        record.oldest_needed = worker.sequence
        if follows:
            worker.followed = True
            record.oldest_needed = min([self._tasks[producer_of(o)].sequence for o in record.missing])
        worker.pipeline.append(record)
        worker.work += record.estimate
        if len(worker.pipeline) <= 2:
            worker.late_at = now + self._config.head_late_after + worker.work
        self._introduce(worker, spec, function)
        if spec.dependencies or spec.arguments.offset >= 0:
            record.pins = pinned(record)
            if record.pins:
                self._before.append(Send(self._here, msg.PinsTaken(worker.where, record.pins)))
        run = RunTask(spec, record.attempt, record.starts + 1, worker.sequence, tuple(record.values))
        entry = self._runs.get(worker.worker)
        if entry is None:
            self._runs[worker.worker] = (worker, [run])
        else:
            entry[1].append(run)
        if len(self._waiting):
            self._find_followers(worker, spec)

    def _introduce(self, worker: WorkerRecord, spec: TaskSpec, function: FunctionRecord) -> None:
        """See that the worker has the function, and count its calls where they are limited."""
        if spec.function_id not in worker.functions:
            worker.functions[spec.function_id] = None
            delivered = msg.FunctionDelivered(spec.function_id, function.name, function.code)
            self._before.append(Send(worker.where, delivered))
        if spec.calls_max:
            calls = worker.calls[spec.function_id] = worker.calls.get(spec.function_id, 0) + 1
            if calls >= spec.calls_max:
                worker.retiring = True

    def _find_followers(self, worker: WorkerRecord, spec: TaskSpec) -> None:
        for object_id in return_ids(spec.task_id, spec.return_count):
            worker.followers.extend([r for r in self._waiting.waiting_for(object_id) if r.state is _WAITING])

    def room(self, worker: WorkerRecord, record: TaskRecord) -> bool:
        """Tell whether the pipeline of a leased worker has room for ``record`` behind what is there."""
        depth = len(worker.pipeline)
        config = self._config
        if depth >= config.pipeline_depth_max or not worker.takes():
            return False
        mean = self.functions[record.spec.function_id].mean
        if mean is None or self.functions[worker.pipeline[-1].spec.function_id].mean is None:
            return depth == 0  # a function never seen: one in flight per worker
        return depth < config.pipeline_depth_min or worker.work + mean <= config.pipeline_work_max

    def _half_full(self, worker: WorkerRecord) -> bool:
        """Refilling waits until a pipeline is half empty, so that what is dispatched travels in batches."""
        depth = len(worker.pipeline)
        config = self._config
        if depth <= config.pipeline_depth_min:
            return False
        return 2 * worker.work > config.pipeline_work_max or 2 * depth > config.pipeline_depth_max

    def follow(self, now: Nanos) -> None:
        """Dispatch tasks behind those whose returns they need, where there is room (P5)."""
        for group in self._pool.leased.values():
            for worker in group.values():
                if worker.followers and worker.pipeline and not self._half_full(worker):
                    self._follow(worker, now)

    def _follow(self, worker: WorkerRecord, now: Nanos) -> None:
        followers = worker.followers
        while followers:
            record = followers[0]
            if record.state is not _WAITING or not self._can_follow(worker, record):
                followers.popleft()
            elif self.room(worker, record):
                followers.popleft()
                self.assign(worker, record, now, follows=True)
            else:
                return

    def _can_follow(self, worker: WorkerRecord, record: TaskRecord) -> bool:
        """Every missing argument is a return of an unfinished task in this worker's pipeline, and the shapes agree."""
        if record.spec.resources != worker.shape or record.spec.calls_max:
            return False
        tasks = self._tasks
        for object_id in record.missing:
            producer = tasks.get(producer_of(object_id))
            if producer is None or producer.worker is not worker:
                return False
        return True

    def deepen(self, shape: Shape, queue: ReadyQueue, now: Nanos) -> None:
        """Spread ready tasks of ``shape`` over the pipelines of the workers that hold it, evenly, as far as there is room."""
        group = self._pool.leased.get(shape)
        if not group:
            return
        share = -(-len(queue) // len(group))
        for worker in group.values():
            if self._half_full(worker):
                continue
            for _ in range(share):
                record = queue.peek()
                if record is None:
                    return
                if not self.room(worker, record):
                    break
                self.assign(worker, record, now)

    # -- emptying --------------------------------------------------------------------------------------------------------------

    def finished(self, record: TaskRecord, now: Nanos) -> None:
        """The task left its pipeline by being run (or skipped)."""
        worker = record.worker
        assert worker is not None
        pipeline = worker.pipeline
        if pipeline[0] is record:
            pipeline.popleft()
        else:
            pipeline.remove(record)
        worker.work -= record.estimate
        record.worker = None
        if pipeline:
            worker.late_at = now + self._config.head_late_after + worker.work
        elif worker.state is WorkerState.LEASED:
            worker.work = 0

    def learn(self, function_id: FunctionID, duration: Nanos) -> None:
        """A body of this function took ``duration``."""
        function = self.functions[function_id]
        function.calls += 1
        if function.mean is None:
            function.mean = duration
        else:
            # One preemption must not make a function of microseconds pass for one of milliseconds.
            bounded = min(duration, 4 * function.mean + self._config.flush_before_body)
            function.mean += (bounded - function.mean) >> self._config.mean_shift

    def reclaim(self, worker: WorkerRecord, count: int) -> None:
        """Ask for the tokens of up to ``count`` tasks at the end of the pipeline."""
        if count > 0 and not worker.reclaiming and not worker.forgetting:
            worker.reclaiming = True
            self._reclaims.append(ReclaimTasks(worker.worker, count))

    def reclaimed(self, worker: WorkerRecord, count: int) -> list[TaskRecord]:
        """``count`` tokens were taken back: remove and return the tasks they belonged to, first in order first."""
        worker.reclaiming = False
        back: deque[TaskRecord] = deque()
        for _ in range(min(count, len(worker.pipeline))):
            record = worker.pipeline.pop()
            worker.work -= record.estimate
            back.appendleft(record)
            self.revoke_pins(worker, record)
            record.worker = None
            if record.spec.calls_max:
                worker.calls[record.spec.function_id] -= 1
                worker.retiring = False
        if back:
            worker.forgetting = True
            worker.followers.clear()
            self._before.append(Send(worker.where, msg.TasksForgotten(back[0].sequence - 1, worker.sequence)))
        return list(back)

    def revoke_pins(self, worker: WorkerRecord, record: TaskRecord) -> None:
        """The task will not run there: the grants that went with it come back."""
        if record.pins:
            self._before.append(Send(self._here, msg.PinsRevoked(worker.where, record.pins)))
            record.pins = ()

    def help_late(self, now: Nanos) -> None:
        """An idle worker and nothing ready: take back what lies behind a head that is long or late."""
        if not self._pool.idle:
            return
        for worker in self._behind():
            function = self.functions[worker.pipeline[0].spec.function_id]
            long = (function.mean or 0) >= self._config.pipeline_work_max
            if long or now >= worker.late_at:
                self.reclaim(worker, len(worker.pipeline) - 1)

    def next_late(self) -> Nanos | None:
        """Return when the next head is late, if that matters now."""
        if not self._pool.idle:
            return None
        return min((worker.late_at for worker in self._behind()), default=None)

    def free_tails(self, now: Nanos) -> None:
        """Other nodes may be idle: take back what lies behind a head that is late, to be offered to them."""
        for worker in self._tails():
            if now >= self._hopeless_at(worker):
                self.reclaim(worker, len(worker.pipeline) - 1)

    def next_tail(self) -> Nanos | None:
        """Return when :meth:`free_tails` has something to do if nothing happens."""
        return min([self._hopeless_at(worker) for worker in self._tails()], default=None)

    def lateness(self, now: Nanos) -> Nanos:
        """Return how late every worker's head is at least; 0 if some worker is in time."""
        late_at = [worker.late_at for group in self._pool.leased.values() for worker in group.values() if worker.pipeline]
        return max(0, now - max(late_at, default=now))

    def _hopeless_at(self, worker: WorkerRecord) -> Nanos:
        return worker.late_at + self._config.offer_after

    def _tails(self) -> list[WorkerRecord]:
        """Return the workers that have something behind their head which another node could be given."""
        return [
            worker
            for group in self._pool.leased.values()
            for worker in group.values()
            if len(worker.pipeline) > 1 and not worker.pipeline[-1].assigned and worker.takes()
        ]

    def _behind(self) -> list[WorkerRecord]:
        """Return the workers that have something behind their head which another could run."""
        free = self._pool.resources_fit
        return [
            worker
            for shape, group in self._pool.leased.items()
            if group and free(shape)
            for worker in group.values()
            if len(worker.pipeline) > 1 and worker.takes()
        ]

    # -- speaking -----------------------------------------------------------------------------------------------------------------

    def actions(self) -> list[Action]:
        """Return and forget what this step says: first what must come before, then dispatches, then reclaims."""
        actions = self._before
        self._before = []
        for worker, runs in self._runs.values():
            pipeline = worker.pipeline
            # Without followers a task needs nothing before itself, and the head is the oldest.
            oldest = min([r.oldest_needed for r in pipeline]) if worker.followed else pipeline[0].oldest_needed
            actions.append(Dispatch(worker.worker, tuple(runs), oldest - 1))
        if self._runs:
            self._runs = {}
        if self._reclaims:
            actions += self._reclaims
            self._reclaims = []
        return actions


def pinned(record: TaskRecord) -> tuple[ObjectID, ...]:
    """Return the IDs of what the task reads from the arena: one grant each goes with its dispatch.

    Not of what a task ahead of it returns (P5): that comes without a grant, and its worker asks for one.
    """
    spec = record.spec
    pins = [o for o, v in zip(spec.dependencies, record.values, strict=True) if v is not None and v.offset >= 0]
    if spec.arguments.offset >= 0:
        pins.append(arguments_id(spec.task_id))
    return tuple(pins)
