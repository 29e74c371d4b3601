"""The cores of a node, which its processes share: what each computes takes longer while more of them compute than there are cores.

Processor sharing: with k processes computing on c cores each gets a share of min(1, c / k) of a core, whatever came first. That
is what a fair scheduler of an operating system gives, looked at from far enough; that a process that has slept goes first is not
modelled. With c = 0 every process has a core of its own. Where cores are hardware threads that share what they compute with, each
is slower the more of them compute: evenly from the first one to the last.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from simpy.events import Event

from sundog.core.units import Nanos

if TYPE_CHECKING:
    from sundog.backends.simulated.programs.strand import Strand
    from sundog.backends.simulated.sim_loop import Loop

#: Service is counted in these parts of a nanosecond. It is rounded down, and who lacks only so few of them has had enough.
_PARTS = 1 << 16
_ENOUGH = 1 << 6
#: Speeds are in thousandths.
_WHOLE = 1000


class Cores:
    """``count`` cores, each of ``crowded`` thousandths of its speed while all of them compute; see the module.

    A process computes one thing at a time: whoever calls sees to that.
    """

    def __init__(self, loop: Loop, count: int, crowded: int = _WHOLE) -> None:
        self.count = count
        #: What all of them were asked to compute so far.
        self.asked: Nanos = 0
        self._crowded = crowded
        self._loop = loop
        #: What each of those that compute has received since the beginning, had it always been there; up to ``_at``.
        self._served = 0
        #: For how long cores were busy, all together, up to ``_at``.
        self._occupied: Nanos = 0
        self._at: Nanos = 0
        #: (service at its end, number, what is called then) of those that compute.
        self._computing: list[tuple[int, int, Callable[[Event], None]]] = []
        self._numbers = itertools.count()
        #: When a look is due that may find the first of them at its end. SimPy cannot cancel: looks may come too early.
        self._look: Nanos | None = None

    @property
    def computing(self) -> int:
        """How many processes compute. 0 where they do not share cores."""
        return len(self._computing)

    @property
    def occupied(self) -> Nanos:
        """For how long cores were busy so far, all together: longer than ``asked`` where crowded ones are slower."""
        if not self.count:
            return self.asked
        return self._occupied + (self._loop.now - self._at) * min(len(self._computing), self.count)

    def compute(self, span: Nanos, done: Callable[[Event], None]) -> int:
        """Call ``done(event)`` once a process that begins now has computed for ``span``; return a number for :meth:`stop`."""
        loop = self._loop
        self.asked += span
        number = next(self._numbers)
        if not self.count:
            loop.call_at(loop.now + span, done)
            return number
        self._serve(len(self._computing))
        heappush(self._computing, (self._served + span * _PARTS, number, done))
        self._look_later()
        return number

    def stop(self, number: int) -> None:
        """A process was killed: it computes no more, though on cores of one's own it is called for what it would have done."""
        self._serve(len(self._computing))
        self._computing = [one for one in self._computing if one[1] != number]
        heapify(self._computing)
        if self._computing:
            self._look_later()

    def spend(self, strand: Strand, span: Nanos) -> None:
        """Let user code compute for ``span``, and what happens meanwhile happen."""
        loop = self._loop
        if not self.count:
            self.asked += span
            strand.tick(span)
            return
        self._serve(len(self._computing))
        together = len(self._computing) + 1
        until = loop.now + self._takes(span * _PARTS, together)
        if loop.next_event() > until:  # nobody begins or ends before
            self.asked += span
            loop.environment.advance(until)
            self._serve(together)
            return
        over: list[Event] = []

        def done(event: Event) -> None:
            over.append(event)
            strand.wake()

        self.compute(span, done)
        while not over:
            strand.suspend(flush=False)

    def _serve(self, together: int) -> None:
        """Count what ``together`` processes have received until now."""
        now = self._loop.now
        span = now - self._at
        self._at = now
        self._occupied += span * min(together, self.count)
        parts = span * _PARTS
        share, of = self._speed(together)
        self._served += parts * share // of

    def _speed(self, together: int) -> tuple[int, int]:
        """Return how much of a core alone each of ``together`` processes has, as a fraction."""
        if together > self.count:
            return self.count * self._crowded, together * _WHOLE
        if together <= 1 or self._crowded == _WHOLE:
            return 1, 1
        return _WHOLE - (_WHOLE - self._crowded) * (together - 1) // (self.count - 1), _WHOLE

    def _takes(self, parts: int, together: int) -> Nanos:
        """Return how long one of ``together`` processes takes to receive ``parts``."""
        share, of = self._speed(together)
        return -(-max(0, parts - _ENOUGH) * of // (_PARTS * share))

    def _look_later(self) -> None:
        when = self._loop.now + self._takes(self._computing[0][0] - self._served, len(self._computing))
        if self._look is None or when < self._look:
            self._look = when
            self._loop.call_at(when, self._on_look)

    def _on_look(self, _: Event) -> None:
        loop = self._loop
        if self._look != loop.now:
            return
        self._look = None
        computing = self._computing
        self._serve(len(computing))
        while computing and computing[0][0] <= self._served + _ENOUGH:
            loop.call_at(loop.now, heappop(computing)[2])
        if computing:
            self._look_later()
