"""How many workers there are: growth while tasks block, shrinking, workers that do not come up or die before they worked."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from sundog.core import messages as msg
from sundog.core.actions import StartWorker
from sundog.core.ids import ProcessID
from sundog.core.task import FailureKind
from sundog.core.units import MILLISECOND, SECOND
from tests.support.fleet import Execution, Fleet, Get, TaskFailed, config, inline


def nest(execution: Execution) -> Any:
    if execution.argument:
        [value] = yield Get((execution.call("nest", content=execution.argument - 1),))
        if value.error:
            raise TaskFailed(value)
    return inline(None)


def fleet_with(**fields: int) -> Fleet:
    return Fleet(config(**fields), {"nest": nest})


def alive(fleet: Fleet) -> int:
    return len(fleet.workers)


def test_the_pool_grows_while_tasks_block_and_shrinks_to_its_size_once_they_idle() -> None:
    fleet = fleet_with(cpus=2)
    assert alive(fleet) == 2
    fleet.get(fleet.driver.call("nest", content=20))
    assert alive(fleet) >= 20
    fleet.run_for(fleet.config.worker_idle_max // 2)
    assert alive(fleet) >= 20
    least: list[int] = []
    fleet.before_round = lambda fleet: least.append(alive(fleet))
    fleet.run_for(fleet.config.worker_idle_max)
    assert alive(fleet) == min(least) == 2
    assert fleet.actions[StartWorker] < 30, "nobody is started to be stopped"


def test_the_pool_never_passes_its_bound() -> None:
    fleet = fleet_with(cpus=1, worker_processes_max=4)
    fleet.get_values(*[fleet.driver.call("nest", content=2) for _ in range(6)])
    assert fleet.workers_most <= 4


def test_no_more_workers_are_started_than_there_is_room_for_tasks() -> None:
    fleet = fleet_with(cpus=2)
    for _ in range(50):
        fleet.driver.call("sleep", duration=SECOND)
    fleet.run_for(SECOND)
    assert fleet.workers_most == 2


def test_tasks_that_need_no_cpu_get_workers_of_their_own_a_few_at_a_time() -> None:
    fleet = fleet_with(cpus=1)
    for _ in range(10):
        fleet.driver.call("sleep", duration=SECOND, resources=())
    fleet.run_for(10 * MILLISECOND)
    assert len(fleet.running) == 10


def test_workers_that_do_not_come_up_are_tried_again_after_longer_and_longer_pauses() -> None:
    fleet = fleet_with(cpus=1)
    fleet.kill(2)
    attempts: list[int] = []

    def fails(number: ProcessID) -> str | None:
        attempts.append(fleet.now)
        return "no more processes" if len(attempts) < 4 else None

    fleet.start_fails = fails
    made = fleet.driver.call("nest", content=0)
    assert fleet.get(made) == [None]
    pauses = [round((b - a) / MILLISECOND) for a, b in pairwise(attempts)]
    assert pauses == [200, 400, 800], "the death of an idle worker was the first failure"
    warnings = [each.text for each in fleet.process.shown if isinstance(each, msg.WarningRaised)]
    assert len(warnings) == 1
    fleet.kill(next(iter(fleet.workers)))
    fleet.run_for(SECOND)
    assert alive(fleet) == 1, "once a worker has worked, what was wrong is over"


def test_when_no_worker_ever_comes_up_what_is_ready_fails_with_the_reason() -> None:
    fleet = fleet_with(cpus=1)
    fleet.start_fails = lambda number: "no more processes"
    fleet.kill(2)
    failure = fleet.error(fleet.driver.call("nest", content=0)).failure
    assert failure is not None
    assert failure.kind is FailureKind.WORKER_CRASHED
    assert failure.message == "no worker process could be started: no more processes"
    later = fleet.driver.call("nest", content=0)
    assert fleet.error(later).failure == failure
    fleet.start_fails = lambda number: None
    fleet.run_for(10 * SECOND)
    assert fleet.get(fleet.driver.call("nest", content=3)) == [None]


def test_workers_that_die_with_their_first_task_are_not_replaced_without_a_pause() -> None:
    fleet = fleet_with(cpus=1)

    def strike(fleet: Fleet) -> None:
        for worker in list(fleet.workers.values()):
            worker.frozen = not worker.started
            if worker.frozen and worker.inbox:
                fleet.kill(worker.number, status=1)

    fleet.before_round = strike
    failure = fleet.error(fleet.driver.call("nest", content=0)).failure
    assert failure is not None
    assert "no worker process could be started: worker 7 ended with status 1 before its first task" in failure.message
    assert fleet.killed == 6
    fleet.before_round = lambda fleet: None
    assert fleet.get(fleet.driver.call("nest", content=3)) == [None]


def test_nesting_beyond_what_the_system_allows_fails_with_the_reason_and_shallower_nesting_works_on() -> None:
    fleet = fleet_with(cpus=1)
    fleet.start_fails = lambda number: "no more processes" if len(fleet.workers) >= 5 else None
    failure = fleet.error(fleet.driver.call("nest", content=20)).failure
    assert failure is not None
    assert failure.kind is FailureKind.DEADLOCK
    assert "nest has no worker: all 5 are blocked, and no more processes. Nest less deeply" in failure.message
    assert fleet.get(fleet.driver.call("nest", content=4)) == [None]


def test_a_worker_that_runs_is_waited_for_however_often_no_other_comes_up() -> None:
    fleet = fleet_with(cpus=2)
    fleet.start_fails = lambda number: "no more processes"
    fleet.driver.call("sleep", duration=60 * SECOND)
    nested = fleet.driver.call("nest", content=1)
    fleet.run_for(59 * SECOND)
    assert not fleet.wait(nested, timeout=0)
    assert fleet.get(nested) == [None]


def test_a_worker_that_retires_is_replaced_while_it_leaves() -> None:
    fleet = fleet_with(cpus=2)
    made = [fleet.driver.call("once", calls_max=1) for _ in range(20)]
    assert fleet.get(*made) == [None] * 20
    workers = [worker for _, worker, *_ in fleet.starts]
    assert len(set(workers)) == 20
    fleet.run()
    assert alive(fleet) == 2


def test_submissions_pause_and_go_on() -> None:
    fleet = fleet_with(cpus=1, submitted_unfinished_max=10)
    for _ in range(11):
        fleet.driver.call("sleep", duration=MILLISECOND)
    fleet.run(lambda: fleet.process.paused)
    assert fleet.process.paused
    fleet.run()
    assert not fleet.process.paused
