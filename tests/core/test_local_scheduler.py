"""What the local scheduler does with each fact: which task runs where, when, and what becomes of it when something goes wrong."""

from __future__ import annotations

from sundog.core import events as ev
from sundog.core import messages as msg
from sundog.core.actions import Dispatch, ReclaimTasks, Send, StartWorker
from sundog.core.config import Config
from sundog.core.ids import LOOP, ProcessID
from sundog.core.local_scheduler import LocalScheduler
from sundog.core.machine import Action, Event
from sundog.core.messages import ReadyObject, Result, RunTask
from sundog.core.task import FailureKind, TaskSpec, TaskState, Value
from sundog.core.units import MILLISECOND
from tests.support.builders import (
    AT_DRIVER,
    AT_HOST,
    CPUS_2,
    EXPORT,
    GPU_1,
    NODE,
    arena,
    config,
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


class Scheduler:
    """A local scheduler alone: what it says to other machines of its host is seen."""

    def __init__(self, settings: Config | None = None, *, functions: bool = True) -> None:
        self.config = settings or config(cpus=1)
        self.machine = LocalScheduler(self.config, NODE, AT_HOST, AT_HOST, AT_DRIVER, ProcessID(2))
        self.now = 0
        started = self.hear((AT_HOST, msg.NodeJoined(NODE, self.config.capacity)))
        self.hear(*[(LOOP, ev.WorkerStarted(start.worker, 1000 + start.worker)) for start in said(started, StartWorker)])
        if functions:
            self.hear((AT_DRIVER, EXPORT))

    def hear(self, *events: Event, after: int = 1) -> list[Action]:
        self.now += after
        actions = self.machine.step(self.now, events)
        self.machine.check_invariants()
        due = self.machine.next_deadline()
        assert due is None or due > self.now
        return actions

    def submit(self, *facts: msg.TaskSubmitted) -> list[Action]:
        return self.hear(*[(AT_DRIVER, fact) for fact in facts])

    def learn(self, duration: int = 1000) -> None:
        """Task 99 runs once on worker 2 (the first that is idle), so that the function's mean is known."""
        [dispatch] = said(self.submit(submitted(99)), Dispatch)
        self.hear(finished(99, duration=duration, worker=int(dispatch.worker)))

    def states(self) -> dict[int, TaskState]:
        return {int.from_bytes(t, "big"): record.state for t, record in self.machine.tasks.items()}


def run(task: TaskSpec, sequence: int, *values: Value | None, attempt: int = 1, start: int = 1) -> RunTask:
    return RunTask(task, attempt, start, sequence, values)


def finished(
    number: int, *results: Result, attempt: int = 1, duration: int = 1000, worker: int = 2, retryable: bool = False
) -> Event:
    message = msg.TaskFinished(task_id(number), attempt, results or (result(number),), duration, retryable)
    return (worker_at(worker), message)


def local(number: int, value: Value | None = None) -> Event:
    return (AT_HOST, msg.ObjectsLocal((ReadyObject(returned(number), value or inline(number)),)))


def retired(actions: list[Action]) -> list[tuple[str, Value]]:
    facts = said(actions, msg.TaskRetired) + [fact for several in said(actions, msg.TasksRetired) for fact in several.tasks]
    return [(fact.spec.name, fact.results[0].value) for fact in facts]


def runs(actions: list[Action]) -> list[tuple[int, str]]:
    """Which worker is given which task."""
    return [(int(dispatch.worker), task.spec.name) for dispatch in said(actions, Dispatch) for task in dispatch.tasks]


def lost(worker: int = 2, started: int = 0, finished: int = 0, status: int = -9, **fields: object) -> Event:
    return (LOOP, ev.WorkerLost(ProcessID(worker), started, finished, status, **fields))  # type: ignore[arg-type]


# -- a task's life ------------------------------


def test_the_workers_are_started_when_the_node_joins() -> None:
    machine = LocalScheduler(config(cpus=2), NODE, AT_HOST, AT_HOST, AT_DRIVER, ProcessID(2))
    actions = machine.step(0, [(AT_HOST, msg.NodeJoined(NODE, config(cpus=2).capacity))])
    assert actions == [StartWorker(ProcessID(2)), StartWorker(ProcessID(3))]
    assert machine.step(1, []) == []


def test_a_function_is_delivered_before_the_first_task_that_names_it_and_once() -> None:
    scheduler = Scheduler()
    assert scheduler.submit(submitted(1)) == [
        Send(W2, msg.FunctionDelivered(EXPORT.function_id, "f", EXPORT.code)),
        Dispatch(ProcessID(2), (run(spec(1), 1),), 0),
    ]
    assert scheduler.hear(finished(1)) == [Send(AT_HOST, msg.TaskRetired(spec(1), (result(1),), W2))]
    assert scheduler.submit(submitted(2)) == [Dispatch(ProcessID(2), (run(spec(2), 2),), 1)]


def test_a_task_of_an_unknown_function_fails() -> None:
    [(name, value)] = retired(Scheduler(functions=False).submit(submitted(1)))
    assert name == "f1"
    assert value.failure is not None
    assert value.failure.kind is FailureKind.FUNCTION_MISSING


def test_a_task_waits_for_its_arguments_and_is_sent_with_their_values() -> None:
    scheduler = Scheduler()
    assert scheduler.submit(submitted(3, returned(1), returned(2))) == []
    assert scheduler.hear(local(2)) == []
    [dispatch] = said(scheduler.hear(local(1)), Dispatch)
    assert dispatch.tasks == (run(spec(3, returned(1), returned(2)), 1, inline(1), inline(2)),)


def test_a_task_with_arguments_in_the_arena_gets_a_grant_for_each() -> None:
    scheduler = Scheduler()
    task = spec(2, returned(1), arguments=arena(0))
    scheduler.hear((AT_DRIVER, msg.TaskSubmitted(task)))
    actions = scheduler.hear(local(1, arena(64)))
    assert [type(action) for action in actions] == [Send, Send, Dispatch]
    assert said(actions, msg.PinsTaken) == [msg.PinsTaken(W2, (returned(1), returned(2, 0)))]


def test_a_task_whose_argument_failed_fails_with_the_same_error_and_the_trail() -> None:
    scheduler = Scheduler()
    scheduler.submit(submitted(2, returned(1), put_id(1)), submitted(3, returned(2)))
    actions = scheduler.hear(local(1, error("boom")))
    [(name, value)] = retired(actions)
    assert (name, value.error, value.trail) == ("f2", True, ("f2",))
    [(name, value)] = retired(scheduler.hear(local(2, value)))
    assert (name, value.trail) == ("f3", ("f3", "f2"))
    assert scheduler.states() == {}


def test_a_result_counts_only_from_the_worker_and_attempt_that_run_it() -> None:
    scheduler = Scheduler(config(cpus=2))
    scheduler.submit(submitted(1))
    for stale in (finished(1, worker=2), finished(1, worker=3, attempt=2), finished(7, worker=3)):
        assert scheduler.hear(stale) == [Send(AT_HOST, msg.ResultsRefused(stale[0], stale[1].results))]  # type: ignore[attr-defined]
    assert scheduler.states() == {1: TaskState.DISPATCHED}


# -- order ------------------------------


def test_ready_tasks_run_by_priority_then_in_the_order_of_their_submission_not_of_becoming_ready() -> None:
    scheduler = Scheduler()
    scheduler.submit(submitted(1))
    scheduler.submit(submitted(2, put_id(1)), submitted(3), submitted(4, priority=1), submitted(5, priority=-1), submitted(6))
    scheduler.hear((AT_HOST, msg.ObjectsLocal((ReadyObject(put_id(1), inline()),))))
    order = ["f1"]
    for done in range(1, 7):
        order += [name for _, name in runs(scheduler.hear(finished(int(order[done - 1][1:]), duration=10 * MILLISECOND)))]
    assert order == ["f1", "f4", "f2", "f3", "f6", "f5"]


def test_what_a_blocked_task_waits_for_goes_first_with_all_that_it_needs() -> None:
    scheduler = Scheduler()
    scheduler.submit(submitted(1))
    scheduler.submit(submitted(2, priority=9), submitted(3), submitted(4), submitted(5, returned(4)))
    actions = scheduler.hear((AT_HOST, msg.TaskWaits(task_id(1), 1, (returned(5),), 1)))
    assert actions == [StartWorker(ProcessID(3))]
    assert runs(scheduler.hear((LOOP, ev.WorkerStarted(ProcessID(3), 1003)))) == [(3, "f4")]


def test_what_is_urgent_goes_before_tasks_of_other_shapes_too() -> None:
    scheduler = Scheduler(config(cpus=2, workers=3, pipeline_depth_max=128))
    scheduler.learn()
    scheduler.submit(submitted(1, resources=()), *[submitted(n) for n in range(2, 300)])
    scheduler.hear((worker_at(4), submitted(500, resources=CPUS_2)))
    scheduler.hear((AT_HOST, msg.TaskWaits(task_id(1), 1, (returned(500),), 1)))
    ran = 0
    while scheduler.states()[500] is not TaskState.DISPATCHED:
        [worker, *_] = [w for w in scheduler.machine.pool.workers.values() if w.pipeline and w.worker != 4]
        ran += 1
        scheduler.hear(finished(int(worker.pipeline[0].spec.name[1:]), worker=worker.worker))
    assert ran < 260, "nothing new of the other shape was started"


def test_a_large_task_is_not_starved_by_small_ones() -> None:
    scheduler = Scheduler(config(cpus=2))
    scheduler.learn(duration=30 * MILLISECOND)
    scheduler.submit(
        *[submitted(n) for n in range(1, 5)], submitted(50, resources=CPUS_2), *[submitted(n) for n in range(100, 400)]
    )
    ran = 0
    while scheduler.states()[50] is not TaskState.DISPATCHED:
        [worker, *_] = [w for w in scheduler.machine.pool.workers.values() if w.pipeline]
        ran += 1
        number = int(worker.pipeline[0].spec.name[1:])
        scheduler.hear(finished(number, worker=worker.worker, duration=30 * MILLISECOND), after=15 * MILLISECOND)
        for reclaiming in [w for w in scheduler.machine.pool.workers.values() if w.reclaiming]:
            scheduler.hear((LOOP, ev.TasksReclaimed(reclaiming.worker, 0)))
    assert ran < 20


def test_patience_begins_anew_with_another_task_that_finds_no_room() -> None:
    scheduler = Scheduler(config(cpus=2))
    scheduler.submit(submitted(1), submitted(2), submitted(50, resources=CPUS_2))
    scheduler.hear((AT_DRIVER, msg.CancelRequested(1, (returned(50),))))
    scheduler.hear(finished(1, worker=3), after=30 * MILLISECOND)
    assert runs(scheduler.submit(submitted(51, resources=CPUS_2), submitted(3))) == [(3, "f3")]
    scheduler.hear(finished(3, worker=3), after=30 * MILLISECOND)
    assert runs(scheduler.submit(submitted(4))) == [], "now it has been patient for long"


def test_tasks_of_a_shape_that_fits_go_ahead_of_those_that_do_not_yet() -> None:
    scheduler = Scheduler(config(cpus=2, gpus=1))
    scheduler.submit(submitted(1, resources=GPU_1))
    scheduler.hear((AT_DRIVER, submitted(2, resources=GPU_1)))
    scheduler.hear((AT_HOST, msg.TaskAssigned(spec(2, resources=GPU_1), AT_DRIVER)))
    assert runs(scheduler.submit(submitted(3))) == [(2, "f3")]


# -- spilling ------------------------------


def test_what_this_node_can_never_run_is_spilled_and_fails_when_no_node_can() -> None:
    scheduler = Scheduler()
    assert scheduler.submit(submitted(1, resources=CPUS_2)) == [
        Send(AT_HOST, msg.TaskSpilled(spec(1, resources=CPUS_2), AT_DRIVER))
    ]
    [(name, value)] = retired(scheduler.hear((AT_HOST, msg.TaskInfeasible(task_id(1), "too large"))))
    assert name == "f1"
    assert value.failure is not None
    assert (value.failure.kind, value.failure.message) == (FailureKind.INFEASIBLE, "too large")


def test_what_needs_a_busy_gpu_is_spilled_and_when_assigned_back_waits_for_it() -> None:
    scheduler = Scheduler(config(cpus=2, gpus=1))
    task = spec(2, resources=GPU_1)
    scheduler.submit(submitted(1, resources=GPU_1))
    assert scheduler.submit(submitted(2, resources=GPU_1)) == [Send(AT_HOST, msg.TaskSpilled(task, AT_DRIVER))]
    assert scheduler.hear((AT_HOST, msg.TaskAssigned(task, AT_DRIVER))) == []
    assert scheduler.states()[2] is TaskState.READY
    assert runs(scheduler.hear(finished(1, worker=3))) == [(3, "f2")]


def test_a_task_assigned_from_elsewhere_is_declared_here() -> None:
    scheduler = Scheduler()
    actions = scheduler.hear((AT_HOST, msg.TaskAssigned(spec(1), W3)))
    assert actions[0] == Send(AT_HOST, msg.TaskDeclared(spec(1), W3))
    assert runs(actions) == [(2, "f1")]
    assert scheduler.hear((AT_HOST, msg.TaskAssigned(spec(1), W3))) == []


def test_a_spilled_task_that_is_cancelled_is_withdrawn() -> None:
    scheduler = Scheduler()
    scheduler.submit(submitted(1, resources=CPUS_2))
    actions = scheduler.hear((AT_DRIVER, msg.CancelRequested(1, (returned(1),))))
    assert actions[0] == Send(AT_HOST, msg.TaskWithdrawn(task_id(1)))
    assert said(actions, msg.CancelAnswered) == [msg.CancelAnswered(1, (returned(1),))]


# -- blame (P3) ------------------------------


def pipeline_of_three(retries: int = 3) -> Scheduler:
    scheduler = Scheduler()
    scheduler.learn()
    scheduler.submit(*[submitted(n, retries_max=retries) for n in (1, 2, 3)])
    assert scheduler.states() == dict.fromkeys((1, 2, 3), TaskState.DISPATCHED)
    return scheduler


def dispatched(scheduler: Scheduler) -> list[tuple[str, int, int]]:
    """Start the next worker; return name, attempt and start of what it is given."""
    new = max(scheduler.machine.pool.workers)
    actions = scheduler.hear((LOOP, ev.WorkerStarted(new, 1000 + new)))
    return [(task.spec.name, task.attempt, task.start) for dispatch in said(actions, Dispatch) for task in dispatch.tasks]


def test_only_the_task_that_was_running_is_blamed_for_the_death_of_its_worker() -> None:
    scheduler = pipeline_of_three()
    # Sequence 1 was the task that taught the mean; 2 has finished unreported, 3 was running, 4 had not started.
    assert scheduler.hear(lost(started=3, finished=2)) == [StartWorker(ProcessID(3))]
    charges = {record.spec.name: record.charges for record in scheduler.machine.tasks.values()}
    assert charges == {"f1": 0, "f2": 1, "f3": 0}
    assert dispatched(scheduler) == [("f1", 2, 2), ("f2", 2, 2), ("f3", 1, 1)]


def test_a_task_fails_when_its_retries_are_used_up_with_all_that_is_known() -> None:
    scheduler = pipeline_of_three(retries=0)
    [(name, value)] = retired(scheduler.hear(lost(started=2, finished=1, status=-11, memory=300 << 20, output="last words")))
    assert name == "f1"
    assert value.failure is not None
    assert value.failure.kind is FailureKind.WORKER_CRASHED
    assert value.failure.message == (
        "the worker (pid 1002) running f1 died with signal 11 (SIGSEGV), on start 1 of it (max_retries=0); "
        "its memory was last seen at 300 MiB; its last output was:\nlast words"
    )
    assert scheduler.states() == {2: TaskState.READY, 3: TaskState.READY}


def test_an_exit_code_is_told_as_such() -> None:
    scheduler = pipeline_of_three(retries=0)
    [(_, value)] = retired(scheduler.hear(lost(started=2, finished=1, status=7)))
    assert value.failure is not None
    assert "died with exit code 7, on start 1" in value.failure.message


def test_a_task_between_two_bodies_blames_nobody() -> None:
    scheduler = pipeline_of_three(retries=0)
    assert scheduler.hear(lost(started=2, finished=2)) == [StartWorker(ProcessID(3))]
    assert dispatched(scheduler) == [("f1", 2, 2), ("f2", 1, 1), ("f3", 1, 1)]


def test_a_result_of_a_dead_worker_is_stale() -> None:
    scheduler = pipeline_of_three()
    scheduler.hear(lost(started=2, finished=1))
    dispatched(scheduler)
    assert said(scheduler.hear(finished(1)), msg.TaskRetired) == []
    assert said(scheduler.hear(finished(1, worker=3)), msg.TaskRetired) == []
    assert retired(scheduler.hear(finished(1, worker=3, attempt=2))) == [("f1", inline(1))]


def test_an_exception_that_is_retryable_runs_again_while_there_are_retries() -> None:
    scheduler = Scheduler()
    scheduler.submit(submitted(1, retries_max=1))
    boom = Result(error("boom"))
    actions = scheduler.hear(finished(1, boom, retryable=True))
    assert actions[0] == Send(AT_HOST, msg.ResultsRefused(W2, (boom,)))
    assert [(task.attempt, task.start) for task in said(actions, Dispatch)[0].tasks] == [(2, 2)]
    assert retired(scheduler.hear(finished(1, boom, attempt=2, retryable=True))) == [("f1", error("boom"))]


# -- functions with limited calls ------------------------------


def test_a_worker_is_replaced_after_so_many_calls() -> None:
    scheduler = Scheduler()
    scheduler.submit(submitted(1, calls_max=2))
    scheduler.submit(submitted(2, calls_max=2), submitted(3, calls_max=2))
    assert runs(scheduler.hear(finished(1))) == [(2, "f2")]
    actions = scheduler.hear(finished(2))
    assert Send(W2, msg.StopRequested()) in actions
    assert [start.worker for start in said(actions + scheduler.hear(), StartWorker)] == [3]
    assert scheduler.hear(lost(2, 2, 2, 0)) == []
    assert runs(scheduler.hear((LOOP, ev.WorkerStarted(ProcessID(3), 1003)))) == [(3, "f3")]


def test_a_reclaimed_call_does_not_count() -> None:
    scheduler = Scheduler(config(cpus=2))
    scheduler.learn()
    for number in (1, 2):
        scheduler.submit(submitted(number, calls_max=50))
    assert {w.calls[EXPORT.function_id] for w in scheduler.machine.pool.workers.values()} == {1}


# -- pausing ------------------------------


def test_submissions_are_paused_above_a_bound_and_go_on_below_nine_tenths() -> None:
    scheduler = Scheduler(config(cpus=1, submitted_unfinished_max=10))
    actions = scheduler.submit(*[submitted(n) for n in range(1, 13)])
    assert said(actions, msg.SubmissionsPaused) == [msg.SubmissionsPaused(True)], "once"
    for number in range(1, 3):
        assert said(scheduler.hear(finished(number)), msg.SubmissionsPaused) == []
    assert said(scheduler.hear(finished(3)), msg.SubmissionsPaused) == [msg.SubmissionsPaused(False)]


def test_submissions_are_paused_above_a_bound_of_argument_bytes_and_go_on_below_nine_tenths() -> None:
    def large(number: int) -> Event:
        return (AT_DRIVER, submitted(number, arguments=Value(100, data=bytes(100))))

    scheduler = Scheduler(config(cpus=1, submitted_bytes_max=1000))
    actions = scheduler.hear(*[large(n) for n in range(1, 11)])
    assert said(actions, msg.SubmissionsPaused) == [], "not above it"
    in_arena = (AT_DRIVER, submitted(50, arguments=arena(0, 5000)))
    nothing = (AT_DRIVER, submitted(51, arguments=Value(0)))
    assert said(scheduler.hear(in_arena, nothing), msg.SubmissionsPaused) == [], "neither takes memory of the node's own"
    assert said(scheduler.hear(large(11), large(12)), msg.SubmissionsPaused) == [msg.SubmissionsPaused(True)], "once"
    for number in range(1, 3):
        assert said(scheduler.hear(finished(number)), msg.SubmissionsPaused) == []
    assert said(scheduler.hear(finished(3)), msg.SubmissionsPaused) == [msg.SubmissionsPaused(False)]
    for number in range(4, 13):
        scheduler.hear(finished(number))
    assert scheduler.machine.argument_bytes == 0


# -- unheld children ------------------------------


def test_unheld_children_that_have_not_started_are_cancelled_and_no_others() -> None:
    scheduler = Scheduler()
    scheduler.submit(submitted(1), submitted(2), submitted(3, returned(1)))
    actions = scheduler.hear((AT_HOST, msg.ReturnsUnheld((task_id(1), task_id(2), task_id(3), task_id(4)))))
    assert [(name, value.failure.kind) for name, value in retired(actions) if value.failure] == [
        ("f2", FailureKind.CANCELLED),
        ("f3", FailureKind.CANCELLED),
    ]
    assert scheduler.states() == {1: TaskState.DISPATCHED}


def test_what_depends_on_a_ready_task_goes_with_it() -> None:
    scheduler = Scheduler(config(cpus=2))
    scheduler.learn()
    chain = [submitted(1), *[submitted(number, returned(number - 1)) for number in range(2, 11)]]
    [dispatch] = said(scheduler.submit(*chain), Dispatch)
    assert len(dispatch.tasks) == 10, "not one with each step: then a chain that has run dry would stay so to its end"


def test_tokens_that_were_gone_are_not_asked_for_again_at_once() -> None:
    """A head that is known to be long, a worker idle: what lies behind has started already, as will be heard."""
    scheduler = Scheduler(config(cpus=2))
    scheduler.learn(duration=8 * MILLISECOND)
    scheduler.submit(*[submitted(n) for n in range(1, 5)])
    [first, second] = [w for w in scheduler.machine.pool.workers.values() if w.pipeline]
    asked: list[Action] = []
    for record in list(second.pipeline):
        asked += scheduler.hear(
            finished(int(record.spec.name[1:]), worker=second.worker, duration=8 * MILLISECOND), after=8 * MILLISECOND
        )
    reclaims = said(asked, ReclaimTasks)
    assert [reclaim.worker for reclaim in reclaims] == [first.worker]
    for _ in range(3):
        again = scheduler.hear((LOOP, ev.TasksReclaimed(first.worker, 0)))
        assert not said(again, ReclaimTasks)
        scheduler.hear()
    assert said(scheduler.hear(after=2 * MILLISECOND), ReclaimTasks)
