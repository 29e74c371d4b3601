"""How a service of the head that died begins anew: what it waits for before it decides anything.

The global scheduler and the object directory keep nothing on disk. What they must know lies with the nodes: a node has its tasks,
its references and its copies. So when a service is back, with a higher *incarnation*, the head's host asks every node
(``ServiceRestarted``), and each answers with all of it in one message. Connections are FIFO, so the answer stands for everything
that the node has ever told before, and what it tells afterwards comes on top.

Until every node has answered the service frees nothing, places nothing and declares nothing lost. A node that is lost meanwhile
need not answer. One that beats and does not answer (it is heard, and does not hear) would stop the cluster for good, so after
``PATIENCE`` times ``config.node_lost_after`` it counts as lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from sundog.core.config import Config
from sundog.core.ids import NodeID
from sundog.core.units import Nanos

#: How long a node may take to answer, in times of ``config.node_lost_after``.
PATIENCE = 2


#: Starts of a body that placements of earlier incarnations may have made: what it creates is named after the number of its start.
_INCARNATION_SHIFT = 12
_INCARNATIONS = 16


class Service(IntEnum):
    """What of the head can die by itself."""

    GLOBAL_SCHEDULER = 1
    DIRECTORY = 2


def first_start(incarnation: int) -> int:
    """Return how many starts a task that is placed by this incarnation leaves to placements by earlier ones."""
    return incarnation % _INCARNATIONS << _INCARNATION_SHIFT


class Recovery:
    """See the module. ``awaited``: the nodes that are alive as the service begins."""

    def __init__(self, config: Config, incarnation: int, awaited: Iterable[NodeID]) -> None:
        self._config = config
        self.incarnation = incarnation
        self._awaited: dict[NodeID, None] = dict.fromkeys(awaited)
        #: When patience ends; set by the first step.
        self._until: Nanos | None = None

    def __bool__(self) -> bool:
        """Tell whether somebody is awaited."""
        return bool(self._awaited)

    def awaits(self, node: NodeID) -> bool:
        """Tell whether ``node`` has not answered yet: what it says counts only later."""
        return node in self._awaited

    def heard(self, node: NodeID, incarnation: int) -> bool:
        """The node has answered; False if not this incarnation, or for the second time."""
        return incarnation == self.incarnation and self._awaited.pop(node, 0) is None

    def lost(self, node: NodeID) -> bool:
        """The node is lost; True if it had not answered."""
        return self._awaited.pop(node, 0) is None

    def silent(self, now: Nanos) -> list[NodeID]:
        """Return the nodes for which patience is at its end.

        As membership does, a step that comes late takes its own lateness for the reason, and waits for one heartbeat more.
        """
        if not self._awaited:
            return []
        if self._until is None:
            self._until = now + PATIENCE * self._config.node_lost_after
        late = now - self._until
        if late < 0:
            return []
        if late > self._config.heartbeat_every:
            self._until = now + self._config.heartbeat_every
            return []
        silent = list(self._awaited)
        self._until = now + self._config.heartbeat_every
        return silent

    def next_deadline(self) -> Nanos | None:
        """Return when patience ends, or None if nobody is awaited."""
        return self._until if self._awaited else None
