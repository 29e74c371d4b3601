"""A real node with a real zygote and workers, between stand-ins: starts, deaths of every kind, and nothing left behind."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sundog.backends.local_processes import process
from sundog.backends.local_processes.channel import Channel
from sundog.backends.local_processes.launch import Node, launch
from sundog.core.config import Config
from sundog.core.machine import Fact
from sundog.core.messages import OutputWritten, SessionEnded, SessionEnding, TaskSubmitted, WarningRaised
from tests.support.stand_ins import spec

TIMEOUT = 20.0
STAND_INS = {"host": "tests.support.stand_ins:PassingHost", "worker": "tests.support.stand_ins:worker"}


def until(condition: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < limit, f"still not so: {what}"
        select.select([], [], [], 0.002)


class Session:
    def __init__(self, config: Config) -> None:
        self.node: Node = launch(config, extra=STAND_INS)
        self.channel = Channel(self.node.sock, config)
        self.heard: list[Fact] = []
        self.ended = False

    def order(self, name: str) -> None:
        self.channel.append(TaskSubmitted(spec(name)))
        assert self.channel.flush()

    def pump(self, timeout: float) -> None:
        ready, _, _ = select.select([self.channel], [], [], timeout)
        if ready:
            received = self.channel.receive()
            if received is None:
                self.ended = True
            else:
                self.heard += received
                self.channel.flush()

    def warned(self, pattern: str, count: int = 1) -> list[str]:
        """Wait until ``count`` warnings match; return them and forget all heard so far."""
        limit = time.monotonic() + TIMEOUT
        while True:
            texts = [fact.text for fact in self.heard if isinstance(fact, WarningRaised)]
            found = [text for text in texts if re.search(pattern, text)]
            if len(found) >= count:
                return found
            assert time.monotonic() < limit, f"no {pattern!r} in {self.heard}"
            assert not self.ended, f"ended without {pattern!r}: {self.heard}"
            self.pump(0.1)

    def printed(self) -> str:
        """Wait for output; return the first text of it and forget it."""
        limit = time.monotonic() + TIMEOUT
        while True:
            for fact in self.heard:
                if isinstance(fact, OutputWritten):
                    self.heard.remove(fact)
                    return fact.text
            assert time.monotonic() < limit, "nothing printed"
            self.pump(0.1)

    def started(self, count: int) -> dict[int, int]:
        found = self.warned("WorkerStarted", count)
        return {int(w): int(p) for text in found for w, p in re.findall(r"worker=(\d+), pid=(\d+)", text)}

    def close(self) -> int:
        self.channel.append(SessionEnding())
        self.channel.flush()
        while not self.ended:
            self.pump(TIMEOUT)
        assert isinstance(self.heard[-1], SessionEnded)
        return self.node.process.wait(TIMEOUT)

    def no_trace(self) -> None:
        until(lambda: not process.session_processes(self.node.session), "no process carries the session mark")

    def destroy(self) -> None:
        self.channel.close()
        self.node.arena.close()
        os.close(self.node.progress)
        self.node.process.wait(TIMEOUT)
        self.no_trace()


@pytest.fixture
def session() -> Iterator[Session]:
    made = Session(Config(worker_count=2, arena_bytes=1 << 20))
    yield made
    made.destroy()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_work_goes_through_and_a_clean_end_leaves_nothing(session: Session) -> None:
    pids = session.started(2)
    assert sorted(pids) == [2, 3]
    session.order("2:echo")
    session.order("3:echo")
    session.warned("finished 2:1")
    session.warned("finished 3:1")
    assert session.close() == 0
    session.no_trace()


def test_a_worker_leads_its_group_and_inherits_nothing_else(session: Session) -> None:
    pids = session.started(2)
    session.order("2:identity")
    pid, group, parent, directory = session.printed().split()
    assert int(pid) == int(group) == pids[2]
    assert directory == os.getcwd()
    assert int(parent) != session.node.process.pid
    session.order("2:descriptors")
    descriptors = session.printed().strip().split(",")
    # 0, 1, 2, link, tokens, arena, progress, the copy that its mapping keeps, and the one with which the folder is listed.
    assert len(descriptors) == 9


@pytest.mark.parametrize(("order", "status"), [("exit=7", 7), ("kill", -9)])
def test_a_dead_worker_is_reported_after_what_it_printed(session: Session, order: str, status: int) -> None:
    session.started(2)
    session.order("2:echo")
    session.order("2:print=last words")
    session.order(f"2:{order}")
    (lost,) = session.warned("WorkerLost")
    assert f"status={status}," in lost
    assert "worker=2, started=3, finished=2" in lost
    assert "output='last words'" in lost
    kinds = [type(fact).__name__ for fact in session.heard]
    assert kinds.index("OutputWritten") < max(i for i, f in enumerate(session.heard) if "WorkerLost" in repr(f))
    session.order("9:!start")
    assert session.warned("WorkerStarted.*worker=9")


def test_kill_takes_the_group_along(session: Session) -> None:
    pids = session.started(2)
    session.order("2:child")
    child = int(session.printed())
    assert alive(child)
    session.order("2:!kill")
    (lost,) = session.warned("WorkerLost")
    assert "status=-9" in lost
    until(lambda: not alive(child), "the worker's own child is dead")
    assert not Path(f"/proc/{pids[2]}").exists()


def test_a_child_that_left_the_group_dies_with_the_session(session: Session) -> None:
    session.started(2)
    session.order("2:daemon=0")
    child = int(session.printed())
    session.warned("WorkerLost")
    assert alive(child)
    session.close()
    assert not alive(child)


def test_tokens_are_taken_back(session: Session) -> None:
    session.started(2)
    session.order("2:sleep")
    session.order("2:echo")
    session.order("2:echo")
    session.order("2:!reclaim")
    (first,) = session.warned("TasksReclaimed")
    # Two for sure; the third if the worker had not claimed the sleep yet.
    assert re.search(r"count=[23]\)", first)


def test_the_zygote_dies_and_is_replaced(session: Session) -> None:
    pids = session.started(2)
    session.order("2:identity")
    zygote = int(session.printed().split()[2])
    os.kill(zygote, signal.SIGKILL)
    session.warned("WorkerLost", 2)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids.values())
    session.order("7:!start")
    session.warned("WorkerStarted.*worker=7")
    session.order("7:echo")
    session.warned("finished 7:1")
    assert session.close() == 0


def test_a_request_that_the_dead_zygote_had_not_answered_is_made_again(session: Session) -> None:
    session.started(2)
    session.order("2:identity")
    zygote = int(session.printed().split()[2])
    os.kill(zygote, signal.SIGSTOP)
    session.order("7:!start")
    session.order("3:echo")
    session.warned("finished 3:1")
    os.kill(zygote, signal.SIGKILL)
    session.warned("WorkerStarted.*worker=7")


def test_the_node_dies_and_takes_everybody_along(session: Session) -> None:
    session.started(2)
    session.order("2:daemon")
    child = int(session.printed())
    os.kill(session.node.process.pid, signal.SIGKILL)
    session.node.process.wait(TIMEOUT)
    session.no_trace()
    until(lambda: not alive(child), "the child has ended")


def test_a_failing_host_ends_the_session_with_its_story(capfd: pytest.CaptureFixture[str]) -> None:
    session = Session(Config(worker_count=1, arena_bytes=1 << 20))
    session.started(1)
    session.order("2:!fail")
    while not session.ended:
        session.pump(TIMEOUT)
    assert session.node.process.wait(TIMEOUT) == 1
    session.destroy()
    assert "told to fail" in capfd.readouterr().err


def test_the_end_of_the_link_ends_the_session(session: Session) -> None:
    session.started(2)
    session.channel.close()
    assert session.node.process.wait(TIMEOUT) == 0
    session.no_trace()


_DRIVER = """
import os, sys, json
sys.path[:] = json.loads(sys.argv[1])
from tests.backends.test_zygote import Session
from sundog.core.config import Config
session = Session(Config(worker_count=2, arena_bytes=1 << 20))
session.started(2)
if len(sys.argv) > 2 and os.fork() == 0:
    os.close(1)
    import signal; signal.pause()  # a child that keeps the driver's end of the link open
print(session.node.session, flush=True)
import signal; signal.pause()
"""


@pytest.mark.parametrize("forks", [False, True])
def test_a_killed_driver_leaves_nothing(forks: bool) -> None:
    import json

    command = [sys.executable, "-c", _DRIVER, json.dumps(sys.path), *(["fork"] if forks else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as driver:
        assert driver.stdout is not None
        mark = driver.stdout.readline().decode().strip()
        assert len(process.session_processes(mark)) == 4  # node, zygote, two workers
        driver.kill()
        driver.wait(TIMEOUT)
        until(lambda: not process.session_processes(mark), "no process carries the session mark")
        if forks:
            os.killpg(driver.pid, signal.SIGKILL)


def test_a_limit_of_descriptors_is_named() -> None:
    code = (
        "import resource, sys, json; sys.path[:] = json.loads(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))\n"
        "from tests.backends.test_zygote import Session; from sundog.core.config import Config\n"
        "session = Session(Config(worker_count=8, arena_bytes=1 << 20))\n"
        "print(session.warned('WorkerStartFailed')[0]); session.close(); session.destroy()\n"
    )
    import json

    done = subprocess.run([sys.executable, "-c", code, json.dumps(sys.path)], capture_output=True, text=True, timeout=60)
    assert "ulimit -n" in done.stdout, done.stderr
