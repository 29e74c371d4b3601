"""What a node's loop waits for: links to clients, workers' output pipes, and a few other descriptors, in one epoll."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable

from sundog.backends.local_processes.channel import Channel
from sundog.core.config import Config
from sundog.core.ids import Address

#: Readiness reports taken at one time; the rest comes in the next turn.
_READY_MAX = 256
READABLE = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR
WRITABLE = select.EPOLLOUT
#: What a link is watched for when its outbox is empty.
IDLE = select.EPOLLIN


class Peer:
    """The other end of one link, as the loop knows it."""

    __slots__ = ("address", "append", "channel", "fd", "mask", "open", "touched")

    def __init__(self, address: Address, channel: Channel) -> None:
        self.address = address
        self.channel = channel
        #: Bound once: called for every message.
        self.append = channel.append
        self.fd = channel.fileno()
        #: What epoll watches it for.
        self.mask = 0
        #: Its end has not been read.
        self.open = True
        #: Something was queued for it in this turn.
        self.touched = False


class Poller:
    """See the module. Sources other than links have a callback, which reads once and never blocks."""

    def __init__(self, config: Config) -> None:
        self._epoll = select.epoll()
        self._outbox_max = config.outbox_bytes_max
        #: Whether what workers print is left in their pipes.
        self.pipes_paused = False
        self._links: dict[int, Peer] = {}
        #: Those whose links are watched, by address.
        self.peers: dict[Address, Peer] = {}
        self._pipes: dict[int, Callable[[], object]] = {}
        self._others: dict[int, Callable[[], None]] = {}
        #: Sources, neither links nor pipes, that the last :meth:`wait` found ready.
        self.later: list[int] = []

    def wait(self, timeout: float) -> list[tuple[Peer, int]]:
        """Wait up to ``timeout`` seconds (-1: for ever), read the pipes that are ready, and return the links that are.

        Pipes come first, so that what a worker printed is known before what it sent afterwards. Call :meth:`read_others`
        once the links are read, if anything is ``later``.
        """
        ready = self._epoll.poll(timeout, _READY_MAX)
        links = self._links
        if len(ready) == 1:
            fd, mask = ready[0]
            peer = links.get(fd)
            if peer is not None:
                return [(peer, mask)]
        found: list[tuple[Peer, int]] = []
        for fd, mask in ready:
            peer = links.get(fd)
            if peer is not None:
                found.append((peer, mask))
            elif fd in self._pipes:
                self._pipes[fd]()
            elif fd in self._others:
                self.later.append(fd)
        return found

    def read_pipes(self) -> None:
        """Read the pipes that are ready now, once more in a turn; links and the rest are found again by the next :meth:`wait`."""
        for fd, _ in self._epoll.poll(0, _READY_MAX):
            read = self._pipes.get(fd)
            if read is not None:
                read()

    def read_others(self) -> None:
        """Call back for the sources in ``later``."""
        later, self.later = self.later, []
        for fd in later:
            callback = self._others.get(fd)
            if callback is not None:
                callback()

    def add_peer(self, peer: Peer) -> None:
        """Watch a link for reading."""
        self._links[peer.fd] = self.peers[peer.address] = peer
        peer.mask = select.EPOLLIN
        self._epoll.register(peer.fd, peer.mask)

    def remove_peer(self, peer: Peer) -> None:
        """Stop watching a link, before it is closed."""
        if self._links.get(peer.fd) is peer:
            del self._links[peer.fd], self.peers[peer.address]
            with contextlib.suppress(OSError):
                self._epoll.unregister(peer.fd)

    def flushed(self, peer: Peer) -> None:
        """Watch ``peer`` for what its outbox now calls for: writing if it is not empty, reading unless it is too full."""
        channel = peer.channel
        mask = 0 if channel.outbox_bytes > self._outbox_max else select.EPOLLIN
        if channel.wants_write:
            mask |= select.EPOLLOUT
        if mask != peer.mask and self._links.get(peer.fd) is peer:
            peer.mask = mask
            self._epoll.modify(peer.fd, mask)

    def add_pipe(self, fd: int, callback: Callable[[], object]) -> None:
        """Watch the reading end of a pipe."""
        self._pipes[fd] = callback
        self._epoll.register(fd, 0 if self.pipes_paused else select.EPOLLIN)

    def remove_pipe(self, fd: int) -> None:
        """Stop watching a pipe, before it is closed."""
        if self._pipes.pop(fd, None) is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def pause_pipes(self, paused: bool) -> None:
        """While ``paused``, leave what workers print in their pipes: who reads it in the end is too far behind."""
        if paused != self.pipes_paused:
            self.pipes_paused = paused
            for fd in self._pipes:
                self._epoll.modify(fd, 0 if paused else select.EPOLLIN)

    def add_other(self, fd: int, callback: Callable[[], None]) -> None:
        """Watch anything else for reading."""
        self._others[fd] = callback
        self._epoll.register(fd, select.EPOLLIN)

    def remove_other(self, fd: int) -> None:
        """Stop watching it, before it is closed."""
        if self._others.pop(fd, None) is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def close(self) -> None:
        """Close the epoll descriptor."""
        self._epoll.close()


def readable(fd: int) -> bool:
    """Tell whether reading ``fd`` would not block now."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def close_all(fds: list[int]) -> None:
    """Close descriptors, whatever becomes of each."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
