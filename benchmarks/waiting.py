"""``wait`` for one of a thousand, again and again; and getting each as it comes."""

from __future__ import annotations

import statistics

import sundog
from benchmarks.measure import Row, at_least, info, quiet_gc, seconds


@sundog.remote
def nothing() -> None:
    return None


def drain(count: int = 1000, *, get: bool = False) -> float:
    """Return the seconds per ``wait`` for the next of ``count`` IDs, until none is left; ``get``: with getting it."""
    pending = [nothing.remote() for _ in range(count)]

    def loop() -> None:
        left = pending
        while left:
            ready, left = sundog.wait(left)
            if get:
                sundog.get(ready[0])

    return seconds(loop) / count


def measure() -> list[Row]:
    """The rows of the table."""
    with sundog.init(num_workers=2):
        drain()
        with quiet_gc():
            took = statistics.median(drain() for _ in range(7))
            both = statistics.median(drain(get=True) for _ in range(7))
    return [at_least("wait for 1 of 1,000, repeated", 20_000, 1 / took, "/s"), info("the same, each got", f"{1 / both:,.0f} /s")]
