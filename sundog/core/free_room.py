"""The free stretches of a node's arena: which of them a writer gets, and how neighbours join. A part of the store ledger.

A stretch is *warm* if all its pages exist; then it is known who wrote them last, or most of them. Neighbours of one kind are always
one stretch. Who wants room gets the best fit, the smallest stretch that is large enough (of equals the first in the arena): of what
it wrote itself; else of all that is warm; else of what is cold; else neighbours of both kinds are joined. Of all orderly ways to
choose, best fit is among the two that break up memory least (Johnstone and Wilson, "The memory fragmentation problem: solved?",
1998), and it needs no search: stretches are kept in order of size.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from sundog.core.errors import InvariantViolation
from sundog.core.ids import Address

#: (size in bytes, offset), in order.
_Sizes = list[tuple[int, int]]
_NONE: _Sizes = []


class FreeRoom:
    """See the module. At first ``capacity`` bytes are free, and cold."""

    __slots__ = ("_by_writer", "_cold", "_ends", "_seams", "_stretches", "_warm", "warm_bytes")

    def __init__(self, capacity: int) -> None:
        #: offset -> (size, who wrote it last; None if it is cold).
        self._stretches: dict[int, tuple[int, Address | None]] = {}
        #: Where a stretch ends -> its offset.
        self._ends: dict[int, int] = {}
        self._cold: _Sizes = []
        self._warm: _Sizes = []
        #: The warm ones again, by writer.
        self._by_writer: dict[Address, _Sizes] = {}
        #: Offsets of stretches that begin where another ends: few, since neighbours of one kind are one.
        self._seams: dict[int, None] = {}
        self.warm_bytes = 0
        if capacity:
            self._insert(0, capacity, None)

    def take(self, size: int, writer: Address) -> tuple[int, bool] | None:
        """Return the offset of ``size`` bytes that are no longer free, and whether they are warm; None if there is no such room."""
        wanted = (size, -1)
        for sizes in (self._by_writer.get(writer, _NONE), self._warm, self._cold):
            index = bisect_left(sizes, wanted)
            if index < len(sizes):
                offset = sizes[index][1]
                break
        else:
            joined = self._join(size)
            if joined is None:
                return None
            offset = joined
        room, wrote = self._remove(offset)
        if room > size:
            self.add(offset + size, room - size, wrote)
        return offset, wrote is not None

    def add(self, offset: int, size: int, wrote: Address | None) -> None:
        """The bytes are free, and warm if somebody ``wrote`` them; joined with neighbours they are the largest's writer's."""
        largest, cold = size, wrote is None
        after = self._stretches.get(offset + size)
        if after is not None and (after[1] is None) == cold:
            self._remove(offset + size)
            size += after[0]
            if after[0] > largest:
                largest, wrote = after
        start = self._ends.get(offset)
        if start is not None:
            before, before_wrote = self._stretches[start]
            if (before_wrote is None) == cold:
                self._remove(start)
                offset, size = start, size + before
                if before > largest:
                    wrote = before_wrote
        self._insert(offset, size, wrote)

    def _insert(self, offset: int, size: int, wrote: Address | None) -> None:
        end = offset + size
        if end in self._stretches:
            self._seams[end] = None
        if offset in self._ends:
            self._seams[offset] = None
        self._stretches[offset] = (size, wrote)
        self._ends[end] = offset
        if wrote is None:
            insort(self._cold, (size, offset))
            return
        self.warm_bytes += size
        insort(self._warm, (size, offset))
        own = self._by_writer.get(wrote)
        if own is None:
            self._by_writer[wrote] = [(size, offset)]
        else:
            insort(own, (size, offset))

    def _remove(self, offset: int) -> tuple[int, Address | None]:
        size, wrote = stretch = self._stretches.pop(offset)
        del self._ends[offset + size]
        if self._seams:
            self._seams.pop(offset, None)
            self._seams.pop(offset + size, None)
        entry = (size, offset)
        if wrote is None:
            del self._cold[bisect_left(self._cold, entry)]
            return stretch
        self.warm_bytes -= size
        del self._warm[bisect_left(self._warm, entry)]
        own = self._by_writer[wrote]
        if len(own) == 1:
            del self._by_writer[wrote]
        else:
            del own[bisect_left(own, entry)]
        return stretch

    def _join(self, size: int) -> int | None:
        """Join neighbours of both kinds into one cold stretch of at least ``size``, the first there can be; return its offset."""
        start = end = -1
        for seam in sorted(self._seams):
            if seam != end:
                start = self._ends[seam]
            end = seam + self._stretches[seam][0]
            if end - start >= size:
                at = start
                while at < end:
                    at += self._remove(at)[0]
                self._insert(start, end - start, None)
                return start
        return None

    def largest(self) -> int:
        """Return the size of the largest stretch that could be taken now."""
        largest, start, end = 0, 0, -1
        for offset in sorted(self._stretches):
            if offset != end:
                start = offset
            end = offset + self._stretches[offset][0]
            largest = max(largest, end - start)
        return largest

    def pieces(self) -> list[tuple[int, int]]:
        """Return (offset, size) of all that is free."""
        return [(offset, size) for offset, (size, _) in self._stretches.items()]

    def check_invariants(self) -> None:
        """Raise InvariantViolation unless all that is kept in some order is what there is, and neighbours of one kind are one."""
        stretches = self._stretches
        cold = sorted((size, offset) for offset, (size, wrote) in stretches.items() if wrote is None)
        warm = sorted((size, offset) for offset, (size, wrote) in stretches.items() if wrote is not None)
        own: dict[Address, _Sizes] = {}
        for size, offset in warm:
            wrote = stretches[offset][1]
            assert wrote is not None
            own.setdefault(wrote, []).append((size, offset))
        if (cold, warm, own) != (self._cold, self._warm, self._by_writer):
            raise InvariantViolation("free stretches in order of size are not those that there are")
        if self._ends != {offset + size: offset for offset, (size, _) in stretches.items()}:
            raise InvariantViolation("free stretches end elsewhere")
        if self._seams.keys() != stretches.keys() & self._ends.keys():
            raise InvariantViolation("free stretches touch elsewhere")
        for seam in self._seams:
            if (stretches[seam][1] is None) == (stretches[self._ends[seam]][1] is None):
                raise InvariantViolation(f"free stretches that touch at {seam} are of one kind")
        if self.warm_bytes != sum(size for size, _ in self._warm):
            raise InvariantViolation("warm_bytes is wrong")
