"""Tasks that depend on tasks: a chain, a tree, and tasks that start tasks."""

from __future__ import annotations

import sundog
from benchmarks.measure import Row, at_least, rate


@sundog.remote
def add_one(x: int) -> int:
    return x + 1


@sundog.remote
def add(x: int, y: int) -> int:
    return x + y


@sundog.remote
def number(x: int) -> int:
    return x


@sundog.remote
def experiment(i: int) -> int:
    return sum(sundog.get([add.remote(i, j) for j in range(10)]))


def chain(length: int = 1000) -> None:
    """Each task waits for the one before."""
    value = add_one.remote(0)
    for _ in range(length - 1):
        value = add_one.remote(value)
    assert sundog.get(value) == length


def tree(leaves: int = 100) -> None:
    """Fold ``leaves`` values pairwise: 2 * leaves - 1 tasks."""
    layer = [number.remote(i) for i in range(leaves)]
    while len(layer) > 1:
        layer.append(add.remote(layer.pop(0), layer.pop(0)))
    assert sundog.get(layer[0]) == sum(range(leaves))


def nested(parents: int = 200) -> None:
    """Every parent starts ten children and waits for them."""
    results = sundog.get([experiment.remote(i) for i in range(parents)])
    assert results == [10 * i + 45 for i in range(parents)]


def measure() -> list[Row]:
    """The rows of the table."""
    with sundog.init(num_workers=2):
        return [
            at_least("dependency chain of 1,000", 15_000, rate(chain, 1000, repeats=7), "/s"),
            at_least("nested 200 x 10", 10_000, rate(nested, 2200, repeats=5), "/s"),
            at_least("tree reduce of 100 leaves", 15_000, rate(tree, 199, repeats=25, warmups=3), "/s"),
        ]
