"""Who occupies which bytes of a node's arena. Offsets and sizes only; no byte is touched here.

An extent goes FREE -> WRITING (its writer owns it) -> SEALED (an object owns it) -> FREE. It becomes free when its object is
gone *and* no grant is out (P9). Grants (pins) are given by the object manager in the step that delivers a value; holders only
give them back.

*Warm* room has all its pages: it is handed out first, because first touch of fresh shared memory runs at a tenth of the speed of
warm memory (measured: 1.5 against 14 GB/s). Of warm room a writer gets first what it wrote last: another's pages it would have to
map (3 GB/s); ``free_room`` chooses. What was handed out cold and comes back unsealed may have pages or not; they go, since room
taken for warm without pages would be a SIGBUS on a full machine.

Invariants: extents and free stretches are disjoint and cover the arena (S9); an extent with grants is never free (S6).
"""

from __future__ import annotations

from collections import defaultdict
from enum import Enum

import msgspec

from sundog.core.errors import InvariantViolation
from sundog.core.free_room import FreeRoom
from sundog.core.ids import Address, ObjectID


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
        #: Of each process, the extents that it writes and those of which it has grants, by offset.
        self._by_process: defaultdict[Address, dict[int, Extent]] = defaultdict(dict)
        self._room = FreeRoom(self.capacity)
        self.used_bytes = 0

    # -- room ------------------------------

    def allocate(self, size: int, writer: Address) -> Extent | None:
        """Return an extent of at least ``size`` bytes for ``writer``, warm if there is one, or None if nothing is large enough."""
        size = max(self._alignment, -(-size // self._alignment) * self._alignment)
        taken = self._room.take(size, writer)
        if taken is None:
            return None
        offset, warm = taken
        extent = Extent(offset, size, ExtentState.WRITING, writer, grants={}, warm=warm)
        self._extents[offset] = self._by_process[writer][offset] = extent
        self.used_bytes += size
        return extent

    # -- an extent's life ------------------------------

    def seal(self, offset: int, object_id: ObjectID, writer: Address) -> bool:
        """Make the extent ``object_id``'s. False if ``writer`` does not own an unsealed extent there."""
        extent = self._extents.get(offset)
        if extent is None or extent.state is not ExtentState.WRITING or extent.writer != writer:
            return False
        del self._by_process[writer][offset]
        extent.state, extent.object_id, extent.warm = ExtentState.SEALED, object_id, True
        self._by_object[object_id] = extent
        return True

    def abandon(self, offset: int, writer: Address, *, written: bool) -> list[tuple[int, int]]:
        """The writer gives an unsealed extent back; ``written``: pages of it may exist. Returns stretches to release."""
        extent = self._extents.get(offset)
        if extent is None or extent.state is not ExtentState.WRITING or extent.writer != writer:
            return []
        del self._by_process[writer][offset]
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
        keep = extent.warm and self._room.warm_bytes + extent.size <= self._warm_bytes_max
        self._room.add(extent.offset, extent.size, extent.writer if keep else None)
        return [(extent.offset, extent.size)] if (extent.warm or partly) and not keep else []

    # -- grants ------------------------------

    def grant(self, object_id: ObjectID, process: Address) -> None:
        """Give ``process`` one pin on the object's extent, if it has one."""
        extent = self._by_object.get(object_id)
        if extent is not None:
            grants = extent.grants
            if process in grants:
                grants[process] += 1
            else:
                grants[process] = 1
                self._by_process[process][extent.offset] = extent

    def give_back(self, object_id: ObjectID, process: Address) -> list[tuple[int, int]]:
        """``process`` returns one pin. Returns stretches to release, as :meth:`free` does."""
        extent = self._by_object.get(object_id)
        if extent is None:
            return []
        left = extent.grants.get(process, 0) - 1
        if left > 0:
            extent.grants[process] = left
        elif left == 0:
            del extent.grants[process]
            del self._by_process[process][extent.offset]
        if extent.state is ExtentState.ORPHANED and not extent.grants:
            return self._release(extent)
        return []

    def process_lost(self, process: Address) -> list[tuple[int, int]]:
        """The process is dead and reaped: its grants and its unsealed extents go."""
        release: list[tuple[int, int]] = []
        for extent in self._by_process.pop(process, {}).values():
            if extent.state is ExtentState.WRITING:
                release += self._release(extent, partly=True)
                continue
            del extent.grants[process]
            if extent.state is ExtentState.ORPHANED and not extent.grants:
                release += self._release(extent)
        return release

    # -- for people and tests ------------------------------

    def largest_free(self) -> int:
        """Return the size of the largest extent that could be allocated now."""
        return self._room.largest()

    def extents(self) -> list[Extent]:
        """Return every extent in use, in address order."""
        return [self._extents[offset] for offset in sorted(self._extents)]

    def check_invariants(self) -> None:
        """Raise InvariantViolation unless extents and free room are disjoint and cover the arena."""
        self._room.check_invariants()
        pieces = [(e.offset, e.size) for e in self._extents.values()] + self._room.pieces()
        at = 0
        for offset, size in sorted(pieces):
            if offset != at or size <= 0:
                raise InvariantViolation(f"the arena has a hole or an overlap at {at}: next piece is {offset}+{size} (S9)")
            at += size
        if at != self.capacity:
            raise InvariantViolation(f"the ledger covers {at} of {self.capacity} bytes")
        if self.used_bytes != sum(e.size for e in self._extents.values()):
            raise InvariantViolation("used_bytes is wrong")
        having = {(process, offset) for process, own in self._by_process.items() for offset in own}
        expected = {(e.writer, e.offset) for e in self._extents.values() if e.state is ExtentState.WRITING}
        if having != expected | {(process, e.offset) for e in self._extents.values() for process in e.grants}:
            raise InvariantViolation("what each process writes or has grants of is wrong")
        for extent in self._extents.values():
            if extent.state is ExtentState.ORPHANED and not extent.grants:
                raise InvariantViolation(f"orphaned extent at {extent.offset} has no grants")
