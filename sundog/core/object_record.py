"""What the object manager knows of one object."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from sundog.core.errors import InvariantViolation
from sundog.core.ids import Address, ObjectID, TaskID, producer_of, return_ids
from sundog.core.references import References
from sundog.core.task import REMOTE, TaskSpec, Value


class ObjectRecord(msgspec.Struct, gc=False):
    """An object that somebody holds. It is in no cycle of references, so the collector need not look at a million of them."""

    #: None until it is sealed.
    value: Value | None = None
    contained: tuple[ObjectID, ...] = ()
    #: What made it, for people; while ``spec`` is there, that says it.
    name: str = ""
    #: How many returns its task has.
    returns: int = 1
    #: Processes, tasks and containers that hold it (``references``); 0 while it stays for other nodes only, or is about to go.
    holders: int = 0
    #: The task that makes it, until it is sealed; of tasks that were submitted here.
    spec: TaskSpec | None = None
    #: Clients to be answered, with the value or with the news; None when nobody waits (most objects, most of the time).
    wanting: tuple[Address, ...] | None = None
    watching: tuple[Address, ...] | None = None
    #: The local scheduler waits for it.
    needed: bool = False
    #: A task has it as an argument, and would fail with it.
    argument: bool = False
    #: A failure that somebody has been told of.
    heard: bool = False


def siblings(objects: Mapping[ObjectID, ObjectRecord], object_id: ObjectID, returns: int) -> list[ObjectRecord]:
    """Return the records of all returns of a task that somebody holds; nothing for its only one."""
    if returns == 1:
        return []
    return [objects[o] for o in return_ids(producer_of(object_id), returns) if o in objects]


def mark_heard(objects: Mapping[ObjectID, ObjectRecord], object_id: ObjectID, record: ObjectRecord) -> None:
    """Somebody was told of this failure, so of its task: no return of it needs to be printed at the end."""
    if record.heard:
        return  # and so are all returns of its task
    record.heard = True
    for sibling in siblings(objects, object_id, record.returns):
        sibling.heard = True


def unheard_failures(objects: Mapping[ObjectID, ObjectRecord]) -> list[tuple[ObjectID, ObjectRecord]]:
    """Return the failures that nobody was told of, one for each task."""
    found: dict[TaskID, tuple[ObjectID, ObjectRecord]] = {}
    for object_id, record in objects.items():
        if record.value is not None and record.value.error and not record.heard:
            found.setdefault(producer_of(object_id), (object_id, record))
    return list(found.values())


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
    counts = {object_id: record.holders for object_id, record in objects.items() if record.holders}
    if expected != counts:
        both = {**expected, **counts}
        wrong = [o.hex() for o in both if expected.get(o) != counts.get(o)]
        raise InvariantViolation(f"holder counts differ for {wrong} (R4)")
    if objects.keys() != counts.keys() | dict.fromkeys(retained).keys():
        raise InvariantViolation("objects and held objects differ (O1)")
    for object_id, record in objects.items():
        here = record.value is not None and record.value.offset != REMOTE
        if here and (record.wanting or record.watching or record.needed):
            raise InvariantViolation(f"{object_id.hex()} is ready and waited for (O2)")
