# ruff: noqa: T201 (what workers print is what is tested)
"""The worker's loop in a real forked process, over a real socket pair, against a node that the test writes the lines for.

Bodies are functions of this module, found by the task's name, so no pickling stands between the test and the loop.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sundog.backends.local_processes.channel import Channel, socket_pair
from sundog.backends.local_processes.progress import ProgressTable, create_progress
from sundog.backends.local_processes.worker_loop import WorkerPort
from sundog.backends.task_body import Outcome
from sundog.core import messages as msg
from sundog.core.actions import ResolveGet
from sundog.core.config import Config
from sundog.core.events import GetRequested
from sundog.core.ids import FunctionID, IdSequence, ObjectID, ProcessID, TaskID, return_id, root_task_id
from sundog.core.lots import singly
from sundog.core.machine import Fact
from sundog.core.task import TaskSpec, Value
from sundog.core.units import SECOND

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
BOUND = 10.0
WORKER = ProcessID(2)
IDS = IdSequence(root_task_id(b"node"), 1, 0)


class Worker:
    """The node's side: ``hear`` reads until a condition holds."""

    def __init__(self, by_task_seeds: bool = False, **fields: Any) -> None:
        self.config = Config(**fields)
        link, theirs = socket_pair()
        self.tokens = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK)
        progress_fd = create_progress()
        self.progress = ProgressTable(progress_fd)
        self.out, out = os.pipe()
        self.err, err = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            link.close()
            os.dup2(out, 1)
            os.dup2(err, 2)
            run_worker(self.config, theirs, self.tokens, self.progress.record(WORKER), by_task_seeds)
        for fd in (progress_fd, out, err):
            os.close(fd)
        theirs.close()
        self.link = link
        self.channel = Channel(link, self.config)
        self.heard: list[Fact] = []
        self.packets = 0
        self.sequence = 0
        self.status: int | None = None

    def say(self, *messages: Fact) -> None:
        self.channel.queue(messages)
        assert self.channel.flush()

    def task(
        self, name: str, dependencies: tuple[ObjectID, ...] = (), values: tuple[Value | None, ...] = (), *, patient: bool = False
    ) -> msg.RunTask:
        self.sequence += 1
        spec = TaskSpec(IDS.next_task(), FunctionID(name.encode().ljust(16)), name, Value(0), dependencies)
        return msg.RunTask(spec, 1, 1, self.sequence, values, patient)

    def dispatch(self, *runs: msg.RunTask, tokens: int | None = None) -> None:
        os.eventfd_write(self.tokens, len(runs) if tokens is None else tokens)
        self.say(msg.RunTasks(runs))

    def hear(self, kind: type, count: int = 1, within: float = BOUND) -> list[Any]:
        end = time.monotonic() + within
        while len(found := [m for m in self.heard if isinstance(m, kind)]) < count:
            assert select.select([self.link], [], [], max(0, end - time.monotonic()))[0], (kind, self.heard)
            messages = self.channel.receive()
            assert messages is not None, self.errors()
            self.packets += 1
            self.heard += [one for message in messages for one in singly(message)]
        return found

    def errors(self) -> str:
        return os.read(self.err, 100_000).decode()

    def close(self) -> int:
        self.channel.close()
        _, status = os.waitpid(self.pid, 0)
        for fd in (self.tokens, self.out, self.err):
            os.close(fd)
        self.status = os.waitstatus_to_exitcode(status)
        return self.status


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    if made.status is None:
        made.close()


# -- in the worker ----------------------------------------------------------------------------------------------------------

PORT: WorkerPort


def run_worker(config: Config, link: Any, tokens: int, progress: memoryview, seeds: bool) -> None:
    global PORT
    status = 1
    try:
        PORT = WorkerPort(config, link, WORKER, SimpleNamespace(), tokens, progress, seeds)
        PORT.output.install()
        PORT.run(body)
        status = 0
    finally:
        os._exit(status)


def body(run: msg.RunTask, function: msg.FunctionDelivered | None, values: tuple[Value, ...]) -> Outcome:
    try:
        value = BODIES[run.spec.name](*[v.data for v in values])
        return Outcome((msg.Result(Value(len(value), data=value)),))
    except ValueError as error:
        return Outcome((msg.Result(Value(0, data=str(error).encode(), error=True)),), failed=True)


def get(object_id: ObjectID) -> bytes:
    answer = PORT.ask(GetRequested(PORT.next_request(), (object_id,), task=PORT.current_task()))
    assert isinstance(answer, ResolveGet)
    return answer.values[0].data


def submit() -> TaskID:
    task_id = PORT.lane().next_task()
    PORT.facts.append(msg.TaskSubmitted(TaskSpec(task_id, FunctionID(b"f" * 16), "f", Value(0))))
    PORT.submitted(0)
    return task_id


def quick() -> bytes:
    return b"quick"


def double(data: bytes) -> bytes:
    return data * 2


def fail() -> bytes:
    raise ValueError("no")


def slow() -> bytes:
    time.sleep(0.5)
    return b"slow"


def long_and_silent() -> bytes:
    time.sleep(60)
    return b""


def nested() -> bytes:
    return get(return_id(submit(), 1))


def submits_and_computes() -> bytes:
    submit()
    time.sleep(60)
    return b""


def submits_many() -> bytes:
    for _ in range(1000):
        submit()
    return b""


def gets_in_a_thread() -> bytes:
    found: list[bytes] = []
    main_task = PORT.current_task()

    def work() -> None:
        assert PORT.current_task() is None
        found.append(get(return_id(submit(), 1)))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    found.append(get(return_id(submit(), 1)))
    for thread in threads:
        thread.join()
    assert PORT.current_task() == main_task
    return b"".join(found)


def names() -> bytes:
    mine = PORT.lane().next_task()
    theirs: list[bytes] = []
    thread = threading.Thread(target=lambda: theirs.append(PORT.lane().next_task()))
    thread.start()
    thread.join()
    return mine + theirs[0]


def prints() -> bytes:
    print("hello")
    print("to err", file=sys.stderr)
    os.write(1, b"from C\n")
    print("partial", end="")
    return b""


def prints_and_computes() -> bytes:
    print("early", end="")
    time.sleep(60)
    return b""


def prints_and_dies() -> bytes:
    print("last words")
    os._exit(3)


def draws() -> bytes:
    import random

    return repr(random.random()).encode()


def draws_numpy() -> bytes:
    import numpy

    return repr(numpy.random.random()).encode()


def forks() -> bytes:
    pid = os.fork()
    if pid == 0:
        try:
            PORT.ask(GetRequested(1, ()))
        except Exception as error:
            print(type(error).__name__, flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
    return b"parent"


def raises_from_a_signal() -> bytes:
    def handle(*_: object) -> None:
        raise ValueError("alarm")

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    return get(return_id(submit(), 1))


BODIES: dict[str, Callable[..., bytes]] = {
    f.__name__: f
    for f in (
        quick, double, fail, slow, long_and_silent, nested, submits_and_computes, submits_many, gets_in_a_thread, names,
        prints, prints_and_computes, prints_and_dies, draws, draws_numpy, forks, raises_from_a_signal,
    )
}  # fmt: skip


def ready(*object_ids: ObjectID) -> msg.ObjectsReady:
    return msg.ObjectsReady(tuple([msg.ReadyObject(o, Value(4, data=b"abcd")) for o in object_ids]))


# -- tests ------------------------------------------------------------------------------------------------------------------


def test_a_task_runs_and_its_result_comes_at_once(worker: Worker) -> None:
    run = worker.task("quick")
    worker.dispatch(run)
    (finished,) = worker.hear(msg.TaskFinished)
    assert (finished.task_id, finished.attempt) == (run.spec.task_id, 1)
    assert finished.results[0].value.data == b"quick"
    assert worker.progress.read(WORKER) == (1, 1)


def test_short_tasks_travel_together() -> None:
    # However slow the machine: these bodies are short, and only the helper's millisecond parts their results.
    worker = Worker(flush_after=10 * SECOND, flush_before_body=10 * SECOND)
    worker.dispatch(worker.task("quick"))
    worker.hear(msg.TaskFinished)
    worker.packets = 0
    worker.dispatch(*[worker.task("quick") for _ in range(100)])
    worker.hear(msg.TaskFinished, 101)
    assert worker.packets < 90
    assert worker.progress.read(WORKER) == (101, 101)
    worker.close()


def test_a_dependent_takes_the_value_of_the_task_ahead(worker: Worker) -> None:
    first = worker.task("quick")
    given = return_id(first.spec.task_id, 1)
    worker.dispatch(first, worker.task("double", (given,), (None,)))
    finished = worker.hear(msg.TaskFinished, 2)
    assert finished[1].results[0].value.data == b"quickquick"


def test_what_depends_on_a_failed_task_is_skipped(worker: Worker) -> None:
    first = worker.task("fail")
    second = worker.task("double", (return_id(first.spec.task_id, 1),), (None,))
    worker.dispatch(first, second, worker.task("quick"))
    finished = worker.hear(msg.TaskFinished, 2)
    assert finished[0].results[0].value.error
    assert worker.hear(msg.TaskSkipped) == [msg.TaskSkipped(second.spec.task_id, 1)]


def test_a_finished_result_does_not_wait_for_a_long_body(worker: Worker) -> None:
    worker.dispatch(worker.task("quick"), worker.task("long_and_silent"))
    worker.hear(msg.TaskFinished)
    os.kill(worker.pid, signal.SIGKILL)


def test_a_result_leaves_even_if_the_next_body_was_thought_short(worker: Worker) -> None:
    worker.dispatch(*[worker.task("quick") for _ in range(20)])
    worker.hear(msg.TaskFinished, 20)
    slow_one = worker.task("long_and_silent")
    # The worker estimates by function ID: give the long body that of the quick one.
    disguised = msg.RunTask(
        TaskSpec(slow_one.spec.task_id, worker.task("quick").spec.function_id, "long_and_silent", Value(0)), 1, 1, slow_one.sequence
    )
    worker.dispatch(worker.task("quick"), disguised)
    worker.hear(msg.TaskFinished, 21)
    os.kill(worker.pid, signal.SIGKILL)


def test_what_was_reclaimed_does_not_run(worker: Worker) -> None:
    runs = [worker.task("slow"), worker.task("quick"), worker.task("quick")]
    worker.dispatch(*runs)
    end = time.monotonic() + BOUND
    while worker.progress.read(WORKER)[0] != 1:
        assert time.monotonic() < end
    assert [os.eventfd_read(worker.tokens) for _ in range(2)] == [1, 1]
    worker.say(msg.TasksForgotten(1, 3))
    assert worker.hear(msg.TasksDropped) == [msg.TasksDropped(3)]
    worker.dispatch(worker.task("quick"))
    finished = worker.hear(msg.TaskFinished, 2)
    assert finished[0].task_id == runs[0].spec.task_id
    assert worker.progress.read(WORKER) == (4, 4)


def test_a_nested_get_blocks_the_task_and_goes_on_when_resumed(worker: Worker) -> None:
    run = worker.task("nested")
    worker.dispatch(run)
    (submitted,) = worker.hear(msg.TaskSubmitted)
    assert submitted.spec.task_id == IdSequence(run.spec.task_id, 1, 0).next_task()
    (blocked,) = worker.hear(msg.TaskBlocked)
    assert blocked.task_id == run.spec.task_id
    time.sleep(0.3)  # so that the blocked time would show in the duration
    worker.say(ready(return_id(submitted.spec.task_id, 1)), msg.TaskResumed(blocked.request))
    (finished,) = worker.hear(msg.TaskFinished)
    assert finished.results[0].value.data == b"abcd"
    assert finished.duration < 0.25 * SECOND


def test_tasks_that_come_while_a_body_blocks_run_after_it(worker: Worker) -> None:
    worker.dispatch(worker.task("nested"))
    (blocked,) = worker.hear(msg.TaskBlocked)
    worker.dispatch(worker.task("quick"))
    worker.say(ready(*blocked.object_ids), msg.TaskResumed(blocked.request))
    finished = worker.hear(msg.TaskFinished, 2)
    assert [f.results[0].value.data for f in finished] == [b"abcd", b"quick"]


def test_a_signal_handler_that_raises_ends_a_blocking_get(worker: Worker) -> None:
    worker.dispatch(worker.task("raises_from_a_signal"), worker.task("quick"))
    finished = worker.hear(msg.TaskFinished, 2)
    assert finished[0].results[0].value.data == b"alarm"
    assert finished[1].results[0].value.data == b"quick"


def test_a_submission_of_a_long_body_leaves_by_itself(worker: Worker) -> None:
    worker.dispatch(worker.task("submits_and_computes"))
    worker.hear(msg.TaskSubmitted)
    os.kill(worker.pid, signal.SIGKILL)


def test_many_submissions_leave_in_batches(worker: Worker) -> None:
    worker.dispatch(worker.task("submits_many"))
    worker.hear(msg.TaskFinished)
    assert len(worker.hear(msg.TaskSubmitted, 1000)) == 1000
    assert 10 < worker.packets < 500


def test_threads_of_a_task_wait_while_its_own_thread_waits_too(worker: Worker) -> None:
    worker.dispatch(worker.task("gets_in_a_thread"))
    submitted = worker.hear(msg.TaskSubmitted, 4)
    blocked = worker.hear(msg.TaskBlocked)
    assert len(blocked) == 1, "only the executing thread's waiting gives back CPUs"
    worker.hear(msg.ObjectsWanted)
    worker.say(msg.TaskResumed(blocked[0].request))
    worker.say(ready(*[return_id(s.spec.task_id, 1) for s in submitted]))
    assert worker.hear(msg.TaskFinished)[0].results[0].value.data == b"abcd" * 4


def test_names_follow_the_execution_and_its_threads(worker: Worker) -> None:
    run = worker.task("names")
    worker.dispatch(run)
    (finished,) = worker.hear(msg.TaskFinished)
    expected = [IdSequence(run.spec.task_id, 1, lane).next_task() for lane in (0, 1)]
    assert finished.results[0].value.data == b"".join(expected)


def test_output_is_marked_and_leaves_before_the_result(worker: Worker) -> None:
    worker.dispatch(worker.task("prints"))
    worker.hear(msg.TaskFinished)
    marker, end = b"\x1b]sundog;prints\x07", b"\x1b]sundog;\x07"
    assert os.read(worker.out, 10_000) == marker + b"hello\nfrom C\npartial" + end
    assert os.read(worker.err, 10_000) == marker + b"to err\n" + end


def test_a_partial_line_leaves_while_the_body_runs(worker: Worker) -> None:
    worker.dispatch(worker.task("prints_and_computes"))
    assert os.read(worker.out, 10_000).endswith(b"early")
    os.kill(worker.pid, signal.SIGKILL)


def test_last_words_are_not_lost(worker: Worker) -> None:
    worker.dispatch(worker.task("prints_and_dies"))
    assert os.read(worker.out, 10_000).endswith(b"last words\n")


@pytest.mark.parametrize("name", ["draws", "draws_numpy"])
def test_random_streams_differ_without_a_seed_and_follow_the_task_with_one(name: str) -> None:
    pytest.importorskip("numpy") if name == "draws_numpy" else None
    drawn: list[list[bytes]] = []
    runs: list[TaskSpec] = []
    for seeded in (False, False, True, True):
        worker = Worker(by_task_seeds=seeded)
        first, second = worker.task(name), worker.task(name)
        runs = runs or [first.spec, second.spec]
        for run, spec in zip((first, second), runs, strict=True):
            worker.dispatch(msg.RunTask(spec, 1, 1, run.sequence))
        finished = worker.hear(msg.TaskFinished, 2)
        drawn.append([f.results[0].value.data for f in finished])
        worker.close()
    assert len({*drawn[0], *drawn[1], *drawn[2]}) == 6
    assert drawn[2] == drawn[3]


def test_a_child_that_a_task_forks_has_no_session(worker: Worker) -> None:
    worker.dispatch(worker.task("forks"))
    assert worker.hear(msg.TaskFinished)[0].results[0].value.data == b"parent"
    assert b"SessionClosedError\n" in os.read(worker.out, 10_000)


def test_stop_leaves_after_the_pipeline(worker: Worker) -> None:
    worker.dispatch(worker.task("quick"), worker.task("quick"))
    worker.say(msg.StopRequested())
    worker.hear(msg.TaskFinished, 2)
    assert worker.close() == 0


def test_the_end_of_the_link_ends_the_worker(worker: Worker) -> None:
    worker.dispatch(worker.task("quick"))
    worker.hear(msg.TaskFinished)
    assert worker.close() == 0
