"""A view of the arena lives as long as whatever was made of it, however numpy was asked to make it."""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy
import pytest

from sundog.backends.grants import Grants
from sundog.backends.local_processes.arena import SharedArena, create_arena
from sundog.core.events import PinDropped
from sundog.core.ids import OBJECT_ID_BYTES, ObjectID
from tests.support.deaths import TellsItsDeath

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
    view = arena.read(0, SIZE, TellsItsDeath(partial(died.append, True)))
    array = WAYS[way](view)
    del view
    part = array.reshape(-1, 8)[1:]
    del array
    gc.collect()
    assert not died
    del part
    assert died == [True]
    arena.close()


@pytest.mark.parametrize("own_mapping", [False, True])
def test_no_line_of_python_runs_when_a_view_dies(own_mapping: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """There Ctrl-C would strike, be swallowed, and the grant be lost for ever."""
    arena = SharedArena(create_arena(SIZE), SIZE)
    if own_mapping:
        monkeypatch.delitem(sys.modules, "numpy")
    facts: deque[Any] = deque()
    names = [b"first".ljust(OBJECT_ID_BYTES), b"second".ljust(OBJECT_ID_BYTES)]
    first, second = (PinDropped(ObjectID(name)) for name in names)
    views = [arena.read(0, SIZE, grant) for grant in Grants(facts).taken(names)]
    entered: list[str] = []

    def profile(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            entered.append(frame.f_code.co_qualname)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        del views[0]
    finally:
        sys.setprofile(before)
    assert entered == []
    assert list(facts) == [first]
    views.clear()
    assert list(facts) == [first, second]
    assert not arena._own_mappings
    arena.close()
