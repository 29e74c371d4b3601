"""The machines of several nodes alone, in one process: what a task costs that runs on another node, and what a heartbeat costs.

One node submits; its tasks are placed over all. Messages between nodes arrive in the next round, and rounds are 50 microseconds of
virtual time apart. With more nodes neither a task nor a heartbeat may cost more: the head looks at none but those concerned.

``python -m benchmarks.cluster_core`` prints the table; ``--profile`` where the time of spilled tasks goes.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks.core import BATCH, NODE, NOTHING, FakeWorker, Joint
from benchmarks.measure import Row, info, quiet_gc, show
from sundog.core import events as ev
from sundog.core import messages as msg
from sundog.core.actions import Dispatch, ReclaimTasks, ResolveGet, Send, StartWorker
from sundog.core.client import Client
from sundog.core.cluster_host import ClusterHost
from sundog.core.config import Config
from sundog.core.ids import (
    DRIVER,
    HOST,
    LOOP,
    Address,
    IdSequence,
    NodeID,
    ObjectID,
    address,
    node_of,
    process_of,
    return_ids,
    root_task_id,
)
from sundog.core.machine import Event, Fact
from sundog.core.resources import shape
from sundog.core.task import TaskSpec
from sundog.core.units import MICROSECOND, MILLISECOND, Nanos

ROUND: Nanos = 50 * MICROSECOND
WANTED = shape({"CPU": 1, "elsewhere": 0.001})


class Node:
    """A node's host and workers."""

    def __init__(self, number: int, config: Config) -> None:
        self.number = NodeID(number)
        self.config = config
        self.host = ClusterHost(config, self.number)
        self.workers: dict[Address, FakeWorker] = {}
        self.inbox: list[Event] = []

    def turn(self, now: Nanos, post: Callable[[Address, Address, Fact], None]) -> bool:
        """Step the host if there is a reason, then its workers; ``post`` carries messages (from, to, what)."""
        deadline = self.host.next_deadline()
        if not self.inbox and (deadline is None or deadline > now):
            return False
        inbox, self.inbox = self.inbox[: self.config.step_events_max], self.inbox[self.config.step_events_max :]
        here = address(self.number, HOST)
        for action in self.host.step(now, inbox):
            kind = type(action)
            if kind is Send:
                post(here, action.to, action.message)  # type: ignore[attr-defined]
            elif kind is Dispatch:
                worker = self.workers[address(self.number, action.worker)]  # type: ignore[attr-defined]
                worker.tokens += len(action.tasks)  # type: ignore[attr-defined]
                worker.executor.accept(msg.RunTasks(action.tasks, action.forget_through))  # type: ignore[attr-defined]
            elif kind is StartWorker:
                number = action.worker  # type: ignore[attr-defined]
                made = FakeWorker(self.config, number, Joint(self.config, codec=False), self.number)
                self.workers[made.where] = made
                self.inbox.append((LOOP, ev.WorkerStarted(number, 1000 + number)))
            elif kind is ReclaimTasks:
                self.inbox.append((LOOP, ev.TasksReclaimed(action.worker, 0)))  # type: ignore[attr-defined]
        for worker in self.workers.values():
            if worker.tokens:
                self.inbox += worker.run(now)
        return True


class Cluster:
    """``count`` nodes with two CPUs each, and a driver at node 1. With ``elsewhere`` all tasks have to run on other nodes."""

    def __init__(self, count: int, *, elsewhere: bool) -> None:
        configs = [_config(elsewhere and number == 1) for number in range(count)]
        self.wanted = WANTED if elsewhere else shape({"CPU": 1})
        self.now: Nanos = 0
        self.nodes = [Node(number, config) for number, config in enumerate(configs)]
        self.home = self.nodes[1]
        self.driver = address(self.home.number, DRIVER)
        self.client = Client(configs[1], self.driver, address(self.home.number, HOST), worker=False)
        self.ids = IdSequence(root_task_id(b"cluster"), 1, 0)
        self.function = self.ids.next_function()
        self.settled = 0
        self._requests = 0
        self._values_got = 0
        self._to_driver: list[Event] = []
        self._say([(LOOP, msg.FunctionExported(self.function, "nothing", NOTHING))])
        for _ in range(10):
            self.round()

    def _say(self, facts: Sequence[Event]) -> None:
        for action in self.client.step(self.now, facts):
            if type(action) is Send:
                self.home.inbox.append((self.driver, action.message))
            elif type(action) is ResolveGet:
                self._values_got = len(action.values)

    def _post(self, sender: Address, to: Address, fact: Fact) -> None:
        if to == self.driver:
            self._to_driver.append((sender, fact))
        elif process_of(to) == HOST:
            self.settled += type(fact) is msg.TaskSettled
            self.nodes[node_of(to)].inbox.append((sender, fact))

    def round(self) -> bool:
        """One turn of everybody; False if nobody had anything to do."""
        self.now += ROUND
        moved = [node.turn(self.now, self._post) for node in self.nodes]
        if self._to_driver:
            heard, self._to_driver = self._to_driver, []
            self._say(heard)
        return any(moved)

    def run(self, count: int) -> None:
        """Submit ``count`` tasks, get all results, and let go of them."""
        returned: list[ObjectID] = []
        facts: list[Event] = []
        for _ in range(count):
            spec = TaskSpec(self.ids.next_task(), self.function, "nothing", NOTHING, resources=self.wanted)
            returned += return_ids(spec.task_id, 1)
            facts.append((LOOP, msg.TaskSubmitted(spec)))
            if len(facts) == BATCH:
                self._say(facts)
                self.round()
                facts = []
        self._requests += 1
        self._values_got = 0
        self._say([*facts, (LOOP, ev.GetRequested(self._requests, tuple(returned)))])
        while not self._values_got:
            self.round()
        self._say([(LOOP, ev.ReferenceDropped(object_id)) for object_id in returned])
        for _ in range(5):
            self.round()

    def check_empty(self) -> None:
        """Raise AssertionError if anything is left of what was run."""
        for node in self.nodes:
            node.host.check_invariants()
            assert not node.host.object_manager.objects
            assert not node.host.local_scheduler.tasks
        assert not self.nodes[0].host.global_scheduler.assigned


def _config(home: bool) -> Config:
    amounts = {"CPU": 2} if home else {"CPU": 2, "elsewhere": 1}
    return Config(capacity=shape(amounts), heartbeat_every=1000 * MILLISECOND)


def tasks_per_second(nodes: int, count: int = 3_000, repeats: int = 5, *, elsewhere: bool) -> tuple[float, float]:
    """Return the median of ``repeats`` rounds of ``count`` tasks, and the share of them that ran on other nodes."""
    cluster = Cluster(nodes, elsewhere=elsewhere)
    cluster.run(count)
    cluster.settled = 0
    times = []
    for _ in range(repeats):
        with quiet_gc():
            started = time.process_time()
            cluster.run(count)
            times.append(time.process_time() - started)
    cluster.check_empty()
    return count / statistics.median(times), cluster.settled / (count * repeats)


def heartbeat_microseconds(nodes: int, count: int = 5_000) -> float:
    """Return what one heartbeat costs the head of a cluster of ``nodes`` nodes, one in each step."""
    config = Config()
    head = ClusterHost(config, NODE)
    now: Nanos = 1
    joined = [(address(NodeID(n), HOST), msg.NodeJoined(NodeID(n), config.capacity)) for n in range(1, nodes)]
    head.step(now, joined)
    times = []
    for _ in range(5):
        beats: list[Event] = []
        for number in range(count):
            node = NodeID(1 + number % (nodes - 1))
            beats.append((address(node, HOST), msg.LoadReported(node, config.capacity, number % 7)))
        with quiet_gc():
            started = time.process_time()
            for beat in beats:
                now += MILLISECOND // nodes
                head.step(now, (beat,))
            times.append(time.process_time() - started)
    return statistics.median(times) / count * 1e6


def measure() -> list[Row]:
    """The rows of the table."""
    rows = []
    for nodes in (4, 100):
        rate, share = tasks_per_second(nodes, elsewhere=False)
        rows.append(info(f"core of {nodes} nodes: tasks that run anywhere ({share:.0%} on other nodes)", f"{rate:,.0f} /s"))
        rate, share = tasks_per_second(nodes, elsewhere=True)
        rows.append(info(f"core of {nodes} nodes: tasks that run elsewhere", f"{rate:,.0f} /s"))
        assert share == 1
    beats = [(nodes, heartbeat_microseconds(nodes)) for nodes in (10, 1000)]
    return rows + [info(f"a heartbeat at the head of {nodes} nodes", f"{cost:,.1f} us") for nodes, cost in beats]


def profile(count: int = 3_000, nodes: int = 4) -> None:
    """Print where the time goes."""
    import cProfile
    import pstats

    cluster = Cluster(nodes, elsewhere=True)
    cluster.run(count)
    profiler = cProfile.Profile()
    profiler.runcall(cluster.run, count)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(35)


if __name__ == "__main__":
    if "--profile" in sys.argv:
        profile()
    else:
        show(measure(), "The machines of several nodes alone")
