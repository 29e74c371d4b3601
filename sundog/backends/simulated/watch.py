"""What may still happen in a simulation, so that one in which nothing will is recognised although heartbeats go on for ever.

Something may happen while code sleeps or a body's duration passes, while bytes are on their way, while a call has a deadline, or
while faults, joins or leaves are still to come. Timers of hosts do not count: they are short, and what they bring about is seen
within ``QUIET``. What is left is a wait that nothing will end: a deadlock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sundog.core.units import SECOND, Nanos

if TYPE_CHECKING:
    from sundog.backends.simulated.sim_loop import Loop
    from sundog.core.config import Config

#: Nothing but heartbeats for so long, and for so many times the longest grace of a host: nothing is left to happen.
QUIET: Nanos = 60 * SECOND
_GRACES = 10


class Watch:
    """See the module."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        #: What is to come by itself: joins, leaves, faults and their ends.
        self.coming = 0
        self.quiet = QUIET

    def heed(self, config: Config) -> None:
        """Be patient enough for a session with these settings."""
        graces = (config.node_lost_after, config.infeasible_grace, config.store_full_grace, config.worker_idle_max)
        self.quiet = max(QUIET, _GRACES * max(*graces, config.stall_after, config.heartbeat_every))

    def call_at(self, when: Nanos, call: Callable[[], None]) -> None:
        """Have ``call()`` at ``when``; until then something is to come."""
        self.coming += 1

        def come(_: object) -> None:
            self.coming -= 1
            self._loop.active_at = self._loop.now
            call()

        self._loop.call_at(when, come)

    def is_quiet(self) -> bool:
        """Tell whether nothing but heartbeats has happened for long, no code sleeps or computes, and nothing is to come."""
        loop = self._loop
        return not self.coming and not loop.timers and loop.now - loop.active_at > self.quiet
