"""What grows: each function measures one point of its curves, in a session of its own."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

import sundog
from benchmarks.growth.point import Point, grown, measured, weights

#: What a session does before anything is measured.
_WARM_UP = 2_000
#: Small sizes are repeated until this many items are done, but not too often: looking at all processes takes its time.
_ITEMS_MIN = 30_000
_ROUNDS_MAX = 30
#: Weights below this size are lost in the noise of allocators.
_HEAVY_MIN = 30_000
#: And below this depth, where the first worker counts.
_DEEP_MIN = 10
_WORKERS = 2


class Curve(msgspec.Struct, frozen=True):
    """``what`` grows along the axis; costs are those of one ``item``; ``ceiling``: the exponent that the total may have.

    ``upper``: the exponent that counts is that of so many of the largest sizes. ``proportional``: there are as many items as
    the size says; otherwise their number is fixed. ``note``: for the document.
    """

    what: str
    item: str
    ceiling: float = 1.1
    upper: int = 3
    proportional: bool = True
    note: str = ""


CURVES = {
    "tasks in flight": Curve("tasks submitted and unfinished", "task", upper=4),
    "objects: put": Curve("objects alive", "put", upper=4),
    "objects: get": Curve(
        "objects alive",
        "get",
        note="A driver knows the values that it put last (`known_bytes_max`); beyond those it asks the node.",
    ),
    "workers: start": Curve("workers", "worker"),
    "workers: tasks": Curve(
        "workers, 10,000 empty tasks",
        "task",
        proportional=False,
        note="Tasks are spread evenly, as if each worker had a core of its own. Where there are fewer cores, what comes in at a\n"
        "time gives each of many workers one task or two to wake up for, with cold caches.",
    ),
    "nesting": Curve(
        "depth, on one worker",
        "level",
        note="Each level is a worker process of its own: to fork it, and the pages that it makes its own.",
    ),
    "arguments": Curve("IDs that one task takes", "argument"),
    "fan-in": Curve("unfinished tasks whose results one task takes", "task"),
    "fan-out": Curve("tasks that wait for one object", "task"),
}


@sundog.remote
def nothing() -> None:
    return None


@sundog.remote
def held(path: str, number: int = 0) -> None:
    """End when the gate opens, without using a core until then; say that it waits."""
    with open(path) as file:
        Path(f"{path}.{number}").touch()
        fcntl.flock(file, fcntl.LOCK_SH)


@sundog.remote(num_cpus=0)
def echo() -> None:
    """Ends when everything that was submitted before it has reached the node."""


@sundog.remote
def after(argument: object) -> None:
    return None


@sundog.remote
def count(*arguments: object) -> int:
    return len(arguments)


@sundog.remote
def level(depth: int) -> int:
    return 1 + sundog.get(level.remote(depth - 1)) if depth > 1 else 1


@contextmanager
def session(workers: int = _WORKERS, **settings: Any) -> Iterator[None]:
    """A session that has done everything once."""
    with sundog.init(num_workers=workers, **settings):
        sundog.get([nothing.remote() for _ in range(_WARM_UP)])
        sundog.get([echo.remote(), after.remote(sundog.put(1)), count.remote(1)])
        yield


class Gate:
    """A locked file that bodies wait for."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._file = path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def holds(self, count: int) -> None:
        """Wait until ``count`` bodies wait here."""
        while len(os.listdir(os.path.dirname(self.path))) <= count:
            time.sleep(0.002)

    def open(self) -> None:
        """Let everybody go on."""
        self._file.close()


@contextmanager
def gate() -> Iterator[Gate]:
    """A gate that is closed."""
    with tempfile.TemporaryDirectory() as folder:
        made = Gate(Path(folder) / "gate")
        yield made
        made.open()


def rounds_of(size: int) -> int:
    """Return how often a point of ``size`` is repeated."""
    return max(1, min(_ROUNDS_MAX, _ITEMS_MIN // size))


def tasks_in_flight(size: int) -> list[Point]:
    """Submit while every worker is held; weigh; let go, and get all results. Waiting for the opened gate is part of it."""
    point = Point("tasks in flight", size, size * rounds_of(size))
    with session():
        for number in range(rounds_of(size)):
            first = number == 0  # later ones find memory that is there already
            with gate() as closed:
                busy = [held.remote(closed.path, worker) for worker in range(_WORKERS)]
                closed.holds(_WORKERS)
                before = weights() if first and size >= _HEAVY_MIN else {}
                with measured(point):
                    ids = [nothing.remote() for _ in range(size)]
                    sundog.get(echo.remote())
                if before:
                    point.weight, point.heavy = grown(before), size
                closed.open()
                sundog.get(busy)
                with measured(point):
                    sundog.get(ids)
                del ids, busy
    return [point]


def objects_alive(size: int) -> list[Point]:
    """Put small values and hold them; then get them all, 10,000 at a time."""
    rounds = rounds_of(size)
    put, get = Point("objects: put", size, size * rounds), Point("objects: get", size, size * rounds)
    with session():
        for number in range(rounds):
            before = weights() if number == 0 and size >= _HEAVY_MIN else {}
            with measured(put):
                ids = [sundog.put(number) for number in range(size)]
                sundog.get(echo.remote())
            if before:
                put.weight, put.heavy = grown(before), size
            with measured(get):
                for start in range(0, size, 10_000):
                    part = ids[start : start + 10_000]
                    assert sundog.get(part) == list(range(start, start + len(part)))
            del ids, part
    return [put, get]


def workers(size: int) -> list[Point]:
    """Start a session, to the first result of every worker; then 10,000 empty tasks."""
    start, tasks = Point("workers: start", size, size), Point("workers: tasks", size, 10_000)
    before = weights()
    with measured(start):
        context = sundog.init(num_workers=size)
        with gate() as closed:  # nobody gets a second task before all have a first one
            ids = [held.remote(closed.path, worker) for worker in range(size)]
            closed.holds(size)
            closed.open()
            sundog.get(ids)
    with context:
        start.weight, start.heavy = grown(before), size
        sundog.get([nothing.remote() for _ in range(_WARM_UP)])
        with measured(tasks):
            sundog.get([nothing.remote() for _ in range(tasks.items)])
    return [start, tasks]


def nesting(size: int) -> list[Point]:
    """Each task starts one and waits for it, on one worker: the pool grows to ``size`` processes."""
    point = Point("nesting", size, size)
    with session(workers=1):
        before = weights()
        with measured(point):
            assert sundog.get(level.remote(size)) == size
        if size >= _DEEP_MIN:
            point.weight, point.heavy = grown(before), size
    return [point]


def arguments(size: int) -> list[Point]:
    """One task after the other takes ``size`` IDs of small objects."""
    rounds = rounds_of(size)
    point = Point("arguments", size, size * rounds)
    with session():
        ids = [sundog.put(number) for number in range(size)]
        sundog.get(count.remote(*ids))
        with measured(point):
            assert sundog.get([count.remote(*ids) for _ in range(rounds)]) == [size] * rounds
    return [point]


def fan_in(size: int) -> list[Point]:
    """One task takes the results of ``size`` tasks, none of which has ended when it is submitted."""
    rounds = rounds_of(size)
    point = Point("fan-in", size, size * rounds)
    with session():
        for _ in range(rounds):
            _once_released(point, lambda blocker: count.remote(*[after.remote(blocker) for _ in range(size)]))
    return [point]


def fan_out(size: int) -> list[Point]:
    """``size`` tasks take the result of one that has not ended."""
    rounds = rounds_of(size)
    point = Point("fan-out", size, size * rounds)
    with session():
        for number in range(rounds):
            weighs = size >= _HEAVY_MIN and number == 0
            _once_released(point, lambda blocker: [after.remote(blocker) for _ in range(size)], size if weighs else 0)
    return [point]


def _once_released(point: Point, submit: Callable[[Any], Any], heavy: int = 0) -> None:
    """Measure ``submit`` with an object that is not there, and the get of what it returns once it is."""
    with gate() as closed:
        blocker = held.options(num_cpus=0).remote(closed.path)
        before = weights() if heavy else {}
        with measured(point):
            ids = submit(blocker)
            sundog.get(echo.remote())
        if heavy:
            point.weight, point.heavy = grown(before), heavy
        closed.open()
        sundog.get(blocker)
        with measured(point):
            sundog.get(ids)


class Plan(NamedTuple):
    """``measure`` at each of ``sizes``, or of ``quick``."""

    measure: Callable[[int], list[Point]]
    sizes: tuple[int, ...]
    quick: tuple[int, ...]


#: What is measured, at which sizes.
PLAN: dict[str, Plan] = {
    "tasks_in_flight": Plan(tasks_in_flight, (1, 10, 100, 1_000, 10_000, 100_000, 300_000, 1_000_000), (100, 1_000, 10_000)),
    "objects_alive": Plan(objects_alive, (1, 10, 100, 1_000, 10_000, 100_000, 300_000, 1_000_000), (100, 1_000, 10_000)),
    "workers": Plan(workers, (1, 2, 4, 8, 16, 32, 64), (1, 2, 4, 8)),
    "nesting": Plan(nesting, (1, 3, 10, 30, 100, 200), (5, 20, 60)),
    "arguments": Plan(arguments, (1, 10, 100, 1_000, 3_000, 10_000), (10, 100, 1_000)),
    "fan_in": Plan(fan_in, (1, 10, 100, 1_000, 10_000, 30_000, 100_000), (100, 1_000, 10_000)),
    "fan_out": Plan(fan_out, (1, 10, 100, 1_000, 10_000, 30_000, 100_000), (100, 1_000, 10_000)),
}
