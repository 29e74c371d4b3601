"""Objects: small ones put and got, large ones against memcpy."""

from __future__ import annotations

import mmap
import statistics
from typing import Any

import numpy as np

import sundog
from benchmarks.measure import Row, at_least, at_most, info, quiet_gc, rate, seconds

GIGABYTE = 1_000_000_000
SMALL = b"x" * 1000


@sundog.remote
def make(size: int) -> Any:
    return np.ones(size // 8)


@sundog.remote
def same(value: Any) -> Any:
    return value


#: What a worker has made, by size.
made: dict[int, Any] = {}


@sundog.remote
def give(size: int) -> Any:
    if size not in made:
        made[size] = np.ones(size // 8)
    return made[size]


@sundog.remote
def first(array: Any) -> float:
    return float(array[0])


def _memcpy_target() -> Any:
    """A warm shared mapping of a gigabyte, as numpy sees it."""
    return np.frombuffer(mmap.mmap(-1, GIGABYTE), dtype=np.float64)


def small() -> list[Row]:
    """Put and get of 1 kB."""
    count = 2000
    with sundog.init(num_workers=2):
        kept: list[Any] = []
        put = rate(lambda: kept.extend([sundog.put(SMALL) for _ in range(count)]), count)
        batch = kept[:count]
        get = rate(lambda: [sundog.get(one) for one in batch], count)
    return [at_least("put of 1 kB", 20_000, put, "/s"), at_least("get of 1 kB, one by one", 50_000, get, "/s")]


def results() -> list[Row]:
    """The results of 10,000 tasks: all in one call, once and again, and one by one."""
    count = 10_000
    once: list[float] = []
    single: list[float] = []
    with sundog.init(num_workers=2):
        for times, work in [(once, sundog.get), (single, lambda ids: [sundog.get(one) for one in ids])] * 4:
            ids = [same.remote(number) for number in range(count)]
            sundog.wait([same.options(priority=-1).remote(0)])  # after all others
            with quiet_gc():
                times.append(seconds(lambda work=work, ids=ids: work(ids)))  # type: ignore[misc]
        sundog.wait(ids, num_returns=count)
        again = rate(lambda: sundog.get(ids), count)
    figures = [count / statistics.median(times[1:]) for times in (once, single)]
    return [
        info("get of 10,000 results, in a list; after wait", f"{figures[0]:,.0f} /s; {again:,.0f} /s"),
        info("the same, one by one", f"{figures[1]:,.0f} /s"),
    ]


def returned() -> list[Row]:
    """A task's return of 100 MB, and a task that reads 100 MB by ID.

    The copy into the store is what is measured, against a plain copy of as much; making the array costs more than that, because
    numpy takes its memory fresh from the system each time.
    """
    size = 100_000_000
    source = np.ones(size // 8)
    target = np.frombuffer(mmap.mmap(-1, size), dtype=np.float64)
    given: list[float] = []
    copied: list[float] = []
    with sundog.init(num_workers=2):
        for number in range(13):
            took = seconds(lambda: sundog.get(give.remote(size))), seconds(lambda: np.copyto(target, source))
            if number > 3:
                given.append(took[0])
                copied.append(took[1])
        making = rate(lambda: sundog.get(make.remote(size)), size, repeats=9, warmups=4)
        alone = rate(lambda: np.ones(size // 8), size, repeats=9, warmups=4)
        argument = sundog.put(np.ones(size // 8))
        tasks = rate(lambda: sundog.get([first.remote(argument) for _ in range(200)]), 200, warmups=2)
    ratio = statistics.median(one / other for one, other in zip(copied, given, strict=True))
    return [
        at_least("return of 100 MB", 8, size / statistics.median(given) / 1e9, "GB/s", ".1f"),
        info("the same: share of memcpy, one thread", f"{ratio:.2f}"),
        info("return of 100 MB, made by the task; making it alone", f"{making / 1e9:.1f} GB/s; {alone / 1e9:.1f} GB/s"),
        info("task on a 100 MB array by ID", f"{tasks:,.0f} /s"),
    ]


def large() -> list[Row]:
    """Put of 1 GB in steady state against memcpy, and get of it."""
    source = np.ones(GIGABYTE // 8)
    target = _memcpy_target()
    first_copy = seconds(lambda: np.copyto(target, source))
    ratios = []
    rates = []
    with sundog.init(num_workers=2):
        first_put = seconds(lambda: sundog.put(source))
        for _ in range(2):
            sundog.put(source)
            np.copyto(target, source)
        with quiet_gc():
            for _ in range(5):
                copied = seconds(lambda: np.copyto(target, source))
                took = seconds(lambda: sundog.put(source))
                ratios.append(copied / took)
                rates.append(GIGABYTE / took / 1e9)
            object_id = sundog.put(source)
            got = statistics.median(seconds(lambda: sundog.get(object_id)) for _ in range(100))
    return [
        at_least("put of 1 GB, steady: share of memcpy, one thread", 0.90, statistics.median(ratios), "", ".2f"),
        info("the same, absolutely", f"{statistics.median(rates):.1f} GB/s"),
        info(
            "first put of 1 GB; memcpy into fresh shared memory",
            f"{GIGABYTE / first_put / 1e9:.1f} GB/s; {GIGABYTE / first_copy / 1e9:.1f} GB/s",
        ),
        at_most("get of 1 GB again", 30, 1e6 * got, "us"),
    ]


def measure() -> list[Row]:
    """The rows of the table."""
    return small() + results() + returned() + large()
