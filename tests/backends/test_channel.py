"""The channel over real sockets: order, sizes, refusals, ends."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from sundog.backends.local_processes.channel import FRAME_MESSAGES_MAX, Channel, socket_pair
from sundog.core.config import Config
from sundog.core.errors import ProtocolViolation
from sundog.core.ids import ObjectID
from sundog.core.link import HEADER_BYTES, Link
from sundog.core.machine import Fact
from sundog.core.messages import HoldsTaken, ObjectPut, RunTask, RunTasks, SessionEnding, WarningRaised
from sundog.core.task import Value
from tests.support.stand_ins import spec

CONFIG = Config()


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    a, b = (Channel(sock, CONFIG) for sock in socket_pair())
    yield a, b
    a.close()
    b.close()


def put(number: int, size: int) -> ObjectPut:
    return ObjectPut(ObjectID(number.to_bytes(20, "big")), Value(size, data=number.to_bytes(8, "big") * (size // 8)))


def exchange(a: Channel, b: Channel, count: int) -> list[Fact]:
    """Move ``count`` messages from a to b as two loops would: each writes what the socket takes, each reads when it can."""
    got: list[Fact] = []
    while len(got) < count:
        a.flush()
        b.flush()
        readable, _, _ = select.select([a, b], [], [], 10)
        assert readable
        for channel in readable:
            received = channel.receive()
            assert received is not None
            if channel is b:
                got += received
    return got


def test_nothing_there_is_an_empty_list(pair: tuple[Channel, Channel]) -> None:
    assert pair[0].receive() == []


def test_messages_arrive_in_order_in_one_packet(pair: tuple[Channel, Channel]) -> None:
    a, b = pair
    sent: list[Fact] = [
        HoldsTaken((ObjectID(b"x" * 20),)),
        SessionEnding(),
        WarningRaised("é"),
        RunTasks((RunTask(spec("f"), 1, 2, 3, (None,)),), 7),
    ]
    a.queue(sent)
    assert a.flush()
    assert a.outbox_bytes == 0
    assert b.receive() == sent
    assert b.receive() == []


def test_a_long_frame_travels_in_pieces(pair: tuple[Channel, Channel]) -> None:
    a, b = pair
    sent = [put(n, 1 << 20) for n in range(5)]
    a.queue(sent)
    assert not a.flush()
    assert a.wants_write
    assert a.outbox_bytes > 1 << 20
    assert exchange(a, b, 5) == sent
    assert a.outbox_bytes == 0
    assert not a.wants_write


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_a_frame_at_the_limit_of_a_packet(pair: tuple[Channel, Channel], over: int) -> None:
    a, b = pair
    limit = CONFIG.packet_bytes_max - HEADER_BYTES
    # [[40, "..."]]: an array of one, an array of two, the tag, a string of more than 255 bytes.
    text = "x" * (limit - 6 + over)
    a.append(WarningRaised(text))
    assert a.flush()
    assert exchange(a, b, 1) == [WarningRaised(text)]


def test_ten_thousand_small_ones_are_few_packets_and_the_first_are_early(pair: tuple[Channel, Channel]) -> None:
    a, b = pair
    sent = [put(n, 8) for n in range(10_000)]
    a.queue(sent)
    a.flush()
    first = b.receive()
    assert first is not None
    assert len(first) == FRAME_MESSAGES_MAX
    assert first + exchange(a, b, 10_000 - len(first)) == sent


def test_more_than_the_window_waits_for_acknowledgements() -> None:
    config = Config(link_window_max=4, link_acknowledge_after=2)
    a, b = (Channel(sock, config) for sock in socket_pair())
    for n in range(20):
        a.append(put(n, 8))
        done = a.flush()
    assert not done
    assert not a.wants_write, "a writable socket does not help: an acknowledgement does"
    assert exchange(a, b, 20) == [put(n, 8) for n in range(20)]
    a.close()
    b.close()


def test_what_a_peer_sent_before_it_vanished_is_read_first(pair: tuple[Channel, Channel]) -> None:
    a, b = pair
    a.append(SessionEnding())
    a.flush()
    b.append(WarningRaised("never read"))
    b.flush()
    a.close()  # with a packet unread: the kernel reports a reset before it hands over what is there
    assert b.receive() == [SessionEnding()]
    assert b.receive() is None


def test_to_a_peer_that_is_gone_everything_vanishes(pair: tuple[Channel, Channel]) -> None:
    a, b = pair
    b.close()
    a.queue([put(n, 1 << 16) for n in range(100)])
    assert a.flush()
    assert a.outbox_bytes == 0
    assert a.receive() is None


@pytest.mark.parametrize("payload", [b"\xc1", b"\x91\x91\xcc\xff", b"\x91\x92\x01\x01", b"nonsense"])
def test_what_is_no_frame_is_a_violation(payload: bytes) -> None:
    raw, theirs = socket_pair()
    channel = Channel(theirs, CONFIG)
    raw.send(Link(1, 10, 10).wrap(payload, False))
    with pytest.raises(ProtocolViolation):
        channel.receive()
    raw.close()
    channel.close()


def test_what_has_no_header_is_a_violation() -> None:
    raw, theirs = socket_pair()
    channel = Channel(theirs, CONFIG)
    raw.send(b"x")
    with pytest.raises(ProtocolViolation):
        channel.receive()
    raw.close()
    channel.close()


def test_descriptors_close_on_exec() -> None:
    a, b = socket_pair()
    assert not a.get_inheritable()
    assert a.type == socket.SOCK_SEQPACKET
    a.close()
    b.close()
