"""Microseconds of computing per empty task and process. Unlike rates, these hardly change when the machine has other work."""

from __future__ import annotations

import time
from collections.abc import Callable

import sundog
from benchmarks.graphs import chain, nested
from benchmarks.measure import Row, at_least, at_most, info
from benchmarks.processes import computed_by_process
from sundog.backends.redis_server import ControlStoreError, find_server

#: Nanoseconds of computing in a twentieth of a second, of all processes together, that count as none.
QUIET = 2_000_000


@sundog.remote
def nothing() -> None:
    return None


def many(count: int = 10_000) -> None:
    """Submit and fetch ``count`` tasks."""
    sundog.get([nothing.remote() for _ in range(count)])


def one_by_one(count: int = 2_000) -> None:
    """The same, each after the last."""
    for _ in range(count):
        sundog.get(nothing.remote())


def per_task(work: Callable[[], object], count: int, rounds: int = 5) -> dict[str, float]:
    """Return {process name: microseconds} for one of ``count`` tasks of ``work``."""
    work()
    before = computed_by_process()
    for _ in range(rounds):
        work()
    after = computed_by_process()
    spent: dict[str, float] = {}
    for process, nanoseconds in after.items():  # one that has ended since is left out
        name = process[0]
        spent[name] = spent.get(name, 0.0) + (nanoseconds - before.get(process, 0)) / 1e3 / count / rounds
    return {name: figure for name, figure in spent.items() if figure > 0.05}


def text(spent: dict[str, float]) -> str:
    """Return the parts, for people."""
    return ", ".join(f"{name} {figure:.1f}" for name, figure in spent.items())


def settle() -> None:
    """Wait until the processes of a session that has just begun have loaded what they need, and are idle."""
    before: dict[tuple[str, int], int] = {}
    for _ in range(100):
        now = computed_by_process()
        if before and sum(now.values()) - sum(before.values()) < QUIET:
            return
        before = now
        time.sleep(0.05)


def with_and_without_redis(pairs: int = 5) -> tuple[list[float], dict[str, float]]:
    """Alternate sessions without and with Redis; return the share of each pair, and the CPU of the last one with it."""
    shares = []
    with_redis: dict[str, float] = {}
    for _ in range(pairs):
        with sundog.init(num_workers=2):
            settle()
            without = per_task(many, 10_000, rounds=3)
        with sundog.init(num_workers=2, redis=True):
            settle()  # what loading redis-py takes is no part of a task
            with_redis = per_task(many, 10_000, rounds=3)
        shares.append(sum(without.values()) / sum(with_redis.values()))
    return shares, with_redis


def measure() -> list[Row]:
    """The rows of the table."""
    rows = []
    with sundog.init(num_workers=2):
        spent = per_task(many, 10_000)
        rows.append(at_most("CPU of an empty task, all processes", 20, sum(spent.values()), "us", ".1f"))
        rows.append(info("of these, in us", text(spent)))
        for what, work, count in (
            ("chain of 1,000", chain, 1000),
            ("nested 200 x 10", nested, 2200),
            ("one after the other", one_by_one, 2000),
        ):
            rows.append(info(f"CPU of a task, {what}, in us", text(per_task(work, count))))
    try:
        find_server()
    except ControlStoreError:
        return rows
    shares, with_redis = with_and_without_redis()
    share = sorted(shares)[len(shares) // 2]
    rows.append(at_least("control store in Redis: share of throughput kept, by CPU", 0.90, share, "", ".2f"))
    rows.append(
        info("of these, in us; shares of all pairs", f"{text(with_redis)}; {', '.join(f'{s:.2f}' for s in sorted(shares))}")
    )
    return rows
