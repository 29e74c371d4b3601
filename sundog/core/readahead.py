"""Which objects a thread wants next that takes results one by one, in the order in which it made them.

Names count up, so the next ones can be told from the last. As in a file system: two misses in a row begin it, and each time the
reader arrives where the last stretch ended, the next one is twice as long.
"""

from __future__ import annotations

from collections.abc import Container

from sundog.core.ids import PREFIX_BYTES, TASK_ID_BYTES, ObjectID, is_put

#: Objects asked for ahead of the reader, at first and at most.
AHEAD_MIN = 16
AHEAD_MAX = 512
_LIMIT = (1 << 31) - 1


class Readahead:
    """See the module."""

    __slots__ = ("_expected", "_length")

    def __init__(self) -> None:
        self._expected: ObjectID | None = None
        self._length = AHEAD_MIN

    def after(self, object_id: ObjectID, held: Container[ObjectID]) -> list[ObjectID]:
        """``object_id`` was asked for alone and not here: return what should be asked for with it, all of it ``held``."""
        follows = object_id == self._expected
        head, at, tail = _parts(object_id)
        found: list[ObjectID] = []
        if follows:
            while len(found) < self._length and at < _LIMIT:
                candidate = _name(head, at + 1, tail)
                if candidate not in held:
                    break
                found.append(candidate)
                at += 1
        self._length = min(2 * self._length, AHEAD_MAX) if found else AHEAD_MIN
        self._expected = _name(head, at + 1, tail) if at < _LIMIT else None
        return found


def _parts(object_id: ObjectID) -> tuple[bytes, int, bytes]:
    """Return what stands before the number that counts up, the number, and what stands after it."""
    if is_put(object_id):
        return object_id[:TASK_ID_BYTES], int.from_bytes(object_id[TASK_ID_BYTES:], "big") & _LIMIT, b""
    return (
        object_id[:PREFIX_BYTES],
        int.from_bytes(object_id[PREFIX_BYTES:TASK_ID_BYTES], "big") & _LIMIT,
        object_id[TASK_ID_BYTES:],
    )


def _name(head: bytes, number: int, tail: bytes) -> ObjectID:
    if not tail:
        number |= _LIMIT + 1
    return ObjectID(head + number.to_bytes(4, "big") + tail)
