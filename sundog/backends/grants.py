"""Grants: what pins an extent of the arena for this process, as Python objects. One that dies is returned.

The client machine delivers a value that lies in the arena with one grant. It becomes a :class:`Grant` as it reaches whoever asked,
and all that is made of the extent holds that one object. So wherever an interrupt falls, either somebody refers to the grant, or
it has been returned.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import repeat
from operator import attrgetter
from typing import Any

from sundog.backends.told_death import told_death
from sundog.core.actions import ResolveGet
from sundog.core.events import PinDropped
from sundog.core.ids import ObjectID
from sundog.core.machine import Action

_offset_of = attrgetter("offset")


class Grant(bytes):
    """The ObjectID of a pinned extent; see the module. Made by :class:`Grants`."""

    __slots__ = ()


class Granted:
    """A ResolveGet some of whose values lie in the arena, with their ``grants``: one for each distinct ID."""

    __slots__ = ("grants", "request", "values")

    def __init__(self, answer: ResolveGet, grants: dict[bytes, Grant]) -> None:
        self.request = answer.request
        self.values = answer.values
        self.grants = grants


Answer = Action | Granted


class Grants:
    """Makes the grants of one session: their deaths go into ``facts``."""

    __slots__ = ("_kind",)

    def __init__(self, facts: deque[Any]) -> None:
        self._kind: type[Grant] = type("Grant", (Grant,), told_death(facts, PinDropped))

    def taken(self, object_ids: Iterable[bytes]) -> list[Grant]:
        """Return an object for each of the grants that have come with ``object_ids``."""
        return list(map(bytes.__new__, repeat(self._kind), object_ids))

    def of_answer(self, answer: Action, object_ids: tuple[ObjectID, ...]) -> Answer:
        """Return ``answer``, to a get of ``object_ids``, with its grants if it comes with some."""
        if type(answer) is not ResolveGet or max(map(_offset_of, answer.values), default=-1) < 0:
            return answer
        granted = {object_id: None for object_id, value in zip(object_ids, answer.values, strict=True) if value.offset >= 0}
        return Granted(answer, dict(zip(granted, self.taken(granted), strict=True)))
