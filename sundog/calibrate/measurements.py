"""What is measured, by running workloads on real processes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import msgspec

import sundog
from sundog.backends.serialization import pack
from sundog.calibrate import workloads
from sundog.calibrate.computing import Computed, computed
from sundog.core.units import SECOND, Nanos

#: Of the session for most workloads.
WORKERS = 2
#: That wait, together: how many lie behind one of them is part of what is measured.
PARENTS = 60
#: How often that is done before it counts: workers that start compute, too.
_WARMING = 3
#: Of one array, which is copied by one thread; so many are written in a row.
_LARGE_BYTES = 12_000_000
_LARGE = 6
#: An argument that travels inline; it passes the node twice, in and out.
_INLINE_BYTES = 64 << 10
_PASSES = 2


class Measurements(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured. Nanoseconds for one, computing time where not said otherwise."""

    #: One task after the other, submitted and fetched, on the clock.
    round_trip: Nanos
    #: A task among thousands.
    task: Computed
    #: Of that in the driver, before anything is fetched.
    submit: Nanos
    #: In the node: a small put among many.
    put_node: Nanos
    #: Tasks one after the other.
    lone_task: Computed
    #: A task whose result comes by itself, while others are waited for.
    spread_task: Computed
    #: Two tasks, one with the result of the other.
    pair: Computed
    #: Two tasks, one of which waits for the other; and so many of these that each takes tasks back from its worker's pipeline.
    lone_parent: Computed
    parent: Computed
    #: What the first nested call costs more than later ones, on the clock.
    worker_start: Nanos
    #: A loop's computing time, alone and while every core runs one.
    alone: Nanos
    crowded: Nanos
    #: Bytes a second; ``carried``: inline, into the node or out of it.
    carried: int
    serialized: int
    copied: int
    #: Into pages that another process has written.
    copied_unmapped: int
    copied_fresh: int


def measure(repeats: int = 7) -> Measurements:
    """Start sessions on this machine and measure; the medians of ``repeats``.

    Raises RuntimeError if there is a session already, OSError where the system does not tell computing times (not on Linux).
    """
    worker_start = statistics.median(_worker_start() for _ in range(3))
    found: dict[str, list[Computed]] = {}
    round_trips: list[float] = []

    def count(name: str, work: Callable[[int], object], times: int) -> None:
        workloads.settle()
        found.setdefault(name, []).append(computed(lambda: work(times)).over(times))
        workloads.kept.clear()

    with sundog.init(num_workers=WORKERS):
        workloads.tasks(2000)
        for _ in range(repeats):
            count("tasks", workloads.tasks, 5000)
            count("submissions", workloads.submissions, 2000)
            count("puts", workloads.puts, 4000)
            count("lone", lambda times: round_trips.append(_clock(lambda: workloads.one_by_one(times)) / times), 500)
            count("spread", workloads.spread, 200)
            count("pairs", workloads.pairs, 1500)
            count("small", lambda times: workloads.carry(b"", times), 100)
            count("large", lambda times: workloads.carry(bytes(_INLINE_BYTES), times), 100)
    for name, work in (("lone_parents", workloads.lone_parents), ("parents", workloads.parents)):
        with sundog.init(num_workers=WORKERS):  # each by itself, as those who wait have more workers started
            for _ in range(_WARMING):
                work(PARENTS)
            for _ in range(repeats):
                count(name, work, PARENTS)
    copies = [_copies() for _ in range(min(3, repeats))]
    alone, crowded = _loops(repeats)
    middle = {name: _median(all_of_it) for name, all_of_it in found.items()}
    return Measurements(
        round_trip=int(statistics.median(round_trips)),
        task=middle["tasks"],
        submit=middle["submissions"].driver,
        put_node=middle["puts"].node,
        lone_task=middle["lone"],
        spread_task=middle["spread"],
        pair=middle["pairs"],
        lone_parent=middle["lone_parents"],
        parent=middle["parents"],
        worker_start=int(worker_start),
        alone=alone,
        crowded=crowded,
        carried=_rate(_PASSES * _INLINE_BYTES, max(0, middle["large"].node - middle["small"].node)),
        serialized=_serialized(repeats),
        copied=int(statistics.median([one[0] for one in copies])),
        copied_unmapped=int(statistics.median([one[1] for one in copies])),
        copied_fresh=int(statistics.median([one[2] for one in copies])),
    )


def medians(measured: Sequence[Measurements]) -> Measurements:
    """Return the median of each figure of several measurements."""

    def median(values: list[int | Computed]) -> int | Computed:
        found = [value for value in values if isinstance(value, Computed)]
        return _median(found) if found else int(statistics.median([value for value in values if isinstance(value, int)]))

    return Measurements(**{name: median([getattr(one, name) for one in measured]) for name in Measurements.__struct_fields__})  # type: ignore[arg-type]


def _median(measured: list[Computed]) -> Computed:
    """Return the median of each kind of process."""
    return Computed(*(int(statistics.median([getattr(one, kind) for one in measured])) for kind in Computed.__struct_fields__))


def _worker_start() -> float:
    """Return what a nested call costs more when no second worker is there yet."""
    with sundog.init(num_workers=1):
        sundog.get(workloads.nothing.remote())
        first = _clock(lambda: sundog.get(workloads.parent.remote()))
        later = min(_clock(lambda: sundog.get(workloads.parent.remote())) for _ in range(5))
    return max(0.0, first - later)


def _loops(repeats: int) -> tuple[int, int]:
    """Return how long a loop computes, alone and while every core runs one."""
    with sundog.init():
        cores = sundog.cluster_resources()["CPU"]
        _together(int(cores))
        alone = [_together(1) for _ in range(10 * repeats)]
        crowded = [_together(int(cores)) for _ in range(10 * repeats)]
    return int(statistics.median(alone)), int(statistics.median(crowded))


def _together(count: int) -> float:
    return statistics.mean(sundog.get([workloads.loop.remote() for _ in range(count)]))


def _copies() -> tuple[int, int, int]:
    """Return bytes a second of large puts: into pages written before, by this process or by a worker alone, and into fresh ones."""
    import numpy as np

    source = np.ones(_LARGE_BYTES // 8)
    with sundog.init(num_workers=1):
        unmapped = _puts(source, lambda: sundog.wait(_let_go([workloads.zeros.remote(_LARGE_BYTES) for _ in range(_LARGE)])))
        mapped = [_puts(source) for _ in range(3)]
    with sundog.init(num_workers=1):
        fresh = _puts(source)
    return _copied(statistics.median(mapped)), _copied(unmapped), _copied(fresh)


def _let_go(references: list[sundog.ObjectRef[bytes]]) -> list[sundog.ObjectRef[None]]:
    """Wait until all are there, and let go of them."""
    sundog.wait(references, num_returns=len(references))
    references.clear()
    return [workloads.nothing.remote()]


def _puts(source: object, before: Callable[[], object] = workloads.settle) -> float:
    """Return how long some large puts compute."""
    before()
    workloads.settle()
    taken = _computing(lambda: workloads.kept.extend([sundog.put(source) for _ in range(_LARGE)]))
    workloads.kept.clear()
    return taken


def _copied(span: float) -> int:
    return _rate(_LARGE * _LARGE_BYTES, span)


def _serialized(repeats: int) -> int:
    """Return bytes a second of plain data through pickle."""
    value = [{"name": f"row {number}", "value": number * 0.5, "tags": (number, "a", None)} for number in range(20_000)]
    size = pack(None, value).size
    return _rate(size, statistics.median(_computing(lambda: pack(None, value)) for _ in range(repeats)))


def _rate(size: int, span: float) -> int:
    return max(1, int(size * SECOND / max(1.0, span)))


def _clock(work: Callable[[], object]) -> float:
    started = time.perf_counter_ns()
    work()
    return float(time.perf_counter_ns() - started)


def _computing(work: Callable[[], object]) -> float:
    """Return how long this process computes."""
    started = time.process_time_ns()
    work()
    return float(time.process_time_ns() - started)
