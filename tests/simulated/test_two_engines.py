"""A workload without bodies and the same program with bodies that declare their durations: charged alike, they take as long.

Two engines run core's machines: sizes and durations stand for bodies in one, real functions run in the other. Under one profile
what they say takes the same time, so their makespans may differ only by what the driver does besides: waiting for results.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

import sundog
from sundog import workloads
from sundog.backends.simulated.workloads.workload import Get, Submit, Workload, compute, task

Cluster = list[dict[str, Any]]
ONE: Cluster = [{"num_cpus": 4}]
FIVE: Cluster = [{"num_cpus": 0}, {"num_cpus": 2, "count": 4}]


@sundog.remote
def work(*inputs: object) -> None:
    return None


@sundog.remote
def large(size: int, *inputs: object) -> bytes:
    return bytes(size)


@sundog.remote
def parent(count: int, duration: float) -> list[Any]:
    return [work.options(duration=duration).remote() for _ in range(count)]


@sundog.remote
def waiting(count: int, duration: float) -> None:
    sundog.get([work.options(duration=duration).remote() for _ in range(count)])


def run_program(program: Callable[[], Any], cluster: Cluster) -> float:
    """Return how long ``program`` takes, in virtual seconds."""
    sundog.init(backend="simulated", nodes=cluster, seed=1, profile="default")
    try:
        began = time.monotonic()
        program()
        return time.monotonic() - began
    finally:
        sundog.shutdown()


def independent(duration: float, count: int) -> tuple[Workload, Callable[[], Any]]:
    made = work.options(duration=duration)
    return workloads.independent(count, duration), lambda: sundog.get([made.remote() for _ in range(count)])


def chain(duration: float, count: int) -> tuple[Workload, Callable[[], Any]]:
    def program() -> None:
        made = work.options(duration=duration)
        reference = made.remote()
        for _ in range(count - 1):
            reference = made.remote(reference)
        sundog.get(reference)

    return workloads.chain(count, duration), program


def layers(duration: float, width: int, depth: int, size: int) -> tuple[Workload, Callable[[], Any]]:
    tasks = []
    for layer in range(depth):
        for place in range(width):
            before = (layer - 1) * width
            inputs = [before + place, before + (place + 1) % width] if layer else []
            tasks.append(task(duration, inputs=inputs, outputs=(size,)))

    def program() -> None:
        made = large.options(duration=duration)
        above: list[Any] = []
        for layer in range(depth):
            above = [made.remote(size, *([above[place], above[(place + 1) % width]] if layer else [])) for place in range(width)]
        sundog.wait(above, num_returns=width)

    return Workload(tasks, f"{depth} layers of {width}"), program


def nested(duration: float, parents: int, children: int) -> tuple[Workload, Callable[[], Any]]:
    tasks = []
    for number in range(parents):
        first = parents + number * children
        tasks.append(task(steps=[compute(0.0), Submit(tuple(range(first, first + children)))]))
    for number in range(parents):
        tasks += [task(duration, parent=number) for _ in range(children)]

    def program() -> None:
        lists = sundog.get([parent.remote(children, duration) for _ in range(parents)])
        sundog.wait([one for refs in lists for one in refs], num_returns=parents * children)

    return Workload(tasks, "nested"), program


def blocking(duration: float, parents: int, children: int) -> tuple[Workload, Callable[[], Any]]:
    tasks = []
    for number in range(parents):
        called = tuple(range(parents + number * children, parents + (number + 1) * children))
        tasks.append(task(steps=[Submit(called), Get(called)]))
    for number in range(parents):
        tasks += [task(duration, parent=number) for _ in range(children)]
    return Workload(tasks, "blocking"), lambda: sundog.get([waiting.remote(children, duration) for _ in range(parents)])


#: (what, the workload and its program, the cluster, the difference allowed as a part).
CASES: list[tuple[str, tuple[Workload, Callable[[], Any]], Cluster, float]] = [
    ("300 tasks of 2 ms on a node", independent(0.002, 300), ONE, 0.02),
    ("400 tasks of 5 ms on five nodes", independent(0.005, 400), FIVE, 0.05),
    ("a chain of 100 tasks of 1 ms", chain(0.001, 100), ONE, 0.02),
    ("a chain of 100 empty tasks", chain(0.0, 100), ONE, 0.1),
    ("10 layers of 8 tasks of 3 ms, small values", layers(0.003, 8, 10, 100), ONE, 0.05),
    ("10 layers of 8 tasks of 20 ms, values of 1 MiB", layers(0.020, 8, 10, 1 << 20), ONE, 0.01),
    ("a chain of 300 empty tasks", chain(0.0, 300), ONE, 0.1),
    ("40 parents that wait for 10 empty children", blocking(0.0, 40, 10), ONE, 0.1),
    ("20 parents that wait for 4 children of 2 ms", blocking(0.002, 20, 4), ONE, 0.05),
    ("20 parents of 10 children of 4 ms", nested(0.004, 20, 10), ONE, 0.05),
]


@pytest.mark.parametrize(("what", "both", "cluster", "tolerance"), CASES, ids=[case[0] for case in CASES])
def test_the_engines_agree(
    what: str, both: tuple[Workload, Callable[[], Any]], cluster: Cluster, tolerance: float, capsys: pytest.CaptureFixture[str]
) -> None:
    workload, program = both
    bare = sundog.simulate(workload, cluster, seed=1, profile="default").makespan
    full = run_program(program, cluster)
    said = f"{what}: workload {1e3 * bare:.3f} ms, program {1e3 * full:.3f} ms ({100 * (bare / full - 1):+.1f} %)"
    with capsys.disabled():
        print(f"\n{said}")  # noqa: T201 (the two figures)
    assert bare == pytest.approx(full, rel=tolerance), said
