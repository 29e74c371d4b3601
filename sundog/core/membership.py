"""The machine that decides which nodes are alive, by their heartbeats. One in a cluster, on the head.

Nodes are not introduced to each other: that would be a million messages among a thousand. They know the head, and meet others
by number when the directory sends them there.

A node that has said nothing for ``config.node_lost_after`` is lost: all nodes hear ``NodeLost``, once. Node numbers are
never given again, so a lost node that speaks after all is told that it is lost and has to join anew under another number.

A head that could not run for a while (stopped, swapped out, starved) must not take its own lateness for the silence of
others: a step that comes later than the deadline it was asked for moves all deadlines by that much, and by one heartbeat
more, in which what lies in the sockets is read (protocols: 22).

A heartbeat costs one entry in a table: when each node was last heard. Who has been silent for too long is looked for among all
when the first of them may have been, which is about once in ``node_lost_after``.

Invariant: M1. every member but the head itself has been heard, and nobody else; M2. nobody is lost before ``_look_at``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sundog.core import messages as msg
from sundog.core.actions import ClosePeer, Send
from sundog.core.config import Config
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
        #: M1. When each was last heard.
        self._heard_at: dict[NodeID, Nanos] = {}
        #: M2. When to look who is silent.
        self._look_at: Nanos | None = None
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
        due = self._look_at is not None and now >= self._look_at
        if due:
            self._excuse_lateness()
        handlers = self._handlers
        for sender, fact in events:
            handlers[type(fact)](sender, fact)
        if due:
            self._look()
        if self._lost or self._silent or self._strangers:
            return self._tell()
        return []

    def _tell(self) -> list[Action]:
        actions: list[Action] = []
        for node in self._lost:  # this host's machines have heard it as this machine did
            self._announce(node, actions, heard_here=True)
        for node in self._silent:
            self.members.pop(node, None)
            self._announce(node, actions, heard_here=False)
        actions += [Send(address(node, HOST), msg.NodeLost(node)) for node in self._strangers]
        self._lost, self._silent, self._strangers = [], [], {}
        return actions

    def next_deadline(self) -> Nanos | None:
        """See ``machine.Machine``. None as long as the head is alone."""
        return self._look_at

    def check_invariants(self) -> None:
        """See ``machine.Machine``."""
        for node in self.members:
            if (node in self._heard_at) == (node == self._node):
                raise InvariantViolation(f"M1: that node {node} was heard, or not, is wrong")
        if len(self._heard_at) != len(self.members) - (self._node in self.members):
            raise InvariantViolation("M1: one is heard that is no member")
        if self._heard_at:
            earliest = min(self._heard_at.values()) + self._config.node_lost_after
            if self._look_at is None or self._look_at > earliest:
                raise InvariantViolation(f"M2: a node is lost at {earliest}, which is seen at {self._look_at}")

    # -- facts

    def _on_node_joined(self, sender: Address, fact: msg.NodeJoined) -> None:
        self.members[fact.node] = fact
        if fact.node != self._node:
            self._heard_at[fact.node] = self._now
            if self._look_at is None:
                self._look_at = self._now + self._config.node_lost_after

    def _on_load_reported(self, sender: Address, fact: msg.LoadReported) -> None:
        if fact.node in self._heard_at:
            self._heard_at[fact.node] = self._now
        elif fact.node not in self.members:
            self._strangers[fact.node] = None

    def _on_node_lost(self, sender: Address, fact: msg.NodeLost) -> None:
        if self.members.pop(fact.node, None) is not None:
            self._heard_at.pop(fact.node, None)
            self._lost.append(fact.node)

    def _on_node_silent(self, sender: Address, fact: msg.NodeSilent) -> None:
        if fact.node in self.members:
            del self.members[fact.node]
            self._heard_at.pop(fact.node, None)
            self._silent.append(fact.node)

    # -- decisions

    def _earliest(self) -> Nanos | None:
        """Return when the first node is lost if nobody is heard any more."""
        return min(self._heard_at.values()) + self._config.node_lost_after if self._heard_at else None

    def _excuse_lateness(self) -> None:
        """Before what came with this step is heard: was it this host that was not there?"""
        earliest = self._earliest()
        late = 0 if earliest is None else self._now - earliest
        if late > self._config.heartbeat_every:
            for node in self._heard_at:
                self._heard_at[node] += late + self._config.heartbeat_every

    def _look(self) -> None:
        """Find who has been silent for too long, by time and then by number; and when to look again."""
        limit = self._now - self._config.node_lost_after
        silent = sorted([(heard_at, node) for node, heard_at in self._heard_at.items() if heard_at <= limit])
        for _, node in silent:
            del self._heard_at[node]
            self._silent.append(node)
        self._look_at = self._earliest()

    def _announce(self, lost: NodeID, actions: list[Action], *, heard_here: bool) -> None:
        self.lost[lost] = None
        if not heard_here:
            actions.append(ClosePeer(lost))
        tell = [node for node in self.members if node != self._node or not heard_here]
        actions += [Send(address(node, HOST), msg.NodeLost(lost)) for node in tell]
