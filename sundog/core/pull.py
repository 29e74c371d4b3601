"""Bringing copies of objects from other nodes: whom to ask, how much at a time, and what to do when it fails.

A part of the object manager of a node in a cluster. An object that many want is fetched once:

LOCATING -somebody has it-> QUEUED -its bytes are allowed-> ASKED -inline answer-> done; -arena answer-> ROOM -an extent-> COPYING
-FetchFinished-> done. A failure in any state: RESTING, then QUEUED again, from another holder if there is one.

Two nodes may be unable to reach each other while the head hears both, so silence is a failure, too: of an answer, or of bytes that
take longer than they may. Who was silent is asked again only where nobody else has the object. Then people are told, and asking
goes on: a copy that exists is not lost, so nothing is computed again until the head says that its node is.

The source pins what it was asked for until it hears PinsReturned. An extent that is being written is given back only after
FetchFinished or FetchFailed: nothing else says that nobody writes there any more.

Invariants: F1. ``bytes`` is the sum of the sizes of pulls that are ASKED, ROOM or COPYING; F2. these have an attempt, by which
their answers find them; an answer to another attempt is undone.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

import msgspec

from sundog.core import messages as msg
from sundog.core.actions import Send, StartFetch, StopFetch
from sundog.core.config import Config
from sundog.core.deadlines import Deadlines
from sundog.core.errors import InvariantViolation
from sundog.core.ids import HOST, Address, NodeID, ObjectID, address, node_of
from sundog.core.machine import Action
from sundog.core.task import Value
from sundog.core.units import Nanos

_DOUBLINGS_MAX = 6
#: What copying may take beyond ``fetch_answer_after``: 5 MB/s.
_NANOS_PER_BYTE = 200
#: So many times in a row nobody who has an object has answered, and people are told.
_SILENCES_TOLD = 2


class PullState(Enum):
    """See the module."""

    LOCATING = "locating"
    QUEUED = "queued"
    ASKED = "asked"
    ROOM = "room"
    COPYING = "copying"
    RESTING = "resting"


_ACTIVE = (PullState.ASKED, PullState.ROOM, PullState.COPYING)


class Pull(msgspec.Struct):
    """One object on its way here."""

    object_id: ObjectID
    state: PullState = PullState.LOCATING
    size: int = 0
    #: Who has it, without this node.
    nodes: tuple[NodeID, ...] = ()
    source: NodeID = NodeID(-1)
    attempt: int = 0
    failures: int = 0
    #: How often in a row there was no answer, or no bytes; and since when it has been asked for.
    silences: int = 0
    asked_at: Nanos = -1
    answer: msg.FetchAnswered | None = None
    offset: int = -1
    #: Nobody wants it any more; only what was begun has to end.
    abandoned: bool = False


class Arrived(msgspec.Struct):
    """A pull that is over: the value as it lies here."""

    object_id: ObjectID
    value: Value
    contained: tuple[ObjectID, ...]


class Pulls:
    """See the module. The owner gives extents, subscribes to locations, seals what arrives, and sends what is ``said``."""

    def __init__(self, config: Config, node: NodeID, said: list[Action]) -> None:
        self._config = config
        self._node = node
        self.under_way: dict[ObjectID, Pull] = {}
        self._attempts: dict[int, Pull] = {}
        self._attempt = 0
        self._queue: deque[Pull] = deque()
        self._resting: Deadlines[ObjectID] = Deadlines()
        #: By when the source has to have answered, or the bytes to be here, by attempt; what began to wait for it in this step.
        self._answers_due: Deadlines[int] = Deadlines()
        self._begun: list[Pull] = []
        #: Nodes that were silent when they were asked last.
        self._silent: dict[NodeID, None] = {}
        #: Pulls of which people should be told that nobody answers.
        self.unanswered: list[Pull] = []
        #: What failed in this step.
        self._failures: list[Pull] = []
        #: Fetches under way, by source.
        self._load: dict[NodeID, int] = {}
        self.bytes = 0
        self._said = said
        #: Attempt -> bytes for which an extent is wanted.
        self.rooms: dict[int, int] = {}

    def __contains__(self, object_id: object) -> bool:
        return object_id in self.under_way

    def __len__(self) -> int:
        return len(self.under_way)

    def want(self, object_id: ObjectID) -> bool:
        """Bring it here; True if that is new, and the owner should ask where it is."""
        pull = self.under_way.get(object_id)
        if pull is not None:
            pull.abandoned = False
            return False
        self.under_way[object_id] = Pull(object_id)
        return True

    def forget(self, object_id: ObjectID) -> None:
        """Nobody wants it any more."""
        pull = self.under_way.get(object_id)
        if pull is None:
            return
        if pull.state is PullState.ROOM:
            self._return_pin(pull)
            self._leave(pull)
        if pull.state in (PullState.ASKED, PullState.COPYING):
            pull.abandoned = True
        else:
            self._end(pull)

    def located(self, object_id: ObjectID, size: int, nodes: tuple[NodeID, ...]) -> None:
        """The directory's answer."""
        pull = self.under_way[object_id]
        pull.nodes = tuple([node for node in nodes if node != self._node])
        if pull.state is PullState.LOCATING and pull.nodes:
            pull.size = size
            self._enqueue(pull)

    def answered(self, sender: Address, fact: msg.FetchAnswered) -> Arrived | None:
        """The source's answer; returns what has come with it, if it has."""
        pull = self._attempts.get(fact.attempt)
        value = fact.value
        self._silent.pop(node_of(sender), None)
        self._answers_due.cancel(fact.attempt)
        if pull is None or pull.state is not PullState.ASKED or pull.abandoned:
            if value is not None and value.offset >= 0:
                self._said.append(Send(sender, msg.PinsReturned((fact.object_id,))))
            if pull is not None and pull.abandoned:
                self._leave(pull)
                self._end(pull)
            return None
        if value is None:
            self._fail(pull)
            return None
        if value.offset < 0:
            self._leave(pull)
            self._end(pull)
            return Arrived(pull.object_id, value, fact.contained)
        pull.answer = fact
        pull.silences = 0
        pull.state = PullState.ROOM
        self.rooms[pull.attempt] = value.size
        return None

    def granted(self, attempt: int, offset: int) -> bool:
        """There is room at ``offset``; False if it is not needed after all."""
        pull = self._attempts.get(attempt)
        if pull is None or pull.state is not PullState.ROOM or pull.answer is None or pull.answer.value is None:
            return False
        pull.state = PullState.COPYING
        self._begun.append(pull)
        pull.offset = offset
        value = pull.answer.value
        self._said.append(StartFetch(pull.object_id, pull.source, value.size, offset, attempt, value.offset))
        return True

    def refused(self, attempt: int) -> ObjectID | None:
        """There is no room; returns whose pull is over for that reason."""
        pull = self._attempts.get(attempt)
        if pull is None or pull.state is not PullState.ROOM:
            return None
        self._return_pin(pull)
        self._leave(pull)
        self._end(pull)
        return pull.object_id

    def finished(self, attempt: int) -> Arrived | None:
        """All bytes are here."""
        pull = self._attempts.get(attempt)
        if pull is None or pull.answer is None or pull.answer.value is None:
            return None
        self._return_pin(pull)
        value = msgspec.structs.replace(pull.answer.value, offset=pull.offset)
        arrived = Arrived(pull.object_id, value, pull.answer.contained)
        self._leave(pull)
        self._end(pull)
        return arrived

    def failed(self, attempt: int) -> int | None:
        """The copying is over without success; returns the offset of the extent that is free again."""
        pull = self._attempts.get(attempt)
        if pull is None or pull.state is not PullState.COPYING:
            return None
        offset = pull.offset
        self._return_pin(pull)
        self._fail(pull)
        return offset

    def node_lost(self, node: NodeID) -> None:
        """What was asked of the node will not be answered. What is being copied from it the loop still reports."""
        self._silent.pop(node, None)
        for pull in list(self.under_way.values()):
            pull.nodes = tuple([other for other in pull.nodes if other != node])
            if pull.source == node and pull.state in (PullState.ASKED, PullState.ROOM):
                self._fail(pull)

    def _return_pin(self, pull: Pull) -> None:
        self._said.append(Send(address(pull.source, HOST), msg.PinsReturned((pull.object_id,))))

    def _enqueue(self, pull: Pull) -> None:
        pull.state = PullState.QUEUED
        self._queue.append(pull)

    def _leave(self, pull: Pull) -> None:
        """What was under way is not any more."""
        del self._attempts[pull.attempt]
        self._answers_due.cancel(pull.attempt)
        self.rooms.pop(pull.attempt, None)
        self.bytes -= pull.size
        self._load[pull.source] -= 1
        if not self._load[pull.source]:
            del self._load[pull.source]
        pull.answer, pull.offset = None, -1
        pull.state = PullState.LOCATING

    def _end(self, pull: Pull) -> None:
        del self.under_way[pull.object_id]
        self._resting.cancel(pull.object_id)
        pull.state = PullState.LOCATING  # a stale entry of the queue

    def _fail(self, pull: Pull) -> None:
        """It does not come from there: try again, unless nobody wants it any more."""
        self._leave(pull)
        if pull.abandoned:
            self._end(pull)
            return
        pull.state = PullState.RESTING
        pull.failures += 1
        self._failures.append(pull)

    def _give_up_silent(self, attempt: int) -> None:
        """The source has not answered, or its bytes have not come, in time."""
        pull = self._attempts[attempt]
        self._silent[pull.source] = None
        pull.silences += 1
        if pull.silences == _SILENCES_TOLD and not pull.abandoned:
            self.unanswered.append(pull)
        if pull.state is PullState.COPYING:
            self._said.append(StopFetch(attempt))  # FetchFailed follows
        else:
            self._fail(pull)

    def _watch_begun(self, now: Nanos) -> None:
        """Set by when what has begun in this step has to be over."""
        for pull in self._begun:
            if pull.state is PullState.ASKED or pull.state is PullState.COPYING:
                copying = pull.size * _NANOS_PER_BYTE if pull.state is PullState.COPYING else 0
                patience = self._config.fetch_answer_after + copying
                self._answers_due.set(pull.attempt, now + (patience << min(pull.failures, _DOUBLINGS_MAX)))
                if pull.asked_at < 0:
                    pull.asked_at = now
        self._begun.clear()

    def decide(self, now: Nanos) -> None:
        """Let those that have rested go on, give up who is silent, and start what is allowed."""
        for attempt in self._answers_due.pop_due(now):
            self._give_up_silent(attempt)
        self._decide(now)
        if self._begun:
            self._watch_begun(now)

    def _decide(self, now: Nanos) -> None:
        for pull in self._failures:
            if pull.state is PullState.RESTING and self.under_way.get(pull.object_id) is pull:
                wait = self._config.fetch_retry_after << min(pull.failures - 1, _DOUBLINGS_MAX)
                self._resting.set(pull.object_id, now + wait)
        self._failures.clear()
        for object_id in self._resting.pop_due(now):
            pull = self.under_way[object_id]
            if pull.nodes:
                self._enqueue(pull)
            else:
                pull.state = PullState.LOCATING
        while self._queue:
            pull = self._queue[0]
            if pull.state is PullState.QUEUED:
                if self.bytes and self.bytes + pull.size > self._config.fetch_bytes_max:
                    return
                self._start(pull)
            self._queue.popleft()

    def _start(self, pull: Pull) -> None:
        others = [node for node in pull.nodes if node != pull.source] or list(pull.nodes)
        nodes = [node for node in others if node not in self._silent] if self._silent else others
        nodes = nodes or [node for node in pull.nodes if node not in self._silent] or others
        if not nodes:
            pull.state = PullState.LOCATING
            return
        # Equal ones are taken in turn, beginning elsewhere on each node, so that a broadcast does not queue at the first copy.
        turn = (self._node + pull.attempt) % len(nodes)
        pull.source = min(nodes[turn:] + nodes[:turn], key=lambda node: self._load.get(node, 0))
        self._attempt += 1
        pull.attempt = self._attempt
        pull.state = PullState.ASKED
        self._attempts[pull.attempt] = pull
        self._load[pull.source] = self._load.get(pull.source, 0) + 1
        self.bytes += pull.size
        self._begun.append(pull)
        self._said.append(Send(address(pull.source, HOST), msg.FetchRequested(pull.object_id, pull.attempt)))

    def next_deadline(self) -> Nanos | None:
        """Return when the next one has rested, or has waited in vain."""
        rested, due = self._resting.next(), self._answers_due.next()
        return min(rested, due) if rested is not None and due is not None else rested or due

    def check_invariants(self) -> None:
        """Raise InvariantViolation unless F1 and F2 hold."""
        active = [pull for pull in self.under_way.values() if pull.state in _ACTIVE]
        if self.bytes != sum(pull.size for pull in active):
            raise InvariantViolation(f"F1: {self.bytes} bytes are counted")
        if {pull.attempt for pull in active} != self._attempts.keys():
            raise InvariantViolation("F2: attempts are not those of the pulls under way")
