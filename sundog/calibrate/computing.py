"""How long the processes of a session compute: the driver, the node, the workers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec


class Computed(msgspec.Struct, frozen=True):
    """Nanoseconds of computing, by kind of process."""

    driver: int
    node: int
    workers: int

    @property
    def total(self) -> int:
        """Of all together."""
        return self.driver + self.node + self.workers

    def over(self, count: int) -> Computed:
        """Return what is one's of ``count``."""
        return Computed(self.driver // count, self.node // count, self.workers // count)


def computed(work: Callable[[], object]) -> Computed:
    """Return what this process and those of its session compute while ``work()`` runs; looking is not counted.

    Raises OSError where the system does not tell (not on Linux).
    """
    nodes, workers = _others()
    began = time.process_time_ns()  # exact, while what the system keeps for others to see lags behind by up to its clock's tick
    work()
    driver = time.process_time_ns() - began
    nodes_after, workers_after = _others()
    return Computed(driver, _more(nodes_after, nodes), _more(workers_after, workers))


def _more(after: dict[int, int], before: dict[int, int]) -> int:
    return sum([spent - before.get(pid, 0) for pid, spent in after.items()])


def _others() -> tuple[dict[int, int], dict[int, int]]:
    """Return {pid: nanoseconds on a core so far} of the nodes of this process, and of their workers."""
    if not Path("/proc/self/schedstat").exists():
        raise OSError("computing times of other processes are in /proc/PID/schedstat, which this system does not have")
    nodes: dict[int, int] = {}
    workers: dict[int, int] = {}
    for child in _children(os.getpid()):
        nodes[child] = _on_core(child)
        for zygote in _children(child):
            for worker in _children(zygote):
                workers[worker] = _on_core(worker)
    return nodes, workers


def _children(pid: int) -> Iterator[int]:
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            yield from map(int, (thread / "children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        return


def _on_core(pid: int) -> int:
    total = 0
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            total += int((thread / "schedstat").read_text().split()[0])
    except (FileNotFoundError, ProcessLookupError):
        pass
    return total
