"""The machine that decides which nodes are alive, by their heartbeats. One in a cluster, on the head.

Nodes are not introduced to each other: that would be a million messages among a thousand. They know the head, and meet others
by number when the directory sends them there.

A node that has said nothing for ``config.node_lost_after`` is lost: all nodes hear ``NodeLost``, once. Node numbers are
never given again, so a lost node that speaks after all is told that it is lost and has to join anew under another number.

A head that could not run for a while (stopped, swapped out, starved) must not take its own lateness for the silence of
others: a step that comes later than the deadline it was asked for moves all deadlines by that much, and by one heartbeat
more, in which what lies in the sockets is read (protocols: 22).

Invariant: M1. every member but the head itself has exactly one deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sundog.core import messages as msg
from sundog.core.actions import ClosePeer, Send
from sundog.core.config import Config
from sundog.core.deadlines import Deadlines
from sundog.core.errors import InvariantViolation
from sundog.core.ids import HOST, Address, NodeID, address, node_of
from sundog.core.machine import Action, Event
from sundog.core.units import Nanos


class Membership:
    """See the module. ``here`` is the head's host, which runs this machine and is never lost to itself."""

    HEARS = (msg.NodeJoined, msg.LoadReported, msg.NodeLost, msg.NodeSilent)

    def __init__(self, config: Config, here: Address) -> None:
        self._config = config
        self._node = node_of(here)
        self.members: dict[NodeID, msg.NodeJoined] = {}
        #: Their numbers are never given again.
        self.lost: dict[NodeID, None] = {}
        self._silences: Deadlines[NodeID] = Deadlines()
        #: When the loop was last asked to step this machine.
        self._asked_for: Nanos | None = None
        self._now: Nanos = 0
        self._lost: list[NodeID] = []
        self._silent: list[NodeID] = []
        self._strangers: dict[NodeID, None] = {}
        self._handlers: dict[type, Callable[[Address, Any], None]] = {
            msg.NodeJoined: self._on_node_joined,
            msg.LoadReported: self._on_load_reported,
            msg.NodeLost: self._on_node_lost,
            msg.NodeSilent: self._on_node_silent,
        }

    # -- the door

    def step(self, now: Nanos, events: Iterable[Event]) -> list[Action]:
        """See ``machine.Machine``."""
        self._now = now
        late = now - self._asked_for if self._asked_for is not None else 0
        if late > self._config.heartbeat_every:
            self._silences.shift(late + self._config.heartbeat_every)
        handlers = self._handlers
        for sender, fact in events:
            handlers[type(fact)](sender, fact)
        actions: list[Action] = []
        for node in self._lost:  # this host's machines have heard it as this machine did
            self._announce(node, actions, heard_here=True)
        silent, self._silent = self._silent, []
        for node in [*silent, *self._silences.pop_due(now)]:
            self.members.pop(node, None)
            self._announce(node, actions, heard_here=False)
        actions += [Send(address(node, HOST), msg.NodeLost(node)) for node in self._strangers]
        self._lost = []
        self._strangers = {}
        self._asked_for = self._silences.next()
        return actions

    def next_deadline(self) -> Nanos | None:
        """See ``machine.Machine``. None as long as the head is alone."""
        return self._silences.next()

    def check_invariants(self) -> None:
        """See ``machine.Machine``."""
        for node in self.members:
            if (node in self._silences) == (node == self._node):
                raise InvariantViolation(f"M1: node {node} has a deadline, or none, wrongly")
        if len(self._silences) != len(self.members) - (self._node in self.members):
            raise InvariantViolation("M1: a deadline of no member")

    # -- facts

    def _on_node_joined(self, sender: Address, fact: msg.NodeJoined) -> None:
        self.members[fact.node] = fact
        self._heard_from(fact.node)

    def _on_load_reported(self, sender: Address, fact: msg.LoadReported) -> None:
        if fact.node in self.members:
            self._heard_from(fact.node)
        else:
            self._strangers[fact.node] = None

    def _on_node_lost(self, sender: Address, fact: msg.NodeLost) -> None:
        if self.members.pop(fact.node, None) is not None:
            self._silences.cancel(fact.node)
            self._lost.append(fact.node)

    def _on_node_silent(self, sender: Address, fact: msg.NodeSilent) -> None:
        if fact.node in self.members:
            del self.members[fact.node]
            self._silences.cancel(fact.node)
            self._silent.append(fact.node)

    def _heard_from(self, node: NodeID) -> None:
        if node != self._node:
            self._silences.set(node, self._now + self._config.node_lost_after)

    # -- decisions

    def _announce(self, lost: NodeID, actions: list[Action], *, heard_here: bool) -> None:
        self.lost[lost] = None
        if not heard_here:
            actions.append(ClosePeer(lost))
        tell = [node for node in self.members if node != self._node or not heard_here]
        actions += [Send(address(node, HOST), msg.NodeLost(lost)) for node in tell]
