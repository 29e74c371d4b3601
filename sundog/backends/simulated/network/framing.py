"""Frames that are lost, come twice and out of order, below the very ``link`` that real processes talk through.

A :class:`FramedNetwork` is a :class:`~sundog.backends.simulated.network.connections.Network` with the same ``send``: every
message is delivered once and in order. Beneath, it is wrapped into a packet by ``core.link``, travels as a frame that faults
may act on, and is unwrapped by the peer's link. A cut loses what is on the way; after the reconnect, a new epoch, both sides
send what the other has not acknowledged. A lost frame leaves a gap, which the link does not close by itself: after
``loss_noticed_after`` the connection is cut and made anew, as a carrier that gives up would do.

Frames stand for their message: they carry its number and size, and take its bytes' time on the wire.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from random import Random
from struct import Struct

import msgspec
from simpy.core import Environment

from sundog.backends.simulated.network.connections import Deliver, Network, Traffic
from sundog.backends.simulated.network.model import NetworkModel
from sundog.core.config import Config
from sundog.core.ids import Address, NodeID, node_of
from sundog.core.link import HEADER_BYTES, Link
from sundog.core.units import MICROSECOND, MILLISECOND, Nanos

#: A frame's payload: which message it stands for, and its size.
_PAYLOAD = Struct("<QQ")


class FrameFaults(msgspec.Struct, frozen=True):
    """What happens to frames, each by itself, in thousandths. Raises ValueError for what is no share."""

    loss: int = 0
    duplication: int = 0
    reordering: int = 0
    #: A frame out of order, or a second copy, comes up to this much later.
    late_max: Nanos = 500 * MICROSECOND
    #: From a frame's loss until the connection is made anew.
    loss_noticed_after: Nanos = 2 * MILLISECOND

    def __post_init__(self) -> None:
        for name in ("loss", "duplication", "reordering"):
            if not 0 <= getattr(self, name) <= 1000:
                raise ValueError(f"{name}={getattr(self, name)}: it counts thousandths, 0 to 1000")
        if self.loss == 1000:
            raise ValueError("loss=1000 loses every frame for good: stop the connection instead")


class Channel:
    """Two processes of different nodes, and the two ends of the link between them."""

    __slots__ = ("broken", "closed", "ends", "epoch", "links", "numbers", "outboxes", "sent", "stranded")

    def __init__(self, first: Address, second: Address, config: Config) -> None:
        self.ends = (first, second)
        self.epoch = 1
        self.links = tuple(Link(1, config.link_window_max, config.link_acknowledge_after) for _ in range(2))
        #: By end: messages sent, by number, and not yet delivered at the other.
        self.sent: tuple[dict[int, tuple[int, Deliver]], ...] = ({}, {})
        self.numbers = [0, 0]
        #: By end: numbers of messages that wait for room in the window.
        self.outboxes: tuple[deque[int], ...] = (deque(), deque())
        #: Cut, and not yet made anew.
        self.broken = False
        #: It would be made anew, were it not stopped.
        self.stranded = False
        #: One of the processes is gone.
        self.closed = False


class FramedNetwork(Network):
    """See the module. ``sent``, ``delivered`` and ``dropped`` count frames here, ``messages_*`` what was sent by them."""

    def __init__(
        self, environment: Environment, model: NetworkModel | None = None, *, seed: int | str = 0, config: Config | None = None
    ) -> None:
        super().__init__(environment, model, seed=seed)
        self._instant = False  # frames are acknowledged
        self._config = Config() if config is None else config
        self._draw = Random(f"frames {seed}").randrange
        self._channels: dict[tuple[Address, Address], Channel] = {}
        self.frame_faults: FrameFaults | None = None
        self.messages_sent = Traffic()
        self.messages_delivered = Traffic()
        self.messages_dropped = Traffic()
        self.frames_lost = 0
        self.reconnects = 0

    def send(self, source: Address, target: Address, size: int, deliver: Deliver) -> None:
        """See ``Network``."""
        if node_of(source) == node_of(target):
            super().send(source, target, size, deliver)
            return
        key = (source, target) if source < target else (target, source)
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = Channel(*key, self._config)
        side = 0 if source == key[0] else 1
        self.messages_sent.add(size)
        channel.numbers[side] += 1
        channel.sent[side][channel.numbers[side]] = (size, deliver)
        channel.outboxes[side].append(channel.numbers[side])
        self._flush(channel, side)

    def _flush(self, channel: Channel, side: int) -> None:
        """Wrap what there is room for; put it on the wire unless the connection is broken."""
        link, outbox = channel.links[side], channel.outboxes[side]
        while outbox and link.room():
            number = outbox.popleft()
            size = channel.sent[side][number][0]
            packet = link.wrap(_PAYLOAD.pack(number, size))
            if not channel.broken:
                self._send_frame(channel, side, packet, size)

    def _send_frame(self, channel: Channel, side: int, packet: bytes, size: int) -> None:
        arrive: Deliver = partial(self._arrive, channel, 1 - side, packet)
        faults = self.frame_faults
        if faults is not None:
            if self._happens(faults.loss):
                arrive = partial(self._lose, channel, channel.epoch, faults.loss_noticed_after)
            elif self._happens(faults.reordering):
                arrive = partial(self.later, self._draw(faults.late_max + 1), arrive)
            if self._happens(faults.duplication):
                again = partial(self.later, self._draw(faults.late_max + 1), partial(self._arrive, channel, 1 - side, packet))
                super().send(channel.ends[side], channel.ends[1 - side], HEADER_BYTES + size, again)
        super().send(channel.ends[side], channel.ends[1 - side], HEADER_BYTES + size, arrive)

    def _happens(self, permille: int) -> bool:
        return permille > 0 and self._draw(1000) < permille

    def _arrive(self, channel: Channel, side: int, packet: bytes) -> None:
        if channel.closed:
            return
        link, sent = channel.links[side], channel.sent[1 - side]
        for frame in link.accept(packet):
            size, deliver = sent.pop(_PAYLOAD.unpack(frame)[0])
            self.messages_delivered.add(size)
            deliver()
            if channel.closed:  # deliver() may have ended a process
                return  # type: ignore[unreachable]
        acknowledgement = link.acknowledgement_due()
        if acknowledgement is not None and not channel.broken:
            self._send_frame(channel, side, acknowledgement, 0)
        self._flush(channel, side)

    def _lose(self, channel: Channel, epoch: int, noticed_after: Nanos) -> None:
        self.frames_lost += 1
        self.later(noticed_after, partial(self._notice, channel, epoch))

    def _notice(self, channel: Channel, epoch: int) -> None:
        if channel.epoch == epoch and not channel.broken and not channel.closed:
            self._break(channel)

    # -- cuts ------------------------------

    def cut(self, first: NodeID, second: NodeID) -> None:
        """See ``Network``: what is on the way is lost; unacknowledged messages are sent again in the next epoch."""
        pair = {first, second}
        for channel in list(self._channels.values()):
            if not channel.broken and {node_of(end) for end in channel.ends} == pair:
                self._break(channel)

    def _break(self, channel: Channel) -> None:
        channel.broken = True
        first, second = channel.ends
        for ends in ((first, second), (second, first)):
            connection = self.connection(*ends)
            if connection is not None:
                self.drop_all(connection)
        self.later(self.model.reconnect_after, partial(self._reconnect, channel))

    def _reconnect(self, channel: Channel) -> None:
        """Both sides say what they have received, and begin a new epoch; if they cannot talk, when they can."""
        if channel.closed:
            return
        nodes = [node_of(end) for end in channel.ends]
        channel.stranded = bool(self.stops(nodes[0], nodes[1]) or self.stops(nodes[1], nodes[0]))
        if channel.stranded:
            return
        self.reconnects += 1
        channel.epoch += 1
        channel.broken = False
        received = [link.received for link in channel.links]
        for side, link in enumerate(channel.links):
            link.reconnect(channel.epoch, received[1 - side])
        for side, link in enumerate(channel.links):
            for packet in link.unacknowledged():
                self._send_frame(channel, side, packet, _PAYLOAD.unpack_from(packet, HEADER_BYTES)[1])
            self._flush(channel, side)

    def resume(self, source: NodeID, target: NodeID) -> None:
        """See ``Network``; connections that were cut meanwhile are made anew."""
        super().resume(source, target)
        for channel in list(self._channels.values()):
            if channel.stranded and {node_of(end) for end in channel.ends} == {source, target}:
                self._reconnect(channel)

    # -- ends of processes ------------------------------

    def forget(self, node: NodeID) -> None:
        """See ``Network``."""
        super().forget(node)
        self._close([key for key in self._channels if node in (node_of(key[0]), node_of(key[1]))])

    def forget_process(self, process: Address) -> None:
        """See ``Network``."""
        super().forget_process(process)
        self._close([key for key in self._channels if process in key])

    def _close(self, keys: list[tuple[Address, Address]]) -> None:
        for key in keys:
            channel = self._channels.pop(key)
            channel.closed = True
            for sent in channel.sent:
                for size, _ in sent.values():
                    self.messages_dropped.add(size)

    def undelivered(self) -> int:
        """Return how many messages between nodes are neither delivered nor dropped."""
        return self.messages_sent.messages - self.messages_delivered.messages - self.messages_dropped.messages

    def check_invariants(self) -> None:
        """See ``Network``; also of every link."""
        super().check_invariants()
        for channel in self._channels.values():
            for link in channel.links:
                link.check_invariants()
