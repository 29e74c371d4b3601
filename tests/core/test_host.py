"""The host: what several machines owe to each other when everything arrives in one batch, and what only the host answers."""

from __future__ import annotations

import msgspec
import pytest

from sundog.core import events as ev
from sundog.core import messages as msg
from sundog.core.actions import Dispatch, Send, StartWorker, StopHost
from sundog.core.config import Config
from sundog.core.errors import InvariantViolation
from sundog.core.host import Host
from sundog.core.ids import LOOP, ProcessID
from sundog.core.machine import Action, Event
from sundog.core.messages import ReadyObject
from sundog.core.task import FailureKind
from tests.support.builders import (
    AT_DRIVER,
    AT_HOST,
    CPUS_2,
    EXPORT,
    arena,
    config,
    error,
    inline,
    put_id,
    result,
    returned,
    said,
    submitted,
    task_id,
    worker_at,
)

W2, W3 = worker_at(2), worker_at(3)


class Node:
    """A host whose workers 2 and 3 are up and that knows the function."""

    def __init__(self, settings: Config | None = None) -> None:
        self.host = Host(settings or config(cpus=2))
        self.now = 0
        started = self.hear()
        assert started == [StartWorker(ProcessID(2)), StartWorker(ProcessID(3))][: len(started)]
        workers = [(LOOP, ev.WorkerStarted(action.worker, 1000 + action.worker)) for action in said(started, StartWorker)]
        self.hear(*workers, (AT_DRIVER, EXPORT))

    def hear(self, *events: Event, after: int = 1) -> list[Action]:
        """One step with all of ``events``."""
        self.now += after
        actions = self.host.step(self.now, events)
        self.host.check_invariants()
        due = self.host.next_deadline()
        assert due is None or due > self.now
        return actions

    def run(self, *numbers: int) -> dict[int, msg.RunTask]:
        """Submit tasks without dependencies; return how each was dispatched."""
        actions = self.hear(*[(AT_DRIVER, submitted(number)) for number in numbers])
        runs = [run for dispatch in said(actions, Dispatch) for run in dispatch.tasks]
        return {int.from_bytes(run.spec.task_id, "big"): run for run in runs}


def finished(number: int, *results: msg.Result, attempt: int = 1) -> msg.TaskFinished:
    return msg.TaskFinished(task_id(number), attempt, results or (result(number),), 1000)


def test_a_task_is_dispatched_in_the_step_that_hears_of_it_and_its_result_delivered_in_the_step_of_its_end() -> None:
    node = Node()
    actions = node.hear((AT_DRIVER, submitted(1)), (AT_DRIVER, msg.ObjectsWanted((returned(1),), True)))
    assert [type(a) for a in actions] == [Send, Dispatch]
    assert actions[0] == Send(W3, msg.FunctionDelivered(EXPORT.function_id, "f", EXPORT.code))
    actions = node.hear((W3, finished(1)))
    assert actions == [Send(AT_DRIVER, msg.ObjectsReady((ReadyObject(returned(1), inline(1)),)))]


def test_what_a_result_contains_lives_although_the_worker_lets_it_go_in_the_same_batch() -> None:
    node = Node()
    node.run(1)
    node.hear(
        (W3, msg.ObjectPut(put_id(1), inline("inner"))),
        (W3, finished(1, result("outer", put_id(1)))),
        (W3, msg.HoldsReleased((put_id(1),))),
    )
    actions = node.hear((AT_DRIVER, msg.HoldsTaken((put_id(1),))), (AT_DRIVER, msg.ObjectsWanted((put_id(1),), True)))
    assert actions == [Send(AT_DRIVER, msg.ObjectsReady((ReadyObject(put_id(1), inline("inner")),)))]
    node.hear((AT_DRIVER, msg.HoldsReleased((put_id(1), returned(1)))))
    assert node.host.object_manager.objects == {}


def test_a_result_in_the_arena_survives_the_death_of_its_worker_in_the_same_batch() -> None:
    node = Node()
    node.run(1)
    [granted] = said(node.hear((W3, msg.ExtentWanted(1, 640))), msg.ExtentGranted)
    value = arena(granted.offset, 640)
    actions = node.hear(
        (AT_DRIVER, msg.ObjectsWanted((returned(1),), True)),
        (W3, finished(1, msg.Result(value))),
        (LOOP, ev.WorkerLost(ProcessID(3), 1, 1, -9)),
    )
    assert Send(AT_DRIVER, msg.ObjectsReady((ReadyObject(returned(1), value),))) in actions


def test_room_that_is_freed_in_a_batch_is_granted_in_it() -> None:
    node = Node(config(cpus=2, arena_bytes=1024))
    [granted] = said(node.hear((AT_DRIVER, msg.ExtentWanted(1, 1024))), msg.ExtentGranted)
    node.hear((AT_DRIVER, msg.ObjectPut(put_id(1), arena(granted.offset, 1024))))
    actions = node.hear((AT_DRIVER, msg.ExtentWanted(2, 512)), (AT_DRIVER, msg.HoldsReleased((put_id(1),))))
    assert actions == [Send(AT_DRIVER, msg.ExtentGranted(2, 0, 512, True))]


def test_a_wait_that_expires_in_the_batch_in_which_it_begins_is_resumed() -> None:
    node = Node()
    node.run(1, 2)
    actions = node.hear(
        (W3, msg.TaskBlocked(task_id(1), 7, (returned(2),), 1)),
        (W3, msg.ResumeRequested(task_id(1), 7)),
    )
    assert actions == [Send(W3, msg.TaskResumed(7))]


def test_a_task_that_blocks_again_without_having_been_resumed_waits_for_the_new() -> None:
    node = Node()
    node.run(1, 2)
    node.hear((W3, msg.TaskBlocked(task_id(1), 7, (returned(2),), 1)))
    node.hear((W3, msg.TaskBlocked(task_id(1), 8, (returned(2),), 1)))
    assert Send(W3, msg.TaskResumed(8)) in node.hear((W2, finished(2)))


def test_a_task_whose_result_is_sealed_in_the_batch_in_which_another_waits_for_it_resumes_it() -> None:
    node = Node()
    node.run(1, 2)
    actions = node.hear((W3, msg.TaskBlocked(task_id(1), 7, (returned(2),), 1)), (W2, finished(2)))
    assert actions == [Send(W3, msg.TaskResumed(7))]
    actions = node.hear((W3, msg.TaskBlocked(task_id(1), 8, (returned(2),), 1)))
    assert actions == [Send(W3, msg.TaskResumed(8))], "what is ready is not waited for"


def test_children_of_a_dead_execution_that_have_not_started_are_dropped() -> None:
    node = Node(config(cpus=1))
    node.run(1)
    node.hear((W2, submitted(10)), (W2, submitted(11)), (W2, submitted(12)))
    actions = node.hear((LOOP, ev.WorkerLost(ProcessID(2), 1, 0, -9)))
    assert [type(a) for a in actions] == [StartWorker]
    assert list(node.host.local_scheduler.tasks) == [task_id(1)], "only the parent, which is to be run again"
    assert list(node.host.object_manager.objects) == [returned(1)]


def test_a_child_of_a_dead_execution_that_somebody_else_holds_runs() -> None:
    node = Node()
    node.run(1)
    node.hear((W3, submitted(10, return_count=2, resources=CPUS_2)))
    node.hear((AT_DRIVER, submitted(2, contained=(returned(10, 2),))))
    node.hear((LOOP, ev.WorkerLost(ProcessID(3), 1, 0, -9)))
    assert task_id(10) in node.host.local_scheduler.tasks
    assert returned(10, 1) not in node.host.object_manager.objects
    assert returned(10, 2) in node.host.object_manager.objects


def test_a_child_that_the_parent_returned_before_its_worker_died_runs() -> None:
    node = Node()
    node.run(1)
    node.hear((W3, submitted(10, resources=CPUS_2)))
    node.hear((W3, finished(1, result("child", returned(10)))), (LOOP, ev.WorkerLost(ProcessID(3), 1, 1, -9)))
    assert task_id(10) in node.host.local_scheduler.tasks


def test_the_end_of_a_session_says_every_unheard_failure_once_then_that_it_has_ended() -> None:
    node = Node()
    node.run(1, 2)
    boom = msg.Result(error("boom"))
    node.hear((AT_DRIVER, submitted(3, return_count=3)), (W3, finished(1, boom)), (W2, finished(2)))
    node.hear((W3, finished(3, boom)), (W2, finished(3, boom)))
    node.hear((AT_DRIVER, msg.ObjectsWanted((returned(1),), True)))
    actions = node.hear((AT_DRIVER, msg.SessionEnding()))
    assert actions == [
        Send(AT_DRIVER, msg.FailureUnheard("f3", returned(3, 1), error("boom"))),
        Send(AT_DRIVER, msg.SessionEnded()),
        StopHost(),
    ]


def test_tables_are_answered_from_the_machines() -> None:
    node = Node()
    node.run(1, 2, 3)
    node.hear((W3, finished(1, msg.Result(error("boom")))))

    def rows(table: str) -> list[dict[str, object]]:
        [given] = said(node.hear((AT_DRIVER, msg.TableRequested(5, table))), msg.TableGiven)
        assert given.request == 5
        decoded: list[dict[str, object]] = msgspec.msgpack.decode(given.rows)
        assert decoded == node.host.table(table)
        return decoded

    assert [(row["made_by"], row["state"], row["holders"]) for row in rows("objects")] == [
        ("f1", "failed", 1),
        ("f2", "pending", 1),
        ("f3", "pending", 1),
    ]
    assert [(row["name"], row["state"], row["worker"]) for row in rows("tasks")] == [
        ("f2", "dispatched", 2),
        ("f3", "dispatched", 3),
    ]
    assert [(row["name"], row["calls"], row["mean_ns"]) for row in rows("functions")] == [("f", 1, 1000)]
    assert [(row["worker"], row["pid"], row["state"], row["running"]) for row in rows("workers")] == [
        (2, 1002, "leased", "f2"),
        (3, 1003, "leased", "f3"),
    ]
    [this] = rows("nodes")
    assert this["resources"] == {"CPU": 2.0}
    assert this["available"] == {"CPU": 0.0}
    assert (this["tasks"], this["objects"]) == (2, 3)
    assert [(row["name"], row["kind"], row["heard"]) for row in rows("errors")] == [("f1", "exception", False)]
    [nothing] = said(node.hear((AT_DRIVER, msg.TableRequested(6, "no such table"))), msg.TableGiven)
    assert msgspec.msgpack.decode(nothing.rows) == []
    with pytest.raises(KeyError):
        node.host.table("no such table")


def test_output_of_a_worker_reaches_the_driver_with_the_pid() -> None:
    node = Node()
    actions = node.hear((LOOP, ev.OutputRead(ProcessID(2), 1, "f", "hello\n")))
    assert actions == [Send(AT_DRIVER, msg.OutputWritten(1002, "f", 1, "hello\n"))]


def test_a_flood_of_output_is_bounded_and_says_what_it_dropped() -> None:
    node = Node(config(cpus=2, output_bytes_per_second_max=100))
    shown = said(node.hear((LOOP, ev.OutputRead(ProcessID(2), 1, "f", "a line\n" * 100))), msg.OutputWritten)
    assert sum([len(each.text) for each in shown]) <= 100
    due = node.host.next_deadline()
    assert due is not None
    shown += said(node.hear(after=due - node.now), msg.OutputWritten)
    assert sum([len(each.text) + each.dropped for each in shown]) == 700


def test_what_nobody_hears_is_a_bug_and_time_does_not_go_back() -> None:
    node = Node()
    with pytest.raises(InvariantViolation, match="nobody on this host hears SubmissionsPaused"):
        node.hear((AT_DRIVER, msg.SubmissionsPaused(True)))
    with pytest.raises(InvariantViolation, match="time went back"):
        node.hear(after=-100)


def test_an_infeasible_task_fails_after_a_grace_naming_what_is_missing() -> None:
    node = Node(config(cpus=1))
    node.hear((AT_DRIVER, submitted(1, resources=CPUS_2)), (AT_DRIVER, msg.ObjectsWanted((returned(1),), True)))
    due = node.host.next_deadline()
    assert due == node.now + node.host.config.infeasible_grace
    [ready] = said(node.hear(after=due - node.now), msg.ObjectsReady)
    [answer] = ready.objects
    assert answer.value.failure.kind is FailureKind.INFEASIBLE
    assert "has 1 of 2 CPU" in answer.value.failure.message
    assert node.host.global_scheduler.waiting == {}


def test_a_journal_tells_of_births_and_deaths() -> None:
    node = Node()
    journal = node.host.keep_journal()
    node.run(1)
    node.hear((W3, finished(1)))
    node.hear((AT_DRIVER, msg.HoldsReleased((returned(1),))))
    entries = journal.take()
    assert entries.tasks_born == [task_id(1)]
    assert [(gone.name, gone.state, gone.worker) for gone in entries.tasks_gone] == [("f1", "finished", 3)]
    assert entries.objects_born == entries.objects_gone == [returned(1)]
    assert node.host.here == AT_HOST
