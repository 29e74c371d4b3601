"""Measuring and showing: rows, medians, rates."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec


class Row(msgspec.Struct, frozen=True):
    """One line of the table. ``share`` is how much of the budget is reached: 1.0 and above is within it."""

    what: str
    budget: str
    measured: str
    share: float | None = None

    @property
    def verdict(self) -> str:
        """The share and whether it is enough, for people."""
        if self.share is None:
            return ""
        return f"{'ok  ' if self.share >= 1 else 'over'} {self.share:.2f}"


def at_least(what: str, budget: float, measured: float, unit: str, form: str = ",.0f") -> Row:
    """A row whose figure should be ``budget`` or more."""
    return Row(what, f"{budget:{form}} {unit}", f"{measured:{form}} {unit}", measured / budget)


def at_most(what: str, budget: float, measured: float, unit: str, form: str = ",.0f") -> Row:
    """A row whose figure should be ``budget`` or less."""
    return Row(what, f"{budget:{form}} {unit}", f"{measured:{form}} {unit}", budget / measured if measured > 0 else None)


def info(what: str, measured: str) -> Row:
    """A row without a budget."""
    return Row(what, "", measured)


@contextmanager
def quiet_gc() -> Iterator[None]:
    """Collect now and not within the block: a collection is not what is measured."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def seconds(work: Callable[[], object]) -> float:
    """Return how long ``work()`` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def rate(work: Callable[[], object], count: int, repeats: int = 5, warmups: int = 1) -> float:
    """Return the median number a second, where one call of ``work`` does ``count``."""
    for _ in range(warmups):
        work()
    times = []
    for _ in range(repeats):
        with quiet_gc():
            times.append(seconds(work))
    return count / statistics.median(times)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` of ``values`` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def show(rows: Sequence[Row], title: str) -> None:
    """Print ``rows`` as a table that Markdown reads too."""
    lines = [("what", "budget", "measured", "share")] + [(row.what, row.budget, row.measured, row.verdict) for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    print(f"\n{title}\n")
    for number, line in enumerate(lines):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
