"""Which ready tasks of a node are offered to the global scheduler, because others would run them sooner.

A part of the local scheduler of a node in a cluster. A task stays where it was submitted while it would probably have its turn
within ``config.offer_after``: bottom-up, most tasks never leave. The newest go first, and what came from the global scheduler is
never offered again.

The estimate for one turn is the mean duration of the function; as long as that is not known, or is no longer true, it is what
the bodies that run now have taken at least.
"""

from __future__ import annotations

from collections import deque

from sundog.core.config import Config
from sundog.core.resources import ResourceSet, Shape
from sundog.core.task import TaskState
from sundog.core.task_record import TaskRecord
from sundog.core.units import MICROSECOND, Nanos
from sundog.core.worker_pool import WorkerPool

_READY = TaskState.READY
#: Queues whose functions are known are looked at again by themselves after so many times ``offer_after``.
_RARELY = 8
#: and never sooner than this, however soon tasks are to be offered.
_LOOK_MIN: Nanos = 100 * MICROSECOND


class _Queue:
    """Ready tasks of one shape in the order of their becoming ready; those no longer READY are stale."""

    __slots__ = ("assigned", "own")

    def __init__(self) -> None:
        self.own: deque[TaskRecord] = deque()
        self.assigned: deque[TaskRecord] = deque()

    def trim(self) -> None:
        for records in (self.own, self.assigned):
            while records and records[0].state is not _READY:
                records.popleft()
        while self.own and self.own[-1].state is not _READY:
            self.own.pop()


class Offers:
    """See the module."""

    def __init__(self, config: Config, pool: WorkerPool, resources: ResourceSet) -> None:
        self._config = config
        self._pool = pool
        self._resources = resources
        self._queues: dict[Shape, _Queue] = {}
        #: When to look again although nothing happens.
        self.again_at: Nanos | None = None

    def add(self, record: TaskRecord) -> None:
        """A task is ready."""
        queue = self._queues.get(record.spec.resources)
        if queue is None:
            queue = self._queues[record.spec.resources] = _Queue()
        (queue.assigned if record.assigned else queue.own).append(record)

    def choose(self, now: Nanos) -> list[TaskRecord]:
        """Return the tasks that should go, newest last; they are forgotten here."""
        chosen: list[TaskRecord] = []
        self.again_at = None
        for shape, queue in list(self._queues.items()):
            queue.trim()
            if not queue.own:
                if not queue.assigned:
                    del self._queues[shape]
                continue
            stay = self._stay(shape, queue, now)
            gone = []
            while len(queue.own) > stay:
                record = queue.own.pop()
                if record.state is _READY:
                    gone.append(record)
            chosen += reversed(gone)
            if queue.own:
                known = queue.own[-1].function.mean is not None
                again = now + max(_LOOK_MIN, self._config.offer_after * (_RARELY if known else 1))
                self.again_at = again if self.again_at is None else min(self.again_at, again)
        return chosen

    def _stay(self, shape: Shape, queue: _Queue, now: Nanos) -> int:
        """Return how many of its own tasks would have their turn soon enough."""
        free, capacity = self._resources.free, self._resources.capacity
        at_once = min([free.get(name, 0) // amount for name, amount in shape], default=len(queue.own))
        slots = max(1, min([capacity.get(name, 0) // amount for name, amount in shape], default=1))
        turn = self._turn(shape, queue.own[-1], now)
        soon = self._config.backlog_max if turn <= 0 else self._config.offer_after * slots // turn
        return max(at_once, min(soon, self._config.backlog_max) - len(queue.assigned), 0)

    def _turn(self, shape: Shape, record: TaskRecord, now: Nanos) -> Nanos:
        """Return how long one turn takes, as far as is known."""
        mean = record.function.mean
        youngest = None
        doubtful = 0 if mean is None else 2 * mean + 2 * self._config.pipeline_work_max
        for worker in (self._pool.leased.get(shape) or {}).values():
            if not worker.pipeline:
                continue
            age = now - worker.pipeline[0].dispatched_at
            if mean is not None and age <= doubtful:
                return mean  # mostly the first one looked at
            if youngest is None or age < youngest:
                youngest = age
        if youngest is None:
            return mean or 0
        return youngest

    def __len__(self) -> int:
        """Return how many tasks are ready; an upper bound."""
        return sum([len(queue.own) + len(queue.assigned) for queue in self._queues.values()])
