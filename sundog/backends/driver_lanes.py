"""The names that a driver's threads give: each thread has a lane of its own."""

from __future__ import annotations

import itertools
import threading
from _thread import get_ident

from sundog.core.ids import IdSequence, TaskID


class DriverLanes:
    """A part of every driver's ``base.Port``. ``root`` names the driver's program."""

    def __init__(self, root: TaskID) -> None:
        self._root = root
        self._lanes = itertools.count(1)
        self._local = threading.local()

    def lane(self) -> IdSequence:
        """See ``base.Port``. The main thread is lane 0; every other thread takes the next one at its first call."""
        found: IdSequence | None = getattr(self._local, "ids", None)
        if found is None:
            lane = 0 if get_ident() == threading.main_thread().ident else next(self._lanes)
            found = self._local.ids = IdSequence(self._root, 1, lane)
        return found
