"""Ctrl-C anywhere in a get of large values loses no grant: an interrupt at each instruction of ours, one after the other."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest

import sundog
from sundog.backends import current
from tests.support.inspection import store_bytes_used, table
from tests.support.waiting import wait_until

_OURS = os.path.dirname(sundog.__file__) + os.sep
#: So many interrupts later it is looked whether all came free: that takes longer than they do.
_LOOKED_AT_TOGETHER = 20


class InterruptedAt:
    """While within: a KeyboardInterrupt right before the ``count``-th instruction of this thread in sundog's code."""

    def __init__(self, count: int) -> None:
        self._left = count
        self.place = ""

    def __enter__(self) -> InterruptedAt:
        self._before = sys.gettrace()
        sys.settrace(self._entered)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _entered(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(_OURS):
            return None
        frame.f_trace_opcodes = True
        return self._instruction

    def _instruction(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode":
            self._left -= 1
            if self._left < 0 and not self.place:
                self.place = f"{frame.f_code.co_qualname}:{frame.f_lineno}, instruction {frame.f_lasti}"
                raise KeyboardInterrupt
        return self._instruction


def comes_free(used: int) -> bool:
    """Tell whether soon nobody holds an object, and no more than ``used`` bytes are pinned."""
    for seconds in (0.05, 0.5):
        try:
            wait_until(lambda: not table("objects") and store_bytes_used() == used, timeout=seconds)
        except AssertionError:
            gc.collect()  # an event loop that was left has cycles
        else:
            return True
    return False


def interrupted_everywhere(make: Callable[[], list[Any]], get: Callable[[list[Any]], Any]) -> tuple[int, list[list[str]]]:
    """Interrupt ``get`` of what ``make`` puts at one instruction after the other, until it ends unhurt.

    Return how many there were, and groups of places among which are some where an extent was lost: it did not come free with
    the last references.
    """
    lost: list[list[str]] = []
    used = store_bytes_used()
    places: list[str] = []
    count = 0
    while True:
        objects = make()
        at = InterruptedAt(count)
        try:
            with at:
                get(objects)
        except KeyboardInterrupt as error:
            error.__traceback__ = None
        del objects
        places.append(at.place)
        if len(places) == _LOOKED_AT_TOGETHER or not at.place:
            if not comes_free(used):
                lost.append(places)
                used = store_bytes_used()
            places = []
        if not at.place or len(lost) > 2:
            return count, lost
        count += 1


def arrays(count: int) -> Callable[[], list[Any]]:
    return lambda: [sundog.put(np.full(20_000, number)) for number in range(count)]


async def _await(object_id: Any) -> Any:
    return await object_id


WAYS: dict[str, tuple[Callable[[], list[Any]], Callable[[list[Any]], Any]]] = {
    "one array": (arrays(1), lambda objects: sundog.get(objects[0])),
    "several, one of them twice": (arrays(2), lambda objects: sundog.get([*objects, objects[0]])),
    "large and small": (lambda: [sundog.put("x" * 200_000), sundog.put("small")], sundog.get),
    "copied": (lambda: [sundog.put(b"x" * 200_000)], lambda objects: sundog.get(objects[0])),
    "with arrays inside": (lambda: [sundog.put({"a": np.ones(20_000)})], lambda objects: sundog.get(objects[0])),
    "awaited": (arrays(1), lambda objects: asyncio.run(_await(objects[0]))),
}


@pytest.mark.real_processes
@pytest.mark.usefixtures("session")
@pytest.mark.parametrize("way", WAYS)
def test_an_interrupt_at_any_instruction_of_a_get_loses_no_grant(way: str):
    assert current.session is not None
    make, get = WAYS[way]
    get(make())  # what only a first call does
    wait_until(lambda: not table("objects") and not store_bytes_used())
    count, left = interrupted_everywhere(make, get)
    assert not left, f"of {count} places: {left}"
    assert count > 100


@pytest.mark.real_processes
@pytest.mark.usefixtures("session")
def test_an_interrupt_at_any_instruction_of_a_get_loses_no_grant_without_numpy(monkeypatch: pytest.MonkeyPatch):
    assert current.session is not None
    arena: Any = current.session.port.arena
    monkeypatch.setattr(arena, "_exporter", None)
    monkeypatch.setattr(arena, "_find_exporter", lambda: None)
    count, left = interrupted_everywhere(lambda: [sundog.put("x" * 200_000)], lambda objects: sundog.get(objects[0]))
    assert not left, f"of {count} places: {left}"
    assert count > 100
