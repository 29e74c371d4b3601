"""One task, submit and get, against a raw relay of the same shape: driver, epoll relay, echo; the same bytes, no engine.

Blocks of the two alternate, so that whatever else the machine does hits both; the figure is the median of the ratios.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import statistics
import time
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
def raw_relay() -> Iterator[Callable[[], None]]:
    """Yield a function that does one round trip through two other processes. Enter it before sundog starts threads."""
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    (driver, front), (back, worker) = pairs
    pids = [_fork(_echo, worker, close=[driver, front, back]), _fork(_relay, front, back, close=[driver, worker])]
    for unused in (front, back, worker):
        unused.close()

    def once() -> None:
        driver.send(MESSAGE)
        driver.recv(65536)

    try:
        yield once
    finally:
        driver.close()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


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
    ratios = []
    with raw_relay() as relay, sundog.init(num_workers=2):
        for once in (relay, lambda: sundog.get(nothing.remote())):
            block(once)
        with quiet_gc():
            for _ in range(BLOCKS):
                theirs, mine = block(relay), block(lambda: sundog.get(nothing.remote()))
                ratios.append(statistics.median(mine) / statistics.median(theirs))
                raw += theirs
                ours += mine
    figures = f"p50 {1e6 * statistics.median(ours):.0f} us, p99 {1e6 * percentile(ours, 0.99):.0f} us"
    return [
        at_most("one task, submit + get: times a raw relay", 1.5, statistics.median(ratios), "x", ".2f"),
        info("the same, absolutely", f"{figures} (relay {1e6 * statistics.median(raw):.0f} us)"),
    ]
