"""A simulated cluster as what faults are done to.

People number nodes as in ``init(nodes=...)``. A node that is started again is a new one to the cluster, with a number that nobody
had; here the old number means it from then on. Faults of the old one's connections do not concern it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sundog.backends.simulated.faults.language import parse, written
from sundog.backends.simulated.faults.runner import (
    DisturbFrames,
    KillNode,
    KillService,
    RestartNode,
    RestartService,
    Schedule,
    Service,
)
from sundog.backends.simulated.faults.swarm import swarm
from sundog.backends.simulated.network.connections import Network
from sundog.core import recovery
from sundog.core.events import ServiceLost, ServiceStarted
from sundog.core.ids import Address, NodeID, ProcessID, address
from sundog.core.machine import Fact
from sundog.core.messages import ExtentGranted, ExtentReturned, ExtentWanted
from sundog.core.units import Nanos

if TYPE_CHECKING:
    from sundog.backends.simulated.cluster import Cluster
    from sundog.backends.simulated.node import Node

FILLER = ProcessID((1 << 32) - 2)
_HEAD = NodeID(0)
#: What a service is to the core.
_MACHINES = {Service.GLOBAL_SCHEDULER: recovery.Service.GLOBAL_SCHEDULER, Service.DIRECTORY: recovery.Service.DIRECTORY}


def schedule_of(faults: Any, cluster: Mapping[int, int], seed: str) -> Schedule | None:
    """Return what ``init(faults=...)`` means, for a cluster given as {node: number of its workers}; None: no faults.

    Raises ValueError (FaultSyntaxError for a text) for nodes that do not exist and for what cannot be done.
    """
    if faults is None:
        return None
    if isinstance(faults, str) and faults.strip() == "swarm":
        faults = swarm(seed, cluster, frames=len(cluster) > 1, services=len(cluster) > 1)
    if not isinstance(faults, (str, Schedule)):
        raise TypeError(f"faults takes a text such as 'kill node 2 at 1 s', 'swarm', or a Schedule, not {faults!r}")
    schedule = parse(str(faults), cluster)
    for fault in schedule.faults:
        effect = fault.effect
        if isinstance(effect, (KillNode, RestartNode)) and effect.node == _HEAD:
            raise ValueError(f"'{written(fault)}': node 0 is the head, and the driver is on it: with it everything would end")
        if isinstance(effect, (KillService, RestartService)) and len(cluster) < 2:
            raise ValueError(f"'{written(fault)}': with one node the {effect.service} is a part of it; ask for nodes=2 or more")
    return schedule


def needs_frames(schedule: Schedule) -> bool:
    """Tell whether some fault concerns frames."""
    return any(isinstance(fault.effect, DisturbFrames) for fault in schedule.faults)


class _Filler:
    """Occupies room in the store of one node."""

    def __init__(self, cluster: Cluster, node: Node) -> None:
        self._where = address(node.number, FILLER)
        self._node = node
        self._wanted = 0
        self._offsets: list[int] = []
        cluster.processes[self._where] = self

    def fill(self, size: int) -> None:
        """Ask for ``size`` bytes in place of what is occupied; none for 0."""
        for offset in self._offsets:
            self._node.receive(self._where, [ExtentReturned(offset)])
        self._offsets.clear()
        self._wanted += 1
        if size > 0:
            self._node.receive(self._where, [ExtentWanted(self._wanted, size)])

    def receive(self, sender: Address, messages: list[Fact]) -> None:
        """See ``cluster.Receiver``."""
        for message in messages:
            if isinstance(message, ExtentGranted):
                if message.request == self._wanted:
                    self._offsets.append(message.offset)
                else:
                    self._node.receive(self._where, [ExtentReturned(message.offset)])


class FaultyCluster:
    """``faults.FaultTarget``; see the module. ``add(number, model)`` has a node join now: the ``model``-th of those asked for."""

    def __init__(self, cluster: Cluster, network: Network, count: int, add: Callable[[NodeID, int], None]) -> None:
        self._cluster = cluster
        self._network = network
        self._add = add
        self._next = count
        #: What the user's numbers mean now.
        self._now: dict[NodeID, NodeID] = {NodeID(number): NodeID(number) for number in range(count)}
        self._fillers: dict[NodeID, _Filler] = {}
        for node in self._now:
            network.add(node)

    def number(self, node: NodeID) -> NodeID:
        """Return the number by which the cluster knows ``node`` now."""
        return self._now[node]

    def _living(self, node: NodeID) -> Node | None:
        found = self._cluster.nodes.get(self._now[node])
        return None if found is None or found.dead else found

    def kill_node(self, node: NodeID) -> None:
        """See ``FaultTarget``."""
        living = self._living(node)
        if living is not None:
            living.die()

    def restart_node(self, node: NodeID) -> None:
        """See ``FaultTarget``. A node that has not joined yet is left alone, and joins when it should."""
        if self._living(node) is not None or not any(gone.number == self._now[node] for gone in self._cluster.gone):
            return
        number = NodeID(self._next)
        self._next += 1
        model, self._now[node] = node, number
        self._network.add(number)
        self._add(number, int(model))

    def kill_worker(self, node: NodeID, index: int) -> None:
        """See ``FaultTarget``."""
        living = self._living(node)
        if living is not None:
            living.kill_nth_worker(index)

    def kill_service(self, service: Service) -> None:
        """See ``FaultTarget``: the head's host loses the machine."""
        self._cluster.nodes[_HEAD].report(ServiceLost(_MACHINES[service]))

    def restart_service(self, service: Service) -> None:
        """See ``FaultTarget``. The host leaves one that lives alone."""
        self._cluster.nodes[_HEAD].report(ServiceStarted(_MACHINES[service]))

    def partition(self, groups: Sequence[Sequence[NodeID]], one_way: bool) -> Callable[[], None]:
        """See ``FaultTarget``."""
        return self._network.partition([[self._now[node] for node in group] for group in groups], one_way=one_way)

    def heal(self, nodes: Sequence[NodeID] | None) -> None:
        """See ``FaultTarget``."""
        self._network.heal(None if nodes is None else [self._now[node] for node in nodes])

    def slow(self, node: NodeID, permille: int) -> None:
        """See ``FaultTarget``: durations of bodies, starts of workers, and turns of the host."""
        living = self._living(node)
        if living is not None:
            living.slow(permille)

    def skew(self, node: NodeID, offset: Nanos) -> None:
        """See ``FaultTarget``: the clock of the host."""
        living = self._living(node)
        if living is not None:
            living.set_clock(offset)

    def fill_store(self, node: NodeID, permille: int) -> None:
        """See ``FaultTarget``: as far as there is room in one piece."""
        living = self._living(node)
        if living is None:
            return
        filler = self._fillers.get(living.number)
        if filler is None:
            if not permille:
                return
            filler = self._fillers[living.number] = _Filler(self._cluster, living)
        ledger = self._cluster.hosts[living.number].object_manager.ledger
        filler.fill(min(ledger.capacity * permille // 1000 - ledger.used_bytes, ledger.largest_free()))

    def pause(self, node: NodeID, paused: bool) -> None:
        """See ``FaultTarget``."""
        living = self._living(node)
        if living is not None and bool(living.pauses) is not paused:
            if paused:
                living.pause()
            else:
                living.go_on()
