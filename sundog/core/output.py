"""How much of what workers print is shown: a bound on bytes per second, kept in whole lines, honest about what it drops.

A token bucket of one second's worth for the node. What exceeds it is dropped and counted for its worker, and the count
goes before that worker's next text, or by itself a second later. A worker that is being dropped is shown again only
when a quarter of the bucket is full, so that a flood becomes blocks of lines with gaps, not confetti.
"""

from __future__ import annotations

from sundog.core.config import Config
from sundog.core.deadlines import Deadlines
from sundog.core.ids import ProcessID
from sundog.core.units import SECOND, Nanos

#: A count of dropped bytes that no text followed is told after this long.
TELL_AFTER: Nanos = 1 * SECOND


class OutputBudget:
    """See the module.

    Invariant: every byte admitted is returned as text or counted, once, in a later (or the same) dropped count.
    """

    def __init__(self, config: Config) -> None:
        self._rate = config.output_bytes_per_second_max
        #: Unspent bytes times SECOND, so that refilling loses nothing.
        self._tokens = self._rate * SECOND
        self._refilled: Nanos | None = None
        self._dropped: dict[ProcessID, int] = {}
        self._tell: Deadlines[ProcessID] = Deadlines()

    def admit(self, now: Nanos, worker: ProcessID, text: str) -> tuple[str, int]:
        """Return what of ``text`` to show, and how many bytes of this worker were dropped before it.

        What is dropped of ``text`` itself is told by the next call, or by :meth:`expire`. Nothing is shown: ("", 0).
        """
        self._refill(now)
        dropped = self._dropped.get(worker, 0)
        if dropped and self._tokens * 4 < self._rate * SECOND:
            self._drop(now, worker, _byte_count(text))
            return "", 0
        room = self._tokens // SECOND
        size = _byte_count(text)
        shown = text if size <= room else _whole_lines(text, room)
        if not shown:
            self._drop(now, worker, size)
            return "", 0
        shown_size = size if shown is text else _byte_count(shown)
        self._tokens -= shown_size * SECOND
        if dropped:
            del self._dropped[worker]
            self._tell.cancel(worker)
        if shown_size < size:
            self._drop(now, worker, size - shown_size)
        return shown, dropped

    def expire(self, now: Nanos) -> list[tuple[ProcessID, int]]:
        """Return the dropped counts that are due to be told by themselves."""
        return [(worker, self._dropped.pop(worker)) for worker in self._tell.pop_due(now)]

    def forget(self, worker: ProcessID) -> int:
        """The worker is gone: return its dropped count that was not told."""
        self._tell.cancel(worker)
        return self._dropped.pop(worker, 0)

    def next_deadline(self) -> Nanos | None:
        """Return when :meth:`expire` will have something to tell, or None."""
        return self._tell.next()

    def _refill(self, now: Nanos) -> None:
        if self._refilled is not None and now > self._refilled:
            self._tokens = min(self._rate * SECOND, self._tokens + (now - self._refilled) * self._rate)
        self._refilled = now

    def _drop(self, now: Nanos, worker: ProcessID, size: int) -> None:
        if not size:
            return
        if worker not in self._dropped:
            self._tell.set(worker, now + TELL_AFTER)
        self._dropped[worker] = self._dropped.get(worker, 0) + size


def _byte_count(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _whole_lines(text: str, room: int) -> str:
    """Return the longest run of whole lines at the start of ``text`` that fits into ``room`` bytes."""
    end = 0
    for line in text.splitlines(keepends=True):
        size = _byte_count(line)
        if size > room or not line.endswith("\n"):
            break
        room -= size
        end += len(line)
    return text[:end]
