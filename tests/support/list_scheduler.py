"""The plainest engine that can run a workload: tasks in the order in which they become ready, on the node with most free CPUs.

It costs nothing, moves nothing and knows nothing of core. Where core's machines are asked the same, both must give the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from sundog.backends.simulated.experiment.measures import Measures
from sundog.backends.simulated.workloads.workload import BY_DRIVER, Compute, Submit, Workload
from sundog.core.resources import CPU, UNIT, ResourceSet, Shape
from sundog.core.units import Nanos


class ListScheduler:
    """Runs one workload; ``measures`` is the record. Bodies that wait give their CPUs back and take them again at once."""

    def __init__(self, workload: Workload, shapes: Sequence[Shape]) -> None:
        self.workload = workload
        self.measures = Measures(workload, shapes)
        self._free = [ResourceSet(shape) for shape in shapes]
        self._workers: list[list[int]] = [[] for _ in shapes]
        self._made = [2] * len(shapes)
        self._heap: list[tuple[Nanos, int, int, int]] = []
        self._ready: deque[int] = deque()
        count = len(workload)
        self._waits = [1 + len({producer for producer, _ in task.inputs}) for task in workload]
        self._after: list[list[int]] = [[] for _ in range(count)]
        self._step = [0] * count
        self._getting: dict[int, set[int]] = {}
        self._getters: list[list[int]] = [[] for _ in range(count)]
        for index, task in enumerate(workload):
            for producer in {producer for producer, _ in task.inputs}:
                self._after[producer].append(index)

    def run(self) -> Measures:
        """Run it to its end."""
        driven = [i for i, task in enumerate(self.workload) if task.parent == BY_DRIVER]
        self._heap = [(self.workload[i].submitted_at, 0, order, i) for order, i in enumerate(driven)]
        heapify(self._heap)
        now = 0
        while self._heap:
            now, kind, _, index = heappop(self._heap)
            if kind == 0:
                self._submit(index, now)
            else:
                self._go_on(index, now)
            self._start(now)
        self.measures.close(now, 0.0)
        return self.measures

    def _submit(self, index: int, now: Nanos) -> None:
        self.measures.submitted(index, now)
        self._input_ready(index)

    def _input_ready(self, index: int) -> None:
        self._waits[index] -= 1
        if not self._waits[index]:
            self._ready.append(index)

    def _start(self, now: Nanos) -> None:
        # A body that begins may submit, or block and give its CPUs back.
        while self._start_some(now):
            pass

    def _start_some(self, now: Nanos) -> bool:
        started = False
        for _ in range(len(self._ready)):
            index = self._ready.popleft()
            wanted = self.workload[index].resources
            fitting = [n for n, free in enumerate(self._free) if free.fits(wanted)]
            if not fitting:
                self._ready.append(index)
                continue
            node = max(fitting, key=lambda n: (self._free[n].free.get(CPU, 0), -n))
            self._free[node].take(wanted)
            if not self._workers[node]:
                self._workers[node].append(self._made[node])
                self._made[node] += 1
            self.measures.started(index, now, node, self._workers[node].pop())
            self._go_on(index, now, first=True)
            started = True
        return started

    def _go_on(self, index: int, now: Nanos, first: bool = False) -> None:
        task = self.workload[index]
        if not task.steps:
            if first:
                heappush(self._heap, (now + task.duration, 1, index, index))
            else:
                self._finish(index, now)
            return
        while self._step[index] < len(task.steps):
            step = task.steps[self._step[index]]
            self._step[index] += 1
            if isinstance(step, Compute):
                heappush(self._heap, (now + step.span, 1, index, index))
                return
            if isinstance(step, Submit):
                for child in step.tasks:
                    self._submit(child, now)
                continue
            missing = {other for other in step.tasks if self.measures.finished_at[other] < 0}
            if missing:
                self.measures.blocked(index, now)
                self._free[self.measures.node[index]].give(task.resources)
                self._getting[index] = missing
                for other in sorted(missing):
                    self._getters[other].append(index)
                return
        self._finish(index, now)

    def _finish(self, index: int, now: Nanos) -> None:
        node = self.measures.node[index]
        self.measures.finished(index, now)
        self._free[node].give(self.workload[index].resources)
        self._workers[node].append(self.measures.worker[index])
        for other in self._after[index]:
            self._input_ready(other)
        for getter in self._getters[index]:
            self._getting[getter].discard(index)
            if not self._getting[getter]:
                self.measures.resumed(getter, now)
                self._free[self.measures.node[getter]].overdraw(self.workload[getter].resources)
                self._go_on(getter, now)


def run(workload: Workload, nodes: int = 1, cpus: float = 4) -> Measures:
    """Run ``workload`` on equal nodes."""
    shape: Shape = ((CPU, round(cpus * UNIT)),)
    workload.validate([shape] * nodes)
    return ListScheduler(workload, [shape] * nodes).run()
