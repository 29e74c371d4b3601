"""Which gets of a client's threads wait for the value of which object, in the order of their asking. A part of the client.

Nearly always it is one. Whoever stands behind it can go without a look at the others, and the first of them is found at once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from sundog.core.errors import InvariantViolation
from sundog.core.ids import ObjectID

#: The number of no request.
NOBODY = 0


class Deliveries:
    """See the module. Requests are numbered from 1."""

    __slots__ = ("behind", "first")

    def __init__(self) -> None:
        #: ID whose value the node was asked for -> the first request that waits for it; NOBODY if all have given up.
        self.first: dict[ObjectID, int] = {}
        #: Those behind the first, if there are any.
        self.behind: dict[ObjectID, OrderedDict[int, None]] = {}

    def join(self, object_id: ObjectID, number: int) -> None:
        """Another request waits for a value that the node was asked for."""
        if self.first[object_id] == NOBODY:
            self.first[object_id] = number
            return
        behind = self.behind.get(object_id)
        if behind is None:
            behind = self.behind[object_id] = OrderedDict()
        behind[number] = None

    def take(self, object_id: ObjectID) -> int:
        """Remove and return the first that waits; NOBODY if nobody does. The next is first then."""
        number = self.first.pop(object_id, NOBODY)
        if self.behind:
            self._move_up(object_id)
        return number

    def take_behind(self, object_id: ObjectID) -> Iterable[int]:
        """Remove and return all behind the first, which was removed."""
        return self.behind.pop(object_id, ())

    def _move_up(self, object_id: ObjectID) -> None:
        behind = self.behind.get(object_id)
        if behind is not None:
            self.first[object_id], _ = behind.popitem(last=False)
            if not behind:
                del self.behind[object_id]

    def give_up(self, number: int, object_ids: Iterable[ObjectID]) -> None:
        """The request waits for none of these any more. The node answers all the same."""
        for object_id in object_ids:
            if self.first.get(object_id) == number:
                self.first[object_id] = NOBODY
                if self.behind:
                    self._move_up(object_id)
            elif (behind := self.behind.get(object_id)) is not None:
                behind.pop(number, None)
                if not behind:
                    del self.behind[object_id]

    def waits(self, number: int, object_id: ObjectID) -> bool:
        """Tell whether the request waits for the value of ``object_id``."""
        return self.first.get(object_id) == number or number in self.behind.get(object_id, ())

    def check_invariants(self) -> None:
        """Raise InvariantViolation unless somebody stands before those that stand behind."""
        for object_id, behind in self.behind.items():
            first = self.first.get(object_id, NOBODY)
            if first == NOBODY or not behind or first in behind:
                raise InvariantViolation(f"{[*behind]} stand behind {first} for {object_id.hex()}")
