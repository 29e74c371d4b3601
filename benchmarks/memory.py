"""What a session weighs: proportional set size of all its processes, and what references and tasks add to it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sundog
from benchmarks import processes
from benchmarks.measure import Row, at_most, info
from benchmarks.processes import family, pss

COUNT = 100_000


@sundog.remote
def nothing() -> None:
    return None


@sundog.remote
def until_exists(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.01)


@sundog.remote
def after(blocker: object) -> None:
    return None


def weights() -> tuple[int, int]:
    """Return the bytes of this process, and of all of the session."""
    found = processes.weights()
    return found["driver"], sum(found.values())


def grown(work: Callable[[], object]) -> tuple[float, float]:
    """Return by how many bytes ``work`` made this process, and the whole session, grow, for each of COUNT."""
    before = weights()
    kept = work()
    now = weights()
    del kept
    return (now[0] - before[0]) / COUNT, (now[1] - before[1]) / COUNT


def finished_references() -> list[Any]:
    """COUNT finished tasks whose IDs are kept."""
    ids = [nothing.remote() for _ in range(COUNT)]
    for start in range(0, COUNT, 10_000):
        sundog.get(ids[start : start + 10_000])
    return list(ids)


def in_flight(path: str) -> list[Any]:
    """COUNT tasks that wait for another, all known to the node."""
    blocker = until_exists.remote(path)
    ids = [after.remote(blocker) for _ in range(COUNT)]
    sundog.wait(ids, timeout=0.01)
    sundog.get(nothing.remote())
    return [blocker, *ids]


def measure() -> list[Row]:
    """The rows of the table."""
    with sundog.init(num_workers=2):
        sundog.get([nothing.remote() for _ in range(2)])
        _, idle = weights()
        parts = ", ".join(f"{name} {pss(pid) / 1e6:.0f}" for pid, name in family().items())
        sundog.get([nothing.remote() for _ in range(10_000)])
        mine, everything = grown(finished_references)
    with sundog.init(num_workers=2), tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "go")
        sundog.get([nothing.remote() for _ in range(10_000)])
        before = weights()
        ids = in_flight(path)
        flight = (weights()[1] - before[1]) / COUNT
        Path(path).touch()
        sundog.get(ids)
    return [
        at_most("memory of all processes after init, 2 workers", 60, idle / 1e6, "MB"),
        info("of these", parts),
        at_most("memory per finished reference, driver", 300, mine, "bytes"),
        at_most("memory per finished reference, all", 1000, everything, "bytes"),
        at_most("memory per task in flight, all", 1500, flight, "bytes"),
    ]
