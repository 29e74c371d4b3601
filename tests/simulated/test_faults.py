"""Faults: the language and its errors, carrying them out, drawing them from a seed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simpy.core import Environment

from sundog.backends.simulated.faults import runner as f
from sundog.backends.simulated.faults.language import FaultSyntaxError, parse
from sundog.backends.simulated.faults.occurrences import Occurrence
from sundog.backends.simulated.faults.swarm import swarm
from sundog.backends.simulated.network.connections import Network
from sundog.backends.simulated.network.framing import FramedNetwork, FrameFaults
from sundog.core.ids import NodeID
from sundog.core.units import MILLISECOND, SECOND, Nanos

CLUSTER = dict.fromkeys(range(4), 2)
N = [NodeID(node) for node in range(4)]

LINES = [
    ("kill node 2 when the 7th task seals", f.Fault(f.KillNode(N[2]), f.When(Occurrence.SEALED, 7))),
    (
        "kill node 2 when the 1st task is submitted for 5 ms",
        f.Fault(f.KillNode(N[2]), f.When(Occurrence.SUBMITTED, 1), 5 * MILLISECOND),
    ),
    ("restart node 2 at 1 s", f.Fault(f.RestartNode(N[2]), f.At(SECOND))),
    ("kill worker 1 of node 0 at 20 ms", f.Fault(f.KillWorker(N[0], 1), f.At(20 * MILLISECOND))),
    ("kill global scheduler for 50 ms", f.Fault(f.KillService(f.Service.GLOBAL_SCHEDULER), f.At(0), 50 * MILLISECOND)),
    ("restart directory at 1 s", f.Fault(f.RestartService(f.Service.DIRECTORY), f.At(SECOND))),
    (
        "partition [0,1]|[2] at 1.5 s for 300 ms",
        f.Fault(f.Partition(((N[0], N[1]), (N[2],))), f.At(1500 * MILLISECOND), 300 * MILLISECOND),
    ),
    ("partition [0]|[1]|[2,3]", f.Fault(f.Partition(((N[0],), (N[1],), (N[2], N[3]))))),
    ("partition [0]->[1,2] at 2 s", f.Fault(f.Partition(((N[0],), (N[1], N[2])), True), f.At(2 * SECOND))),
    ("slow node 3 by 2.5 at 10 ms for 1 s", f.Fault(f.Slow(N[3], 2500), f.At(10 * MILLISECOND), SECOND)),
    ("pause node 1 for 5 ms", f.Fault(f.Pause(N[1]), f.At(0), 5 * MILLISECOND)),
    ("skew node 1 by -20 ms", f.Fault(f.Skew(N[1], -20 * MILLISECOND))),
    ("fill store of node 0 to 95 % at 1 s", f.Fault(f.FillStore(N[0], 950), f.At(SECOND))),
    ("cut node 0 from node 1 at 30 ns", f.Fault(f.Cut(N[0], N[1]), f.At(30))),
    ("delay node 0 -> node 1 by 5 ms", f.Fault(f.Delay(N[0], N[1], 5 * MILLISECOND))),
    ("clog node 2 when the 22nd task starts", f.Fault(f.Clog(N[2]), f.When(Occurrence.STARTED, 22))),
    ("limit bandwidth of node 1 to 0.5 %", f.Fault(f.LimitBandwidth(N[1], 5))),
    ("disturb frames lose 1 % repeat 2.5 % reorder 5 %", f.Fault(f.DisturbFrames(10, 25, 50))),
    ("heal at 3 s", f.Fault(f.Heal(), f.At(3 * SECOND))),
]


@pytest.mark.parametrize(("line", "fault"), LINES, ids=[line for line, _ in LINES])
def test_a_line_means_its_fault_and_prints_as_it(line: str, fault: f.Fault) -> None:
    assert parse(line, CLUSTER).faults == (fault,)
    assert str(fault) == line


def test_a_schedule_in_many_lines() -> None:
    text = """
        # first the node
        kill node 1 at 1 s for 0.1 s   # and back
        cut node 0 from node 2; heal at 2 s;
        core [0,2] from 3 s
    """
    schedule = parse(text, CLUSTER)
    assert [str(fault) for fault in schedule.faults] == ["kill node 1 at 1 s for 100 ms", "cut node 0 from node 2", "heal at 2 s"]
    assert (schedule.core, schedule.core_from) == ((0, 2), 3 * SECOND)
    assert parse(str(schedule), CLUSTER) == schedule
    assert parse("", CLUSTER) == f.Schedule()


ERRORS = [
    ("kill node 7 when the 7th task seals", 11, "there is no node 7; the cluster has nodes 0 to 3"),
    ("kill worker 2 of node 1", 13, "node 1 has no worker 2; it has 2 workers, from 0"),
    ("kil node 1", 1, "expected one of kill, restart, partition, .*, core, found 'kil'"),
    ("kill", 5, "expected 'node', 'worker', 'global scheduler' or 'directory', the line ends"),
    ("kill node", 10, "expected the number of a node, the line ends"),
    ("kill node two", 11, "expected the number of a node, found 'two'"),
    ("kill node 1.5", 11, "a whole number from 0"),
    ("restart worker 1", 9, "a node replaces its workers itself"),
    ("partition [0,1] [2]", 17, r"expected '\|' or '->' and another group of nodes, found '\['"),
    ("partition [0,1|[2]", 15, r"expected ',' or '\]', found '\|'"),
    ("partition [0,1]|[1]", 18, "node 1 stands in two groups"),
    ("partition [0,0]|[1]", 14, "node 0 stands here twice"),
    ("partition [0,9]|[1]", 14, "there is no node 9"),
    ("heal at 3", 10, "expected a unit of time .*, the line ends"),
    ("heal at 3 parsecs", 11, r"expected a unit of time \(ns, us, ms, s, min\), found 'parsecs'"),
    ("heal at -3 s", 9, "this time cannot be negative"),
    ("heal at 0.5 ns", 9, "no whole number of nanoseconds"),
    ("heal at soon", 9, "expected a time such as 300 ms, found 'soon'"),
    ("heal for 3 s", 6, "'heal' happens at once: it takes no 'for'"),
    ("heal at 3 s now", 13, "expected the end of the line, found 'now'"),
    ("clog node 1 now", 13, "expected 'at' or 'when' or 'for' or the end of the line"),
    ("clog node 1 when the 0th task seals", 22, "an ordinal such as 7th, from 1st"),
    ("clog node 1 when the 7 task seals", 22, "an ordinal such as 7th"),
    ("clog node 1 when the 7th task sings", 31, "expected 'is submitted' or 'starts' or 'seals', found 'sings'"),
    ("slow node 1 by 0", 16, "a factor of 0 would take no time"),
    ("slow node 1 by -2", 16, "expected a factor such as 2.5, not negative"),
    ("fill store of node 1 to 101 %", 25, "a share is at most 100 %"),
    ("fill store of node 1 to 10", 27, "expected '%', the line ends"),
    ("cut node 1 from node 1", 22, "two different nodes"),
    ("disturb frames", 15, "expected 'lose', 'repeat' or 'reorder'"),
    ("disturb frames lose 100 %", 25, "nothing can ever arrive"),
    ("heal at 3 s & more", 13, "'&' means nothing here"),
]


@pytest.mark.parametrize(("line", "column", "message"), ERRORS, ids=[line for line, *_ in ERRORS])
def test_an_error_says_where_and_what_was_expected(line: str, column: int, message: str) -> None:
    with pytest.raises(FaultSyntaxError, match=message) as caught:
        parse(f"heal\n{line}", CLUSTER)
    assert (caught.value.line, caught.value.column) == (2, column)
    told, text, mark = str(caught.value).splitlines()
    assert told.startswith(f"faults, line 2, column {column}: ")
    assert text.removeprefix("    ") == line
    assert mark.index("^") == 4 + column - 1


def test_an_error_after_a_semicolon_has_the_column_of_the_line() -> None:
    with pytest.raises(FaultSyntaxError) as caught:
        parse("heal; clog node 9", CLUSTER)
    assert caught.value.column == 17


def test_the_core_is_given_once() -> None:
    with pytest.raises(FaultSyntaxError, match="given before"):
        parse("core [0] from 1 s\ncore [1] from 2 s", CLUSTER)


@pytest.mark.parametrize(("cluster", "shown"), [({5: 1}, "only node 5"), ({1: 1, 4: 1}, "nodes 1, 4")])
def test_the_nodes_that_there_are(cluster: dict[int, int], shown: str) -> None:
    with pytest.raises(FaultSyntaxError, match=f"no node 0; the cluster has {shown}"):
        parse("kill node 0", cluster)


@given(st.text(alphabet="kilnodeatwhenpartition0123456789[]|->,.%# \n;", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        schedule = parse(text, CLUSTER)
    except FaultSyntaxError:
        return
    assert parse(str(schedule), CLUSTER) == schedule


# --- carrying out ------------------------------


class Target:
    """Notes what it is asked."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.asked: list[tuple[Nanos, str]] = []

    def note(self, *what: object) -> None:
        self.asked.append((int(self.environment.now), " ".join(map(str, what))))

    def kill_node(self, node: NodeID) -> None:
        self.note("kill node", node)

    def restart_node(self, node: NodeID) -> None:
        self.note("restart node", node)

    def kill_worker(self, node: NodeID, index: int) -> None:
        self.note("kill worker", node, index)

    def kill_service(self, service: f.Service) -> None:
        self.note("kill", service)

    def restart_service(self, service: f.Service) -> None:
        self.note("restart", service)

    def partition(self, groups: Sequence[Sequence[NodeID]], one_way: bool) -> Callable[[], None]:
        self.note("partition", groups, one_way)
        return partial(self.note, "part no more")

    def heal(self, nodes: Sequence[NodeID] | None) -> None:
        self.note("heal", nodes)

    def slow(self, node: NodeID, permille: int) -> None:
        self.note("slow", node, permille)

    def skew(self, node: NodeID, offset: Nanos) -> None:
        self.note("skew", node, offset)

    def pause(self, node: NodeID, paused: bool) -> None:
        self.note("pause" if paused else "go on", node)

    def fill_store(self, node: NodeID, permille: int) -> None:
        self.note("fill", node, permille)


class Stage:
    """A runner, its target and network."""

    def __init__(self, text: str, frames: bool = False) -> None:
        self.environment = Environment(0)
        self.network = FramedNetwork(self.environment) if frames else Network(self.environment)
        for node in N:
            self.network.add(node)
        self.target = Target(self.environment)
        checked: f.FaultTarget = self.target
        self.runner = f.FaultRunner(self.environment, parse(text, CLUSTER), checked, self.network)

    def run(self) -> list[tuple[Nanos, str]]:
        self.runner.start()
        self.environment.run()
        return self.target.asked


def test_timed_faults_happen_and_end() -> None:
    stage = Stage(
        "slow node 1 by 3 at 2 ns for 5 ns; kill node 2 at 1 ns for 3 ns; kill worker 0 of node 1 at 4 ns; skew node 0 by 9 ns"
    )
    assert stage.run() == [
        (0, "skew 0 9"), (1, "kill node 2"), (2, "slow 1 3000"), (4, "kill worker 1 0"), (4, "restart node 2"), (7, "slow 1 1000"),
    ]  # fmt: skip
    assert stage.runner.log[0] == (0, "skew node 0 by 9 ns")
    assert stage.runner.log[-1] == (7, "over: slow node 1 by 3 at 2 ns for 5 ns")


def test_faults_wait_for_the_nth_occurrence() -> None:
    stage = Stage("kill node 2 when the 3rd task seals; kill directory when the 1st task starts")
    stage.runner.start()
    for _ in range(3):
        stage.runner.occurred(Occurrence.SUBMITTED)
        stage.runner.occurred(Occurrence.SEALED)
    assert stage.target.asked == [], "a fault never strikes within the step that reports"
    stage.environment.run()
    assert stage.target.asked == [(0, "kill node 2")]
    stage.runner.occurred(Occurrence.STARTED)
    stage.runner.occurred(Occurrence.SEALED)
    stage.environment.run()
    assert stage.target.asked == [(0, "kill node 2"), (0, "kill directory")]


def test_faults_of_messages_reach_the_network() -> None:
    stage = Stage(
        "clog node 1 at 1 ns for 9 ns; delay node 0 -> node 2 by 5 ns for 3 ns; limit bandwidth of node 0 to 10 % for 8 ns\n"
        "disturb frames lose 1 % for 7 ns; partition [0]->[1] for 2 ns; heal at 20 ns",
        frames=True,
    )
    network = stage.network
    assert isinstance(network, FramedNetwork)
    stage.runner.start()
    stage.environment.run(until=2)
    assert network.stops(N[1], N[3])
    assert network.stops(N[0], N[1])
    assert not network.stops(N[0], N[2])
    assert network.uplink(N[0]).bandwidth == network.model.bandwidth // 10
    disturbed = network.frame_faults
    assert disturbed == FrameFaults(loss=10)
    stage.environment.run()
    assert not network.stops(N[1], N[3])
    assert network.uplink(N[0]).bandwidth == network.model.bandwidth
    assert network.frame_faults is None
    assert stage.target.asked == [(0, "partition ((0,), (1,)) True"), (2, "part no more"), (20, "heal None")]


def test_frames_need_a_network_with_frames() -> None:
    with pytest.raises(ValueError, match="'disturb frames lose 1 %' needs a network with frames"):
        Stage("disturb frames lose 1 %")


def test_in_the_liveness_phase_the_core_is_well_and_nothing_new_fails() -> None:
    stage = Stage(
        "kill node 1; kill node 3; slow node 2 by 5; kill global scheduler; kill node 2 at 20 ns\n"
        "clog node 0 when the 1st task seals\n"
        "core [0,1] from 10 ns"
    )
    stage.runner.start()
    stage.environment.run(until=11)
    stage.runner.occurred(Occurrence.SEALED)
    stage.environment.run()
    asked = stage.target.asked
    assert stage.runner.calm
    assert [what for when, what in asked if when == 10] == [
        "heal (0, 1)", "restart global scheduler", "slow 0 1000", "skew 0 0", "fill 0 0", "slow 1 1000", "skew 1 0", "fill 1 0",
        "restart node 1",
    ]  # fmt: skip
    assert not [what for when, what in asked if when > 10]
    assert not stage.network.stops(N[0], N[1])


# --- swarms ------------------------------


def test_a_swarm_is_drawn_from_its_seed() -> None:
    assert swarm(5, CLUSTER) == swarm(5, CLUSTER)
    assert len({str(swarm(seed, CLUSTER)) for seed in range(50)}) == 50


def test_the_hash_seed_does_not_matter() -> None:
    program = "from sundog.backends.simulated.faults.swarm import swarm; print(swarm(11, {0: 2, 1: 2, 2: 0, 3: 1}, frames=True))"
    printed = set()
    for hash_seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        printed.add(subprocess.check_output([sys.executable, "-c", program], env=environment, text=True, timeout=60))
    assert len(printed) == 1


def test_the_mix_itself_is_drawn() -> None:
    """Over 300 seeds every kind is sometimes there, sometimes not, and once there is nothing but one kind."""
    kinds: dict[str, int] = {}
    alone = 0
    for seed in range(300):
        found = {type(fault.effect).__name__ for fault in swarm(seed, CLUSTER, frames=True).faults}
        alone += len(found) <= 2
        for kind in found:
            kinds[kind] = kinds.get(kind, 0) + 1
    expected = {
        "KillNode", "Pause", "KillWorker", "KillService", "Partition", "Slow", "Skew", "FillStore", "Cut", "Delay", "Clog",
        "LimitBandwidth", "DisturbFrames",
    }  # fmt: skip
    assert set(kinds) == expected
    assert all(90 < count < 250 for count in kinds.values()), kinds
    assert alone > 0


@given(
    st.integers(),
    st.dictionaries(st.integers(0, 30), st.integers(0, 4), max_size=6).map(lambda others: {0: 1, **others}),
    st.booleans(),
)
def test_a_swarm_prints_as_what_is_read_and_spares_the_driver(seed: int, cluster: dict[int, int], frames: bool) -> None:
    schedule = swarm(seed, cluster, frames=frames)
    assert parse(str(schedule), cluster) == schedule
    assert not [fault for fault in schedule.faults if fault.effect == f.KillNode(N[0])]
    assert 0 in schedule.core
    assert len(schedule.core) > len(cluster) / 2
    assert set(schedule.core) <= set(cluster)


def test_clusters_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="with nodes"):
        swarm(1, {})
    with pytest.raises(ValueError, match="spared node 0 is not in the cluster, which has nodes 1, 2"):
        swarm(1, {1: 1, 2: 1})
