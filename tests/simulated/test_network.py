"""The model network: what messages cost, that connections keep order, and what faults do to them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from math import ceil, log2
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simpy.core import Environment

from sundog.backends.simulated.calls import Call
from sundog.backends.simulated.costs.profile import FREE
from sundog.backends.simulated.network import connections as module
from sundog.backends.simulated.network.connections import Network
from sundog.backends.simulated.network.framing import FramedNetwork
from sundog.backends.simulated.network.model import NetworkModel
from sundog.core.errors import InvariantViolation
from sundog.core.ids import Address, NodeID, ProcessID, address
from sundog.core.units import MICROSECOND, MILLISECOND, SECOND, Nanos

A = 50 * MICROSECOND
#: 25 Gb/s
B = 3_125_000_000
MODEL = NetworkModel(latency=A, bandwidth=B)


def host(node: int, process: int = 0) -> Address:
    return address(NodeID(node), ProcessID(process))


class Wire:
    """A network, and who got what when."""

    def __init__(self, model: NetworkModel = MODEL, seed: int = 0) -> None:
        self.environment = Environment(0)
        self.network = Network(self.environment, model, seed=seed)
        self.log: list[tuple[Nanos, str]] = []

    @property
    def now(self) -> Nanos:
        return int(self.environment.now)

    def send(self, source: int, target: int, size: int, name: str = "", process: int = 0) -> None:
        self.network.send(host(source, process), host(target), size, lambda: self.log.append((self.now, name)))

    def at(self, when: Nanos, what: Callable[[], object]) -> None:
        self.environment.schedule(Call(self.environment, lambda _: what()), 1, when - self.now)  # type: ignore[arg-type]

    def run(self) -> list[tuple[Nanos, str]]:
        self.environment.run()
        self.network.check_invariants()
        return self.log


# --- costs ------------------------------


def test_a_small_message_costs_latency_and_its_bytes() -> None:
    wire = Wire()
    wire.send(0, 1, 3125)
    assert wire.run() == [(A + MICROSECOND, "")]
    assert wire.network.flows.started == 0


def test_small_messages_queue_for_the_link() -> None:
    """From many senders to one: its downlink takes one after the other."""
    wire = Wire()
    for source in range(1, 11):
        wire.send(source, 0, 3125, str(source))
    assert wire.run() == [(A + n * MICROSECOND, str(n)) for n in range(1, 11)]


def test_a_far_message_does_not_hold_up_a_near_one() -> None:
    wire = Wire(NetworkModel(latency=A, bandwidth=B, latencies=((1, 0, 100 * MILLISECOND),)))
    wire.send(1, 0, 3125, "far")
    wire.send(2, 0, 3125, "near")
    assert wire.run() == [(A + 2 * MICROSECOND, "near"), (100 * MILLISECOND + MICROSECOND, "far")]


def test_a_middling_message_is_a_flow_only_on_a_busy_link() -> None:
    wire = Wire()
    wire.send(0, 1, 31_250)
    assert wire.run() == [(A + 10 * MICROSECOND, "")]
    assert wire.network.flows.started == 0
    wire.send(0, 1, 100_000_000, process=1)
    wire.send(0, 1, 31_250)
    wire.run()
    assert wire.network.flows.started == 2


def test_a_large_message_is_a_flow() -> None:
    wire = Wire()
    wire.send(0, 1, 100_000_000)
    assert wire.run() == [(A + 32 * MILLISECOND, "")]


def test_a_packet_beside_a_flow_gets_half() -> None:
    wire = Wire()
    wire.send(0, 1, 100_000_000, "flow")
    wire.at(MILLISECOND, lambda: wire.send(0, 1, 3125, "packet", process=1))
    assert wire.run()[0] == (MILLISECOND + 2 * MICROSECOND + A, "packet")


def test_within_a_node_everything_costs_the_same() -> None:
    wire = Wire()
    wire.send(0, 0, 10)
    wire.send(0, 0, 10**9)
    assert wire.run() == [(MODEL.local_latency, "")] * 2


def test_what_arrives_together_takes_one_event() -> None:
    wire = Wire()
    for n in range(100):
        wire.send(0, 0, 10, str(n))
    wire.environment.step()
    assert [name for _, name in wire.log] == [str(n) for n in range(100)]
    assert wire.environment.peek() == float("inf")


@pytest.mark.parametrize(
    "settings",
    [
        {"latency": -1},
        {"bandwidth": 0},
        {"latencies": ((0, 1, -5),)},
        {"bandwidths": ((0, 0, 5),)},
        {"packet_bytes_max": 100_000},
    ],
)
def test_a_network_that_makes_no_sense(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="network: "):
        NetworkModel(**settings)  # type: ignore[arg-type]


# --- collective operations ------------------------------


def test_ring_all_reduce() -> None:
    """16 nodes, 100 MB: 2 (n - 1) (a + S / (n B)), 60 ms and 30 latencies, to the nanosecond."""
    count, size = 16, 100_000_000
    wire = Wire()
    ended: list[Nanos] = []

    def pass_on(node: int, step: int) -> None:
        if step == 2 * (count - 1):
            ended.append(wire.now)
        else:
            target = (node + 1) % count
            wire.network.send(host(node), host(target), size // count, lambda: pass_on(target, step + 1))

    for node in range(count):
        pass_on(node, 0)
    wire.run()
    assert ended == [60 * MILLISECOND + 30 * A] * count


def test_binomial_broadcast_and_naive_one() -> None:
    """100 MB to 16 nodes: ceil(log2 n) (a + S / B) = 128 ms and 4 latencies; naively 15 S / B = 480 ms and one."""
    count, size = 16, 100_000_000
    wire = Wire()
    last: list[Nanos] = [0]

    def tell(node: int, distance: int) -> None:
        last[0] = max(last[0], wire.now)
        if distance < count:
            target = node + distance
            sent = distance * 2

            def both() -> None:
                tell(target, sent)
                tell(node, sent)

            wire.network.send(host(node), host(target), size, both)

    tell(0, 1)
    wire.run()
    assert last[0] == ceil(log2(count)) * (A + 32 * MILLISECOND)

    naive = Wire()
    for target in range(1, count):
        naive.send(0, target, size)
    assert {when for when, _ in naive.run()} == {480 * MILLISECOND + A}


def test_a_chain_in_pieces() -> None:
    """100 MB through 16 nodes in 100 pieces: (n - 1) a + (k + n - 2) S / (k B), 36.5 ms; the limit is a n + S / B."""
    count, size, pieces = 16, 100_000_000, 100
    wire = Wire()
    last: list[Nanos] = [0]

    def pass_on(node: int) -> None:
        last[0] = wire.now
        if node < count - 1:
            wire.network.send(host(node), host(node + 1), size // pieces, lambda: pass_on(node + 1))

    for _ in range(pieces):
        pass_on(0)
    wire.run()
    assert last[0] == (count - 1) * A + (pieces + count - 2) * 320 * MICROSECOND


# --- order ------------------------------


def test_a_small_message_does_not_overtake_a_large_one() -> None:
    wire = Wire()
    wire.send(0, 1, 100_000_000, "large")
    wire.send(0, 1, 10, "small")
    wire.send(0, 1, 10, "other connection", process=1)
    assert [name for _, name in wire.run()] == ["other connection", "large", "small"]


ACTIONS = st.tuples(
    st.integers(0, 5 * MILLISECOND),
    st.sampled_from(["send"] * 8 + ["stop", "resume", "cut", "delay", "clog", "bandwidth", "partition", "heal"]),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from([1, 200, 4096, 5000, 70_000, 1_000_000, 10_000_000]),
)


def act(wire: Wire, what: str, near: int, far: int, amount: int) -> None:
    """Do one fault of ``ACTIONS``."""
    network, source, target = wire.network, NodeID(near), NodeID(far)
    match what:
        case "stop":
            network.stop(source, target)
        case "resume":
            network.resume(source, target)
        case "cut":
            network.cut(source, target)
        case "delay":
            network.delay(source, target, amount)
        case "clog":
            network.clog(source, target, amount)
        case "bandwidth":
            network.set_bandwidth(source, amount, 10_000_000)
        case "partition" if near != far:
            heal = network.partition([[source], [target]], one_way=amount < 1000)
            network.later(amount, heal)
        case "heal":
            network.heal()


@given(st.lists(ACTIONS, max_size=60), st.integers(0, 3))
def test_every_message_comes_once_and_in_order_whatever_happens(actions: list[tuple[int, str, int, int, int]], seed: int) -> None:
    wire = Wire(NetworkModel(latency=A, bandwidth=B, jitter=300 * MICROSECOND), seed)
    sent: dict[tuple[int, int], list[int]] = {}
    got: dict[tuple[int, int], list[int]] = {}

    def send(number: int, near: int, far: int, size: int) -> None:
        sent.setdefault((near, far), []).append(number)
        wire.network.send(host(near), host(far), size, lambda: got.setdefault((near, far), []).append(number))

    for number, (when, what, near, far, amount) in enumerate(actions):
        if what == "send":
            wire.at(when, partial(send, number, near, far, amount))
        else:
            wire.at(when, partial(act, wire, what, near, far, amount))
    wire.at(20 * MILLISECOND, wire.network.heal)
    while wire.environment.peek() != float("inf"):
        wire.environment.step()
        wire.network.check_invariants()
    assert got == sent
    assert wire.network.pending().messages == 0


def test_different_connections_reorder() -> None:
    wire = Wire(NetworkModel(latency=A, jitter=A))
    for n in range(50):
        wire.send(0, 1, 10, str(n), process=n)
    names = [int(name) for _, name in wire.run()]
    assert names != sorted(names)
    assert sorted(names) == list(range(50))


# --- faults ------------------------------


def test_stop_and_resume_one_way() -> None:
    wire = Wire()
    wire.network.stop(NodeID(0), NodeID(1))
    wire.send(0, 1, 10, "there")
    wire.send(1, 0, 10, "back")
    wire.at(SECOND, lambda: wire.network.resume(NodeID(0), NodeID(1)))
    log = wire.run()
    assert [name for _, name in log] == ["back", "there"]
    assert log[1][0] > SECOND


def test_what_is_on_the_way_when_stopped_arrives_at_the_resume() -> None:
    wire = Wire()
    wire.send(0, 1, 10)
    wire.at(10, lambda: wire.network.clog(NodeID(0), NodeID(1), SECOND))
    assert wire.run() == [(SECOND + 10, "")]


def test_a_stopped_flow_goes_on_where_it_was() -> None:
    wire = Wire()
    wire.send(0, 1, 100_000_000)
    wire.at(10 * MILLISECOND, lambda: wire.network.clog(NodeID(0), NodeID(1), SECOND))
    assert wire.run() == [(SECOND + 32 * MILLISECOND + A, "")]


def test_a_cut_flow_begins_again() -> None:
    wire = Wire()
    wire.send(0, 1, 100_000_000)
    wire.at(10 * MILLISECOND, lambda: wire.network.cut(NodeID(0), NodeID(1)))
    assert wire.run() == [(10 * MILLISECOND + MODEL.reconnect_after + 32 * MILLISECOND + A, "")]
    assert wire.network.resent.messages == 1


def test_a_partition_is_healed_for_itself_only() -> None:
    wire = Wire()
    nodes = [NodeID(n) for n in range(3)]
    first = wire.network.partition([nodes[:1], nodes[1:]])
    second = wire.network.partition([nodes[:2], nodes[2:]])
    for source in range(3):
        for target in range(3):
            wire.send(source, target, 10, f"{source}{target}")

    def arrived() -> set[str]:
        wire.environment.run()
        found = {name for _, name in wire.log if name[0] != name[1]}
        wire.log.clear()
        return found

    assert arrived() == set()
    first()
    first()
    assert arrived() == {"01", "10"}
    wire.network.heal([nodes[0], nodes[2]])
    assert arrived() == {"02", "20"}
    again = wire.network.partition([nodes[:1], nodes[2:]])
    second()
    assert arrived() == {"12", "21"}
    wire.send(0, 2, 10, "02")
    assert arrived() == set()
    again()
    assert arrived() == {"02"}


def test_delay_and_bandwidth() -> None:
    wire = Wire()
    wire.network.delay(NodeID(0), NodeID(1), SECOND)
    wire.network.set_bandwidth(NodeID(0), 1, 100)
    wire.send(0, 1, 100_000_000)
    assert wire.run() == [(SECOND + 3200 * MILLISECOND + A, "")]
    wire.network.heal()
    before = wire.now
    wire.send(0, 1, 100_000_000)
    assert wire.run()[1][0] == before + 32 * MILLISECOND + A
    with pytest.raises(ValueError, match="cannot be negative"):
        wire.network.delay(NodeID(0), NodeID(1), -1)


def test_what_concerns_a_dead_node_is_dropped() -> None:
    wire = Wire()
    wire.send(0, 1, 100_000_000, "to the dead")
    wire.send(1, 0, 10, "of the dead")
    wire.send(0, 2, 10, "others")
    wire.network.forget(NodeID(1))
    wire.send(0, 1, 10, "to its next life")
    assert [name for _, name in wire.run()] == ["others", "to its next life"]
    assert wire.network.dropped.messages == 2


def test_a_dead_process_takes_only_its_own_along() -> None:
    wire = Wire()
    wire.send(0, 0, 10, "of the dead", process=5)
    wire.send(0, 0, 10, "others", process=6)
    wire.network.forget_process(host(0, 5))
    assert [name for _, name in wire.run()] == ["others"]


def test_check_invariants_sees_a_lost_byte() -> None:
    wire = Wire()
    wire.send(0, 1, 10)
    wire.network.sent.bytes += 1
    with pytest.raises(InvariantViolation, match="11 bytes sent"):
        wire.network.check_invariants()


def test_idle_connections_are_forgotten_and_busy_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SWEEP_MIN", 10)
    wire = Wire()
    wire.network.stop(NodeID(0), NodeID(1))
    for n in range(5):
        wire.send(0, 1, 10, "stopped", process=n)
    for n in range(1000):
        wire.at(n * MILLISECOND, partial(wire.send, n % 30, 40 + n % 7, 10, "sent"))
    wire.run()
    assert len(wire.network._connections) < 50
    wire.network.resume(NodeID(0), NodeID(1))
    assert [name for _, name in wire.run()] == ["sent"] * 1000 + ["stopped"] * 5


# --- determinism ------------------------------


def busy_log(seed: int) -> str:
    """Return the digest of all deliveries of a run with everything in it."""
    wire = Wire(NetworkModel(latency=A, bandwidth=B, jitter=A), seed)
    random = Random(7)
    for number in range(2000):
        source, target = random.randrange(20), random.randrange(20)
        size = random.choice([100, 1000, 20_000, 300_000])
        when = random.randrange(50 * MILLISECOND)
        wire.at(when, partial(wire.send, source, target, size, f"message {number}"))
        if number % 100 == 0:
            wire.at(when, partial(wire.network.cut, NodeID(source), NodeID(target)))
    log = wire.run()
    assert all(before[0] <= after[0] for before, after in pairwise(log))
    return hashlib.sha256(repr(log).encode()).hexdigest()


def test_the_same_seed_gives_the_same_run() -> None:
    assert busy_log(1) == busy_log(1)
    assert busy_log(1) != busy_log(2)


def test_the_hash_seed_does_not_matter() -> None:
    digests = set()
    for hash_seed in ("0", "1"):
        program = f"from tests.simulated.test_network import busy_log; print(busy_log({3}))"
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        digests.add(subprocess.check_output([sys.executable, "-c", program], env=environment, text=True, timeout=60))
    assert digests == {busy_log(3) + "\n"}


def test_small_messages_take_no_time_where_nothing_does() -> None:
    """But none overtakes what was sent before it, and none passes a fault."""
    environment = Environment(0)
    network = Network(environment, FREE.network)
    first, second = host(0), host(1)
    arrived: list[str] = []
    assert network.at_once(first, second, 100)
    assert not network.at_once(first, second, FREE.network.packet_bytes_max + 1)
    network.send(first, second, 1 << 30, lambda: arrived.append("large"))
    assert not network.at_once(first, second, 100)
    assert network.at_once(second, first, 100)
    network.send(first, second, 100, lambda: arrived.append("small"))
    environment.run()
    assert arrived == ["large", "small"]
    assert network.at_once(first, second, 100)
    network.stop(NodeID(0), NodeID(1))
    assert not network.at_once(first, second, 100)
    network.send(first, second, 100, lambda: arrived.append("stopped"))
    network.resume(NodeID(0), NodeID(1))
    environment.run()
    assert arrived[-1] == "stopped"
    assert network.at_once(first, second, 100)
    network.check_invariants()
    assert not Network(environment, NetworkModel()).at_once(first, second, 100)
    assert not FramedNetwork(environment, FREE.network).at_once(first, second, 100)
