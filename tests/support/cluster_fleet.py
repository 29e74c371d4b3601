"""Several nodes in memory: each a :class:`~tests.support.fleet.Fleet`, joined by FIFO channels that take virtual time.

A node that is killed says and hears nothing more; the head finds out by its silence. Copies between arenas take time too, and
fail when their source dies, or when ``fails`` says so.

>>> cluster = Cluster(2, {"double": lambda e: inline(2 * e.contents[0])})
>>> driver = cluster.nodes[1]
>>> driver.get(driver.driver.call("double", driver.driver.put(21)))
[42]
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from random import Random

from sundog.core import actions as act
from sundog.core import events as ev
from sundog.core import messages as msg
from sundog.core.cluster_host import ClusterHost
from sundog.core.cluster_tasks import ClusterScheduler
from sundog.core.config import Config
from sundog.core.ids import HOST, LOOP, NodeID, address, node_of
from sundog.core.machine import Action, Event
from sundog.core.recovery import Service
from sundog.core.retold_objects import RetellingObjectManager
from sundog.core.units import MICROSECOND, MILLISECOND, Nanos
from tests.support.builders import config
from tests.support.fleet import ROUND, Body, Fleet

#: What a message takes between nodes, at least and at most.
LATENCY = (20 * MICROSECOND, 200 * MICROSECOND)
#: Nothing but heartbeats for so long: nothing is left to happen.
QUIET: Nanos = 2_500 * MILLISECOND
ROUNDS_MAX = 2_000_000


def cluster_config(cpus: int = 2, **fields: object) -> Config:
    """Return the settings of a node in a cluster whose silence is soon noticed."""
    settings: dict[str, object] = {
        "heartbeat_every": 50 * MILLISECOND, "node_lost_after": 300 * MILLISECOND, "arena_bytes": 1 << 20,
        "warm_bytes_max": 1 << 12,
    }  # fmt: skip
    return config(cpus=cpus, **(settings | fields))  # type: ignore[arg-type]


class Node(Fleet):
    """One node. What tests do with a Fleet they do with it."""

    host: ClusterHost

    def __init__(self, cluster: Cluster, number: int, settings: Config) -> None:
        self.cluster = cluster
        host = ClusterHost(settings, NodeID(number), rng=Random(number))
        super().__init__(settings, None, cluster.rng, host)
        self.bodies = cluster.bodies

    @property
    def number(self) -> NodeID:
        return self.host.node

    @property
    def now(self) -> Nanos:
        return self.cluster.now

    @now.setter
    def now(self, now: Nanos) -> None:
        """The cluster has the clock."""

    @property
    def objects(self) -> RetellingObjectManager:
        manager = self.host.object_manager
        assert isinstance(manager, RetellingObjectManager)
        return manager

    @property
    def scheduler(self) -> ClusterScheduler:
        scheduler = self.host.local_scheduler
        assert isinstance(scheduler, ClusterScheduler)
        return scheduler

    def run(self, until: Callable[[], bool] | None = None, deadline: Nanos | None = None) -> None:
        if self in self.cluster.nodes:
            self.cluster.run(until, deadline)

    def send_away(self, action: act.Send) -> None:
        self.cluster.send(self, action)

    def _perform(self, action: Action) -> None:
        if isinstance(action, act.StartFetch):
            self.cluster.fetch(self, action)
        elif isinstance(action, act.StopFetch):
            self.cluster.stop_fetch(self, action.attempt)
        elif isinstance(action, act.ClosePeer):
            self.cluster.close(self, action.node)
        else:
            super()._perform(action)

    def check_empty(self) -> None:
        super().check_empty()
        assert self.objects.shared == {}
        assert self.objects.foreign == {}
        assert len(self.objects.pulls) == 0
        assert len(self.objects.recipes) == 0
        assert self.objects.ended == {}
        assert self.scheduler.foreign == {}


class _Channel:
    """Messages from one node to another, in order."""

    def __init__(self) -> None:
        self.messages: deque[tuple[Nanos, Event]] = deque()


class _Copy:
    """An extent that travels."""

    def __init__(self, node: Node, fetch: act.StartFetch, done_at: Nanos) -> None:
        self.node, self.fetch, self.done_at = node, fetch, done_at


class Cluster:
    """See the module. Node 0 is the head. ``rng`` draws who moves next, latencies and failures; else all is even."""

    def __init__(
        self,
        count: int = 2,
        bodies: Mapping[str, Body] | None = None,
        settings: Config | None = None,
        rng: Random | None = None,
        each: Callable[[int], Config] | None = None,
    ) -> None:
        self.now: Nanos = 0
        self.rng = rng
        self.bodies: dict[str, Body] = dict(bodies or {})
        self.nodes: list[Node] = []
        self.lost: list[Node] = []
        self.before_round: Callable[[Cluster], None] = lambda cluster: None
        #: Whether a copy fails although both nodes live.
        self.fails: Callable[[act.StartFetch], bool] = lambda fetch: False
        #: More latency, by (from, to).
        self.delays: dict[tuple[int, int], Nanos] = {}
        self.sent: Counter[type] = Counter()
        self.bytes_copied = 0
        self._channels: dict[tuple[NodeID, NodeID], _Channel] = {}
        self._copies: list[_Copy] = []
        self._active_at: Nanos = 0
        self.nodes = [Node(self, n, each(n) if each else settings or cluster_config()) for n in range(count)]
        self.run(lambda: len(self.head.scheduler._peers) == count - 1 and all(node.workers for node in self.nodes))

    @property
    def head(self) -> Node:
        return self.nodes[0]

    def add(self, settings: Config) -> Node:
        """A node joins."""
        node = Node(self, len(self.nodes) + len(self.lost), settings)
        self.nodes.append(node)
        return node

    def kill(self, node: Node) -> None:
        """The node dies now. Of what is on its way from it, an end may be lost."""
        self.nodes.remove(node)
        self.lost.append(node)
        for (source, to), channel in self._channels.items():
            if to == node.number:
                channel.messages.clear()
            elif source == node.number and self.rng is not None:
                for _ in range(self.rng.randint(0, len(channel.messages))):
                    channel.messages.pop()
        self._copies = [copy for copy in self._copies if copy.node is not node]

    def kill_service(self, service: Service) -> None:
        """A service of the head dies."""
        self.head.loop.append((LOOP, ev.ServiceLost(service)))

    def restart_service(self, service: Service) -> None:
        """A service of the head runs again, and knows nothing."""
        self.head.loop.append((LOOP, ev.ServiceStarted(service)))

    # -- what nodes do ------------------------------

    def _latency(self) -> Nanos:
        return LATENCY[0] if self.rng is None else self.rng.randint(*LATENCY)

    def send(self, node: Node, action: act.Send) -> None:
        """A host sends to another."""
        kind = type(action.message)
        self.sent[kind] += 1
        if kind is not msg.LoadReported:
            self._active_at = self.now
        to = node_of(action.to)
        assert action.to == address(to, HOST)
        channel = self._channels.setdefault((node.number, to), _Channel())
        arrives = self.now + self._latency() + self.delays.get((node.number, to), 0)
        if channel.messages:
            arrives = max(arrives, channel.messages[-1][0])
        channel.messages.append((arrives, (node.host.here, action.message)))

    def fetch(self, node: Node, fetch: act.StartFetch) -> None:
        """A host copies an extent of another."""
        self._copies.append(_Copy(node, fetch, self.now + self._latency() + fetch.size))

    def stop_fetch(self, node: Node, attempt: int) -> None:
        """A host gives up a copy that takes too long."""
        for copy in [copy for copy in self._copies if copy.node is node and copy.fetch.attempt == attempt]:
            self._copies.remove(copy)
            node.loop.append((LOOP, ev.FetchFailed(copy.fetch.object_id, copy.fetch.attempt, "it took too long")))

    def close(self, node: Node, peer: NodeID) -> None:
        """A host closes its connections with another, which is lost: what is being copied from there fails."""
        for copy in [copy for copy in self._copies if copy.node is node and copy.fetch.source == peer]:
            self._copies.remove(copy)
            node.loop.append((LOOP, ev.FetchFailed(copy.fetch.object_id, copy.fetch.attempt, "the source is lost")))

    def node(self, number: NodeID) -> Node | None:
        """Return a node that lives."""
        return next((node for node in self.nodes if node.number == number), None)

    # -- the loop ------------------------------

    def run(self, until: Callable[[], bool] | None = None, deadline: Nanos | None = None) -> None:
        """Go on until ``until()``, or until nothing is left to happen (before ``deadline``)."""
        self._active_at = self.now
        for _ in range(ROUNDS_MAX):
            if until is not None and until():
                return
            self.before_round(self)
            moved = self._deliver()
            if self.rng is not None:
                nodes = list(self.nodes)
                self.rng.shuffle(nodes)
                moved = sum([node.move(self.rng) for node in nodes if self.rng.randrange(4)]) > 0 or moved
            else:
                moved = sum([node.round() for node in self.nodes]) > 0 or moved
            self._stop()
            if moved:
                self.now += ROUND
                self._note_activity()
                continue
            moment = self._next_moment()
            late = deadline if deadline is not None else self._active_at + QUIET
            if moment is None or moment > late:
                if deadline is not None:
                    self.now = max(self.now, deadline)
                return
            self.now = max(self.now, moment)
        raise AssertionError(f"{ROUNDS_MAX} rounds without an end; running: {[node.running for node in self.nodes]}")

    def _note_activity(self) -> None:
        if any(node.process.outbox or node.process.inbox or node.running for node in self.nodes) or self._copies:
            self._active_at = self.now

    def _stop(self) -> None:
        for node in [node for node in self.nodes if node.stopped and node is not self.head]:
            self.kill(node)

    def _deliver(self) -> bool:
        moved = False
        for (_, to), channel in self._channels.items():
            node = self.node(to)
            while channel.messages and channel.messages[0][0] <= self.now:
                _, event = channel.messages.popleft()
                if node is not None:
                    node.loop.append(event)
                    moved = True
        for copy in [copy for copy in self._copies if copy.done_at <= self.now]:
            self._copies.remove(copy)
            self._end(copy)
            moved = True
        return moved

    def _end(self, copy: _Copy) -> None:
        fetch, node = copy.fetch, copy.node
        source = self.node(fetch.source)
        if source is None or self.fails(fetch):
            node.loop.append((LOOP, ev.FetchFailed(fetch.object_id, fetch.attempt, "the source is gone")))
            return
        size, data = source._memory[fetch.source_offset]
        assert size == fetch.size, "what is lent was overwritten"
        self.bytes_copied += size
        node.fill(fetch.offset, size, data)
        node.loop.append((LOOP, ev.FetchFinished(fetch.object_id, fetch.attempt)))

    def _next_moment(self) -> Nanos | None:
        moments = [node.next_moment() for node in self.nodes]
        moments += [channel.messages[0][0] for channel in self._channels.values() if channel.messages]
        moments += [copy.done_at for copy in self._copies]
        return min([moment for moment in moments if moment is not None], default=None)

    # -- what tests look at ------------------------------

    def check_empty(self) -> None:
        """Nobody refers to anything any more: no table of any node holds anything."""
        for node in self.nodes:
            node.check_empty()
        host = self.head.host
        assert host.directory._entries == {}
        assert host.directory._askers == {}
        assert host.global_scheduler.waiting == {}
        assert host.global_scheduler.assigned == {}
        assert host.lineage._recipes == {}

    def drop_all(self) -> None:
        """Every driver lets everything go, and everybody hears of it."""
        for node in self.nodes:
            node.driver.drop_all()
        self.run()

    def run_for(self, span: Nanos) -> None:
        """Let ``span`` pass."""
        self.run(deadline=self.now + span)
