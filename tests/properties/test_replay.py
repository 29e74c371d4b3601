"""A recording replays byte for byte, in a fresh process, under another hash seed; a planted clock is caught."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sundog.backends import recorder as recording
from sundog.backends.payloads import Payloads
from sundog.backends.recorder import Recorder, RecordingError, replay
from sundog.core import events as ev
from sundog.core import messages as msg
from sundog.core.actions import Dispatch, KillWorker, ReclaimTasks, Send, StartWorker
from sundog.core.config import Config
from sundog.core.host import Host
from sundog.core.ids import (
    DRIVER,
    LOOP,
    IdSequence,
    NodeID,
    ObjectID,
    ProcessID,
    TaskID,
    address,
    return_ids,
    root_task_id,
)
from sundog.core.machine import Action, Event, Machine
from sundog.core.resources import ONE_CPU, UNIT, shape
from sundog.core.task import TaskSpec, Value
from sundog.core.units import MICROSECOND

ROOT = Path(__file__).parents[2]
NODE = NodeID(0)
DRIVER_HERE = address(NODE, DRIVER)
#: More than one node, so that the placement policy has something to draw.
OTHERS = range(1, 9)


class SeededLoop:
    """Drives a host through a random but legal life: submits, puts, wants, releases, finishes, crashes, prints."""

    def __init__(self, host: Any, seed: int) -> None:
        self.host = host
        self.rng = random.Random(seed)
        self.now = 0
        self.inbox: list[Event] = [
            (address(NodeID(n), ProcessID(0)), msg.NodeJoined(NodeID(n), shape({"CPU": 1, "rare": 1}))) for n in OTHERS
        ]
        self.ids = IdSequence(root_task_id(b"replay"), 1, 0)
        self.function = self.ids.next_function()
        code = Value(4, data=b"code")
        self.inbox.append((DRIVER_HERE, msg.FunctionExported(self.function, "f", code)))
        self.held: list[ObjectID] = []
        #: worker -> what lies in its pipeline.
        self.pipelines: dict[ProcessID, list[msg.RunTask]] = {}

    def live(self, turns: int) -> None:
        for _ in range(turns):
            for _ in range(self.rng.randrange(4)):
                self.driver()
            for worker in list(self.pipelines):
                self.worker(worker)
            self.turn()

    def turn(self) -> None:
        self.now += self.rng.randrange(1, 3000) * MICROSECOND
        inbox, self.inbox = self.inbox, []
        for action in self.host.step(self.now, inbox):
            self.perform(action)

    def driver(self) -> None:
        draw = self.rng.randrange(10)
        if draw < 5:
            known = tuple(self.rng.sample(self.held, min(len(self.held), self.rng.randrange(3))))
            data = self.rng.randbytes(self.rng.randrange(40))
            rare = self.rng.randrange(12) == 0
            spec = TaskSpec(
                self.ids.next_task(), self.function, "f", Value(len(data), data=data), known,
                return_count=self.rng.randrange(1, 3), resources=((("rare", UNIT),) if rare else ONE_CPU),
            )  # fmt: skip
            self.held += return_ids(spec.task_id, spec.return_count)
            self.say(msg.TaskSubmitted(spec))
        elif draw < 7:
            put = self.ids.next_put()
            inside = (self.rng.choice(self.held),) if self.held else ()
            self.held.append(put)
            self.say(msg.ObjectPut(put, Value(5, data=b"12345"), inside))
        elif draw < 8 and self.held:
            self.say(msg.ObjectsWanted(tuple(self.rng.sample(self.held, min(3, len(self.held)))), True))
        elif draw < 9 and self.held:
            self.say(msg.HoldsReleased((self.held.pop(self.rng.randrange(len(self.held))),)))
        else:
            self.say(msg.TableRequested(1, self.rng.choice(["tasks", "objects", "nodes"])))

    def say(self, message: Any) -> None:
        self.inbox.append((DRIVER_HERE, message))

    def worker(self, worker: ProcessID) -> None:
        pipeline = self.pipelines[worker]
        where = address(NODE, worker)
        draw = self.rng.randrange(40)
        if draw == 0:
            del self.pipelines[worker]
            started = pipeline[0].sequence if pipeline else 0
            self.inbox.append((LOOP, ev.WorkerLost(worker, started, max(0, started - 1), -9)))
        elif draw < 5:
            self.inbox.append((LOOP, ev.OutputRead(worker, 1, "f", "a line\n")))
        elif pipeline and draw < 25:
            run = pipeline.pop(0)
            data = self.rng.randbytes(9)
            results = tuple([msg.Result(Value(9, data=data)) for _ in range(run.spec.return_count)])
            finished = msg.TaskFinished(run.spec.task_id, run.attempt, results, self.rng.randrange(1, 500) * MICROSECOND)
            self.inbox.append((where, finished))

    def perform(self, action: Action) -> None:
        match action:
            case StartWorker(worker):
                self.pipelines[worker] = []
                self.inbox.append((LOOP, ev.WorkerStarted(worker, 1000 + worker)))
            case Dispatch(worker, tasks) if worker in self.pipelines:
                self.pipelines[worker] += tasks
            case ReclaimTasks(worker, count) if worker in self.pipelines:
                pipeline = self.pipelines[worker]
                taken = min(count, max(0, len(pipeline) - 1))
                if taken:
                    del pipeline[-taken:]
                self.inbox.append((LOOP, ev.TasksReclaimed(worker, taken)))
            case KillWorker(worker) if self.pipelines.pop(worker, None) is not None:
                self.inbox.append((LOOP, ev.WorkerLost(worker, 0, 0, -9)))
            case Send(to, msg.TasksForgotten(_, sequence)):
                self.inbox.append((to, msg.TasksDropped(sequence)))
            case _:
                pass


class ClockRng:
    """The planted clock: draws from the time of day."""

    def randrange(self, stop: int, /) -> int:
        return time.monotonic_ns() // 10 % stop


def config(**changes: Any) -> Config:
    return msgspec.structs.replace(Config(), placement_policy="random", **changes)


def record(path: Path, seed: int, rng: Any = None, turns: int = 300) -> SeededLoop:
    """Record a life of a host. Its placement draws from ``seed``, unless ``rng`` is planted."""
    settings = config()
    writer = Recorder(path, settings, seed=seed)
    host = Host(settings, NODE, rng=rng or random.Random(seed))
    loop = SeededLoop(writer.wrap(host), seed)
    loop.live(turns)
    writer.close()
    return loop


def command(*arguments: str, hash_seed: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "sundog.backends.recorder", *arguments]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("seed", range(5))
def test_a_recording_replays_in_this_process(tmp_path: Path, seed: int) -> None:
    record(tmp_path / "life", seed)
    report = replay(tmp_path / "life", check=True)
    assert report.divergence is None, str(report)
    assert report.turns == 300
    assert report.actions > 200
    assert report.same_core
    assert not report.truncated


def test_a_recording_replays_in_a_fresh_process_under_another_hash_seed(tmp_path: Path) -> None:
    record(tmp_path / "life", 7)
    for hash_seed in ("1", "2718281828"):
        done = command("replay", str(tmp_path / "life"), hash_seed=hash_seed)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "replayed byte for byte" in done.stdout


def test_a_planted_clock_read_is_caught(tmp_path: Path) -> None:
    record(tmp_path / "life", 7, ClockRng())
    done = command("replay", str(tmp_path / "life"), hash_seed="1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "DIVERGED in turn" in done.stdout
    assert "expected Send(" in done.stdout
    assert "TaskAssigned" in done.stdout or "FunctionExported" in done.stdout, "it goes before the first task for a node"


def test_no_payload_is_written_and_the_file_is_private(tmp_path: Path) -> None:
    (tmp_path / "life").write_bytes(b"what was there before")
    (tmp_path / "life").chmod(0o644)
    record(tmp_path / "life", 3, turns=50)
    content = (tmp_path / "life").read_bytes()
    assert b"code" not in content
    assert b"12345" not in content
    assert (tmp_path / "life").stat().st_mode & 0o777 == 0o600


def test_a_story_tells_all_that_was_said_of_a_task(tmp_path: Path) -> None:
    record(tmp_path / "life", 7, turns=60)
    ids = IdSequence(root_task_id(b"replay"), 1, 0)
    ids.next_task()
    second = ids.next_task()
    done = command("story", str(tmp_path / "life"), second.hex(), hash_seed="0")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "<- 0.1 TaskSubmitted(spec=TaskSpec(task_id=" + second.hex() in lines[0]
    assert any("-> Dispatch(" in line for line in lines)
    assert any("TaskFinished(" in line for line in lines)


def test_a_recording_cut_off_is_read_up_to_there(tmp_path: Path) -> None:
    record(tmp_path / "life", 7, turns=50)
    content = (tmp_path / "life").read_bytes()
    (tmp_path / "cut").write_bytes(content[:-3])
    report = replay(tmp_path / "cut")
    assert report.truncated
    assert report.turns == 49
    assert report.divergence is None


def test_what_is_no_recording_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "other").write_bytes(b"\0\0\0\3abc")
    for name in ("empty", "other"):
        with pytest.raises(RecordingError, match=f"{name} is not a recording"):
            replay(tmp_path / name)
    assert command("replay", str(tmp_path / "missing"), hash_seed="0").returncode == 2
    assert command("what", hash_seed="0").returncode == 2


class Failing:
    """A machine that raises at its second step."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.steps = 0

    def step(self, now: int, events: Any) -> list[Action]:
        self.steps += 1
        if self.steps == 2:
            raise ValueError(self.word)
        return []

    def next_deadline(self) -> None:
        return None

    def check_invariants(self) -> None:
        pass


def test_an_error_is_recorded_and_expected_again(tmp_path: Path) -> None:
    writer = Recorder(tmp_path / "bad", Config())
    machine: Machine[Any] = writer.wrap(Failing("boom"))
    machine.step(1, [])
    with pytest.raises(ValueError, match="boom"):
        machine.step(2, [(LOOP, ev.WorkerStarted(ProcessID(2), 5))])
    again = replay(tmp_path / "bad", lambda header: Failing("boom"))
    assert again.divergence is None
    other = replay(tmp_path / "bad", lambda header: Failing("bang"))
    assert other.divergence is not None
    assert "expected ValueError: boom" in str(other.divergence)
    assert "loop WorkerStarted(worker=2, pid=5)" in str(other.divergence)
    writer.close()


def test_payloads_are_found_wherever_they_lie() -> None:
    payloads = Payloads()
    value = Value(9, data=b"secret123")
    spec = TaskSpec(TaskID(bytes(16)), IdSequence(TaskID(bytes(16)), 1, 0).next_function(), "f", value)
    run = msg.RunTask(spec, 0, 1, 1, (None, value))
    for holder in (
        msg.TaskSubmitted(spec),
        Send(DRIVER_HERE, msg.ObjectsReady((msg.ReadyObject(ObjectID(bytes(20)), value),))),
        Dispatch(ProcessID(2), (run,), 0),
        msg.TaskFinished(TaskID(bytes(16)), 0, (msg.Result(value),), 1),
        msg.TableGiven(1, b"secret123"),
        Send(DRIVER_HERE, msg.TableGiven(1, b"secret123")),
    ):
        stripped = payloads.strip(holder)
        assert b"secret123" not in msgspec.msgpack.encode(stripped)
        payloads.learn(stripped)
        assert payloads.strip(stripped) is stripped or payloads.strip(stripped) == stripped
    untouched = msg.HoldsTaken((ObjectID(bytes(20)),))
    assert payloads.strip(untouched) is untouched
    assert recording.core_digest() == recording.core_digest()
