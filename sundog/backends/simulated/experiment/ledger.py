"""The ledger of a node's store, counted."""

from __future__ import annotations

from sundog.backends.simulated.experiment.measures import Measures
from sundog.core.ids import Address, NodeID, ObjectID
from sundog.core.store_ledger import Extent, StoreLedger


class CountedLedger(StoreLedger):
    """The very ledger of core; beside it ``measures`` learns what came in and went. Nothing else differs."""

    _node: NodeID
    _measures: Measures

    @classmethod
    def count(cls, ledger: StoreLedger, node: NodeID, measures: Measures) -> None:
        """Have ``ledger``, that of ``node``, counted from now on."""
        # Not a new one: several parts of the object manager have this one.
        ledger.__class__ = cls
        assert isinstance(ledger, cls)
        ledger._node = node
        ledger._measures = measures

    def allocate(self, size: int, writer: Address) -> Extent | None:
        """See ``StoreLedger``."""
        extent = super().allocate(size, writer)
        if extent is not None:
            self._measures.stored[self._node] += extent.size
            self._measures.store_used(self._node, self.used_bytes)
        return extent

    def abandon(self, offset: int, writer: Address, *, written: bool) -> list[tuple[int, int]]:
        """See ``StoreLedger``."""
        before = self.used_bytes
        found = super().abandon(offset, writer, written=written)
        return self._freed(before, found)

    def free(self, object_id: ObjectID) -> list[tuple[int, int]]:
        """See ``StoreLedger``."""
        before = self.used_bytes
        return self._freed(before, super().free(object_id))

    def give_back(self, object_id: ObjectID, process: Address) -> list[tuple[int, int]]:
        """See ``StoreLedger``."""
        before = self.used_bytes
        return self._freed(before, super().give_back(object_id, process))

    def process_lost(self, process: Address) -> list[tuple[int, int]]:
        """See ``StoreLedger``."""
        before = self.used_bytes
        return self._freed(before, super().process_lost(process))

    def _freed(self, before: int, found: list[tuple[int, int]]) -> list[tuple[int, int]]:
        self._measures.freed[self._node] += before - self.used_bytes
        return found


class SizedStore:
    """``node.Store`` without bytes: objects have sizes only."""

    def copy(self, offset: int, size: int, source: object, source_offset: int) -> None:
        """See ``node.Store``."""

    def release_pages(self, offset: int, size: int) -> None:
        """See ``node.Store``."""
