"""The ledger against a model that paints every byte: no two live extents share one, and nobody reads what another has written."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from sundog.core.ids import Address, ObjectID
from sundog.core.store_ledger import Extent, ExtentState, StoreLedger
from tests.support.builders import put_id, worker_at

UNIT = 64
PROCESSES = [worker_at(number) for number in (2, 3, 4)]
processes = st.sampled_from(PROCESSES)


class Ledger(RuleBasedStateMachine):
    """Rules are what the object manager may ask of the ledger, in any order, also what is stale or repeated."""

    offsets: Bundle[int] = Bundle("offsets")
    objects: Bundle[ObjectID] = Bundle("objects")

    @initialize(units=st.integers(1, 24), warm=st.integers(0, 24))
    def begin(self, units: int, warm: int) -> None:
        self.capacity, self.warm = units * UNIT, warm * UNIT
        self.ledger = StoreLedger(self.capacity, UNIT, self.warm)
        #: What each unit of the arena holds: the paint of its last writer; and which units have pages.
        self.painted: list[int] = [0] * units
        self.pages: set[int] = set()
        self.paint = 0
        #: offset -> (writer, units, paint) of what is being written; object -> (offset, units, paint, grants by process, gone).
        self.writing: dict[int, tuple[Address, int, int]] = {}
        self.sealed: dict[ObjectID, tuple[int, int, int]] = {}
        self.grants: dict[ObjectID, dict[Address, int]] = {}
        self.gone: set[ObjectID] = set()
        self.numbers = 0

    def _units(self, offset: int, count: int) -> range:
        return range(offset // UNIT, offset // UNIT + count)

    def _released(self, stretches: list[tuple[int, int]]) -> None:
        for offset, size in stretches:
            assert size > 0
            self.pages -= set(self._units(offset, size // UNIT))

    def _forget(self, object_id: ObjectID) -> None:
        del self.sealed[object_id], self.grants[object_id]
        self.gone.discard(object_id)

    def _runs(self) -> int:
        """Return the longest run of units that nobody has."""
        used = {u for offset, (_, count, _) in self.writing.items() for u in self._units(offset, count)}
        used |= {u for offset, count, _ in self.sealed.values() for u in self._units(offset, count)}
        longest = run = 0
        for unit in range(self.capacity // UNIT):
            run = 0 if unit in used else run + 1
            longest = max(longest, run)
        return longest

    @rule(target=offsets, size=st.integers(0, 26 * UNIT), writer=processes)
    def allocate(self, size: int, writer: Address) -> int:
        longest = self._runs()
        assert self.ledger.largest_free() == longest * UNIT
        extent = self.ledger.allocate(size, writer)
        count = max(1, -(-size // UNIT))
        if extent is None:
            assert count > longest, "there was room"
            return -UNIT
        assert (extent.size, extent.offset % UNIT) == (count * UNIT, 0)
        if extent.warm:
            assert set(self._units(extent.offset, count)) <= self.pages
        self.paint += 1
        for unit in self._units(extent.offset, count):
            self.painted[unit] = self.paint
        self.writing[extent.offset] = (writer, count, self.paint)
        return extent.offset

    @rule(target=objects, offset=offsets, writer=processes)
    def seal(self, offset: int, writer: Address) -> ObjectID:
        self.numbers += 1
        object_id = put_id(self.numbers)
        mine = self.writing.get(offset, (None,))[0] == writer
        assert self.ledger.seal(offset, object_id, writer) is mine
        if mine:
            _, count, paint = self.writing.pop(offset)
            self.pages |= set(self._units(offset, count))
            self.sealed[object_id] = (offset, count, paint)
            self.grants[object_id] = {}
        return object_id

    @rule(offset=offsets, writer=processes, written=st.booleans())
    def abandon(self, offset: int, writer: Address, written: bool) -> None:
        mine = self.writing.get(offset, (None,))[0] == writer
        stretches = self.ledger.abandon(offset, writer, written=written)
        assert mine or not stretches
        if mine:
            _, count, _ = self.writing.pop(offset)
            if written:
                self._half_written(offset, count)
        self._released(stretches)

    def _half_written(self, offset: int, count: int) -> None:
        """The writer came no further than half of it: a unit without a page must not be taken for warm."""
        self.pages |= set(self._units(offset, count // 2))

    @rule(object_id=objects, process=processes)
    def grant(self, object_id: ObjectID, process: Address) -> None:
        if object_id not in self.gone:
            self.ledger.grant(object_id, process)
            if object_id in self.sealed:
                self.grants[object_id][process] = self.grants[object_id].get(process, 0) + 1

    @rule(object_id=objects, process=processes)
    def give_back(self, object_id: ObjectID, process: Address) -> None:
        stretches = self.ledger.give_back(object_id, process)
        grants = self.grants.get(object_id, {})
        if process in grants:
            grants[process] -= 1
            if not grants[process]:
                del grants[process]
        if object_id in self.gone and not grants:
            self._forget(object_id)
        else:
            assert not stretches
        self._released(stretches)

    @rule(object_id=consumes(objects))
    def free(self, object_id: ObjectID) -> None:
        stretches = self.ledger.free(object_id)
        if object_id in self.sealed:
            self.gone.add(object_id)
            if not self.grants[object_id]:
                self._forget(object_id)
            else:
                assert not stretches
        self._released(stretches)

    @precondition(lambda self: self.numbers % 5 == 4)
    @rule(process=processes)
    def process_lost(self, process: Address) -> None:
        stretches = self.ledger.process_lost(process)
        for offset in [o for o, (writer, *_) in self.writing.items() if writer == process]:
            _, count, _ = self.writing.pop(offset)
            self._half_written(offset, count)
        for object_id, grants in list(self.grants.items()):
            grants.pop(process, None)
            if object_id in self.gone and not grants:
                self._forget(object_id)
        self._released(stretches)

    @invariant()
    def covers_the_arena_without_overlap(self) -> None:
        self.ledger.check_invariants()
        assert self.ledger.used_bytes <= self.capacity, "S9"

    @invariant()
    def knows_what_the_model_knows(self) -> None:
        extents: dict[int, Extent] = {extent.offset: extent for extent in self.ledger.extents()}
        places = {offset: count for offset, (_, count, _) in self.writing.items()}
        places |= {offset: count for offset, count, _ in self.sealed.values()}
        assert {offset: extent.size // UNIT for offset, extent in extents.items()} == places
        for object_id, (offset, _, _) in self.sealed.items():
            extent = extents[offset]
            assert extent.grants == self.grants[object_id]
            assert (extent.state is ExtentState.ORPHANED) == (object_id in self.gone)

    @invariant()
    def nobody_overwrites_what_is_alive(self) -> None:
        for offset, count, paint in self.sealed.values():
            assert {self.painted[unit] for unit in self._units(offset, count)} == {paint}, "S6, S1"
            assert set(self._units(offset, count)) <= self.pages, "pages of a live object were given back"


TestLedger = Ledger.TestCase
