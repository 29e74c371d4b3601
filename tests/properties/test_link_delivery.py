"""Whatever the carrier does short of forging, the link delivers every payload once and in order (protocols: 2)."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sundog.core.link import Link

WINDOW = 6


class TwoLinks(RuleBasedStateMachine):
    """Two links, and a carrier that holds packets back, repeats and reorders them, and is cut now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.links = [Link(1, WINDOW, 3), Link(1, WINDOW, 3)]
        self.wire: list[list[bytes]] = [[], []]  # towards each side
        self.sent: list[list[bytes]] = [[], []]  # frames towards each side
        self.got: list[list[bytes]] = [[], []]
        self.open: list[list[bytes]] = [[], []]  # pieces of a frame not yet complete
        self.epoch = 1

    @rule(side=st.integers(0, 1), payload=st.binary(max_size=5), more=st.booleans())
    def send(self, side: int, payload: bytes, more: bool) -> None:
        link, to = self.links[side], 1 - side
        if not link.room():
            return
        self.wire[to].append(link.wrap(payload, more))
        self.open[to].append(payload)
        if not more:
            self.sent[to].append(b"".join(self.open[to]))
            self.open[to] = []

    @rule(side=st.integers(0, 1), pick=st.integers(0, 99), keep=st.booleans())
    def deliver(self, side: int, pick: int, keep: bool) -> None:
        wire = self.wire[side]
        if not wire:
            return
        at = pick % len(wire)
        self.take(side, wire[at] if keep else wire.pop(at))

    def take(self, side: int, packet: bytes) -> None:
        self.got[side] += self.links[side].accept(packet)
        due = self.links[side].acknowledgement_due()
        if due is not None:
            self.wire[1 - side].append(due)

    @rule(lost=st.tuples(st.integers(0, 9), st.integers(0, 9)), leave=st.booleans())
    def cut(self, lost: tuple[int, int], leave: bool) -> None:
        """The connection ends; what is on the wire is lost from some point on, the rest may still straggle in."""
        for side in (0, 1):
            self.wire[side] = self.wire[side][: lost[side]] if leave else []
        self.epoch += 1
        counts = [link.received for link in self.links]
        for side in (0, 1):
            self.links[side].reconnect(self.epoch, counts[1 - side])
        for side in (0, 1):
            self.wire[1 - side] += self.links[side].unacknowledged()

    @invariant()
    def nothing_out_of_order(self) -> None:
        for side in (0, 1):
            assert self.got[side] == self.sent[side][: len(self.got[side])]
            self.links[side].check_invariants()

    def teardown(self) -> None:
        """Heal: after one last reconnect and a quiet wire, everything has arrived."""
        self.cut((0, 0), False)
        while self.wire[0] or self.wire[1]:
            for side in (0, 1):
                pending, self.wire[side] = self.wire[side], []
                for packet in pending:
                    self.take(side, packet)
        assert self.got == self.sent


TestTwoLinks = TwoLinks.TestCase
TestTwoLinks.settings = settings(stateful_step_count=60)
