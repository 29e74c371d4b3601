"""From nothing to the first result, and what the import costs. With compiled modules, as users have them."""

from __future__ import annotations

import os
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


#: In a user's environment, where what sundog depends on finds none of a developer's packages to import beside it.
BARE = "import sys; sys.modules['typing_extensions'] = None; "
IMPORT = "import time; t = time.perf_counter(); import sundog; sundog.remote, sundog.get; print(time.perf_counter() - t)"


def bare() -> None:
    """Start an interpreter that does nothing: what a process costs before sundog does."""
    subprocess.run([sys.executable, "-c", "pass"], check=True)


def measure() -> list[Row]:
    """The rows of the table."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    seconds(first_result)
    seconds(sundog.shutdown)
    starts, stops, interpreters = [], [], []
    for _ in range(7):
        starts.append(seconds(first_result))
        stops.append(seconds(sundog.shutdown))
        interpreters.append(seconds(bare))
    imports, ours = [], []
    for _ in range(9):
        imports.append(float(subprocess.check_output([sys.executable, "-c", BARE + IMPORT])))
        ours.append(float(subprocess.check_output([sys.executable, "-c", IMPORT])))
    ratio = statistics.median(one / other for one, other in zip(starts, interpreters, strict=True))
    return [
        at_most("init to first result", 150, 1e3 * statistics.median(starts), "ms"),
        info("the same: times a bare interpreter", f"{ratio:.1f} ({1e3 * statistics.median(interpreters):.0f} ms)"),
        at_most("import sundog, and what a program uses of it", 60, 1e3 * statistics.median(imports), "ms"),
        info("the same beside a developer's packages", f"{1e3 * statistics.median(ours):.0f} ms"),
        info("shutdown", f"{1e3 * statistics.median(stops):.0f} ms"),
    ]
