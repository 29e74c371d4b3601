"""Pipelines in a running session: claim tokens (P1), blame (P3), dependents that follow their producers (P5), cancelling."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from sundog.core import actions as act
from sundog.core import events as ev
from sundog.core import messages as msg
from sundog.core import pipelines
from sundog.core.ids import ObjectID, TaskID, producer_of
from sundog.core.task import FailureKind
from sundog.core.units import MICROSECOND, MILLISECOND, SECOND
from tests.support.fleet import Execution, Fleet, Get, Raised, Refused, TaskFailed, Work, config, inline

SHORT = 50 * MICROSECOND


def counted(execution: Execution) -> Any:
    """Return the argument, or one more than the dependency."""
    return inline(execution.contents[0] + 1 if execution.values else execution.argument)


def warm(fleet: Fleet, name: str, **fields: int) -> None:
    """Let the node learn how long ``name`` takes."""
    fleet.get(*[fleet.driver.call(name, content=0, **fields) for _ in range(4)])


def cancel(fleet: Fleet, *object_ids: ObjectID) -> tuple[ObjectID, ...]:
    number = fleet.process.ask(lambda n: ev.Asked(n, msg.CancelRequested(n, object_ids)))
    fleet.run(lambda: number in fleet.process.answers)
    answer = fleet.process.answers.pop(number)
    assert isinstance(answer, act.ResolveQuestion)
    assert isinstance(answer.answer, msg.CancelAnswered)
    return answer.answer.object_ids


# -- claim tokens ------------------------------


def test_nobody_waits_for_the_one_task_in_a_thousand_that_is_slow() -> None:
    fleet = Fleet(config(cpus=2), {"counted": counted})
    made = [fleet.driver.call("counted", content=n, duration=SECOND if n == 499 else SHORT) for n in range(1000)]
    assert fleet.get(*made) == list(range(1000))
    last = fleet.ends[-1]
    assert last[3] == producer_of(made[499])
    assert last[0] >= SECOND
    others = fleet.ends[-2][0]
    assert others < 100 * MILLISECOND, "ideal is 50 ms on the one CPU that is left"
    assert set(fleet.executions.values()) == {1}, "what was taken back had not been started (S7)"
    fleet.driver.drop_all()
    fleet.run()
    fleet.check_empty()


def test_short_tasks_lie_in_pipelines_and_long_ones_do_not() -> None:
    fleet = Fleet(config(cpus=1), {"counted": counted})
    warm(fleet, "counted", duration=SHORT)
    for n in range(300):
        fleet.driver.call("counted", content=n, duration=SHORT)
    depth = 0

    def look(fleet: Fleet) -> None:
        nonlocal depth
        [worker] = fleet.host.local_scheduler.pool.workers.values()
        depth = max(depth, len(worker.pipeline))

    fleet.before_round = look
    fleet.run()
    assert 10 <= depth <= 25, "a millisecond of work"
    for duration, expected, why in (
        (2 * MILLISECOND, 2, "one runs, the next is there when it ends"),
        (100 * MILLISECOND, 1, "the next is dispatched when the result is there"),
    ):
        for _ in range(2):
            depth = 0
            for n in range(20):
                fleet.driver.call("counted", content=n, duration=duration)
            fleet.run()
        assert depth == expected, why


def deepest(fleet: Fleet) -> list[int]:
    """Return a list of one number, which from now on is how many tasks any pipeline has held."""
    most = [0]

    def look(fleet: Fleet) -> None:
        lengths = [len(worker.pipeline) for worker in fleet.host.local_scheduler.pool.workers.values()]
        most[0] = max(most[0], *lengths)

    fleet.before_round = look
    return most


def test_tasks_that_are_awaited_together_lie_in_deeper_pipelines_as_long_as_there_are_many() -> None:
    fleet = Fleet(config(cpus=2, pipeline_work_patient=10 * MILLISECOND), {"counted": counted})
    warm(fleet, "counted", duration=200 * MICROSECOND)
    most = deepest(fleet)
    made = [fleet.driver.call("counted", content=n, duration=200 * MICROSECOND) for n in range(1000)]
    fleet.get(*made[:600])
    assert 40 <= most[0] <= 50, "ten milliseconds of work"
    most[0] = 0
    fleet.get(*made[-60:])
    assert most[0] <= 7, "these have been awaited together from when few were left"
    for count, deep in ((200, 15), (80, 7)):
        most[0] = 0
        fleet.get(*[fleet.driver.call("counted", content=n, duration=200 * MICROSECOND) for n in range(count)])
        assert most[0] <= deep, "no more than a part of what there is"


def test_what_somebody_waits_for_alone_lies_in_no_deeper_pipeline() -> None:
    fleet = Fleet(config(cpus=1), {"counted": counted})
    warm(fleet, "counted", duration=200 * MICROSECOND)
    most = deepest(fleet)
    left = [fleet.driver.call("counted", content=n, duration=200 * MICROSECOND) for n in range(500)]
    fleet.wait(*left, count=1)
    assert fleet.get(*left) == list(range(500))
    made = [fleet.driver.call("counted", content=n, duration=200 * MICROSECOND) for n in range(500)]
    assert fleet.get(*made, timeout=SECOND) == list(range(500))
    for n in range(100):
        fleet.driver.call("counted", content=n, duration=200 * MICROSECOND)
    fleet.run()
    assert most[0] <= 6


def waiting(execution: Execution) -> Any:
    made = execution.call("counted", content=1)
    yield Get((made,))
    return inline(execution.argument)


def test_functions_that_wait_lie_in_no_deeper_pipeline() -> None:
    fleet = Fleet(config(cpus=1), {"counted": counted, "waiting": waiting})
    warm(fleet, "waiting", duration=200 * MICROSECOND)
    most = deepest(fleet)
    made = [fleet.driver.call("waiting", content=n, duration=200 * MICROSECOND) for n in range(300)]
    assert fleet.get(*made) == list(range(300))
    assert most[0] <= 6


def test_a_function_never_seen_has_one_task_in_flight_at_each_worker() -> None:
    fleet = Fleet(config(cpus=2), {"counted": counted})
    for n in range(10):
        fleet.driver.call("counted", content=n, duration=SECOND)
    fleet.run(lambda: len(fleet.running) == 2)
    fleet.run_for(MILLISECOND)
    assert [len(w.pipeline) for w in fleet.host.local_scheduler.pool.workers.values()] == [1, 1]


def test_what_lies_behind_a_head_that_blocks_is_taken_back_and_runs_elsewhere() -> None:
    def blocks(execution: Execution) -> Any:
        if execution.argument == "first":
            yield Get((execution.call("counted", content=5, duration=100 * MILLISECOND),))
        return inline(execution.argument)

    fleet = Fleet(config(cpus=1), {"blocks": blocks, "counted": counted})
    warm(fleet, "blocks")
    warm(fleet, "counted")
    made = [fleet.driver.call("blocks", content="first"), *[fleet.driver.call("blocks", content=n) for n in range(5)]]
    assert fleet.get(*made) == ["first", 0, 1, 2, 3, 4]
    assert [end[3] for end in fleet.ends if end[2] == "blocks"][-1] == producer_of(made[0])
    assert fleet.actions[act.ReclaimTasks] > 0
    assert set(fleet.executions.values()) == {1}


def test_what_needs_a_long_head_stays_behind_it_although_another_worker_idles() -> None:
    fleet = Fleet(config(cpus=3), {"counted": counted})
    warm(fleet, "counted", duration=100 * MILLISECOND)
    dispatches, reclaims = fleet.actions[act.Dispatch], fleet.actions[act.ReclaimTasks]

    def look(fleet: Fleet) -> None:
        assert fleet.actions[act.ReclaimTasks] == reclaims, "nobody else could run it before the head has ended"

    fleet.before_round = look
    last = fleet.driver.call("counted", content=0, duration=100 * MILLISECOND)
    for _ in range(4):
        last = fleet.driver.call("counted", last, duration=100 * MILLISECOND)
    assert fleet.get(last) == [4]
    assert fleet.actions[act.Dispatch] - dispatches <= 5


def test_only_what_needs_nothing_of_a_long_head_is_taken_from_behind_it() -> None:
    fleet = Fleet(config(cpus=2), {"counted": counted})
    warm(fleet, "counted", duration=SHORT)
    # All on their way before anybody knows that the first is long: a follower of it, and one that is free.
    head = fleet.driver.call("counted", content=0, duration=SECOND)
    follower = fleet.driver.call("counted", head, duration=SHORT)
    others = [fleet.driver.call("counted", content=n, duration=SHORT) for n in range(40)]
    assert fleet.get(*others) == list(range(40))
    assert fleet.now < SECOND // 2
    assert fleet.get(follower) == [1]
    assert fleet.actions[act.ReclaimTasks] <= 4
    assert set(fleet.executions.values()) == {1}


# -- blame ------------------------------


def test_a_worker_that_dies_takes_nobody_with_it_but_the_task_that_ran() -> None:
    fleet = Fleet(config(cpus=1), {"counted": counted})
    warm(fleet, "counted", duration=SHORT)
    [worker] = fleet.workers.values()
    worker.silent = True
    made = [fleet.driver.call("counted", content=n, duration=SHORT, retries_max=0) for n in range(4)]
    fleet.run(lambda: worker.finished == worker.started - 1 and worker.started >= 7)
    fleet.kill(worker.number)
    assert [fleet.get(each) for each in (made[0], made[1], made[3])] == [[0], [1], [3]]
    failure = fleet.error(made[2]).failure
    assert failure is not None
    assert failure.kind is FailureKind.WORKER_CRASHED
    assert [fleet.executions[producer_of(each)] for each in made] == [2, 2, 1, 1], "S7: only what was lost runs again"


def test_a_task_is_retried_until_its_retries_are_used_up() -> None:
    fleet = Fleet(config(cpus=1), {"counted": counted})
    made = fleet.driver.call("counted", content=1, duration=SECOND, retries_max=2)
    for _ in range(3):
        fleet.run(lambda: bool(fleet.running))
        fleet.kill(next(iter(fleet.workers)))
    value = fleet.error(made)
    assert value.failure is not None
    assert "on start 3 of it (max_retries=2)" in value.failure.message
    assert fleet.executions[producer_of(made)] == 3


def test_no_value_of_a_first_run_that_died_appears_although_it_branched_otherwise() -> None:
    seen: list[ObjectID] = []

    def branching(execution: Execution) -> Any:
        child = execution.call("counted", content=execution.run.start * 100)
        seen.append(child)
        [value] = yield Get((child,))
        yield Work(10 * MILLISECOND)
        return inline(execution.read(value))

    fleet = Fleet(config(cpus=2), {"branching": branching, "counted": counted})
    made = fleet.driver.call("branching")
    fleet.run(lambda: fleet.now > 2 * MILLISECOND)
    [victim] = [worker for worker in fleet.workers.values() if worker.execution is not None]
    fleet.kill(victim.number)
    assert fleet.get(made) == [200]
    assert len(set(seen)) == 2
    fleet.driver.drop_all()
    fleet.run()
    fleet.check_empty()


def test_stale_results_are_refused_and_their_extents_freed() -> None:
    def large(execution: Execution) -> Any:
        value = yield from execution.large(4096, execution.run.start)
        yield Work(MILLISECOND)
        return value

    fleet = Fleet(config(cpus=1, arena_bytes=8192), {"large": large})
    made = fleet.driver.call("large")
    fleet.run(lambda: fleet.now > MILLISECOND // 2)
    fleet.kill(next(iter(fleet.workers)))
    assert fleet.get(made) == [2]
    assert fleet.host.object_manager.ledger.used_bytes == 4096
    fleet.driver.drop_all()
    fleet.run()
    fleet.check_empty()


# -- followers (P5) ------------------------------


def test_a_chain_runs_on_one_worker_without_waiting_for_the_node() -> None:
    fleet = Fleet(config(cpus=2), {"counted": counted})
    warm(fleet, "counted", duration=SHORT)
    fleet.starts.clear()
    made = [fleet.driver.call("counted", content=0, duration=SHORT)]
    for _ in range(60):
        made.append(fleet.driver.call("counted", made[-1], duration=SHORT))
    assert fleet.get(made[-1]) == [60]
    assert len({worker for _, worker, *_ in fleet.starts}) == 1
    assert sum([b[0] - a[0] <= SHORT + 2 * MICROSECOND for a, b in pairwise(fleet.starts)]) > 50
    fleet.driver.drop_all()
    fleet.run()
    fleet.check_empty()


def test_a_task_that_waits_for_many_is_not_looked_at_again_for_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0

    def looking(object_id: ObjectID) -> TaskID:
        nonlocal looked
        looked += 1
        return producer_of(object_id)

    fleet = Fleet(config(cpus=1), {"counted": counted})
    warm(fleet, "counted", duration=SHORT)
    width = 4 * fleet.config.pipeline_depth_max
    blocker = fleet.driver.call("counted", content=0, duration=MILLISECOND)
    made = [fleet.driver.call("counted", blocker, duration=SHORT) for _ in range(width)]
    last = fleet.driver.call("counted", *made, duration=SHORT)
    monkeypatch.setattr(pipelines, "producer_of", looking)
    assert fleet.get(last) == [2]
    assert looked < 4 * width


def test_a_follower_of_what_lies_in_the_arena_reads_it_with_a_grant_of_its_own() -> None:
    def large(execution: Execution) -> Any:
        return (yield from execution.large(512, execution.contents[0] + 1 if execution.values else 0))

    fleet = Fleet(config(cpus=1, arena_bytes=8192), {"large": large})
    made = [fleet.driver.call("large")]
    for _ in range(9):
        made.append(fleet.driver.call("large", made[-1]))
    fleet.driver.drop(*made[:-1])
    assert fleet.get(made[-1]) == [9]
    fleet.driver.drop(made[-1])
    fleet.driver.return_pins()
    fleet.run()
    fleet.check_empty()


def test_when_a_producer_fails_its_followers_are_skipped_and_fail_with_the_trail() -> None:
    def boom(execution: Execution) -> Any:
        raise Raised("boom")

    def after(execution: Execution) -> Any:
        return inline(execution.contents)

    fleet = Fleet(config(cpus=1), {"boom": boom, "after": after, "counted": counted})
    warm(fleet, "counted", duration=SHORT)
    for name in ("boom", "after"):
        fleet.run()
        fleet.get_values(fleet.driver.call(name, content=0))
    failing = fleet.driver.call("boom")
    first = fleet.driver.call("after", failing)
    second = fleet.driver.call("after", first, failing)
    with pytest.raises(TaskFailed, match="boom") as caught:
        fleet.get(second)
    assert caught.value.value.trail in (("after",), ("after", "after"))
    assert fleet.error(first).trail == ("after",)
    assert [fleet.executions[producer_of(each)] for each in (failing, first, second)] == [1, 0, 0]
    fleet.driver.drop_all()
    fleet.run()
    fleet.check_empty()


def test_a_producer_that_is_retried_lets_its_followers_run_after_all() -> None:
    def flaky(execution: Execution) -> Any:
        if execution.run.start == 1:
            raise Raised("not yet", retryable=True)
        return inline(execution.run.start)

    fleet = Fleet(config(cpus=1), {"flaky": flaky, "counted": counted})
    warm(fleet, "flaky")
    warm(fleet, "counted")
    first = fleet.driver.call("flaky")
    assert fleet.get(fleet.driver.call("counted", fleet.driver.call("counted", first))) == [4]


# -- cancel ------------------------------


def test_what_has_not_started_can_be_cancelled_also_in_the_tail_of_a_pipeline() -> None:
    fleet = Fleet(config(cpus=1), {"counted": counted})
    warm(fleet, "counted", duration=SHORT)
    running = fleet.driver.call("counted", content=1, duration=SECOND)
    made = [fleet.driver.call("counted", content=n, duration=SHORT) for n in range(5)]
    waiting = fleet.driver.call("counted", made[4], duration=SHORT)
    done = fleet.driver.put(1)
    fleet.run(lambda: fleet.running == ["counted"])
    [worker] = fleet.host.local_scheduler.pool.workers.values()
    assert len(worker.pipeline) > 4
    assert cancel(fleet, running, made[1], made[3], waiting, done) == (made[1], made[3], waiting)
    assert fleet.get(made[0], made[2], made[4], running) == [0, 2, 4, 1]
    for gone in (made[1], made[3], waiting):
        failure = fleet.error(gone).failure
        assert failure is not None
        assert failure.kind is FailureKind.CANCELLED
        assert fleet.executions[producer_of(gone)] == 0
    fleet.driver.drop_all()
    fleet.run()
    fleet.check_empty()


def test_cancelling_is_answered_although_the_worker_dies_meanwhile() -> None:
    fleet = Fleet(config(cpus=1), {"counted": counted})
    warm(fleet, "counted", duration=SHORT)
    made = [fleet.driver.call("counted", content=n, duration=SECOND if n == 0 else SHORT) for n in range(3)]
    fleet.run(lambda: fleet.running == ["counted"])
    number = fleet.process.ask(lambda n: ev.Asked(n, msg.CancelRequested(n, (made[2],))))
    fleet.process.turn()
    fleet.kill(next(iter(fleet.workers)))
    fleet.host_turn()
    fleet.run()
    assert isinstance(fleet.process.answers.pop(number), act.ResolveQuestion)
    assert fleet.get(made[0], made[1]) == [0, 1]


def test_a_child_that_is_cancelled_fails_its_parents_get() -> None:
    children: list[ObjectID] = []

    def parent(execution: Execution) -> Any:
        children.append(execution.call("counted", content=1, resources=(("CPU", 10_000), ("GPU", 10_000))))
        try:
            [value] = yield Get((children[0],))
        except Refused:
            return inline("refused")
        return inline("cancelled" if value.error else "ran")

    fleet = Fleet(config(cpus=1), {"parent": parent, "counted": counted})
    made = fleet.driver.call("parent")
    fleet.run(lambda: bool(fleet.host.local_scheduler.blocking.blocked))
    fleet.driver.hold(children[0])
    assert cancel(fleet, children[0]) == (children[0],)
    assert fleet.get(made) == ["cancelled"]
