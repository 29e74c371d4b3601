"""The objects of a node that somebody holds, from their making until nobody does: what of the object manager hears no messages.

Everything that is said here is gathered: what is ready, for each client and for the scheduler, and all else as it comes. Nothing
is freed in the midst of a batch: who has no holder left is noted, and looked at again when the host has heard all of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from sundog.core import messages as msg
from sundog.core.actions import ReleasePages, Send
from sundog.core.asked_objects import AskedObjects
from sundog.core.config import Config
from sundog.core.ids import Address, NodeID, ObjectID
from sundog.core.journal import Journal
from sundog.core.machine import Action, Fact
from sundog.core.messages import ReadyObject
from sundog.core.object_record import ObjectRecord, mark_heard, siblings
from sundog.core.references import References
from sundog.core.store_ledger import StoreLedger
from sundog.core.task import FailureKind, Value, failed
from sundog.core.units import Nanos

LOST = failed(
    FailureKind.OBJECT_LOST,
    "no such object: it was freed because its last reference was gone, or its ID comes from another session. "
    "Keep an ObjectID alive as long as the object is needed.",
)


class ObjectTable:
    """See the module. ``here`` is the address of the host itself: its local scheduler hears what is sent there."""

    #: Whether there are, or may be, other nodes: see ``cluster_objects``.
    _CLUSTERED = False

    def __init__(self, config: Config, node: NodeID, here: Address, driver: Address) -> None:
        self._config = config
        self._node = node
        self._here = here
        self._driver = driver
        self._now: Nanos = 0
        #: O1.
        self.objects: dict[ObjectID, ObjectRecord] = {}
        self.references = References()
        self.asked = AskedObjects(self.objects, driver)
        self.ledger = StoreLedger(config.arena_bytes, config.extent_alignment, config.warm_bytes_max)
        #: What this step says, as it comes; and, gathered, which objects are ready, to clients and to the scheduler, ``here``.
        self._said: list[Action] = []
        self._ready: defaultdict[Address, list[ReadyObject]] = defaultdict(list)
        #: Until the host's step ends: what had no holder left at some time in it.
        self._unheld: list[ObjectID] = []
        #: Whether something is to be looked at when the host has heard everything.
        self.unsettled = False
        #: Who was born and who is gone, for the control store; None when nobody asks.
        self.journal: Journal | None = None

    # -- becoming ready ------------------------------

    def _seal(
        self, object_id: ObjectID, record: ObjectRecord, value: Value, contained: tuple[ObjectID, ...], writer: Address
    ) -> None:
        """The object is ready and never changes again: tell all who wait."""
        if record.value is not None:
            self._discard(value, writer)
            return
        if record.spec is not None:
            record.name, record.spec = record.spec.name, None
        if value.offset >= 0 and not self.ledger.seal(value.offset, object_id, writer):
            value = failed(FailureKind.OBJECT_LOST, f"{record.name}: its bytes were not where its writer said")
        record.value = value
        if self.journal is not None:
            self.journal.objects_born.append(object_id)
        if contained:
            record.contained = contained
            for inner in contained:
                self._hold(inner)
        if record.wanting is not None:
            for client in record.wanting:
                self._give(client, object_id, record)
            record.wanting = None
        if record.watching is not None:
            for client in record.watching:
                self._say_news(client, object_id, value)
            record.watching = None
        if record.needed:
            self._tell_scheduler(object_id, record)

    def _give(self, client: Address, object_id: ObjectID, record: ObjectRecord) -> None:
        """Deliver a ready object's value, with one grant if it lies in the arena."""
        value = record.value
        assert value is not None
        if value.offset >= 0:
            self.ledger.grant(object_id, client)
        elif value.error:
            mark_heard(self.objects, object_id, record)
        self._ready[client].append(ReadyObject(object_id, value))

    def _say_news(self, client: Address, object_id: ObjectID, value: Value) -> None:
        """Tell the news; with a small value, since it is wanted next. Not with an error: that counts as heard once it is got."""
        small = value.offset == -1 and not value.error and value.size <= self._config.news_bytes_max
        self._ready[client].append(ReadyObject(object_id, value if small else None))

    def _need(self, object_id: ObjectID, record: ObjectRecord) -> None:
        if record.value is None:
            record.needed = True
        else:
            self._tell_scheduler(object_id, record)

    def _tell_scheduler(self, object_id: ObjectID, record: ObjectRecord) -> None:
        record.needed = False
        if record.argument and record.value is not None and record.value.error:
            mark_heard(self.objects, object_id, record)  # what depends on it fails with the same cause
        self._ready[self._here].append(ReadyObject(object_id, record.value))

    # -- holding and letting go ------------------------------

    def _hold(self, object_id: ObjectID) -> ObjectRecord:
        """A task or container holds ``object_id``; an ID that nobody holds becomes one that is known to be lost."""
        record = self.objects.get(object_id)
        if record is None:
            record = self.objects[object_id] = ObjectRecord(value=LOST, heard=True)
        record.holders += 1
        return record

    def _let_go(self, object_ids: Iterable[ObjectID]) -> None:
        """A task holds these no longer."""
        for object_id in object_ids:
            record = self.objects[object_id]
            record.holders = left = record.holders - 1
            if not left:
                self._unheld.append(object_id)
                self.unsettled = True

    def _free(self, unheld: list[ObjectID]) -> None:
        """Forget those of ``unheld`` that nobody holds, and with them what only they held."""
        objects = self.objects
        for object_id in unheld:  # which grows meanwhile
            record = objects.get(object_id)
            if record is None or record.holders or (self._CLUSTERED and self._retain(object_id, record)):
                continue
            del objects[object_id]
            value = record.value
            if value is None:
                if record.wanting or record.watching:
                    self._answer_lost(object_id, record)
                continue
            if self.journal is not None:
                self.journal.objects_gone.append(object_id)
            for inner in record.contained:
                objects[inner].holders -= 1
                unheld.append(inner)
            if value.offset >= 0:
                self._release(self.ledger.free(object_id))
            elif value.error and not record.heard and not siblings(objects, object_id, record.returns):
                self._say_unheard(record.name, object_id, value)  # with the last return of its task

    def _retain(self, object_id: ObjectID, record: ObjectRecord) -> bool:
        """An object goes: tell whether it stays after all, because other nodes need it."""
        return False

    def _answer_lost(self, object_id: ObjectID, record: ObjectRecord) -> None:
        """Who asked and then let go is answered too."""
        for client in record.wanting or ():
            self._ready[client].append(ReadyObject(object_id, LOST))
        for client in record.watching or ():
            self._ready[client].append(ReadyObject(object_id))

    def _say_unheard(self, name: str, object_id: ObjectID, value: Value) -> None:
        if value.failure is None or value.failure.kind is not FailureKind.CANCELLED:
            self._say(self._driver, msg.FailureUnheard(name, object_id, value))

    # -- saying ------------------------------

    def _discard(self, value: Value, writer: Address) -> None:
        if value.offset >= 0:
            self._release(self.ledger.abandon(value.offset, writer, written=True))

    def _release(self, stretches: list[tuple[int, int]]) -> None:
        """The pages of these stretches, (offset, size) in bytes, go back to the system."""
        for offset, size in stretches:
            self._said.append(ReleasePages(offset, size))

    def _say(self, to: Address, message: Fact) -> None:
        self._said.append(Send(to, message))
