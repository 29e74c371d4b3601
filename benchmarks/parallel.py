"""How much of two cores reaches the tasks: short ones on 2 workers, against two plain processes with the same work."""

from __future__ import annotations

import os
import statistics
import time

import sundog
from benchmarks.cpu import per_task, text
from benchmarks.measure import Row, at_least, info, seconds

#: (how many, how long each takes in seconds, what it is called, the budget)
SORTS = ((2_000, 0.002, "2,000 tasks of 2 ms", 0.97), (10_000, 0.0001, "10,000 tasks of 100 us", 0.80))
ROUNDS = 3


def spin(loops: int) -> int:
    """Work that takes as long as its loops take, whatever the clock says."""
    total = 0
    for i in range(loops):
        total += i * i & 7
    return total


@sundog.remote
def work(loops: int) -> int:
    return spin(loops)


def calibrate(span: float) -> int:
    """Return how many loops take about ``span`` seconds."""
    loops = 10_000
    return int(loops * span / min(seconds(lambda: spin(loops)) for _ in range(9)))


def plain(tasks: int, loops: int) -> float:
    """Return the seconds that two forked processes take for all tasks."""
    started = time.perf_counter()
    pids = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            for _ in range(tasks // 2):
                spin(loops)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    return time.perf_counter() - started


def measure() -> list[Row]:
    """The rows of the table. The engine's computing beside the bodies hardly changes when the machine has other work."""
    rows = []
    for tasks, span, what, budget in SORTS:
        loops = calibrate(span)
        ratios = []
        theirs = []

        def together(tasks: int = tasks, loops: int = loops) -> None:
            sundog.get([work.remote(loops) for _ in range(tasks)])

        for turn in range(1, ROUNDS + 1):
            theirs.append(plain(tasks, loops))
            with sundog.init(num_workers=2):
                sundog.get([work.remote(loops) for _ in range(20)])
                ratios.append(theirs[-1] / seconds(together))
                if turn == ROUNDS:
                    spent = per_task(together, tasks, rounds=1)
        rows += [
            at_least(f"{what}: share of two plain processes", budget, statistics.median(ratios), "", ".3f"),
            info("two plain processes", f"{statistics.median(theirs):.2f} s for {tasks * span:.1f} s of work"),
            info("computing per task, bodies included, in us", text(spent)),
        ]
    return rows
