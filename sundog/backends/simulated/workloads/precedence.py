"""What has to happen before what in a workload: cycles, and the longest path.

A plain task is one point of the graph. A task with steps is one point for its start and one for each step, so that a child may
run while its parent goes on, and a parent may wait for its child without there being a cycle.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from sundog.core.units import Nanos

if TYPE_CHECKING:
    from sundog.backends.simulated.workloads.workload import WorkTask


class Precedence:
    """The graph of ``tasks``, whose indices must all exist."""

    def __init__(self, tasks: Sequence[WorkTask]) -> None:
        self._tasks = tasks
        #: Every task computes, returns, and takes only what stands before it: index order is an order of the graph.
        self._plain = all(not one.steps and all(producer < index for producer, _ in one.inputs) for index, one in enumerate(tasks))
        self._order: array[int] | None = None
        if not self._plain:
            self._build()
            self._sort()

    def cycle(self) -> tuple[int, ...]:
        """Return tasks that wait for each other in a circle, each for the next; empty if there are none."""
        if self._plain or self._order is None or len(self._order) == len(self._owner):
            return ()
        done = bytearray(len(self._owner))
        for point in self._order:
            done[point] = 1
        before: dict[int, int] = {}
        for point, following in enumerate(self._after):
            if not done[point]:
                for other in following:
                    before.setdefault(other, point)
        point = next(other for other in before if not done[other])
        seen: dict[int, int] = {}
        path: list[int] = []
        while point not in seen:
            seen[point] = len(path)
            path.append(point)
            point = before[point]
        found: list[int] = []
        for owner in [self._owner[point] for point in path[seen[point] :]]:
            if not found or found[-1] != owner:
                found.append(owner)
        if len(found) > 1 and found[0] == found[-1]:
            found.pop()
        return tuple(found)

    def longest(self, releases: bool) -> tuple[Nanos, tuple[int, ...]]:
        """Return the length of a longest path in nanoseconds, and its tasks in order; there must be no cycle.

        ``releases``: no task of a driver starts before it is submitted.
        """
        ends, through, last = self._longest_plain(releases) if self._plain else self._longest_steps(releases)
        if last < 0:
            return 0, ()
        length = ends[last]
        path: list[int] = []
        while last >= 0:
            owner = last if self._plain else self._owner[last]
            if not path or path[-1] != owner:
                path.append(owner)
            last = through[last]
        # A parent that waits for its child stands on the path twice: once where it begins is enough.
        return length, tuple(dict.fromkeys(reversed(path)))

    def _longest_plain(self, releases: bool) -> tuple[Sequence[Nanos], Sequence[int], int]:
        count = len(self._tasks)
        ends = array("q", bytes(8 * count))
        through = array("q", b"\xff" * (8 * count))
        last = -1
        for index, one in enumerate(self._tasks):
            begins = one.submitted_at if releases else 0
            for producer, _ in one.inputs:
                if ends[producer] >= begins:
                    begins = ends[producer]
                    through[index] = producer
            ends[index] = begins + one.duration
            if last < 0 or ends[index] > ends[last]:
                last = index
        return ends, through, last

    def _longest_steps(self, releases: bool) -> tuple[Sequence[Nanos], Sequence[int], int]:
        count = len(self._owner)
        ends = array("q", bytes(8 * count))
        through = array("q", b"\xff" * (8 * count))
        if releases:
            for index, one in enumerate(self._tasks):
                ends[self._first[index]] = one.submitted_at
        last = -1
        assert self._order is not None
        for point in self._order:
            ends[point] += self._weight[point]
            end = ends[point]
            if last < 0 or end > ends[last]:
                last = point
            for other in self._after[point]:
                if end >= ends[other]:
                    ends[other] = end
                    through[other] = point
        return ends, through, last

    def _build(self) -> None:
        from sundog.backends.simulated.workloads.workload import Compute, Get, Submit

        tasks = self._tasks
        self._owner = array("q")
        self._weight: list[Nanos] = []
        self._first = array("q")
        final = array("q")
        for index, one in enumerate(tasks):
            self._first.append(len(self._owner))
            self._owner.extend([index] * (1 + len(one.steps)))
            self._weight.append(0 if one.steps else one.duration)
            self._weight += [step.span if isinstance(step, Compute) else 0 for step in one.steps]
            final.append(len(self._owner) - 1)
        self._after: list[list[int]] = [[] for _ in self._owner]
        after = self._after
        for index, one in enumerate(tasks):
            first = self._first[index]
            for producer, _ in one.inputs:
                after[final[producer]].append(first)
            for before, point in pairwise(range(first, final[index] + 1)):
                after[before].append(point)
            for point, step in enumerate(one.steps, first + 1):
                if isinstance(step, Submit):
                    after[point] += [self._first[child] for child in step.tasks]
                elif isinstance(step, Get):
                    for waited in step.tasks:
                        after[final[waited]].append(point)

    def _sort(self) -> None:
        """Kahn's algorithm; what is missing from the order afterwards lies on a cycle or behind one."""
        waits = array("q", bytes(8 * len(self._owner)))
        for following in self._after:
            for other in following:
                waits[other] += 1
        order = array("q", [point for point, count in enumerate(waits) if not count])
        for point in order:
            for other in self._after[point]:
                waits[other] -= 1
                if not waits[other]:
                    order.append(other)
        self._order = order
