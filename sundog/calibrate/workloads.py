"""What is run to calibrate, on real processes and in the simulator alike."""

from __future__ import annotations

import random
import time
from typing import Any

import sundog

#: Seconds that a task pauses, from the first to the second: each others, lest two end together.
_PAUSE = (0.0005, 0.0015)
#: Of a loop.
_ROUNDS = 100_000
#: What must outlive a measurement.
kept: list[Any] = []


@sundog.remote
def nothing(*_: object) -> None:
    """An empty task."""


@sundog.remote
def take(_: bytes) -> None:
    """An empty task with an argument."""


@sundog.remote
def pause(seconds: float) -> None:
    """A task that computes nothing for a while."""
    sundog.sleep(seconds)  # virtual in the simulator, where the module time is real for us


@sundog.remote
def loop() -> int:
    """Compute for some milliseconds; return for how many nanoseconds."""
    began = time.thread_time_ns()
    total = 0
    for number in range(_ROUNDS):
        total += number
    return time.thread_time_ns() - began


@sundog.remote
def parent() -> None:
    """A task that waits for another."""
    sundog.get(nothing.remote())


@sundog.remote
def zeros(size: int) -> bytes:
    """Return so many bytes."""
    return bytes(size)


def settle() -> None:
    """Let what was let go of be forgotten everywhere, lest it be counted with what comes next."""
    for _ in range(3):
        sundog.get(nothing.remote())


def tasks(count: int) -> None:
    """Many tasks together."""
    sundog.get([nothing.remote() for _ in range(count)])
    settle()


def submissions(count: int) -> None:
    """Submit, and wait until all are done, without fetching them."""
    kept[:] = [nothing.remote() for _ in range(count)]
    sundog.wait(kept[-1:])


def puts(count: int) -> None:
    """Small puts."""
    kept[:] = [sundog.put(b"small") for _ in range(count)]
    sundog.get(nothing.remote())  # by then the node has heard of all


def spread(count: int) -> None:
    """Tasks whose results come one by one, while nobody computes."""
    shortest, longest = _PAUSE
    draw = random.Random(count)
    sundog.get([pause.remote(draw.uniform(shortest, longest)) for _ in range(count)])


def carry(value: bytes, count: int) -> None:
    """Tasks with an argument."""
    sundog.get([take.remote(value) for _ in range(count)])


def one_by_one(count: int) -> None:
    """One task after the other."""
    for _ in range(count):
        sundog.get(nothing.remote())


def pairs(count: int) -> None:
    """Tasks with the result of another."""
    sundog.get([nothing.remote(nothing.remote()) for _ in range(count)])
    settle()


def lone_parents(count: int) -> None:
    """Tasks that wait for another, one after the other."""
    for _ in range(count):
        sundog.get(parent.remote())


def parents(count: int) -> None:
    """Tasks that wait for another."""
    sundog.get([parent.remote() for _ in range(count)])
    settle()
