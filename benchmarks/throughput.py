"""Empty tasks: ten thousand submitted, then fetched."""

from __future__ import annotations

from typing import Any

import sundog
from benchmarks.measure import Row, at_least, info, rate


@sundog.remote
def nothing() -> None:
    return None


def measure() -> list[Row]:
    """The rows of the table."""
    count = 10_000
    with sundog.init(num_workers=2):
        many = rate(lambda: sundog.get([nothing.remote() for _ in range(count)]), count, warmups=2)
        kept: list[Any] = []
        submit = rate(lambda: kept.extend(nothing.remote() for _ in range(count)), count, repeats=3)
        sundog.get(kept)
    return [
        at_least("empty tasks, 10,000 at a time, 2 workers", 100_000, many, "/s"),
        info("of these, .remote() alone", f"{submit:,.0f} /s"),
    ]
