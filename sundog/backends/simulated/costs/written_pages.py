"""Which pages of the store a process has written: those are in its page table, while what only others have written is not."""

from __future__ import annotations

_PAGE = 4096


class WrittenPages:
    """See the module. Pages that were given back meanwhile count as written still."""

    __slots__ = ("_pages",)

    def __init__(self) -> None:
        #: A bit for each.
        self._pages = 0

    def write(self, offset: int, size: int, warm: bool) -> int:
        """Write ``size`` bytes at ``offset``; return how many of them go to pages that only others have written.

        ``warm``: somebody has written there before; to fresh pages nobody has.
        """
        first, last = offset // _PAGE, -(-(offset + size) // _PAGE)
        pages = ((1 << last - first) - 1) << first
        new = pages & ~self._pages
        self._pages |= pages
        return min(size, new.bit_count() * _PAGE) if warm else 0
