"""A node of an experiment: :class:`~sundog.backends.simulated.node.Node` with lean ways to its own processes, and counted."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from heapq import heappush
from typing import TYPE_CHECKING, Any

from simpy.core import Environment
from simpy.events import NORMAL, Event

from sundog.backends.simulated.costs.cores import Cores
from sundog.backends.simulated.experiment.measures import Measures
from sundog.backends.simulated.network.connections import Network
from sundog.backends.simulated.node import Node, NodeWorker, Store
from sundog.backends.simulated.sim_loop import wire_size
from sundog.core.actions import Dispatch, StartFetch, StopFetch
from sundog.core.config import Config
from sundog.core.ids import Address, NodeID, ProcessID, address
from sundog.core.machine import Fact
from sundog.core.units import Nanos

if TYPE_CHECKING:
    from sundog.backends.simulated.cluster import Cluster
    from sundog.backends.simulated.experiment.bare_worker import BareWorker
    from sundog.core.host import Host


#: What is above these bits of an address is its node's number.
_NODE_SHIFT = address(NodeID(1), ProcessID(0)).bit_length() - 1


class Delivery(Event):
    """An event that hands a batch to a process of the same node: a SimPy event that is its own callback."""

    __slots__ = ("env", "messages", "process", "sender")

    _ok = True
    _value = None
    callbacks: Any

    def __init__(self, environment: Environment, process: Any, sender: Address, messages: list[Fact]) -> None:
        self.env = environment
        self.process = process
        self.sender = sender
        self.messages = messages


def _deliver(event: Delivery) -> None:
    event.process.receive(event.sender, event.messages)


#: Shared by all: who works off the queue only walks through it.
Delivery.callbacks = [_deliver]


class Ends(Event):
    """Bodies of one node end at one time: a SimPy event that is its own callback."""

    __slots__ = ("env", "workers")

    _ok = True
    _value = None
    callbacks: Any

    def __init__(self, environment: Environment, worker: BareWorker) -> None:
        self.env = environment
        self.workers = [worker]


def _end(event: Ends) -> None:
    for worker in event.workers:
        worker.on_time()


Ends.callbacks = [_end]


class BareNode(Node):
    """See the module. Within a node messages take ``local_latency``, so one event each keeps them in order."""

    __slots__ = (
        "_ends", "_ends_at", "_network", "_processes", "_turns", "exported", "local_latency", "measures",
    )  # fmt: skip

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
        assert isinstance(cluster.network, Network)
        self._network = cluster.network
        self._processes = cluster.processes
        self.local_latency = self._network.model.local_latency
        #: The bodies that end at one time, as long as nobody asked for another time since.
        self._ends: Ends | None = None
        self._ends_at: Nanos = -1
        #: Functions that the host was told of.
        self.exported: dict[str, None] = {}

    def turn_soon(self) -> None:
        """See ``Process``. It takes no event: whoever works off the queue looks for turns before time moves on."""
        if not self._turn_due and self._acting is None and not self.pauses:
            self._turn_due = True
            self._turns.append(self)

    def take_turn(self) -> None:
        """The turn has come."""
        self._turn_due = False
        if self.dead:
            return
        if not self.plain or len(self.inbox) > self._room:
            self.turn()
            return
        events, self.inbox = self.inbox, []
        now: Nanos = self.environment._now  # type: ignore[assignment]  # only whole numbers are ever scheduled
        actions = self.host.step(now, events)
        if actions:
            self._act(actions)
        due = self.host.next_deadline()
        if due is not None and (self._timer is None or due < self._timer or self._timer <= now):
            self.rearm()

    def rearm(self) -> None:
        """See ``Process``."""
        if not self.dead:
            super().rearm()

    def _on_timer(self, event: Event) -> None:
        """See ``Process``. Its turn comes with those of all others at this instant."""
        now = self.environment._now
        if self.dead or self._timer is None or self._timer > now:
            return
        self._timer = None
        due = self.wanted_at()
        if due is not None:
            self.turn_at(due)

    def send(self, source: Address, target: Address, messages: list[Fact]) -> None:
        """See ``Node``."""
        measures = self.measures
        process: Any
        if target >> _NODE_SHIFT == self.number:
            measures.messages_local += len(messages)
            process = self if target == self.where else self._processes.get(target)
            if self.local_latency and process is not None:
                environment = self.environment
                environment.schedule(Delivery(environment, process, source, messages), NORMAL, self.local_latency)
                return
        else:
            size = wire_size(messages)
            measures.messages_remote += len(messages)
            measures.bytes_remote += size
            network = self._network
            if not network.at_once(source, target, size):
                network.send(source, target, size, partial(self._cluster.deliver, source, target, messages))
                return
            process = self._processes.get(target)
        if process is not None:
            process.receive(source, messages)

    def wake_at(self, when: Nanos, worker: BareWorker) -> None:
        """Call ``worker.on_time()`` at ``when``, later than now. Those of one time that ask one after the other share an event."""
        if when == self._ends_at and self._ends is not None:
            self._ends.workers.append(worker)
            return
        environment = self.environment
        self._ends_at = when
        self._ends = ends = Ends(environment, worker)
        heappush(environment._queue, (when, NORMAL, next(environment._eid), ends))  # as schedule() does, with no call

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

    def _stop_fetch(self, action: StopFetch) -> None:
        fetch = self._fetches.get(action.attempt)
        if fetch is not None:
            self.measures.bytes_dropped += fetch.size
        super()._stop_fetch(action)

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
