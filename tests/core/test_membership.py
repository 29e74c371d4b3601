"""Membership: silence means death, unless it was the head that slept."""

from __future__ import annotations

from sundog.core import messages as msg
from sundog.core.actions import ClosePeer, Send
from sundog.core.config import Config
from sundog.core.ids import HOST, Address, NodeID, address
from sundog.core.machine import Action, Fact
from sundog.core.membership import Membership
from sundog.core.resources import ONE_CPU
from sundog.core.units import MILLISECOND, SECOND

HERE = address(NodeID(0), HOST)
CONFIG = Config(node_lost_after=3 * SECOND, heartbeat_every=100 * MILLISECOND)


def host(node: int) -> Address:
    return address(NodeID(node), HOST)


def join(node: int) -> msg.NodeJoined:
    return msg.NodeJoined(NodeID(node), ONE_CPU)


def beat(node: int) -> msg.LoadReported:
    return msg.LoadReported(NodeID(node), ONE_CPU, 0)


def lost(to: int, node: int) -> Action:
    return Send(host(to), msg.NodeLost(NodeID(node)))


class Bench:
    def __init__(self) -> None:
        self.machine = Membership(CONFIG, HERE)

    def step(self, now: int, *facts: Fact) -> list[Action]:
        actions = self.machine.step(now, [(HERE, fact) for fact in facts])
        self.machine.check_invariants()
        deadline = self.machine.next_deadline()
        assert deadline is None or deadline > now
        return actions


def test_a_lone_head_waits_for_nothing() -> None:
    bench = Bench()
    assert bench.step(0, join(0)) == []
    assert bench.machine.next_deadline() is None


def test_a_node_that_joins_costs_no_message() -> None:
    bench = Bench()
    assert bench.step(0, join(0), join(1)) == []
    assert bench.step(2, join(2), join(2)) == []
    assert list(bench.machine.members) == [0, 1, 2]


def test_a_silent_node_is_lost_and_all_are_told_once() -> None:
    bench = Bench()
    bench.step(0, join(0), join(1), join(2))
    bench.step(SECOND, beat(1))
    assert bench.machine.next_deadline() == 3 * SECOND
    assert bench.step(3 * SECOND) == [ClosePeer(NodeID(2)), lost(0, 2), lost(1, 2)]
    assert bench.step(3 * SECOND + 1, msg.NodeLost(NodeID(2)), beat(1)) == []
    assert bench.step(3 * SECOND + 2, beat(2)) == [lost(2, 2)], "a dead node that speaks is told to join anew"


def test_a_connection_that_ended_tells_the_others_only() -> None:
    bench = Bench()
    bench.step(0, join(0), join(1), join(2))
    assert bench.step(1, msg.NodeLost(NodeID(1))) == [lost(2, 1)]


def test_a_late_turn_is_nobody_elses_silence() -> None:
    bench = Bench()
    bench.step(0, join(0), join(1), join(2))
    assert bench.step(10 * SECOND) == [], "the head slept for seven seconds"
    assert bench.machine.next_deadline() == 10 * SECOND + CONFIG.heartbeat_every
    bench.step(10 * SECOND + 1, beat(1))
    assert bench.step(10 * SECOND + CONFIG.heartbeat_every) == [ClosePeer(NodeID(2)), lost(0, 2), lost(1, 2)]


def test_a_little_late_is_not_late() -> None:
    bench = Bench()
    bench.step(0, join(0), join(1))
    assert bench.step(3 * SECOND + MILLISECOND) == [ClosePeer(NodeID(1)), lost(0, 1)]


def test_who_was_heard_is_looked_for_once_in_a_while_and_lost_in_time() -> None:
    """Nodes that fall silent one after the other, among others that go on."""
    bench = Bench()
    bench.step(0, *[join(node) for node in range(5)])
    ends = {1: 2 * SECOND, 2: 5 * SECOND, 3: 5 * SECOND + 50 * MILLISECOND}
    seen: dict[int, int] = {}
    now, looks = 0, 0
    while now < 12 * SECOND:
        now += 50 * MILLISECOND
        beats = [beat(node) for node in range(1, 5) if now <= ends.get(node, now)]
        looks += now >= (bench.machine.next_deadline() or 0)
        for action in bench.step(now, *beats):
            if isinstance(action, ClosePeer):
                seen[action.node] = now
    assert seen == {node: end + CONFIG.node_lost_after for node, end in ends.items()}
    assert looks < 10
