"""From a real run to a workload: what was recorded is what the program did."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sundog.backends.recorder import RecordingError
from sundog.backends.simulated.workloads.recorded import read_recording
from sundog.backends.simulated.workloads.workload import BY_DRIVER, PUT, Compute, Get, Submit, Workload
from sundog.core.resources import CPU, UNIT
from sundog.core.units import MILLISECOND, SECOND
from tests.support.list_scheduler import run

ROOT = Path(__file__).parents[2]

PROGRAM = """
import os, sys, threading, time
import sundog

def main(path):
    sundog.init(num_workers=3, record=path, seed=7)

    @sundog.remote
    def leaf(n, after=0.01):
        end = time.perf_counter() + after
        while time.perf_counter() < end:
            pass
        return b"x" * n

    @sundog.remote
    def parent(n):
        first = [leaf.remote(1000 + i) for i in range(n)]
        mine = sundog.put(b"m" * 3000)
        got = sundog.get(first)
        last = leaf.remote(9, mine and 0.03)
        return [last, sum(map(len, got))]

    @sundog.remote(num_returns=2)
    def two(a, b):
        return a, b"y" * 200_000

    @sundog.remote(num_cpus=0.5)
    def first_of(ids):
        ready, rest = sundog.wait(ids, num_returns=1)
        return len(ready)

    @sundog.remote
    def inner(pair):
        return sundog.get(pair[0])

    @sundog.remote(max_retries=2)
    def crash_once(path):
        child = leaf.remote(77)
        if not os.path.exists(path):
            open(path, "w").close()
            os._exit(1)
        return sundog.get(child)

    @sundog.remote
    def bad():
        raise ValueError("as planned")

    @sundog.remote
    def threaded():
        ids = []
        thread = threading.Thread(target=lambda: ids.append(leaf.remote(55)))
        thread.start()
        thread.join()
        return sundog.get(ids[0])

    p = parent.remote(3)
    big = sundog.put(b"z" * 500_000)
    q, r = two.remote(leaf.remote(5), big)
    sundog.get([q, r])
    sundog.get(inner.remote(p))
    slow, fast = leaf.remote(1, 0.8), leaf.remote(2, 0.4)
    sundog.get(first_of.remote([slow, fast]))
    sundog.get(crash_once.remote(path + ".once"))
    sundog.get(threaded.remote())
    failed = bad.remote()
    dependent = leaf.remote(failed)
    for one in (failed, dependent):
        try:
            sundog.get(one)
        except Exception:
            pass
    sundog.get(slow)
    sundog.shutdown()

main(sys.argv[1])
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    """The workload of one run of PROGRAM on real processes."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(folder / "program.py"), str(folder / "run.rec")],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return read_recording(folder / "run.rec")


def only(workload: Workload, function: str) -> int:
    """Return the index of the one task of ``function``."""
    found = [i for i, one in enumerate(workload) if one.function == function]
    assert len(found) == 1, (function, found)
    return found[0]


def test_it_could_run(recorded: Workload) -> None:
    recorded.validate([((CPU, 2 * UNIT),)])
    measures = run(recorded, cpus=2)
    assert not measures.unfinished()
    measures.check()
    assert recorded.name == "run.rec"
    assert recorded[0].parent == BY_DRIVER
    assert recorded[0].submitted_at == 0


def test_dependencies_and_sizes_are_those_of_the_program(recorded: Workload) -> None:
    two = recorded[only(recorded, "two")]
    assert len(two.outputs) == 2
    assert two.outputs[1] == 200_000
    (leaf, leaf_output), (put, put_output) = two.inputs
    assert (recorded[leaf].function, recorded[leaf].outputs, leaf_output) == ("leaf", (5,), 0)
    assert (recorded[put].function, recorded[put].outputs, put_output) == (PUT, (500_000,), 0)
    assert recorded[put].resources == ()
    assert recorded[only(recorded, "first_of")].resources == ((CPU, UNIT // 2),)


def test_bodies_submit_wait_and_compute(recorded: Workload) -> None:
    index = only(recorded, "parent")
    parent = recorded[index]
    submitted = [child for step in parent.steps if isinstance(step, Submit) for child in step.tasks]
    assert [recorded[i].outputs for i in submitted] == [(1000,), (1001,), (1002,), (3000,), (9,)]
    assert [recorded[i].function for i in submitted] == ["leaf", "leaf", "leaf", PUT, "leaf"]
    assert {recorded[i].parent for i in submitted} == {index}
    gets = [step for step in parent.steps if isinstance(step, Get)]
    assert gets[0].tasks == tuple(submitted[:3])
    order = [type(step) for step in parent.steps if not isinstance(step, Compute)]
    assert order.index(Get) > 0
    assert order[-1] is Submit
    assert sum(step.span for step in parent.steps if isinstance(step, Compute)) == parent.duration


def test_durations_are_measured(recorded: Workload) -> None:
    leaves = {one.outputs[0]: one.duration for one in recorded if one.function == "leaf"}
    assert leaves[1] >= 200 * MILLISECOND
    assert leaves[9] >= 30 * MILLISECOND
    assert 10 * MILLISECOND <= leaves[1000] < 5 * SECOND
    assert leaves[2] < leaves[1]


def test_what_came_inside_another_result_is_waited_for_as_that(recorded: Workload) -> None:
    inner, parent = recorded[only(recorded, "inner")], only(recorded, "parent")
    assert inner.inputs == ((parent, 0),)
    # It waited for the leaf of 9 bytes, whose ID only the parent's result brought.
    assert all(step.tasks == (parent,) for step in inner.steps if isinstance(step, Get))


def test_a_wait_for_one_of_two_is_a_get_of_the_first(recorded: Workload) -> None:
    waits = [step for step in recorded[only(recorded, "first_of")].steps if isinstance(step, Get)]
    assert waits
    for step in waits:
        assert [recorded[i].outputs for i in step.tasks] == [(2,)]


def test_of_a_body_that_crashed_the_last_start_counts(recorded: Workload) -> None:
    index = only(recorded, "crash_once")
    assert [one.outputs for one in recorded if one.parent == index] == [(77,)]


def test_a_thread_of_a_body_submits_for_it(recorded: Workload) -> None:
    index = only(recorded, "threaded")
    assert [one.outputs for one in recorded if one.parent == index] == [(55,)]


def test_what_never_ran_takes_no_time(recorded: Workload) -> None:
    bad = only(recorded, "bad")
    dependents = [one for one in recorded if (bad, 0) in one.inputs]
    assert [one.duration for one in dependents] == [0]


def test_what_is_no_recording(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\x00\x00\x00\x02hi")
    with pytest.raises(RecordingError, match="is not a recording"):
        read_recording(tmp_path / "x")
