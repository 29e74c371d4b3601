"""Lives of simulated tasks a second, without bodies, on 10 to 1,000 nodes; SimPy's own events beside them in the same run.

Every node has 4 CPUs, submits its own tasks at random times and hands to the global scheduler what would wait too long, which is
about every third; heartbeats are on. Nothing costs virtual time but bodies.

``python -m benchmarks.simulated_tasks`` prints the table; ``--million`` runs 1,000,000 tasks on 1,000 nodes once, with the
memory that it took; ``--profile NODES`` where the time goes; ``--share NODES`` how much of it is core's, by samples of the running
program, which cost nothing by themselves.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import time
from random import Random
from types import FrameType

from benchmarks.measure import Row, at_least, at_most, info, show
from benchmarks.simulated_network import per_second, raw_events
from sundog.backends.simulated.experiment.experiment import Experiment
from sundog.backends.simulated.experiment.start import prepare
from sundog.backends.simulated.workloads.workload import Workload, task

CPUS = 4
#: Mean of the bodies' durations, in seconds, and the part of all CPUs that they need.
MEAN = 0.1
LOAD = 0.8
#: Tasks of a run: with fewer a node, what counts is that nodes and workers meet their first task.
TASKS_MIN = 20_000
TASKS_A_NODE = 50
#: One life may cost as much as this many raw SimPy events.
EVENTS_A_LIFE = 40
#: What the machine did that the budgets were set on.
REFERENCE_EVENTS = 1_000_000


def workload(nodes: int, count: int) -> Workload:
    """Return ``count`` tasks that arrive at random times on random nodes."""
    random = Random(1)
    draw, pick = random.expovariate, random.randrange
    rate = nodes * CPUS * LOAD / MEAN
    at = 0.0
    tasks = []
    for _ in range(count):
        at += draw(rate)
        tasks.append(task(draw(1 / MEAN), at=at, node=pick(nodes)))
    return Workload(tasks, f"{count} tasks on {nodes} nodes")


def experiment(nodes: int, count: int) -> Experiment:
    """Return one that is ready to run."""
    return prepare(workload(nodes, count), nodes, num_cpus=CPUS, policy="bottom_up", profile="free", seed=1)


def run(nodes: int, count: int) -> tuple[float, Experiment]:
    """Return lives a second of computing time, without the making of the workload and the coming up of the cluster."""
    made = experiment(nodes, count)
    made.boot()
    started = time.process_time()
    made.run()
    return count / (time.process_time() - started), made


def measure() -> list[Row]:
    """The rows of the table."""
    raw = per_second(raw_events)
    rows = [info("SimPy alone: events with a callback", f"{raw:,.0f} /s")]
    rates: dict[int, float] = {}
    for nodes in (10, 100, 1000):
        count = max(TASKS_MIN, TASKS_A_NODE * nodes)
        gc.collect()
        rates[nodes], made = run(nodes, count)
        measures = made.measures
        raws, events, steps = raw / rates[nodes], measures.events / count, measures.steps / count
        what = f"simulated task lives, {nodes} nodes ({raws:.0f} raw events each; {events:.1f} events, {steps:.1f} steps)"
        rows.append(at_least(what, raw / EVENTS_A_LIFE, rates[nodes], "/s"))
    rows.append(at_most("cost of a life on 1,000 nodes over that on 10", 1.5, rates[10] / rates[1000], "", ".2f"))
    return rows


def million(nodes: int = 1000, count: int = 1_000_000) -> list[Row]:
    """1,000,000 tasks on 1,000 nodes, once."""
    raw = per_second(raw_events)
    started = time.process_time()
    made = prepare(workload(nodes, count), nodes, num_cpus=CPUS, profile="free", seed=1)
    built = time.process_time()
    made.run()
    took = time.process_time() - built
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    budget = 60 * REFERENCE_EVENTS / raw
    return [
        info("SimPy alone: events with a callback", f"{raw:,.0f} /s"),
        info("making the workload and the cluster", f"{built - started:.1f} s"),
        at_most(f"{count:,} tasks on {nodes:,} nodes (60 s where SimPy does 1 M/s)", budget, took, "s", ".1f"),
        at_most("peak memory", 2048, peak, "MB"),
        info("virtual time", f"{made.measures.ended_at / 1e9:.1f} s"),
    ]


def share(nodes: int, count: int = 20_000) -> list[Row]:
    """How much of a life is spent in core's code and how much in the loop round it."""
    raw = per_second(raw_events)
    made = experiment(nodes, count)
    made.boot()
    samples = {True: 0, False: 0}

    def sample(_: int, frame: FrameType | None) -> None:
        samples[frame is not None and f"sundog{os.sep}core{os.sep}" in frame.f_code.co_filename] += 1

    before = signal.signal(signal.SIGPROF, sample)
    signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
    started = time.process_time()
    try:
        made.run()
    finally:
        took = time.process_time() - started
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    life = took / count * raw
    loop = samples[False] / (samples[True] + samples[False])
    return [
        info(f"a life on {nodes} nodes, in raw SimPy events", f"{life:.0f}"),
        info("of these, core", f"{life * (1 - loop):.0f}"),
        info("the loop, its clients, network and books", f"{life * loop:.0f}"),
    ]


def profile(nodes: int, count: int = 10_000) -> None:
    """Print where the time goes."""
    import cProfile
    import pstats

    made = experiment(nodes, count)
    made.boot()
    profiler = cProfile.Profile()
    profiler.enable()
    made.run()
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(45)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--profile"]:
        profile(int(sys.argv[2]))
    elif sys.argv[1:2] == ["--share"]:
        show(share(int(sys.argv[2])), "Core's share of a simulated task")
    elif sys.argv[1:2] == ["--million"]:
        show(million(), "A million simulated tasks")
    else:
        show(measure(), "Simulated tasks")
