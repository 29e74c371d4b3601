"""The works of the comparison: what is done with every engine, how it is timed, and that the results are right.

A work yields ``(row, value)``: rates in things a second, times in seconds, sizes in bytes. Rounds are as large for all engines;
how many fit into the quota of seconds differs, and the median of them counts.
"""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.compare.bodies import add, experiment, first, give, nothing, number, spin
from benchmarks.compare.engines import WORKERS, Engine
from benchmarks.processes import family, pss

Found = Iterator[tuple[str, float]]
#: Seconds that the rounds of one work may take together, beyond which no other starts.
QUOTA = 1.0
CHILDREN = 10
SMALL = b"x" * 1000
TASK_SECONDS = 0.002
#: Two of these run as fast as the machine can: the ideal that engines are held against.
PLAIN = (
    "import sys; from benchmarks.compare.bodies import spin; count, loops = map(int, sys.argv[1:]); print(flush=True); "
    "sys.stdin.readline(); [spin(loops) for _ in range(count)]; print(flush=True)"
)


def seconds(work: Callable[[], object]) -> float:
    """Return how long ``work()`` takes, without collections of cycles."""
    gc.collect()
    gc.disable()
    try:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started
    finally:
        gc.enable()


def times(work: Callable[[], object], rounds: int = 9) -> list[float]:
    """Return the seconds of at least one and at most ``rounds`` rounds, as many as QUOTA lets."""
    taken: list[float] = []
    while len(taken) < rounds and (not taken or sum(taken) < QUOTA):
        taken.append(seconds(work))
    return taken


def rate(work: Callable[[int], object], count: int) -> float:
    """Return the median number a second, after a warm-up with a tenth of ``count``."""
    work(max(1, count // 10))
    return count / statistics.median(times(lambda: work(count)))


def expect(found: object, wanted: object) -> None:
    """Raise AssertionError where an engine's answer is wrong."""
    if found != wanted:
        raise AssertionError(f"{str(found)[:60]} instead of {str(wanted)[:60]}")


def tree_weight() -> int:
    """Return the proportional set size, in bytes, of this process and all its descendants."""
    total = 0
    for pid in family():
        try:
            total += pss(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def memory(engine: Engine, size: dict[str, int]) -> Found:
    """What the processes weigh when both workers have run something."""
    submit = engine.task(nothing)
    engine.get([submit() for _ in range(4 * WORKERS)])
    yield "memory", tree_weight()


def round_trip(engine: Engine, size: dict[str, int]) -> Found:
    """One empty task after the other."""
    submit, get, clock = engine.task(nothing), engine.get_one, time.perf_counter
    for _ in range(size["trips"] // 20):
        get(submit())
    taken: list[float] = []
    gc.collect()
    deadline = clock() + 4 * QUOTA
    while len(taken) < size["trips"] and (len(taken) < size["trips"] // 5 or clock() < deadline):
        started = clock()
        get(submit())
        taken.append(clock() - started)
    taken.sort()
    yield "round_trip", taken[len(taken) // 2]
    yield "round_trip_p99", taken[int(0.99 * len(taken))]


def references(engine: Engine, size: dict[str, int]) -> Found:
    """What finished references weigh. All is kept, and rounds are alike: what one only needed for a while, the next uses again."""
    submit, count = engine.task(nothing), size["references"]
    kept: list[list[Any]] = []
    weights: list[tuple[int, int]] = []
    taken = 0.0
    while len(weights) < 2 or (len(weights) < 6 and taken < QUOTA):
        started = time.perf_counter()
        kept.append([submit() for _ in range(count)])
        engine.get(kept[-1])
        taken += time.perf_counter() - started
        gc.collect()
        weights.append((pss(os.getpid()), tree_weight()))
    more = count * (len(weights) - 1)
    yield "reference", (weights[-1][0] - weights[0][0]) / more
    yield "reference_all", (weights[-1][1] - weights[0][1]) / more


def many(engine: Engine, size: dict[str, int]) -> Found:
    """Empty tasks, all submitted before the first is asked for. The work before this one was the warm-up."""
    submit, count = engine.task(nothing), size["tasks"]
    taken = times(lambda: expect(engine.get([submit() for _ in range(count)]), [None] * count))
    yield "many", count / statistics.median(taken)


def chain(engine: Engine, size: dict[str, int]) -> Found:
    """Each task takes the result of the one before."""
    engine.need_graphs()
    submit = engine.task(add)

    def run(count: int) -> None:
        value = submit(0, 1)
        for _ in range(count - 1):
            value = submit(value, 1)
        expect(engine.get_one(value), count)

    yield "chain", rate(run, size["chain"])


def tree(engine: Engine, size: dict[str, int]) -> Found:
    """Values added in pairs until one is left: of N leaves 2 N - 1 tasks."""
    engine.need_graphs()
    leaf, pair = engine.task(number), engine.task(add)

    def run(count: int) -> None:
        layer = [leaf(i) for i in range(count)]
        while len(layer) > 1:
            layer = [*layer[2:], pair(layer[0], layer[1])]
        expect(engine.get_one(layer[0]), sum(range(count)))

    leaves = size["leaves"]
    yield "tree", (2 * leaves - 1) / leaves * rate(run, leaves)


def nested(engine: Engine, size: dict[str, int]) -> Found:
    """Tasks that each start ten and wait for them."""
    engine.need_nesting()
    submit = engine.task(experiment)
    name = type(engine).__name__.lower()

    def run(count: int) -> None:
        expect(engine.get([submit(name, i, CHILDREN) for i in range(count)]), [CHILDREN * i + 45 for i in range(count)])

    yield "nested", (1 + CHILDREN) * rate(run, size["parents"])


def small(engine: Engine, size: dict[str, int]) -> Found:
    """Put of 1 kB, and get of each one by one; a get of what was got before may be cheaper, so each round puts anew."""
    count = size["small"]
    got: list[float] = []
    put: list[float] = []
    while not got or (len(got) < 5 and sum(got) + sum(put) < QUOTA):
        kept: list[Any] = []
        put.append(seconds(lambda: kept.extend(engine.put(SMALL) for _ in range(count))))  # noqa: B023
        values: list[Any] = []
        got.append(seconds(lambda: values.extend(engine.get_one(one) for one in kept)))  # noqa: B023
        expect(values, [SMALL] * count)
    yield "put_small", count / statistics.median(put)
    yield "get_small", count / statistics.median(got)


def waiting(engine: Engine, size: dict[str, int]) -> Found:
    """``wait`` for one of many, until none is left."""
    submit = engine.task(nothing)

    def drain(left: Any) -> None:
        while left:
            ready, left = engine.wait(left)
            expect(len(ready), 1)

    drain([submit() for _ in range(20)])
    taken: list[float] = []
    while len(taken) < 5 and sum(taken) < QUOTA:
        pending = [submit() for _ in range(size["waits"])]
        taken.append(seconds(lambda: drain(pending)))  # noqa: B023
    yield "wait", size["waits"] / statistics.median(taken)


def plain(count: int, loops: int) -> float:
    """Return the seconds that WORKERS plain processes take for ``count`` calls of spin in all; their start is not counted."""
    command = [sys.executable, "-c", PLAIN, str(count // WORKERS), str(loops)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(WORKERS)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    started = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    taken = time.perf_counter() - started
    for process in processes:
        process.communicate()
    return taken


def busy(engine: Engine, size: dict[str, int]) -> Found:
    """Tasks of about 2 ms, held against plain processes before and after."""
    count = size["busy"]
    loops = int(10_000 * TASK_SECONDS / min(seconds(lambda: spin(10_000)) for _ in range(9)))
    submit = engine.task(spin)
    wanted = spin(loops)
    engine.get([submit(loops) for _ in range(10 * WORKERS)])
    before = plain(count, loops)
    taken = seconds(lambda: expect(engine.get([submit(loops) for _ in range(count)]), [wanted] * count))
    yield "busy", (before + plain(count, loops)) / 2 / taken


def argument(engine: Engine, size: dict[str, int]) -> Found:
    """Tasks that read an array which was shared once."""
    import numpy as np

    run = engine.each_on(first, np.ones(size["array"] // 8))
    yield "argument", rate(lambda count: expect(run(count), [1.0] * count), size["readers"])


def returned(engine: Engine, size: dict[str, int]) -> Found:
    """A large array that a worker has comes back."""
    submit = engine.task(give)

    def run() -> None:
        array = engine.get_one(submit(size["array"]))
        expect((array.nbytes, float(array[0]), float(array[-1])), (size["array"] // 8 * 8, 1.0, 1.0))

    for _ in range(2 * WORKERS):
        run()
    yield "returned", size["array"] / statistics.median(times(run))


def large(engine: Engine, size: dict[str, int]) -> Found:
    """Put of a large array: the first, those after it, and get of one again and again."""
    import numpy as np

    source = np.ones(size["large"] // 8)
    found: dict[str, Any] = {}

    def put() -> None:
        found["reference"] = engine.put(source)

    def get() -> None:
        found["array"] = engine.get_one(found["reference"])

    taken: list[float] = []
    while len(taken) < 7 and (len(taken) < 3 or sum(taken) < 3 * QUOTA):
        found.clear()
        source[0] = source[-1] = len(taken)  # so that nothing can be remembered from before
        taken.append(seconds(put))
        get()
        expect((len(found["array"]), found["array"][0], found["array"][-1]), (len(source), source[0], source[-1]))
    yield "put_large_first", size["large"] / taken[0]
    yield "put_large", size["large"] / statistics.median(taken[2:])
    yield "get_large", statistics.median(times(get, 100))


def bulk(engine: Engine, size: dict[str, int]) -> Found:
    """The engine's own way for many calls of one function."""
    yield "bulk", rate(lambda count: expect(engine.bulk(number, range(count)), list(range(count))), size["tasks"])


#: In the order in which they run: what weighs the fresh processes first, what may leave others behind last.
WORKS: tuple[Callable[[Engine, dict[str, int]], Found], ...] = (
    *(memory, round_trip, references, many, chain, tree, nested, small, waiting, busy, argument, returned, large, bulk),
)
