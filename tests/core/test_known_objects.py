"""What a client answers without the node: what it knows, within its bounds, and not beyond the last reference."""

from __future__ import annotations

from msgspec.structs import replace

from sundog.core import events as ev
from sundog.core import messages as msg
from sundog.core.actions import RejectRequest, ResolveGet, ResolveWait, Send
from sundog.core.config import Config
from sundog.core.deliveries import NOBODY
from sundog.core.ids import ObjectID
from sundog.core.known_objects import ENTRY_BYTES, KnownObjects
from sundog.core.machine import Action
from sundog.core.readahead import AHEAD_MAX, AHEAD_MIN, Readahead
from tests.core.test_client import Peer, get, ready, sends, wait
from tests.support.builders import arena, error, inline, put_id, returned, submitted

X, Y = put_id(1), put_id(2)


def watched(*object_ids: ObjectID) -> msg.ObjectsWanted:
    return msg.ObjectsWanted(object_ids, deliver=False)


def asked(actions: list[Action]) -> list[msg.ObjectsWanted]:
    return [a.message for a in actions if isinstance(a, Send) and isinstance(a.message, msg.ObjectsWanted)]


def test_what_was_put_or_delivered_is_got_again_without_the_node() -> None:
    peer = Peer()
    peer.tell(submitted(1), msg.ObjectPut(X, inline("x")))
    assert peer.tell(get(1, X)) == [ResolveGet(1, (inline("x"),))]
    peer.tell(get(2, returned(1)))
    peer.hear(ready(returned(1), inline(1)))
    assert peer.tell(get(3, returned(1), X, returned(1))) == [ResolveGet(3, (inline(1), inline("x"), inline(1)))]
    assert peer.tell(get(4, X, Y)) == sends(msg.ObjectsWanted((Y,), deliver=True)), "only what is missing is asked for"
    assert peer.hear(ready(Y, inline("y"))) == [ResolveGet(4, (inline("x"), inline("y")))]


def test_news_with_a_value_answer_waits_and_gets() -> None:
    peer = Peer()
    peer.tell(submitted(1))
    assert peer.tell(wait(1, 1, returned(1)), get(2, returned(1))) == sends(
        msg.ObjectsWanted((returned(1),), deliver=True), watched(returned(1))
    )
    assert peer.hear(ready(returned(1), inline(1))) == [ResolveWait(1, (returned(1),)), ResolveGet(2, (inline(1),))]
    assert peer.hear(ready(returned(1), inline(1))) == [], "the other of the two answers"
    assert peer.tell(wait(3, 1, returned(1)), get(4, returned(1))) == [ResolveWait(3, (returned(1),)), ResolveGet(4, (inline(1),))]


def test_nothing_is_known_beyond_the_last_reference_or_of_what_nobody_holds() -> None:
    peer = Peer()
    known = peer.machine.known
    peer.tell(msg.ObjectPut(X, inline("x")), X, get(1, Y))
    known.kept[X] = "what a session keeps"
    peer.hear(ready(Y, inline("y")))
    assert [*known.values] == [X]
    peer.tell(ev.ReferenceDropped(X))
    assert X in known.values
    assert X in known.kept
    peer.tell(ev.ReferenceDropped(X))
    assert not known.values
    assert not known.kept
    assert peer.tell(get(2, X)) == sends(msg.ObjectsWanted((X,), deliver=True))


def test_errors_and_what_lies_in_the_arena_are_known_to_be_ready_and_asked_for_each_time() -> None:
    peer = Peer()
    peer.tell(submitted(1), submitted(2), get(1, returned(1)), get(2, returned(2)))
    peer.hear(ready(returned(1), error()), ready(returned(2), arena(64)))
    for number in (1, 2):
        assert peer.tell(wait(10 + number, 1, returned(number))) == [ResolveWait(10 + number, (returned(number),))]
        assert asked(peer.tell(get(20 + number, returned(number)))) == [msg.ObjectsWanted((returned(number),), deliver=True)]


def test_remembered_values_are_bounded_one_by_one_and_together() -> None:
    config = replace(Config(), known_bytes_max=20 * (ENTRY_BYTES + 100), known_value_bytes_max=100)
    known = KnownObjects(config)
    ids = [put_id(n) for n in range(1, 1001)]
    held = dict.fromkeys(ids, 1)
    value = replace(inline(None), size=100, data=b"x" * 100)
    for at, object_id in enumerate(ids):
        known.remember(object_id, value, at % 2 == 0)
        known.remember(ids[at // 2], value)
        known.check_invariants(held)
        assert sum(v is not None for v in known.values.values()) <= 21
    assert [o for o in ids[-5:] if known.values.get(o) is None] == [], "the latest are there"
    assert {*ids[::2]} <= known.values.keys(), "all that somebody waited for are known to be ready"
    assert len(known.values) <= 500 + 21, "and nothing stays of the others"
    large = put_id(2000)
    known.remember(large, replace(value, size=101))
    assert known.values[large] is None
    for object_id in [large, *ids]:
        known.forget([object_id])
        known.check_invariants(held)
    assert not known.values
    for object_id in ids:
        known.remember(object_id, value, True)
        known.forget([object_id])
        known.check_invariants(held)
        assert max(map(len, (known._old, known._young, known._waited))) <= 21, "nor does anything stay of what is forgotten"


def test_what_is_held_stays_known_while_others_come_and_go() -> None:
    known = KnownObjects(replace(Config(), known_bytes_max=20 * (ENTRY_BYTES + 100)))
    value = replace(inline(None), size=100, data=b"x" * 100)
    held = [put_id(n) for n in range(1, 8)]
    for object_id in held:
        known.remember(object_id, value, put=True)
    for passing in (put_id(n) for n in range(10, 1000)):
        known.remember(passing, value)
        known.forget([passing])
        known.check_invariants(dict.fromkeys(held, 1))
    assert [*known.values] == held
    for object_id in (more := [put_id(n) for n in range(2000, 2020)]):
        known.remember(object_id, value)
    assert not known.values.keys() & {*held}, "until it is one too many"
    assert {*more[-10:]} <= known.values.keys()


def test_a_repeated_wait_asks_for_nothing_again() -> None:
    peer = Peer()
    ids = [returned(n) for n in range(1, 6)]
    peer.tell(*[submitted(n) for n in range(1, 6)])
    assert asked(peer.tell(wait(1, 1, *ids, deadline=100))) == [watched(*ids)]
    for request in range(2, 50):
        peer.sleep()
        assert asked(peer.tell(wait(request, 1, *ids, deadline=peer.now + 100))) == []
    assert peer.hear(ready(ids[1], inline(2))) == [ResolveWait(49, (ids[1],))]
    assert asked(peer.tell(wait(50, 2, *ids))) == []
    assert peer.hear(ready(ids[4])) == [ResolveWait(50, (ids[1], ids[4]))]
    assert [*peer.machine._watching] == [ids[0], ids[2], ids[3]]


def test_gets_that_are_given_up_leave_nothing_behind() -> None:
    peer = Peer()
    peer.tell(submitted(1))
    for request in range(1, 50):
        peer.tell(get(request, returned(1)))
        peer.tell(ev.RequestAbandoned(request))
    assert peer.machine._deliveries.first == {returned(1): NOBODY}
    assert peer.hear(ready(returned(1), arena(64))) == sends(msg.PinsReturned((returned(1),)))


def test_after_the_end_nothing_is_known() -> None:
    peer = Peer()
    peer.tell(msg.ObjectPut(X, inline("x")))
    peer.hear(msg.SessionEnded())
    assert not peer.machine.known.values
    assert [type(action) for action in peer.tell(get(1, X))] == [RejectRequest]


def test_who_gets_one_after_the_other_is_read_ahead_for() -> None:
    peer = Peer()
    count = 200
    peer.tell(*[submitted(n) for n in range(1, count + 1)])
    trips = 0
    for number in range(1, count + 1):
        object_id = returned(number)
        actions = peer.tell(get(number, object_id))
        if actions == [ResolveGet(number, (inline(number),))]:
            continue
        trips += 1
        for message in asked(actions):
            for wanted in message.object_ids:
                peer.hear(ready(wanted, inline(int.from_bytes(wanted[12:16], "big"))))
    assert trips <= 7, "1, 2 and then at the end of stretches of 16, 32, 64, ..."


def test_reading_ahead_goes_no_further_than_what_is_held() -> None:
    ids = [put_id(n) for n in range(1, 5000)]
    held = set(ids[:40])
    ahead = Readahead()
    assert ahead.after(ids[0], held) == []
    assert ahead.after(ids[1], held) == ids[2 : 2 + AHEAD_MIN]
    assert ahead.after(ids[2 + AHEAD_MIN], held) == ids[3 + AHEAD_MIN : 40]
    assert ahead.after(ids[7], held) == [], "not the next one"
    assert ahead.after(ids[40], held) == []
    assert ahead.after(ids[41], set(ids)) == ids[42 : 42 + AHEAD_MIN]
    at, longest = 42 + AHEAD_MIN, 0
    while at < 4000:
        found = ahead.after(ids[at], set(ids))
        longest = max(longest, len(found))
        at += 1 + len(found)
    assert longest == AHEAD_MAX
