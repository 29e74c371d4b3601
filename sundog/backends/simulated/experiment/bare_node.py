"""A node of an experiment: :class:`~sundog.backends.simulated.node.Node` with lean ways to its own processes, and counted."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from simpy.core import Environment
from simpy.events import NORMAL, Event

from sundog.backends.simulated.cores import Cores
from sundog.backends.simulated.experiment.measures import Measures
from sundog.backends.simulated.node import Node, NodeWorker, Store
from sundog.backends.simulated.sim_loop import wire_size
from sundog.core.actions import Dispatch, StartFetch
from sundog.core.config import Config
from sundog.core.ids import Address, NodeID, ProcessID, node_of
from sundog.core.machine import Fact

if TYPE_CHECKING:
    from sundog.backends.simulated.cluster import Cluster
    from sundog.core.host import Host


class Delivery(Event):
    """An event that hands a batch to a process of the same node: a SimPy event that is its own callback."""

    __slots__ = ("messages", "process", "sender")

    _ok = True
    _value = None

    def __init__(self, environment: Environment, process: Any, sender: Address, messages: list[Fact]) -> None:
        self.env = environment
        self.process = process
        self.sender = sender
        self.messages = messages
        self.callbacks = _DELIVER


def _deliver(event: Delivery) -> None:
    event.process.receive(event.sender, event.messages)


#: Shared by all: SimPy only walks through it.
_DELIVER: list[Any] = [_deliver]


class BareNode(Node):
    """See the module. Within a node messages take ``local_latency``, so one event each keeps them in order."""

    host: Host

    def __init__(
        self,
        cluster: Cluster,
        number: NodeID,
        config: Config,
        host: Host,
        make_worker: Callable[[Any, ProcessID], NodeWorker],
        store: Store,
        measures: Measures,
        turns: deque[BareNode],
    ) -> None:
        super().__init__(cluster, number, config, host, make_worker, store)
        self.measures = measures
        if self.cores is not None:
            self.cores = Cores(cluster.loop, 0)  # bodies compute on what the resources say, not on these
        #: Nodes whose turn comes when nothing else happens at this instant.
        self._turns = turns
        self.local_latency = cluster.network.model.local_latency  # type: ignore[attr-defined]  # experiments have that one
        #: Functions that the host was told of.
        self.exported: dict[str, None] = {}

    def turn(self) -> None:
        """See ``Process``."""
        self.measures.steps += 1
        super().turn()

    def turn_soon(self) -> None:
        """See ``Process``. It takes no event: whoever works off the queue looks for turns before time moves on."""
        if not self._turn_due and self._acting is None and not self.pauses:
            self._turn_due = True
            self._turns.append(self)

    def take_turn(self) -> None:
        """The turn has come."""
        self._turn_due = False
        if not self.dead:
            self.turn()

    def send(self, source: Address, target: Address, messages: list[Fact]) -> None:
        """See ``Node``."""
        measures, cluster, size = self.measures, self._cluster, wire_size(messages)
        if node_of(target) != self.number:
            measures.messages_remote += len(messages)
            measures.bytes_remote += size
            cluster.network.send(source, target, size, partial(cluster.deliver, source, target, messages))
            return
        measures.messages_local += len(messages)
        measures.bytes_local += size
        process = self if target == self.where else cluster.processes.get(target)
        if process is None:
            return
        if not self.local_latency:
            process.receive(source, messages)
            return
        environment = self.loop.environment
        environment.schedule(Delivery(environment, process, source, messages), NORMAL, self.local_latency)

    def _dispatch(self, action: Dispatch) -> None:
        self.measures.decisions += len(action.tasks)
        super()._dispatch(action)

    def _start_fetch(self, action: StartFetch) -> None:
        known = action.attempt in self._fetches
        super()._start_fetch(action)
        if not known and action.attempt in self._fetches:
            self.measures.sent(action.source, action.size)

    def _fetched(self, source: Node, action: StartFetch) -> None:
        if not self.dead and action.attempt in self._fetches:
            self.measures.received(self.number, action.size)
        super()._fetched(source, action)

    def bytes_coming(self) -> int:
        """Return how many bytes are on their way here from other nodes' stores."""
        return sum([action.size for action in self._fetches.values()])

    def _drop_fetches(self, source: NodeID | None) -> None:
        for action in self._fetches.values():
            if source is None or action.source == source:
                self.measures.bytes_dropped += action.size

    def peer_died(self, node: NodeID) -> None:
        """See ``Node``."""
        self._drop_fetches(node)
        super().peer_died(node)

    def die(self) -> None:
        """See ``Node``."""
        self._drop_fetches(None)
        self._fetches.clear()
        super().die()
