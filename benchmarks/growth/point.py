"""One point of a curve: how much a session did, how long it took, how long its processes computed, what it weighs."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from benchmarks import processes
from benchmarks.processes import computed_by_process


class Point(msgspec.Struct):
    """``items`` were done at ``size``, in ``wall`` seconds, with ``cpu`` seconds of computing by kind of process.

    ``weight``: bytes by kind of process that were there because of the size, or empty where that was not asked; ``heavy`` of
    them are counted. Kinds are "driver", "node", "zygote" and "worker".
    """

    curve: str
    size: int
    items: int
    wall: float = 0.0
    cpu: dict[str, float] = {}
    weight: dict[str, int] = {}
    heavy: int = 0

    @property
    def wall_each(self) -> float:
        """Microseconds for one item, by the clock."""
        return self.wall / self.items * 1e6

    @property
    def cpu_each(self) -> float:
        """Microseconds of computing for one item, in all processes."""
        return sum(self.cpu.values()) / self.items * 1e6

    @property
    def bytes_each(self) -> float | None:
        """Bytes for one of ``heavy`` items, in all processes; None where it was not asked."""
        return sum(self.weight.values()) / self.heavy if self.heavy else None


@contextmanager
def measured(point: Point) -> Iterator[None]:
    """Add to ``point`` what the block takes; a process that ends in it is not counted."""
    before = computed_by_process()
    began, mine = time.perf_counter(), time.process_time()
    yield
    spent = {"driver": time.process_time() - mine}  # before the look at the others, which costs more than a task
    point.wall += time.perf_counter() - began
    for process, nanoseconds in computed_by_process().items():
        kind = process[0]
        if kind != "driver":
            spent[kind] = spent.get(kind, 0.0) + (nanoseconds - before.get(process, 0)) / 1e9
    for kind, seconds in spent.items():
        point.cpu[kind] = point.cpu.get(kind, 0.0) + seconds


def weights() -> dict[str, int]:
    """Return the proportional set size of the session by kind of process, in bytes, without what only waits to be collected."""
    gc.collect()
    return processes.weights()


def grown(before: dict[str, int]) -> dict[str, int]:
    """Return what was added to ``before`` since."""
    return {kind: size - before.get(kind, 0) for kind, size in weights().items()}
