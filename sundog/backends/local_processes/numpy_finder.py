"""Sees numpy.random being imported in the middle of a task, and has it seeded then."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

NUMPY_RANDOM = "numpy.random"


class NumpyFinder(MetaPathFinder):
    """Calls ``seed`` with the module numpy.random when it has been imported, once."""

    def __init__(self, seed: Callable[[ModuleType], None]) -> None:
        self._seed = seed

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """See ``importlib``."""
        if fullname != NUMPY_RANDOM:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _SeedingLoader(spec.loader, self._seed)
        return spec


class _SeedingLoader(Loader):
    """The module's own loader, and then a seed."""

    def __init__(self, loader: Any, seed: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._seed = seed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """See ``importlib``."""
        created: ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        """See ``importlib``."""
        self._loader.exec_module(module)
        self._seed(module)
