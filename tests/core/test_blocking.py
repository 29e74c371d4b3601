"""Tasks that wait in a running session (P2): CPUs given back and taken again, overdraft, deadlocks, timeouts, polls."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from sundog.core import messages as msg
from sundog.core.ids import ObjectID
from sundog.core.resources import CPU, UNIT, shape
from sundog.core.task import FailureKind
from sundog.core.units import MILLISECOND, SECOND
from tests.core.test_growth import Resuming
from tests.support.builders import GPU_1, said
from tests.support.fleet import Body, Execution, Fleet, Get, Refused, Wait, Work, config, inline

GPUS_2 = shape({"GPU": 2})


def depth(execution: Execution) -> Any:
    """Return how many levels there are below, and itself."""
    if execution.argument == 0:
        return inline(1)
    child = execution.call("depth", content=execution.argument - 1)
    [value] = yield Get((child,))
    return inline(execution.read(value) + 1)


def tree(execution: Execution) -> Any:
    """Return the number of leaves of a tree of ternary nodes."""
    if execution.argument == 0:
        yield Work(MILLISECOND)
        return inline(1)
    children = tuple([execution.call("tree", content=execution.argument - 1) for _ in range(3)])
    values = yield Get(children)
    return inline(sum([execution.read(value) for value in values]))


def sleeper(execution: Execution) -> Any:
    return inline(execution.argument)


BODIES = {"depth": depth, "tree": tree, "sleeper": sleeper}


@pytest.mark.parametrize("cpus", [1, 2])
def test_parents_fifty_deep_need_no_more_than_one_cpu(cpus: int) -> None:
    fleet = Fleet(config(cpus=cpus), BODIES)
    assert fleet.get(fleet.driver.call("depth", content=50)) == [51]
    assert fleet.workers_most <= 51 + cpus
    assert fleet.host.local_scheduler.resources.overdrawn == {}


def test_a_tree_of_blocking_tasks_runs_depth_first_so_that_few_workers_are_needed() -> None:
    fleet = Fleet(config(cpus=2), BODIES)
    assert fleet.get(fleet.driver.call("tree", content=4)) == [81]
    assert fleet.workers_most <= 12, "42 where it is run breadth first"
    fleet.driver.drop_all()
    fleet.run()
    fleet.check_empty()


def test_with_no_more_workers_than_allowed_a_wait_that_nobody_can_end_fails() -> None:
    fleet = Fleet(config(cpus=1, worker_processes_max=3), BODIES)
    failure = fleet.error(fleet.driver.call("depth", content=5)).failure
    assert failure is not None
    assert failure.kind is FailureKind.DEADLOCK
    assert "all 3 that may exist are blocked" in failure.message
    assert fleet.get(fleet.driver.call("depth", content=1)) == [2]


def test_a_blocked_task_gives_back_cpus_and_keeps_the_rest() -> None:
    fleet = Fleet(config(cpus=1, gpus=1), BODIES)

    @fleet.define
    def holder(execution: Execution) -> Any:
        yield Get((execution.call("sleeper", content=1, duration=10 * MILLISECOND),))
        return inline("held")

    made = fleet.driver.call("holder", resources=GPU_1)
    fleet.run(lambda: fleet.running == ["holder", "sleeper"] and bool(fleet.host.local_scheduler.blocking.blocked))
    free = fleet.host.local_scheduler.resources.free
    assert (free["CPU"], free["GPU"]) == (0, 0)
    assert fleet.get(made) == ["held"]
    assert fleet.host.local_scheduler.resources.free == {"CPU": UNIT, "GPU": UNIT}


def test_a_task_that_can_go_on_gets_a_cpu_before_all_new_work() -> None:
    fleet = Fleet(config(cpus=1), BODIES)

    @fleet.define
    def waiter(execution: Execution) -> Any:
        yield Get((execution.call("sleeper", content=1, duration=MILLISECOND),))
        return inline("done")

    made = fleet.driver.call("waiter")
    later = [fleet.driver.call("sleeper", content=n, duration=40 * MILLISECOND) for n in range(5)]
    fleet.get(made, *later)
    order = [name for _, _, name, _ in fleet.ends]
    assert order.index("waiter") <= 2, "at most one sleeper was in its way"


def test_after_fifty_milliseconds_without_a_free_cpu_it_is_granted_as_overdraft() -> None:
    fleet = Fleet(config(cpus=1), BODIES)

    @fleet.define
    def waiter(execution: Execution) -> Any:
        yield Wait((execution.call("sleeper", content=1, duration=SECOND),), 1, 10 * MILLISECOND)
        return inline("done")

    asked = fleet.now
    assert fleet.get(fleet.driver.call("waiter")) == ["done"]
    took = fleet.now - asked
    assert 60 * MILLISECOND <= took < 61 * MILLISECOND
    overdrawn: list[int] = []
    fleet.before_round = lambda fleet: overdrawn.append(fleet.host.local_scheduler.resources.overdrawn.get("CPU", 0))
    fleet.run()
    assert overdrawn[-1] == 0
    fleet.driver.drop_all()
    fleet.run()
    fleet.check_empty()


def test_a_parent_that_keeps_the_gpu_its_child_needs_is_told_the_chain() -> None:
    fleet = Fleet(config(cpus=2, gpus=1), BODIES)

    @fleet.define
    def parent(execution: Execution) -> Any:
        try:
            yield Get((execution.call("sleeper", content=1, resources=GPU_1),))
        except Refused as refused:
            return inline(refused.failure.message)
        return inline("no deadlock")

    [text] = fleet.get(fleet.driver.call("parent", resources=GPU_1))
    assert text.startswith("deadlock: parent, holding 1 GPU, waits for sleeper; sleeper needs 1 GPU of the 1 GPU that there are")
    assert fleet.now < SECOND
    fleet.driver.drop_all()
    fleet.run()
    fleet.check_empty()


def test_a_circle_of_waits_is_broken_in_its_newest_task_and_the_others_go_on() -> None:
    fleet = Fleet(config(cpus=4), BODIES)
    ids: dict[str, ObjectID] = {}

    def waits_for(other: str) -> Body:
        def body(execution: Execution) -> Any:
            yield Work(MILLISECOND)
            execution.hold(ids[other])
            try:
                yield Get((ids[other],))
            except Refused as refused:
                return inline(refused.failure.kind.value)
            return inline("ended")

        return body

    fleet.bodies.update({"a": waits_for("b"), "b": waits_for("c"), "c": waits_for("a")})
    ids.update({name: fleet.driver.call(name) for name in "abc"})
    assert fleet.get(*ids.values()) == ["ended", "ended", "deadlock"]


def test_others_that_keep_blocking_do_not_hide_a_deadlock() -> None:
    fleet = Fleet(config(cpus=4, gpus=1), BODIES)

    @fleet.define
    def stuck(execution: Execution) -> Any:
        yield Get((execution.call("sleeper", content=1, resources=GPU_1),))

    @fleet.define
    def restless(execution: Execution) -> Any:
        for n in range(50):
            yield Get((execution.call("sleeper", content=n, duration=20 * MILLISECOND),))
        return inline("rested")

    fleet.driver.call("restless")
    failure = fleet.error(fleet.driver.call("stuck", resources=GPU_1)).failure
    assert failure is not None
    assert failure.kind is FailureKind.DEADLOCK
    assert fleet.now < SECOND // 2


def test_a_get_in_a_task_that_expires_goes_on_with_a_cpu_and_the_reason() -> None:
    fleet = Fleet(config(cpus=2), BODIES)

    @fleet.define
    def impatient(execution: Execution) -> Any:
        slow = execution.call("sleeper", content=1, duration=SECOND)
        try:
            yield Get((slow,), 0 if execution.argument == "now" else 5 * MILLISECOND)
        except Refused as refused:
            return inline([refused.failure.kind.value, refused.failure.message])
        return inline("came")

    for when in ("now", "soon"):
        [[kind, text]] = fleet.get(fleet.driver.call("impatient", content=when))
        assert kind == "timeout"
        assert text.startswith("get timed out after ")
        assert "is returned by sleeper()" in text
    assert fleet.now < SECOND // 10


def test_waiting_in_a_task_without_time_polls_and_does_not_block() -> None:
    fleet = Fleet(config(cpus=1), BODIES)

    @fleet.define
    def poller(execution: Execution) -> Any:
        mine, slow = execution.put(1), execution.call("sleeper", content=1)
        ready = yield Wait((slow, mine), 2, 0)
        return inline([mine in ready, slow in ready])

    assert fleet.get(fleet.driver.call("poller")) == [[True, False]]
    assert fleet.workers_most == 1


@pytest.mark.parametrize("seed", range(5))
def test_waiting_for_some_of_many_in_whatever_order_things_happen(seed: int) -> None:
    fleet = Fleet(config(cpus=2), BODIES, Random(seed))

    @fleet.define
    def chooser(execution: Execution) -> Any:
        rest = [execution.call("sleeper", content=n, duration=(7 * n % 5 + 1) * MILLISECOND) for n in range(8)]
        done = 0
        while rest:
            ready = yield Wait(tuple(rest), min(2, len(rest)))
            values = yield Get(ready)
            done += sum([execution.read(value) for value in values])
            rest = [each for each in rest if each not in ready]
        return inline(done)

    assert fleet.get(*[fleet.driver.call("chooser") for _ in range(3)]) == [28, 28, 28]
    fleet.driver.drop_all()
    fleet.run()
    fleet.check_empty()


@pytest.mark.parametrize("seed", range(30))
def test_who_goes_on_is_the_oldest_that_fits_or_is_overdue_and_nobody_else(seed: int) -> None:
    """Against a model that goes through all, oldest first. The n-th could go on at n; overdraft is due a second later."""
    rng = Random(seed)
    cpus = [rng.choice([0, 1, 2, 3]) for _ in range(12)]
    resuming = Resuming([shape({CPU: each}) for each in cpus])
    waiting = {number: each * UNIT for number, each in enumerate(cpus)}
    now = 20
    while waiting:
        now = SECOND + rng.randrange(12) if rng.random() < 0.2 else now + 1
        given = min(rng.choice([0, 1, 2, 4]) * UNIT, 36 * UNIT - resuming.resources.free[CPU])
        resuming.resources.give(((CPU, given),))
        gone = rng.choice([*waiting])
        if rng.random() < 0.2:
            resuming.blocked.leave(resuming.records[gone])
            del waiting[gone]
        free, expected = resuming.resources.free[CPU], []
        for number, wanted in list(waiting.items()):
            if now - number >= SECOND or not wanted or wanted <= free:
                expected.append(number)
                free -= wanted
                del waiting[number]
        assert [fact.request for fact in said(resuming.blocked.resume(now), msg.TaskResumed)] == expected
        assert resuming.resources.free[CPU] == free
        assert bool(resuming.blocked.resumable) == bool(waiting)
        if waiting:
            assert resuming.blocked.next_deadline() == min(waiting) + SECOND
