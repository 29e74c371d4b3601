"""Progress records: what each worker last started and last finished, in memory that outlives it.

One memfd for a node, 64 bytes (a cache line) a worker, each written by that worker alone and read by the node after the
worker's death (protocols: 8). Two aligned 8-byte words, so a read never sees half a number.
"""

from __future__ import annotations

import mmap
import os

from sundog.core.ids import ProcessID

RECORD_BYTES = 64
#: Records in the table; far more than workers alive at one time, whose numbers are handed out in order.
RECORDS = 1 << 16
#: Indices into a record.
STARTED = 0
FINISHED = 1


def create_progress() -> int:
    """Return the descriptor of a new table, all zero; it closes on exec. Its pages exist once written."""
    fd = os.memfd_create("sundog-progress", os.MFD_CLOEXEC)
    os.ftruncate(fd, RECORD_BYTES * RECORDS)
    return fd


class ProgressTable:
    """The table as one process sees it. Does not own ``fd``, which may be closed afterwards."""

    __slots__ = ("_map", "_words")

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, RECORD_BYTES * RECORDS, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._words = memoryview(self._map).cast("Q")

    def record(self, worker: ProcessID) -> memoryview:
        """Return the worker's record: ``record[STARTED] = sequence`` and ``record[FINISHED] = sequence`` are all it takes."""
        start = worker % RECORDS * (RECORD_BYTES // 8)
        return self._words[start : start + RECORD_BYTES // 8]

    def read(self, worker: ProcessID) -> tuple[int, int]:
        """Return the sequence numbers that ``worker`` last started and last finished, 0 if none."""
        record = self.record(worker)
        return record[STARTED], record[FINISHED]

    def clear(self, worker: ProcessID) -> None:
        """Set the worker's record to zero, before it starts."""
        record = self.record(worker)
        record[STARTED] = record[FINISHED] = 0
