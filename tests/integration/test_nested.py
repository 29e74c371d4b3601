"""Tasks that start tasks and wait for them, with fewer workers than there are levels."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import sundog
from tests.support.files import Gate, Notes
from tests.support.inspection import workers
from tests.support.waiting import wait_until


@sundog.remote
def double(x):
    return 2 * x


def test_twenty_levels_with_one_worker(start: Callable[..., Any]):
    start(num_workers=1)

    @sundog.remote
    def level(n):
        return 0 if n == 0 else 1 + sundog.get(level.remote(n - 1))

    assert sundog.get(level.remote(20)) == 20


def test_a_wide_tree_with_one_worker(start: Callable[..., Any]):
    start(num_workers=1)

    @sundog.remote
    def count(depth):
        return 1 if depth == 0 else 1 + sum(sundog.get([count.remote(depth - 1) for _ in range(3)]))

    assert sundog.get(count.remote(4)) == 121


@pytest.mark.real_processes
def test_many_blocked_parents_need_few_workers_and_the_pool_shrinks_again(start: Callable[..., Any]):
    start(num_workers=2)

    @sundog.remote
    def parent(i):
        return sum(sundog.get([double.remote(i) for _ in range(4)]))

    assert sundog.get([parent.remote(i) for i in range(100)]) == [8 * i for i in range(100)]
    assert len(workers()) < 20
    wait_until(lambda: len(workers()) == 2, timeout=20, what="idle workers beyond the number asked for end")


@pytest.mark.one_node
def test_a_blocked_task_gives_its_cpu_away_and_takes_one_again_before_it_goes_on(start: Callable[..., Any]):
    start(num_workers=1)

    @sundog.remote
    def child():
        began = time.monotonic()
        time.sleep(0.03)
        return began, time.monotonic()

    @sundog.remote
    def parent():
        spans = sundog.get([child.remote() for _ in range(3)])
        return spans, time.monotonic()

    spans, resumed = sundog.get(parent.remote())
    for (_, ended), (began, _) in zip(sorted(spans), sorted(spans)[1:], strict=False):
        assert ended <= began, "one CPU: the children run one after another"
    assert max(ended for _, ended in spans) <= resumed


def test_what_a_worker_has_not_started_runs_elsewhere_when_it_blocks(start: Callable[..., Any], gate: Gate):
    start(num_workers=1)

    @sundog.remote(num_cpus=0)
    def when_told():
        gate.wait()
        return "told"

    @sundog.remote
    def blocks():
        return sundog.get(when_told.remote())

    sundog.get([double.remote(i) for i in range(50)])
    blocked = blocks.remote()
    behind = [double.remote(i) for i in range(50)]
    assert sundog.get(behind, timeout=20) == [2 * i for i in range(50)]
    assert sundog.wait([blocked], timeout=0) == ([], [blocked])
    gate.open()
    assert sundog.get(blocked) == "told"


@pytest.mark.usefixtures("session")
def test_tasks_behind_a_long_one_do_not_wait_for_it(gate: Gate):
    @sundog.remote
    def short(i):
        if i == 500:
            gate.wait()
        return i

    sundog.get([short.remote(-1) for _ in range(100)])  # now it is known to be short
    ids = [short.remote(i) for i in range(1000)]
    others = [x for i, x in enumerate(ids) if i != 500]
    assert sundog.get(others, timeout=20) == [i for i in range(1000) if i != 500]
    assert sundog.wait([ids[500]], timeout=0) == ([], [ids[500]])
    gate.open()
    assert sundog.get(ids[500]) == 500


@pytest.mark.usefixtures("session")
def test_submissions_of_a_long_body_run_while_it_computes(gate: Gate):
    @sundog.remote
    def open_the_gate():
        gate.open()

    @sundog.remote
    def long_body():
        kept = open_the_gate.remote()
        gate.wait()  # no call into sundog: what was submitted leaves all the same
        return kept

    assert sundog.get(sundog.get(long_body.remote(), timeout=20)) is None


@pytest.mark.real_processes  # the simulator refuses threads of tasks: nobody could say when, in virtual time, they call
@pytest.mark.usefixtures("session")
def test_threads_of_a_task_may_submit_and_get():
    @sundog.remote
    def threaded():
        found: dict[int, Any] = {}

        def work(i):
            found[i] = sundog.get([double.remote(10 * i + j) for j in range(5)])

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        return [found[i] for i in range(4)]

    assert sundog.get(threaded.remote()) == [[2 * (10 * i + j) for j in range(5)] for i in range(4)]


@pytest.mark.usefixtures("session")
def test_children_whose_parent_is_over_run_on(notes: Notes):
    @sundog.remote
    def grandchild(i):
        notes.write(i)

    @sundog.remote
    def parent():
        for i in range(10):
            grandchild.remote(i)

    sundog.get(parent.remote())
    wait_until(lambda: sorted(map(int, notes.lines())) == list(range(10)))


@pytest.mark.usefixtures("session")
def test_a_returned_id_is_an_id_and_its_object_lives_on():
    @sundog.remote
    def parent():
        return [double.remote(4), double.remote(5)]

    children = sundog.get(parent.remote())
    assert all(isinstance(child, sundog.ObjectID) for child in children)
    assert sundog.get(children) == [8, 10]

    @sundog.remote
    def one_id():
        return double.remote(21)

    assert sundog.get(sundog.get(one_id.remote())) == 42


@pytest.mark.real_processes
@pytest.mark.usefixtures("session")
def test_a_task_is_in_a_worker_and_knows_it_is_in_a_session():
    @sundog.remote
    def where():
        return os.getpid(), sundog.is_initialized()

    pid, initialized = sundog.get(where.remote())
    assert pid != os.getpid()
    assert initialized
