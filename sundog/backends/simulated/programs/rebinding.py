"""Functions of the standard library, replaced for the length of a session: in their modules, and by name in the user's modules.

``from time import sleep`` binds a function to a name, so replacing ``time.sleep`` would not reach it: user modules that have
the function by name are given the replacement, and everything is put back at the end, in modules that came later too.
What is kept elsewhere (a default argument, an attribute of an object) stays what it was.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Callable
from types import ModuleType
from typing import Any

from sundog.backends.after_import import AfterImport

#: Packages, beside the standard library, that always see the real world: what runs the user's program, and ourselves.
_TOOLS = frozenset(
    {
        "_pytest", "coverage", "debugpy", "execnet", "greenlet", "hypothesis", "iniconfig", "msgspec", "pluggy", "pydevd", "pytest",
        "pytest_timeout", "simpy", "sundog", "xdist",
    }
)  # fmt: skip
_STDLIB = tuple({os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib")})
_THIRD_PARTY = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
_verdicts: dict[str, bool] = {}


def is_user_module(name: str | None, file: str | None = None) -> bool:
    """Tell whether ``name`` is a module of the user's, or of a library that serves it, rather than stdlib or tool."""
    if name is None or name == "__main__":
        return True
    verdict = _verdicts.get(name)
    if verdict is None:
        verdict = _verdicts[name] = _judge(name, file)
    return verdict


def _judge(name: str, file: str | None) -> bool:
    top = name.partition(".")[0]
    if top in _TOOLS:
        return False
    if top not in sys.stdlib_module_names:
        return True
    if file is None:
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
    if file is None:
        return False  # built in
    path = os.path.realpath(file)
    return not path.startswith(_STDLIB) or any(part in path for part in _THIRD_PARTY)  # a user's module of the same name


class Rebinding:
    """What has been replaced. :meth:`restore` puts everything back."""

    def __init__(self) -> None:
        self._attributes: list[tuple[Any, str, Any, Any]] = []
        self._finders: list[AfterImport] = []
        self._undo: list[Callable[[], None]] = []

    def replace(self, owner: Any, name: str, new: Any) -> Any:
        """Set ``owner.name``, and later reset it; return what it was."""
        old = getattr(owner, name)
        self._attributes.append((owner, name, old, new))
        setattr(owner, name, new)
        return old

    def on_restore(self, undo: Callable[[], None]) -> None:
        """Call ``undo()`` when everything is put back."""
        self._undo.append(undo)

    def after_import(self, name: str, call: Callable[[ModuleType], None]) -> None:
        """Call ``call(module)`` once the module is loaded: now, if it is."""
        module = sys.modules.get(name)
        if module is not None:
            call(module)
            return
        finder = AfterImport(name, call)
        self._finders.append(finder)
        sys.meta_path.insert(0, finder)

    def rebind_names(self) -> None:
        """Give user modules that have a replaced function by name the replacement."""
        swap = {id(old): (old, new) for owner, _, old, new in self._attributes if isinstance(owner, ModuleType)}
        _rebind(swap, only_users=True)

    def restore(self) -> None:
        """Put everything back. Every part is tried, whatever the others do. Idempotent."""
        while self._finders:
            finder = self._finders.pop()
            if finder in sys.meta_path:
                sys.meta_path.remove(finder)
        swap = {id(new): (new, old) for owner, _, old, new in self._attributes if isinstance(owner, ModuleType)}
        while self._attributes:
            owner, name, old, new = self._attributes.pop()
            if getattr(owner, name, None) is new:
                setattr(owner, name, old)
        _rebind(swap, only_users=False)
        while self._undo:
            self._undo.pop()()


def _rebind(swap: dict[int, tuple[Any, Any]], *, only_users: bool) -> None:
    for name, module in list(sys.modules.items()):
        names = getattr(module, "__dict__", None)
        if type(names) is not dict or (only_users and not is_user_module(name, names.get("__file__"))):
            continue
        for key, value in list(names.items()):
            pair = swap.get(id(value))
            if pair is not None and pair[0] is value:
                names[key] = pair[1]
