"""Fair sharing: published allocations, repairs against computing from nothing, and exactness to the unit."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simpy.core import Environment

from sundog.backends.simulated.calls import Call
from sundog.backends.simulated.network import flows as module
from sundog.backends.simulated.network.flows import UNITS, UNITS_PER_BYTE, Flow, Flows, Link, fair_levels
from sundog.core.errors import InvariantViolation
from sundog.core.units import SECOND

GIGABYTE = 1_000_000_000


class Bench:
    """An environment with flows, and what ended when."""

    def __init__(self) -> None:
        self.environment = Environment(0)
        self.flows = Flows(self.environment)
        self.ended: dict[str, int] = {}

    def start(self, name: str, up: Link, down: Link, size: int) -> Flow:
        def done() -> None:
            self.ended[name] = int(self.environment.now)

        return self.flows.start(up, down, size * UNITS_PER_BYTE, done)

    def at(self, when: int, what: Callable[[], object]) -> None:
        self.environment.schedule(Call(self.environment, lambda _: what()), 1, when - self.environment.now)  # type: ignore[arg-type]

    def run(self, until: int | None = None, check: bool = True) -> None:
        environment = self.environment
        while environment.peek() != float("inf") and (until is None or environment.peek() <= until):
            environment.step()
            if check:
                self.flows.check_invariants()


def share(flow: Flow, link: Link) -> Fraction:
    return Fraction(flow.rate, link.capacity)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16])
def test_flows_on_one_link_share_it_evenly(count: int) -> None:
    bench = Bench()
    down = bench.flows.link(GIGABYTE)
    flows = [bench.start(str(n), bench.flows.link(GIGABYTE), down, GIGABYTE) for n in range(count)]
    bench.run(until=0)
    assert [share(flow, down) for flow in flows] == [Fraction(1, count)] * count
    bench.run()
    assert set(bench.ended.values()) == {count * SECOND}


@pytest.mark.parametrize("short", [1, 3, 8])
def test_parking_lot(short: int) -> None:
    """One flow over two links, each with one more: all get half. (A flow here crosses two links, so a long one is a chain.)"""
    bench = Bench()
    ups = [bench.flows.link(GIGABYTE) for _ in range(short + 1)]
    downs = [bench.flows.link(GIGABYTE) for _ in range(short + 1)]
    flows = []
    for n in range(short):  # up n carries flows to down n and down n + 1: a chain of links, each with two flows
        flows.append(bench.start(f"a{n}", ups[n], downs[n], GIGABYTE))
        flows.append(bench.start(f"b{n}", ups[n], downs[n + 1], GIGABYTE))
    bench.run(until=0)
    assert {share(flow, ups[0]) for flow in flows} == {Fraction(1, 2)}


def test_four_flows() -> None:
    """A to X, A to Y, B to Y, C to Y over links of 1: two thirds, and three times one third."""
    bench = Bench()
    a, b, c = (bench.flows.link(GIGABYTE) for _ in range(3))
    x, y = (bench.flows.link(GIGABYTE) for _ in range(2))
    flows = [bench.start(str(n), up, down, GIGABYTE) for n, (up, down) in enumerate([(a, x), (a, y), (b, y), (c, y)])]
    bench.run(until=0)
    assert [share(flow, y) for flow in flows] == [Fraction(2, 3), *[Fraction(1, 3)] * 3]


def test_what_one_flow_leaves_goes_to_the_others() -> None:
    bench = Bench()
    down = bench.flows.link(GIGABYTE)
    slow = bench.start("slow", bench.flows.link(GIGABYTE // 10), down, GIGABYTE)
    fast = [bench.start(str(n), bench.flows.link(GIGABYTE), down, GIGABYTE) for n in range(2)]
    bench.run(until=0)
    assert share(slow, down) == Fraction(1, 10)
    assert [share(flow, down) for flow in fast] == [Fraction(9, 20)] * 2


def test_ends_are_exact() -> None:
    """Two flows of 1 and 3 bytes on a link of 1 byte a second: at 2 s, and the other's last 2 bytes alone until 4 s."""
    bench = Bench()
    up, down = bench.flows.link(1), bench.flows.link(1)
    bench.start("one", up, down, 1)
    bench.start("three", up, down, 3)
    bench.run()
    assert bench.ended == {"one": 2 * SECOND, "three": 4 * SECOND}


def test_a_link_that_changes_its_bandwidth() -> None:
    bench = Bench()
    up, down = bench.flows.link(100), bench.flows.link(100)
    bench.start("flow", up, down, 100)
    bench.at(SECOND // 2, lambda: bench.flows.set_bandwidth(up, 10))
    bench.run()
    assert bench.ended == {"flow": SECOND // 2 + 5 * SECOND}


def test_a_stopped_flow_has_what_it_had_not_moved() -> None:
    bench = Bench()
    up, down = bench.flows.link(100), bench.flows.link(100)
    flow = bench.start("flow", up, down, 100)
    left: list[int] = []
    bench.at(SECOND // 4, lambda: left.append(bench.flows.stop(flow)))
    bench.run()
    assert left == [75 * UNITS_PER_BYTE]
    assert bench.ended == {}
    assert up.units == 25 * UNITS_PER_BYTE


def test_settings_that_make_no_sense() -> None:
    bench = Bench()
    with pytest.raises(ValueError, match="0 bytes a second"):
        bench.flows.link(0)
    link = bench.flows.link(1)
    with pytest.raises(ValueError, match="-1 bytes a second"):
        bench.flows.set_bandwidth(link, -1)
    with pytest.raises(ValueError, match="moves nothing"):
        bench.flows.start(link, link, 0, lambda: None)


def test_check_invariants_sees_an_unfair_rate() -> None:
    bench = Bench()
    down = bench.flows.link(GIGABYTE)
    for n in range(3):
        bench.start(str(n), bench.flows.link(GIGABYTE), down, GIGABYTE)
    bench.run(until=0)
    down.level -= 1
    with pytest.raises(InvariantViolation, match="its fair share is"):
        bench.flows.check_invariants()


# --- properties ------------------------------

BANDWIDTHS = st.sampled_from([1, 7, 10, 11, 100, 1000, 1001, GIGABYTE])
NODES = 5


@st.composite
def programs(draw: st.DrawFn) -> tuple[list[int], list[int], list[tuple[int, str, int, int, int]]]:
    """Bandwidths up and down, and what happens: (time, what, from, to, size or bandwidth)."""
    ups = draw(st.lists(BANDWIDTHS, min_size=NODES, max_size=NODES))
    downs = draw(st.lists(BANDWIDTHS, min_size=NODES, max_size=NODES))
    node = st.integers(0, NODES - 1)
    action = st.tuples(
        st.integers(0, 20).map(lambda n: n * SECOND // 7),
        st.sampled_from(["start", "start", "start", "stop", "bandwidth"]),
        node,
        node,
        st.integers(1, 2000),
    )
    return ups, downs, draw(st.lists(action, max_size=40))


class Program:
    """A bench that runs one of ``programs``."""

    def __init__(self, ups: list[int], downs: list[int], actions: list[tuple[int, str, int, int, int]]) -> None:
        self.bench = Bench()
        self.ups = [self.bench.flows.link(one) for one in ups]
        self.downs = [self.bench.flows.link(one) for one in downs]
        self.started: dict[str, tuple[Flow, int]] = {}
        self.stopped: dict[str, int] = {}
        for number, action in enumerate(actions):
            self.bench.at(action[0], partial(self.act, number, *action[1:]))

    def act(self, number: int, what: str, up: int, down: int, amount: int) -> None:
        bench = self.bench
        if what == "start":
            flow = bench.start(str(number), self.ups[up], self.downs[down], amount)
            self.started[str(number)] = flow, amount
        elif what == "bandwidth":
            bench.flows.set_bandwidth(self.ups[up], amount)
        else:
            living = [name for name in self.started if name not in bench.ended and name not in self.stopped]
            if living:
                name = living[amount % len(living)]
                self.stopped[name] = bench.flows.stop(self.started[name][0])


@given(programs())
def test_repairs_equal_computing_from_nothing_and_no_byte_is_made_or_lost(
    program: tuple[list[int], list[int], list[tuple[int, str, int, int, int]]],
) -> None:
    run = Program(*program)
    run.bench.run()  # checks every rate after every event
    assert set(run.bench.ended) | set(run.stopped) == set(run.started)
    for links in (run.ups, run.downs):
        moved = sum(link.units for link in links)
        sent = sum(size * UNITS_PER_BYTE - run.stopped.get(name, 0) for name, (_, size) in run.started.items())
        assert moved == sent
    assert run.bench.flows.refills == 0


def settle(flows: Flows, link: Link) -> None:
    """Have ``flows`` look at ``link`` now; its bandwidth stays what the program has made it."""
    flows.set_bandwidth(link, link.bandwidth)


@given(programs(), st.lists(st.integers(0, 200), max_size=30))
def test_looking_often_changes_nothing(
    program: tuple[list[int], list[int], list[tuple[int, str, int, int, int]]], looks: list[int]
) -> None:
    """However a stretch of time is cut by settlings in which nothing changes, flows end at the same nanosecond."""
    plain, cut = Program(*program), Program(*program)
    for look in looks:
        cut.bench.at(look * SECOND // 50, partial(settle, cut.bench.flows, cut.ups[look % NODES]))
    plain.bench.run(check=False)
    cut.bench.run(check=False)
    assert plain.bench.ended == cut.bench.ended


@given(programs())
def test_giving_up_a_repair_gives_the_same(program: tuple[list[int], list[int], list[tuple[int, str, int, int, int]]]) -> None:
    plain, refilled = Program(*program), Program(*program)
    plain.bench.run(check=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_EVALUATIONS_MAX", 0)
        refilled.bench.run()
    assert plain.bench.ended == refilled.bench.ended


@given(programs())
def test_computing_from_nothing_is_max_min_fair(program: tuple[list[int], list[int], list[tuple[int, str, int, int, int]]]) -> None:
    """By definition, to a unit: no link is overfull, and every flow has a link that is full on which nobody gets more."""
    run = Program(*program)
    run.bench.run(until=10 * SECOND, check=False)
    rates = fair_levels([*run.ups, *run.downs])
    for link in (*run.ups, *run.downs):
        assert sum(rates[flow] for flow in link.flows) <= link.capacity

    def held_back(flow: Flow, link: Link) -> bool:
        used = sum(rates[other] for other in link.flows)
        full = link.capacity - used < len(link.flows)
        return full and rates[flow] >= max(rates[other] for other in link.flows) - len(link.flows)

    for flow in rates:
        assert held_back(flow, flow.up) or held_back(flow, flow.down)
        assert flow.up.capacity % UNITS == 0


def test_a_change_reaches_only_what_it_concerns() -> None:
    """A thousand pairs of nodes, one new flow: two levels are computed, not two thousand."""
    bench = Bench()
    links = [(bench.flows.link(GIGABYTE), bench.flows.link(GIGABYTE)) for _ in range(1000)]
    for number, (up, down) in enumerate(links):
        bench.start(str(number), up, down, GIGABYTE)
    bench.run(until=0, check=False)
    before = bench.flows.evaluations
    bench.start("new", *links[500], GIGABYTE)
    bench.run(until=0, check=False)
    assert bench.flows.evaluations - before <= 4
    bench.flows.check_invariants()
