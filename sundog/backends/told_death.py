"""Telling of deaths without a line of Python.

In a ``__del__`` written in Python, Ctrl-C would strike at its first instruction, be swallowed there, and what died would count as
alive for ever. ``operator.attrgetter`` walks three properties that C calls: copy the bytes, wrap them, put them into the deque.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache, partial
from itertools import starmap
from operator import attrgetter
from struct import Struct
from typing import Any

from sundog.core.ids import OBJECT_ID_BYTES
from sundog.core.machine import Fact

_ONE_ID = Struct(f"{OBJECT_ID_BYTES}s")


def told_death(facts: deque[Any], kind: type[Fact]) -> dict[str, Any]:
    """Return what a subclass of ``bytes`` needs: the death of each instance, an ObjectID, appends ``kind`` of it to ``facts``."""

    class Dropped(starmap):  # type: ignore[type-arg]  # generic for type checkers only
        __slots__ = ()
        told = property(facts.extend)

    class Copy(bytes):
        __slots__ = ()
        __iter__ = lru_cache(maxsize=0)(_ONE_ID.iter_unpack)  # type: ignore[assignment]  # binds like a method, in C
        dropped = property(partial(Dropped, kind))

    return {
        "__slots__": (),
        "_copy": property(Copy),
        "__del__": lru_cache(maxsize=0)(attrgetter("_copy.dropped.told")),
    }
