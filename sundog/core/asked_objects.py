"""What each worker of a node has asked for, so that at its end nobody need look through all objects. A part of the object manager.

Answers are not noted: once a list has doubled, what is answered is swept out of it. So asking costs the same on average however
many objects there are, and a list is no longer than twice what its worker waits for, and a little. The driver's questions are not
noted: when it ends, so does the session, and all objects are looked through once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from sundog.core.errors import InvariantViolation
from sundog.core.ids import Address, ObjectID
from sundog.core.object_record import ObjectRecord

#: Lists up to this length are never swept.
_SWEPT_MIN = 64


class _Asked(msgspec.Struct):
    object_ids: list[ObjectID]
    #: It is swept, when more is asked for, if it is longer.
    length_max: int = _SWEPT_MIN


class AskedObjects:
    """See the module. ``objects`` is the owner's table."""

    __slots__ = ("_by_worker", "_driver", "_objects")

    def __init__(self, objects: Mapping[ObjectID, ObjectRecord], driver: Address) -> None:
        self._objects = objects
        self._driver = driver
        self._by_worker: dict[Address, _Asked] = {}

    def add(self, worker: Address, object_ids: Iterable[ObjectID]) -> None:
        """The worker may stand among those that wait for these."""
        asked = self._by_worker.get(worker)
        if asked is None:
            asked = self._by_worker[worker] = _Asked([])
        if len(asked.object_ids) > asked.length_max:
            asked.object_ids = list(filter(self._is_awaited, dict.fromkeys(asked.object_ids)))
            asked.length_max = _SWEPT_MIN + 2 * len(asked.object_ids)
        asked.object_ids += object_ids  # after sweeping: it does not stand there yet

    def _is_awaited(self, object_id: ObjectID) -> bool:
        record = self._objects.get(object_id)
        return record is not None and (record.wanting is not None or record.watching is not None)

    def by(self, client: Address) -> Collection[ObjectID]:
        """Return all that the client waits for, and more, some of it perhaps twice."""
        if client == self._driver:
            return self._objects.keys()
        asked = self._by_worker.get(client)
        return () if asked is None else asked.object_ids

    def client_lost(self, client: Address) -> None:
        """The client is gone, and waits for nothing any more."""
        for object_id in self.by(client):
            record = self._objects.get(object_id)
            if record is not None:
                record.wanting = _without(client, record.wanting)
                record.watching = _without(client, record.watching)
        self._by_worker.pop(client, None)

    def check_invariants(self) -> None:
        """Raise InvariantViolation unless every worker that waits for an object is known to have asked for it."""
        asked = {worker: {*asked.object_ids} for worker, asked in self._by_worker.items()}
        for object_id, record in self._objects.items():
            for client in (*(record.wanting or ()), *(record.watching or ())):
                if client != self._driver and object_id not in asked.get(client, ()):
                    raise InvariantViolation(f"{client} waits for {object_id.hex()} and is not known to have asked")


def _without(client: Address, clients: tuple[Address, ...] | None) -> tuple[Address, ...] | None:
    return tuple([other for other in clients if other != client]) or None if clients else None
