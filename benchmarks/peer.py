"""One engine behind one face, in a process of its own: ``python benchmarks/peer.py NAME`` reads work from stdin, answers seconds.

Imports the standard library and the engine alone, so that it runs in whatever environment the engine is installed in. Each line
of stdin names a work and a count (``many 10000``); the answer is a JSON object ``{"seconds": ..., "count": ...}``, or
``{"cannot": reason}`` for what the engine has no notion of.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

WORKERS = 2


def nothing(*_: Any) -> None:
    return None


def add(x: int, y: int) -> int:
    return x + y


def spin(loops: int) -> int:
    total = 0
    for i in range(loops):
        total += i * i & 7
    return total


def block(size: int) -> bytearray:
    return bytearray(size)


class Cannot(Exception):
    """The engine has no such thing."""


class Engine:
    """What works are written against. ``call`` starts a task, ``get`` waits for values of what ``call`` returned."""

    graphs = True
    nests = False

    def call(self, function: Any, *arguments: Any) -> Any:
        raise NotImplementedError

    def get(self, pending: list[Any]) -> list[Any]:
        raise NotImplementedError

    def put(self, value: Any) -> Any:
        raise Cannot("no object store")

    def close(self) -> None:
        raise NotImplementedError


class Sundog(Engine):
    def __init__(self) -> None:
        import sundog

        self._sundog = sundog
        sundog.init(num_workers=WORKERS)
        self._remote = {function: sundog.remote(function) for function in (nothing, add, spin, block)}
        self.get, self.put, self.close = sundog.get, sundog.put, sundog.shutdown  # type: ignore[method-assign, assignment]

    def call(self, function: Any, *arguments: Any) -> Any:
        return self._remote[function].remote(*arguments)


class Ray(Engine):
    def __init__(self) -> None:
        import ray

        ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, configure_logging=False)
        self._remote = {function: ray.remote(function) for function in (nothing, add, spin, block)}
        self.get, self.put, self.close = ray.get, ray.put, ray.shutdown  # type: ignore[method-assign]

    def call(self, function: Any, *arguments: Any) -> Any:
        return self._remote[function].remote(*arguments)


class Dask(Engine):
    def __init__(self) -> None:
        from distributed import Client

        self._client = Client(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None)
        self.close = self._client.close  # type: ignore[method-assign]

    def call(self, function: Any, *arguments: Any) -> Any:
        return self._client.submit(function, *arguments, pure=False)

    def get(self, pending: list[Any]) -> list[Any]:
        return list(self._client.gather(pending))

    def put(self, value: Any) -> Any:
        return self._client.scatter([value], hash=False)[0]


class Futures(Engine):
    graphs = False

    def __init__(self) -> None:
        from concurrent.futures import ProcessPoolExecutor

        self._pool = ProcessPoolExecutor(WORKERS)
        self.call = self._pool.submit  # type: ignore[method-assign, assignment]
        self.close = self._pool.shutdown  # type: ignore[method-assign]

    def get(self, pending: list[Any]) -> list[Any]:
        return [one.result() for one in pending]


class Joblib(Futures):
    def __init__(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        self._pool = get_reusable_executor(max_workers=WORKERS)
        self.call = self._pool.submit  # type: ignore[method-assign, assignment]
        self.close = self._pool.shutdown  # type: ignore[method-assign]


ENGINES: dict[str, type[Engine]] = {"sundog": Sundog, "ray": Ray, "dask": Dask, "futures": Futures, "joblib": Joblib}

# --- works: each returns how many things it did -----------------------------------------------------------------------------


def many(engine: Engine, count: int) -> int:
    engine.get([engine.call(nothing) for _ in range(count)])
    return count


def one_by_one(engine: Engine, count: int) -> int:
    for _ in range(count):
        engine.get([engine.call(nothing)])
    return count


def chain(engine: Engine, count: int) -> int:
    if not engine.graphs:
        raise Cannot("no dependencies")
    value = engine.call(add, 0, 1)
    for _ in range(count - 1):
        value = engine.call(add, value, 1)
    assert engine.get([value]) == [count]
    return count


def tree(engine: Engine, count: int) -> int:
    if not engine.graphs:
        raise Cannot("no dependencies")
    layer = [engine.call(add, i, 0) for i in range(count)]
    while len(layer) > 1:
        layer.append(engine.call(add, layer.pop(0), layer.pop(0)))
    assert engine.get(layer) == [sum(range(count))]
    return 2 * count - 1


def small_puts(engine: Engine, count: int) -> int:
    value = b"x" * 1000
    kept = [engine.put(value) for _ in range(count)]
    engine.get(kept[-1:])
    return count


def busy(engine: Engine, count: int) -> int:
    engine.get([engine.call(spin, 30_000) for _ in range(count)])
    return count


def returned(engine: Engine, count: int) -> int:
    """Megabytes, ten at a time."""
    for _ in range(max(1, count // 10)):
        engine.get([engine.call(block, 10_000_000)])
    return count


WORKS = {work.__name__: work for work in (many, one_by_one, chain, tree, small_puts, busy, returned)}


def main(name: str) -> None:
    """Serve."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # engines print

    def answer(**fields: Any) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    started = time.perf_counter()
    try:
        engine = ENGINES[name]()
        engine.get([engine.call(nothing)])
    except ImportError as error:
        answer(cannot=f"not installed: {error.name}")
        return
    answer(seconds=time.perf_counter() - started, count=1)
    for line in sys.stdin:
        work, _, count = line.partition(" ")
        if work == "end\n":
            break
        try:
            started = time.perf_counter()
            done = WORKS[work](engine, int(count))
            answer(seconds=time.perf_counter() - started, count=done)
        except Cannot as reason:
            answer(cannot=str(reason))
    engine.close()


if __name__ == "__main__":
    main(sys.argv[1])
