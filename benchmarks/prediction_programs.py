"""Ten programs whose makespan the simulator is to predict. Each runs unchanged on real processes and in virtual time.

Bodies that work do so by :func:`work`, a loop of a known length that declares how long it takes (``unit`` seconds for each of its
rounds, measured before); everything else that takes time is the engine's, and what the profile has to explain.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import sundog

#: Seconds that one round of the loop in ``work`` takes alone on this machine; set before a program runs.
unit = 25e-9
_KIB = 1024
_arrays: dict[int, Any] = {}
#: Rounds that last a millisecond are about this many.
ROUNDS_PER_MILLISECOND = 40_000


def spin(rounds: int) -> int:
    """Compute for ``rounds`` rounds."""
    total = 0
    for number in range(rounds):
        total += number
    return total


def _spinning_time(rounds: int, *_: Any) -> float:
    return rounds * unit


@sundog.remote
def empty(*_: Any) -> int:
    """Do nothing."""
    return 1


@sundog.remote
def add(left: int, right: int) -> int:
    """Return the sum."""
    return left + right


@sundog.remote(num_returns=1, duration=_spinning_time)
def work(rounds: int, *_: Any) -> int:
    """Compute."""
    return spin(rounds)


@sundog.remote
def parent(children: int) -> int:
    """Call ``children`` tasks and wait for them."""
    return sum(sundog.get([empty.remote() for _ in range(children)]))


@sundog.remote
def array(megabytes: int) -> Any:
    """Return an array of float64, made when it was first asked for: making it is no work of the engine's."""
    import numpy

    found = _arrays.get(megabytes)
    if found is None:
        found = _arrays[megabytes] = numpy.ones(megabytes << 17)
    return found


@sundog.remote
def shape_of(value: Any) -> int:
    """Look at an array without reading it."""
    return int(value.shape[0])


@sundog.remote
def split(parts: int, size: int) -> list[bytes]:
    """Return ``parts`` objects of ``size`` bytes."""
    return [bytes(size) for _ in range(parts)]


@sundog.remote
def join(*parts: bytes) -> int:
    """Return how many bytes there are."""
    return sum(map(len, parts))


def chain() -> None:
    """300 empty tasks, each with the result of the one before."""
    value = empty.remote()
    for _ in range(299):
        value = empty.remote(value)
    sundog.get(value)


def fan_out() -> None:
    """2,000 empty tasks."""
    sundog.get([empty.remote() for _ in range(2000)])


def one_by_one() -> None:
    """200 empty tasks, each fetched before the next is submitted."""
    for _ in range(200):
        sundog.get(empty.remote())


def tree() -> None:
    """A tree reduce of 256 leaves."""
    level = [empty.remote() for _ in range(256)]
    while len(level) > 1:
        level = [add.remote(level[at], level[at + 1]) for at in range(0, len(level), 2)]
    sundog.get(level[0])


def nested() -> None:
    """40 tasks that call 10 each and wait for them."""
    sundog.get([parent.remote(10) for _ in range(40)])


def even_work() -> None:
    """300 tasks of 2 ms of work."""
    sundog.get([work.remote(2 * ROUNDS_PER_MILLISECOND) for _ in range(300)])


def skewed_work() -> None:
    """200 tasks whose work is lognormal, 2 ms in the median."""
    draw = random.Random(5)
    rounds = [int(2 * ROUNDS_PER_MILLISECOND * draw.lognormvariate(0, 1)) for _ in range(200)]
    pending = [work.remote(count) for count in rounds]
    while pending:
        ready, pending = sundog.wait(pending, num_returns=1)
        sundog.get(ready)


def layers() -> None:
    """10 layers of 20 tasks of 1 ms, each with two results of the layer before."""
    draw = random.Random(6)
    level: list[Any] = [work.remote(ROUNDS_PER_MILLISECOND) for _ in range(20)]
    for _ in range(9):
        level = [work.remote(ROUNDS_PER_MILLISECOND, *draw.sample(level, 2)) for _ in range(20)]
    sundog.get(level)


def large_arrays() -> None:
    """20 arrays of 8 MB that are put, 20 that are returned, and a task that looks at each."""
    import numpy

    source = numpy.ones(1 << 20)
    arrays = [sundog.put(source) for _ in range(20)] + [array.remote(8) for _ in range(20)]
    sundog.get([shape_of.remote(value) for value in arrays])


def map_reduce() -> None:
    """20 maps with 5 parts of 64 KiB each, 5 reduces."""
    maps = [split.options(num_returns=5).remote(5, 64 * _KIB) for _ in range(20)]
    sundog.get([join.remote(*[parts[number] for parts in maps]) for number in range(5)])


#: In the order of the table.
PROGRAMS: tuple[Callable[[], None], ...] = (
    chain, fan_out, one_by_one, tree, nested, even_work, skewed_work, layers, large_arrays, map_reduce,
)  # fmt: skip
