"""The bodies of the comparison's tasks: the same functions for every engine, found by name in its workers."""

from __future__ import annotations

from typing import Any

#: What a worker has made, by size.
_made: dict[int, Any] = {}


def nothing() -> None:
    return None


def number(x: int) -> int:
    return x


def add(x: int, y: int) -> int:
    return x + y


def spin(loops: int) -> int:
    """Work that takes as long as its loops take, whatever the clock says."""
    total = 0
    for i in range(loops):
        total += i * i & 7
    return total


def experiment(engine: str, i: int, children: int) -> int:
    """Start ``children`` tasks from within this one, and return the sum of their values."""
    from benchmarks.compare.engines import ENGINES

    return sum(ENGINES[engine].inside(add, i, children))


def give(size: int) -> Any:
    """Return an array of ``size`` bytes that this worker made at its first call: the return is what costs."""
    if size not in _made:
        import numpy as np

        _made[size] = np.ones(size // 8)
    return _made[size]


def first(array: Any) -> float:
    return float(array[0])
