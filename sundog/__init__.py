"""sundog: tasks and shared objects over real processes, decided by a pure core.

>>> import sundog
>>> @sundog.remote
... def square(x):
...     return x * x
>>> with sundog.init(num_workers=2):
...     sundog.get([square.remote(i) for i in range(4)])
[0, 1, 4, 9]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sundog import workloads
    from sundog.api.cluster import available_resources, cluster_resources, explain, nodes, table
    from sundog.api.collections import as_completed, cancel, map
    from sundog.api.get_put_wait import get, put, wait
    from sundog.api.lifecycle import init, is_initialized, shutdown
    from sundog.api.remote import RemoteFunction, remote
    from sundog.api.simulate import simulate
    from sundog.api.sleep import sleep
    from sundog.backends.exceptions import (
        DeadlockError,
        FunctionMissingError,
        GetTimeoutError,
        InfeasibleError,
        NodeDiedError,
        NotInitializedError,
        ObjectLostError,
        ObjectStoreFull,
        ObjectStoreFullError,
        SerializationError,
        SessionClosedError,
        SundogError,
        TaskCancelledError,
        TaskError,
        WorkerCrashedError,
    )
    from sundog.backends.object_ref import ObjectID, ObjectRef

__version__ = "0.1.0"

__all__ = [
    "DeadlockError",
    "FunctionMissingError",
    "GetTimeoutError",
    "InfeasibleError",
    "NodeDiedError",
    "NotInitializedError",
    "ObjectID",
    "ObjectLostError",
    "ObjectRef",
    "ObjectStoreFull",
    "ObjectStoreFullError",
    "RemoteFunction",
    "SerializationError",
    "SessionClosedError",
    "SundogError",
    "TaskCancelledError",
    "TaskError",
    "WorkerCrashedError",
    "as_completed",
    "available_resources",
    "cancel",
    "cluster_resources",
    "explain",
    "get",
    "init",
    "is_initialized",
    "map",
    "nodes",
    "put",
    "remote",
    "shutdown",
    "simulate",
    "sleep",
    "table",
    "wait",
    "workloads",
]

#: Which module makes which names. It loads when one of them is first asked for: a node, which passes here too, needs few.
_HOMES = {
    "sundog.api.cluster": "available_resources cluster_resources explain nodes table",
    "sundog.api.collections": "as_completed cancel map",
    "sundog.api.get_put_wait": "get put wait",
    "sundog.api.lifecycle": "init is_initialized shutdown",
    "sundog.api.remote": "RemoteFunction remote",
    "sundog.api.simulate": "simulate",
    "sundog.api.sleep": "sleep",
    "sundog.backends.exceptions": (
        "DeadlockError FunctionMissingError GetTimeoutError InfeasibleError NodeDiedError NotInitializedError ObjectLostError "
        "ObjectStoreFull ObjectStoreFullError SerializationError SessionClosedError SundogError TaskCancelledError TaskError "
        "WorkerCrashedError"
    ),
    "sundog.backends.object_ref": "ObjectID ObjectRef",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Load what is asked for, once."""
    if name == "workloads":
        return import_module("sundog.workloads")
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'sundog' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(home), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
