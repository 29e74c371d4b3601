"""Workers, zygote and node die in the middle of work: what can go on goes on, what cannot says so at once."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sundog
from tests.support import leaks
from tests.support.files import Gate, Notes
from tests.support.inspection import store_bytes_used, table, workers
from tests.support.waiting import wait_until

pytestmark = pytest.mark.real_processes
shared = pytest.mark.usefixtures("session")


@sundog.remote
def double(x):
    return 2 * x


def die(how: str) -> None:
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "os._exit":
        os._exit(7)
    elif how == "segfault":
        import faulthandler

        faulthandler.disable()
        ctypes.string_at(0)
    elif how == "abort":
        os.abort()


WAYS = ["SIGKILL", "os._exit", "segfault", "abort"]
SAID = {"SIGKILL": "SIGKILL", "os._exit": "7", "segfault": "SIGSEGV", "abort": "SIGABRT"}


def process_named(name: str) -> int:
    """Return the one process of this test run whose name (comm) is ``name``."""
    found = {
        pid: int(stat.rpartition(")")[2].split()[1])
        for pid in leaks.session_processes(leaks.mark_of_this_run())
        if (stat := Path(f"/proc/{pid}/stat").read_text()).partition("(")[2].rpartition(")")[0] == name
    }
    # What has just been forked bears its parent's name for a moment.
    found = {pid: parent for pid, parent in found.items() if parent not in found}
    assert len(found) == 1, found
    return next(iter(found))


# -- workers ------------------------------------------------------------------------------------------------------------------


@shared
@pytest.mark.parametrize("how", WAYS)
def test_a_task_whose_worker_dies_once_is_run_again_and_gives_its_value(how: str, notes: Notes):
    @sundog.remote
    def dies_once():
        notes.write(os.getpid())
        if len(notes.lines()) == 1:
            die(how)
        return os.getpid()

    pid = sundog.get(dies_once.remote())
    first, second = map(int, notes.lines())
    assert first != second == pid


@shared
@pytest.mark.parametrize("how", WAYS)
def test_a_task_whose_worker_always_dies_fails_with_what_is_known_of_it(how: str, notes: Notes):
    @sundog.remote(max_retries=1)
    def always_dies():
        notes.write(os.getpid())
        print("these were", "the last words")  # noqa: T201
        die(how)

    with pytest.raises(sundog.WorkerCrashedError) as caught:
        sundog.get(always_dies.remote())
    assert isinstance(caught.value, sundog.TaskError)
    assert len(notes.lines()) == 2
    text = str(caught.value)
    for part in ("always_dies", SAID[how], notes.lines()[-1], "these were the last words", "memory"):
        assert part in text, f"{part!r} in:\n{text}"


@shared
@pytest.mark.parametrize("retries", [0, 3])
def test_a_task_is_started_once_and_then_max_retries_times(retries: int, notes: Notes):
    @sundog.remote(max_retries=retries)
    def always_dies():
        notes.write("started")
        os._exit(1)

    with pytest.raises(sundog.WorkerCrashedError):
        sundog.get(always_dies.remote())
    assert len(notes.lines()) == retries + 1


@shared
def test_only_the_task_that_was_running_is_blamed(notes: Notes):
    @sundog.remote(max_retries=0)
    def short(i, deadly):
        notes.write(i)
        if deadly:
            die("SIGKILL")
        return i

    sundog.get([short.remote(-1, False) for _ in range(100)])  # short: many will lie in one pipeline
    ids = [short.remote(i, i == 150) for i in range(300)]
    for i, object_id in enumerate(ids):
        if i == 150:
            with pytest.raises(sundog.WorkerCrashedError):
                sundog.get(object_id)
        else:
            assert sundog.get(object_id) == i
    assert notes.lines().count("150") == 1


@shared
def test_a_task_that_depends_on_one_whose_worker_died_fails_with_the_path():
    @sundog.remote(max_retries=0, name="the victim")
    def dies():
        die("SIGKILL")

    with pytest.raises(sundog.WorkerCrashedError, match="the victim"):
        sundog.get(double.options(name="the dependent").remote(dies.remote()))


@shared
def test_a_worker_killed_from_outside_is_replaced(notes: Notes, gate: Gate):
    @sundog.remote
    def when_told():
        notes.write(os.getpid())
        gate.wait()
        return "done"

    pending = when_told.remote()
    [victim] = wait_until(notes.lines)
    os.kill(int(victim), signal.SIGKILL)
    wait_until(lambda: len(notes.lines()) == 2)
    gate.open()
    assert sundog.get(pending) == "done"
    wait_until(lambda: len(workers()) >= 2 and int(victim) not in workers())


@shared
def test_idle_workers_that_are_killed_are_replaced_and_nobody_is_blamed():
    sundog.get(double.remote(1))
    for pid in wait_until(workers):
        os.kill(pid, signal.SIGKILL)
    assert sundog.get([double.options(max_retries=0).remote(i) for i in range(20)]) == [2 * i for i in range(20)]


@shared
def test_a_dead_parents_children_and_values_are_given_up_and_made_again(notes: Notes):
    @sundog.remote
    def parent():
        attempt = len(notes.lines())
        notes.write("started")
        kept = [sundog.put(np.full(200_000, attempt)), double.remote(attempt)]
        values = sundog.get(kept)
        if attempt == 0:
            die("SIGKILL")
        return int(values[0][0]), values[1], kept

    first, second, kept = sundog.get(parent.remote())
    assert (first, second) == (1, 2)
    assert sundog.get(kept[1]) == 2
    wait_until(lambda: len(table("objects")) <= 3, what="what the first run made is gone")


@shared
def test_a_task_with_racing_threads_is_killed_and_no_value_of_its_first_run_appears(notes: Notes):
    """Which thread submits first, and which child is ready first, differs from run to run: so must the names be."""

    @sundog.remote
    def stamped(attempt, i):
        time.sleep(0.001 * (i % 3))
        return attempt, i

    @sundog.remote
    def racing():
        attempt = len(notes.lines())
        notes.write("started")
        found: list[Any] = []

        def work(thread):
            mine = [stamped.remote(attempt, 10 * thread + i) for i in range(5 + attempt)]
            ready, rest = sundog.wait(mine, num_returns=2)
            mine = [stamped.remote(attempt, sundog.get(x)[1] + 1000) for x in ready] + rest
            found.extend(sundog.get(mine))

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        if attempt < 2:
            while len(found) < 3:
                time.sleep(0.001)
            die("SIGKILL")
        for thread in threads:
            thread.join(20)
        return found

    found = sundog.get(racing.remote())
    assert len(notes.lines()) == 3
    assert {attempt for attempt, _ in found} == {2}
    assert len(found) == 4 * 7


@shared
def test_a_dead_workers_views_and_unsealed_extents_are_freed(notes: Notes):
    @sundog.remote(max_retries=0)
    def dies_with_views(holder):
        view = sundog.get(holder[0])
        made = sundog.put(np.ones(300_000))
        assert view is not None
        assert made is not None
        die("SIGKILL")

    array_id = sundog.put(np.zeros(300_000))
    with pytest.raises(sundog.WorkerCrashedError):
        sundog.get(dies_with_views.remote([array_id]))
    del array_id
    wait_until(lambda: store_bytes_used() == 0)


@shared
def test_children_that_a_task_forked_do_not_disturb_it_and_end_with_their_worker(notes: Notes):
    @sundog.remote
    def forks():
        pid = os.fork()
        if pid == 0:
            time.sleep(30)
            os._exit(0)
        notes.write(pid)
        if len(notes.lines()) == 1:
            die("SIGKILL")
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return pid

    last = sundog.get(forks.remote())
    first, second = map(int, notes.lines())
    assert second == last
    wait_until(lambda: not leaks.is_alive(first), what="the dead worker's child is gone too")


@shared
def test_a_forked_child_of_a_task_is_told_that_it_has_no_session(notes: Notes):
    @sundog.remote
    def forks():
        pid = os.fork()
        if pid == 0:
            try:
                sundog.get(double.remote(1))
            except RuntimeError as error:
                notes.write("init" in str(error))
            os._exit(0)
        os.waitpid(pid, 0)
        return sundog.get(double.remote(2))

    assert sundog.get(forks.remote()) == 4
    assert notes.lines() == ["True"]


@shared
def test_many_kills_at_random_moments_lose_no_task(notes: Notes):
    """Killed are workers that have run something: six in a row that never do are, by design, taken for a broken machine."""
    rng = random.Random(20240607)
    stop = threading.Event()
    killed: dict[int, None] = {}

    @sundog.remote(max_retries=1000)
    def slow_double(x):
        notes.write(os.getpid())
        time.sleep(0.002)
        return 2 * x

    def killer():
        mark = leaks.mark_of_this_run()
        while len(killed) < 60 and not stop.wait(rng.uniform(0.005, 0.03)):
            alive = sorted(pid for pid in map(int, set(notes.lines())) if pid not in killed and leaks.has_mark(pid, mark))
            if alive:
                victim = rng.choice(alive)
                killed[victim] = None
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        first = [slow_double.remote(i) for i in range(300)]
        second = [slow_double.remote(x) for x in first]
        assert sundog.get(second) == [4 * i for i in range(300)]
    finally:
        stop.set()
        thread.join(20)
    assert len(killed) > 5


# -- zygote and node ----------------------------------------------------------------------------------------------------------


def test_when_the_zygote_is_killed_work_goes_on(start: Callable[..., Any], notes: Notes):
    start(num_workers=2)

    @sundog.remote
    def note(i):
        notes.write(i)
        time.sleep(0.001)
        return i

    before = [note.remote(i) for i in range(100)]
    wait_until(lambda: len(notes.lines()) > 10)
    os.kill(process_named("sundog:zygote"), signal.SIGKILL)
    after = [note.remote(i) for i in range(100, 200)]
    assert sundog.get(before + after, timeout=60) == list(range(200))


def test_when_the_node_is_killed_waiting_calls_raise_at_once_and_a_new_session_can_start(
    start: Callable[..., Any], gate: Gate, backend: str
):
    start(num_workers=2)

    @sundog.remote
    def when_told():
        gate.wait()

    pending = when_told.remote()
    raised: list[BaseException] = []

    def waits(call: Callable[[], Any]) -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    calls: list[Callable[[], Any]] = [
        lambda: sundog.get(pending), lambda: sundog.wait([pending]), lambda: pending.future().result(30),
    ]  # fmt: skip
    threads = [threading.Thread(target=waits, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    wait_until(lambda: table("tasks"))
    os.kill(process_named("sundog:node"), signal.SIGKILL)
    for thread in threads:
        thread.join(10)
    assert len(raised) == 3
    for error in raised:
        assert isinstance(error, (sundog.NodeDiedError, sundog.SessionClosedError))
        assert "node" in str(error)
        assert "init" in str(error)
    for call in (lambda: sundog.put(1), lambda: sundog.get(double.remote(1)), lambda: sundog.wait([pending])):
        with pytest.raises(sundog.SessionClosedError, match="init"):
            call()
    sundog.shutdown()
    with start(num_workers=1):
        assert sundog.get(double.remote(21)) == 42
