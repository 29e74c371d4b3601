"""Workloads: what they are made of, what bounds them, what is refused."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from sundog.backends.simulated.costs.durations import Exponential, Uniform
from sundog.backends.simulated.workloads import generators
from sundog.backends.simulated.workloads.workload import (
    Compute,
    Get,
    Submit,
    Workload,
    WorkloadError,
    WorkTask,
    compute,
    task,
    together,
)
from sundog.core.resources import CPU, GPU, ONE_CPU, UNIT
from sundog.core.units import SECOND
from tests.support.list_scheduler import run

FOUR = ((CPU, 4 * UNIT),)

DIAMOND = Workload(
    [
        task(1, name="a", outputs=(10,)),
        task(2, inputs=[0], name="b"),
        task(5, inputs=[0], name="c"),
        task(1, inputs=[1, 2], name="d"),
    ],
    "diamond",
)
PARENT = Workload(
    [
        task(steps=[compute(1), Submit((1, 2)), compute(2), Get((1, 2)), compute(1)], name="parent"),
        task(4, parent=0, name="long"),
        task(1, parent=0, inputs=[1], name="after"),
    ],
    "parent",
)


def every_generator(seed: int = 3) -> list[Workload]:
    length = Uniform(0.5, 2)
    return [
        generators.independent(20, length, seed=seed),
        generators.chain(5, length, chains=3, seed=seed),
        generators.tree_reduce(11, length, fan_in=3, size=100, seed=seed),
        generators.map_reduce(4, 3, length, reduce_duration=1.0, partition=1000, size=Uniform(1, 9), seed=seed),
        generators.layered_random(6, 5, length, reach=2, size=50, seed=seed),
        generators.fork_join(4, length, rounds=2, join_duration=0.5, seed=seed),
        generators.bulk_synchronous(4, 3, length, seed=seed),
        generators.asynchronous(4, 3, length, seed=seed),
        generators.poisson(2.0, 30, length, seed=seed),
        generators.nested(2, 3, length, depth=2, before=0.5, after=0.25, seed=seed),
        generators.ring_all_reduce(4, 1000, pin=False),
        generators.graham_anomaly(),
    ]


def test_what_bounds_a_graph() -> None:
    assert DIAMOND.work() == 9 * SECOND
    assert DIAMOND.critical_path() == 7 * SECOND
    assert [DIAMOND.name_of(i) for i in DIAMOND.critical_tasks()] == ["a", "c", "d"]
    assert DIAMOND.edge_count() == 4
    assert DIAMOND.bytes_taken() == 20
    assert DIAMOND.bytes_returned() == 10
    two = Workload([task(3, resources={"CPU": 2}), task(1, resources={"GPU": 1})])
    assert two.cpu_work() == 6 * SECOND * UNIT
    late = Workload([task(1, at=10), task(2)])
    assert late.critical_path() == 2 * SECOND
    assert late.critical_path(releases=True) == 11 * SECOND
    assert late.ends_at() == 10 * SECOND


def test_a_parent_that_waits_is_no_cycle_and_its_path_leads_through_its_children() -> None:
    PARENT.validate([FOUR])
    assert PARENT.critical_path() == 7 * SECOND
    assert set(PARENT.critical_tasks()) == {0, 1, 2}
    assert PARENT.work() == 9 * SECOND
    assert run(PARENT).makespan() == 7 * SECOND


def test_workloads_side_by_side_share_nothing() -> None:
    both = together([DIAMOND, PARENT, DIAMOND], "both")
    both.validate([FOUR])
    assert len(both) == 11
    assert both.work() == 2 * DIAMOND.work() + PARENT.work()
    assert both.critical_path() == 7 * SECOND
    assert both[4].steps[1] == Submit((5, 6))
    assert both[10].inputs == ((8, 0), (9, 0))


@pytest.mark.parametrize("workload", every_generator(), ids=lambda workload: workload.name.split("(")[0])
def test_every_generator_makes_what_runs_and_keeps_the_bounds(workload: Workload) -> None:
    for cpus in (1, 3):
        measures = run(workload, cpus=cpus)
        measures.check()
        took = measures.makespan()
        assert not measures.unfinished()
        work, path = workload.work(), workload.critical_path()
        assert took >= path
        released = workload.ends_at()
        if not released and not measures.waits():
            assert took >= work / cpus
            assert took <= (work - path) / cpus + path + 1


def test_the_same_seed_gives_the_same_workload_and_another_another() -> None:
    for first, again, other in zip(every_generator(), every_generator(), every_generator(4), strict=True):
        assert list(first) == list(again)
        if first.name.split("(")[0] not in ("ring_all_reduce", "graham_anomaly"):
            assert list(first) != list(other), first.name


def test_durations_do_not_change_when_sizes_do() -> None:
    plain = generators.layered_random(6, 5, Exponential(1.0), seed=3)
    sized = generators.layered_random(6, 5, Exponential(1.0), size=Uniform(1, 1e6), seed=3)
    assert [(t.duration, t.inputs) for t in plain] == [(t.duration, t.inputs) for t in sized]
    assert len({t.outputs for t in sized}) > 5


def test_shapes_of_the_graphs() -> None:
    chain = generators.chain(4, 1.0, chains=2)
    assert chain.critical_path() == 4 * SECOND
    tree = generators.tree_reduce(8, 1.0)
    assert (len(tree), tree.critical_path()) == (15, 4 * SECOND)
    shuffle = generators.map_reduce(3, 2, 1.0, partition=7)
    assert shuffle.edge_count() == 6
    assert shuffle.bytes_taken() == 42
    assert shuffle[4].inputs == ((0, 1), (1, 1), (2, 1))
    bulk = generators.bulk_synchronous(4, 3, 1.0)
    assert bulk.critical_path() == 3 * SECOND
    assert [t.resources for t in bulk if t.function == "barrier"] == [(), ()]
    assert [t.duration for t in bulk if t.function == "step"] == [t.duration for t in generators.asynchronous(4, 3, 1.0)]
    deep = generators.nested(2, 3, 1.0, depth=2)
    assert len(deep) == 2 * (1 + 3 + 9)
    assert sum(t.parent == -1 for t in deep) == 2
    wide = generators.independent(6, nodes=(0, 2, 5))
    assert [t.node for t in wide] == [0, 2, 5, 0, 2, 5]


def test_poisson_arrivals_have_their_rate_over_all_nodes() -> None:
    workload = generators.poisson(50.0, 20_000, 0.01, nodes=range(4), seed=5)
    times = [t.submitted_at / SECOND for t in workload]
    assert times == sorted(times)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert statistics.mean(gaps) == pytest.approx(1 / 50, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(1 / 50, rel=0.05)
    counts = [sum(t.node == node for t in workload) for node in range(4)]
    assert min(counts) > 4700


def test_a_queue_of_poisson_arrivals_waits_as_erlang_says() -> None:
    means = []
    for seed in range(10):
        measures = run(generators.poisson(1.4, 2500, Exponential(1.0), seed=seed), cpus=2)
        times = [end - begin for begin, end in zip(measures.submitted_at[500:], measures.finished_at[500:], strict=True)]
        means.append(statistics.mean(times) / SECOND)
    error = 3 * statistics.stdev(means) / math.sqrt(len(means))
    assert abs(statistics.mean(means) - 1 / (1 - 0.7**2)) < error, means
    assert error < 0.3, means


@pytest.mark.parametrize(
    ("cpus", "settings", "makespan"),
    [
        (3, {}, 12),
        (4, {}, 15),
        (3, {"less": 1}, 13),
        (3, {"without": ((4, 5), (4, 6))}, 16),
        (3, {"order": (1, 2, 4, 5, 6, 3, 9, 7, 8)}, 14),
    ],
)
def test_graham_s_anomalies(cpus: int, settings: dict[str, Any], makespan: int) -> None:
    workload = generators.graham_anomaly(**settings)
    # A list scheduler takes the first of the list that is ready; that is a matter of the order of what is ready.
    assert run_by_list(workload, cpus) == makespan * SECOND


def run_by_list(workload: Workload, cpus: int) -> int:
    """Return the makespan when every free core takes the first ready task of the list."""
    free_at, ends = [0] * cpus, dict.fromkeys(range(len(workload)), math.inf)
    left, now = list(range(len(workload))), 0
    while left:
        for core in range(cpus):
            if free_at[core] <= now:
                found = next((i for i in left if all(ends[p] <= now for p, _ in workload[i].inputs)), None)
                if found is not None:
                    left.remove(found)
                    ends[found] = free_at[core] = now + workload[found].duration
        now = min((at for at in free_at if at > now), default=now)
    return max(free_at)


def test_every_rank_of_a_ring_has_every_chunk_of_every_rank() -> None:
    ranks = 5
    workload = generators.ring_all_reduce(ranks, 1001)
    workload.validate([((CPU, UNIT), (f"rank-{r}", UNIT)) for r in range(ranks)])
    assert len(workload) == ranks + 2 * (ranks - 1) * ranks
    # Which gradients went into each output: what a rank hands on last has all of them.
    parts: list[list[frozenset[tuple[int, int]]]] = []
    for index, one in enumerate(workload):
        if one.function == "gradient":
            parts.append([frozenset([(index, chunk)]) for chunk in range(ranks)])
        else:
            parts.append([frozenset().union(*[parts[p][o] for p, o in one.inputs])])
    gathered = [one for one, t in zip(parts, workload, strict=True) if t.function == "all_gather"]
    for rank in range(ranks):
        chunks = {chunk for one in gathered[rank::ranks] for _, chunk in one[0]}
        assert len(chunks) == ranks - 1, "it had the last one itself"
    assert all(len(one[0]) == ranks and len({chunk for _, chunk in one[0]}) == 1 for one in gathered)
    assert {t.outputs for t in workload if t.function == "all_gather"} == {(201,)}


BAD: dict[str, tuple[Callable[[], Workload], str]] = {
    "cycle": (
        lambda: Workload([task(name="a", inputs=[2]), task(name="b", inputs=[0]), task(name="c", inputs=[1])], "w"),
        r"w: the graph is cyclic: \w waits for \w, which waits for \w, which waits for \w;",
    ),
    "itself": (lambda: Workload([task(name="a", inputs=[0])]), "a waits for itself"),
    "behind a cycle": (
        lambda: Workload([task(name="x", inputs=[1]), task(name="b", inputs=[2]), task(name="c", inputs=[1])]),
        r"cyclic: [bc] waits for [bc], which waits for [bc];",
    ),
    "child of its own getter": (
        lambda: Workload([task(name="p", steps=[Submit((1,)), Get((1,))]), task(name="k", parent=0, inputs=[0])]),
        "cyclic: (p waits for k, which waits for p|k waits for p, which waits for k)",
    ),
    "no such input": (lambda: Workload([task(inputs=[7])]), r"task-0 \(number 0\) takes an output of task number 7"),
    "no such output": (lambda: Workload([task(name="a"), task(inputs=[(0, 1)])]), "output 1 of a, which has 1"),
    "later": (
        lambda: Workload([task(name="a", inputs=[1]), task(name="b")]),
        "a .* takes an output of b, which is submitted after it",
    ),
    "later in time": (lambda: Workload([task(name="a", at=5), task(name="b", inputs=[0])]), "b .* a, which is submitted after it"),
    "two drivers": (
        lambda: Workload([task(name="a"), task(name="b", node=1, inputs=[0])]),
        "b .* output of a, which the driver of node 0 submits, and its own that of node 1",
    ),
    "negative duration": (lambda: Workload([WorkTask(name="a", duration=-SECOND)]), "a .* has a duration of -1 s"),
    "negative size": (lambda: Workload([task(name="a", outputs=(5, -3))]), "a .* returns -3 bytes as its output 1"),
    "negative time": (lambda: Workload([WorkTask(name="a", submitted_at=-5)]), "a .* is submitted at"),
    "no such node": (lambda: Workload([task(name="a", node=9)]), "a .* driver of node 9; there are nodes 0 to 1"),
    "never fits": (
        lambda: Workload([task(name="a"), task(name="b", resources={"CPU": 1, GPU: 3})]),
        "b .* needs 1 CPU, 3 GPU, which no node ever has: the nearest lacks 2 GPU",
    ),
    "not submitted": (
        lambda: Workload([task(name="p"), task(name="k", parent=0)]),
        "k .* has parent p, whose steps never submit it",
    ),
    "submitted twice": (lambda: Workload([task(name="p", steps=[Submit((1, 1))]), task(name="k", parent=0)]), "k .* again by p"),
    "another's child": (lambda: Workload([task(name="p", steps=[Submit((1,))]), task(name="k")]), "k .* say so with parent=0"),
    "get before submit": (
        lambda: Workload([task(name="p", steps=[Get((1,)), Submit((1,))]), task(name="k", parent=0)]),
        "p .*waits for k|p waits for k, which waits for p|k waits for p",
    ),
    "a stranger's child": (
        lambda: Workload([task(name="p", steps=[Submit((1,))]), task(name="k", parent=0), task(name="q", inputs=[1])]),
        "q .* output of k, which only the body of p knows: take the output of p instead",
    ),
    "wrong sum": (
        lambda: Workload([WorkTask(name="a", duration=5, steps=(Compute(6),))]),
        "a .* but its steps compute for 6e-09 s",
    ),
    "child with a time": (
        lambda: Workload([task(name="p", steps=[Submit((1,))]), task(name="k", parent=0, at=3)]),
        "k .* both a parent and submitted_at",
    ),
    "no such child": (lambda: Workload([task(name="p", steps=[Submit((5,))])]), "p .* submits task number 5 in step 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_could_not_run_is_refused_by_name(case: str) -> None:
    make, text = BAD[case]
    with pytest.raises(WorkloadError, match=text):
        make().validate([((CPU, 4 * UNIT), (GPU, UNIT)), ONE_CPU])


def test_a_body_may_wait_for_what_it_knows() -> None:
    known = Workload(
        [
            task(1, name="before"),
            task(steps=[Submit((2, 3)), Get((2, 0))], name="parent"),
            task(1, parent=1, inputs=[0]),
            task(steps=[Get((2, 0))], parent=1),
        ]
    )
    known.validate([ONE_CPU])
    assert not run(known, cpus=1).unfinished()


def test_numbers_that_people_get_wrong() -> None:
    for wrong in (-1, math.nan, math.inf):
        with pytest.raises(WorkloadError, match="'load'"):
            task(wrong, function="load")
        with pytest.raises(WorkloadError):
            compute(wrong)
    for make in (
        lambda: generators.independent(0),
        lambda: generators.independent(3, nodes=()),
        lambda: generators.independent(3, size=-1),
        lambda: generators.tree_reduce(4, fan_in=1),
        lambda: generators.poisson(0, 3, 1.0),
        lambda: generators.ring_all_reduce(1, 10),
        lambda: generators.graham_anomaly(order=(1, 2, 3)),
        lambda: generators.graham_anomaly(without=((1, 2),)),
        lambda: generators.graham_anomaly(less=3),
    ):
        with pytest.raises(WorkloadError):
            make()
