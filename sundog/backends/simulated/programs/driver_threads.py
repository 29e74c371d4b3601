"""Threads of the driver beside the simulation's own, and threads that bodies start.

The simulation runs on one thread, that of ``init``. Another thread of the driver that asks for something is served while that
one is in a sundog call. If it waits for the other thread itself (``Thread.join``, an ``Event``, a ``Queue``, a pool's future: all
of them wait for a condition), then it serves meanwhile: here.

A thread that a body starts may compute, but not call sundog: nobody could say when, in virtual time, it does.
"""

from __future__ import annotations

import threading
import time
from _thread import allocate_lock, get_ident
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from sundog.backends.simulated.programs.driver import Driver
    from sundog.backends.simulated.programs.rebinding import Rebinding

#: Seconds for which the simulation's thread waits before it looks what others want.
_LOOK_EVERY = 0.001
#: Steps of the loop after which a thread that serves others looks whether what it waits for has happened.
_BURST_STEPS = 2048
_monotonic = time.monotonic


def install(driver: Driver, rebinding: Rebinding) -> None:
    """See the module: until ``rebinding`` is restored."""
    real_start = threading.Thread.start
    real_join = threading.Thread.join
    real_wait = threading.Condition.wait

    def start(thread: Any) -> None:
        running = driver.loop.running if get_ident() == driver.loop.home else None
        if running is not None and running is not driver.strand:
            run = running.process.current_task()
            thread._sundog_task = run.hex() if run is not None else ""
        elif get_ident() != driver.loop.home:
            mark = getattr(threading.current_thread(), "_sundog_task", None)
            if mark is not None:
                thread._sundog_task = mark
        real_start(thread)

    def join(thread: Any, timeout: float | None = None) -> None:
        if not _serves(driver):
            real_join(thread, timeout)
            return

        def over(slice_seconds: float) -> bool:
            real_join(thread, slice_seconds)
            return not thread.is_alive()

        _serve(driver, over, timeout)

    def wait(condition: Any, timeout: float | None = None) -> bool:
        return _wait_serving(driver, condition, timeout) if _serves(driver) else real_wait(condition, timeout)

    for owner, name, new in (
        (threading.Thread, "start", start), (threading.Thread, "join", join), (threading.Condition, "wait", wait),
    ):  # fmt: skip
        rebinding.replace(owner, name, new)


def refuse_threads_of_bodies() -> None:
    """Raise RuntimeError if the calling thread was started by a task's body."""
    task = getattr(threading.current_thread(), "_sundog_task", None)
    if task is not None:
        raise RuntimeError(
            f"a thread that task {task} started called sundog, which the simulator cannot place in virtual time: call it from the "
            "task's own thread, or start tasks instead of threads"
        )


def _serves(driver: Driver) -> bool:
    """Tell whether the caller is the driver's program, with other threads beside it that may need the simulation."""
    loop = driver.loop
    return get_ident() == loop.home and loop.running is driver.strand and driver.may_wait() and threading.active_count() > 1


def _serve(driver: Driver, over: Callable[[float], bool], timeout: float | None) -> bool:
    """Wait until ``over(seconds)``, for at most ``timeout`` real seconds; meanwhile do what other threads ask for."""
    end = None if timeout is None else _monotonic() + max(0.0, timeout)
    while True:
        left = _LOOK_EVERY if end is None else min(_LOOK_EVERY, end - _monotonic())
        if over(max(0.0, left)):
            return True
        if end is not None and _monotonic() >= end:
            return False
        if driver.threads_waiting or driver.loop.calls:
            _burst(driver)


def _wait_serving(driver: Driver, condition: Any, timeout: float | None) -> bool:
    """Wait for a notification of ``condition``, which the caller owns, as ``Condition.wait`` does, serving others meanwhile."""
    if not condition._is_owned():
        raise RuntimeError("cannot wait on un-acquired lock")
    waiter = allocate_lock()
    waiter.acquire()
    condition._waiters.append(waiter)
    saved = condition._release_save()
    notified = False
    try:
        notified = _serve(driver, lambda slice_seconds: waiter.acquire(True, slice_seconds), timeout)
    finally:
        condition._acquire_restore(saved)
        if not notified and waiter in condition._waiters:
            condition._waiters.remove(waiter)
    return notified


def _burst(driver: Driver) -> None:
    loop, strand = driver.loop, driver.strand
    limit = loop.steps + _BURST_STEPS
    before = driver.threads_waiting
    loop.outside[strand] = lambda: loop.steps >= limit or driver.threads_waiting < before
    try:
        strand.suspend()
    finally:
        del loop.outside[strand]
