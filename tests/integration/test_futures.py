"""IDs as futures: ``.future()`` and ``await``."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading

import pytest

import sundog
from tests.support.files import Gate

shared = pytest.mark.usefixtures("session")


@sundog.remote
def add(a, b):
    return a + b


@shared
def test_future_gives_values_errors_and_callbacks(gate: Gate):
    @sundog.remote
    def when_told():
        gate.wait()
        return 7

    @sundog.remote(max_retries=0)
    def fails():
        raise LookupError("no")

    pending = when_told.remote().future()
    assert isinstance(pending, concurrent.futures.Future)
    assert not pending.done()
    called = threading.Event()
    pending.add_done_callback(lambda _: called.set())
    gate.open()
    assert pending.result(20) == 7
    assert called.wait(20)
    assert isinstance(fails.remote().future().exception(20), LookupError)
    done, _ = concurrent.futures.wait([add.remote(i, i).future() for i in range(5)], 20)
    assert sorted(future.result() for future in done) == [0, 2, 4, 6, 8]


@shared
def test_ids_can_be_awaited():
    @sundog.remote(max_retries=0)
    def fails():
        raise LookupError("no")

    async def main():
        assert await add.remote(1, 2) == 3
        assert await asyncio.gather(*[add.remote(i, i) for i in range(10)]) == [2 * i for i in range(10)]
        with pytest.raises(LookupError):
            await fails.remote()
        return await asyncio.wait_for(add.remote(2, 2), 20)

    assert asyncio.run(main()) == 4


@shared
def test_an_event_loop_runs_on_while_it_awaits_an_id(gate: Gate):
    @sundog.remote
    def when_told():
        gate.wait()
        return "done"

    async def main():
        async def opener():
            gate.open()

        waiting = asyncio.ensure_future(_await(when_told.remote()))
        await opener()
        return await waiting

    async def _await(object_id):
        return await object_id

    assert asyncio.run(main()) == "done"


@shared
def test_an_await_that_is_cancelled_leaves_nothing_behind(gate: Gate):
    @sundog.remote
    def when_told():
        gate.wait()

    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(when_told.remote(), 0.02)

    asyncio.run(main())
    gate.open()
