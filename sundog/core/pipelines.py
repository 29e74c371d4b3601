"""What lies in the workers' pipelines: how deep they may be, what follows what, and what is taken back.

A pipeline holds as much work as hides the round trip to the node (``config.pipeline_work_max``), measured by each function's
mean duration; nothing is put behind a body that is long (``config.pipeline_long_body``). Tasks that a driver awaits together lie
deeper while much is ready, and their workers may hold results for a while (``RunTask.patient``), which nobody misses: each packet
costs the node a wake-up, and a core that bodies could have. What a worker has not started can be
taken back at any moment by its tokens (P1): when its head blocks, or is late while another worker idles, or might on another
node. A task may follow one whose return it needs on the same worker (P5).

Invariant P: for each worker, tokens given - tokens taken back - tasks started = tasks of the pipeline not started, so the last
k tokens taken back are those of the last k tasks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from sundog.core import messages as msg
from sundog.core.actions import Dispatch, ReclaimTasks, Send
from sundog.core.config import Config
from sundog.core.deadlines import NEVER
from sundog.core.ids import Address, FunctionID, ObjectID, ProcessID, TaskID, producer_of
from sundog.core.machine import Action
from sundog.core.messages import RunTask
from sundog.core.ready_queue import ReadyQueue
from sundog.core.resources import Shape
from sundog.core.task import TaskSpec, TaskState, arguments_id
from sundog.core.task_record import AWAITED_TOGETHER, FunctionRecord, TaskRecord, WorkerRecord, WorkerState
from sundog.core.units import Nanos
from sundog.core.worker_pool import WorkerPool

_WAITING, _DISPATCHED = TaskState.WAITING, TaskState.DISPATCHED
_LEASED = WorkerState.LEASED


class Pipelines:
    """See the module."""

    def __init__(self, config: Config, here: Address, pool: WorkerPool, tasks: Mapping[TaskID, TaskRecord]) -> None:
        self._depth_min, self._depth_max = config.pipeline_depth_min, config.pipeline_depth_max
        self._work_max, self._late_after = config.pipeline_work_max, config.head_late_after
        self._work_patient, self._backlog_part = config.pipeline_work_patient, config.pipeline_backlog_part
        self._mean_shift, self._duration_slack = config.mean_shift, config.flush_before_body
        self._offer_after, self._long_body = config.offer_after, config.pipeline_long_body
        #: Whether other nodes are known, which could run what is late here.
        self.others = False
        self._here = here
        self._pool = pool
        #: All unfinished tasks; the local scheduler's.
        self._tasks = tasks
        self.functions: dict[FunctionID, FunctionRecord] = {}
        #: Workers with more than one task; and those with followers.
        self.deep: dict[ProcessID, WorkerRecord] = {}
        self.followed: dict[ProcessID, WorkerRecord] = {}
        #: What this step says: what must come first, to which workers it dispatches, and from which it takes back.
        self.before: list[Action] = []
        self.dispatching: list[WorkerRecord] = []
        self.reclaims: list[Action] = []

    # -- filling --------------------------------------------------------------------------------------------------------------

    def assign(self, worker: WorkerRecord, record: TaskRecord, now: Nanos, oldest_needed: int = 0) -> None:
        """Put ``record``, which is READY or WAITING, at the end of the worker's pipeline; ``oldest_needed``: where the first that
        it follows stands there."""
        spec, function, pipeline = record.spec, record.function, worker.pipeline
        record.state = _DISPATCHED
        record.worker = worker
        record.sequence = worker.sequence = sequence = worker.sequence + 1
        record.dispatched_at = now
        record.oldest_needed = oldest_needed
        record.estimate = estimate = function.mean or 0
        if pipeline:
            worker.work = work = worker.work + estimate
            if oldest_needed:
                worker.followed = True
            if len(pipeline) == 1:
                worker.late_at = now + self._late_after + work
                self.deep[worker.worker] = worker
        else:
            worker.work = estimate
            worker.followed = False
            worker.late_at = now + self._late_after + estimate
        pipeline.append(record)
        if spec.calls_max or spec.function_id not in worker.functions:
            self._introduce(worker, spec, function)
        if record.extents or spec.arguments.offset >= 0:
            record.pins = pinned(record)
            self.before.append(Send(self._here, msg.PinsTaken(worker.where, record.pins)))
        runs = worker.runs
        if not runs:
            self.dispatching.append(worker)
        patient = record.awaited == AWAITED_TOGETHER and record.dependents is None
        runs.append(RunTask(spec, record.attempt, record.starts + 1, sequence, tuple(record.values), patient))
        if record.dependents is not None:
            for dependent in record.dependents:
                if dependent.state is _WAITING:
                    self.may_follow(worker, dependent)

    def _assign_run(self, worker: WorkerRecord, record: TaskRecord, queue: ReadyQueue, count: int, now: Nanos) -> int:
        """As :meth:`assign` for ``record``, the next of ``queue``, and for those behind it that are like it, ``count`` at most.
        Return how many."""
        pipeline = worker.pipeline
        records = queue.take_run(count) if count > 1 and pipeline else ()
        if not records:
            self.assign(worker, record, now)
            return 1
        function, estimate, sequence, runs = record.function, record.function.mean or 0, worker.sequence, worker.runs
        if len(pipeline) == 1:
            worker.late_at = now + self._late_after + worker.work + estimate
            self.deep[worker.worker] = worker
        if record.spec.function_id not in worker.functions:
            self._introduce(worker, record.spec, function)
        if not runs:
            self.dispatching.append(worker)
        patient = record.awaited == AWAITED_TOGETHER
        for record in records:
            sequence += 1
            record.state = _DISPATCHED
            record.worker = worker
            record.sequence = sequence
            record.dispatched_at = now
            record.oldest_needed = 0
            record.estimate = estimate
            runs.append(RunTask(record.spec, record.attempt, record.starts + 1, sequence, (), patient))
        pipeline.extend(records)
        worker.sequence = sequence
        worker.work += len(records) * estimate
        return len(records)

    def may_follow(self, worker: WorkerRecord, record: TaskRecord) -> None:
        """``record`` waits for something that is in the worker's pipeline: it may go there too, when there is room (P5)."""
        worker.followers.append(record)
        self.followed[worker.worker] = worker

    def _introduce(self, worker: WorkerRecord, spec: TaskSpec, function: FunctionRecord) -> None:
        """See that the worker has the function, and count its calls where they are limited."""
        if spec.function_id not in worker.functions:
            worker.functions[spec.function_id] = None
            delivered = msg.FunctionDelivered(spec.function_id, function.name, function.code)
            self.before.append(Send(worker.where, delivered))
        if spec.calls_max:
            calls = worker.calls[spec.function_id] = worker.calls.get(spec.function_id, 0) + 1
            if calls >= spec.calls_max:
                worker.retiring = True

    def _room(self, worker: WorkerRecord, record: TaskRecord, work_max: Nanos) -> bool:
        """Tell whether the pipeline of a leased worker that takes tasks has room for ``record`` behind what is there."""
        pipeline = worker.pipeline
        if not pipeline:
            return True
        mean, last = record.function.mean, pipeline[-1].function.mean
        if mean is None or last is None or last > self._long_body:
            return False  # behind a function never seen, or before it: one in flight per worker
        depth = len(pipeline)
        return depth < self._depth_max and (depth < self._depth_min or worker.work + mean <= work_max)

    def _places(self, worker: WorkerRecord, record: TaskRecord, work_max: Nanos) -> int:
        """Return how many tasks like ``record``, for which there is room, find room one after the other."""
        depth, mean = len(worker.pipeline), record.function.mean
        if mean is None or mean > self._long_body or not depth:
            return 1
        by_work = (work_max - worker.work) // mean if mean else self._depth_max
        return min(self._depth_max - depth, max(self._depth_min - depth, by_work))

    def _half_full(self, worker: WorkerRecord, work_max: Nanos) -> bool:
        """Refilling waits until a pipeline is half empty, so that what is dispatched travels in batches."""
        depth = len(worker.pipeline)
        return depth > self._depth_min and (2 * worker.work > work_max or 2 * depth > self._depth_max)

    def follow(self, now: Nanos) -> None:
        """Dispatch tasks behind those whose returns they need, where there is room (P5)."""
        empty = []
        for number, worker in self.followed.items():
            if worker.pipeline and worker.state is _LEASED and not self._half_full(worker, self._work_max):
                self._follow(worker, now)
            if not worker.followers:
                empty.append(number)
        for number in empty:
            del self.followed[number]

    def _follow(self, worker: WorkerRecord, now: Nanos) -> None:
        followers = worker.followers
        takes = worker.takes()
        while followers:
            record = followers[0]
            oldest_needed = self._first_followed(worker, record) if record.state is _WAITING else 0
            if not oldest_needed:
                followers.popleft()
            elif takes and self._room(worker, record, self._work_max):
                followers.popleft()
                self.assign(worker, record, now, oldest_needed)
            else:
                return

    def _first_followed(self, worker: WorkerRecord, record: TaskRecord) -> int:
        """Return the lowest sequence of those that return a missing argument, if all of them are unfinished tasks in this worker's
        pipeline and the shapes agree; else 0."""
        spec = record.spec
        if spec.resources != worker.shape or spec.calls_max or len(record.missing) > self._depth_max:
            return 0  # no pipeline returns as much as the last asks for; and to look, for each that it waits for, is quadratic
        tasks = self._tasks
        oldest = worker.sequence
        for object_id in record.missing:
            producer = tasks.get(producer_of(object_id))
            if producer is None or producer.worker is not worker:
                return 0
            if producer.sequence < oldest:
                oldest = producer.sequence
        return oldest

    def deepen(self, shape: Shape, queue: ReadyQueue, record: TaskRecord, now: Nanos) -> None:
        """Spread ready tasks of ``shape``, of which ``record`` is the next, over the pipelines of the workers that hold it, evenly,
        as far as there is room."""
        group = self._pool.leased.get(shape)
        if not group:
            return
        ready, workers = len(queue), len(group)
        share = -(-ready // workers)
        work_max = self._work_max
        if record.awaited == AWAITED_TOGETHER:
            work_max = self._work_max_of(record, ready // workers)
        for worker in group.values():
            if not self._room(worker, record, work_max) or not worker.takes() or self._half_full(worker, work_max):
                continue
            if self.others and now >= worker.late_at + self._offer_after:
                continue
            left = share
            while left > 0:
                left -= self._assign_run(worker, record, queue, min(left, self._places(worker, record, work_max)), now)
                following = queue.peek()
                if following is None:
                    return
                record = following
                if work_max > self._work_max and record.awaited != AWAITED_TOGETHER:
                    work_max = self._work_max
                if worker.retiring or not self._room(worker, record, work_max):
                    break

    def _work_max_of(self, record: TaskRecord, share: int) -> Nanos:
        """Return how much may lie in each pipeline where ``share`` tasks like ``record``, awaited together, are ready for each.

        A part of it, so what lies behind a head that is late has waited no longer than the other workers take for the rest.
        """
        function = record.function
        if function.blocks or record.dependents is not None:
            return self._work_max
        part = share * (function.mean or 0) // self._backlog_part
        return max(self._work_max, min(part, self._work_patient))

    # -- emptying --------------------------------------------------------------------------------------------------------------

    def finished(self, worker: WorkerRecord, record: TaskRecord, now: Nanos, duration: Nanos | None) -> None:
        """The task left the worker's pipeline by being run, for ``duration``, or without having run (None)."""
        if duration is not None:
            record.function.ran((duration,), self._duration_slack, self._mean_shift)
        pipeline = worker.pipeline
        if pipeline[0] is record:
            pipeline.popleft()
        else:
            pipeline.remove(record)
        record.worker = None
        if pipeline:
            worker.work = work = worker.work - record.estimate
            worker.late_at = now + self._late_after + work
            if len(pipeline) == 1:
                self.deep.pop(worker.worker, None)

    def finished_lot(self, worker: WorkerRecord, lot: msg.TasksFinished, now: Nanos) -> list[TaskRecord]:
        """As :meth:`finished` for each task of ``lot``, as long as it is the head of the worker's pipeline, of the same function as
        the first, and has simply run; return those that have left. None of them is the global scheduler's."""
        pipeline = worker.pipeline
        if not pipeline:
            return []
        function = pipeline[0].function
        ended: list[TaskRecord] = []
        work = 0
        for record, task_id, attempt in zip(pipeline, lot.task_ids, lot.attempts, strict=False):
            if record.spec.task_id != task_id or record.attempt != attempt or record.function is not function:
                break
            if record.state is not _DISPATCHED or record.assigned:
                break
            record.worker = None
            work += record.estimate
            ended.append(record)
        if ended:
            count = len(ended)
            function.ran(lot.durations[:count], self._duration_slack, self._mean_shift)
            if count == len(pipeline):
                pipeline.clear()
            else:
                for _ in ended:
                    pipeline.popleft()
            worker.work = work = worker.work - work
            worker.late_at = now + self._late_after + work
            if len(pipeline) <= 1:
                self.deep.pop(worker.worker, None)
        return ended

    def lost(self, worker: WorkerRecord) -> None:
        """The worker is gone: nothing is behind its head, and nothing follows."""
        self.deep.pop(worker.worker, None)
        self.followed.pop(worker.worker, None)

    def reclaim(self, worker: WorkerRecord, count: int) -> None:
        """Ask for the tokens of up to ``count`` tasks at the end of the pipeline."""
        if count > 0 and not worker.reclaiming and not worker.forgetting:
            worker.reclaiming = True
            self.reclaims.append(ReclaimTasks(worker.worker, count))

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
        if len(worker.pipeline) <= 1:
            self.deep.pop(worker.worker, None)
        if back:
            worker.forgetting = True
            worker.followers.clear()
            self.before.append(Send(worker.where, msg.TasksForgotten(back[0].sequence - 1, worker.sequence)))
        return list(back)

    def revoke_pins(self, worker: WorkerRecord, record: TaskRecord) -> None:
        """The task will not run there: the grants that went with it come back."""
        if record.pins:
            self.before.append(Send(self._here, msg.PinsRevoked(worker.where, record.pins)))
            record.pins = ()

    def help_late(self, now: Nanos) -> None:
        """An idle worker and nothing ready: take back what lies behind a head that is long or late."""
        for worker in self._behind():
            long = (worker.pipeline[0].function.mean or 0) >= self._work_max and now >= worker.asked_in_vain_until
            if long or now >= worker.late_at:
                self.reclaim(worker, _movable(worker))

    def next_late(self) -> Nanos:
        """Return when the next head is late before something that an idle worker could run, or NEVER."""
        return min([worker.late_at for worker in self._behind()], default=NEVER)

    def free_tails(self, now: Nanos) -> None:
        """Other nodes may be idle: take back what lies behind a head that is late, to be offered to them."""
        for worker in self._tails():
            if now >= self._hopeless_at(worker):
                self.reclaim(worker, _movable(worker))

    def next_tail(self) -> Nanos:
        """Return when :meth:`free_tails` has something to do if nothing happens, or NEVER."""
        return min([self._hopeless_at(worker) for worker in self._tails()], default=NEVER)

    def lateness(self, now: Nanos) -> Nanos:
        """Return how late every worker's head is at least; 0 if some worker is in time."""
        least = NEVER
        for group in self._pool.leased.values():
            for worker in group.values():
                if worker.pipeline:
                    if worker.late_at >= now:
                        return 0
                    least = min(least, now - worker.late_at)
        return least if least < NEVER else 0

    def behind(self) -> int:
        """Return how many tasks lie behind the heads of all pipelines."""
        return sum([len(worker.pipeline) - 1 for worker in self.deep.values()]) if self.deep else 0

    def _hopeless_at(self, worker: WorkerRecord) -> Nanos:
        return worker.late_at + self._offer_after

    def _tails(self) -> list[WorkerRecord]:
        """Return the workers that have something behind their head which another node could be given."""
        return [
            worker
            for worker in self.deep.values()
            if worker.state is _LEASED and not worker.pipeline[-1].assigned and worker.takes() and _movable(worker)
        ]

    def _behind(self) -> list[WorkerRecord]:
        """Return the workers that have something behind their head which another could run."""
        free = self._pool.resources_fit
        return [
            worker
            for worker in self.deep.values()
            if worker.state is _LEASED and worker.takes() and free(worker.shape) and _movable(worker)
        ]

    # -- speaking -----------------------------------------------------------------------------------------------------------------

    def speak(self, actions: list[Action]) -> None:
        """Append to ``actions``, and forget, what this step says: what must come first, then dispatches, then reclaims."""
        if self.before:
            actions += self.before
            self.before.clear()
        for worker in self.dispatching:
            pipeline = worker.pipeline
            # Without followers a task needs nothing before itself, and the head is the oldest.
            oldest = min([r.oldest_needed or r.sequence for r in pipeline]) if worker.followed else pipeline[0].sequence
            actions.append(Dispatch(worker.worker, tuple(worker.runs), oldest - 1))
            worker.runs = []
        self.dispatching = []
        if self.reclaims:
            actions += self.reclaims
            self.reclaims.clear()


def _movable(worker: WorkerRecord) -> int:
    """Return how many tasks at the end of the pipeline are worth taking back.

    What needs a return of something ahead of it could run nowhere before that: taken back, it would only be sent again.
    """
    pipeline = worker.pipeline
    for place, record in enumerate(pipeline):
        if place and not record.missing:
            return len(pipeline) - place
    return 0


def pinned(record: TaskRecord) -> tuple[ObjectID, ...]:
    """Return the IDs of what the task reads from the arena: one grant each goes with its dispatch.

    Not of what a task ahead of it returns (P5): that comes without a grant, and its worker asks for one.
    """
    spec = record.spec
    pins = [o for o, v in zip(spec.dependencies, record.values, strict=True) if v is not None and v.offset >= 0]
    if spec.arguments.offset >= 0:
        pins.append(arguments_id(spec.task_id))
    return tuple(pins)
