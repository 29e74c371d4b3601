"""Random streams of a worker: different in every worker, and with a session seed, the same for the same task (protocols: 21)."""

from __future__ import annotations

import random
import sys
from types import ModuleType

from sundog.backends.seeds import numpy_seed, python_seed
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
            # Only where it is needed: importlib.abc takes tempfile, shutil and zlib along.
            from sundog.backends.after_import import AfterImport

            if _NUMPY not in sys.modules:
                sys.meta_path.insert(0, AfterImport(_NUMPY, self.seed_numpy))

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
