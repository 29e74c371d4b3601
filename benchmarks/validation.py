"""Where theory knows the answer: what the simulator says beside what it should say. ``python -m benchmarks.validation``.

Each model runs on the very machines of core, with nothing but bodies taking time. What differs from the textbook is said
with the model. Every run's books are checked (Little's law, utilisation, bytes); see ``Measures.check``.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from statistics import fmean
from typing import Any

from sundog.backends.simulated.costs.durations import Exponential
from sundog.backends.simulated.costs.profile import FREE
from sundog.backends.simulated.experiment.measures import Measures
from sundog.backends.simulated.experiment.report import Estimate, Report, aligned, estimate
from sundog.backends.simulated.experiment.start import prepare
from sundog.backends.simulated.network.model import NetworkModel
from sundog.backends.simulated.workloads import generators
from sundog.backends.simulated.workloads.workload import Workload, task
from sundog.core.ids import NodeID
from sundog.core.machine import Rng
from sundog.core.placement import NodeView
from sundog.core.resources import CPU, UNIT
from sundog.core.task import TaskSpec
from sundog.core.units import SECOND, Nanos
from tests.support import closed_forms as theory

#: Heartbeats of a hundred idle nodes would be most of all events; nothing here depends on them.
QUIET: Mapping[str, Any] = {"heartbeat_every": 5 * SECOND, "node_lost_after": 1000 * SECOND}
#: The part of all tasks that is left out of means: the system begins empty.
WARM_UP = 0.25


def simulate(workload: Workload, cluster: Any, *, seed: int, network: NetworkModel | None = None, **options: Any) -> Measures:
    """Run ``workload`` where only bodies (and a ``network``) take time; return the record of it, its books checked."""
    measures = prepare(workload, cluster, seed=seed, profile=FREE, network=network, **options).run()
    Report.of(measures, seed=seed)
    return measures


def response(measures: Measures) -> float:
    """Return the mean response time in seconds after the warm-up."""
    first = round(len(measures.workload) * WARM_UP)
    return Report.of(measures, first=first).response.mean


def waiting(measures: Measures) -> float:
    """Return the mean time in seconds that tasks queue, after the warm-up."""
    first = round(len(measures.workload) * WARM_UP)
    return Report.of(measures, first=first).queueing.mean


class ShortestOf:
    """Joins the shortest of ``probes`` queues drawn at random (from ``random``, if it is given). A queue is what is assigned to a
    node and not over."""

    def __init__(self, probes: int, random: Rng | None = None) -> None:
        self._probes = probes
        self._random = random
        self.lengths: dict[NodeID, int] = {}
        self._nodes: list[NodeID] = []

    def node_changed(self, view: NodeView) -> None:
        """See ``PlacementPolicy``."""
        cpus = dict(view.capacity).get(CPU, 0)
        if cpus and view.node not in self.lengths:
            self._nodes.append(view.node)
        if cpus:
            self.lengths[view.node] = (cpus - dict(view.free)[CPU]) // UNIT + view.queued

    def node_lost(self, node: NodeID) -> None:
        """See ``PlacementPolicy``."""
        self._nodes.remove(node)
        del self.lengths[node]

    def choose(self, spec: TaskSpec, holders: Mapping[NodeID, int], rng: Rng) -> NodeID | None:
        """See ``PlacementPolicy``."""
        random = self._random or rng
        drawn = [self._nodes[random.randrange(len(self._nodes))] for _ in range(self._probes)]
        return min(drawn, key=self.lengths.__getitem__)


# --- one run each ------------------------------------------------------------------------------------------------------


def one_node(workers: int, load: float, *, constant: bool = False) -> Callable[[int, int], float]:
    """M/M/c or M/D/c: Poisson arrivals at a node of ``workers`` CPUs."""

    def run(seed: int, tasks: int) -> float:
        return response(queue(workers, load, seed, tasks, constant=constant))

    return run


def queue(workers: int, load: float, seed: int, tasks: int, *, constant: bool = False, **settings: Any) -> Measures:
    """Run the queue of :func:`one_node`."""
    workload = generators.poisson(load * workers, tasks, 1.0 if constant else Exponential(1.0), seed=seed)
    return simulate(workload, 1, num_cpus=workers, seed=seed, settings=settings)


def nodes_behind_a_head(nodes: int, load: float, seed: int, tasks: int, policy: Any) -> Measures:
    """Run Poisson arrivals at a head without CPUs, which places them on ``nodes`` nodes of one CPU each."""
    workload = generators.poisson(load * nodes, tasks, Exponential(1.0), seed=seed)
    cluster = [{"num_cpus": 0}, {"num_cpus": 1, "count": nodes}]
    return simulate(workload, cluster, policy=policy, seed=seed, settings=QUIET)


def supermarket(nodes: int, load: float, probes: int) -> Callable[[int, int], float]:
    """The supermarket model, placed by the global scheduler."""
    return lambda seed, tasks: response(nodes_behind_a_head(nodes, load, seed, tasks, ShortestOf(probes)))


def central_queue(nodes: int, load: float) -> Callable[[int, int], float]:
    """One queue at the global scheduler for all nodes: M/M/n. Its waiting time: the rest is the same whoever places."""
    return lambda seed, tasks: waiting(nodes_behind_a_head(nodes, load, seed, tasks, "central"))


def fork_join(load: float) -> Callable[[int, int], float]:
    """Jobs of two tasks, one on each of two nodes; a job is over with the later one."""

    def run(seed: int, tasks: int) -> float:
        jobs = generators.poisson(load, tasks // 2, 0.0, seed=seed)
        draw = generators.durations(Exponential(1.0), seed)
        pair = [
            task(draw() / SECOND, resources={"CPU": 1, f"server-{side}": 1}, at=job.submitted_at / SECOND)
            for job in jobs
            for side in (0, 1)
        ]
        cluster: list[dict[str, Any]] = [{"num_cpus": 0}]
        cluster += [{"num_cpus": 1, "resources": {f"server-{side}": 1}} for side in (0, 1)]
        measures = simulate(Workload(pair, "fork_join"), cluster, seed=seed, settings=QUIET)
        ends, begins = measures.finished_at, measures.submitted_at
        times = [max(ends[at], ends[at + 1]) - begins[at] for at in range(0, len(pair), 2)]
        return fmean(times[round(len(times) * WARM_UP) :]) / SECOND

    return run


def rounds(barriers: bool, cores: int, number: int) -> Callable[[int, int], float]:
    """``number`` rounds of exponential tasks on ``cores`` cores, with barriers or without; ``tasks`` is how many such jobs."""
    make = generators.bulk_synchronous if barriers else generators.asynchronous

    def run(seed: int, tasks: int) -> float:
        count = max(1, tasks // (cores * number))
        jobs = [make(cores, number, Exponential(1.0), seed=seed * 100_000 + job) for job in range(count)]
        return fmean([simulate(job, 1, num_cpus=cores, seed=seed).makespan() / SECOND for job in jobs])

    return run


def ring(ranks: int, size: int, network: NetworkModel, seed: int = 0) -> float:
    """Return the seconds of an all-reduce of ``size`` bytes over ``ranks`` nodes, from when all have their values."""
    cluster = [{"num_cpus": 1, "resources": {f"rank-{rank}": 1}} for rank in range(ranks)]
    measures = simulate(generators.ring_all_reduce(ranks, size), cluster, seed=seed, network=network, settings=QUIET)
    return (max(measures.finished_at) - max(measures.finished_at[:ranks])) / SECOND


# --- sample paths ------------------------------------------------------------------------------------------------------


def first_in_first_out(workload: Workload, workers: int) -> list[Nanos]:
    """Return when each task starts where ``workers`` workers take tasks in the order of submission (Kiefer, Wolfowitz, 1955)."""
    free: list[Nanos] = [0] * workers
    heapify(free)
    starts = []
    for one in workload:
        start = max(one.submitted_at, free[0])
        heapreplace(free, start + one.duration)
        starts.append(start)
    return starts


def join_the_shortest(workload: Workload, nodes: int, probes: int, random: Rng) -> list[Nanos]:
    """Return when each task starts where it joins the shortest of ``probes`` of ``nodes`` queues, drawn as by ``ShortestOf``."""
    ends: list[deque[Nanos]] = [deque() for _ in range(nodes)]
    starts = []
    for one in workload:
        drawn = [ends[random.randrange(nodes)] for _ in range(probes)]
        for ends_there in drawn:
            while ends_there and ends_there[0] <= one.submitted_at:
                ends_there.popleft()
        shortest = min(drawn, key=len)
        start = shortest[-1] if shortest else one.submitted_at
        shortest.append(start + one.duration)
        starts.append(start)
    return starts


def bare_response(workload: Workload, starts: Sequence[Nanos]) -> float:
    """Return the mean response time in seconds, after the warm-up, of tasks that start then."""
    first = round(len(workload) * WARM_UP)
    times = [start + one.duration - one.submitted_at for start, one in zip(starts, workload, strict=True)]
    return fmean(times[first:]) / SECOND


def wasted(measures: Measures, workers: int) -> Nanos:
    """Return how long, worker by worker, tasks of one CPU were ready and a worker was idle: nothing in a greedy schedule."""
    changes: list[tuple[Nanos, int, int]] = []
    for ready, started, finished in zip(measures.ready_at(), measures.started_at, measures.finished_at, strict=True):
        changes += [(ready, 1, 0), (started, -1, 1), (finished, 0, -1)]
    found = waiting_now = running = before = 0
    for now, waits, runs in sorted(changes):
        found += (now - before) * min(waiting_now, workers - running)
        before = now
        waiting_now += waits
        running += runs
    return found


# --- the table ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """Something that theory knows: what a run of it (of a seed, with about so many tasks) gives, and should give on average."""

    name: str
    run: Callable[[int, int], float]
    theory: float
    #: What theory says of something else, which must not fit: (what else, its value).
    control: tuple[str, float]
    #: Tasks in a run of the test suite, and of the published table.
    quick: int = 400
    long: int = 10_000
    seeds: int = 10
    #: How far from the theory the mean may be, whatever its error.
    tolerance: float = 0.01
    #: Why it is not 1 %.
    why: str = ""

    def samples(self, tasks: int, seeds: int | None = None) -> list[float]:
        """Return what runs of about ``tasks`` tasks give, one for each seed from 1."""
        return [self.run(seed, tasks) for seed in range(1, (seeds or self.seeds) + 1)]


def agrees(samples: Sequence[float], expected: float, tolerance: float = 0.01) -> bool:
    """Tell whether the mean lies within three standard errors, or within ``tolerance``, of what is ``expected``."""
    mean = fmean(samples)
    error = math.sqrt(math.fsum([(one - mean) ** 2 for one in samples]) / (len(samples) - 1) / len(samples))
    return abs(mean - expected) <= max(3 * error, tolerance * expected)


_FINITE = "theory is for endlessly many nodes; a bare simulation of 50 gives about 2 % more"

MODELS: tuple[Model, ...] = (
    Model("M/M/1, load 0.6", one_node(1, 0.6), theory.mmc_response(1, 0.6), ("M/M/2", theory.mmc_response(2, 0.6)), 400, 20_000),
    Model("M/M/2, load 0.7", one_node(2, 0.7), theory.mmc_response(2, 0.7), ("M/M/1", theory.mmc_response(1, 0.7)), 400, 20_000),
    Model("M/M/8, load 0.8", one_node(8, 0.8), theory.mmc_response(8, 0.8), ("M/M/4", theory.mmc_response(4, 0.8)), 400, 20_000),
    Model("M/D/1, load 0.5", one_node(1, 0.5, constant=True), theory.md1_response(0.5), ("M/M/1", theory.mmc_response(1, 0.5))),
    Model("M/D/1, load 0.7", one_node(1, 0.7, constant=True), theory.md1_response(0.7), ("M/M/1", theory.mmc_response(1, 0.7))),
    Model(
        "supermarket, 50 nodes, load 0.5, 1 probe", supermarket(50, 0.5, 1), theory.supermarket_response(1, 0.5),
        ("2 probes", theory.supermarket_response(2, 0.5)), 400, 5_000,
    ),
    Model(
        "supermarket, 50 nodes, load 0.7, 2 probes", supermarket(50, 0.7, 2), theory.supermarket_response(2, 0.7),
        ("3 probes", theory.supermarket_response(3, 0.7)), 500, 5_000, tolerance=0.025, why=_FINITE,
    ),
    Model(
        "supermarket, 50 nodes, load 0.7, 3 probes", supermarket(50, 0.7, 3), theory.supermarket_response(3, 0.7),
        ("2 probes", theory.supermarket_response(2, 0.7)), 500, 5_000, tolerance=0.025, why=_FINITE,
    ),
    Model(
        "central queue, 10 nodes, load 0.8: waiting", central_queue(10, 0.8), theory.mmc_response(10, 0.8) - 1,
        ("M/M/5", theory.mmc_response(5, 0.8) - 1), 400, 10_000,
    ),
    Model(
        "fork-join, 2 nodes, load 0.5", fork_join(0.5), theory.fork_join_two(0.5), ("one M/M/1", theory.mmc_response(1, 0.5)),
        600, 10_000,
    ),
    Model(
        "bulk-synchronous, 16 cores x 3", rounds(True, 16, 3), theory.bulk_synchronous(16, 3),
        ("without barriers", theory.asynchronous(16, 3)), 48, 2_400,
    ),
    Model(
        "asynchronous, 16 cores x 3", rounds(False, 16, 3), theory.asynchronous(16, 3),
        ("with barriers", theory.bulk_synchronous(16, 3)), 48, 2_400,
    ),
)  # fmt: skip


def row(model: Model, tasks: int, seeds: int) -> tuple[list[str], bool]:
    """Run ``model`` and return its line of the table, and whether it agrees."""
    samples = model.samples(tasks, seeds)
    found: Estimate = estimate(samples)
    fits = agrees(samples, model.theory, model.tolerance)
    verdict = "agrees" if fits else "DIFFERS"
    cells = [
        model.name, f"{model.theory:.4f}", f"{found.mean:.4f} ± {found.half_width:.4f}", f"{found.mean / model.theory - 1:+.2%}",
        f"{model.control[0]}: {model.control[1]:.4f}", verdict,
    ]  # fmt: skip
    return cells, fits


def main() -> int:
    """Print the table; 1 if anything differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.validation", description="The simulator held against theory.")
    parser.add_argument("--scale", type=float, default=1.0, help="tasks in a run, as a multiple of the published table's")
    parser.add_argument("--seeds", type=int, default=10, help="runs of each model, 2 or more (seeds 1, 2, ...)")
    parser.add_argument("--only", default="", help="models whose names contain this text")
    given = parser.parse_args()
    if given.seeds < 2 or given.scale <= 0:
        parser.error("take 2 seeds or more, and a scale above 0")
    began = time.perf_counter()
    rows, wrong = [], 0
    for model in MODELS:
        if given.only in model.name:
            cells, fits = row(model, max(48, round(model.long * given.scale)), given.seeds)
            rows.append(cells)
            print(f"{model.name}: {cells[-1]}", file=sys.stderr, flush=True)
            wrong += not fits
    print(aligned(["model", "theory", "simulated, 95 % CI", "error", "what would not fit", ""], rows))
    print(f"\nseeds 1 to {given.seeds}, {time.perf_counter() - began:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
