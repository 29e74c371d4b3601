"""Workers that are killed while their bodies are suspended: retried elsewhere, unwound at the end, never heard of again."""

from __future__ import annotations

import sys
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import sundog
from sundog.backends import current
from sundog.backends.simulated.programs.driver import Driver
from sundog.backends.simulated.programs.strand import WorkerKilled
from sundog.backends.simulated.programs.worker import Worker

Simulate = Callable[..., Any]


class Story(types.ModuleType):
    """A module that bodies import to write into."""

    def __init__(self) -> None:
        super().__init__("story_of_the_test")
        self.lines: list[Any] = []


@pytest.fixture
def story() -> Iterator[list[Any]]:
    module = Story()
    sys.modules[module.__name__] = module
    yield module.lines
    del sys.modules[module.__name__]


def driver() -> Driver:
    assert current.session is not None
    port: Any = current.session.port
    assert isinstance(port, Driver)
    return port


def kill_whoever_runs() -> int:
    """Kill every worker that runs something; return how many that were."""
    node = driver().node
    running = [number for number, worker in node.workers.items() if isinstance(worker, Worker) and worker.run is not None]
    for number in running:
        node.kill_worker(number)
    return len(running)


def test_a_killed_body_is_retried_and_its_first_run_is_unwound_at_shutdown(simulate: Simulate, story: list[Any]) -> None:
    simulate(num_cpus=1)

    @sundog.remote
    def body():
        from story_of_the_test import lines  # type: ignore[import-not-found]

        lines.append("begins")
        try:
            time.sleep(1)
            lines.append("slept")
        except BaseException as error:
            lines.append(type(error))
            calls: list[Callable[[], Any]] = [
                lambda: sundog.put(1),
                lambda: time.sleep(1),
                lambda: body.remote(),
                lambda: sundog.nodes(),
            ]
            for call in calls:
                try:
                    call()
                    lines.append("heard")
                except BaseException as again:
                    lines.append(type(again))
            raise
        finally:
            lines.append("ends")
        return "value"

    pending = body.remote()
    time.sleep(0.5)
    assert kill_whoever_runs() == 1
    assert sundog.get(pending) == "value"
    assert story == ["begins", "begins", "slept", "ends"]
    sundog.shutdown()
    assert story[4:8] == [WorkerKilled, WorkerKilled, WorkerKilled, WorkerKilled]
    assert story[-1] == "ends"


def test_what_a_killed_body_held_is_let_go(simulate: Simulate) -> None:
    simulate()

    @sundog.remote(max_retries=0)
    def holds(holder):
        view = sundog.get(holder[0])
        made = sundog.put(np.ones(300_000))
        time.sleep(10)
        return view, made

    pending = holds.remote([sundog.put(np.zeros(300_000))])
    time.sleep(1)
    assert sundog.table("nodes")[0]["store_bytes_used"] > 4_000_000
    kill_whoever_runs()
    with pytest.raises(sundog.WorkerCrashedError, match="holds"):
        sundog.get(pending)
    del pending
    time.sleep(1)
    assert sundog.table("nodes")[0]["store_bytes_used"] == 0
    assert not sundog.table("objects")


def test_killing_everybody_again_and_again_loses_no_task(simulate: Simulate) -> None:
    simulate(num_cpus=3)

    @sundog.remote(max_retries=1000)
    def leaf(x):
        time.sleep(0.02)
        return 2 * x

    @sundog.remote(max_retries=1000)
    def parent(x):
        return sum(sundog.get([leaf.remote(x), leaf.remote(x + 1)]))

    layer = [parent.remote(leaf.remote(i)) for i in range(20)]
    killed = 0
    for _ in range(15):
        time.sleep(0.013)
        killed += kill_whoever_runs()
    assert killed > 20
    assert sundog.get(layer) == [8 * i + 2 for i in range(20)]


def test_bodies_that_are_suspended_at_shutdown_are_unwound(simulate: Simulate, story: list[Any]) -> None:
    simulate()

    @sundog.remote
    def forever(i):
        from story_of_the_test import lines

        try:
            if i:
                sundog.get(forever.remote(i - 1))
            time.sleep(1_000_000)
        finally:
            lines.append(i)

    kept = [forever.remote(3), forever.remote(0)]
    time.sleep(1)
    sundog.shutdown()
    assert sorted(story) == [0, 0, 1, 2, 3]
    del kept


def test_a_worker_killed_while_it_computes_reports_nothing(simulate: Simulate, story: list[Any]) -> None:
    simulate(num_cpus=1)

    @sundog.remote
    def body():
        from story_of_the_test import lines

        lines.append("ran")
        return len(lines)

    pending = body.options(duration=10).remote()
    time.sleep(5)
    assert kill_whoever_runs() == 1
    began = time.monotonic()
    assert sundog.get(pending) == 2
    assert 10 <= time.monotonic() - began < 10.1


def test_what_was_sent_before_the_kill_counts(simulate: Simulate) -> None:
    simulate(num_cpus=1, costs={"hop": 1.0})

    @sundog.remote(max_retries=0)
    def quick():
        return "there"

    pending = quick.remote()
    node = driver().node
    while not any(worker.finished for worker in node.workers.values()):
        time.sleep(0.1)
    for number in list(node.workers):
        node.kill_worker(number)
    assert sundog.get(pending) == "there"
