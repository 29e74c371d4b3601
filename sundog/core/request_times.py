"""When the requests of a client's threads expire, and when they have waited so long that somebody should be told why.

Every request that waits has the second of these times, and nearly none lives to see it. All wait equally long for it, so the one
that began first is the first: they stand in a queue, and nothing is done when one of them is over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from sundog.core.deadlines import NEVER, Deadlines
from sundog.core.request import Request
from sundog.core.units import Nanos

#: Requests that are over are tolerated in the queue up to this many, or as many again as wait.
_OVER_MAX = 64


class RequestTimes:
    """See the module. ``requests`` is the owner's table of those that wait, ``stuck_after`` how long is long."""

    __slots__ = ("_expiring", "_requests", "_stuck_after", "_unexplained", "due")

    def __init__(self, requests: Mapping[int, Request], stuck_after: Nanos) -> None:
        self._requests = requests
        self._stuck_after = stuck_after
        self._expiring: Deadlines[int] = Deadlines()
        #: Requests of which nobody was told yet, in the order of their beginning; some are over.
        self._unexplained: deque[int] = deque()
        #: Nothing is to be done before; NEVER if nothing ever is. It may be early when requests have ended.
        self.due: Nanos = NEVER

    def begin(self, number: int, deadline: Nanos | None, now: Nanos) -> None:
        """The request ``number``, which is in the table, begins to wait ``now``; for ever if it has no ``deadline``."""
        stuck_at = now + self._stuck_after
        waiting, unexplained = len(self._requests), self._unexplained
        if waiting == 1:
            unexplained.clear()  # nobody else waits
            self.due = stuck_at
        else:
            if stuck_at < self.due:
                self.due = stuck_at
            if len(unexplained) > 2 * waiting + _OVER_MAX:
                self._unexplained = unexplained = deque(filter(self._requests.__contains__, unexplained))
        unexplained.append(number)
        if deadline is not None:
            self._expiring.set(number, max(deadline, now + 1))
            self.due = min(self.due, max(deadline, now + 1))

    def end(self, number: int) -> None:
        """A request that had a deadline is over. (Of others nothing need be said.)"""
        self._expiring.cancel(number)

    def pop_due(self, now: Nanos) -> tuple[list[int], list[int]]:
        """Return the requests that expire, and those that have waited long; each is returned once as either."""
        expired = self._expiring.pop_due(now)
        due = self._expiring.next()
        self.due = NEVER if due is None else due
        stuck = []
        requests, unexplained = self._requests, self._unexplained
        while unexplained:
            request = requests.get(unexplained[0])
            if request is not None:
                stuck_at = request.asked_at + self._stuck_after
                if stuck_at > now:
                    self.due = min(self.due, stuck_at)
                    break
                stuck.append(unexplained[0])
            unexplained.popleft()
        return expired, stuck
