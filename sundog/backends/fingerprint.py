"""Whether a function still is what was exported: a list of everything that its pickle was made of, compared by identity.

Watched are the code, defaults and closure cells of the function, the globals that its code names (also those that do not exist
yet), and the same for all functions among them that travel by value, and for the methods of all classes that do: those named, and
those of objects named. A change *inside* an object, say an element appended to a global list, or a value in a class, is not seen.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Mapping
from functools import _lru_cache_wrapper as LruCache
from functools import cached_property, lru_cache, partial, partialmethod
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

from sundog.backends.object_ref import ObjectID
from sundog.backends.pickling import by_reference

_MISSING: Any = object()
#: A class that was made by a statement, of which ``type.__flags__`` tells.
_MADE_IN_PYTHON = 1 << 9
#: Where what is in a class keeps its functions.
_FUNCTIONS_OF: dict[type, tuple[str, ...]] = {
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    property: ("fget", "fset", "fdel"),
    cached_property: ("func",),
    partialmethod: ("func",),
}
_GLOBAL_OPS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL"})


@lru_cache(maxsize=4096)
def referenced_globals(code: CodeType) -> tuple[str, ...]:
    """Return the names of the globals that ``code`` and the functions within it mention."""
    import dis

    names: dict[str, None] = {}
    for instruction in dis.get_instructions(code):
        if instruction.opname in _GLOBAL_OPS:
            names[instruction.argval] = None
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names.update(dict.fromkeys(referenced_globals(constant)))
    return tuple(names)


def by_value(thing: Any) -> bool:
    """Tell whether function or class ``thing`` travels by value: workers cannot import it, or its module is registered for that."""
    if not by_reference(thing):
        return True
    cloudpickle = sys.modules.get("cloudpickle")
    registered = cloudpickle.list_registry_pickle_by_value() if cloudpickle is not None else ()
    name = thing.__module__
    while registered and name:
        if name in registered:
            return True
        name = name.rpartition(".")[0]
    return False


class Fingerprint:
    """What ``function`` was made of when this was created. :meth:`holds` costs about 50 ns for each global and cell."""

    __slots__ = ("_cells", "_functions", "_globals")

    def __init__(self, function: Any) -> None:
        self._functions: list[tuple[FunctionType, CodeType, Any, Any]] = []
        #: Names of modules, and methods of classes.
        self._globals: list[tuple[Mapping[str, Any], str, Any]] = []
        self._cells: list[tuple[CellType, Any]] = []
        named: set[tuple[int, str]] = set()
        seen: dict[int, Any] = {}
        pending = [function]
        while pending:
            thing = pending.pop()
            if id(thing) in seen:
                continue
            seen[id(thing)] = thing
            if isinstance(thing, FunctionType):
                if thing is function or by_value(thing):
                    self._watch(thing, pending, named)
            elif isinstance(thing, MethodType):
                pending += (thing.__func__, thing.__self__)
            elif isinstance(thing, partial):
                pending.append(thing.func)
            elif isinstance(thing, LruCache) or hasattr(type(thing), "__sundog_reduce__"):
                pending.append(thing.__wrapped__)
            elif isinstance(thing, type):
                if thing.__flags__ & _MADE_IN_PYTHON and by_value(thing):
                    self._watch_class(thing, pending)
            elif type(thing) in _FUNCTIONS_OF:
                pending += [getattr(thing, name) for name in _FUNCTIONS_OF[type(thing)]]
            elif not isinstance(thing, ObjectID):
                pending.append(type(thing))
                if thing is function:
                    pending.append(getattr(thing, "__wrapped__", None))

    def _watch_class(self, made: type, pending: list[Any]) -> None:
        pending += (type(made), *made.__mro__[1:])
        content = vars(made)
        for name, thing in content.items():
            if isinstance(thing, FunctionType) or type(thing) in _FUNCTIONS_OF:
                self._globals.append((content, name, thing))
            pending.append(thing)

    def _watch(self, function: FunctionType, pending: list[Any], named: set[tuple[int, str]]) -> None:
        self._functions.append((function, function.__code__, function.__defaults__, function.__kwdefaults__))
        for cell in function.__closure__ or ():
            try:
                content = cell.cell_contents
            except ValueError:
                content = _MISSING
            self._cells.append((cell, content))
            pending.append(content)
        namespace = function.__globals__
        for name in referenced_globals(function.__code__):
            if (id(namespace), name) in named:
                continue
            named.add((id(namespace), name))
            content = namespace.get(name, _MISSING)
            if content is _MISSING and hasattr(builtins, name):
                continue
            if isinstance(content, type(sys)):
                continue  # a module: rebinding its name to another one is no way to change a program
            self._globals.append((namespace, name, content))
            pending.append(content)

    def holds(self) -> bool:
        """Tell whether nothing has changed."""
        for function, code, defaults, keyword_defaults in self._functions:
            if (
                function.__code__ is not code
                or function.__defaults__ is not defaults
                or function.__kwdefaults__ is not keyword_defaults
            ):
                return False
        for namespace, name, content in self._globals:
            if namespace.get(name, _MISSING) is not content:
                return False
        for cell, content in self._cells:
            try:
                if cell.cell_contents is not content:
                    return False
            except ValueError:
                if content is not _MISSING:
                    return False
        return True
