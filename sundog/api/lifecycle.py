"""Starting and ending a session."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from typing import Any

import msgspec

from sundog.api.options import amount, check_resources
from sundog.backends import current
from sundog.backends.exceptions import NotInitializedError
from sundog.backends.seeds import session_seed
from sundog.backends.session import Session
from sundog.core.config import Config
from sundog.core.resources import CPU, GPU, shape
from sundog.core.units import GIB, MIB

SHUT_DOWN = "the session was shut down: call sundog.init() to start another"
_BACKENDS = ("local_processes", "simulated", "cluster")
#: The arena may take this share of the machine's memory; its pages exist once written.
_MEMORY_SHARE = 0.4

_lock = threading.RLock()
#: The backend is being started: what it imports may not start one by the way.
_starting = False


class Context:
    """What :func:`init` returns: ``with sundog.init():`` shuts the session down at the end of the block."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *details: object) -> None:
        if current.session is self._session:
            shutdown()
        else:
            self._session.close()

    def __repr__(self) -> str:
        config = self._session.port.config
        state = "open" if current.session is self._session else "shut down"
        return f"<sundog session, {state}: {config.worker_count} workers, object store of {config.arena_bytes >> 20} MiB>"


def init(
    *,
    num_workers: int | None = None,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: Mapping[str, float] | None = None,
    object_store_memory: int | None = None,
    seed: int | str | bytes | None = None,
    object_id_seed: int | str | bytes | None = None,
    redis: str | bool | None = None,
    backend: str = "local_processes",
    record: str | os.PathLike[str] | None = None,
    config: Mapping[str, Any] | None = None,
    **options: Any,
) -> Context:
    """Start a session: a node with its workers, which end with this process, however it ends.

    ``num_workers`` or ``num_cpus``: how many tasks of one CPU run at a time (default: this process's cores); both are the
    same setting. ``num_gpus`` (0) and ``resources`` ({}): what else tasks may ask for. ``object_store_memory``: bytes of
    shared memory (default: 40 % of the machine's). ``seed`` (also ``object_id_seed``): makes object IDs and the workers' random
    streams the same from run to run. ``redis``: the URL of a Redis that is to hold the control state, or True to start one for
    the session. ``backend``: what runs it. ``record``: a file for the record of every decision. ``config``: limits
    of ``sundog.core.config.Config`` by name. ``options``: what only some backends know, such as ``nodes`` and ``durations`` of
    ``backend="simulated"``.

    Raises RuntimeError if there is a session already, or in a worker; TypeError or ValueError for a setting that makes no sense;
    OSError if the system refuses.
    """
    global _starting
    with _lock:
        if current.session is not None:
            if current.session.worker:
                raise RuntimeError(
                    "sundog.init() was called in a worker, which has a session already. If a module of yours calls it when it is "
                    'imported, put that under `if __name__ == "__main__":`'
                )
            raise RuntimeError("sundog.init() was called twice: call sundog.shutdown() first to start another session")
        if _starting:
            raise RuntimeError("sundog.init() is starting a session already")
        if object_id_seed is not None:
            if seed is not None and seed != object_id_seed:
                raise ValueError("seed and object_id_seed are two names of one thing: give one")
            seed = object_id_seed
        settings = _config(num_workers, num_cpus, num_gpus, resources, object_store_memory, config)
        if redis is not None and not isinstance(redis, (str, bool)):
            raise TypeError(f"redis takes a URL, or True to start a server for the session, not {redis!r}")
        chosen = _backend(backend)
        _check_options(chosen, backend, options)
        _starting = True
        try:
            path = None if record is None else os.fspath(record)
            name = None if seed is None else session_seed(seed)
            port = chosen.start(settings, seed=name, redis=redis or None, record=path, **options)
        finally:
            _starting = False
        try:
            session = Session(port)
            current.set(session)
        except BaseException:
            port.close()
            raise
        return Context(session)


def shutdown() -> None:
    """End the session: its tasks, workers and objects. Does nothing if there is none. Raises RuntimeError in a worker."""
    with _lock:
        session = current.session
        if session is None:
            return
        if session.worker:
            raise RuntimeError("sundog.shutdown() was called in a worker: only the driver may end the session")
        current.set(None, SHUT_DOWN)
        session.close()


def is_initialized() -> bool:
    """Tell whether this process has a session."""
    return current.session is not None


def session() -> Session:
    """Return the current session; the first call that needs one starts it with the defaults.

    Raises NotInitializedError if there was one that was shut down, or that belongs to the process this one was forked from.
    """
    found = current.get()
    if found is None:
        with _lock:
            if current.absent is not None:
                raise NotInitializedError(current.absent)
            found = current.get()
            if found is None:
                found = init()._session
                count = found.port.config.worker_count
                if sys.stderr is not None:
                    sys.stderr.write(f"sundog: started a session with {count} workers; call sundog.init() to choose otherwise\n")
    return found


def _backend(name: Any) -> Any:
    from importlib import import_module

    if name not in _BACKENDS:
        raise ValueError(f"backend={name!r}: there are {', '.join(_BACKENDS)}")
    try:
        return import_module(f"sundog.backends.{name}.backend")
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith(f"sundog.backends.{name}"):
            raise ValueError(f"backend={name!r} is not there yet: use 'local_processes'") from None
        raise


def _check_options(chosen: Any, backend: str, options: Mapping[str, Any]) -> None:
    """Refuse what the backend does not know, and say who does, or what it does know."""
    known = getattr(chosen, "OPTIONS", ())
    for name in options:
        if name in known:
            continue
        for other in _BACKENDS:
            if other != backend and name in getattr(_backend_if_there(other), "OPTIONS", ()):
                raise TypeError(f"init: {name} is an option of backend={other!r}, and this is backend={backend!r}")
        from difflib import get_close_matches

        names = [*_common_names(), *known]
        close = get_close_matches(name, names, 1)
        meant = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(names)}"
        raise TypeError(f"init has no option {name!r} with backend={backend!r}{meant}")


def _common_names() -> list[str]:
    """Return the names of the settings that every backend takes."""
    return list(init.__kwdefaults__ or ())


def _backend_if_there(name: str) -> Any:
    try:
        return _backend(name)
    except (ImportError, ValueError):
        return None


def _config(
    num_workers: Any, num_cpus: Any, num_gpus: Any, resources: Any, object_store_memory: Any, overrides: Mapping[str, Any] | None
) -> Config:
    if num_workers is not None:
        if isinstance(num_workers, bool) or not isinstance(num_workers, int):
            raise TypeError(f"num_workers takes a whole number, not {num_workers!r}")
        if num_workers < 1:
            raise ValueError(f"num_workers={num_workers}: at least one worker has to do the work")
        if num_cpus is not None and num_cpus != num_workers:
            raise ValueError(
                f"num_workers={num_workers} and num_cpus={num_cpus!r}: both set how many tasks run at a time, so give one"
            )
        num_cpus = num_workers
    cpus = _core_count() if num_cpus is None else amount(num_cpus, "num_cpus")
    amounts = check_resources(resources, "resources", amount)
    amounts[CPU] = cpus
    amounts[GPU] = 0 if num_gpus is None else amount(num_gpus, "num_gpus")
    if object_store_memory is None:
        arena = _default_arena()
    else:
        if isinstance(object_store_memory, bool) or not isinstance(object_store_memory, int):
            raise TypeError(f"object_store_memory takes a whole number of bytes, not {object_store_memory!r}")
        if object_store_memory < MIB:
            raise ValueError(f"object_store_memory={object_store_memory}: it is a number of bytes, at least {MIB}")
        arena = object_store_memory
    settings: dict[str, Any] = {
        "capacity": shape(amounts),
        "worker_count": max(1, -int(-cpus // 1)),
        "arena_bytes": arena // 4096 * 4096,
        **(overrides or {}),
    }
    known = msgspec.structs.fields(Config)
    for name in settings:
        if name not in {field.name for field in known}:
            raise TypeError(f"config has no setting {name!r}; there are {', '.join(field.name for field in known)}")
    return Config(**settings)


def _core_count() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def _default_arena() -> int:
    memory = 8 * GIB
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        with open("/sys/fs/cgroup/memory.max") as file:
            memory = min(memory, int(file.read()))
    except (AttributeError, OSError, ValueError):
        pass  # no such figure, or no bound: "max"
    return max(256 * MIB, int(memory * _MEMORY_SHARE))
