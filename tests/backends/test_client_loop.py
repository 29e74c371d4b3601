"""The driver's loop over a real socket pair, against a node that the test writes the lines for."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from sundog.backends.exceptions import NodeDiedError, SessionClosedError
from sundog.backends.grants import Answer
from sundog.backends.local_processes import client_loop
from sundog.backends.local_processes.channel import Channel, socket_pair
from sundog.backends.local_processes.client_loop import DriverPort
from sundog.core import messages as msg
from sundog.core.actions import RejectRequest, ResolveGet, ResolveQuestion, ResolveWait
from sundog.core.config import Config
from sundog.core.events import Asked, GetRequested, ReferenceDropped, WaitRequested
from sundog.core.ids import FunctionID, IdSequence, ObjectID, return_id, root_task_id
from sundog.core.lots import singly
from sundog.core.machine import Fact
from sundog.core.task import FailureKind, TaskSpec, Value

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
BOUND = 10.0
ROOT = root_task_id(b"test")


class ScriptedNode:
    """The other end of the link. ``answer`` is called with each message and returns what to say."""

    def __init__(self, link: socket.socket, config: Config) -> None:
        self.channel = Channel(link, config)
        self.link = link
        self.heard: list[Fact] = []
        self.packets = 0
        self.answer: Callable[[Fact], list[Fact]] = lambda _: []
        self.process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, process_group=0)
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        while True:
            select.select([self.link], [], [])
            messages = self.channel.receive()
            if messages is None:
                break
            self.packets += 1
            replies: list[Fact] = []
            for message in messages:
                replies += self.answer(message)
                if isinstance(message, msg.SessionEnding):
                    replies.append(msg.SessionEnded())
            with self.changed:
                self.heard += [one for message in messages for one in singly(message)]
                self.changed.notify_all()
            self.say(*replies)
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.channel.close()

    def say(self, *messages: Fact) -> None:
        self.channel.queue(messages)
        self.channel.flush()

    def of(self, kind: type) -> list[Fact]:
        return [message for message in self.heard if isinstance(message, kind)]

    def wait_for(self, kind: type, count: int = 1) -> list[Fact]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.of(kind)) >= count, BOUND), (kind, self.heard)
        return self.of(kind)


class Driver(SimpleNamespace):
    port: DriverPort
    node: ScriptedNode


@pytest.fixture
def driver() -> Iterator[Driver]:
    config = Config()
    ours, theirs = socket_pair()
    node = ScriptedNode(theirs, config)
    arena = SimpleNamespace(close=lambda: None)
    port = DriverPort(config, ours, arena, node.process, "0" * 32, ROOT)
    yield Driver(port=port, node=node)
    port.close()
    node.thread.join(BOUND)
    assert not node.thread.is_alive()
    assert node.process.returncode is not None
    assert "sundog-client" not in [thread.name for thread in threading.enumerate()]


def spec(ids: IdSequence, size: int = 8) -> TaskSpec:
    return TaskSpec(task_id=ids.next_task(), function_id=FunctionID(b"f" * 16), name="f", arguments=Value(size, data=b"x" * size))


def deliver(message: Fact) -> list[Fact]:
    if isinstance(message, msg.ObjectsWanted):
        value = Value(3, data=b"abc") if message.deliver else None
        return [msg.ObjectsReady(tuple([msg.ReadyObject(o, value) for o in message.object_ids]))]
    return []


def submit(port: DriverPort, size: int = 8) -> ObjectID:
    task = spec(port.lane(), size)
    port.facts.append(msg.TaskSubmitted(task))
    port.submitted(size)
    return return_id(task.task_id, 1)


def test_submit_and_get(driver: Driver) -> None:
    driver.node.answer = deliver
    port = driver.port
    object_id = submit(port)
    answer = port.ask(GetRequested(port.next_request(), (object_id,)))
    assert isinstance(answer, ResolveGet)
    assert answer.values[0].data == b"abc"
    assert driver.node.of(msg.TaskSubmitted)


def test_a_lone_submission_travels_although_nobody_asks(driver: Driver) -> None:
    submit(driver.port)
    deadline = time.monotonic() + BOUND
    while not driver.node.of(msg.TaskSubmitted) and time.monotonic() < deadline:
        sum(range(1000))  # a driver that computes and never blocks
    assert driver.node.of(msg.TaskSubmitted)


def test_what_is_asked_for_at_once_travels_with_the_question(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_loop, "PAUSE", -1)  # as if every submission came after one
    driver.node.answer = deliver
    port = driver.port
    for _ in range(100):
        port.ask(GetRequested(port.next_request(), (submit(port),)))
    driver.node.wait_for(msg.ObjectsWanted, 100)
    assert driver.node.packets < 150, "not one for the submission and one for the question"
    submit(port)
    deadline = time.monotonic() + BOUND
    while len(driver.node.of(msg.TaskSubmitted)) < 101 and time.monotonic() < deadline:
        sum(range(1000))  # now it does not ask
    assert len(driver.node.of(msg.TaskSubmitted)) == 101


def test_a_tight_loop_hands_over_a_packet_every_sixty_four_tasks_or_so(driver: Driver) -> None:
    port = driver.port
    longest = 0
    for _ in range(10_000):
        submit(port)
        longest = max(longest, len(port.facts))
    driver.node.wait_for(msg.TaskSubmitted, 10_000)
    assert 20 < driver.node.packets < 2_000
    assert longest <= 1_000


def test_many_bytes_do_not_wait_for_many_tasks(driver: Driver) -> None:
    port = driver.port
    submit(port)
    for _ in range(8):
        submit(port, 40_000)
    assert len(port.facts) <= 1


def test_a_dropped_reference_travels_although_nothing_rings(driver: Driver) -> None:
    port = driver.port
    object_id = submit(port)
    driver.node.wait_for(msg.TaskSubmitted)
    port.facts.append(ReferenceDropped(object_id))
    assert driver.node.wait_for(msg.HoldsReleased) == [msg.HoldsReleased((object_id,))]


def test_wait_and_questions(driver: Driver) -> None:
    def answer(message: Fact) -> list[Fact]:
        if isinstance(message, msg.TableRequested):
            return [msg.TableGiven(message.request, b"rows")]
        return deliver(message)

    driver.node.answer = answer
    port = driver.port
    object_id = submit(port)
    ready = port.ask(WaitRequested(port.next_request(), (object_id,), 1))
    assert isinstance(ready, ResolveWait)
    assert ready.ready == (object_id,)
    request = port.next_request()
    table = port.ask(Asked(request, msg.TableRequested(request, "objects")))
    assert isinstance(table, ResolveQuestion)
    assert table.answer == msg.TableGiven(request, b"rows")


def test_a_get_that_times_out_is_rejected_in_time(driver: Driver) -> None:
    driver.node.answer = lambda m: [msg.ExplanationGiven(m.request, "why")] if isinstance(m, msg.ExplanationRequested) else []
    port = driver.port
    began = time.monotonic()
    answer = port.ask(GetRequested(port.next_request(), (submit(port),), deadline=time.monotonic_ns() + 50_000_000))
    assert isinstance(answer, RejectRequest)
    assert answer.failure.kind is FailureKind.TIMEOUT
    assert 0.05 <= time.monotonic() - began < 1.0


def test_begin_answers_on_the_client_thread(driver: Driver) -> None:
    driver.node.answer = deliver
    port = driver.port
    answers: list[tuple[Answer, str]] = []
    there = threading.Event()

    def done(answer: Answer) -> None:
        answers.append((answer, threading.current_thread().name))
        there.set()

    port.begin(GetRequested(port.next_request(), (submit(port),)), done)
    assert there.wait(BOUND)
    assert isinstance(answers[0][0], ResolveGet)
    assert answers[0][1] == "sundog-client"


def test_what_was_begun_is_rejected_when_the_session_ends(driver: Driver) -> None:
    port = driver.port
    rejected: list[Answer] = []
    port.begin(GetRequested(port.next_request(), (submit(port),)), rejected.append)
    port.close()
    assert isinstance(rejected[0], RejectRequest)
    assert rejected[0].failure.kind is FailureKind.SESSION_CLOSED


def test_many_threads_ask_at_once(driver: Driver) -> None:
    driver.node.answer = deliver
    port = driver.port
    done: list[int] = []

    def work() -> None:
        for _ in range(200):
            assert isinstance(port.ask(GetRequested(port.next_request(), (submit(port),))), ResolveGet)
        done.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND * 3)
    assert len(done) == 4
    assert not port._pump.waiters


def test_each_thread_has_its_own_names(driver: Driver) -> None:
    port = driver.port
    assert port.lane().next_task() == IdSequence(ROOT, 1, 0).next_task()
    found = []
    thread = threading.Thread(target=lambda: found.append(port.lane().next_task()))
    thread.start()
    thread.join()
    assert found == [IdSequence(ROOT, 1, 1).next_task()]


def test_submissions_wait_while_paused(driver: Driver, capsys: pytest.CaptureFixture[str]) -> None:
    port, node = driver.port, driver.node
    node.say(msg.SubmissionsPaused(True))
    while not port._pump.paused:
        submit(port)
    passed = threading.Event()

    def go() -> None:
        submit(port)
        passed.set()

    thread = threading.Thread(target=go)
    thread.start()
    assert not passed.wait(0.05)
    node.say(msg.SubmissionsPaused(False))
    assert passed.wait(BOUND)
    thread.join()
    assert capsys.readouterr().err.count("waits until there are fewer") == 1


def test_output_is_shown_before_the_result_behind_it(driver: Driver, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(message: Fact) -> list[Fact]:
        if isinstance(message, msg.ObjectsWanted):
            shown = msg.OutputWritten(123, "f", 1, "one\ntwo\n")
            return [shown, msg.OutputWritten(123, "f", 2, "err\n", dropped=7), msg.WarningRaised("mind"), *deliver(message)]
        return []

    driver.node.answer = answer
    port = driver.port
    port.ask(GetRequested(port.next_request(), (submit(port),)))
    shown = capsys.readouterr()
    assert shown.out == "(f pid=123) one\n(f pid=123) two\n"
    assert "(f pid=123) err\n" in shown.err
    assert "7 bytes of output were dropped" in shown.err
    assert "sundog: mind\n" in shown.err


def test_a_dead_node_ends_every_wait_at_once(driver: Driver) -> None:
    port, node = driver.port, driver.node

    def kill() -> None:
        node.process.kill()
        node.link.shutdown(socket.SHUT_RDWR)

    killer = threading.Timer(0.05, kill)
    killer.start()
    with pytest.raises(NodeDiedError, match="killed by SIGKILL"):
        port.ask(GetRequested(port.next_request(), (submit(port),)))
    with pytest.raises(NodeDiedError):
        submit(port)
    with pytest.raises(NodeDiedError):
        port.begin(GetRequested(port.next_request(), ()), lambda _: None)
    killer.join()


def test_a_dead_node_is_noticed_although_its_link_is_held_open(driver: Driver) -> None:
    driver.node.process.kill()
    with pytest.raises(NodeDiedError, match="killed by SIGKILL"):
        driver.port.ask(GetRequested(driver.port.next_request(), (submit(driver.port),)))


def test_close_waits_for_last_words_and_refuses_afterwards(driver: Driver, capsys: pytest.CaptureFixture[str]) -> None:
    driver.node.answer = lambda m: [msg.WarningRaised("last words")] if isinstance(m, msg.SessionEnding) else []
    driver.port.close()
    driver.port.close()
    assert "last words" in capsys.readouterr().err
    with pytest.raises(SessionClosedError, match="init"):
        driver.port.ask(GetRequested(1, ()))
    with pytest.raises(SessionClosedError, match="init"):
        submit(driver.port)
    driver.port.kick()


def test_a_forked_child_has_no_session_and_leaves_the_parents_alone(driver: Driver) -> None:
    driver.node.answer = deliver
    port = driver.port
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            try:
                port.ask(GetRequested(port.next_request(), ()))
            except SessionClosedError as error:
                status = 0 if "init()" in str(error) else 2
            port.facts.append(b"x" * 20)
            port.close()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert isinstance(port.ask(GetRequested(port.next_request(), (submit(port),))), ResolveGet)


def test_an_interrupt_ends_a_get_within_a_tenth_of_a_second(driver: Driver) -> None:
    port = driver.port
    sent: list[float] = []

    def interrupt() -> None:
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.05, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        port.ask(GetRequested(port.next_request(), (submit(port),)))
    assert time.monotonic() - sent[0] < 0.1
    timer.join()


SIGINTS = """
import os, random, signal, sys, threading, time
sys.path[:0] = PATH
from sundog.backends.grants import Granted
from tests.backends.test_client_loop import *

config = Config()
ours, theirs = socket_pair()
node = ScriptedNode(theirs, config)
node.answer = lambda m: (
    [msg.ObjectsReady(tuple([msg.ReadyObject(o, Value(64, offset=64)) for o in m.object_ids]))]
    if isinstance(m, msg.ObjectsWanted) else [])
port = DriverPort(config, ours, SimpleNamespace(close=lambda: None), node.process, "0" * 32, ROOT)
stop = False
def interrupt():
    rng = random.Random(1)
    for _ in range(2000):
        time.sleep(rng.random() * 0.002)
        os.kill(os.getpid(), signal.SIGINT)
    global stop
    stop = True
thread = threading.Thread(target=interrupt)
taken = interrupts = 0
thread.start()
while not stop:
    try:
        while not stop:
            object_id = submit(port)
            answer = port.ask(GetRequested(port.next_request(), (object_id,)))
            taken += 1
    except KeyboardInterrupt:
        interrupts += 1
while True:
    try:
        thread.join()
        break
    except KeyboardInterrupt:
        pass
object_id = submit(port)
answer = None
assert isinstance(port.ask(GetRequested(port.next_request(), (object_id,))), Granted)
port.kick()
deadline = time.monotonic() + 10
def count(kind):
    return sum([len(m.object_ids) for m in list(node.heard) if isinstance(m, kind)])
lost = lambda: count(msg.ObjectsWanted) - count(msg.PinsReturned)
while (port.facts or lost() > 0) and time.monotonic() < deadline:
    time.sleep(0.01)
print(interrupts, taken, lost(), len(port._pump.waiters), len(port._pump.client.requests))
port.close()
node.thread.join()
"""


def test_two_thousand_interrupts_leave_the_loop_usable_and_return_every_grant() -> None:
    path = [os.getcwd(), *sys.path]
    script = SIGINTS.replace("PATH", repr(path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    interrupts, taken, lost, waiters, requests = map(int, done.stdout.split()[-5:])
    assert interrupts > 500
    assert taken > 100
    assert not lost
    assert waiters <= 5
    assert requests <= 5
