"""Everything of one simulation: its loop, its nodes, what lies between them, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from sundog.backends.simulated.costs.durations import Durations
from sundog.backends.simulated.log import EventLog
from sundog.backends.simulated.node import Node
from sundog.backends.simulated.programs.client_process import ClientProcess
from sundog.backends.simulated.programs.streams import RandomStreams
from sundog.backends.simulated.sim_loop import Loop, Network
from sundog.backends.simulated.watch import Watch
from sundog.core.explanation import NodeTasks, explain_cluster
from sundog.core.ids import Address, NodeID, ObjectID
from sundog.core.machine import Fact
from sundog.core.messages import ExplanationGiven, ExplanationRequested, LoadReported, TableGiven, TableRequested
from sundog.core.units import Nanos

if TYPE_CHECKING:
    from sundog.backends.simulated.costs.profile import Profile
    from sundog.backends.simulated.faults.occurrences import Occurrence
    from sundog.backends.simulated.run_trace import RunTrace
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
        #: Nodes that have died.
        self.gone: list[Node] = []
        #: Called for every task that is submitted, starts or has finished, while faults wait for that.
        self.occurred: Callable[[Occurrence], None] | None = None
        #: The session ends: nobody needs to hear of anybody's end any more.
        self.ending = False
        #: Knows what may still happen.
        self.watch = Watch(loop)
        #: What is told of it to people, if they want a trace.
        self.trace: RunTrace | None = None
        #: Whether anybody looks on at the turns of nodes.
        self.watched = checks or log.wanted
        #: What the turns of nodes cost; None: nothing. Nodes look when they are made.
        self.profile: Profile | None = None

    def watch_turns(self, *, trace: RunTrace | None = None, occurred: Callable[[Occurrence], None] | None = None) -> None:
        """From now on tell ``trace`` of everything, and ``occurred`` of what happens to tasks."""
        self.trace = trace if trace is not None else self.trace
        self.occurred = occurred if occurred is not None else self.occurred
        if self.trace is not None or self.occurred is not None:
            self.watched = True
            for node in self.nodes.values():
                node.plain = False

    def add(self, node: Node, host: Host, joins: Nanos = 0, leaves: Nanos | None = None) -> None:
        """Let a node take its first turn at ``joins``, and die at ``leaves``."""
        if joins > self.loop.now:
            self.watch.call_at(joins, lambda: self._join(node, host))
        else:
            self._join(node, host)
        if leaves is not None:
            self.watch.call_at(leaves, node.die)

    def _join(self, node: Node, host: Host) -> None:
        self.nodes[node.number] = node
        node.plain = node.plain and not self.watched
        self.hosts[node.number] = host
        self.processes[node.where] = node
        if self.trace is not None:
            self.trace.joined(node.number)
        node.turn_soon()

    def forget(self, node: Node) -> None:
        """A node has died: its connections are gone, with what was on them, and the others find them broken."""
        if self.ending:
            return
        self.network.forget(node.number)
        self.processes.pop(node.where, None)
        if self.nodes.pop(node.number, None) is not None:
            self.gone.append(node)
        self.hosts.pop(node.number, None)
        if self.trace is not None:
            self.trace.died(node.number)
        for other in list(self.nodes.values()):
            if not other.dead:
                other.peer_died(node.number)

    def deliver(self, source: Address, target: Address, messages: list[Fact]) -> None:
        """A batch has arrived. What is for a process that has died is lost with it."""
        process = self.processes.get(target)
        if process is not None:
            if type(messages[0]) is not LoadReported or len(messages) > 1:
                self.loop.active_at = self.loop.now
            process.receive(source, messages)

    def all_nodes(self) -> list[Node]:
        """Return every node that ever was, for the end."""
        return [*self.nodes.values(), *self.gone]

    def explain(self, object_ids: Sequence[ObjectID]) -> str:
        """Return, for people, why ``object_ids`` are not ready, from what all nodes know."""
        views = [
            NodeTasks(number, host.local_scheduler.tasks, host.local_scheduler.resources) for number, host in self.hosts.items()
        ]
        return explain_cluster(views, object_ids, self.loop.now)

    def answer(self, question: Fact) -> Fact | None:
        """Return the answer to a question about tables and tasks, as far as the whole cluster knows; None for other questions."""
        if isinstance(question, TableRequested):
            return TableGiven(question.request, msgspec.msgpack.encode(self.table(question.table)))
        if isinstance(question, ExplanationRequested):
            return ExplanationGiven(question.request, self.explain(question.object_ids))
        return None

    def is_stuck(self) -> bool:
        """Tell whether nothing will ever happen any more, and nobody waits for a deadline."""
        if not self.watch.is_quiet() or self.network.busy():
            return False
        clients = [process for process in self.processes.values() if isinstance(process, ClientProcess)]
        return not any(getattr(w.fact, "deadline", None) is not None for client in clients for w in client.waiters.unanswered())

    def table(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of a control table of all nodes, in their order."""
        rows: list[dict[str, Any]] = []
        for number, host in self.hosts.items():
            found = host.table(name)
            rows += found if name != "nodes" else [row for row in found if row["node"] == number]
        return rows
