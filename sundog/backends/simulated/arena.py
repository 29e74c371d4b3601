"""A node's object store in the simulation: anonymous memory of this process, and views of it that tell when they have died."""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections.abc import Callable, Sequence
from typing import Any

_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)


class _Death(weakref.ref[Any]):
    """A weak reference that knows its place in the table that keeps it alive."""

    __slots__ = ("key", "on_death")
    key: int
    on_death: Callable[[], None]


class NodeArena:
    """``base.Arena`` of ``size`` bytes, whose pages exist once written. Made at the first use."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._map: mmap.mmap | None = None
        self._deaths: dict[int, _Death] = {}
        self._next_key = 0

    def fill(self, offset: int, size: int, warm: bool, segments: Sequence[Any]) -> None:
        """See ``base.Arena``."""
        self._mapping()[offset : offset + size] = b"".join(segments) if len(segments) > 1 else segments[0]

    def read(self, offset: int, size: int, on_death: Callable[[], None]) -> memoryview:
        """See ``base.Arena``."""
        if not size:
            on_death()
            return memoryview(b"")
        # An exporter of its own for each read: it lives exactly as long as anything that was made of the view.
        exporter = (ctypes.c_ubyte * size).from_buffer(self._mapping(), offset)
        reference = _Death(exporter, self._died)
        reference.on_death = on_death
        self._next_key = reference.key = self._next_key + 1
        self._deaths[reference.key] = reference
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

    def _died(self, reference: weakref.ref[Any]) -> None:
        assert isinstance(reference, _Death)
        self._deaths.pop(reference.key, None)
        reference.on_death()
