"""Which clocks are virtual for whom, and that everything is real again afterwards."""

from __future__ import annotations

import asyncio
import datetime
import queue
import threading
import time
import types
from collections.abc import Callable
from time import monotonic, perf_counter_ns, sleep
from typing import Any

import pytest

import sundog
from sundog.backends.simulated.programs.virtual_time import EPOCH

#: Kept from before any session, where nobody finds it.
_REAL = [time.monotonic]
Simulate = Callable[..., Any]


def real() -> float:
    """Return the real time in seconds."""
    return _REAL[0]()


@sundog.remote
def nap(seconds, value=None):
    time.sleep(seconds)
    return value


def test_the_tutorials_ten_sleeping_tasks_take_one_virtual_second_and_no_real_time(simulate: Simulate) -> None:
    simulate(num_cpus=10)

    @sundog.remote
    def f2():
        time.sleep(1)

    began, began_real = time.monotonic(), real()
    sundog.get([f2.remote() for _ in range(10)])
    assert 1.0 <= time.monotonic() - began < 1.001
    assert real() - began_real < 0.9


def test_every_form_of_the_clocks_and_of_sleep_is_virtual(simulate: Simulate) -> None:
    simulate()

    def read() -> list[float]:
        from time import time as by_name  # as a body might

        return [
            time.time() - EPOCH, by_name() - EPOCH, time.monotonic(), time.perf_counter(), monotonic(),
            time.time_ns() / 1e9 - EPOCH, time.monotonic_ns() / 1e9, time.perf_counter_ns() / 1e9, perf_counter_ns() / 1e9,
            datetime.datetime.now(datetime.UTC).timestamp() - EPOCH,
        ]  # fmt: skip

    @sundog.remote
    def body():
        before = read()
        sleep(1000)
        sundog.sleep(1000)
        return before, read()

    first = read()
    sleep(2000)
    for before, after in ((first, read()), sundog.get(body.remote())):
        assert max(before) - min(before) < 0.001
        assert all(1999.9 < b - a < 2000.1 for a, b in zip(before, after, strict=True))


def test_dates_are_virtual_and_their_types_stay_what_they_are(simulate: Simulate) -> None:
    before = datetime.datetime
    simulate()
    time.sleep(86_400 * 31)
    assert datetime.date.today() == datetime.datetime.today().date() == datetime.date(2024, 2, 1)
    assert datetime.datetime.utcnow().tzinfo is None
    assert (datetime.datetime.now(datetime.UTC).year, time.gmtime().tm_mon, time.localtime(0).tm_year) == (2024, 2, 1970)
    assert datetime.datetime is before
    moment = datetime.datetime.now()
    assert type(moment) is before
    assert sundog.get(sundog.put(moment)) == moment


def test_an_event_of_the_standard_library_takes_real_time(simulate: Simulate) -> None:
    simulate()
    began, virtual = real(), time.monotonic()
    assert not threading.Event().wait(0.01)
    with pytest.raises(queue.Empty):
        queue.Queue[int]().get(timeout=0.01)
    assert real() - began >= 0.02
    assert time.monotonic() - virtual < 0.001


def test_everything_is_real_again_after_the_session_and_after_an_exception(simulate: Simulate) -> None:
    names = (
        "sleep",
        "time",
        "monotonic",
        "perf_counter",
        "time_ns",
        "monotonic_ns",
        "perf_counter_ns",
        "localtime",
        "gmtime",
        "ctime",
    )
    before = {name: getattr(time, name) for name in names}
    now, join, wait = datetime.datetime.__dict__["now"], threading.Thread.join, threading.Condition.wait
    own = {name: globals()[name] for name in ("monotonic", "sleep", "perf_counter_ns")}
    late = types.ModuleType("made_while_time_was_virtual")

    def program() -> None:
        with simulate():
            assert time.sleep is not before["sleep"]
            assert globals()["sleep"] is time.sleep
            exec("from time import sleep", late.__dict__)
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        program()
    assert {name: getattr(time, name) for name in names} == before
    assert {name: globals()[name] for name in own} == own
    assert (datetime.datetime.__dict__["now"], threading.Thread.join, threading.Condition.wait) == (now, join, wait)
    began = real()
    late.sleep(0.01)  # in no table of modules, and yet real
    assert real() - began >= 0.01
    assert abs(time.time() - datetime.datetime.now().timestamp()) < 1
    assert time.time() > EPOCH + 10_000_000


def test_modules_that_came_during_the_session_get_the_real_functions_at_its_end(
    simulate: Simulate, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_in_virtual_time.py").write_text("from time import sleep, monotonic\nimport time\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with simulate():
        import imported_in_virtual_time as late  # type: ignore[import-not-found]

        began = time.monotonic()
        late.sleep(60)
        assert 60 <= late.monotonic() - began < 61
    assert late.sleep is time.sleep
    assert late.monotonic is time.monotonic
    assert abs(late.monotonic() - real()) < 1


def test_sleeping_nonsense_is_refused_as_ever(simulate: Simulate) -> None:
    simulate()
    with pytest.raises(ValueError, match="negative"):
        time.sleep(-1)
    with pytest.raises(TypeError):
        time.sleep("a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seconds"):
        sundog.sleep(-1)
    time.sleep(0)
    time.sleep(True)


def test_event_loops_are_virtual_in_the_driver_and_in_bodies(simulate: Simulate) -> None:
    simulate(num_cpus=8)

    @sundog.remote
    def with_an_event_loop(seconds):
        async def main():
            began = time.monotonic()
            values = await asyncio.gather(nap.remote(1, "a"), asyncio.sleep(seconds, "b"))
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), 100)
            return values, time.monotonic() - began

        return asyncio.run(main())

    async def main():
        began = time.monotonic()
        values = await asyncio.gather(*[with_an_event_loop.remote(i) for i in range(3)], asyncio.sleep(50, "slept"))
        return values, time.monotonic() - began

    began = real()
    values, took = asyncio.run(main())
    assert values[3] == "slept"
    assert [value for value, _ in values[:3]] == [["a", "b"]] * 3
    assert [round(seconds) for _, seconds in values[:3]] == [101, 101, 102]
    assert 102 <= took < 102.1
    assert real() - began < 20


def test_a_session_may_begin_and_end_within_an_event_loop(simulate: Simulate) -> None:
    async def main():
        ticks = []

        async def tick():
            for i in range(3):
                await asyncio.sleep(0.01)
                ticks.append(i)

        ticking = asyncio.ensure_future(tick())
        await asyncio.sleep(0.015)
        with simulate():
            assert await nap.remote(3600, "long") == "long"
            assert ticks == [0, 1, 2]
            later = asyncio.ensure_future(asyncio.sleep(0.01))
        await later
        await ticking

    began = real()
    asyncio.run(main())
    assert real() - began < 10


def test_polling_loops_get_somewhere(simulate: Simulate) -> None:
    simulate()
    ids = [nap.remote(0.01)]
    while not sundog.wait(ids, timeout=0)[0]:
        pass
    until = time.monotonic() + 0.01
    while time.monotonic() < until:
        pass
    future = nap.remote(0.01).future()
    while not future.done():
        time.monotonic()

    @sundog.remote
    def polls():
        until = time.perf_counter() + 0.01
        while time.perf_counter() < until:
            pass
        ids = [nap.remote(0.01)]
        while not sundog.wait(ids, timeout=0)[0]:
            pass
        return "done"

    assert sundog.get(polls.remote()) == "done"


def test_what_nobody_waits_for_runs_while_the_driver_sleeps_and_is_dropped_at_shutdown(simulate: Simulate) -> None:
    ran: list[int] = []
    holder = types.ModuleType("holder_of_what_ran")
    holder.ran = ran  # type: ignore[attr-defined]
    import sys

    sys.modules["holder_of_what_ran"] = holder
    try:
        simulate()

        @sundog.remote
        def note(seconds):
            import holder_of_what_ran  # type: ignore[import-not-found]

            time.sleep(seconds)
            holder_of_what_ran.ran.append(seconds)

        for seconds in (1, 2, 1000):
            note.remote(seconds)
        time.sleep(5)
        assert ran == [1, 2]
        sundog.shutdown()
        assert ran == [1, 2]
    finally:
        del sys.modules["holder_of_what_ran"]


def test_futures_of_all_kinds_drive_the_simulation(simulate: Simulate) -> None:
    import concurrent.futures

    simulate()
    began = time.monotonic()
    assert nap.remote(3, "x").future().result() == "x"
    with pytest.raises(TimeoutError):
        nap.remote(3).future().result(1)
    assert 4 <= time.monotonic() - began < 4.01
    futures = [nap.remote(i, i).future() for i in (3, 1, 2)]
    assert [future.result() for future in concurrent.futures.as_completed(futures)] == [1, 2, 3]
    pending = [nap.remote(i, i).future() for i in (50, 10)]
    done, rest = concurrent.futures.wait(pending, 20, concurrent.futures.FIRST_COMPLETED)
    assert ({f.result() for f in done}, len(rest)) == ({10}, 1)
    assert list(sundog.as_completed([a := nap.remote(0.2), b := nap.remote(0.1)], timeout=1)) == [b, a]
    with pytest.raises(sundog.GetTimeoutError):
        list(sundog.as_completed([nap.remote(20)], timeout=1))


def test_threads_of_the_driver_are_served_while_it_waits_for_them(simulate: Simulate) -> None:
    import concurrent.futures

    simulate()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        values = list(pool.map(lambda i: sundog.get(nap.remote(i, i)), range(20)))
    assert values == list(range(20))
    started, answers = threading.Event(), queue.Queue[Any]()

    def work() -> None:
        started.set()
        answers.put(sundog.get([nap.remote(1, sundog.get(sundog.put(i))) for i in range(5)]))

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(20)
    assert answers.get(timeout=20) == list(range(5))
    thread.join(20)
    thread = threading.Thread(target=lambda: answers.put(nap.remote(5, "future").future().result(20)))
    thread.start()
    thread.join(20)
    assert answers.get(timeout=20) == "future"


def test_a_thread_of_a_body_is_refused_with_reasons(simulate: Simulate) -> None:
    simulate()

    @sundog.remote
    def starts_a_thread():
        said = []

        def work():
            for call in (lambda: sundog.put(1), lambda: sundog.get(nap.remote(1)), sundog.is_initialized):
                try:
                    call()
                except RuntimeError as error:
                    said.append(str(error))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return said

    said = sundog.get(starts_a_thread.remote())
    assert len(said) == 3
    assert all("thread" in text and "virtual time" in text for text in said)
