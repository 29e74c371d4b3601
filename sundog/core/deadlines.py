"""Points in time that something waits for: a heap whose entries can be moved and cancelled.

Cancelling leaves the entry in the heap and forgets it, so it costs one dict operation; forgotten entries are swept
when they outnumber the live ones.

>>> deadlines: Deadlines[str] = Deadlines()
>>> deadlines.set("tea", 300)
>>> deadlines.set("eggs", 200)
>>> deadlines.cancel("eggs")
>>> deadlines.next(), deadlines.pop_due(299), deadlines.pop_due(300)
(300, [], ['tea'])
"""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from sundog.core.units import Nanos

K = TypeVar("K", bound=Hashable)

#: Later than any time: the deadline of what waits for none.
NEVER: Nanos = 1 << 62
#: Forgotten entries that are always tolerated, so that small heaps are never swept; and how often setting looks for more.
_GARBAGE_MIN = 64


class Deadlines(Generic[K]):
    """At most one deadline for each key. What is due comes out in order of time, then of setting."""

    __slots__ = ("_heap", "_live", "_order", "_shift")

    def __init__(self) -> None:
        #: (when without the shift, order of setting, key); entries that ``_live`` does not confirm are forgotten.
        self._heap: list[tuple[Nanos, int, K]] = []
        self._live: dict[K, int] = {}
        self._order = 0
        self._shift: Nanos = 0

    def set(self, key: K, at: Nanos) -> None:
        """Let ``key`` be due at ``at``, and no longer at what was set before."""
        self._order = order = self._order + 1
        self._live[key] = order
        heappush(self._heap, (at - self._shift, order, key))
        if not order % _GARBAGE_MIN and len(self._heap) > 2 * len(self._live) + _GARBAGE_MIN:
            self._sweep()

    def cancel(self, key: K) -> None:
        """Forget the deadline of ``key``, if it has one."""
        live = self._live
        if live.pop(key, None) is None:
            return
        if not live:
            self._heap.clear()
        elif len(self._heap) > 2 * len(live) + _GARBAGE_MIN:
            self._sweep()

    def pop_due(self, now: Nanos) -> list[K]:
        """Remove and return the keys whose deadline is not after ``now``."""
        heap = self._heap
        limit = now - self._shift
        if not heap or heap[0][0] > limit:
            return []
        live = self._live
        due: list[K] = []
        while heap and heap[0][0] <= limit:
            _, order, key = heappop(heap)
            if live.get(key) == order:
                del live[key]
                due.append(key)
        return due

    def next(self) -> Nanos | None:
        """Return the earliest deadline, or None if there is none."""
        heap = self._heap
        while heap:
            at, order, key = heap[0]
            if self._live.get(key) == order:
                return at + self._shift
            heappop(heap)
        return None

    def shift(self, by: Nanos) -> None:
        """Move all deadlines ``by`` nanoseconds."""
        self._shift += by

    def __contains__(self, key: object) -> bool:
        return key in self._live

    def __len__(self) -> int:
        return len(self._live)

    def _sweep(self) -> None:
        live = self._live
        self._heap = [entry for entry in self._heap if live.get(entry[2]) == entry[1]]
        heapify(self._heap)
