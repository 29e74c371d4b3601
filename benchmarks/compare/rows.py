"""The comparison's rows, and what is computed from blocks: orders, medians, ratios. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import msgspec

#: What one peer found in one block: row -> number, or the reason why there is none.
Found = dict[str, float | str]
#: One block: peer -> what it found.
Block = dict[str, Found]

BASE = "sundog"


class Row(msgspec.Struct, frozen=True):
    """One line of the table. Numbers are seconds, bytes, bytes a second or things a second; ``scale`` and ``unit`` show them."""

    key: str
    what: str
    unit: str
    scale: float = 1.0
    form: str = ",.0f"
    work: str = ""  # the work that yields it, where the name differs
    less: bool = False  # less is better

    def show(self, value: float) -> str:
        """Return ``value`` for people."""
        return f"{value * self.scale:{self.form}}{self.unit}"


ROWS = (
    Row("start", "init to first result", " ms", 1e3, less=True),
    Row("import", "import", " ms", 1e3, less=True),
    Row("memory", "memory of all processes after init, 2 workers", " MB", 1e-6, less=True),
    Row("round_trip", "one empty task, submit + get, p50", " ms", 1e3, ",.2f", less=True),
    Row("round_trip_p99", "the same, p99", " ms", 1e3, ",.2f", "round_trip", less=True),
    Row("many", "{tasks:,} empty tasks, submit, then get", " /s"),
    Row("bulk", "{tasks:,} calls in the engine's bulk form", " /s"),
    Row("chain", "dependency chain of {chain:,}", " /s"),
    Row("tree", "tree reduce of {leaves:,} leaves", " /s"),
    Row("nested", "nested {parents:,} x 10", " /s"),
    Row("put_small", "put of 1 kB", " /s", work="small"),
    Row("get_small", "get of 1 kB, one by one", " /s", work="small"),
    Row("put_large_first", "put of {large_MB:,} MB of float64, the first", " GB/s", 1e-9, ",.2f", "large"),
    Row("put_large", "the same, steady", " GB/s", 1e-9, ",.2f", "large"),
    Row("get_large", "get of it again", " us", 1e6, work="large", less=True),
    Row("argument", "tasks on a {array_MB:,} MB array by ID", " /s"),
    Row("returned", "return of {array_MB:,} MB", " GB/s", 1e-9, ",.2f"),
    Row("wait", "`wait` for 1 of {waits:,}, repeated", " /s", work="waiting"),
    Row("busy", "{busy:,} tasks of 2 ms, share of two plain processes", "", form=".3f"),
    Row("reference", "memory per finished reference, driver", " bytes", work="references", less=True),
    Row("reference_all", "the same, all processes", " bytes", work="references", less=True),
)
ROW = {row.key: row for row in ROWS}


def rows_of(work: str) -> list[str]:
    """Return the keys of the rows that ``work`` yields."""
    return [row.key for row in ROWS if (row.work or row.key) == work]


def order(peers: Sequence[str], block: int) -> list[str]:
    """Return ``peers`` in the order of block number ``block``: each comes first, second, ... equally often."""
    first = block % len(peers) if peers else 0
    return [*peers[first:], *peers[:first]]


class Ratio(msgspec.Struct, frozen=True):
    """How many times better the base was: the median of the blocks' ratios, and the least and the greatest of them."""

    median: float
    least: float
    most: float

    @property
    def behind(self) -> bool:
        """Whether the peer is ahead of the base."""
        return self.median < 1

    @property
    def sure(self) -> bool:
        """Whether all blocks agree on who is ahead."""
        return self.least > 1 or self.most < 1


def numbers(blocks: Sequence[Block], peer: str, key: str) -> list[float]:
    """Return the numbers that ``peer`` has for a row, of the blocks that have one."""
    values = [block.get(peer, {}).get(key) for block in blocks]
    return [value for value in values if isinstance(value, int | float)]


def median(blocks: Sequence[Block], peer: str, key: str) -> float | None:
    """Return the median over blocks, or None without a number."""
    found = numbers(blocks, peer, key)
    return statistics.median(found) if found else None


def reason(blocks: Sequence[Block], peer: str, key: str) -> str:
    """Return why ``peer`` has no number in a row."""
    for block in blocks:
        value = block.get(peer, {}).get(key)
        if isinstance(value, str):
            return value
    return "not measured"


def ratio(blocks: Sequence[Block], peer: str, row: Row) -> Ratio | None:
    """Return how many times better BASE is than ``peer``, block by block, or None where no block has both above zero.

    Rates are divided base by peer, times and sizes peer by base, so that above 1 always says that the base is ahead.
    """
    ratios = []
    for block in blocks:
        mine, theirs = block.get(BASE, {}).get(row.key), block.get(peer, {}).get(row.key)
        if isinstance(mine, int | float) and isinstance(theirs, int | float) and mine > 0 and theirs > 0:
            ratios.append(theirs / mine if row.less else mine / theirs)
    if not ratios:
        return None
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def another(elapsed: Sequence[float], spent: float, allowed: float) -> bool:
    """Return whether one more block fits: blocks took ``elapsed`` seconds, ``spent`` of ``allowed`` are gone."""
    return not elapsed or spent + max(elapsed) <= allowed


def titled(row: Row, size: Mapping[str, int]) -> str:
    """Return what the row is about, with the counts of this run."""
    megabytes = {f"{name}_MB": count // 1_000_000 for name, count in size.items()}
    return row.what.format(**size, **megabytes)
