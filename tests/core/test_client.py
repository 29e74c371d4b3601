"""The waiting side of a driver or worker: references, gets, waits, time, endings."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from sundog.core import events as ev
from sundog.core import messages as msg
from sundog.core.actions import (
    CloseClient,
    PauseSubmissions,
    RejectRequest,
    ReportStuck,
    ResolveGet,
    ResolveQuestion,
    ResolveWait,
    Send,
    ShowOutput,
)
from sundog.core.client import Client
from sundog.core.config import Config
from sundog.core.ids import LOOP, ObjectID, TaskID
from sundog.core.machine import Action, Fact
from sundog.core.messages import ReadyObject
from sundog.core.task import Failure, FailureKind, Value, failed
from sundog.core.units import SECOND
from tests.support.builders import AT_DRIVER, AT_HOST, EXPORT, arena, inline, put_id, returned, submitted, task_id, worker_at

X, Y, Z = put_id(1), put_id(2), put_id(3)
TASK = task_id(9)


class Peer:
    """A client machine; ``tell`` is its own process speaking, ``hear`` the node."""

    def __init__(self, *, worker: bool = False) -> None:
        self.machine = Client(Config(), worker_at(2) if worker else AT_DRIVER, AT_HOST, worker=worker)
        self.now = 0

    def _step(self, sender: int, facts: tuple[Any, ...], after: int) -> list[Action]:
        self.now += after
        actions = self.machine.step(self.now, [(sender, fact) for fact in facts])  # type: ignore[misc]
        self.machine.check_invariants()
        due = self.machine.next_deadline()
        assert due is None or due > self.now
        return actions

    def tell(self, *facts: Any, after: int = 1) -> list[Action]:
        return self._step(LOOP, facts, after)

    def hear(self, *facts: Fact, after: int = 1) -> list[Action]:
        return self._step(AT_HOST, facts, after)

    def sleep(self) -> list[Action]:
        """Until the next deadline."""
        due = self.machine.next_deadline()
        assert due is not None
        return self._step(LOOP, (), due - self.now)


def sends(*messages: Fact) -> list[Action]:
    return [Send(AT_HOST, message) for message in messages]


def ready(object_id: ObjectID, value: Value | None = None) -> msg.ObjectsReady:
    return msg.ObjectsReady((ReadyObject(object_id, value),))


def get(request: int, *object_ids: ObjectID, deadline: int | None = None, task: TaskID | None = None) -> ev.GetRequested:
    return ev.GetRequested(request, object_ids, deadline, task)


def wait(
    request: int, count: int, *object_ids: ObjectID, deadline: int | None = None, task: TaskID | None = None
) -> ev.WaitRequested:
    return ev.WaitRequested(request, object_ids, count, deadline, task)


def wanted_together(*object_ids: ObjectID) -> msg.ObjectsWanted:
    return msg.ObjectsWanted(object_ids, True, patient=True)


def wanted(*object_ids: ObjectID, deliver: bool = True) -> msg.ObjectsWanted:
    return msg.ObjectsWanted(object_ids, deliver)


# -- references ------------------------------


def test_only_the_first_and_the_last_reference_travel() -> None:
    peer = Peer()
    assert peer.tell(X) == sends(msg.HoldsTaken((X,)))
    assert peer.tell(X, X, ev.ReferenceDropped(X)) == []
    assert peer.tell(ev.ReferenceDropped(X)) == []
    assert peer.tell(ev.ReferenceDropped(X)) == sends(msg.HoldsReleased((X,)))
    assert peer.machine.references == {}


def test_what_dies_and_is_born_again_in_one_step_is_no_news() -> None:
    peer = Peer()
    peer.tell(X)
    assert peer.tell(ev.ReferenceDropped(X), X) == []
    assert peer.tell(Y, ev.ReferenceDropped(Y)) == sends(msg.HoldsTaken((Y,)), msg.HoldsReleased((Y,)))


def test_submissions_and_puts_are_births_of_their_own() -> None:
    peer = Peer()
    two = submitted(1, return_count=2)
    put = msg.ObjectPut(X, inline())
    assert peer.tell(two, put) == sends(two, put)
    assert peer.machine.references == {returned(1, 1): 1, returned(1, 2): 1, X: 1}
    assert peer.tell(ev.ReferenceDropped(returned(1, 1))) == sends(msg.HoldsReleased((returned(1, 1),)))


def test_deaths_of_what_was_never_told_are_ignored() -> None:
    peer = Peer()
    assert peer.tell(ev.ReferenceDropped(X)) == []
    peer.tell(X)
    assert peer.tell(ev.ReferenceDropped(X), ev.ReferenceDropped(X)) == sends(msg.HoldsReleased((X,)))
    assert peer.machine.references == {}


def test_holds_go_before_messages_and_releases_after_them() -> None:
    peer = Peer(worker=True)
    peer.tell(X)
    finished = msg.TaskFinished(TASK, 1, (), 5)
    actions = peer.tell(Y, finished, ev.ReferenceDropped(X), ev.PinDropped(Z), get(1, Y))
    assert actions == sends(msg.HoldsTaken((Y,)), finished, wanted(Y), msg.PinsReturned((Z,)), msg.HoldsReleased((X,)))


@pytest.mark.parametrize(
    "fact",
    [EXPORT, msg.IDsEscaped((X,)), msg.ExtentReturned(64), msg.TaskSkipped(TASK, 1), msg.TasksDropped(3), msg.SessionEnding()],
    ids=lambda fact: type(fact).__name__,
)
def test_what_needs_no_thought_passes(fact: Fact) -> None:
    assert Peer().tell(fact) == sends(fact)


# -- get ------------------------------


def test_a_get_is_resolved_with_the_values_in_the_order_asked() -> None:
    peer = Peer()
    assert peer.tell(get(1, X, Y, X)) == sends(wanted(X, Y))
    assert peer.hear(ready(Y, inline("y"))) == []
    assert peer.hear(ready(X, inline("x"))) == [ResolveGet(1, (inline("x"), inline("y"), inline("x")))]
    assert peer.machine.next_deadline() is None
    assert peer.tell(get(2)) == [ResolveGet(2, ())]


def test_two_gets_of_one_object_ask_once_and_both_get_it() -> None:
    peer = Peer()
    assert peer.tell(get(1, X)) == sends(wanted(X))
    assert peer.tell(get(2, X)) == []
    assert peer.hear(ready(X, inline("x"))) == [ResolveGet(1, (inline("x"),)), ResolveGet(2, (inline("x"),))]


def test_a_value_in_the_arena_comes_with_one_grant_so_the_second_getter_asks_again() -> None:
    peer = Peer()
    peer.tell(get(1, X), get(2, X), get(3, X))
    value = arena(64)
    assert peer.hear(ready(X, value)) == [ResolveGet(1, (value,)), *sends(wanted(X))]
    assert peer.hear(ready(X, value)) == [ResolveGet(2, (value,)), *sends(wanted(X))]
    assert peer.hear(ready(X, value)) == [ResolveGet(3, (value,))]


def test_a_get_that_expires_asks_why_and_fails_with_the_answer() -> None:
    peer = Peer()
    peer.tell(get(1, X, Y, deadline=SECOND))
    peer.hear(ready(X, inline("x")))
    assert peer.sleep() == sends(msg.ExplanationRequested(1, (Y,)))
    text = "get timed out after 1 s; 1 of 2 objects were ready. It is slow."
    assert peer.hear(msg.ExplanationGiven(1, "It is slow.")) == [RejectRequest(1, Failure(FailureKind.TIMEOUT, text))]
    assert peer.hear(ready(Y, inline("y"))) == []


def test_a_get_with_no_time_at_all_still_gets_what_is_ready() -> None:
    peer = Peer()
    assert peer.tell(get(1, X, deadline=1)) == sends(wanted(X))
    assert peer.sleep() == sends(msg.ExplanationRequested(1, (X,)))
    assert peer.hear(ready(X, inline("x"))) == [ResolveGet(1, (inline("x"),))]
    assert peer.hear(msg.ExplanationGiven(1, "late")) == []


def test_what_arrived_for_a_get_that_expires_is_given_back() -> None:
    peer = Peer()
    peer.tell(get(1, X, Y, deadline=10))
    peer.hear(ready(X, arena(64)))
    peer.sleep()
    actions = peer.hear(msg.ExplanationGiven(1, ""))
    assert [type(action) for action in actions] == [RejectRequest, Send]
    assert actions[1:] == sends(msg.PinsReturned((X,)))


def test_a_get_that_waits_long_says_for_what_and_why_once() -> None:
    peer = Peer()
    peer.tell(get(1, X, Y, Z, returned(1), returned(2)))
    assert peer.sleep() == sends(msg.ExplanationRequested(1, (X, Y, Z)))
    assert peer.now == Config().stuck_after + 1
    said = ReportStuck(1, "get has waited 10 s; 0 of 5 objects were ready. No reason.")
    assert peer.hear(msg.ExplanationGiven(1, "No reason.")) == [said]
    assert peer.machine.next_deadline() is None


def test_an_abandoned_get_is_forgotten_and_what_comes_for_it_given_back() -> None:
    peer = Peer()
    peer.tell(get(1, X, Y))
    peer.hear(ready(X, arena(64)))
    assert peer.tell(ev.RequestAbandoned(1)) == sends(msg.PinsReturned((X,)))
    assert peer.hear(ready(Y, arena(128))) == sends(msg.PinsReturned((Y,)))
    assert peer.machine.next_deadline() is None


def test_a_get_that_follows_an_abandoned_one_gets_its_value() -> None:
    peer = Peer()
    peer.tell(get(1, X))
    assert peer.tell(ev.RequestAbandoned(1), get(2, X)) == []
    assert peer.hear(ready(X, arena(64))) == [ResolveGet(2, (arena(64),))]


# -- wait ------------------------------


def test_a_wait_returns_what_is_ready_in_the_order_asked_and_no_more_than_asked() -> None:
    peer = Peer()
    peer.tell(X, Y, Z)
    assert peer.tell(wait(1, 2, X, Y, Z)) == sends(wanted(X, Y, Z, deliver=False))
    assert peer.hear(ready(Z)) == []
    assert peer.hear(ready(X)) == [ResolveWait(1, (X, Z))]
    assert peer.tell(wait(2, 1, X, Y, Z)) == [ResolveWait(2, (X,))], "what is known to be ready costs no message"
    assert peer.tell(wait(3, 2, Z, Y, X)) == [ResolveWait(3, (Z, X))]
    assert peer.tell(wait(4, 3, X, Y, Z)) == [], "Y was asked for already"
    assert peer.hear(ready(Y)) == [ResolveWait(4, (X, Y, Z))]


def test_a_wait_whose_time_is_up_returns_what_there_is() -> None:
    peer = Peer()
    peer.tell(X, Y)
    peer.tell(wait(1, 2, X, Y, deadline=100))
    peer.hear(ready(Y))
    assert peer.sleep() == [ResolveWait(1, (Y,))]
    assert peer.now == 100


def test_a_wait_with_no_time_polls() -> None:
    peer = Peer()
    peer.tell(X, Y, Z)
    assert peer.tell(wait(1, 3, X, Y, Z, deadline=0)) == sends(msg.ObjectsPolled(1, (X, Y, Z)))
    assert peer.hear(msg.ObjectsPolledReady(1, (Z,))) == [ResolveWait(1, (Z,))]
    assert peer.tell(wait(2, 1, X, Z, deadline=0)) == [ResolveWait(2, (Z,))]


def test_a_get_of_what_was_waited_for_asks_for_the_value_alone() -> None:
    peer = Peer()
    peer.tell(X)
    peer.tell(wait(1, 1, X))
    assert peer.tell(get(2, X)) == sends(wanted(X))
    assert peer.hear(ready(X)) == [ResolveWait(1, (X,))]
    assert peer.hear(ready(X, inline("x"))) == [ResolveGet(2, (inline("x"),))]


def test_a_put_is_ready_from_the_start_and_what_is_let_go_is_unknown_again() -> None:
    peer = Peer()
    peer.tell(msg.ObjectPut(X, inline()))
    assert peer.tell(wait(1, 1, X)) == [ResolveWait(1, (X,))]
    peer.tell(ev.ReferenceDropped(X))
    peer.tell(X)
    assert peer.tell(wait(2, 1, X)) == sends(wanted(X, deliver=False))


# -- blocking in a worker ------------------------------


def test_a_blocked_task_goes_on_only_with_its_grant() -> None:
    peer = Peer(worker=True)
    assert peer.tell(get(1, X, Y, task=TASK)) == sends(msg.TaskBlocked(TASK, 1, (X, Y), 2, deliver=True), wanted(X, Y))
    assert peer.hear(ready(X, inline("x")), ready(Y, inline("y"))) == []
    assert peer.hear(msg.TaskResumed(1)) == [ResolveGet(1, (inline("x"), inline("y")))]


def test_a_grant_that_comes_before_the_values_waits_for_them() -> None:
    peer = Peer(worker=True)
    peer.tell(X)
    peer.tell(wait(1, 1, X, Y, task=TASK))
    assert peer.hear(msg.TaskResumed(1)) == []
    assert peer.hear(ready(Y)) == [ResolveWait(1, (Y,))]


def test_a_blocked_task_counts_only_what_is_missing() -> None:
    peer = Peer(worker=True)
    peer.tell(msg.ObjectPut(X, inline()))
    assert peer.tell(wait(1, 2, X, Y, Z, task=TASK)) == sends(msg.TaskBlocked(TASK, 1, (Y, Z), 1), wanted(Y, Z, deliver=False))


def test_a_blocked_task_whose_time_is_up_asks_for_its_grant_first() -> None:
    peer = Peer(worker=True)
    peer.tell(get(1, X, deadline=100, task=TASK))
    assert peer.sleep() == sends(msg.ResumeRequested(TASK, 1))
    assert peer.hear(msg.TaskResumed(1)) == sends(msg.ExplanationRequested(1, (X,)))
    [rejected] = peer.hear(msg.ExplanationGiven(1, ""))
    assert isinstance(rejected, RejectRequest)
    peer.tell(wait(2, 1, X, deadline=200, task=TASK))
    assert peer.sleep() == sends(msg.ResumeRequested(TASK, 2))
    assert peer.hear(msg.TaskResumed(2)) == [ResolveWait(2, ())]


def test_a_blocked_task_that_stops_waiting_asks_for_its_grant() -> None:
    peer = Peer(worker=True)
    peer.tell(get(1, X, task=TASK))
    assert peer.tell(ev.RequestAbandoned(1)) == sends(msg.ResumeRequested(TASK, 1))
    assert peer.hear(msg.TaskResumed(1)) == []


def test_a_wait_that_can_never_end_is_rejected_with_the_reason() -> None:
    peer = Peer(worker=True)
    peer.tell(get(1, X, Y, task=TASK))
    peer.hear(ready(X, arena(64)))
    actions = peer.hear(msg.RequestRefused(1, failed(FailureKind.DEADLOCK, "a circle")))
    assert actions == [RejectRequest(1, Failure(FailureKind.DEADLOCK, "a circle")), *sends(msg.PinsReturned((X,)))]


# -- questions ------------------------------


def test_a_question_is_resolved_with_its_answer() -> None:
    peer = Peer()
    question = msg.CancelRequested(1, (X,))
    assert peer.tell(ev.Asked(1, question)) == sends(question)
    assert peer.hear(msg.CancelAnswered(1, (X,))) == [ResolveQuestion(1, msg.CancelAnswered(1, (X,)))]
    peer.tell(ev.Asked(2, msg.ExplanationRequested(2, (X,))))
    assert peer.hear(msg.ExplanationGiven(2, "so")) == [ResolveQuestion(2, msg.ExplanationGiven(2, "so"))]
    peer.tell(ev.Asked(3, msg.ExtentWanted(3, 64)))
    refused = msg.ExtentRefused(3, failed(FailureKind.STORE_FULL, "full"))
    assert peer.hear(refused) == [RejectRequest(3, Failure(FailureKind.STORE_FULL, "full"))]


def test_room_for_a_thread_that_was_interrupted_goes_back() -> None:
    peer = Peer()
    peer.tell(ev.Asked(1, msg.ExtentWanted(1, 64)))
    peer.tell(ev.RequestAbandoned(1))
    assert peer.hear(msg.ExtentGranted(1, 128, 64, False)) == sends(msg.ExtentReturned(128))


# -- people and endings ------------------------------


def test_what_people_should_see_is_shown() -> None:
    peer = Peer()
    for message in (
        msg.OutputWritten(7, "f", 1, "hi\n"),
        msg.FailureUnheard("f", X, failed(FailureKind.TIMEOUT, "")),
        msg.WarningRaised("careful"),
    ):
        assert peer.hear(message) == [ShowOutput(message)]


def test_submissions_pause_and_go_on() -> None:
    peer = Peer()
    assert peer.hear(msg.SubmissionsPaused(True)) == [PauseSubmissions(True)]
    assert peer.hear(msg.SubmissionsPaused(False)) == [PauseSubmissions(False)]


def test_the_end_of_a_session_rejects_all_that_waits_now_and_later() -> None:
    peer = Peer()
    peer.tell(get(1, X, deadline=SECOND), wait(2, 1, Y), ev.Asked(3, msg.TableRequested(3, "nodes")))
    actions = peer.hear(msg.SessionEnded())
    assert [type(action) for action in actions] == [RejectRequest] * 3 + [CloseClient]
    assert {action.failure.kind for action in actions[:3]} == {FailureKind.SESSION_CLOSED}  # type: ignore[attr-defined]
    assert peer.machine.next_deadline() is None
    later = peer.tell(get(4, X), wait(5, 1, X), ev.Asked(6, msg.TableRequested(6, "nodes")), X)
    assert [(type(action), action.request) for action in later] == [  # type: ignore[attr-defined]
        (RejectRequest, 4),
        (RejectRequest, 5),
        (RejectRequest, 6),
    ]
    assert peer.machine.close(peer.now, "again") == []


def test_a_node_that_is_gone_rejects_with_the_reason() -> None:
    peer = Peer()
    peer.tell(get(1, X))
    assert peer.machine.close(peer.now, "the node died") == [
        RejectRequest(1, Failure(FailureKind.SESSION_CLOSED, "the node died")),
        CloseClient("the node died"),
    ]


def test_only_a_drivers_get_of_many_is_patient() -> None:
    many = [put_id(n) for n in range(101, 133)]
    peer = Peer()
    peer.tell(*many)
    assert peer.tell(get(1, *many), get(2, X)) == sends(wanted_together(*many), wanted(X))
    for asked in (get(1, *many[:31]), get(1, *many, deadline=SECOND), get(1, *many, task=TASK)):
        peer = Peer()
        peer.tell(*many)
        assert not [a for a in peer.tell(asked) if isinstance(a, Send) and getattr(a.message, "patient", False)]


@pytest.mark.parametrize("seed", range(30))
def test_many_gets_and_waits_for_the_same_objects_are_each_answered_once(seed: int) -> None:
    """In any order of asking, giving up and arriving; and every grant is somebody's or goes back."""
    rng = Random(seed)
    peer = Peer()
    ids = [put_id(n) for n in range(6)]
    open_: dict[int, str] = {}
    granted, given, asked = 0, 0, dict.fromkeys(ids, 0)
    ready_ids: dict[ObjectID, Value] = {}

    def take(actions: list[Action]) -> None:
        nonlocal given
        for action in actions:
            if isinstance(action, ResolveGet | ResolveWait):
                kind = open_.pop(action.request)
                assert (kind == "get") == isinstance(action, ResolveGet)
                given += sum(value.offset >= 0 for value in action.values) if isinstance(action, ResolveGet) else 0
            elif isinstance(action, Send) and isinstance(action.message, msg.ObjectsWanted) and action.message.deliver:
                for object_id in action.message.object_ids:
                    asked[object_id] += 1
            elif isinstance(action, Send) and isinstance(action.message, msg.PinsReturned):
                given += len(action.message.object_ids)

    for number in range(1, 60):
        some = rng.sample(ids, rng.randint(1, 3))
        open_[number] = rng.choice(["get", "wait"])
        take(peer.tell(get(number, *some) if open_[number] == "get" else wait(number, rng.randint(1, len(some)), *some)))
        if open_ and rng.random() < 0.3:
            gone = rng.choice([*open_])
            del open_[gone]
            take(peer.tell(ev.RequestAbandoned(gone)))
        if rng.random() < 0.1:
            object_id = rng.choice(ids)
            ready_ids.setdefault(object_id, rng.choice([inline("x"), arena(64)]))
            take(peer.hear(ready(object_id)))
        for object_id, value in ready_ids.items():
            while asked[object_id] and rng.random() < 0.5:
                asked[object_id] -= 1
                granted += value.offset >= 0
                take(peer.hear(ready(object_id, value)))
    for object_id in ids:
        take(peer.hear(ready(object_id)))
        value = ready_ids.get(object_id, arena(64))
        while asked[object_id]:
            asked[object_id] -= 1
            granted += value.offset >= 0
            take(peer.hear(ready(object_id, value)))
    assert open_ == {}
    assert granted == given
    assert not peer.machine.requests
