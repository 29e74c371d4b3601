"""Who occupies which bytes of a node's arena. Offsets and sizes only; no byte is touched here.

An extent goes FREE -> WRITING (its writer owns it) -> SEALED (an object owns it) -> FREE. It becomes free when its object is
gone *and* no grant is out (P9). Grants (pins) are given by the object manager in the step that delivers a value; holders only
give them back.

Free room is kept in address order and joined with free neighbours of its kind. *Warm* room has all its pages: it is handed out
first, because first touch of fresh shared memory runs at a tenth of the speed of warm memory (measured: 1.5 against 14 GB/s). Of
warm room a writer gets first what it wrote last: another's pages it would have to map (3 GB/s). What was handed out cold and
comes back unsealed may have pages or not; they go, since room taken for warm without pages would be a SIGBUS on a full machine.

Invariants: extents and free stretches are disjoint and cover the arena (S9); an extent with grants is never free (S6).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from enum import Enum

import msgspec

from sundog.core.errors import InvariantViolation
from sundog.core.ids import Address, ObjectID

#: So many free stretches are looked at, past the first warm one that is large enough, for one that the writer wrote.
LOOKED_AT_MAX = 64


class ExtentState(Enum):
    """Where an extent is in its life."""

    WRITING = "writing"
    SEALED = "sealed"
    ORPHANED = "orphaned"  # its object is gone; grants are still out


class Extent(msgspec.Struct):
    """A stretch of the arena in use."""

    offset: int
    size: int
    state: ExtentState
    #: Who writes it, while WRITING.
    writer: Address
    object_id: ObjectID | None = None
    #: Grants out, by process.
    grants: dict[Address, int] = {}
    warm: bool = False


class StoreLedger:
    """See the module. ``capacity`` and ``alignment`` in bytes."""

    def __init__(self, capacity: int, alignment: int, warm_bytes_max: int) -> None:
        self.capacity = capacity - capacity % alignment
        self._alignment = alignment
        self._warm_bytes_max = warm_bytes_max
        self._extents: dict[int, Extent] = {}
        self._by_object: dict[ObjectID, Extent] = {}
        #: Free stretches: sorted offsets, and offset -> (size, warm, who wrote there last, or most of it).
        self._free_offsets: list[int] = [0] if self.capacity else []
        self._free: dict[int, tuple[int, bool, Address | None]] = {0: (self.capacity, False, None)} if self.capacity else {}
        self.used_bytes = 0
        self._warm_free_bytes = 0

    # -- room ------------------------------

    def allocate(self, size: int, writer: Address) -> Extent | None:
        """Return an extent of at least ``size`` bytes for ``writer``, warm if there is one, or None if nothing is large enough."""
        size = max(self._alignment, -(-size // self._alignment) * self._alignment)
        chosen = self._choose(size, writer)
        if chosen is None:
            chosen = self._join(size)
        if chosen is None:
            return None
        room, warm, wrote = self._take_free(chosen)
        if room > size:
            self._add_free(chosen + size, room - size, warm, wrote)
        extent = Extent(chosen, size, ExtentState.WRITING, writer, grants={}, warm=warm)
        self._extents[chosen] = extent
        self.used_bytes += size
        return extent

    def _choose(self, size: int, writer: Address) -> int | None:
        """Return the offset of the first free stretch of ``size``: warm and written by ``writer``, else warm, else cold."""
        cold = warmed = None
        looked_at = 0
        for offset in self._free_offsets:
            room, warm, wrote = self._free[offset]
            if room >= size:
                if not warm:
                    cold = offset if cold is None else cold
                elif wrote == writer:
                    return offset
                elif warmed is None:
                    warmed = offset
            if warmed is not None:
                looked_at += 1
                if looked_at > LOOKED_AT_MAX:
                    break
        return cold if warmed is None else warmed

    def _join(self, size: int) -> int | None:
        """Join neighbours of both kinds into one cold stretch of at least ``size``, if there are such; return its offset."""
        start, total = -1, 0
        for offset in self._free_offsets:
            room = self._free[offset][0]
            start, total = (start, total + room) if start + total == offset and start >= 0 else (offset, room)
            if total >= size:
                self._join_run(start, total)
                return start
        return None

    def _join_run(self, start: int, total: int) -> None:
        for offset in [o for o in self._free_offsets if start <= o < start + total]:
            self._take_free(offset)
        self._insert_free(start, total, False, None)

    def _take_free(self, offset: int) -> tuple[int, bool, Address | None]:
        size, warm, wrote = self._free.pop(offset)
        del self._free_offsets[bisect_left(self._free_offsets, offset)]
        if warm:
            self._warm_free_bytes -= size
        return size, warm, wrote

    def _insert_free(self, offset: int, size: int, warm: bool, wrote: Address | None) -> None:
        insort(self._free_offsets, offset)
        self._free[offset] = (size, warm, wrote)
        if warm:
            self._warm_free_bytes += size

    def _add_free(self, offset: int, size: int, warm: bool, wrote: Address | None) -> None:
        """Add a free stretch, joined with neighbours of its kind; the joined one is the largest's writer's."""
        largest = size
        after = self._free.get(offset + size)
        if after is not None and after[1] == warm:
            self._take_free(offset + size)
            size += after[0]
            if after[0] > largest:
                largest, wrote = after[0], after[2]
        index = bisect_left(self._free_offsets, offset)
        if index:
            before = self._free_offsets[index - 1]
            before_size, before_warm, before_wrote = self._free[before]
            if before + before_size == offset and before_warm == warm:
                self._take_free(before)
                offset, size = before, size + before_size
                if before_size > largest:
                    wrote = before_wrote
        self._insert_free(offset, size, warm, wrote)

    # -- an extent's life ------------------------------

    def seal(self, offset: int, object_id: ObjectID, writer: Address) -> bool:
        """Make the extent ``object_id``'s. False if ``writer`` does not own an unsealed extent there."""
        extent = self._extents.get(offset)
        if extent is None or extent.state is not ExtentState.WRITING or extent.writer != writer:
            return False
        extent.state, extent.object_id, extent.warm = ExtentState.SEALED, object_id, True
        self._by_object[object_id] = extent
        return True

    def abandon(self, offset: int, writer: Address, *, written: bool) -> list[tuple[int, int]]:
        """The writer gives an unsealed extent back; ``written``: pages of it may exist. Returns stretches to release."""
        extent = self._extents.get(offset)
        if extent is None or extent.state is not ExtentState.WRITING or extent.writer != writer:
            return []
        return self._release(extent, partly=written)

    def free(self, object_id: ObjectID) -> list[tuple[int, int]]:
        """The object is gone. Returns (offset, size) stretches whose pages should go back to the system."""
        extent = self._by_object.get(object_id)
        if extent is None:
            return []
        if extent.grants:
            extent.state = ExtentState.ORPHANED
            return []
        return self._release(extent)

    def _release(self, extent: Extent, partly: bool = False) -> list[tuple[int, int]]:
        """Free the extent. ``partly``: one that is not warm may have pages all the same."""
        del self._extents[extent.offset]
        if extent.object_id is not None:
            del self._by_object[extent.object_id]
        self.used_bytes -= extent.size
        keep = extent.warm and self._warm_free_bytes + extent.size <= self._warm_bytes_max
        self._add_free(extent.offset, extent.size, keep, extent.writer if keep else None)
        return [(extent.offset, extent.size)] if (extent.warm or partly) and not keep else []

    # -- grants ------------------------------

    def grant(self, object_id: ObjectID, process: Address) -> None:
        """Give ``process`` one pin on the object's extent, if it has one."""
        extent = self._by_object.get(object_id)
        if extent is not None:
            extent.grants[process] = extent.grants.get(process, 0) + 1

    def give_back(self, object_id: ObjectID, process: Address) -> list[tuple[int, int]]:
        """``process`` returns one pin. Returns stretches to release, as :meth:`free` does."""
        extent = self._by_object.get(object_id)
        if extent is None:
            return []
        left = extent.grants.get(process, 0) - 1
        if left > 0:
            extent.grants[process] = left
        else:
            extent.grants.pop(process, None)
        if extent.state is ExtentState.ORPHANED and not extent.grants:
            return self._release(extent)
        return []

    def process_lost(self, process: Address) -> list[tuple[int, int]]:
        """The process is dead and reaped: its grants and its unsealed extents go."""
        release: list[tuple[int, int]] = []
        for extent in list(self._extents.values()):
            if extent.state is ExtentState.WRITING and extent.writer == process:
                release += self._release(extent, partly=True)
            elif extent.grants.pop(process, None) and extent.state is ExtentState.ORPHANED and not extent.grants:
                release += self._release(extent)
        return release

    # -- for people and tests ------------------------------

    def largest_free(self) -> int:
        """Return the size of the largest extent that could be allocated now."""
        largest, start, total = 0, -1, 0
        for offset in self._free_offsets:
            room = self._free[offset][0]
            start, total = (start, total + room) if start + total == offset and start >= 0 else (offset, room)
            largest = max(largest, total)
        return largest

    def extents(self) -> list[Extent]:
        """Return every extent in use, in address order."""
        return [self._extents[offset] for offset in sorted(self._extents)]

    def check_invariants(self) -> None:
        """Raise InvariantViolation unless extents and free room are disjoint and cover the arena."""
        pieces = [(e.offset, e.size) for e in self._extents.values()]
        pieces += [(offset, size) for offset, (size, *_) in self._free.items()]
        at = 0
        for offset, size in sorted(pieces):
            if offset != at or size <= 0:
                raise InvariantViolation(f"the arena has a hole or an overlap at {at}: next piece is {offset}+{size} (S9)")
            at += size
        if at != self.capacity:
            raise InvariantViolation(f"the ledger covers {at} of {self.capacity} bytes")
        if sorted(self._free) != self._free_offsets:
            raise InvariantViolation("free offsets and free stretches differ")
        if self.used_bytes != sum(e.size for e in self._extents.values()):
            raise InvariantViolation("used_bytes is wrong")
        if self._warm_free_bytes != sum(size for size, warm, _ in self._free.values() if warm):
            raise InvariantViolation("warm_free_bytes is wrong")
        for extent in self._extents.values():
            if extent.state is ExtentState.ORPHANED and not extent.grants:
                raise InvariantViolation(f"orphaned extent at {extent.offset} has no grants")
