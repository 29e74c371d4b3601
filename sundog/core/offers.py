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
from sundog.core.deadlines import NEVER
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
    """Ready tasks of one shape in the order of their becoming ready; those no longer READY are stale.

    One that was dispatched and taken back is there twice. So it may be among ``own`` although it went, and came back assigned.
    """

    __slots__ = ("assigned", "own")

    def __init__(self) -> None:
        self.own: deque[TaskRecord] = deque()
        self.assigned: deque[TaskRecord] = deque()

    def trim(self) -> bool:
        """Forget what is stale at the ends; return whether anything is left."""
        own, assigned = self.own, self.assigned
        while own and own[0].state is not _READY:
            own.popleft()
        while own and own[-1].state is not _READY:
            own.pop()
        while assigned and assigned[0].state is not _READY:
            assigned.popleft()
        return bool(own or assigned)


class Offers:
    """See the module."""

    def __init__(self, config: Config, pool: WorkerPool, resources: ResourceSet) -> None:
        self._config = config
        self._pool = pool
        self._resources = resources
        #: Tasks that had to queue since the last look; perhaps they have been dispatched since.
        self.fresh: list[TaskRecord] = []
        #: Those that were still ready then.
        self.queues: dict[Shape, _Queue] = {}
        self._slots_of: dict[Shape, int] = {}
        #: When to look again although nothing happens.
        self.again_at: Nanos = NEVER

    def update(self) -> None:
        """Take in what has become ready, and forget what no longer is."""
        queues = self.queues
        for record in self.fresh:
            if record.state is _READY:
                shape = record.spec.resources
                queue = queues.get(shape)
                if queue is None:
                    queue = queues[shape] = _Queue()
                (queue.assigned if record.assigned else queue.own).append(record)
        self.fresh.clear()
        if queues:
            for shape in [shape for shape, queue in queues.items() if not queue.trim()]:
                del queues[shape]

    def choose(self, now: Nanos) -> list[TaskRecord]:
        """Return the tasks that should go, newest last; they are forgotten here."""
        chosen: list[TaskRecord] = []
        self.again_at = NEVER
        self.update()
        for shape, queue in self.queues.items():
            if not queue.own:
                continue
            stay = self._stay(shape, queue, now)
            gone = []
            while len(queue.own) > stay:
                record = queue.own.pop()
                if record.state is _READY and not record.assigned:
                    gone.append(record)
            chosen += reversed(gone)
            if queue.own:
                self.again_at = min(self.again_at, self._again_at(shape, queue, now))
        return chosen

    def _again_at(self, shape: Shape, queue: _Queue, now: Nanos) -> Nanos:
        """Return when more of what stays now may have to go although nothing happens until then: when the estimate of a turn has
        grown so much, because no body ends."""
        mean = queue.own[-1].function.mean
        again = now + max(_LOOK_MIN, self._config.offer_after * (1 if mean is None else _RARELY))
        youngest_at = self._youngest_at(shape)
        if youngest_at is None:
            return again
        grown = self._config.offer_after * self._slots(shape) // (len(queue.own) + len(queue.assigned))
        if mean is not None:
            grown = max(grown, self._doubtful(mean))
        return max(again, youngest_at + grown + 1)

    def _stay(self, shape: Shape, queue: _Queue, now: Nanos) -> int:
        """Return how many of its own tasks would have their turn soon enough."""
        free = self._resources.free
        at_once = min([free.get(name, 0) // amount for name, amount in shape], default=len(queue.own))
        in_time = self._config.offer_after * self._slots(shape)
        mean = queue.own[-1].function.mean
        if mean is not None and mean > in_time:
            return max(at_once, 0)  # a turn takes no less than the mean
        turn = self._turn(shape, mean, now)
        soon = self._config.backlog_max if turn <= 0 else in_time // turn
        return max(at_once, min(soon, self._config.backlog_max) - len(queue.assigned), 0)

    def _turn(self, shape: Shape, mean: Nanos | None, now: Nanos) -> Nanos:
        """Return how long one turn takes, as far as is known. ``mean``: that of the function, if it has run."""
        youngest_at = self._youngest_at(shape)
        if youngest_at is None:
            return mean or 0
        age = now - youngest_at
        return mean if mean is not None and age <= self._doubtful(mean) else age

    def _doubtful(self, mean: Nanos) -> Nanos:
        """Return after how long in a body the mean duration of its function passes for no longer true."""
        return 2 * mean + 2 * self._config.pipeline_work_max

    def _youngest_at(self, shape: Shape) -> Nanos | None:
        """Return when the last body that runs now was dispatched, or None if none does."""
        youngest_at = None
        for worker in (self._pool.leased.get(shape) or {}).values():
            pipeline = worker.pipeline
            if pipeline:
                dispatched_at = pipeline[0].dispatched_at
                if youngest_at is None or dispatched_at > youngest_at:
                    youngest_at = dispatched_at
        return youngest_at

    def _slots(self, shape: Shape) -> int:
        """Return how many of ``shape`` the node holds at a time."""
        slots = self._slots_of.get(shape)
        if slots is None:
            capacity = self._resources.capacity
            slots = max(1, min([capacity.get(name, 0) // amount for name, amount in shape], default=1))
            self._slots_of[shape] = slots
        return slots

    def __len__(self) -> int:
        """Return how many tasks are ready; an upper bound."""
        return sum([len(queue.own) + len(queue.assigned) for queue in self.queues.values()]) if self.queues else 0
