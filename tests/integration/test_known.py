"""What this process knows it answers itself: the same answers, nothing kept too long, and interrupts lose nothing."""

from __future__ import annotations

import gc
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import sundog
from sundog.backends import current
from tests.support.inspection import store_bytes_used, table
from tests.support.waiting import wait_until

shared = pytest.mark.usefixtures("session")
MB = 1 << 20


@sundog.remote
def double(x):
    return 2 * x


@sundog.remote
def mixed(x):
    if x % 10 == 7:
        raise ValueError(x)
    return np.full(20_000, x) if x % 10 == 3 else x


@contextmanager
def nobody_asked() -> Iterator[None]:
    """Fail if anything within the block goes beyond the calling thread."""
    session = current.session
    assert session is not None
    port: Any = session.port

    def ask(fact: object) -> None:
        raise AssertionError(f"asked {fact}")

    port.ask = ask
    try:
        yield
    finally:
        del port.ask


@shared
def test_small_puts_waited_results_and_extents_that_were_got_are_known():
    small = sundog.put({"a": 1})
    results = [double.remote(i) for i in range(300)]
    assert sundog.wait(results, num_returns=300) == (results, [])
    large = sundog.put(np.arange(200_000))
    first = sundog.get(large)
    with nobody_asked():
        assert sundog.get(small) == {"a": 1}
        assert sundog.get(results) == [2 * i for i in range(300)]
        rest = results
        for i in range(300):
            [one], rest = sundog.wait(rest)
            assert sundog.get(one) == 2 * i
        again, other = sundog.get([large, large])
        assert (again == first).all()
        assert not other.flags.writeable
        assert sundog.get({"s": small, "l": large})["s"] == {"a": 1}


@shared
def test_what_is_known_holds_what_lies_inside_it():
    inner = sundog.put("inner")
    outer = sundog.put([inner])
    del inner
    gc.collect()
    held = sundog.get(outer)
    assert sundog.get(sundog.get(outer)[0]) == "inner"
    del outer
    wait_until(lambda: len(table("objects")) == 1)
    assert sundog.get(held[0]) == "inner"
    del held
    wait_until(lambda: not table("objects"))


def test_a_view_that_is_kept_goes_with_the_last_reference(start: Callable[..., Any]):
    start(num_workers=1, object_store_memory=32 * MB)
    for i in range(12):
        one = sundog.put(np.full(MB, float(i)))
        assert sundog.get(one)[-1] == sundog.get(one)[0] == i
        two = sundog.put(np.full(MB, i + 0.5))
        view = sundog.get([one, two])[1]
        del one, two
        assert view[7] == i + 0.5
    del view
    wait_until(lambda: store_bytes_used() == 0)


@shared
def test_results_taken_one_by_one_are_read_ahead_and_right():
    ids = [mixed.remote(i) for i in range(400)]
    for i, object_id in enumerate(ids):
        if i % 10 == 7:
            with pytest.raises(ValueError, match=str(i)):
                sundog.get(object_id)
        else:
            value = sundog.get(object_id)
            assert value[0] == i if i % 10 == 3 else value == i
    del ids, object_id, value
    gc.collect()
    wait_until(lambda: not table("objects") and store_bytes_used() == 0)


@shared
def test_failures_are_raised_each_time_and_are_ready():
    failing = mixed.remote(7)
    for _ in range(3):
        assert sundog.wait([failing]) == ([failing], [])
        with pytest.raises(ValueError, match="7"):
            sundog.get(failing)


def test_nothing_is_known_in_the_next_session(start: Callable[..., Any]):
    start(num_workers=1)
    old = sundog.put("old")
    assert sundog.get(old) == "old"
    sundog.shutdown()
    with pytest.raises(sundog.SundogError):
        sundog.get(old)
    sundog.init(num_workers=1)
    with pytest.raises(ValueError, match="session that has ended"):
        sundog.get(old)
    sundog.shutdown()


@shared
@pytest.mark.real_processes
def test_interrupts_at_random_moments_of_gets_lose_no_object():
    rng = random.Random(5)
    interrupts = done = 0
    result: Any = None
    small: Any = None
    large: Any = None

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        while interrupts < 150:
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0005, 0.03))
                while True:
                    result, small, large = double.remote(4), sundog.put("small"), sundog.put(np.ones(20_000))
                    sundog.wait([result, small, large], num_returns=3)
                    assert sundog.get([result, small]) == [8, "small"]
                    assert sundog.get(large)[0] == sundog.get(large)[-1] == 1
                    done += 1
            except KeyboardInterrupt:
                interrupts += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert done > 5, f"{done} rounds"
    result = small = large = None
    gc.collect()
    wait_until(lambda: not table("objects"))
