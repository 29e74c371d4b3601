"""How many workers a node has: as many as usual, more while tasks block, fewer again afterwards.

A worker is started only when a ready task would fit and none is idle or starting (P2), never past ``worker_processes_max``, and not
in a tight loop when workers do not come up.
"""

from __future__ import annotations

from collections.abc import Mapping

from sundog.core import messages as msg
from sundog.core.actions import Send, StartWorker
from sundog.core.config import Config
from sundog.core.deadlines import NEVER
from sundog.core.machine import Action
from sundog.core.ready_queue import ReadyQueue
from sundog.core.resources import ResourceSet, Shape
from sundog.core.units import MILLISECOND, Nanos
from sundog.core.worker_pool import WorkerPool

_FIRST_PAUSE: Nanos = 100 * MILLISECOND
_PAUSE_MAX: Nanos = 5_000 * MILLISECOND
_HOPELESS_AFTER = 6


class PoolSize:
    """See the module."""

    def __init__(self, config: Config, pool: WorkerPool, resources: ResourceSet) -> None:
        self._config = config
        self._pool = pool
        self._resources = resources
        self.failures = 0
        #: Starting waits until then, because workers do not come up.
        self.paused_until: Nanos | None = None

    def adjust(self, now: Nanos, queues: Mapping[Shape, ReadyQueue]) -> list[Action]:
        """Return the workers to start or to let go now, for ``queues`` with ready tasks.

        Nobody need ask while as many as usual stay, no start is paused, and no ready task wants for a worker.
        """
        if self.paused_until is not None:
            if now < self.paused_until:
                return []
            self.paused_until = None
        pool, config = self._pool, self._config
        actions: list[Action] = []
        while pool.surplus < 0:
            actions.append(StartWorker(pool.add().worker))
        if pool.idle or pool.starting_count or len(pool.workers) >= config.worker_processes_max:
            self._let_go(now, actions)
            return actions
        room = min(config.worker_starting_max, config.worker_processes_max - len(pool.workers))
        for shape, queue in queues.items():
            wanting = len(queue) if queue.peek() is not None and self._resources.fits(shape) else 0
            for _ in range(min(wanting, room, self._times(shape))):
                actions.append(StartWorker(pool.add().worker))
                room -= 1
        return actions

    def _times(self, shape: Shape) -> int:
        """Return how often ``shape`` fits into what is free."""
        free = self._resources.free
        return min((free.get(name, 0) // amount for name, amount in shape), default=self._config.worker_starting_max)

    def _let_go(self, now: Nanos, actions: list[Action]) -> None:
        if now >= self._idle_deadline():
            oldest = next(iter(self._pool.idle.values()))
            self._pool.stop(oldest)
            actions.append(Send(oldest.where, msg.StopRequested()))

    def _idle_deadline(self) -> Nanos:
        pool = self._pool
        if pool.surplus <= 0 or not pool.idle or pool.blocked:
            return NEVER
        return next(iter(pool.idle.values())).idle_since + self._config.worker_idle_max

    def next_deadline(self) -> Nanos:
        """Return when the size should be looked at again, or NEVER."""
        return self._idle_deadline() if self.paused_until is None else self.paused_until

    # -- workers that do not come up ------------------------------

    def start_failed(self, now: Nanos, reason: str) -> str | None:
        """A worker did not come up: wait, each time twice as long. Returns a warning, the first time and when it is hopeless."""
        self.failures += 1
        self.paused_until = now + min(_PAUSE_MAX, _FIRST_PAUSE << min(self.failures - 1, 10))
        if self.failures == 1:
            return f"a worker process did not come up: {reason}; trying again"
        if self.failures == _HOPELESS_AFTER:
            return f"{self.failures} worker processes in a row did not come up: {reason}"
        return None

    @property
    def hopeless(self) -> bool:
        """Whether so many failed in a row that what waits should fail."""
        return self.failures >= _HOPELESS_AFTER

    def worked(self) -> None:
        """A worker ran a task: whatever was wrong is over."""
        self.failures = 0
