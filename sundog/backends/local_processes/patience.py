"""How long a driver leaves its link unread while nobody can go on before many more objects are ready.

Each packet of news costs a wake-up and a turn, and takes a core from the workers. While every waiting thread misses many
objects, news may as well lie in the socket for an eighth of the time that the rest is expected to take, by the pace of what
came before: so a wait ends at most that much later than it could, and mostly not at all, since the stretches shrink towards its
end. Where somebody waits for few objects, or an answer of another kind, everything is read as it comes.
"""

from __future__ import annotations

from collections.abc import Collection

from sundog.core.request import Request
from sundog.core.units import MICROSECOND, MILLISECOND, Nanos

#: The longest that news lies unread; what is printed is shown that much later.
PATIENCE_MAX: Nanos = 20 * MILLISECOND
#: Less is not worth a timer.
PATIENCE_MIN: Nanos = 300 * MICROSECOND
#: This part of what is expected to be left is waited at one time.
_PART = 8
#: More waiting threads than this are not looked at, one by one, in each turn.
_REQUESTS_MAX = 8


class Patience:
    """See the module. ``read_at`` is when the link is to be read next, or 0: whenever something comes."""

    __slots__ = ("_at", "_came", "_missing", "_took", "read_at")

    def __init__(self) -> None:
        self.read_at: Nanos = 0
        #: How many objects were missing when the link was last read, and when that was.
        self._missing = 0
        self._at: Nanos = 0
        #: How many objects came, and in what time: both smoothed, so that a few that came late weigh as little as they are.
        self._came: float = 0
        self._took: float = 0

    def consider(self, now: Nanos, requests: Collection[Request], waiting: int, *, was_read: bool) -> None:
        """Set ``read_at`` after a turn at ``now`` in which the link ``was_read`` or not; ``waiting`` threads wait in all."""
        if not requests or len(requests) != waiting or waiting > _REQUESTS_MAX:
            self.read_at = self._missing = 0
            return
        missing = min([len(request.missing) - request.missing_allowed for request in requests])
        before = self._missing
        if missing > before or (missing < before and not was_read):  # it is somebody else who waits for least
            self._missing, self._at, self._came, self._took, self.read_at = missing, now, 0, 0, 0
            return
        if not was_read:
            return
        self.read_at = 0
        if missing < before:
            self._came = self._came / 2 + before - missing
            self._took = self._took / 2 + now - self._at
            self._missing, self._at = missing, now
            patience = min(int(self._took / self._came * missing) // _PART, PATIENCE_MAX)
            if patience >= PATIENCE_MIN:
                self.read_at = now + patience
