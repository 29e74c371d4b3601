"""Clients that want room in a node's arena: served in the order in which they asked, refused after a grace.

A part of the object manager. Nobody overtakes: a small request behind a large one waits, or the large one would for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from sundog.core import messages as msg
from sundog.core.actions import Send
from sundog.core.config import Config
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
        #: In the order in which they asked.
        self.waiting: deque[_ExtentRequest] = deque()

    def add(self, client: Address, request: int, size: int, now: Nanos) -> None:
        """``client`` wants ``size`` bytes."""
        self.waiting.append(_ExtentRequest(client, request, size, now + self._grace))

    def process_lost(self, client: Address) -> None:
        """``client`` is gone, and wants nothing."""
        self.waiting = deque([request for request in self.waiting if request.client != client])

    def answer(self, now: Nanos) -> list[Action]:
        """Return the answers to those that find room, and to those that cannot or have waited too long."""
        answers: list[Action] = []
        waiting: deque[_ExtentRequest] = deque()
        while self.waiting:
            request = self.waiting.popleft()
            extent = None if waiting else self._ledger.allocate(request.size, request.client)
            if extent is not None:
                granted = msg.ExtentGranted(request.request, extent.offset, extent.size, extent.warm)
                answers.append(Send(request.client, granted))
            elif request.size > self._ledger.capacity or request.deadline <= now:
                refused = failed(FailureKind.STORE_FULL, self._explain(request.size))
                answers.append(Send(request.client, msg.ExtentRefused(request.request, refused)))
            else:
                waiting.append(request)
        self.waiting = waiting
        return answers
