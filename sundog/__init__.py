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

if TYPE_CHECKING:
    from sundog import workloads

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


def __getattr__(name: str) -> Any:
    """Load what only simulations need when it is first asked for."""
    if name == "workloads":
        return import_module("sundog.workloads")
    raise AttributeError(f"module 'sundog' has no attribute {name!r}")
