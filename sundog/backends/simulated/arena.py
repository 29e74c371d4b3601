"""A node's object store in the simulation: anonymous memory of this process, and views of it that hold their grants."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from typing import Any

_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)


class NodeArena:
    """``base.Arena`` of ``size`` bytes, whose pages exist once written. Made at the first use."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._map: mmap.mmap | None = None

    def fill(self, offset: int, size: int, warm: bool, segments: Sequence[Any]) -> None:
        """See ``base.Arena``."""
        self._mapping()[offset : offset + size] = b"".join(segments) if len(segments) > 1 else segments[0]

    def read(self, offset: int, size: int, grant: object) -> memoryview:
        """See ``base.Arena``."""
        if not size:
            return memoryview(b"")
        # An exporter of its own for each read: it lives exactly as long as anything that was made of the view.
        exporter: Any = (ctypes.c_ubyte * size).from_buffer(self._mapping(), offset)
        exporter.grant = grant
        return memoryview(exporter).cast("B").toreadonly()

    def copy(self, offset: int, size: int, source: NodeArena, source_offset: int) -> None:
        """Copy ``size`` bytes from another node's arena to ``offset`` of this one."""
        if size:
            self._mapping()[offset : offset + size] = source._mapping()[source_offset : source_offset + size]

    def release_pages(self, offset: int, size: int) -> None:
        """Give the whole pages within a free stretch back to the system; they read as zero afterwards."""
        start = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (offset + size) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > start:
            self._mapping().madvise(mmap.MADV_DONTNEED, start, end - start)

    def _mapping(self) -> mmap.mmap:
        if self._map is None:
            self._map = mmap.mmap(-1, self.size, _FLAGS)
        return self._map
