"""The engines of the comparison behind one face. Each is imported by ``load``, so that the others need not be installed.

Every engine gets two workers on this machine, no dashboard, no reports to anybody, and else what its documentation shows.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

WORKERS = 2
#: Chunks that the bulk form cuts its items into, where the engine takes such a number.
CHUNKS = 16


class Cannot(Exception):
    """The engine has no such thing; says why."""


class Engine:
    """What works are written against.

    ``task`` makes a function into a callable that starts a task of it and returns its reference; ``get`` returns the values of
    references, ``get_one`` that of one; ``wait`` returns one reference that is ready, and the rest.
    """

    title: ClassVar[str]
    package: ClassVar[str]

    def load(self) -> None:
        """Import the engine."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it with WORKERS workers."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def task(self, function: Callable[..., Any]) -> Callable[..., Any]:
        raise NotImplementedError

    def get(self, references: Sequence[Any]) -> list[Any]:
        raise NotImplementedError

    def get_one(self, reference: Any) -> Any:
        raise NotImplementedError

    def wait(self, references: Any) -> tuple[Any, Any]:
        raise NotImplementedError

    def put(self, value: Any) -> Any:
        raise Cannot("no object store")

    def need_graphs(self) -> None:
        """Raise Cannot where a task cannot take another's result by its reference."""

    def need_nesting(self) -> None:
        """Raise Cannot where a task cannot start tasks and wait for them."""

    @staticmethod
    def inside(function: Callable[..., Any], i: int, count: int) -> list[Any]:
        """In a task: call ``function(i, j)`` in tasks for ``count`` j, and return the values."""
        raise NotImplementedError

    def each_on(self, function: Callable[..., Any], array: Any) -> Callable[[int], list[Any]]:
        """Share ``array``; return what calls ``function`` on it in so many tasks and returns the values."""
        reference = self.put(array)
        submit = self.task(function)
        return lambda count: self.get([submit(reference) for _ in range(count)])

    def bulk(self, function: Callable[[Any], Any], items: range) -> list[Any]:
        """The engine's own way for many calls of one function."""
        raise NotImplementedError


@functools.cache
def _sundog_remote(function: Callable[..., Any]) -> Any:
    import sundog

    return sundog.remote(function)


class Sundog(Engine):
    title = "sundog"
    package = "sundog"

    def load(self) -> None:
        import sundog

        self._sundog = sundog
        self.get, self.get_one, self.put = sundog.get, sundog.get, sundog.put  # type: ignore[method-assign, assignment]
        self.wait = sundog.wait  # type: ignore[method-assign, assignment]

    def start(self) -> None:
        self._sundog.init(num_workers=WORKERS)

    def close(self) -> None:
        self._sundog.shutdown()

    def task(self, function: Callable[..., Any]) -> Callable[..., Any]:
        submit: Callable[..., Any] = _sundog_remote(function).remote
        return submit

    @staticmethod
    def inside(function: Callable[..., Any], i: int, count: int) -> list[Any]:
        import sundog

        submit = _sundog_remote(function).remote
        return sundog.get([submit(i, j) for j in range(count)])

    def bulk(self, function: Callable[[Any], Any], items: range) -> list[Any]:
        return list(self._sundog.map(function, items, chunk_size=-(-len(items) // CHUNKS)))


@functools.cache
def _ray_remote(function: Callable[..., Any]) -> Any:
    import ray

    return ray.remote(function)


class Ray(Engine):
    title = "Ray"
    package = "ray"

    def load(self) -> None:
        import ray

        self._ray: Any = ray
        self._pool: Any = None
        self.get, self.get_one, self.put, self.wait = ray.get, ray.get, ray.put, ray.wait  # type: ignore[method-assign]

    def start(self) -> None:
        self._ray.init(
            address="local",
            num_cpus=WORKERS,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _node_ip_address="127.0.0.1",
            _temp_dir=os.path.join(tempfile.gettempdir(), "ray"),
        )

    def close(self) -> None:
        if self._pool is not None:
            self._pool.terminate()
        self._ray.shutdown()

    def task(self, function: Callable[..., Any]) -> Callable[..., Any]:
        submit: Callable[..., Any] = _ray_remote(function).remote
        return submit

    @staticmethod
    def inside(function: Callable[..., Any], i: int, count: int) -> list[Any]:
        import ray

        submit = _ray_remote(function).remote
        values: list[Any] = ray.get([submit(i, j) for j in range(count)])
        return values

    def bulk(self, function: Callable[[Any], Any], items: range) -> list[Any]:
        if self._pool is None:
            from ray.util.multiprocessing import Pool

            self._pool = Pool(processes=WORKERS)
        return list(self._pool.map(function, items, chunksize=-(-len(items) // CHUNKS)))


class Dask(Engine):
    title = "Dask"
    package = "distributed"

    def load(self) -> None:
        import distributed

        self._distributed: Any = distributed

    def start(self) -> None:
        cluster = self._distributed.LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            silence_logs="ERROR",
            local_directory=tempfile.gettempdir(),
        )
        self._cluster, self._client = cluster, self._distributed.Client(cluster)
        self.get = self._client.gather  # type: ignore[method-assign]

    def close(self) -> None:
        self._client.close()
        self._cluster.close()

    def task(self, function: Callable[..., Any]) -> Callable[..., Any]:
        # pure=True would run equal calls once and remember the value
        return functools.partial(self._client.submit, function, pure=False)

    def get_one(self, reference: Any) -> Any:
        return reference.result()

    def wait(self, references: Any) -> tuple[Any, Any]:
        done, rest = self._distributed.wait(references, return_when="FIRST_COMPLETED")
        one = done.pop()
        rest |= done
        return [one], rest

    def put(self, value: Any) -> Any:
        return self._client.scatter(value, hash=False)

    @staticmethod
    def inside(function: Callable[..., Any], i: int, count: int) -> list[Any]:
        from distributed import worker_client

        with worker_client() as client:
            values: list[Any] = client.gather([client.submit(function, i, j, pure=False) for j in range(count)])
        return values

    def bulk(self, function: Callable[[Any], Any], items: range) -> list[Any]:
        from dask import bag

        return list(bag.from_sequence(items, npartitions=CHUNKS).map(function).compute())


class Futures(Engine):
    title = "concurrent.futures"
    package = "futures"
    _pool: Any
    _module: Any

    def load(self) -> None:
        import concurrent.futures
        import concurrent.futures.process

        self._module = concurrent.futures

    def start(self) -> None:
        self._pool = self._module.ProcessPoolExecutor(WORKERS)

    def close(self) -> None:
        self._pool.shutdown()

    def task(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return functools.partial(self._pool.submit, function)

    def get(self, references: Sequence[Any]) -> list[Any]:
        return [one.result() for one in references]

    def get_one(self, reference: Any) -> Any:
        return reference.result()

    def wait(self, references: Any) -> tuple[Any, Any]:
        done, rest = self._module.wait(references, return_when="FIRST_COMPLETED")
        one = done.pop()
        rest |= done
        return [one], rest

    def need_graphs(self) -> None:
        raise Cannot("no dependencies")

    def need_nesting(self) -> None:
        raise Cannot("no tasks from tasks")

    def bulk(self, function: Callable[[Any], Any], items: range) -> list[Any]:
        return list(self._pool.map(function, items, chunksize=-(-len(items) // CHUNKS)))


class Joblib(Futures):
    """loky's executor for single tasks; joblib's own calls for many and for large arrays, which it maps from a file."""

    title = "joblib/loky"
    package = "joblib"

    def load(self) -> None:
        import concurrent.futures

        import joblib
        import loky

        self._joblib: Any = joblib
        self._loky: Any = loky
        self._module = concurrent.futures

    def start(self) -> None:
        self._pool = self._loky.get_reusable_executor(max_workers=WORKERS, timeout=600)

    def each_on(self, function: Callable[..., Any], array: Any) -> Callable[[int], list[Any]]:
        path = os.path.join(tempfile.gettempdir(), "array")
        self._joblib.dump(array, path)
        mapped = self._joblib.load(path, mmap_mode="r")  # goes to workers as the file's name
        call = self._joblib.delayed(function)
        return lambda count: list(self._joblib.Parallel(n_jobs=WORKERS)(call(mapped) for _ in range(count)))

    def bulk(self, function: Callable[[Any], Any], items: range) -> list[Any]:
        call = self._joblib.delayed(function)
        return list(self._joblib.Parallel(n_jobs=WORKERS)(call(item) for item in items))


#: In the order of the table.
ENGINES: dict[str, type[Engine]] = {"sundog": Sundog, "futures": Futures, "joblib": Joblib, "dask": Dask, "ray": Ray}
