"""Everything of one simulation: its loop, its nodes, what lies between them, and what all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from sundog.backends.simulated.durations import Durations
from sundog.backends.simulated.log import EventLog
from sundog.backends.simulated.node import Node
from sundog.backends.simulated.sim_loop import Loop, Network
from sundog.backends.simulated.streams import RandomStreams
from sundog.core.explanation import explain
from sundog.core.ids import Address, NodeID, ObjectID
from sundog.core.machine import Fact
from sundog.core.units import Nanos

if TYPE_CHECKING:
    from sundog.backends.simulated.cost_model import Profile
    from sundog.core.host import Host


class Receiver(Protocol):
    """What messages are delivered to."""

    def receive(self, sender: Address, messages: list[Fact]) -> None:
        """See ``sim_loop.Process``."""


class Cluster:
    """See the module."""

    def __init__(self, loop: Loop, network: Network, log: EventLog, durations: Durations, *, checks: bool = False) -> None:
        self.loop = loop
        self.network = network
        self.log = log
        self.durations = durations
        self.streams = RandomStreams(loop)
        #: Check the invariants of every host after every step: slow, for tests.
        self.checks = checks
        self.nodes: dict[NodeID, Node] = {}
        self.processes: dict[Address, Receiver] = {}
        #: The machines of each node, to be asked what they know.
        self.hosts: dict[NodeID, Host] = {}
        #: What the turns of nodes cost; None: nothing. Nodes look when they are made.
        self.profile: Profile | None = None

    def add(self, node: Node, host: Host, joins: Nanos = 0, leaves: Nanos | None = None) -> None:
        """Let a node take its first turn at ``joins``, and die at ``leaves``."""
        if joins > self.loop.now:
            self.loop.call_at(joins, lambda _: self._join(node, host))
        else:
            self._join(node, host)
        if leaves is not None:
            self.loop.call_at(leaves, lambda _: node.die())

    def _join(self, node: Node, host: Host) -> None:
        self.nodes[node.number] = node
        self.hosts[node.number] = host
        self.processes[node.where] = node
        node.turn_soon()

    def forget(self, node: Node) -> None:
        """A node has died: its connections are gone, with what was on them, and the others find them broken."""
        self.network.forget(node.number)
        self.processes.pop(node.where, None)
        for other in self.nodes.values():
            if not other.dead:
                other.peer_died(node.number)

    def deliver(self, source: Address, target: Address, messages: list[Fact]) -> None:
        """A batch has arrived. What is for a process that has died is lost with it."""
        process = self.processes.get(target)
        if process is not None:
            process.receive(source, messages)

    def explain(self, object_ids: Sequence[ObjectID]) -> str:
        """Return, for people, why ``object_ids`` are not ready, as far as any node knows."""
        now = self.loop.now
        texts: dict[str, None] = {}
        for host in self.hosts.values():
            scheduler = host.local_scheduler
            texts[explain(scheduler.tasks, scheduler.resources, object_ids, now)] = None
        return " ".join(texts)
