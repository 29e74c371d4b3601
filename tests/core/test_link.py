"""The link, case by case; ``tests/properties/test_link_delivery.py`` throws everything at it."""

from __future__ import annotations

import pytest

from sundog.core.errors import InvariantViolation, ProtocolViolation
from sundog.core.link import ACKNOWLEDGE_BYTES, HEADER_BYTES, Link


def pair(window_max: int = 8, acknowledge_after: int = 4) -> tuple[Link, Link]:
    return Link(1, window_max, acknowledge_after), Link(1, window_max, acknowledge_after)


def test_frames_arrive_whole_and_in_order() -> None:
    a, b = pair()
    assert b.accept(a.wrap(b"one")) == [b"one"]
    assert b.accept(a.wrap(b"tw", more=True)) == []
    assert b.accept(a.wrap(b"", more=True)) == []
    assert b.accept(a.wrap(b"o")) == [b"two"]
    assert b.accept(a.wrap(b"")) == [b""]


def test_early_packets_are_held_and_repeated_ones_dropped() -> None:
    a, b = pair()
    one, two, three = a.wrap(b"1"), a.wrap(b"2", more=True), a.wrap(b"3")
    assert b.accept(three) == []
    assert b.accept(two) == []
    assert b.accept(one) == [b"1", b"23"]
    assert [b.accept(packet) for packet in (one, two, three)] == [[], [], []]
    b.check_invariants()


def test_acknowledgements_ride_on_traffic_and_make_room() -> None:
    a, b = pair(window_max=2)
    b.accept(a.wrap(b"1"))
    b.accept(a.wrap(b"2"))
    assert not a.room()
    with pytest.raises(InvariantViolation, match="2 packets unacknowledged"):
        a.wrap(b"3")
    assert a.accept(b.wrap(b"answer")) == [b"answer"]
    assert a.room()
    assert a.unacknowledged() == []
    a.check_invariants()


def test_an_acknowledgement_is_due_only_after_one_sided_traffic() -> None:
    a, b = pair(acknowledge_after=2)
    b.accept(a.wrap(b"1"))
    assert b.acknowledgement_due() is None
    b.accept(a.wrap(b"2"))
    due = b.acknowledgement_due()
    assert due is not None
    assert len(due) == HEADER_BYTES
    assert b.acknowledgement_due() is None
    assert a.accept(due) == []
    assert a.unacknowledged() == []
    assert a.acknowledgement_due() is None, "acknowledgements are not acknowledged"


def test_an_acknowledgement_is_due_after_many_bytes() -> None:
    a, b = pair()
    b.accept(a.wrap(bytes(ACKNOWLEDGE_BYTES)))
    due = b.acknowledgement_due()
    assert due is not None
    a.accept(due)
    a.check_invariants()
    assert b.accept(a.wrap(b"next")) == [b"next"]


def test_a_reconnect_sends_again_what_was_cut_off() -> None:
    a, b = pair()
    b.accept(a.wrap(b"1"))
    late = a.wrap(b"2", more=True)
    a.wrap(b"3")
    received = b.received
    a.reconnect(2, received)
    b.reconnect(2, 0)
    assert b.accept(late) == [], "a packet of the old connection is dropped, its copy comes"
    again = a.unacknowledged()
    assert len(again) == 2
    assert [b.accept(packet) for packet in again] == [[], [b"23"]]


def test_packets_after_finds_what_an_interrupt_left_unsent() -> None:
    a, b = pair()
    first = a.wrap(b"1")
    a.wrap(b"2")
    assert a.sent == 2
    b.accept(first)
    assert [b.accept(packet) for packet in a.packets_after(1)] == [[b"2"]]


def test_nonsense_is_the_peers_fault() -> None:
    a, b = pair(window_max=2)
    for nonsense in (b"", b"short", b"\xff" * 40, Link(9, 2, 2).wrap(b"x")):
        with pytest.raises(ProtocolViolation):
            b.accept(nonsense)
    far = Link(1, 99, 99)
    for _ in range(3):
        packet = far.wrap(b"x")
    with pytest.raises(ProtocolViolation, match="3 ahead"):
        b.accept(packet)
    boaster = Link(1, 2, 2)
    boaster.accept(far.packets_after(0)[0])
    with pytest.raises(ProtocolViolation, match="1 acknowledged, 0 sent"):
        a.accept(boaster.wrap(b"x"))
    with pytest.raises(ProtocolViolation):
        a.reconnect(1, 0)
    with pytest.raises(ProtocolViolation):
        a.reconnect(2, 5)
