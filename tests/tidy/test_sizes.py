"""Files and functions stay small enough to be read at a sitting."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.tidy.sources import place, python_files, tree

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70

FILES = python_files("sundog", "tests")


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(path.parts[-3:]))
def test_sizes(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= FILE_LINES_MAX, f"{path} has {lines} lines; at most {FILE_LINES_MAX}"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            where = f"{place(path, node)} {node.name}"
            assert length <= FUNCTION_LINES_MAX, f"{where} has {length} lines; at most {FUNCTION_LINES_MAX}"


def test_there_is_something_to_look_at() -> None:
    assert len(FILES) > 40
