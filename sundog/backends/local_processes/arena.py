"""The node's shared memory, as one process sees it. Which bytes belong to whom is decided by the ledger in core.

One anonymous memfd, mapped at most twice by each process and only once it is needed: writable for those who write, and
PROT_READ for those who read, so that a view handed to a user *cannot* be written to, whatever is done to it.

A view that was read holds its grant. A plain memoryview cannot (a slice of a slice keeps the exporter alive, not the view), so
the exporter is an object made for each read: a view of a numpy subclass where numpy is loaded, else a small mapping of its own.
Both are gone exactly when the last slice is, and let go of the grant.
"""

from __future__ import annotations

import mmap
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from sundog.backends.local_processes.extent_writer import PIECES_BYTES_MIN, ExtentWriter

_PAGE = mmap.PAGESIZE
#: Reads through mappings of their own that may live at one time: each costs a descriptor. Past it numpy is imported.
_OWN_MAPPINGS_MAX = 64


def create_arena(size: int) -> int:
    """Return the descriptor of a new sparse arena of ``size`` bytes; it closes on exec. Raises OSError if there is no memfd."""
    fd = os.memfd_create("sundog-arena", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd


class _Mapping(mmap.mmap):
    """An exporter that is a mapping of its own."""

    __slots__ = ("grant",)
    grant: object


class SharedArena:
    """See the module. ``fd`` is owned from here on; ``size`` is the arena's, in bytes."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size
        self._writable: mmap.mmap | None = None
        self._readable: mmap.mmap | None = None
        self._readable_bytes: memoryview | None = None
        self._writer: ExtentWriter | None = None
        #: Live exporters that are mappings of their own. They leave by themselves, in C: Ctrl-C cannot strike there.
        self._own_mappings: set[weakref.ref[_Mapping]] = set()
        self._exporter: Callable[[memoryview], Any] | None = None

    def write(self, offset: int, size: int, warm: bool) -> memoryview:
        """Return a writable view of an extent granted to this process; reserves its pages first unless ``warm``.

        Raises OSError (ENOSPC, ENOMEM) if the machine has no memory left for them.
        """
        writer = self._writer or self._find_writer()
        if not warm and size:
            writer.reserve(offset, size)
        assert self._writable is not None
        return memoryview(self._writable)[offset : offset + size]

    def fill(self, offset: int, size: int, warm: bool, segments: Sequence[Any]) -> None:
        """See ``base.Arena``."""
        if size >= PIECES_BYTES_MIN:
            (self._writer or self._find_writer()).write(offset, size, warm, segments)
            return
        view = self.write(offset, size, warm)
        at = 0
        for segment in segments:
            end = at + len(segment)
            view[at:end] = segment
            at = end

    def read(self, offset: int, size: int, grant: object) -> memoryview:
        """See ``base.Arena``. ``grant`` dies wherever the last view happens to die: nothing of Python should run then."""
        if not size:
            return memoryview(b"")
        exporter = self._exporter or self._find_exporter()
        if exporter is None:
            return self._read_own_mapping(offset, size, grant)
        whole = self._readable_bytes
        if whole is None:
            self._readable = mmap.mmap(self.fd, self.size, mmap.MAP_SHARED, mmap.PROT_READ)
            whole = self._readable_bytes = memoryview(self._readable)
        exported = exporter(whole[offset : offset + size])
        exported.grant = grant
        return memoryview(exported)

    def release_pages(self, offset: int, size: int) -> None:
        """Give the whole pages within a free stretch back to the system; they read as zero afterwards."""
        start = -(-offset // _PAGE) * _PAGE
        end = (offset + size) // _PAGE * _PAGE
        if end <= start:
            return
        if self._writable is None:
            self._find_writer()
        assert self._writable is not None
        self._writable.madvise(mmap.MADV_REMOVE, start, end - start)

    def close(self) -> None:
        """Close the descriptor. Mappings that views still need stay as long as the views do. Idempotent."""
        fd, self.fd = self.fd, -1
        self._writable = self._readable = self._readable_bytes = self._writer = None
        if fd >= 0:
            os.close(fd)

    def _find_writer(self) -> ExtentWriter:
        writer = self._writer
        if writer is None:
            mapping = mmap.mmap(self.fd, self.size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            writer = ExtentWriter(mapping, self.size, lambda: self.fd)
            self._writable, self._writer = mapping, writer
        return writer

    def _find_exporter(self) -> Callable[[memoryview], Any] | None:
        """Return what wraps bytes into an object with weak references, or None while numpy need not be loaded."""
        if "numpy" not in sys.modules and len(self._own_mappings) < _OWN_MAPPINGS_MAX:
            return None
        try:
            import numpy  # 113 ms: only where a user has it loaded, or holds many views
        except ImportError:
            return None

        class ArenaBytes(numpy.ndarray[Any, Any]):
            """Bytes of the arena; exists to hold their grant."""

            __slots__ = ("grant",)

        def export(view: memoryview) -> Any:
            # Its base must not be an array: numpy would take that for the base of arrays made over these bytes, and pass us by.
            return ArenaBytes((len(view),), numpy.uint8, view)

        self._exporter = export
        return export

    def _read_own_mapping(self, offset: int, size: int, grant: object) -> memoryview:
        start = offset // _PAGE * _PAGE
        mapping = _Mapping(self.fd, offset + size - start, mmap.MAP_SHARED, mmap.PROT_READ, offset=start)
        mapping.grant = grant
        self._own_mappings.add(weakref.ref(mapping, self._own_mappings.discard))
        return memoryview(mapping)[offset - start :]
