"""What is done for one object, request, worker or stretch costs the same however many others there are.

Operations of the interpreter are counted (the same in every run); where C code would look through everything, comparisons are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from benchmarks.operations import Operations
from sundog.core import events as ev
from sundog.core import messages as msg
from sundog.core.blocking import BlockedTasks
from sundog.core.client import Client
from sundog.core.config import Config
from sundog.core.extent_requests import ExtentRequests
from sundog.core.ids import LOOP, ProcessID
from sundog.core.machine import Action
from sundog.core.messages import ReadyObject
from sundog.core.object_manager import ObjectManager
from sundog.core.resources import CPU, ONE_CPU, ResourceSet, Shape, shape
from sundog.core.store_ledger import StoreLedger
from sundog.core.task import TaskState
from sundog.core.task_record import FunctionRecord, TaskRecord
from sundog.core.units import MILLISECOND, SECOND
from sundog.core.worker_pool import WorkerPool
from tests.support.builders import (
    AT_DRIVER,
    AT_HOST,
    NODE,
    arena,
    error,
    inline,
    put_id,
    returned,
    said,
    spec,
    submitted,
    worker_at,
)

#: Measured with so many others, and with four times as many.
FEW = 100


def assert_flat(cost: Callable[[int], float], few: int = FEW) -> None:
    """``cost`` of one with so many others: no more than half as much again with four times as many."""
    little, much = cost(few), cost(4 * few)
    assert much < 1.5 * little, "operations for each"


def counted(work: Callable[[], object]) -> int:
    """Return how many operations ``work`` takes."""
    operations = Operations()
    with operations.counted():
        work()
    return operations.total


# -- the client ------------------------------


class Number(int):
    """The number of a request, which counts how often it was compared with others."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Number.compared += 1
        return int(self) == other

    __hash__ = int.__hash__


def driver(*facts: object) -> Client:
    client = Client(Config(), AT_DRIVER, AT_HOST, worker=False)
    client.step(1, [(LOOP, fact) for fact in facts])  # type: ignore[misc]
    return client


def ready(number: int, offset: int = -1) -> msg.ObjectsReady:
    return msg.ObjectsReady((ReadyObject(put_id(number), None if offset < 0 else arena(offset)),))


def test_news_are_told_to_the_waits_that_they_concern_and_no_others_are_looked_at() -> None:
    def telling(count: int) -> float:
        client = driver(*[ev.WaitRequested(n, (put_id(n), put_id(0)), 2, None, None) for n in range(1, count + 1)])

        def work() -> None:
            for number in range(1, count + 1):
                client.step(2, [(AT_HOST, ready(number))])

        operations = counted(work) / count
        assert len(client.step(3, [(AT_HOST, ready(0))])) == count
        client.check_invariants()
        return operations

    assert_flat(telling)


def test_a_wait_that_is_over_leaves_without_a_look_at_the_rest() -> None:
    def leaving(count: int) -> float:
        waits = [ev.WaitRequested(n, (put_id(0),), 1, None, None) for n in range(1, count + 1)]
        client = driver(*waits)

        def work() -> None:
            for wait in waits:
                client.step(2, [(LOOP, ev.RequestAbandoned(wait.request))])

        operations = counted(work) / count
        client.check_invariants()
        assert not client.requests
        return operations

    assert_flat(leaving)


def test_threads_that_get_one_object_are_served_in_turn_without_a_look_at_the_rest() -> None:
    def serving(count: int) -> float:
        client = driver(*[ev.GetRequested(n, (put_id(0),), None, None) for n in range(1, count + 1)])

        def work() -> None:
            for _ in range(count):
                client.step(2, [(AT_HOST, ready(0, offset=64))])

        operations = counted(work) / count
        assert not client.requests
        return operations

    assert_flat(serving)


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_get_that_is_given_up_is_found_without_a_look_at_the_rest(newest_first: bool) -> None:
    count = 10 * FEW
    numbers = [Number(n) for n in range(1, count + 1)]
    client = driver(*[ev.GetRequested(n, (put_id(0), put_id(1)), None, None) for n in numbers])
    Number.compared = 0
    client.step(2, [(LOOP, ev.RequestAbandoned(n)) for n in (numbers[::-1] if newest_first else numbers)])
    assert not client.requests
    client.check_invariants()
    assert Number.compared <= 20 * count


# -- the object manager ------------------------------


class Objects(ObjectManager):
    """An object manager, stepped as its host does: at the end of each step it settles."""

    def __init__(self, arena_bytes: int = 1 << 30) -> None:
        super().__init__(Config(arena_bytes=arena_bytes), NODE, AT_HOST, AT_DRIVER)

    def hear(self, now: int, *events: tuple[int, object]) -> list[Action]:
        return [*self.step(now, events), *self.settle(now)]  # type: ignore[arg-type]

    def put_large(self, number: int) -> None:
        [granted] = said(self.hear(1, (AT_DRIVER, msg.ExtentWanted(1, 64))), msg.ExtentGranted)
        self.hear(1, (AT_DRIVER, msg.ObjectPut(put_id(number), arena(granted.offset))))


def test_the_end_of_a_worker_costs_nothing_for_what_it_had_nothing_to_do_with() -> None:
    def ending(count: int) -> float:
        objects = Objects()
        for number in range(count):
            objects.put_large(number)
            objects.hear(1, (AT_DRIVER, submitted(number)), (AT_DRIVER, msg.ObjectsWanted((returned(number),), True)))
        objects.hear(1, (worker_at(2), msg.ObjectsWanted((returned(0), returned(1), put_id(0)), True)))
        lost = (LOOP, ev.WorkerLost(ProcessID(2), 1, 0, -9))
        operations = counted(lambda: objects.hear(2, lost))
        objects.check_invariants()
        assert objects.objects[returned(0)].wanting == (AT_DRIVER,)
        assert not [extent for extent in objects.ledger.extents() if extent.grants]
        return operations

    assert_flat(ending)


def test_what_a_worker_asked_for_is_remembered_only_while_it_waits() -> None:
    objects = Objects()
    for number in range(10 * FEW):
        task = submitted(number)
        objects.hear(1, (worker_at(2), task), (worker_at(2), msg.ObjectsWanted((returned(number),), True)))
        objects.hear(1, (AT_HOST, msg.TaskRetired(task.spec, (msg.Result(inline(1)),), worker_at(3))))
        objects.check_invariants()
        assert len(objects.asked.by(worker_at(2))) <= FEW


def test_children_of_a_dead_worker_are_judged_by_the_task() -> None:
    def judging(count: int) -> float:
        objects = Objects()
        objects.hear(1, (worker_at(2), submitted(1, return_count=count)))
        actions: list[Action] = []
        operations = counted(lambda: actions.extend(objects.hear(2, (LOOP, ev.WorkerLost(ProcessID(2), 1, 0, -9)))))
        assert [fact.task_ids for fact in said(actions, msg.ReturnsUnheld)] == [(spec(1).task_id,)]
        return operations / count

    assert_flat(judging)


def test_a_failure_of_many_returns_is_marked_as_heard_once() -> None:
    def getting(count: int) -> float:
        objects = Objects()
        task = submitted(1, return_count=count)
        objects.hear(1, (AT_DRIVER, task), (AT_HOST, msg.TaskRetired(task.spec, (msg.Result(error()),), worker_at(2))))
        ids = tuple([returned(1, index) for index in range(1, count + 1)])
        operations = counted(lambda: objects.hear(2, (AT_DRIVER, msg.ObjectsWanted(ids, True))))
        assert all(record.heard for record in objects.objects.values())
        return operations / count

    assert_flat(getting)


# -- room ------------------------------


def test_requests_behind_one_that_finds_no_room_are_not_looked_at() -> None:
    def answering(count: int) -> float:
        ledger = StoreLedger(1024, 64, 1024)
        assert ledger.allocate(1024, AT_DRIVER) is not None
        requests = ExtentRequests(Config(), ledger, str)
        for number in range(count):
            requests.add(worker_at(number), 1, 64, 1)
        operations = counted(lambda: requests.answer(2))
        assert len(requests.waiting) == count
        return operations

    assert_flat(answering)


def test_a_client_that_ends_takes_its_own_requests_along_without_a_look_at_the_rest() -> None:
    def ending(count: int) -> float:
        requests = ExtentRequests(Config(), StoreLedger(1024, 64, 1024), str)
        for number in range(count):
            for request in (1, 2):
                requests.add(worker_at(number), request, 64, 1)

        def work() -> None:
            for number in range(1, count):
                requests.process_lost(worker_at(number))

        operations = counted(work) / count
        assert [(each.client, each.request) for each in requests.waiting.values()] == [(worker_at(0), 1), (worker_at(0), 2)]
        return operations

    assert_flat(ending)


@pytest.mark.parametrize("size", [64, 128, 192, 256])
def test_room_is_found_without_a_look_at_all_that_is_free(size: int) -> None:
    """64 is among what is warm, 128 lies behind all that is too small, 192 has to be joined, and of 256 there is none."""

    def finding(count: int) -> float:
        ledger = StoreLedger(64 * (2 * count + 4), 64, 64 * 2 * count)
        for number in range(2 * count + 1):
            assert ledger.seal(64 * number, put_id(number), ledger_writer) if ledger.allocate(64, ledger_writer) else False
        rest = ledger.allocate(192, ledger_writer)
        assert rest is not None
        for number in range(0, 2 * count, 2):
            ledger.free(put_id(number))
        if size == 128:
            ledger.abandon(rest.offset, ledger_writer, written=False)
        elif size == 192:
            ledger.abandon(rest.offset, ledger_writer, written=False)
            warm = ledger.allocate(128, ledger_writer)
            assert warm is not None
            ledger.seal(warm.offset, put_id(-1), ledger_writer)
            ledger.free(put_id(-1))
        found: list[object] = []
        operations = counted(lambda: found.append(ledger.allocate(size, ledger_writer)))
        assert (found == [None]) == (size == 256)
        ledger.check_invariants()
        return operations

    ledger_writer = worker_at(2)
    assert_flat(finding)


def test_a_dead_process_gives_back_what_it_had_without_a_look_at_the_rest() -> None:
    def ending(count: int) -> float:
        ledger = StoreLedger(64 * count, 64, 64 * count)
        for number in range(count):
            extent = ledger.allocate(64, worker_at(number))
            assert extent is not None
            if number % 2:
                assert ledger.seal(extent.offset, put_id(number), worker_at(number))
                ledger.grant(put_id(number), worker_at(number))
                ledger.free(put_id(number))

        def work() -> None:
            for number in range(count):
                ledger.process_lost(worker_at(number))

        operations = counted(work) / count
        ledger.check_invariants()
        assert ledger.used_bytes == 0
        return operations

    assert_flat(ending)


# -- tasks that go on ------------------------------


class Resuming:
    """Blocked tasks of these shapes on a node whose CPUs are taken by others; all they waited for is there."""

    def __init__(self, shapes: Sequence[Shape]) -> None:
        capacity = shape({CPU: 3 * len(shapes)})
        self.resources = ResourceSet(capacity)
        self.pool = WorkerPool(NODE, ProcessID(2), self.resources)
        self.blocked = BlockedTasks(Config(overdraft_after=SECOND), self.pool)
        self.records = [self._block(number, wanted) for number, wanted in enumerate(shapes)]
        self.resources.take(capacity)
        for number in range(len(shapes)):
            self.blocked.ready(put_id(number), number)

    def _block(self, number: int, wanted: Shape) -> TaskRecord:
        worker = self.pool.add()
        self.pool.started(worker, 1, 0)
        assert self.pool.lease(wanted) is worker
        record = TaskRecord(spec(number), AT_DRIVER, number, FunctionRecord("f", inline()), [], {}, TaskState.DISPATCHED)
        record.worker = worker
        self.blocked.block(record, msg.TaskWaits(record.spec.task_id, number, (put_id(number),), 1))
        return record


def test_tasks_that_find_no_cpu_are_not_looked_at_one_by_one() -> None:
    def looking(count: int) -> float:
        resuming = Resuming([ONE_CPU] * count)
        answers: list[object] = []

        def work() -> None:
            answers.append(resuming.blocked.resume(MILLISECOND))
            answers.append(resuming.blocked.next_deadline())

        operations = counted(work)
        assert answers == [[], SECOND]
        return operations

    assert_flat(looking)


def test_tasks_resume_one_by_one_in_the_order_in_which_they_could() -> None:
    def going_on(count: int) -> float:
        resuming = Resuming([ONE_CPU] * count)
        resumed: list[Action] = []

        def work() -> None:
            for _ in range(count):
                resuming.resources.give(ONE_CPU)
                resumed.extend(resuming.blocked.resume(MILLISECOND))

        operations = counted(work) / count
        assert [fact.request for fact in said(resumed, msg.TaskResumed)] == list(range(count))
        assert not resuming.blocked.resumable
        return operations

    assert_flat(going_on)
