"""What the control store in Redis costs: 10,000 empty tasks with it and without, in alternation."""

from __future__ import annotations

import statistics

import sundog
from benchmarks.measure import Row, at_least, info, quiet_gc, seconds
from sundog.backends.redis_server import ControlStoreError, find_server


@sundog.remote
def nothing() -> None:
    return None


def once(redis: bool, rounds: int = 5, count: int = 10_000) -> float:
    """Return the tasks a second of one session."""
    with sundog.init(num_workers=2, redis=redis):
        for _ in range(2):
            sundog.get([nothing.remote() for _ in range(count)])
        with quiet_gc():
            took = [seconds(lambda: sundog.get([nothing.remote() for _ in range(count)])) for _ in range(rounds)]
    return count / statistics.median(took)


def measure() -> list[Row]:
    """The rows of the table."""
    try:
        find_server()
    except ControlStoreError:
        return [info("control store in Redis", "no server on this machine")]
    ratios = [1 / (once(False) / once(True)) for _ in range(4)]
    return [at_least("control store in Redis: share of throughput kept", 0.90, statistics.median(ratios), "", ".2f")]
