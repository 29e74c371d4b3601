"""How long a driver leaves news unread (``patience``): a part of what is left, nothing for those who wait for little."""

from __future__ import annotations

import select
import time

from sundog.backends.local_processes.channel import Channel, socket_pair
from sundog.backends.local_processes.patience import PATIENCE_MAX, PATIENCE_MIN, Patience
from sundog.backends.local_processes.pump import ClientPump
from sundog.backends.waiter import Waiter
from sundog.core import messages as msg
from sundog.core.actions import ResolveGet
from sundog.core.config import Config
from sundog.core.events import GetRequested
from sundog.core.ids import DRIVER, ObjectID
from sundog.core.request import Request
from sundog.core.task import Value
from sundog.core.units import MILLISECOND, SECOND

IDS = tuple([ObjectID(index.to_bytes(20, "big")) for index in range(1, 2001)])


def request(missing: int, allowed: int = 0) -> Request:
    return Request(IDS, dict.fromkeys(IDS[:missing]), allowed, None, None, True, 0, {})


def test_a_get_of_many_ends_at_most_an_eighth_later_than_it_could() -> None:
    patience = Patience()
    now = missing = 0
    pace = 50_000
    wakes = 0
    total = 1000
    while missing < total:  # objects come at an even pace from 0 on; read when patience says, else as they come
        due = patience.read_at or now + pace
        now = max(due, now + pace)
        missing = min(now // pace, total)
        wakes += 1
        left = request(total - missing) if missing < total else None
        patience.consider(now, [left] if left else [], int(left is not None), was_read=True)
        assert patience.read_at <= now + PATIENCE_MAX
    assert now <= total * pace * 9 // 8
    assert wakes < total // 8
    assert patience.read_at == 0, "nobody waits any more"


def test_two_stragglers_do_not_make_many_look_slow() -> None:
    patience = Patience()
    patience.consider(0, [request(2000)], 1, was_read=True)
    patience.consider(5 * MILLISECOND, [request(600)], 1, was_read=True)  # 280 to a millisecond
    patience.consider(15 * MILLISECOND, [request(598)], 1, was_read=True)  # nothing came for a while
    assert patience.read_at <= 17 * MILLISECOND


def test_nobody_who_waits_for_little_is_kept_waiting() -> None:
    patience = Patience()
    patience.consider(0, [request(2000)], 1, was_read=True)
    patience.consider(20 * MILLISECOND, [request(1900)], 1, was_read=True)  # an eighth of the rest: 47.5 ms
    assert patience.read_at == 20 * MILLISECOND + PATIENCE_MAX
    patience = Patience()
    patience.consider(0, [request(1000)], 1, was_read=True)
    patience.consider(10 * MILLISECOND, [request(900)], 1, was_read=True)
    assert patience.read_at == 10 * MILLISECOND + 11_250_000
    few = request(1000, allowed=999)  # a wait for one
    patience.consider(11 * MILLISECOND, [request(900), few], 2, was_read=False)
    assert patience.read_at == 0
    patience.consider(20 * MILLISECOND, [request(880), few], 2, was_read=True)
    assert patience.read_at == 0
    patience.consider(30 * MILLISECOND, [request(700)], 2, was_read=True)
    assert patience.read_at == 0, "one of the two asked something else"


def test_who_waits_for_few_ends_the_patience_of_those_who_wait_for_many() -> None:
    patience = Patience()
    patience.consider(0, [request(1000)], 1, was_read=True)
    patience.consider(10 * MILLISECOND, [request(900)], 1, was_read=True)
    assert patience.read_at
    patience.consider(11 * MILLISECOND, [request(900), request(2)], 2, was_read=False)
    assert patience.read_at == 0
    assert PATIENCE_MIN < PATIENCE_MAX


def test_a_patient_pump_leaves_packets_unread_and_then_reads_them_together() -> None:
    ours, theirs = socket_pair()
    config = Config()
    node = Channel(theirs, config)
    pump = ClientPump(config, ours, DRIVER, worker=False, route=None, show=lambda _: None, closed=lambda _: None)
    waiter = Waiter(GetRequested(1, IDS, None, None))
    given = 0
    pump.waiters.add(1, waiter)
    try:
        pump.facts.append(waiter.fact)
        pump.turn()

        def ready(count: int) -> None:
            nonlocal given
            told = [msg.ReadyObject(object_id, Value(1, data=b"x")) for object_id in IDS[given : given + count]]
            node.append(msg.ObjectsReady(tuple(told)))
            assert node.flush()
            given += count

        while not pump.patient:
            time.sleep(0.001)  # a pace, not a wait
            ready(1)
            pump.sleep(SECOND)
            pump.turn()
        unread = select.poll()
        unread.register(ours.fileno(), select.POLLIN)
        for _ in range(10):
            ready(3)
        pump.sleep(1)
        assert not pump.turn(), "it was not time yet"
        assert unread.poll(0)
        pump.sleep(SECOND)
        assert pump.turn()
        assert not unread.poll(0), "all packets in one turn"
        ready(len(IDS) - given)
        while waiter.answer is None:
            pump.sleep(SECOND)
            pump.turn()
            pump.give_answers()
        assert isinstance(waiter.answer, ResolveGet)
    finally:
        pump.close()
        node.close()
