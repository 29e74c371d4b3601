"""One task, submit and get, against a raw relay of the same shape: driver, epoll relay, echo; the same bytes, no engine.

Blocks of the two alternate, so that whatever else the machine does hits both; the figure is the median of the ratios. Beside it,
what of that is the client thread of a driver: the same relay behind one.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import statistics
import threading
import time
from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sundog
from benchmarks.measure import Row, at_most, info, percentile, quiet_gc

BLOCK = 200
BLOCKS = 15
#: About what a small task and its answer weigh on the wire.
MESSAGE = b"x" * 160


@sundog.remote
def nothing() -> None:
    return None


def _echo(link: socket.socket) -> None:
    while data := link.recv(65536):
        link.send(data)


def _relay(driver: socket.socket, worker: socket.socket) -> None:
    poll = select.epoll()
    peers = {driver.fileno(): (driver, worker), worker.fileno(): (worker, driver)}
    for descriptor in peers:
        poll.register(descriptor, select.EPOLLIN)
    while True:
        for descriptor, _ in poll.poll():
            source, target = peers[descriptor]
            data = source.recv(65536)
            if not data:
                return
            target.send(data)


def _fork(work: Callable[..., None], *sockets: socket.socket, close: list[socket.socket]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            for unused in close:
                unused.close()
            work(*sockets)
        finally:
            os._exit(0)
    return pid


@contextmanager
def raw_relay() -> Iterator[socket.socket]:
    """Yield the driver's end of a way through two other processes and back. Enter it before sundog starts threads."""
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    (driver, front), (back, worker) = pairs
    pids = [_fork(_echo, worker, close=[driver, front, back]), _fork(_relay, front, back, close=[driver, worker])]
    for unused in (front, back, worker):
        unused.close()

    try:
        yield driver
    finally:
        driver.close()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@contextmanager
def client_thread(link: socket.socket) -> Iterator[Callable[[], None]]:
    """Yield a function that does one round trip over ``link``, which a thread of its own owns: the least that a driver does whose
    threads write to no socket (ARCHITECTURE.md, "Where we left the first design")."""
    asked: deque[LockType | None] = deque()
    waiting: deque[LockType] = deque()
    rung = os.eventfd(0, os.EFD_NONBLOCK)

    def serve() -> None:
        poll = select.epoll()
        poll.register(link, select.EPOLLIN)
        poll.register(rung, select.EPOLLIN | select.EPOLLET)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == rung:
                    while asked:
                        lock = asked.popleft()
                        if lock is None:
                            poll.close()
                            return
                        waiting.append(lock)
                        link.send(MESSAGE)
                else:
                    link.recv(65536)
                    waiting.popleft().release()

    def once() -> None:
        answered = allocate_lock()
        answered.acquire()
        asked.append(answered)
        os.eventfd_write(rung, 1)
        answered.acquire()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield once
    finally:
        asked.append(None)
        os.eventfd_write(rung, 1)
        thread.join()
        os.close(rung)


def block(once: Callable[[], object]) -> list[float]:
    """Return the durations of ``BLOCK`` calls, in seconds."""
    times = []
    clock = time.perf_counter
    for _ in range(BLOCK):
        started = clock()
        once()
        times.append(clock() - started)
    return times


def measure() -> list[Row]:
    """The rows of the table."""
    ours: list[float] = []
    raw: list[float] = []
    ratios, threads = [], []
    with raw_relay() as link, sundog.init(num_workers=2):

        def relay() -> None:
            link.send(MESSAGE)
            link.recv(65536)

        def task() -> None:
            sundog.get(nothing.remote())

        block(relay)
        block(task)
        with quiet_gc():
            for _ in range(BLOCKS):
                theirs, mine = block(relay), block(task)
                ratios.append(statistics.median(mine) / statistics.median(theirs))
                with client_thread(link) as threaded:
                    threads.append(statistics.median(block(threaded)) / statistics.median(theirs))
                raw += theirs
                ours += mine
    figures = f"p50 {1e6 * statistics.median(ours):.0f} us, p99 {1e6 * percentile(ours, 0.99):.0f} us"
    return [
        at_most("one task, submit + get: times a raw relay", 1.5, statistics.median(ratios), "x", ".2f"),
        info("a relay behind a client thread: times the raw one", f"{statistics.median(threads):.2f} x"),
        info("the same, absolutely", f"{figures} (relay {1e6 * statistics.median(raw):.0f} us)"),
    ]
