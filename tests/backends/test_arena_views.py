"""A view of the arena lives as long as whatever was made of it, however numpy was asked to make it."""

from __future__ import annotations

import gc

import numpy
import pytest

from sundog.backends.local_processes.arena import SharedArena, create_arena

SIZE = 1 << 20


@pytest.mark.parametrize("way", ["frombuffer", "asarray", "ndarray", "ndarray of a slice"])
def test_an_array_over_a_view_keeps_it(way: str) -> None:
    arena = SharedArena(create_arena(SIZE), SIZE)
    died: list[bool] = []
    view = arena.read(0, SIZE, lambda: died.append(True))
    array = {
        "frombuffer": lambda: numpy.frombuffer(view, numpy.uint8),
        "asarray": lambda: numpy.asarray(view),
        "ndarray": lambda: numpy.ndarray((SIZE,), numpy.uint8, view),
        "ndarray of a slice": lambda: numpy.ndarray((SIZE - 64,), numpy.uint8, view[64:]),
    }[way]()
    del view
    part = array.reshape(-1, 8)[1:]
    del array
    gc.collect()
    assert not died
    del part
    assert died == [True]
    arena.close()
