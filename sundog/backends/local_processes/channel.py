"""The link between two processes of one machine: batches of facts over an AF_UNIX SOCK_SEQPACKET pair.

A *frame* is a msgpack array of messages. It travels in *packets* of at most ``config.packet_bytes_max``, to which
``core.link`` gives headers (epoch, sequence, acknowledgement, MORE). Nothing here blocks, waits or starts a thread; whoever
owns the channel asks its selector when to call :meth:`Channel.receive` and :meth:`Channel.flush`.

Not thread-safe: one thread at a time.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Iterable

import msgspec

from sundog.core.config import Config
from sundog.core.errors import ProtocolViolation
from sundog.core.link import HEADER_BYTES, Link
from sundog.core.machine import Fact
from sundog.core.messages import Message

#: Messages in one frame: a receiver starts on the first frame of a long queue while the rest is still being written.
FRAME_MESSAGES_MAX = 512
#: What the kernel may hold for a slow peer, as far as it allows; the rest waits in the outbox.
SOCKET_BUFFER_BYTES = 512 << 10

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Message]).decode


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a new link; both close on exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Channel:
    """One end of a link. Takes over ``sock``, which becomes non-blocking.

    ``epoch`` numbers the connections between the same two processes; both ends give the same.
    """

    __slots__ = ("_broken", "_link", "_packets", "_pieces", "_queue", "_read", "_receive_bytes", "_sock", "_split_at",
                 "_write", "append", "outbox_bytes", "wants_write")  # fmt: skip

    def __init__(self, sock: socket.socket, config: Config, epoch: int = 1) -> None:
        sock.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            with contextlib.suppress(OSError):
                if sock.getsockopt(socket.SOL_SOCKET, option) < SOCKET_BUFFER_BYTES:
                    sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        self._sock = sock
        self._read = sock.recv
        self._write = sock.send
        self._link = Link(epoch, config.link_window_max, config.link_acknowledge_after)
        self._split_at = config.packet_bytes_max - HEADER_BYTES
        self._receive_bytes = config.packet_bytes_max
        #: Messages not yet encoded. Always the same list.
        self._queue: list[Fact] = []
        #: ``append(message)``: append one message to the outbox; it travels with the next :meth:`flush`.
        self.append = self._queue.append
        #: Encoded and cut, not yet numbered, because the link's window is full.
        self._pieces: deque[tuple[bytes, bool]] = deque()
        #: Numbered, not yet taken by the socket.
        self._packets: deque[bytes] = deque()
        #: Whether the socket refused a packet: call :meth:`flush` again when it is writable.
        self.wants_write = False
        self._broken = False
        #: Encoded bytes that the socket has not taken yet.
        self.outbox_bytes = 0

    def fileno(self) -> int:
        """Return the socket's descriptor, or -1 after :meth:`close`."""
        return self._sock.fileno()

    def queue(self, messages: Iterable[Fact]) -> None:
        """Append ``messages`` to the outbox; they travel with the next :meth:`flush`."""
        self._queue.extend(messages)

    def flush(self) -> bool:
        """Encode what is queued and send what the socket takes; return True when nothing is left.

        To a peer that is gone everything is sent: it vanishes, and :meth:`receive` will say that the peer is gone.
        """
        queue = self._queue
        if self.outbox_bytes:
            return self._flush_slowly()
        if not queue:
            return True
        if self._broken or len(queue) > FRAME_MESSAGES_MAX:
            return self._flush_slowly()
        frame = _encode(queue)
        if len(frame) > self._split_at or not self._link.room():
            return self._flush_slowly()
        queue.clear()
        packet = self._link.wrap(frame)
        try:
            self._write(packet)
        except OSError:
            self._packets.append(packet)
            self.outbox_bytes = len(packet)
            return self._send()
        return True

    def receive(self) -> list[Fact] | None:
        """Read one packet. Return the messages that it completes, [] if none or nothing was there, None at the end.

        Raises ProtocolViolation for what is no frame of this protocol.
        """
        try:
            packet = self._read(self._receive_bytes)
        except BlockingIOError:
            return []
        except OSError as error:
            late = self._read_after(error)
            if late is None:
                return []
            packet = late
        if not packet:
            return None
        link = self._link
        frames = link.accept(packet)
        acknowledgement = link.acknowledgement_due()
        if acknowledgement is not None:
            self._packets.append(acknowledgement)
            self.outbox_bytes += len(acknowledgement)
            self._send()
        if self._pieces:
            self._number()
            self._send()
        try:
            if len(frames) == 1:
                return _decode(frames[0])  # type: ignore[return-value]  # every message is a Fact; list is invariant
            messages: list[Fact] = []
            for frame in frames:
                messages += _decode(frame)
            return messages
        except msgspec.DecodeError as error:
            raise ProtocolViolation(f"a frame is no list of messages: {error}") from error

    def close(self) -> None:
        """Close the socket. Idempotent; what was not sent is lost."""
        self._broken = True
        self._drop_outbox()
        self._sock.close()

    def _flush_slowly(self) -> bool:
        """What :meth:`flush` does where it takes more than one packet, or one cannot go yet."""
        queue = self._queue
        for start in range(0, len(queue), FRAME_MESSAGES_MAX):
            self._cut(_encode(queue[start : start + FRAME_MESSAGES_MAX]))
        queue.clear()
        self._number()
        return self._send()

    def _read_after(self, error: OSError) -> bytes | None:
        """Read once more after ``error``: return a packet, b"" at the end, None if nothing is there."""
        if not isinstance(error, ConnectionResetError):
            return b""
        # The peer closed with unread packets. Linux says so once, *before* it hands over what the peer had sent.
        try:
            return self._read(self._receive_bytes)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _cut(self, frame: bytes) -> None:
        self.outbox_bytes += len(frame)
        limit = self._split_at
        if len(frame) <= limit:
            self._pieces.append((frame, False))
            return
        last = (len(frame) - 1) // limit * limit
        for start in range(0, len(frame), limit):
            self._pieces.append((frame[start : start + limit], start != last))

    def _number(self) -> None:
        """Give headers to as many pieces as the link's window has room for."""
        pieces, link = self._pieces, self._link
        while pieces and link.room():
            piece, more = pieces.popleft()
            packet = link.wrap(piece, more)
            self.outbox_bytes += len(packet) - len(piece)
            self._packets.append(packet)

    def _send(self) -> bool:
        packets = self._packets
        if self._broken:
            self._drop_outbox()
            return True
        try:
            while packets:
                self._write(packets[0])
                self.outbox_bytes -= len(packets.popleft())
        except BlockingIOError:
            self.wants_write = True
            return False
        except OSError:
            self._broken = True
            self._drop_outbox()
            return True
        self.wants_write = False
        return not self._pieces

    def _drop_outbox(self) -> None:
        self._queue.clear()
        self._pieces.clear()
        self._packets.clear()
        self.outbox_bytes = 0
        self.wants_write = False
