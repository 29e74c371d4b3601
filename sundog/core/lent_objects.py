"""What the object manager of a node in a cluster lends to others, and borrows: the two ends of a copy.

Who has an object is asked for its value (FetchRequested), and pins it until the asker says that it has the bytes. What is asked
for, and when, is decided by ``pull``; here its answers meet the objects and the room for them.
"""

from __future__ import annotations

from sundog.core import events as ev
from sundog.core import messages as msg
from sundog.core.cluster_objects import ClusterObjectManager
from sundog.core.ids import Address
from sundog.core.machine import Handlers
from sundog.core.messages import ReadyObject
from sundog.core.pull import Arrived
from sundog.core.task import REMOTE


class LendingObjectManager(ClusterObjectManager):
    """See the module."""

    HEARS = (
        *ClusterObjectManager.HEARS, msg.FetchRequested, msg.FetchAnswered, msg.ExtentGranted, msg.ExtentRefused,
        ev.FetchFinished, ev.FetchFailed,
    )  # fmt: skip

    def _table(self) -> Handlers:
        return super()._table() | {
            msg.FetchRequested: self._on_fetch_requested,
            msg.FetchAnswered: self._on_fetch_answered,
            msg.ExtentGranted: self._on_extent_granted,
            msg.ExtentRefused: self._on_extent_refused,
            ev.FetchFinished: self._on_fetch_finished,
            ev.FetchFailed: self._on_fetch_failed,
        }

    def _on_fetch_requested(self, sender: Address, fact: msg.FetchRequested) -> None:
        record = self.objects.get(fact.object_id)
        value = record.value if record is not None else None
        answer = msg.FetchAnswered(fact.object_id, fact.attempt)
        if record is not None and value is not None and value.offset != REMOTE:
            self.ledger.grant(fact.object_id, sender)
            answer = msg.FetchAnswered(fact.object_id, fact.attempt, value, record.contained)
        self._say(sender, answer)

    def _on_fetch_answered(self, sender: Address, fact: msg.FetchAnswered) -> None:
        self._arrive(self.pulls.answered(sender, fact))

    def _on_fetch_finished(self, sender: Address, fact: ev.FetchFinished) -> None:
        self._arrive(self.pulls.finished(fact.attempt))

    def _arrive(self, arrived: Arrived | None) -> None:
        if arrived is None:
            return
        record = self.objects.get(arrived.object_id)
        if record is None or record.value is None or record.value.offset != REMOTE:
            self._discard(arrived.value, self._here)
            return
        self._seal(arrived.object_id, record, arrived.value, arrived.contained, self._here)

    def _on_fetch_failed(self, sender: Address, fact: ev.FetchFailed) -> None:
        offset = self.pulls.failed(fact.attempt)
        if offset is not None:
            self._release(self.ledger.abandon(offset, self._here, written=True))

    def _on_extent_granted(self, sender: Address, fact: msg.ExtentGranted) -> None:
        if not self.pulls.granted(fact.request, fact.offset):
            self._release(self.ledger.abandon(fact.offset, self._here, written=fact.warm))

    def _on_extent_refused(self, sender: Address, fact: msg.ExtentRefused) -> None:
        """No room for a copy: whoever waits for it now is told; the object itself is well."""
        object_id = self.pulls.refused(fact.request)
        record = self.objects.get(object_id) if object_id is not None else None
        if object_id is None or record is None:
            return
        for client in record.wanting or ():
            self._ready[client].append(ReadyObject(object_id, fact.value))
        record.wanting = None
        if record.needed:
            record.needed = False
            self._ready[self._here].append(ReadyObject(object_id, fact.value))
