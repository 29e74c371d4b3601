"""Random streams: what the driver draws is the driver's, what a body draws hangs on its task alone (protocols: 21).

There is one ``random`` and one ``numpy.random`` in this process, and many bodies that take turns. Their functions are wrapped
while a session runs: whoever draws first after somebody else finds its own stream there. So a body that draws nothing pays
nothing.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent

from sundog.backends.seeds import numpy_seed, python_seed
from sundog.backends.simulated.programs.rebinding import Rebinding

if TYPE_CHECKING:
    from sundog.backends.simulated.programs.strand import Strand
    from sundog.backends.simulated.sim_loop import Loop

_NUMPY = "numpy.random"
#: Of ``random``: everything that reads or sets the hidden generator.
_PYTHON_NAMES = (
    "betavariate", "binomialvariate", "choice", "choices", "expovariate", "gammavariate", "gauss", "getrandbits", "getstate",
    "lognormvariate", "normalvariate", "paretovariate", "randbytes", "randint", "random", "randrange", "sample", "seed", "setstate",
    "shuffle", "triangular", "uniform", "vonmisesvariate", "weibullvariate",
)  # fmt: skip


class _Stream:
    """One hidden generator, and whose stream is in it."""

    def __init__(self, get: Callable[[], Any], put: Callable[[Any], None], seed: Callable[[int], None]) -> None:
        self.get, self.put, self.seed = get, put, seed
        #: None: the driver's.
        self.owner: Strand | None = None
        #: Streams of others, who will go on.
        self.kept: dict[Strand | None, Any] = {}
        #: Those whose bodies are over: what they had is kept no more.
        self.over: dict[Strand, None] = {}

    def give(self, to: Strand | None) -> None:
        """See that ``to`` finds its own stream."""
        if self.owner is None or self.owner not in self.over:
            self.kept[self.owner] = self.get()
        self.over.clear()
        self.owner = to
        if to in self.kept:
            self.put(self.kept.pop(to))
        else:
            assert to is not None
            run = to.process.current_task()
            assert run is not None
            self.seed(python_seed(run))


class RandomStreams:
    """See the module."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._python = _Stream(random.getstate, random.setstate, random.seed)
        self._numpy: _Stream | None = None

    def install(self, rebinding: Rebinding) -> None:
        """Wrap the functions, in their modules and wherever user modules have them by name."""
        names = [name for name in _PYTHON_NAMES if hasattr(random, name)]
        self._wrap(rebinding, random, names, lambda: self._python)
        rebinding.after_import(_NUMPY, lambda module: self._install_numpy(rebinding, module))

    def forget(self, strand: Strand) -> None:
        """A body is over."""
        for stream in (self._python, self._numpy):
            if stream is not None:
                if stream.owner is strand:
                    stream.over[strand] = None
                else:
                    stream.kept.pop(strand, None)

    def restore(self) -> None:
        """Let the driver have its streams again."""
        for stream in (self._python, self._numpy):
            if stream is not None and stream.owner is not None:
                stream.give(None)

    def _install_numpy(self, rebinding: Rebinding, module: ModuleType) -> None:
        hidden: Any = sys.modules[f"{_NUMPY}.mtrand"]._rand
        self._numpy = _Stream(lambda: hidden.get_state(legacy=False), hidden.set_state, lambda seed: hidden.seed(numpy_seed(seed)))
        names = [name for name, value in vars(module).items() if getattr(value, "__self__", None) is hidden]
        self._wrap(rebinding, module, names, lambda: self._numpy)

    def _wrap(self, rebinding: Rebinding, module: ModuleType, names: list[str], stream: Callable[[], _Stream | None]) -> None:
        for name in names:
            original = getattr(module, name)
            rebinding.replace(module, name, self._wrapper(module.__name__, name, original, stream))

    def _wrapper(self, module: str, name: str, original: Any, stream: Callable[[], _Stream | None]) -> Any:
        loop = self._loop

        def draw(*args: Any, **kwargs: Any) -> Any:
            found = stream()
            running = loop.running
            if found is not None and running is not None and getcurrent() is running.where:
                owner = running if running.process.current_task() is not None else None
                if found.owner is not owner:
                    found.give(owner)
            return original(*args, **kwargs)

        draw.__name__ = draw.__qualname__ = name
        draw.__module__ = module
        draw.__doc__ = original.__doc__
        return draw
