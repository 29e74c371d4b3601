"""Event loops of ``asyncio`` in virtual time: where one would wait for its sockets, the simulation goes on.

Whatever made it, an event loop of the driver's program or of a body gets its time from the simulation, and waits in it: for its
timers, and for what sundog's futures bring. Real sockets and threads are looked at now and then while the simulation goes on,
and waited for when nothing is left to happen in it.
"""

from __future__ import annotations

import weakref
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sundog.core.units import SECOND

if TYPE_CHECKING:
    from sundog.backends.simulated.programs.rebinding import Rebinding
    from sundog.backends.simulated.sim_loop import Loop

#: Seconds of real time between two looks at what other threads want, while nothing is left to happen in the simulation.
_PATIENCE = 0.01


def install(rebinding: Rebinding, module: ModuleType) -> None:
    """Change the event loops of ``module`` (``asyncio.base_events``) until ``rebinding`` is restored."""
    from sundog.backends.simulated.programs.virtual_time import strand_of_thread

    base: Any = module.BaseEventLoop
    real_time, real_run_once = base.time, base._run_once
    #: Event loops whose timers count in virtual time -> the simulation's.
    virtual: weakref.WeakKeyDictionary[Any, Loop] = weakref.WeakKeyDictionary()

    def virtual_time(loop: Any) -> float:
        strand = strand_of_thread()
        return float(real_time(loop)) if strand is None else strand.loop.now / SECOND

    def run_once(loop: Any) -> None:
        strand = strand_of_thread()
        if strand is not None and loop not in virtual:
            virtual[loop] = strand.loop
            _shift(loop, strand.loop.now / SECOND - real_time(loop))
        if strand is not None and not isinstance(loop._selector, VirtualSelector):
            loop._selector = VirtualSelector(loop._selector)
        real_run_once(loop)

    def back() -> None:
        for loop, simulation in list(virtual.items()):
            _shift(loop, real_time(loop) - simulation.now / SECOND)

    rebinding.replace(base, "time", virtual_time)
    rebinding.replace(base, "_run_once", run_once)
    rebinding.on_restore(back)


def _shift(loop: Any, by: float) -> None:
    """Move the timers that were set before the clock changed. Their order stays."""
    for handle in loop._scheduled:
        handle._when += by


class VirtualSelector:
    """A selector whose waiting lets the simulation go on."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def select(self, timeout: float | None = None) -> Any:
        """Return what is ready, after at most ``timeout`` virtual seconds."""
        from sundog.backends.simulated.programs.virtual_time import strand_of_thread

        strand = strand_of_thread()
        if strand is None or (timeout is not None and timeout <= 0):
            return self._real.select(timeout)
        loop = strand.loop
        until = None if timeout is None else loop.now + max(1, -int(-timeout * SECOND // 1))
        while True:
            ready = self._real.select(0)
            if ready or (until is not None and loop.now >= until):
                return ready
            loop.outside[strand] = lambda: bool(self._real.select(0))
            try:
                strand.suspend(until)
            finally:
                del loop.outside[strand]
            if until is None and loop.next_event() == float("inf"):
                ready = self._real.select(_PATIENCE)
                if ready:
                    return ready
