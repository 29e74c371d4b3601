"""Whether a function still is what was exported: a list of everything that its pickle was made of, compared by identity.

Watched are the code, defaults and closure cells of the function, the globals that its code names (also those that do not exist
yet), and the same for all functions among them that travel by value. A change *inside* an object, say an element appended to a
global list, is not seen.
"""

from __future__ import annotations

import builtins
import sys
from functools import _lru_cache_wrapper as LruCache
from functools import lru_cache, partial
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

from sundog.backends.pickling import by_reference

_MISSING: Any = object()
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


class Fingerprint:
    """What ``function`` was made of when this was created. :meth:`holds` costs about 50 ns for each global and cell."""

    __slots__ = ("_cells", "_functions", "_globals")

    def __init__(self, function: Any) -> None:
        self._functions: list[tuple[FunctionType, CodeType, Any, Any]] = []
        self._globals: list[tuple[dict[str, Any], str, Any]] = []
        self._cells: list[tuple[CellType, Any]] = []
        seen: set[int] = set()
        pending = [function]
        while pending:
            thing = pending.pop()
            if id(thing) in seen:
                continue
            seen.add(id(thing))
            if isinstance(thing, FunctionType):
                if thing is function or not by_reference(thing):
                    self._watch(thing, pending)
            elif isinstance(thing, MethodType):
                pending.append(thing.__func__)
            elif isinstance(thing, partial):
                pending.append(thing.func)
            elif isinstance(thing, LruCache) or hasattr(type(thing), "__sundog_reduce__"):
                pending.append(thing.__wrapped__)
            elif thing is function:
                pending.append(getattr(thing, "__wrapped__", None))

    def _watch(self, function: FunctionType, pending: list[Any]) -> None:
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
