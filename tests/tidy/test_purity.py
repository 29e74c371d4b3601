"""Core is pure: an allow list of imports, no call that reaches outside, no order taken from a set."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tidy.sources import CORE, place, python_files, tree

#: Data structures, arithmetic, names. Nothing that has a clock, a socket, a thread or a die.
ALLOWED = {
    "__future__", "_blake2", "bisect", "collections", "enum", "hashlib", "heapq", "itertools", "math", "msgspec", "operator",
    "struct", "typing",
}  # fmt: skip
#: ``id`` and ``hash`` differ from run to run; the rest reach outside.
REFUSED = {"__import__", "breakpoint", "compile", "eval", "exec", "globals", "hash", "id", "input", "open", "print"}


def impurities(path: Path, module: ast.Module) -> Iterator[str]:
    """Yield what makes a module impure, with its place."""
    sets = _names_of_sets(module)
    for node in ast.walk(module):
        where = place(path, node)
        if isinstance(node, ast.Import):
            for name in node.names:
                if not _allowed(name.name):
                    yield f"{where} imports {name.name}"
        elif isinstance(node, ast.ImportFrom):
            if node.level or not _allowed(node.module or ""):
                yield f"{where} imports from {'.' * node.level}{node.module or ''}"
        elif isinstance(node, ast.Name) and node.id in REFUSED and isinstance(node.ctx, ast.Load):
            yield f"{where} uses {node.id}"
        elif isinstance(node, ast.For | ast.comprehension) and _is_set(node.iter, sets):
            yield f"{place(path, node.iter)} iterates over a set: its order is not that of another run"
        elif _orders_a_set(node, sets):
            yield f"{where} takes an order from a set"
        elif isinstance(node, ast.Global):
            yield f"{where} keeps state in a module"


def _allowed(name: str) -> bool:
    return name.split(".")[0] in ALLOWED or name == "sundog.core" or name.startswith("sundog.core.")


def _names_of_sets(module: ast.Module) -> set[str]:
    """Return names and attributes that are visibly bound to a set, or annotated as one."""
    found: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Assign) and _is_set(node.value, set()):
            found.update(_name(target) for target in node.targets)
        elif isinstance(node, ast.AnnAssign) and (
            _is_set_type(node.annotation) or (node.value is not None and _is_set(node.value, set()))
        ):
            found.add(_name(node.target))
        elif isinstance(node, ast.arg) and node.annotation is not None and _is_set_type(node.annotation):
            found.add(node.arg)
    return found - {""}


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f".{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _is_set_type(node: ast.expr) -> bool:
    base = node.value if isinstance(node, ast.Subscript) else node
    return isinstance(base, ast.Name) and base.id in {"set", "frozenset", "Set", "AbstractSet", "MutableSet"}


def _is_set(node: ast.expr, names: set[str]) -> bool:
    if isinstance(node, ast.Set | ast.SetComp):
        return True
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"set", "frozenset"}:
        return True
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.BitAnd | ast.Sub | ast.BitXor):
        return _is_set(node.left, names) or _is_set(node.right, names)
    return _name(node) in names


def _orders_a_set(node: ast.AST, names: set[str]) -> bool:
    if isinstance(node, ast.Starred):
        return _is_set(node.value, names)
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        return False
    takes_order = node.func.id in {"list", "tuple", "iter", "enumerate", "zip", "map", "next"}
    return takes_order and any(_is_set(argument, names) for argument in node.args)


@pytest.mark.parametrize("path", python_files("sundog/core"), ids=lambda path: path.stem)
def test_core_is_pure(path: Path) -> None:
    found = list(impurities(path, tree(path)))
    assert not found, "\n".join(found)


def test_there_is_a_core_to_look_at() -> None:
    assert len(python_files("sundog/core")) > 20
    assert (CORE / "host.py").exists()


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "import os.path",
        "from random import Random",
        "from sundog.backends import base",
        "from . import ids",
        "def f():\n    import socket",
        "print(1)",
        "key = id(object())",
        "f = hash",
        "for x in {1, 2}: pass",
        "y = [x for x in set((1, 2))]",
        "waiting: set[int] = set()\nfor x in waiting: pass",
        "class C:\n    def f(self):\n        self.a = set()\n        return list(self.a)",
        "def f(ids: frozenset[int]):\n    return tuple(ids - {1})",
        "a = {1}\nb = [*a]",
        "n = 0\ndef f():\n    global n",
    ],
)
def test_the_test_finds(source: str) -> None:
    assert list(impurities(Path("planted.py"), ast.parse(textwrap.dedent(source))))


def test_the_test_lets_pass() -> None:
    source = "import msgspec\nfrom sundog.core.ids import NodeID\nseen = {1}\nsorted(seen)\nok = 1 in seen\nlen(seen)"
    assert not list(impurities(Path("planted.py"), ast.parse(source)))
