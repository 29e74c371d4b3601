"""``wait``: what is ready, in which order, and for how long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import sundog
from tests.support.files import Gate
from tests.support.inspection import table
from tests.support.waiting import wait_until

shared = pytest.mark.usefixtures("session")


@sundog.remote
def double(x):
    return 2 * x


@shared
def test_ready_and_remaining_are_in_the_order_given(gate: Gate):
    @sundog.remote
    def when_told():
        gate.wait()

    slow = [when_told.options(num_cpus=0).remote() for _ in range(2)]
    quick = [double.remote(i) for i in range(4)]
    sundog.get(quick)
    assert sundog.wait([slow[0], quick[1], slow[1], quick[0]], num_returns=2) == ([quick[1], quick[0]], slow)
    gate.open()
    sundog.get(slow)
    mixed = [quick[2], slow[0], quick[0], slow[1], quick[3], quick[1]]
    assert sundog.wait(mixed, num_returns=6) == (mixed, [])
    ready, remaining = sundog.wait(mixed, num_returns=3)
    assert len(ready) == 3
    assert [x for x in mixed if x in ready] == ready
    assert [x for x in mixed if x not in ready] == remaining


@shared
def test_wait_gives_what_is_ready_even_if_it_stands_last(gate: Gate):
    @sundog.remote
    def when_told():
        gate.wait()

    slow, done = when_told.remote(), sundog.put(1)
    assert sundog.wait([slow, done]) == ([done], [slow])
    assert sundog.wait([slow, done], num_returns=2, timeout=0.02) == ([done], [slow])
    gate.open()
    assert sundog.wait([slow, done], num_returns=2, timeout=20) == ([slow, done], [])


@shared
def test_no_more_are_ready_than_were_asked_for():
    ids = [sundog.put(i) for i in range(5)]
    ready, remaining = sundog.wait(ids, num_returns=2)
    assert len(ready) == 2
    assert len(remaining) == 3
    ready, remaining = sundog.wait(ids)
    assert len(ready) == 1


@shared
def test_a_timeout_of_zero_tells_what_is_ready_now(gate: Gate):
    @sundog.remote
    def when_told():
        gate.wait()

    pending = when_told.remote()
    assert sundog.wait([pending], timeout=0) == ([], [pending])
    assert sundog.wait([pending], timeout=0.01) == ([], [pending])
    gate.open()
    sundog.get(pending)
    assert sundog.wait([pending], timeout=0) == ([pending], [])


@shared
def test_the_timeout_is_in_seconds(gate: Gate):
    @sundog.remote
    def when_told():
        gate.wait()

    pending = when_told.remote()
    began = time.monotonic()
    assert sundog.wait([pending], timeout=0.2) == ([], [pending])
    assert 0.19 < time.monotonic() - began < 10
    gate.open()
    sundog.get(pending)


@shared
def test_a_failed_task_is_ready_too():
    @sundog.remote(max_retries=0)
    def fails():
        raise LookupError("no")

    failed = fails.remote()
    assert sundog.wait([failed], timeout=20) == ([failed], [])
    with pytest.raises(LookupError):
        sundog.get(failed)


@shared
def test_duplicates_are_refused():
    x = sundog.put(1)
    with pytest.raises(ValueError, match=r"twice|duplicate|more than once"):
        sundog.wait([x, x])


@shared
@pytest.mark.parametrize("count", [-1, 3])
def test_a_number_of_returns_that_cannot_be_is_refused(count: int):
    ids = [sundog.put(1), sundog.put(2)]
    with pytest.raises(ValueError, match="num_returns"):
        sundog.wait(ids, num_returns=count)


@shared
def test_what_is_not_a_list_of_ids_is_refused():
    with pytest.raises(TypeError, match="list"):
        sundog.wait(sundog.put(1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="ObjectID"):
        sundog.wait([1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout"):
        sundog.wait([sundog.put(1)], timeout=-1)


@shared
def test_waiting_for_one_after_another_of_many_gives_each_once():
    remaining = [double.remote(i) for i in range(200)]
    everything, seen = list(remaining), []
    while remaining:
        ready, remaining = sundog.wait(remaining)
        seen += ready
    assert sorted(seen) == sorted(everything)


@shared
def test_several_threads_wait_and_get_at_the_same_time(gate: Gate):
    @sundog.remote
    def when_told(i):
        gate.wait()
        return i

    ids = [when_told.remote(i) for i in range(8)]
    found: dict[int, Any] = {}

    def wait_for(i):
        sundog.wait([ids[i]])
        found[i] = sundog.get(ids[i])

    threads = [threading.Thread(target=wait_for, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join(20)
    assert found == {i: i for i in range(8)}


@shared
def test_threads_submit_at_the_same_time_and_nothing_is_lost():
    results: list[list[int]] = [[] for _ in range(6)]

    def work(number):
        ids = [double.remote(number * 1000 + i) for i in range(200)]
        results[number] = sundog.get(ids)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [[2 * (number * 1000 + i) for i in range(200)] for number in range(6)]


def test_wait_in_a_task_gives_its_cpu_to_others(start: Callable[..., Any]):
    start(num_workers=1)

    @sundog.remote
    def parent():
        ids = [double.remote(i) for i in range(5)]
        ready, remaining = sundog.wait(ids, num_returns=3)
        return len(ready), len(remaining), sundog.get(ids)

    assert sundog.get(parent.remote()) == (3, 2, [0, 2, 4, 6, 8])


def test_a_wait_in_a_task_that_times_out_goes_on(start: Callable[..., Any], gate: Gate):
    start(num_workers=1)

    @sundog.remote
    def when_told():
        gate.wait()
        return "late"

    @sundog.remote
    def parent():
        child = when_told.remote()
        ready, _ = sundog.wait([child], timeout=0.05)
        try:
            sundog.get(child, timeout=0.05)
        except sundog.GetTimeoutError:
            gate.open()
        return len(ready), sundog.get(child)

    assert sundog.get(parent.remote()) == (0, "late")


@shared
def test_dropping_ids_that_are_waited_for_by_another_thread_loses_nothing(gate: Gate):
    @sundog.remote
    def when_told():
        gate.wait()
        return "value"

    values = []
    thread = threading.Thread(target=lambda object_id: values.append(sundog.get(object_id)), args=(when_told.remote(),))
    thread.start()
    wait_until(lambda: len(table("tasks")) == 1)
    gate.open()
    thread.join(20)
    assert values == ["value"]
