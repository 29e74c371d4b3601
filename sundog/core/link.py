"""In-order delivery between two processes, over any carrier of whole packets and its reconnects (protocols: 2, P7).

The carrier may delay packets, bring them twice or out of order, and lose any unacknowledged suffix when it is cut.
Above a ``Link`` none of that shows: every payload that was wrapped on one side comes out of ``accept`` on the other
once, in order.

A packet is a header (epoch, sequence, acknowledgement, flags), then bytes of a frame; a frame longer than a packet
travels in pieces, all but the last flagged ``MORE``. Acknowledgements are cumulative and ride on what is sent anyway.

Threads: one thread may ``wrap`` while another ``accept``s. ``wrap`` becomes visible by one atomic append, so an
interrupt in it leaves either nothing or a whole packet, which ``packets_after`` then finds.
"""

from __future__ import annotations

from collections import deque
from struct import Struct

from sundog.core.errors import InvariantViolation, ProtocolViolation
from sundog.core.units import GIB, MIB

_HEADER = Struct("<IQQB")
HEADER_BYTES = _HEADER.size
#: More pieces of the same frame follow.
MORE = 1
#: Carries an acknowledgement and nothing else; has no sequence of its own.
ACK_ONLY = 2
#: Received bytes after which an acknowledgement is due however few packets they came in: bounds what the sender keeps.
ACKNOWLEDGE_BYTES = 1 * MIB
#: A frame in pieces may grow to this; more is a broken peer, not a message.
FRAME_BYTES_MAX = 1 * GIB
#: An acknowledged packet of at most this size is not worth letting go of before the next one is.
_SMALL_BYTES = 4096

_pack = _HEADER.pack
_unpack = _HEADER.unpack_from


class Link:
    """One side of a link.

    Invariants: the window's sequences are consecutive, from the last one acknowledged to the last one wrapped; what is
    held lies beyond ``received + 1`` and within the window's bound.
    """

    __slots__ = (
        "_due_per_packet", "_held", "_owed", "_pieces", "_pieces_bytes", "_window", "_window_max", "epoch", "received",
    )  # fmt: skip

    def __init__(self, epoch: int, window_max: int, acknowledge_after: int) -> None:
        """At most ``window_max`` packets are unacknowledged; ``acknowledge_after`` received ones call for an answer."""
        self.epoch = epoch
        #: Every packet up to this sequence has been received.
        self.received = 0
        self._window_max = window_max
        #: What a packet counts for besides its bytes towards ACKNOWLEDGE_BYTES.
        self._due_per_packet = -(-ACKNOWLEDGE_BYTES // max(1, min(acknowledge_after, window_max)))
        #: (sequence, packet) of what is not acknowledged, preceded by the last one that is, which carries the count on.
        self._window: deque[tuple[int, bytes]] = deque(((0, b""),))
        #: Packets that came early, by sequence.
        self._held: dict[int, bytes] = {}
        self._pieces: list[bytes] = []
        self._pieces_bytes = 0
        #: What came in since an acknowledgement left.
        self._owed = 0

    # -- sending

    @property
    def sent(self) -> int:
        """The sequence of the last packet wrapped; 0 before the first."""
        return self._window[-1][0]

    def room(self) -> bool:
        """Tell whether ``wrap`` may be called: the window is not full."""
        return len(self._window) <= self._window_max

    def wrap(self, payload: bytes, more: bool = False) -> bytes:
        """Return the packet that carries ``payload``; it is kept until the peer acknowledges it.

        ``more``: the frame goes on in the next packet. Raises InvariantViolation when there is no :meth:`room`.
        """
        window = self._window
        if len(window) > self._window_max:
            raise InvariantViolation(f"wrap without room: {len(window) - 1} packets unacknowledged, {self!r}")
        sequence = window[-1][0] + 1
        self._owed = 0
        packet = _pack(self.epoch, sequence, self.received, MORE if more else 0) + payload
        window.append((sequence, packet))
        return packet

    def packets_after(self, sequence: int) -> list[bytes]:
        """Return what was wrapped after ``sequence`` and is not acknowledged, in order, with the current epoch."""
        window = list(self._window)
        acknowledged = window[0][0]
        found = []
        for number, packet in window:
            if number > sequence and number > acknowledged:
                flags = packet[HEADER_BYTES - 1]
                found.append(_pack(self.epoch, number, self.received, flags) + packet[HEADER_BYTES:])
        return found

    def unacknowledged(self) -> list[bytes]:
        """Return the packets to send again after a :meth:`reconnect`."""
        return self.packets_after(0)

    def acknowledgement_due(self) -> bytes | None:
        """Return a packet that only acknowledges if much came in and nothing went out, else None. Send it as it is."""
        if self._owed < ACKNOWLEDGE_BYTES:
            return None
        self._owed = 0
        return _pack(self.epoch, 0, self.received, ACK_ONLY)

    # -- receiving

    def accept(self, packet: bytes) -> list[bytes]:
        """Return the frames that ``packet`` completes, in order: none, one, or with early packets before it, several.

        Raises ProtocolViolation for what no peer of ours sends; drop the connection then.
        """
        size = len(packet)
        if size < HEADER_BYTES:
            raise ProtocolViolation(f"a packet of {size} bytes is shorter than its header of {HEADER_BYTES}")
        epoch, sequence, acknowledged, flags = _unpack(packet)
        if epoch != self.epoch:
            if epoch < self.epoch:
                return []  # of a connection that was cut; what it carried is sent again
            raise ProtocolViolation(f"a packet of epoch {epoch} in epoch {self.epoch}")
        if acknowledged > self._window[0][0]:
            self._trim(acknowledged)
        if flags > MORE:
            if flags != ACK_ONLY or size != HEADER_BYTES:
                raise ProtocolViolation(f"a packet with flags {flags} and {size} bytes")
            return []
        self._owed += self._due_per_packet + size
        ahead = sequence - self.received
        if ahead == 1:
            self.received = sequence
            if not flags and not self._pieces and not self._held:
                return [packet[HEADER_BYTES:]]
            frames: list[bytes] = []
            self._append(packet, frames)
            return self._release(frames) if self._held else frames
        if ahead > self._window_max:
            raise ProtocolViolation(f"packet {sequence} is {ahead} ahead; the window is {self._window_max}")
        if ahead > 1:
            self._held[sequence] = packet
        return []

    def reconnect(self, epoch: int, received: int) -> None:
        """Begin ``epoch`` on a new connection to the same peer, which says that it has ``received`` packets of ours.

        Send :meth:`unacknowledged` first. Raises ProtocolViolation if the peer's count is impossible.
        """
        if epoch <= self.epoch:
            raise ProtocolViolation(f"epoch {epoch} cannot follow epoch {self.epoch}")
        if received < self._window[0][0]:
            raise ProtocolViolation(f"the peer has {received} packets but acknowledged {self._window[0][0]}")
        self._trim(received)
        self.epoch = epoch

    def check_invariants(self) -> None:
        """Raise InvariantViolation if the state is impossible."""
        numbers = [number for number, _ in self._window]
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise InvariantViolation(f"window {numbers} has a gap")
        if any(not 1 < early - self.received <= self._window_max for early in self._held):
            raise InvariantViolation(f"holds {sorted(self._held)} with {self.received} received")

    def _trim(self, acknowledged: int) -> None:
        window = self._window
        if acknowledged > window[-1][0]:
            raise ProtocolViolation(f"packet {acknowledged} acknowledged, {window[-1][0]} sent")
        while window[0][0] < acknowledged:
            window.popleft()
        if len(window[0][1]) > _SMALL_BYTES:
            self._forget_bytes()

    def _forget_bytes(self) -> None:
        """Let go of the last acknowledged packet's bytes; only its number is needed."""
        window = self._window
        # The new entry goes in front before the old one leaves, so a thread in wrap() always finds a last one.
        window.appendleft((window[0][0], b""))
        del window[1]

    def _append(self, packet: bytes, frames: list[bytes]) -> None:
        piece = packet[HEADER_BYTES:]
        if packet[HEADER_BYTES - 1] & MORE:
            self._pieces_bytes += len(piece)
            if self._pieces_bytes > FRAME_BYTES_MAX:
                raise ProtocolViolation(f"a frame of more than {FRAME_BYTES_MAX} bytes")
            self._pieces.append(piece)
        elif self._pieces:
            self._pieces.append(piece)
            frames.append(b"".join(self._pieces))
            self._pieces = []
            self._pieces_bytes = 0
        else:
            frames.append(piece)

    def _release(self, frames: list[bytes]) -> list[bytes]:
        """Append what was held and is next now."""
        held = self._held
        while (packet := held.pop(self.received + 1, None)) is not None:
            self.received += 1
            self._append(packet, frames)
        return frames

    def __repr__(self) -> str:
        progress = f"sent {self.sent}, acknowledged {self._window[0][0]}, received {self.received}"
        return f"Link(epoch {self.epoch}, {progress})"
