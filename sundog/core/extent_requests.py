"""Clients that want room in a node's arena: served in the order in which they asked, refused after a grace.

A part of the object manager. Nobody overtakes: a small request behind a large one waits, or the large one would for ever. So only
the first is looked at, and as all have the same grace, its time is up first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec

from sundog.core import messages as msg
from sundog.core.actions import Send
from sundog.core.config import Config
from sundog.core.errors import InvariantViolation
from sundog.core.ids import Address
from sundog.core.machine import Action
from sundog.core.store_ledger import StoreLedger
from sundog.core.task import FailureKind, failed
from sundog.core.units import Nanos


class _ExtentRequest(msgspec.Struct, frozen=True):
    client: Address
    request: int
    size: int
    deadline: Nanos


class ExtentRequests:
    """See the module. ``explain`` says, for people, why so many bytes find no room."""

    def __init__(self, config: Config, ledger: StoreLedger, explain: Callable[[int], str]) -> None:
        self._grace = config.store_full_grace
        self._ledger = ledger
        self._explain = explain
        #: By client and its request, in the order in which they asked.
        self.waiting: OrderedDict[tuple[Address, int], _ExtentRequest] = OrderedDict()
        #: The requests of each client that has any.
        self._by_client: dict[Address, dict[int, None]] = {}

    def add(self, client: Address, request: int, size: int, now: Nanos) -> list[Action]:
        """``client`` wants ``size`` bytes. Returns the refusal if they can never find room, else nothing yet."""
        if size > self._ledger.capacity:
            return [self._refusal(client, request, size)]
        self.waiting[client, request] = _ExtentRequest(client, request, size, now + self._grace)
        own = self._by_client.get(client)
        if own is None:
            self._by_client[client] = {request: None}
        else:
            own[request] = None
        return []

    def _refusal(self, client: Address, request: int, size: int) -> Action:
        return Send(client, msg.ExtentRefused(request, failed(FailureKind.STORE_FULL, self._explain(size))))

    def process_lost(self, client: Address) -> None:
        """``client`` is gone, and wants nothing."""
        for request in self._by_client.pop(client, ()):
            del self.waiting[client, request]

    def answer(self, now: Nanos) -> list[Action]:
        """Return the answers to those that find room, and to those that have waited too long."""
        answers: list[Action] = []
        waiting = self.waiting
        while waiting:
            first = next(iter(waiting.values()))
            client, request = first.client, first.request
            extent = self._ledger.allocate(first.size, client)
            if extent is not None:
                answers.append(Send(client, msg.ExtentGranted(request, extent.offset, extent.size, extent.warm)))
            elif first.deadline <= now:
                answers.append(self._refusal(client, request, first.size))
            else:
                break
            del waiting[client, request]
            own = self._by_client[client]
            del own[request]
            if not own:
                del self._by_client[client]
        return answers

    def next_deadline(self) -> Nanos | None:
        """Return when the time of the first is up, or None if nobody waits."""
        return next(iter(self.waiting.values())).deadline if self.waiting else None

    def check_invariants(self) -> None:
        """Raise InvariantViolation unless each request is known by its client, and the first is the first whose time is up."""
        if {(client, request) for client, own in self._by_client.items() for request in own} != self.waiting.keys():
            raise InvariantViolation("requests for room differ from those of each client")
        deadlines = [request.deadline for request in self.waiting.values()]
        if deadlines != sorted(deadlines):
            raise InvariantViolation("a request for room is due before one that asked earlier")
