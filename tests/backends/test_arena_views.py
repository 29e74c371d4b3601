"""A view of the arena lives as long as whatever was made of it, however numpy was asked to make it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy
import pytest

from sundog.backends.local_processes.arena import SharedArena, create_arena

SIZE = 1 << 20


WAYS: dict[str, Callable[[memoryview], Any]] = {
    "frombuffer": lambda view: numpy.frombuffer(view, numpy.uint8),
    "asarray": numpy.asarray,
    "ndarray": lambda view: numpy.ndarray((SIZE,), numpy.uint8, view),
    "ndarray of a slice": lambda view: numpy.ndarray((SIZE - 64,), numpy.uint8, view[64:]),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_array_over_a_view_keeps_it(way: str) -> None:
    arena = SharedArena(create_arena(SIZE), SIZE)
    died: list[bool] = []
    view = arena.read(0, SIZE, lambda: died.append(True))
    array = WAYS[way](view)
    del view
    part = array.reshape(-1, 8)[1:]
    del array
    gc.collect()
    assert not died
    del part
    assert died == [True]
    arena.close()
