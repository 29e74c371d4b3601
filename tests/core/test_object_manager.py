"""The owner of a node's objects: sealing, holding, asking, room, and what is said of failures that nobody heard."""

from __future__ import annotations

import msgspec

from sundog.core import events as ev
from sundog.core import messages as msg
from sundog.core.actions import ReleasePages, Send
from sundog.core.config import Config
from sundog.core.ids import LOOP, ObjectID, ProcessID
from sundog.core.machine import Action, Event
from sundog.core.messages import ReadyObject
from sundog.core.object_manager import ObjectManager
from sundog.core.task import Failure, FailureKind, Value, arguments_id, failed
from tests.support.builders import (
    AT_DRIVER,
    AT_HOST,
    NODE,
    arena,
    error,
    inline,
    put_id,
    result,
    returned,
    said,
    spec,
    submitted,
    task_id,
    worker_at,
)

W2, W3 = worker_at(2), worker_at(3)
X, Y = put_id(1), put_id(2)


class Manager:
    """An object manager, stepped as its host does: at the end of each step it settles."""

    def __init__(self, **fields: int) -> None:
        self.machine = ObjectManager(Config(**{"arena_bytes": 1024, **fields}), NODE, AT_HOST, AT_DRIVER)  # type: ignore[arg-type]
        self.now = 0

    def hear(self, *events: Event, after: int = 1) -> list[Action]:
        self.now += after
        actions = self.machine.step(self.now, events)
        actions += self.machine.settle(self.now)
        self.machine.check_invariants()
        return actions

    def room(self, size: int, writer: int = AT_DRIVER) -> Value:
        """Have ``writer`` granted ``size`` bytes; return the value that will lie there."""
        [granted] = said(self.hear((writer, msg.ExtentWanted(1, size))), msg.ExtentGranted)  # type: ignore[arg-type]
        return arena(granted.offset, size)

    def put(self, object_id: ObjectID, value: Value) -> list[Action]:
        return self.hear((AT_DRIVER, msg.ObjectPut(object_id, value)))

    def offsets(self) -> list[int]:
        return [extent.offset for extent in self.machine.ledger.extents()]


def retired(number: int, *results: msg.Result, returns: int = 1, writer: int = W2, **fields: object) -> Event:
    task = spec(number, return_count=returns, **fields)  # type: ignore[arg-type]
    return (AT_HOST, msg.TaskRetired(task, results or (result(number),), writer))  # type: ignore[arg-type]


def ready(object_id: ObjectID, value: Value | None = None, to: int = AT_DRIVER) -> Send:
    return Send(to, msg.ObjectsReady((ReadyObject(object_id, value),)))  # type: ignore[arg-type]


def test_a_put_can_be_had_at_once_with_its_value_or_only_the_news() -> None:
    manager = Manager()
    assert manager.put(X, inline("x")) == []
    assert manager.hear((W2, msg.ObjectsWanted((X,), True))) == [ready(X, inline("x"), W2)]
    assert manager.hear((W2, msg.ObjectsWanted((X,), False))) == [ready(X, inline("x"), W2)]


def test_news_of_a_large_value_or_an_error_bring_only_the_news() -> None:
    manager = Manager()
    large = inline(b"x" * Config().news_bytes_max)
    manager.put(X, large)
    manager.put(Y, error())
    assert manager.hear((W2, msg.ObjectsWanted((X, Y), False))) == [
        Send(W2, msg.ObjectsReady((ReadyObject(X), ReadyObject(Y))))  # an error that was only announced has not been heard
    ]
    assert said(manager.hear((AT_DRIVER, msg.SessionEnding())), msg.FailureUnheard)


def test_who_asks_before_the_task_is_over_is_answered_when_it_is() -> None:
    manager = Manager()
    manager.hear((AT_DRIVER, submitted(1)), (AT_DRIVER, msg.ObjectsWanted((returned(1),), True)))
    assert manager.hear((W2, msg.ObjectsWanted((returned(1),), False))) == []
    assert manager.hear(retired(1)) == [ready(returned(1), inline(1)), ready(returned(1), inline(1), W2)]
    assert manager.hear(retired(1, result("again"))) == [], "the first seal wins"
    assert manager.hear((AT_DRIVER, msg.ObjectsWanted((returned(1),), True))) == [ready(returned(1), inline(1))]


def test_an_id_that_nobody_holds_is_answered_at_once_as_lost() -> None:
    manager = Manager()
    [sent] = said(manager.hear((AT_DRIVER, msg.ObjectsWanted((X,), True))), msg.ObjectsReady)
    assert sent.objects[0].value.failure.kind is FailureKind.OBJECT_LOST
    assert manager.hear((AT_DRIVER, msg.ObjectsWanted((X,), False))) == [ready(X)]
    assert manager.hear((AT_DRIVER, msg.ObjectsPolled(4, (X,)))) == [Send(AT_DRIVER, msg.ObjectsPolledReady(4, (X,)))]


def test_who_asks_and_lets_go_before_the_answer_is_answered_too() -> None:
    manager = Manager()
    manager.hear((AT_DRIVER, submitted(1)), (AT_DRIVER, msg.ObjectsWanted((returned(1),), True)))
    [sent] = said(manager.hear((AT_DRIVER, msg.HoldsReleased((returned(1),)))), msg.ObjectsReady)
    assert sent.objects[0].value.failure.kind is FailureKind.OBJECT_LOST


def test_a_poll_tells_what_is_ready_now_and_asks_for_nothing() -> None:
    manager = Manager()
    manager.put(X, inline())
    manager.hear((AT_DRIVER, submitted(1)))
    assert manager.hear((AT_DRIVER, msg.ObjectsPolled(4, (returned(1), X)))) == [Send(AT_DRIVER, msg.ObjectsPolledReady(4, (X,)))]
    assert manager.hear(retired(1)) == []


def test_a_task_holds_its_arguments_before_the_submitter_lets_go_and_until_it_is_over() -> None:
    manager = Manager()
    manager.put(X, inline("x"))
    manager.put(Y, inline("y"))
    actions = manager.hear((AT_DRIVER, submitted(1, X, contained=(Y,))), (AT_DRIVER, msg.HoldsReleased((X, Y))))
    assert actions == [Send(AT_HOST, msg.ObjectsLocal((ReadyObject(X, inline("x")),)))]
    assert list(manager.machine.objects) == [X, Y, returned(1)]
    manager.hear((AT_HOST, msg.TaskRetired(spec(1, X, contained=(Y,)), (result(),), W2)))
    assert list(manager.machine.objects) == [returned(1)]


def test_a_task_without_returns_lets_its_arguments_go_when_it_is_over() -> None:
    manager = Manager()
    manager.put(X, inline("argument"))
    manager.hear((AT_DRIVER, submitted(1, X, return_count=0)), (AT_DRIVER, msg.HoldsReleased((X,))))
    assert list(manager.machine.objects) == [X]
    manager.hear((AT_HOST, msg.TaskRetired(spec(1, X, return_count=0), (), W2)))
    assert not manager.machine.objects


def test_the_failure_of_a_task_without_returns_is_said_at_once_and_its_bytes_are_freed() -> None:
    manager = Manager()
    large = msgspec.structs.replace(manager.room(64, W2), error=True)
    manager.hear((AT_DRIVER, submitted(1, return_count=0)), (AT_DRIVER, submitted(2, return_count=0)))
    [unheard] = said(manager.hear(retired(1, BOOM, returns=0)), msg.FailureUnheard)
    assert (unheard.name, unheard.value) == ("f1", BOOM.value)
    assert said(manager.hear(retired(2, msg.Result(large), returns=0)), msg.FailureUnheard)
    assert manager.offsets() == []


def test_a_container_holds_what_is_inside_it_however_deep() -> None:
    manager = Manager()
    manager.put(X, inline("x"))
    manager.hear((AT_DRIVER, msg.ObjectPut(Y, inline("y", X), (X,))))
    manager.hear((AT_DRIVER, msg.ObjectPut(put_id(3), inline("z", Y, Y), (Y, Y))), (AT_DRIVER, msg.HoldsReleased((X, Y))))
    assert list(manager.machine.objects) == [X, Y, put_id(3)]
    manager.hear((W2, msg.HoldsTaken((X,))), (AT_DRIVER, msg.HoldsReleased((put_id(3),))))
    assert list(manager.machine.objects) == [X], "a getter's hold on the inner comes before its release of the outer"
    manager.hear((W2, msg.HoldsReleased((X,))))
    assert manager.machine.objects == {}


def test_a_hold_of_an_unknown_id_resurrects_nothing() -> None:
    manager = Manager()
    manager.put(X, inline("x"))
    manager.hear((AT_DRIVER, msg.HoldsReleased((X,))), (W2, msg.HoldsTaken((X,))))
    assert manager.machine.objects == {}


def test_a_task_or_container_of_an_unknown_id_gets_a_failure_in_its_place() -> None:
    manager = Manager()
    [local] = said(manager.hear((AT_DRIVER, submitted(1, X))), msg.ObjectsLocal)
    assert local.objects[0].value.failure.kind is FailureKind.OBJECT_LOST
    manager.hear((AT_DRIVER, msg.ObjectPut(Y, inline("y", put_id(3)), (put_id(3),))))
    assert manager.hear((AT_DRIVER, msg.HoldsReleased((Y,)))) == [], "nobody is told of the loss of what was lost before"


def test_what_escaped_lives_until_the_session_ends() -> None:
    manager = Manager()
    manager.put(X, inline("x"))
    manager.hear((AT_DRIVER, msg.IDsEscaped((X,))), (AT_DRIVER, msg.HoldsReleased((X,))))
    assert manager.hear((W2, msg.ObjectsWanted((X,), True))) == [ready(X, inline("x"), W2)]


def test_a_result_that_nobody_holds_any_more_is_discarded_with_its_bytes() -> None:
    manager = Manager()
    value = manager.room(64, W2)
    manager.hear((AT_DRIVER, submitted(1)), (AT_DRIVER, msg.HoldsReleased((returned(1),))))
    manager.hear(retired(1, msg.Result(value)))
    assert manager.offsets() == []


def test_stale_results_are_refused_and_their_bytes_freed() -> None:
    manager = Manager()
    value = manager.room(64, W2)
    manager.hear((AT_HOST, msg.ResultsRefused(W2, (msg.Result(value), result()))))
    assert manager.offsets() == []


def test_a_put_that_is_repeated_keeps_the_first_value_and_frees_the_second() -> None:
    manager = Manager()
    first, second = manager.room(64), manager.room(64)
    manager.put(X, first)
    manager.put(X, second)
    assert manager.offsets() == [first.offset]


def test_bytes_that_are_not_where_their_writer_said_are_lost_and_not_somebody_elses() -> None:
    manager = Manager()
    value = manager.room(64, W2)
    manager.put(X, value)
    [sent] = said(manager.hear((AT_DRIVER, msg.ObjectsWanted((X,), True))), msg.ObjectsReady)
    assert sent.objects[0].value.failure.kind is FailureKind.OBJECT_LOST


def test_one_grant_goes_with_each_delivery_and_the_bytes_stay_until_all_are_back() -> None:
    manager = Manager()
    value = manager.room(128)
    manager.put(X, value)
    for _ in range(2):
        assert manager.hear((W2, msg.ObjectsWanted((X,), True))) == [ready(X, value, W2)]
    manager.hear((AT_DRIVER, msg.HoldsReleased((X,))), (W2, msg.PinsReturned((X,))))
    assert (manager.machine.objects, manager.offsets()) == ({}, [value.offset])
    manager.hear((W2, msg.PinsReturned((X,))))
    assert manager.offsets() == []


def test_grants_go_with_a_dispatch_and_come_back_when_it_is_revoked() -> None:
    manager = Manager()
    value, arguments = manager.room(128), manager.room(64)
    manager.put(X, value)
    manager.hear((AT_DRIVER, submitted(1, X, arguments=arguments)), (AT_DRIVER, msg.HoldsReleased((X,))))
    pins = (X, arguments_id(task_id(1)))
    manager.hear((AT_HOST, msg.PinsTaken(W2, pins)), (AT_HOST, msg.PinsTaken(W3, pins)))
    manager.hear((AT_HOST, msg.TaskRetired(spec(1, X, arguments=arguments), (result(),), W2)))
    assert manager.offsets() == [value.offset, arguments.offset]
    manager.hear((AT_HOST, msg.PinsRevoked(W3, pins)), (W2, msg.PinsReturned(pins)))
    assert manager.offsets() == []


def test_pages_beyond_what_is_kept_warm_are_released() -> None:
    manager = Manager(warm_bytes_max=0)
    manager.put(X, manager.room(128))
    assert manager.hear((AT_DRIVER, msg.HoldsReleased((X,)))) == [ReleasePages(0, 128)]


def test_room_is_granted_in_the_order_of_asking_and_waits_for_what_is_freed() -> None:
    manager = Manager()
    manager.put(X, manager.room(1024))
    assert manager.hear((W2, msg.ExtentWanted(1, 1000)), (W3, msg.ExtentWanted(2, 10))) == []
    actions = manager.hear((AT_DRIVER, msg.HoldsReleased((X,))))
    assert actions == [Send(W2, msg.ExtentGranted(1, 0, 1024, True))]
    assert manager.hear((W2, msg.ExtentReturned(0))) == [Send(W3, msg.ExtentGranted(2, 0, 64, True))]


def test_a_full_store_refuses_after_a_grace_naming_who_holds_what() -> None:
    manager = Manager(store_full_grace=1000)
    manager.put(X, manager.room(512))
    manager.hear((W2, msg.ObjectsWanted((X,), True)))
    manager.put(Y, manager.room(256))
    manager.room(256, W3)
    assert manager.hear((W2, msg.ExtentWanted(5, 300))) == []
    due = manager.machine.next_deadline()
    assert due == manager.now + 1000
    assert manager.hear(after=999) == []
    [refused] = said(manager.hear(), msg.ExtentRefused)
    assert refused.request == 5
    assert refused.value.failure == Failure(
        FailureKind.STORE_FULL,
        "the object store has no room for 300 bytes: 1,024 of 1,024 are in use; waited 1e-06 s. The largest: "
        "512 bytes by put, held by the driver, views in worker 2; 256 bytes by put, held by the driver; "
        "256 bytes by an unfinished write of worker 3. Drop references that are not needed.",
    )
    assert manager.machine.next_deadline() is None


def test_what_is_larger_than_the_whole_store_is_refused_at_once() -> None:
    manager = Manager()
    [refused] = said(manager.hear((W2, msg.ExtentWanted(5, 1025))), msg.ExtentRefused)
    assert "larger than the whole store" in refused.value.failure.message


def test_the_death_of_a_process_ends_its_holds_grants_writes_and_questions() -> None:
    manager = Manager()
    value = manager.room(64)
    manager.put(X, value)
    manager.room(64, W2)
    manager.hear((AT_DRIVER, submitted(1)), (W2, msg.ObjectPut(Y, inline("y"))), (W2, msg.HoldsTaken((X, returned(1)))))
    manager.hear((W2, msg.ObjectsWanted((X,), True)), (W2, msg.ObjectsWanted((returned(1),), True)))
    manager.hear((W2, msg.ObjectsWanted((returned(1),), False)), (W2, msg.ExtentWanted(1, 1000)))
    assert manager.hear((LOOP, ev.WorkerLost(ProcessID(2), 1, 0, -9))) == [ReleasePages(64, 64)]  # half written, perhaps
    assert (list(manager.machine.objects), manager.offsets()) == ([X, returned(1)], [value.offset])
    assert manager.hear(retired(1)) == []
    manager.hear((AT_DRIVER, msg.HoldsReleased((X,))))
    assert manager.offsets() == []
    assert manager.machine.next_deadline() is None


def test_children_that_only_a_dead_process_held_are_unheld() -> None:
    manager = Manager()
    manager.hear((W2, submitted(1)), (W2, submitted(2, return_count=2)), (W2, submitted(3)), retired(3))
    manager.hear((W2, msg.ObjectPut(X, inline("x", returned(1)), (returned(1),))), (AT_DRIVER, msg.HoldsTaken((X,))))
    actions = manager.hear((LOOP, ev.WorkerLost(ProcessID(2), 1, 0, -9)))
    assert actions == [Send(AT_HOST, msg.ReturnsUnheld((task_id(2),)))]


def test_a_client_that_is_lost_lets_go_of_everything() -> None:
    manager = Manager()
    manager.put(X, manager.room(64))
    manager.hear((AT_DRIVER, msg.ObjectsWanted((X,), True)), (AT_DRIVER, submitted(1)))
    actions = manager.hear((LOOP, ev.ClientLost(ProcessID(1))))
    assert actions == [Send(AT_HOST, msg.ReturnsUnheld((task_id(1),)))]
    assert (manager.machine.objects, manager.offsets()) == ({}, [])


def test_the_scheduler_hears_once_of_each_argument() -> None:
    manager = Manager()
    manager.hear((AT_DRIVER, submitted(1)), (AT_DRIVER, submitted(2, returned(1))), (AT_DRIVER, submitted(3, returned(1))))
    assert manager.hear(retired(1)) == [Send(AT_HOST, msg.ObjectsLocal((ReadyObject(returned(1), inline(1)),)))]


def test_a_blocked_task_is_passed_on_without_what_is_ready() -> None:
    manager = Manager()
    manager.put(X, inline("x"))
    manager.hear((AT_DRIVER, submitted(1)), (AT_DRIVER, submitted(2)))
    actions = manager.hear((W2, msg.TaskBlocked(task_id(9), 4, (X, returned(1), returned(2)), 2)))
    assert actions == [Send(AT_HOST, msg.TaskWaits(task_id(9), 4, (returned(1), returned(2)), 1))]
    assert manager.hear(retired(1)) == [Send(AT_HOST, msg.ObjectsLocal((ReadyObject(returned(1), inline(1)),)))]
    actions = manager.hear((W2, msg.TaskBlocked(task_id(9), 5, (X, returned(1)), 1)))
    assert actions == [Send(AT_HOST, msg.TaskWaits(task_id(9), 5, (), 0))]


BOOM = msg.Result(error("boom"))


def unheard(number: int, index: int = 1) -> Send:
    return Send(AT_DRIVER, msg.FailureUnheard(f"f{number}", returned(number, index), error("boom")))


def test_a_failure_that_nobody_looked_at_is_said_when_its_last_reference_goes() -> None:
    manager = Manager()
    manager.hear((AT_DRIVER, submitted(1)), retired(1, BOOM))
    assert manager.hear((AT_DRIVER, msg.HoldsReleased((returned(1),)))) == [unheard(1)]
    manager.hear((AT_DRIVER, submitted(2)), (AT_DRIVER, msg.HoldsReleased((returned(2),))))
    assert manager.hear(retired(2, BOOM)) == [unheard(2)]


def test_a_failure_of_several_returns_is_said_once_with_the_last_of_them() -> None:
    manager = Manager()
    manager.hear((AT_DRIVER, submitted(1, return_count=3)), retired(1, BOOM, returns=3))
    for index in (1, 2):
        assert manager.hear((AT_DRIVER, msg.HoldsReleased((returned(1, index),)))) == []
    assert manager.hear((AT_DRIVER, msg.HoldsReleased((returned(1, 3),)))) == [unheard(1, 3)]


def test_a_failure_that_was_fetched_through_any_return_is_heard() -> None:
    manager = Manager()
    manager.hear((AT_DRIVER, submitted(1, return_count=4)), retired(1, BOOM, returns=4))
    manager.hear((AT_DRIVER, msg.HoldsReleased((returned(1, 1),))))
    manager.hear((AT_DRIVER, msg.ObjectsWanted((returned(1, 3),), True)))
    for index in (2, 3, 4):
        assert manager.hear((AT_DRIVER, msg.HoldsReleased((returned(1, index),)))) == []


def test_a_failure_that_fails_a_dependent_is_heard_but_one_that_was_only_waited_for_is_not() -> None:
    manager = Manager()
    manager.hear((AT_DRIVER, submitted(1)), (AT_DRIVER, submitted(2, returned(1))), retired(1, BOOM))
    assert manager.hear((AT_DRIVER, msg.HoldsReleased((returned(1),)))) == []
    manager.hear((W2, submitted(3)), (W2, msg.TaskBlocked(task_id(9), 1, (returned(3),), 1)), retired(3, BOOM))
    assert manager.hear((W2, msg.HoldsReleased((returned(3),)))) == [unheard(3)]


def test_what_was_cancelled_is_nobodys_news() -> None:
    manager = Manager()
    gone = msg.Result(failed(FailureKind.CANCELLED, "cancelled"))
    manager.hear((AT_DRIVER, submitted(1)), retired(1, gone))
    assert manager.hear((AT_DRIVER, msg.HoldsReleased((returned(1),)))) == []
