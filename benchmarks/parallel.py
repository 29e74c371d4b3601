"""How much of two cores reaches the tasks: 2,000 tasks of 2 ms on 2 workers, against two plain processes with the same work."""

from __future__ import annotations

import os
import statistics
import time

import sundog
from benchmarks.measure import Row, at_least, info, seconds

TASKS = 2000
TASK_SECONDS = 0.002


def spin(loops: int) -> int:
    """Work that takes as long as its loops take, whatever the clock says."""
    total = 0
    for i in range(loops):
        total += i * i & 7
    return total


@sundog.remote
def work(loops: int) -> int:
    return spin(loops)


def calibrate() -> int:
    """Return how many loops take about TASK_SECONDS."""
    loops = 10_000
    return int(loops * TASK_SECONDS / min(seconds(lambda: spin(loops)) for _ in range(9)))


def plain(loops: int) -> float:
    """Return the seconds that two forked processes take for all tasks."""
    started = time.perf_counter()
    pids = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            for _ in range(TASKS // 2):
                spin(loops)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    return time.perf_counter() - started


def measure() -> list[Row]:
    """The rows of the table."""
    loops = calibrate()
    ratios = []
    theirs = []
    for _ in range(3):
        theirs.append(plain(loops))
        with sundog.init(num_workers=2):
            sundog.get([work.remote(loops) for _ in range(20)])
            mine = seconds(lambda: sundog.get([work.remote(loops) for _ in range(TASKS)]))
        ratios.append(theirs[-1] / mine)
    return [
        at_least("2,000 tasks of 2 ms: share of two plain processes", 0.97, statistics.median(ratios), "", ".3f"),
        info("two plain processes", f"{statistics.median(theirs):.2f} s for {TASKS * TASK_SECONDS:.0f} s of work"),
    ]
