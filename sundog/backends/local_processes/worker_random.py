"""Random streams of a worker: different in every worker, and with a session seed, the same for the same task (protocols: 21)."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from sundog.backends.task_seeds import numpy_seed, python_seed
from sundog.core.ids import TaskID

_NUMPY = "numpy.random"


class RandomStreams:
    """Reseeds ``random`` and ``numpy.random``: once at the start of a worker, and if ``by_task`` before every task."""

    def __init__(self, by_task: bool) -> None:
        self.by_task = by_task
        self._task_seed = 0
        random.seed()
        if _NUMPY in sys.modules:
            sys.modules[_NUMPY].seed()
        if by_task:
            sys.meta_path.insert(0, _NumpyFinder(self))

    def begin(self, task_id: TaskID) -> None:
        """Seed both from the task's ID."""
        self._task_seed = python_seed(task_id)
        random.seed(self._task_seed)
        if _NUMPY in sys.modules:
            self.seed_numpy(sys.modules[_NUMPY])

    def seed_numpy(self, module: ModuleType) -> None:
        """Seed numpy's global generator from the running task."""
        seed = getattr(module, "seed", None)  # absent while the module is still being imported
        if seed is not None:
            seed(numpy_seed(self._task_seed))


class _NumpyFinder(MetaPathFinder):
    """Sees numpy.random being imported in the middle of a task, and seeds it then."""

    def __init__(self, streams: RandomStreams) -> None:
        self._streams = streams

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """See ``importlib``."""
        if fullname != _NUMPY:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _SeedingLoader(spec.loader, self._streams)
        return spec


class _SeedingLoader(Loader):
    """The module's own loader, and then a seed."""

    def __init__(self, loader: Any, streams: RandomStreams) -> None:
        self._loader = loader
        self._streams = streams

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """See ``importlib``."""
        created: ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        """See ``importlib``."""
        self._loader.exec_module(module)
        self._streams.seed_numpy(module)
