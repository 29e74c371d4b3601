"""What the object manager knows of one object."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from sundog.core.errors import InvariantViolation
from sundog.core.ids import Address, ObjectID
from sundog.core.references import References
from sundog.core.task import REMOTE, Value


class ObjectRecord(msgspec.Struct, gc=False):
    """An object that somebody holds. It is in no cycle of references, so the collector need not look at a million of them."""

    #: None until it is sealed.
    value: Value | None = None
    contained: tuple[ObjectID, ...] = ()
    #: What made it, for people.
    name: str = ""
    #: How many returns its task has.
    returns: int = 1
    #: Clients to be answered, with the value or with the news; None when nobody waits (most objects, most of the time).
    wanting: list[Address] | None = None
    watching: list[Address] | None = None
    #: The local scheduler waits for it.
    needed: bool = False
    #: A task has it as an argument, and would fail with it.
    argument: bool = False
    #: A failure that somebody has been told of.
    heard: bool = False


def check_records(
    objects: Mapping[ObjectID, ObjectRecord],
    references: References,
    mentions: Iterable[ObjectID],
    retained: Collection[ObjectID],
) -> None:
    """Raise InvariantViolation unless O1, O2 and R4 hold.

    ``mentions`` are those by unfinished tasks; ``retained`` what exists here only for other nodes.
    """
    contained = [o for record in objects.values() for o in record.contained]
    expected = references.expected([*mentions, *contained])
    if expected != references.counts:
        both = {**expected, **references.counts}
        wrong = [o.hex() for o in both if expected.get(o) != references.counts.get(o)]
        raise InvariantViolation(f"holder counts differ for {wrong} (R4)")
    if objects.keys() != references.counts.keys() | dict.fromkeys(retained).keys():
        raise InvariantViolation("objects and held objects differ (O1)")
    for object_id, record in objects.items():
        here = record.value is not None and record.value.offset != REMOTE
        if here and (record.wanting or record.watching or record.needed):
            raise InvariantViolation(f"{object_id.hex()} is ready and waited for (O2)")
