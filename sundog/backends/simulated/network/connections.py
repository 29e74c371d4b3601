"""The model network: latency with jitter, bandwidth shared fairly, connections that keep order and can be hurt.

A message from one process to another goes over their *connection*. A connection is first in, first out: what was sent later
never arrives earlier, whatever its size, the jitter or the faults; different connections reorder freely. One message at a time
is on a connection's way into the network; the others wait behind it, as they would in a socket.

What a message costs:

* between processes of one node: a constant;
* a large one (``flow_bytes_min``), or a middling one while a link on its way is busy, is a *flow*: it shares its sender's uplink
  and its receiver's downlink max-min fairly with all other flows (see ``flows``), and arrives a latency after its last byte left;
* a small one, or a middling one on idle links, is a *packet*: size over bandwidth, behind earlier packets on the same links and at
  a flow's share if there are flows, then the latency. Flows do not feel packets.

Events: one of SimPy per delivery (one for all that arrive together on one connection), and per settling of flows; nothing waits
in a generator. What takes no time at all needs no event (``Network.at_once``). All draws come from one generator in the order of
sending, so the same seed gives the same run.

Faults (all on directed pairs of nodes): ``stop`` and ``resume``, ``cut``, ``delay``, ``set_bandwidth``, ``forget``. Here
a cut shows as delay only, since what was on the way is sent again; ``framing.FramedNetwork`` has frames that are lost,
come twice and out of order, below the link that the real processes use.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from random import Random

import msgspec
from simpy.core import Environment
from simpy.events import Event

from sundog.backends.simulated.calls import call_in
from sundog.backends.simulated.network.flows import UNITS_PER_BYTE, Flow, Flows, Link
from sundog.backends.simulated.network.model import NetworkModel
from sundog.core.errors import InvariantViolation
from sundog.core.ids import Address, NodeID, node_of
from sundog.core.units import SECOND, Nanos

Deliver = Callable[[], None]
#: So many bytes a second that a small message takes no time.
ENDLESS = 1 << 40
#: Connections before idle ones are looked for.
_SWEEP_MIN = 20_000


class Traffic(msgspec.Struct):
    """Messages and bytes, counted. What was sent has been delivered, or dropped with a dead process, or is under way."""

    messages: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        """Count one message of ``size`` bytes."""
        self.messages += 1
        self.bytes += size


class Connection:
    """One direction between two processes."""

    __slots__ = (
        "down", "extra", "flow", "flying", "last", "latency", "left", "network", "sending", "source", "stops", "target", "up",
        "waiting",
    )  # fmt: skip

    def __init__(self, network: Network, source: Address, target: Address) -> None:
        self.network = network
        self.source = source
        self.target = target
        near, far = node_of(source), node_of(target)
        #: The links on the way; None within a node.
        self.up: Link | None = None if near == far else network.uplink(near)
        self.down: Link | None = None if near == far else network.downlink(far)
        self.latency = network.model.local_latency if near == far else network.latency(near, far)
        #: Added by a fault.
        self.extra: Nanos = 0
        #: Sent, and arriving at a known time: (arrival, size, deliver), in order. None if there is nothing: there may be a
        #: million connections, and an empty deque weighs more than the rest of one.
        self.flying: deque[tuple[Nanos, int, Deliver]] | None = None
        #: When the last of those arrives; nothing sent later may arrive earlier.
        self.last: Nanos = 0
        #: The message that is a flow now, and its flow; the flow is None while stopped, and ``left`` then its units.
        self.sending: tuple[int, Deliver] | None = None
        self.flow: Flow | None = None
        self.left = 0
        #: Behind it.
        self.waiting: deque[tuple[int, Deliver]] | None = None
        #: How many faults stop it at present.
        self.stops = network.stops(near, far)

    def wait(self, size: int, deliver: Deliver) -> None:
        """Put a message behind those that wait."""
        if self.waiting is None:
            self.waiting = deque()
        self.waiting.append((size, deliver))

    def transmit(self, size: int, deliver: Deliver) -> None:
        """Get a message of ``size`` bytes on its way, when nothing is before it."""
        up, down, network = self.up, self.down, self.network
        now: Nanos = network.environment.now  # type: ignore[assignment]
        if up is None or down is None:
            self._fly(now, now + self.latency, size, deliver)
            return
        model = network.model
        sharing = up.flows or down.flows
        if size > model.packet_bytes_max and (sharing or size >= model.flow_bytes_min):
            self.sending = (size, deliver)
            self.flow = network.flows.start(up, down, size * UNITS_PER_BYTE, self._sent)
            return
        work = size * SECOND
        begin = now if up.free < now else up.free
        up.free = gone = begin - -work * (len(up.flows) + 1) // up.bandwidth
        if down.free > begin:
            begin = down.free
        down.free = taken = begin - -work * (len(down.flows) + 1) // down.bandwidth
        arrival = (gone if gone > taken else taken) + self.latency + self.extra
        self._fly(now, arrival + network.draw_jitter() if model.jitter else arrival, size, deliver)

    def _fly(self, now: Nanos, arrival: Nanos, size: int, deliver: Deliver) -> None:
        """Have a message arrive at ``arrival``, or with the one before it if that is later."""
        flying = self.flying
        if arrival <= self.last:
            arrival = self.last
            if flying is not None and flying[-1][0] == arrival:
                flying.append((arrival, size, deliver))  # by the same event
                return
            if arrival < now:
                arrival = now
        self.last = arrival
        if flying is None:
            self.flying = deque(((arrival, size, deliver),))
        else:
            flying.append((arrival, size, deliver))
        call_in(self.network.environment, arrival - now, self.arrive)

    def arrive(self, _: Event | None = None) -> None:
        """Deliver everything that has arrived by now."""
        network = self.network
        now, delivered = network.environment.now, network.delivered
        while (flying := self.flying) is not None and not self.stops and flying[0][0] <= now:
            size, deliver = flying.popleft()[1:]
            if not flying:
                self.flying = None
            delivered.messages += 1
            delivered.bytes += size
            deliver()

    def _sent(self) -> None:
        """The last byte of the flow has left."""
        assert self.sending is not None
        (size, deliver), self.sending, self.flow = self.sending, None, None
        now: Nanos = self.network.environment.now  # type: ignore[assignment]
        self._fly(now, now + self.latency + self.extra + self.network.draw_jitter(), size, deliver)
        self._go_on()

    def _go_on(self) -> None:
        while self.waiting is not None and self.sending is None and not self.stops:
            size, deliver = self.waiting.popleft()
            if not self.waiting:
                self.waiting = None
            self.transmit(size, deliver)

    # -- faults ------------------------------

    def stop(self) -> None:
        """Let nothing move or arrive until as many :meth:`resume`."""
        self.stops += 1
        if self.flow is not None:
            self.left = self.network.flows.stop(self.flow)
            self.flow = None

    def resume(self) -> None:
        """Take one :meth:`stop` back; after the last one, what should have arrived meanwhile arrives now."""
        self.stops -= 1
        if self.stops:
            return
        if self.sending is not None and self.up is not None and self.down is not None:
            self.flow = self.network.flows.start(self.up, self.down, self.left, self._sent)
        self.arrive()
        self._go_on()

    def idle(self, now: Nanos) -> bool:
        """Tell whether nothing would change if it were forgotten and made anew."""
        return self.flying is None and self.sending is None and self.waiting is None and not self.stops and self.last <= now

    def take_all(self) -> list[tuple[int, Deliver]]:
        """Empty the connection; return what was on it, in order."""
        if self.flow is not None:
            self.network.flows.stop(self.flow)
        found = [(size, deliver) for _, size, deliver in self.flying or ()]
        if self.sending is not None:
            found.append(self.sending)
        found += self.waiting or ()
        self.sending = self.flow = self.flying = self.waiting = None
        self.last = 0
        return found

    def pending(self) -> Sequence[int]:
        """Return the sizes of what is on it."""
        sizes = [size for _, size, _ in self.flying or ()] + [size for size, _ in self.waiting or ()]
        return sizes if self.sending is None else [*sizes, self.sending[0]]


class Network:
    """See the module."""

    def __init__(self, environment: Environment, model: NetworkModel | None = None, *, seed: int | str = 0) -> None:
        self.environment = environment
        self.model = NetworkModel() if model is None else model
        self.flows = Flows(environment)
        self._random = Random(f"network {seed}").random
        self._jitter = self.model.jitter + 1
        self._connections: dict[tuple[Address, Address], Connection] = {}
        self._sweep_at = _SWEEP_MIN
        #: The same by nodes, without those within one; None until a fault first asks.
        self._between: dict[tuple[NodeID, NodeID], dict[Connection, None]] | None = None
        self._links: dict[NodeID, tuple[Link, Link]] = {}
        self._latencies = {(source, target): latency for source, target, latency in self.model.latencies}
        self._bandwidths = {node: (up, down) for node, up, down in self.model.bandwidths}
        model = self.model
        #: Small messages between any two nodes take no time, as long as no fault says otherwise.
        self._instant = not (model.latency or model.jitter or model.latencies or model.bandwidths) and model.bandwidth >= ENDLESS
        #: What faults do to pairs of nodes, for connections that are made later.
        self._stops: dict[tuple[NodeID, NodeID], int] = {}
        self._delays: dict[tuple[NodeID, NodeID], Nanos] = {}
        #: How often a pair was healed; what takes back one stop later must not take back one that came after.
        self._heals: dict[tuple[NodeID, NodeID], int] = {}
        self.sent = Traffic()
        self.delivered = Traffic()
        self.dropped = Traffic()
        #: Bytes that went over a link in vain, since a cut made them be sent again.
        self.resent = Traffic()

    def at_once(self, source: Address, target: Address, size: int) -> bool:
        """Tell whether a message between nodes arrives at the instant at which it is sent: whoever sent it delivers it then, and
        counts it. So it is where nothing takes time but what is large (see ``ENDLESS``), and nothing is before it."""
        if not self._instant or size > self.model.packet_bytes_max or self._stops or self._delays:
            return False
        if self._connections:
            connection = self._connections.get((source, target))
            return connection is None or connection.idle(int(self.environment.now))
        return True

    def send(self, source: Address, target: Address, size: int, deliver: Deliver) -> None:
        """Send a message of ``size`` bytes; ``deliver()`` is called when it arrives, after everything sent before it there."""
        sent = self.sent
        sent.messages += 1
        sent.bytes += size
        connection = self._connections.get((source, target))
        if connection is None:
            connection = self._connect(source, target)
        if connection.sending is not None or connection.stops:
            connection.wait(size, deliver)
        else:
            connection.transmit(size, deliver)

    def _connect(self, source: Address, target: Address) -> Connection:
        if len(self._connections) >= self._sweep_at:
            self._sweep()
        connection = self._connections[source, target] = Connection(self, source, target)
        if self._between is not None and connection.up is not None:
            pair = (node_of(source), node_of(target))
            connection.extra = self._delays.get(pair, 0)
            self._between.setdefault(pair, {})[connection] = None
        return connection

    def _sweep(self) -> None:
        """Forget connections that are as good as new, so that a long run does not keep one for every pair that ever talked."""
        now = int(self.environment.now)
        self._connections = {pair: one for pair, one in self._connections.items() if not one.idle(now)}
        self._between = None if self._between is None else self._by_nodes()
        self._sweep_at = max(_SWEEP_MIN, 2 * len(self._connections))

    def _by_nodes(self) -> dict[tuple[NodeID, NodeID], dict[Connection, None]]:
        found: dict[tuple[NodeID, NodeID], dict[Connection, None]] = {}
        for (source, target), connection in self._connections.items():
            if connection.up is not None:
                found.setdefault((node_of(source), node_of(target)), {})[connection] = None
        return found

    # -- what the network is like ------------------------------

    def nodes(self) -> list[NodeID]:
        """Return the nodes that were :meth:`add`-ed or have talked, in that order."""
        return list(self._links)

    def add(self, node: NodeID) -> None:
        """Tell that there is such a node, before it talks: for faults that concern all the others."""
        self._of(node)

    def uplink(self, node: NodeID) -> Link:
        """Return the link out of ``node``."""
        return self._of(node)[0]

    def downlink(self, node: NodeID) -> Link:
        """Return the link into ``node``."""
        return self._of(node)[1]

    def _of(self, node: NodeID) -> tuple[Link, Link]:
        links = self._links.get(node)
        if links is None:
            up, down = self._bandwidths.get(node, (self.model.bandwidth, self.model.bandwidth))
            links = self._links[node] = (self.flows.link(up), self.flows.link(down))
        return links

    def latency(self, source: NodeID, target: NodeID) -> Nanos:
        """Return the latency from one node to another, without jitter and faults."""
        return self._latencies.get((source, target), self.model.latency)

    def draw_jitter(self) -> Nanos:
        """Draw how much later than its latency a message arrives."""
        return int(self._random() * self._jitter)

    def stops(self, source: NodeID, target: NodeID) -> int:
        """Return how many faults stop messages from one node to another at present."""
        return self._stops.get((source, target), 0) if self._stops else 0

    # -- faults ------------------------------

    def stop(self, source: NodeID, target: NodeID) -> None:
        """Let nothing from ``source`` arrive at ``target`` until :meth:`resume`. Stops add up; within a node there is none."""
        if source == target:
            return
        self._stops[source, target] = self._stops.get((source, target), 0) + 1
        for connection in self.between(source, target):
            connection.stop()

    def resume(self, source: NodeID, target: NodeID) -> None:
        """Take back one :meth:`stop`; nothing if there is none."""
        count = self._stops.get((source, target), 0)
        if count == 0:
            return
        if count == 1:
            del self._stops[source, target]
        else:
            self._stops[source, target] = count - 1
        for connection in self.between(source, target):
            connection.resume()

    def clog(self, source: NodeID, target: NodeID, span: Nanos) -> None:
        """Stop one direction for ``span``."""
        self.stop(source, target)
        self.later(span, self._unless_healed([(source, target)]))

    def partition(self, groups: Sequence[Sequence[NodeID]], *, one_way: bool = False) -> Deliver:
        """Stop everything between nodes of different groups (``one_way``: only from an earlier group to a later one).

        Returns what heals it, once; other faults are left as they are.
        """
        pairs = [
            (source, target)
            for position, sources in enumerate(groups)
            for other, targets in enumerate(groups)
            if (position < other if one_way else position != other)
            for source in sources
            for target in targets
        ]
        for pair in pairs:
            self.stop(*pair)
        return self._unless_healed(pairs)

    def _unless_healed(self, pairs: list[tuple[NodeID, NodeID]]) -> Deliver:
        """Return what takes back one stop of each pair, once, unless :meth:`heal` has taken all of that pair's back before."""
        stopped = [(pair, self._heals.get(pair, 0)) for pair in pairs]

        def resume() -> None:
            mine, stopped[:] = list(stopped), []
            for pair, heals in mine:
                if self._heals.get(pair, 0) == heals:
                    self.resume(*pair)

        return resume

    def heal(self, nodes: Iterable[NodeID] | None = None) -> None:
        """Take back every stop and delay between these nodes (None: any), and give their links their bandwidth again."""
        chosen = None if nodes is None else frozenset(nodes)
        for pair, count in list(self._stops.items()):
            if chosen is None or chosen.issuperset(pair):
                self._heals[pair] = self._heals.get(pair, 0) + 1
                for _ in range(count):
                    self.resume(*pair)
        for pair in list(self._delays):
            if chosen is None or chosen.issuperset(pair):
                self.delay(*pair, 0)
        for node in self._links:
            if chosen is None or node in chosen:
                self.set_bandwidth(node, 1, 1)

    def delay(self, source: NodeID, target: NodeID, extra: Nanos) -> None:
        """From now on messages from one node to another take ``extra`` longer; 0 takes it back. Order is kept."""
        if extra < 0:
            raise ValueError(f"a delay of {extra} ns: it cannot be negative")
        if extra:
            self._delays[source, target] = extra
        else:
            self._delays.pop((source, target), None)
        for connection in self.between(source, target):
            connection.extra = extra

    def set_bandwidth(self, node: NodeID, numerator: int, denominator: int) -> None:
        """Give both links of ``node`` that share of their bandwidth, at least a byte a second; 1, 1 restores it."""
        usual = self._bandwidths.get(node, (self.model.bandwidth, self.model.bandwidth))
        for link, bandwidth in zip(self._of(node), usual, strict=True):
            changed = max(1, bandwidth * numerator // denominator)
            if changed != link.bandwidth:
                self._instant = False
                self.flows.set_bandwidth(link, changed)

    def cut(self, first: NodeID, second: NodeID) -> None:
        """Cut all connections between two nodes, both ways: what is on them is sent again when they stand again."""
        for source, target in ((first, second), (second, first)):
            for connection in self.between(source, target):
                unsent = len(connection.waiting or ())
                lost = connection.take_all()
                for size, _ in lost[: len(lost) - unsent]:
                    self.resent.add(size)
                if lost:
                    connection.waiting = deque(lost)
                connection.stop()
                self.later(self.model.reconnect_after, connection.resume)

    def forget(self, node: NodeID) -> None:
        """``node`` is dead: what is on its way to it is gone, and what it had not got out."""
        self._drop(pair for pair in self._connections if node in (node_of(pair[0]), node_of(pair[1])))

    def forget_process(self, process: Address) -> None:
        """The same for one process."""
        self._drop(pair for pair in self._connections if process in pair)

    def _drop(self, pairs: Iterable[tuple[Address, Address]]) -> None:
        for pair in list(pairs):
            connection = self._connections.pop(pair)
            self.drop_all(connection)
            if connection.up is not None and self._between is not None:
                del self._between[node_of(pair[0]), node_of(pair[1])][connection]

    def drop_all(self, connection: Connection) -> None:
        """Lose what is on ``connection``."""
        for size, _ in connection.take_all():
            self.dropped.add(size)

    def connection(self, source: Address, target: Address) -> Connection | None:
        """Return the connection from one process to another, if anything was sent there since both began."""
        return self._connections.get((source, target))

    def between(self, source: NodeID, target: NodeID) -> Sequence[Connection]:
        """Return the connections from one node to another."""
        if self._between is None:
            self._between = self._by_nodes()
        return tuple(self._between.get((source, target), ()))

    def later(self, span: Nanos, call: Deliver) -> None:
        """Call ``call()`` after ``span``."""
        call_in(self.environment, span, lambda _: call())

    # -- accounts ------------------------------

    def pending(self) -> Traffic:
        """Count what is under way. Walks all connections."""
        sizes = [size for connection in self._connections.values() for size in connection.pending()]
        return Traffic(len(sizes), sum(sizes))

    def busy(self) -> bool:
        """Tell whether something is on its way that will arrive, large or delayed by a fault. Walks all connections."""
        connections = self._connections.values()
        return any(one.flow is not None or (one.extra and one.flying is not None and not one.stops) for one in connections)

    def check_invariants(self) -> None:
        """Raise InvariantViolation if a byte was made or lost, or bandwidth is not shared fairly."""
        pending = self.pending()
        for name in ("messages", "bytes"):
            sent, parts = getattr(self.sent, name), [getattr(part, name) for part in (self.delivered, self.dropped, pending)]
            if sent != sum(parts):
                raise InvariantViolation(f"network: {sent} {name} sent; delivered, dropped, under way: {parts}")
        self.flows.check_invariants()
