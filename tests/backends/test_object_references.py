"""References are counted from birth to death, whatever happens in between."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import signal
import threading
from collections.abc import Iterator
from typing import Any

import cloudpickle
import pytest

import sundog
from sundog.backends import current
from sundog.core.events import ReferenceDropped
from tests.support.loopback import LoopbackPort, loopback

RAW = bytes(range(20))


@sundog.remote
def same(x):
    return x


@pytest.fixture
def port() -> Iterator[LoopbackPort]:
    with loopback() as made:
        yield made


def test_an_id_is_its_bytes(port: LoopbackPort):
    one, other = sundog.ObjectID(RAW), sundog.ObjectRef(RAW)
    assert one == other
    assert hash(one) == hash(other)
    assert len({one, other}) == 1
    assert isinstance(one, sundog.ObjectID)
    assert repr(one) == str(one) == f"{one}" == f"ObjectID({RAW.hex()})"
    assert one.hex() == RAW.hex()
    assert type(one.binary()) is bytes
    assert one.binary() == RAW
    assert copy.copy(one) is one
    assert copy.deepcopy([one])[0] is one
    with pytest.raises(ValueError, match="20 bytes, not 3"):
        sundog.ObjectID(b"abc")
    with pytest.raises(TypeError, match="cannot be unpacked"):
        _, _ = one


def test_births_and_deaths_are_facts_in_order(port: LoopbackPort):
    session = current.get()
    assert session is not None
    reference = session.reference(RAW)
    assert list(port.facts) == [RAW]
    assert type(port.facts[0]) is bytes
    del reference
    assert list(port.facts) == [RAW, ReferenceDropped(RAW)]  # type: ignore[arg-type]
    assert type(port.facts[1].object_id) is bytes


def test_what_outlives_its_session_tells_nobody_of_the_next(port: LoopbackPort):
    old = sundog.put(1)
    with loopback() as new:
        del old
        assert not new.facts
        with pytest.raises(ValueError, match="belongs to a session that has ended"):
            sundog.get([sundog.put(1), _reference_of(port)])


def _reference_of(port: LoopbackPort) -> Any:
    before = current.get()
    with loopback():
        made = sundog.put(1)
    assert current.get() is before
    return made


def test_without_a_session_an_id_cannot_be_made():
    assert current.get() is None
    with pytest.raises(sundog.NotInitializedError, match=r"sundog\.init"):
        sundog.ObjectID(RAW)


def test_ids_inside_values_are_counted(port: LoopbackPort):
    inner = sundog.put("inner")
    outer = sundog.put({"deep": [inner, inner]})
    port.turn()
    assert port.store.contained[outer.binary()] == (inner.binary(),)
    found = sundog.get(outer)["deep"]
    assert found == [inner, inner]
    assert port.live()[inner.binary()] == 1 + len({id(one) for one in found})
    del found, outer, inner
    assert port.live() == {}
    assert not port.store.escaped


def test_ids_pickled_by_others_are_kept_to_the_end(port: LoopbackPort, capsys: pytest.CaptureFixture[str]):
    one, other = sundog.put(1), sundog.put(2)
    again = pickle.loads(pickle.dumps([one, other]))
    cloudpickle.dumps(one)
    port.turn()
    assert again == [one, other]
    assert port.store.escaped == [one.binary(), other.binary(), one.binary()]
    assert capsys.readouterr().err.count("pickled outside sundog") == 1


def test_futures_and_await(port: LoopbackPort):
    assert same.remote(3).future().result(timeout=5) == 3

    @sundog.remote
    def fails():
        raise LookupError("gone")

    with pytest.raises(LookupError):
        fails.remote().future().result(timeout=5)

    async def both() -> tuple[int, int]:
        with pytest.raises(LookupError):
            await fails.remote()
        one, other = await asyncio.gather(_wait(same.remote(1)), _wait(same.remote(2)))
        return one, other

    async def _wait(object_id: sundog.ObjectID[int]) -> int:
        return await object_id

    assert asyncio.run(both()) == (1, 2)
    gc.collect()
    assert port.live() == {}


def test_a_forked_child_is_told_to_init(port: LoopbackPort):
    one = sundog.put(1)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            for call in (lambda: sundog.get(one), lambda: same.remote(1), lambda: one.future(), lambda: sundog.ObjectID(RAW)):
                with pytest.raises(sundog.NotInitializedError, match="fork"):
                    call()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert sundog.get(one) == 1


def test_interrupts_at_random_moments_lose_no_reference(port: LoopbackPort):
    main = threading.get_ident()
    over = threading.Event()
    armed: list[None] = []

    def interrupted(*_: object) -> None:
        if armed:
            armed.clear()
            raise KeyboardInterrupt

    def interrupt() -> None:
        while not over.wait(0.0005):
            signal.pthread_kill(main, signal.SIGINT)

    def work() -> None:
        kept: list[Any] = []
        for number in range(40):
            kept.append(same.options(num_returns=2).remote([number, kept[-1:]]))
            kept.append(same.remote(number))
            kept.append(sundog.put(number))
            sundog.ObjectID(kept[-1].binary())

    port.frozen = True
    same.remote(0)
    before = signal.signal(signal.SIGINT, interrupted)
    sender = threading.Thread(target=interrupt)
    sender.start()
    gc.disable()  # others' callbacks of the collector would swallow the interrupt
    try:
        for _ in range(500):
            try:
                armed.append(None)
                while armed:
                    work()
            except KeyboardInterrupt:
                pass
    finally:
        over.set()
        sender.join()
        signal.signal(signal.SIGINT, before)
        gc.enable()
    gc.collect()
    assert port.live() == {}
