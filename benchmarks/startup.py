"""From nothing to the first result, and what the import costs."""

from __future__ import annotations

import statistics
import subprocess
import sys

import sundog
from benchmarks.measure import Row, at_most, info, seconds


@sundog.remote
def nothing() -> None:
    return None


def first_result() -> None:
    """Start a session, run one task, get its value."""
    sundog.init(num_workers=2)
    sundog.get(nothing.remote())


IMPORT = "import time; t = time.perf_counter(); import sundog; print(time.perf_counter() - t)"


def measure() -> list[Row]:
    """The rows of the table."""
    starts = []
    stops = []
    for _ in range(7):
        starts.append(seconds(first_result))
        stops.append(seconds(sundog.shutdown))
    imports = [float(subprocess.check_output([sys.executable, "-c", IMPORT])) for _ in range(9)]
    return [
        at_most("init to first result", 150, 1e3 * statistics.median(starts), "ms"),
        at_most("import sundog", 60, 1e3 * statistics.median(imports), "ms"),
        info("shutdown", f"{1e3 * statistics.median(stops):.0f} ms"),
    ]
