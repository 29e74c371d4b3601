"""What the object manager knows of one object."""

from __future__ import annotations

import msgspec

from sundog.core.ids import Address, ObjectID
from sundog.core.task import Value


class ObjectRecord(msgspec.Struct):
    """An object that somebody holds."""

    #: None until it is sealed.
    value: Value | None = None
    contained: tuple[ObjectID, ...] = ()
    #: What made it, for people.
    name: str = ""
    #: Clients to be answered, with the value or with the news; None when nobody waits (most objects, most of the time).
    wanting: list[Address] | None = None
    watching: list[Address] | None = None
    #: The local scheduler waits for it.
    needed: bool = False
    #: A task has it as an argument, and would fail with it.
    argument: bool = False
    #: A failure that somebody has been told of.
    heard: bool = False
    #: How many returns its task has.
    returns: int = 1
