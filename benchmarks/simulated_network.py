"""The model network: messages and flows a second, with SimPy's own events beside them in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import count as counter
from random import Random

from simpy.core import Environment

from benchmarks.measure import Row, info, quiet_gc
from sundog.backends.simulated.calls import Call
from sundog.backends.simulated.network.connections import Network
from sundog.backends.simulated.network.model import NetworkModel
from sundog.core.ids import HOST, NodeID, address

Work = Callable[[], int]


def per_second(make: Callable[[], Work], repeats: int = 3) -> float:
    """Return the median rate of ``repeats`` fresh runs, in computing time; each returns how much it did."""
    rates = []
    for _ in range(repeats):
        work = make()
        with quiet_gc():
            started = time.process_time()
            done = work()
            rates.append(done / (time.process_time() - started))
    return statistics.median(rates)


def raw_events(total: int = 200_000) -> Work:
    """A thousand pending SimPy events, each of which schedules the next."""
    environment = Environment(0)
    left = counter(total, -1)

    def again(_: object) -> None:
        if next(left) > 0:
            environment.schedule(Call(environment, again), 1, 1000)  # type: ignore[arg-type]

    for _ in range(1000):
        again(None)

    def run() -> int:
        environment.run()
        return total

    return run


def traffic(nodes: int, live: int, total: int, size: Callable[[Random], int], jitter: int = 0) -> tuple[Work, Network]:
    """``live`` messages under way between random nodes; each that arrives is followed by another."""
    environment = Environment(0)
    network = Network(environment, NetworkModel(jitter=jitter))
    random = Random(1)
    hosts = [address(NodeID(node), HOST) for node in range(nodes)]
    plan = [(random.randrange(nodes), random.randrange(nodes - 1), size(random)) for _ in range(total)]
    following = iter([(hosts[a], hosts[b if b < a else b + 1], bytes_) for a, b, bytes_ in plan])

    def following_message() -> None:
        for source, target, bytes_ in following:
            network.send(source, target, bytes_, following_message)
            return

    def run() -> int:
        for _ in range(live):
            following_message()
        environment.run()
        network.check_invariants()
        return total

    return run, network


def incast(senders: int = 1000) -> Work:
    """Everybody sends one large message of a size of its own to one node."""
    environment = Environment(0)
    network = Network(environment)
    random = Random(1)
    for node in range(1, senders + 1):
        network.send(address(NodeID(node), HOST), address(NodeID(0), HOST), random.randrange(10**5, 10**7), lambda: None)

    def run() -> int:
        environment.run()
        return senders

    return run


def measure() -> list[Row]:
    """The rows of the table."""
    raw = per_second(raw_events)
    rows = [info("SimPy alone: events with a callback", f"{raw:,.0f} /s")]
    for nodes in (10, 1000):
        rate = per_second(lambda nodes=nodes: traffic(nodes, 1000, 100_000, lambda _: 200, jitter=1000)[0])  # type: ignore[misc]
        rows.append(info(f"messages of 200 bytes, {nodes} nodes; share of SimPy alone", f"{rate:,.0f} /s; {rate / raw:.2f}"))
    for nodes, live in ((10, 10), (1000, 100), (1000, 1000), (1000, 3000)):
        rate = per_second(lambda n=nodes, m=live: traffic(n, m, 10_000, lambda r: r.randrange(10**5, 10**7))[0])  # type: ignore[misc]
        work, network = traffic(nodes, live, 10_000, lambda r: r.randrange(10**5, 10**7))
        done = work()
        levels = network.flows.evaluations / done
        rows.append(info(f"flows, {live} at a time, {nodes} nodes; levels computed for one", f"{rate:,.0f} /s; {levels:.1f}"))
    rows.append(info("flows, 1,000 into one node", f"{per_second(incast):,.0f} /s"))
    return rows


if __name__ == "__main__":
    from benchmarks.measure import show

    show(measure(), "The model network")
