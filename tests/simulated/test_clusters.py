"""User programs on simulated clusters: what nodes know, how they fail, and what is said of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

import sundog
from sundog.backends import current
from sundog.backends.simulated.faults import runner as f
from sundog.backends.simulated.sim_loop import InstantNetwork
from sundog.core.ids import NodeID
from sundog.core.units import MILLISECOND, SECOND

Simulate = Callable[..., Any]


@sundog.remote
def where(seconds: float = 0.05) -> int:
    from sundog.backends import current

    time.sleep(seconds)
    port: Any = current.session.port  # type: ignore[union-attr]
    return int(port.node_number)


def port() -> Any:
    assert current.session is not None
    return current.session.port


def test_tasks_spread_nest_and_pass_large_objects(simulate: Simulate) -> None:
    simulate(nodes=4, num_cpus=1)

    @sundog.remote
    def large(n):
        time.sleep(0.02)
        return bytes([n]) * 500_000

    @sundog.remote
    def total(*parts):
        time.sleep(0.02)
        return sum(map(len, parts)), {part[0] for part in parts}

    @sundog.remote
    def parent(n):
        boxes = [large.remote(i) for i in range(n)]
        ready, rest = sundog.wait(boxes, num_returns=2)
        return sundog.get(total.remote(*ready, *rest)), sundog.put(n)

    assert sorted(set(sundog.get([where.remote() for _ in range(12)]))) == [0, 1, 2, 3]
    for answer, box in sundog.get([parent.remote(3) for _ in range(5)]):
        assert answer == (1_500_000, {0, 1, 2})
        assert sundog.get(box) == 3


def test_what_was_quick_so_far_and_is_slow_now_is_shared(simulate: Simulate) -> None:
    simulate(nodes=2, num_cpus=2)
    sundog.get([where.options(duration=0).remote(0) for _ in range(10)])
    began = time.monotonic()
    ran = sundog.get([where.options(duration=0.05).remote(0) for _ in range(100)])
    assert ran.count(1) >= 25
    assert time.monotonic() - began < 2.0, "one node alone takes 2.5 s"


def test_tables_and_explanations_are_those_of_all_nodes(simulate: Simulate) -> None:
    simulate(nodes=[{"num_cpus": 1}, {"num_cpus": 1, "resources": {"disk": 1}}, {"num_cpus": 2, "joins": 0.5}])
    assert [row["node"] for row in sundog.nodes()] == [0, 1]
    slow = where.options(resources={"disk": 1}).remote(2.0)
    sundog.sleep(1)
    assert [row["node"] for row in sundog.nodes()] == [0, 1, 2]
    assert {row["node"] for row in sundog.table("workers")} == {0, 1, 2}
    assert {(row["node"], row["state"]) for row in sundog.table("tasks")} == {(0, "SPILLED"), (1, "DISPATCHED")} or len(
        sundog.table("tasks")
    ) == 2
    assert "where() on node 1, which has been running for" in sundog.explain(slow)


def test_errors_name_the_node(simulate: Simulate) -> None:
    simulate(nodes=[{"num_cpus": 1}, {"num_cpus": 1, "resources": {"disk": 1}}], faults="kill worker 0 of node 1 at 1 s")

    @sundog.remote(max_retries=0, resources={"disk": 1})
    def fails(x):
        time.sleep(x)
        raise ValueError(x)

    with pytest.raises(ValueError, match="node 1, worker pid") as caught:
        sundog.get(fails.remote(0.1))
    assert getattr(caught.value, "node", None) == 1
    assert "node 1" in str(caught.value)
    with pytest.raises(sundog.WorkerCrashedError, match="node 1, pid"):
        sundog.get(fails.remote(5))


def test_a_node_that_dies_and_comes_back(simulate: Simulate) -> None:
    simulate(nodes=3, num_cpus=1, faults="kill node 2 when the 7th task starts for 500 ms")
    ran = sundog.get([where.remote(0.1) for _ in range(200)])
    assert set(ran) == {0, 1, 2, 3}, "the node that comes back has a number of its own"
    assert [row["node"] for row in sundog.nodes()] == [0, 1, 3]
    assert [text for _, text in port().faults.log] == [
        "kill node 2 when the 7th task starts for 500 ms", "over: kill node 2 when the 7th task starts for 500 ms",
    ]  # fmt: skip


def test_faults_that_make_no_sense_are_refused_at_once(simulate: Simulate) -> None:
    for text, message in (
        ("kill node 7 at 1 s", "there is no node 7; the cluster has nodes 0 to 2"),
        ("kill node 0", "node 0 is the head"),
        ("kill worker 4 of node 1", "node 1 has no worker 4"),
    ):
        with pytest.raises(ValueError, match=message):
            simulate(nodes=3, faults=text)
    with pytest.raises(ValueError, match="with one node the directory is a part of it"):
        simulate(nodes=1, faults="kill directory at 1 s")
    with pytest.raises(ValueError, match="there is no node 5"):
        simulate(nodes=3, faults=f.Schedule((f.Fault(f.KillNode(NodeID(5))),)))
    with pytest.raises(TypeError, match="faults takes a text"):
        simulate(nodes=3, faults=3)
    with pytest.raises(TypeError, match="need the model network"):
        simulate(nodes=3, faults="heal at 1 s", network=InstantNetwork)


def test_every_fault_of_a_node_in_one_program(simulate: Simulate) -> None:
    simulate(
        nodes=4,
        num_cpus=1,
        faults="""
            partition [0,1]|[2] at 100 ms for 300 ms; partition [3]->[0] at 200 ms for 100 ms
            slow node 1 by 4 for 500 ms; skew node 1 by 50 ms at 50 ms; skew node 3 by -50 ms at 60 ms for 100 ms
            pause node 3 at 300 ms for 200 ms; fill store of node 2 to 90 % for 1 s; cut node 0 from node 1 at 150 ms
            delay node 0 -> node 1 by 5 ms for 1 s; clog node 2 at 500 ms for 50 ms; limit bandwidth of node 1 to 1 % for 1 s
            disturb frames lose 2 % repeat 2 % reorder 5 % for 1 s
            core [0,1,2,3] from 1.5 s
        """,
    )
    assert len(sundog.get([where.remote(0.02) for _ in range(150)])) == 150
    assert len(port().faults.log) > 15


def test_faults_of_one_kind_add_up_and_are_taken_back_one_by_one(simulate: Simulate) -> None:
    simulate(
        nodes=2,
        faults="slow node 1 by 2 at 1 s for 2 s; slow node 1 by 5 at 1.5 s for 500 ms; pause node 1 at 4 s for 2 s\n"
        "pause node 1 at 5 s for 3 s; skew node 1 by 1 ms at 1 s for 1 s; skew node 1 by 2 ms at 1.5 s for 2 s",
    )
    node = port().cluster.nodes[1]
    seen = []
    for _ in range(18):
        sundog.sleep(0.5)
        seen.append((node.slowness // 1000, node.pauses, node.skew // MILLISECOND))
    assert seen[1:7] == [(2, 0, 1), (5, 0, 3), (2, 0, 2), (2, 0, 2), (1, 0, 2), (1, 0, 0)]
    assert [pauses for _, pauses, _ in seen[7:17]] == [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]


def test_a_wait_across_nodes_that_nothing_will_end_is_a_deadlock_with_its_chain(simulate: Simulate) -> None:
    simulate(nodes=[{"num_cpus": 1, "resources": {"head": 1}}, {"num_cpus": 1, "resources": {"disk": 1}}])

    @sundog.remote(resources={"disk": 1}, max_retries=0)
    def inner():
        return 1

    @sundog.remote(resources={"disk": 1}, max_retries=0)
    def outer():
        try:
            return sundog.get(middle.remote())
        except sundog.DeadlockError:
            return "core saw it"

    @sundog.remote(resources={"head": 1}, max_retries=0)
    def middle():
        time.sleep(0.05)
        return sundog.get(inner.remote())

    began = time.monotonic()
    result = outer.remote()
    with pytest.raises(sundog.DeadlockError, match="nothing but heartbeats has happened for 60 s") as caught:
        sundog.get(result)
    assert "outer() on node 1, which is itself blocked" in str(caught.value)
    assert "inner() on node" in str(caught.value)
    assert 60 < time.monotonic() - began < 80
    assert sundog.get(where.remote()) in (0, 1), "the session goes on"


@pytest.mark.parametrize("wait", [lambda: sundog.sleep(200), lambda: sundog.get(where.remote(200.0))])
def test_a_long_wait_that_will_end_is_no_deadlock(simulate: Simulate, wait: Callable[[], Any]) -> None:
    simulate(nodes=2, check_invariants=False, config={"heartbeat_every": SECOND, "node_lost_after": 5 * SECOND})
    wait()
    with pytest.raises(sundog.GetTimeoutError):
        sundog.get(where.options(duration=1000).remote(0), timeout=100)


def test_the_end_of_the_session_ends_every_node(simulate: Simulate) -> None:
    simulate(nodes=3)
    nodes = list(port().cluster.nodes.values())
    sundog.shutdown()
    assert [node.dead for node in nodes] == [True] * 3
    assert [node.workers for node in nodes] == [{}] * 3
