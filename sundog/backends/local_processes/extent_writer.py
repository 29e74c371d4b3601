"""Writing a large extent: its pages made, mapped and filled piece by piece, by as many threads as there are idle cores.

Fresh pages are made, mapped and written a few megabytes at a time, while a cache still holds them; making them takes a lock of
the file, the rest does not, so that two threads gain on cold memory too (measured: 1.2 GB/s with one, 1.9 with two). What this
process has mapped already is copied in pieces as large as can be: from a size of its own on (192 MB on the machine at hand) the
C library writes past the caches, which takes a third less of the memory's time.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
from _thread import allocate_lock, start_new_thread
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

_PAGE = mmap.PAGESIZE
#: madvise advice that makes pages now, with an error instead of a SIGBUS (Linux 5.14); Python has no name for it yet.
_MADV_POPULATE_WRITE = 23
#: Below this, faulting pages one at a time costs less than asking.
POPULATE_BYTES_MIN = 256 << 10
#: Extents from this size on are written in pieces.
PIECES_BYTES_MIN = 1 << 20
#: Pieces start at multiples of this, so that no two threads make the same page.
PIECE_BYTES = 4 << 20
#: A piece of what is mapped already, where there are several of them.
_MAPPED_PIECE_BYTES = 256 << 20
#: A thread is worth its start (some 100 us) only if there is this much for it.
_THREAD_BYTES_MIN = 16 << 20
#: More threads than this no memory keeps busy.
_THREADS_MAX = 4
#: Seconds between looks for the last helpers.
_LOOK_SECONDS = 0.01
#: How far beyond a large extent pages are made ahead.
AHEAD_BYTES = 64 << 20
#: Stretches remembered as mapped; past it all are forgotten, which costs time only.
_STRETCHES_MAX = 1000

#: What a piece copies: (offset in the arena, bytes).
Copies = list[tuple[int, memoryview]]


class MappedStretches:
    """Which pages of the arena this process has in its page table already: sorted, disjoint, joined stretches."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def covers(self, start: int, end: int) -> bool:
        """Tell whether all of ``start`` to ``end`` is known."""
        index = bisect_right(self._starts, start) - 1
        return index >= 0 and self._ends[index] >= end

    def add(self, start: int, end: int) -> None:
        """``start`` to ``end`` is mapped now."""
        starts, ends = self._starts, self._ends
        first = bisect_right(starts, start)
        if first and ends[first - 1] >= start:
            first -= 1
            start = starts[first]
        last = bisect_right(starts, end)
        if last > first:
            end = max(end, ends[last - 1])
        starts[first:last] = [start]
        ends[first:last] = [end]
        if len(starts) > _STRETCHES_MAX:
            starts.clear()
            ends.clear()


class ExtentWriter:
    """See the module. ``mapping`` is the writable one of the arena; ``descriptor()`` is the arena's, or -1 once closed."""

    def __init__(self, mapping: mmap.mmap, size: int, descriptor: Callable[[], int]) -> None:
        self._mapping = mapping
        self._bytes = memoryview(mapping)
        self._size = size
        self._descriptor = descriptor
        self._address = 0
        self._populates = True
        self._mapped = MappedStretches()
        #: Held while a thread makes pages ahead, and while stretches change.
        self._ahead = allocate_lock()
        self._changing = allocate_lock()

    def write(self, offset: int, size: int, warm: bool, segments: Sequence[Any]) -> None:
        """Fill the extent with ``segments``, bytes-like and ``size`` together. Raises OSError if there is no memory for its pages.

        When this raises, whatever it raises, no thread of it is still writing.
        """
        end = offset + size
        mapped = warm and self._mapped.covers(offset, end)
        helpers = min(size // _THREAD_BYTES_MIN, _THREADS_MAX - 1)
        helpers = min(helpers, idle_cores()) if helpers else 0
        large = mapped and (not helpers or size >= 2 * _MAPPED_PIECE_BYTES)
        pieces = iter(_pieces(offset, segments, _MAPPED_PIECE_BYTES if large else PIECE_BYTES))
        self._together(helpers, pieces, mapped)
        with self._changing:
            self._mapped.add(offset // _PAGE * _PAGE, min(-(-end // _PAGE) * _PAGE, self._size))
        self._map_ahead(end)

    def reserve(self, offset: int, size: int) -> None:
        """Make the pages of a stretch and map them here. Raises OSError if there is no memory for them."""
        start = offset // _PAGE * _PAGE
        end = min(-(-(offset + size) // _PAGE) * _PAGE, self._size)
        os.posix_fallocate(self._descriptor(), start, end - start)
        if size >= POPULATE_BYTES_MIN:
            # Maps what was reserved in one call: a fault for each page would cost more than the copy itself.
            self._populate(start, end)

    def _populate(self, start: int, end: int) -> None:
        if not self._populates:
            return
        number = _madvise(self._address or self._find_address(), start, end - start, _MADV_POPULATE_WRITE)
        if number == errno.EINVAL:
            self._populates = False  # an older system: pages are mapped as they are touched
        elif number:
            raise OSError(number, os.strerror(number))

    def _find_address(self) -> int:
        import ctypes

        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))
        return self._address

    # -- threads ------------------------------

    def _work(self, pieces: Iterator[Copies], mapped: bool) -> None:
        """Take pieces and write them until none is left. Several threads share one iterator of a list."""
        target = self._bytes
        copy = _copier()
        for piece in pieces:
            if not mapped:
                last, data = piece[-1]
                self.reserve(piece[0][0], last + len(data) - piece[0][0])
            for at, data in piece:
                copy(target[at : at + len(data)], data)

    def _together(self, helpers: int, pieces: Iterator[Copies], mapped: bool) -> None:
        """Write ``pieces`` here and in up to ``helpers`` threads; raise what any of them raised."""
        errors: list[BaseException] = []
        begun: list[None] = []
        ended: list[None] = []
        gate = allocate_lock()
        gate.acquire()

        def help_along() -> None:
            begun.append(None)  # before the first piece is taken: whoever waits has emptied ``pieces`` first
            try:
                self._work(pieces, mapped)
            except BaseException as error:  # told to whoever waits
                errors.append(error)
                deque(pieces, 0)
            finally:
                ended.append(None)
                with suppress(RuntimeError):
                    gate.release()

        try:
            with suppress(RuntimeError):  # the limit of threads: those that there are do it
                for _ in range(helpers):
                    start_new_thread(help_along, ())
            self._work(pieces, mapped)
        except BaseException as error:
            errors.append(error)
        while True:
            # The caller gives the extent back when interrupted, and others will write there: first all must have stopped.
            try:
                deque(pieces, 0)
                while len(ended) < len(begun):
                    gate.acquire(True, _LOOK_SECONDS)
                break
            except BaseException as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _map_ahead(self, start: int) -> None:
        """Make the pages behind a large extent, which the next one may get, if a core is idle; nobody waits for it."""
        start = -(-start // _PAGE) * _PAGE
        end = min(start + AHEAD_BYTES, self._size)
        if end <= start or self._mapped.covers(start, end) or not self._populates or not idle_cores():
            return
        if not self._ahead.acquire(False):
            return

        def ahead() -> None:
            # Through the mapping alone, which this holds: the descriptor may be closed, and its number somebody else's.
            try:
                for at in range(start, end, PIECE_BYTES):
                    if self._descriptor() < 0:
                        return
                    self._populate(at, min(at + PIECE_BYTES, end))
                with self._changing:
                    self._mapped.add(start, end)
            except OSError:
                pass  # no memory to spare: whoever needs the pages will be told
            finally:
                self._ahead.release()

        try:
            start_new_thread(ahead, ())
        except RuntimeError:
            self._ahead.release()


def idle_cores() -> int:
    """Return how many of this process's cores have nothing to run now, the caller's not counted."""
    cores = len(os.sched_getaffinity(0))
    if cores == 1:
        return 0
    try:
        with open("/proc/loadavg", "rb") as file:
            running = int(file.read().split()[3].partition(b"/")[0])
    except (OSError, ValueError, IndexError):
        return 0
    return max(0, cores - max(1, running))


def _pieces(offset: int, segments: Sequence[Any], size: int) -> list[Copies]:
    """Cut ``segments``, to be written at ``offset`` one after the other, at multiples of ``size``."""
    pieces: list[Copies] = [[]]
    at = offset
    bound = at - at % size + size
    for segment in segments:
        data = memoryview(segment)
        taken = 0
        while taken < len(data):
            if at == bound:
                pieces.append([])
                bound += size
            count = min(len(data) - taken, bound - at)
            pieces[-1].append((at, data[taken : taken + count]))
            taken += count
            at += count
    return pieces


def _copier() -> Callable[[memoryview, memoryview], None]:
    """Return what copies bytes: numpy, which lets other threads run meanwhile, where it is loaded."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not hasattr(numpy, "copyto"):
        return _copy
    frombuffer, copyto, kind = numpy.frombuffer, numpy.copyto, numpy.uint8

    def copy(target: memoryview, source: memoryview) -> None:
        copyto(frombuffer(target, kind), frombuffer(source, kind))

    return copy


def _copy(target: memoryview, source: memoryview) -> None:
    target[:] = source


_libc_madvise: Any = None


def _madvise(address: int, start: int, size: int, advice: int) -> int:
    """Return 0 or an errno. Unlike ``mmap.madvise`` this lets other threads run meanwhile."""
    global _libc_madvise
    import ctypes

    if _libc_madvise is None:
        function = ctypes.CDLL(None, use_errno=True).madvise
        function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        _libc_madvise = function
    return ctypes.get_errno() if _libc_madvise(address + start, size, advice) else 0
