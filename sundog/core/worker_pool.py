"""The workers of a node: who is idle, who runs what, who is blocked. The local scheduler decides; this keeps the books.

Invariants:

* W1. every worker is in exactly one of ``idle``, ``leased`` (by shape), ``blocked``, or is STARTING or STOPPING;
* W2. a worker holds resources exactly while it is leased (its shape) or blocked (its shape without CPUs);
* W3. an idle worker has an empty pipeline.
"""

from __future__ import annotations

from collections import deque

from sundog.core.errors import InvariantViolation
from sundog.core.ids import NodeID, ProcessID, address
from sundog.core.resources import ResourceSet, Shape, only_cpu, without_cpu
from sundog.core.task_record import WorkerRecord, WorkerState
from sundog.core.units import Nanos

_IDLE, _LEASED = WorkerState.IDLE, WorkerState.LEASED


class WorkerPool:
    """See the module. Numbers workers from ``first``; ``usual``: how many there are normally."""

    def __init__(self, node: NodeID, first: ProcessID, resources: ResourceSet, usual: int = 0) -> None:
        self._node = node
        self._next = first
        self._resources = resources
        self.workers: dict[ProcessID, WorkerRecord] = {}
        #: Newest idle last: it is the warmest, and it goes first.
        self.idle: dict[ProcessID, WorkerRecord] = {}
        self.leased: dict[Shape, dict[ProcessID, WorkerRecord]] = {}
        self.blocked: dict[ProcessID, WorkerRecord] = {}
        self.starting_count = 0
        self._usual = usual
        #: How many more workers than usual are there or coming; those that were asked to leave do not count.
        self.surplus = -usual

    def add(self) -> WorkerRecord:
        """Return a new worker in state STARTING."""
        number = self._next
        self._next = ProcessID(number + 1)
        worker = WorkerRecord(
            number, address(self._node, number), pipeline=deque(), followers=deque(), runs=[], functions={}, calls={}
        )
        self.workers[number] = worker
        self.starting_count += 1
        self.surplus += 1
        return worker

    def started(self, worker: WorkerRecord, pid: int, now: Nanos) -> None:
        """STARTING -> IDLE."""
        worker.pid = pid
        self.starting_count -= 1
        worker.state, worker.idle_since = _IDLE, now
        self.idle[worker.worker] = worker

    def resources_fit(self, shape: Shape) -> bool:
        """Tell whether ``shape`` is free on the node now."""
        return self._resources.fits(shape)

    def lease(self, shape: Shape) -> WorkerRecord | None:
        """IDLE -> LEASED: the worker that went idle last now holds ``shape``. None if nobody is idle or ``shape`` not free."""
        if not self.idle or not self._resources.take_if_free(shape):
            return None
        number, worker = self.idle.popitem()
        worker.state, worker.shape = _LEASED, shape
        group = self.leased.get(shape)
        if group is None:
            self.leased[shape] = {number: worker}
        else:
            group[number] = worker
        return worker

    def release(self, worker: WorkerRecord, now: Nanos) -> None:
        """LEASED -> IDLE, with an empty pipeline."""
        number, shape = worker.worker, worker.shape
        self._resources.give(shape)
        del self.leased[shape][number]
        if worker.followers:
            worker.followers.clear()
        worker.state, worker.idle_since = _IDLE, now
        self.idle[number] = worker

    def block(self, worker: WorkerRecord) -> None:
        """LEASED -> BLOCKED: its CPUs are free."""
        self._resources.give(only_cpu(worker.shape))
        del self.leased[worker.shape][worker.worker]
        worker.state = WorkerState.BLOCKED
        self.blocked[worker.worker] = worker

    def unblock(self, worker: WorkerRecord) -> None:
        """BLOCKED -> LEASED: its CPUs are taken again, as overdraft if they are not free."""
        cpus = only_cpu(worker.shape)
        if self._resources.fits(cpus):
            self._resources.take(cpus)
        else:
            self._resources.overdraw(cpus)
        del self.blocked[worker.worker]
        worker.state = _LEASED
        self.leased.setdefault(worker.shape, {})[worker.worker] = worker

    def stop(self, worker: WorkerRecord) -> None:
        """IDLE -> STOPPING."""
        del self.idle[worker.worker]
        worker.state = WorkerState.STOPPING
        self.surplus -= 1

    def lost(self, worker: WorkerRecord) -> None:
        """The process is gone; what it held is free."""
        del self.workers[worker.worker]
        self.idle.pop(worker.worker, None)
        if worker.state is not WorkerState.STOPPING:
            self.surplus -= 1
        if worker.state is WorkerState.STARTING:
            self.starting_count -= 1
        elif worker.state is WorkerState.LEASED:
            self._resources.give(worker.shape)
            del self.leased[worker.shape][worker.worker]
        elif worker.state is WorkerState.BLOCKED:
            self._resources.give(without_cpu(worker.shape))
            del self.blocked[worker.worker]

    def check_invariants(self) -> None:
        """Raise InvariantViolation unless W1 to W3 hold, and resources taken are those held (S3)."""
        held: dict[str, int] = {}
        for number, worker in self.workers.items():
            state = worker.state
            places = [number in self.idle, number in self.blocked]
            places.append(any(number in group for group in self.leased.values()))
            expected = [state is WorkerState.IDLE, state is WorkerState.BLOCKED, state is WorkerState.LEASED]
            if places != expected:
                raise InvariantViolation(f"worker {number} is {state.value} but listed as {places} (W1)")
            if state is WorkerState.IDLE and worker.pipeline:
                raise InvariantViolation(f"worker {number} is idle with {len(worker.pipeline)} tasks (W3)")
            if state in (WorkerState.LEASED, WorkerState.BLOCKED):
                shape = worker.shape if state is WorkerState.LEASED else without_cpu(worker.shape)
                for name, amount in shape:
                    held[name] = held.get(name, 0) + amount
        resources = self._resources
        for name, free in resources.free.items():
            if resources.capacity.get(name, 0) - free != held.get(name, 0):
                raise InvariantViolation(f"{name}: {held.get(name, 0)} held, but {free} free (W2)")
        if self.starting_count != sum(w.state is WorkerState.STARTING for w in self.workers.values()):
            raise InvariantViolation("starting_count is wrong")
        if self.surplus + self._usual != sum(w.state is not WorkerState.STOPPING for w in self.workers.values()):
            raise InvariantViolation("surplus is wrong")
