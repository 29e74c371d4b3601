"""The tutorial: every program in it, and every sentence that claims something."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sundog
from sundog.backends.redis_server import ControlStoreError, find_server, sessions_root
from tests.support import leaks
from tests.support.files import Gate, Notes
from tests.support.inspection import workers
from tests.support.leaks import is_alive
from tests.support.programs import run
from tests.support.waiting import wait_until


@sundog.remote
def add2(a, b):
    return a + b


def add1(a, b):
    return a + b


@pytest.mark.usefixtures("session")
def test_put_returns_an_object_id_that_prints_as_forty_hex_digits():
    x = [1, 2, 3]
    x_id = sundog.put(x)
    assert isinstance(x_id, sundog.ObjectID)
    assert re.fullmatch(r"ObjectID\([0-9a-f]{40}\)", repr(x_id))
    assert str(x_id) == repr(x_id) == f"{x_id}"
    assert repr(x_id) == f"ObjectID({x_id.hex()})"


@pytest.mark.usefixtures("session")
def test_get_creates_the_object_from_its_id():
    x_id = sundog.put([1, 2, 3])
    assert sundog.get(x_id) == [1, 2, 3]


@pytest.mark.usefixtures("session")
def test_a_stored_value_cannot_be_changed():
    x = [1, 2, 3]
    x_id = sundog.put(x)
    x.append(4)
    first = sundog.get(x_id)
    first.append(5)
    assert sundog.get(x_id) == [1, 2, 3]
    array_id = sundog.put(np.zeros(100_000))
    with pytest.raises(ValueError, match="read-only"):
        sundog.get(array_id)[0] = 1.0


@pytest.mark.usefixtures("session")
def test_put_copies_an_array_so_that_later_writes_do_not_reach_the_store():
    array = np.zeros(100_000)
    array_id = sundog.put(array)
    array[:] = 7.0
    assert not sundog.get(array_id).any()


@pytest.mark.usefixtures("session")
def test_get_waits_until_the_object_has_been_created(gate: Gate):
    @sundog.remote
    def when_told():
        gate.wait()
        return "created"

    pending = when_told.remote()
    values: list[str] = []
    getter = threading.Thread(target=lambda: values.append(sundog.get(pending)))
    getter.start()
    assert sundog.wait([pending], timeout=0) == ([], [pending])
    assert values == []
    gate.open()
    getter.join(20)
    assert values == ["created"]


@pytest.mark.usefixtures("session")
def test_get_of_a_list_of_ids_gives_the_list_of_values():
    result_ids = [sundog.put(i) for i in range(10)]
    assert sundog.get(result_ids) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]


@pytest.mark.usefixtures("session")
def test_a_remote_call_gives_an_object_id_and_its_value_is_the_functions():
    x_id = add2.remote(1, 2)
    assert isinstance(x_id, sundog.ObjectID)
    assert sundog.get(x_id) == add1(1, 2) == 3


@pytest.mark.usefixtures("session")
def test_arguments_may_be_passed_by_value_or_by_object_id():
    assert sundog.get(add2.remote(1, 2)) == 3
    assert sundog.get(add2.remote(1, sundog.put(2))) == 3
    assert sundog.get(add2.remote(sundog.put(1), sundog.put(2))) == 3


@pytest.mark.usefixtures("session")
def test_a_remote_call_returns_before_its_task_has_run(gate: Gate):
    @sundog.remote
    def when_told():
        gate.wait()

    submitted = when_told.remote()  # with a closed gate: a call that waited for its task would not come back
    assert sundog.wait([submitted], timeout=0) == ([], [submitted])
    gate.open()
    assert sundog.get(submitted) is None


@pytest.mark.usefixtures("session")
def test_tasks_are_not_lazy_they_run_without_anybody_asking(notes: Notes):
    @sundog.remote
    def note():
        notes.write("ran")

    kept = note.remote()
    wait_until(notes.lines)
    del kept


@pytest.mark.usefixtures("session")
def test_a_task_whose_id_is_dropped_at_once_runs_all_the_same(notes: Notes):
    @sundog.remote
    def note(i):
        notes.write(i)

    for i in range(20):
        note.remote(i)
    wait_until(lambda: sorted(map(int, notes.lines())) == list(range(20)))


@pytest.mark.real_processes
def test_ten_sleeping_tasks_on_ten_workers_sleep_at_the_same_time(start: Callable[..., Any]):
    start(num_workers=10)

    @sundog.remote
    def f2():
        began = time.monotonic()
        time.sleep(1)
        return began, time.monotonic(), os.getpid()

    spans = sundog.get([f2.remote() for _ in range(10)])
    assert max(began for began, _, _ in spans) < min(ended for _, ended, _ in spans)
    pids = {pid for _, _, pid in spans}
    assert len(pids) == 10, "each worker is a process of its own"
    assert os.getpid() not in pids, "the driver is given no task"


@pytest.mark.usefixtures("session")
def test_a_task_can_return_several_object_ids():
    @sundog.remote(num_return_vals=3)
    def return_multiple():
        return 1, 2, 3

    a_id, b_id, c_id = return_multiple.remote()
    assert sundog.get([a_id, b_id, c_id]) == [1, 2, 3]
    assert sundog.get(b_id) == 2


@pytest.mark.usefixtures("session")
def test_a_chain_of_tasks_passes_values_on():
    @sundog.remote
    def f(x):
        return x + 1

    x = f.remote(0)
    y = f.remote(x)
    z = f.remote(y)
    assert sundog.get(z) == 3


@pytest.mark.usefixtures("session")
def test_a_task_does_not_run_before_the_task_that_it_depends_on_has_finished():
    @sundog.remote
    def span(*spans_before):
        began = time.monotonic()
        time.sleep(0.02)
        return [*(spans_before[0] if spans_before else []), (began, time.monotonic())]

    x = span.remote()
    y = span.remote(x)
    z = span.remote(y)
    first, second, third = sundog.get(z)
    assert first[1] <= second[0]
    assert second[1] <= third[0]


@pytest.mark.usefixtures("session")
def test_tree_reduce_of_a_hundred_arrays():
    @sundog.remote
    def generate_data():
        return np.random.normal(size=1000)

    @sundog.remote
    def aggregate_data(x, y):
        return x + y

    data = [generate_data.remote() for _ in range(100)]
    leaves = list(data)
    while len(data) > 1:
        data.append(aggregate_data.remote(data.pop(0), data.pop(0)))
    [total] = sundog.get(data)
    values = sundog.get(leaves)
    assert total.shape == (1000,)
    np.testing.assert_allclose(total, np.sum(values, axis=0))
    assert len({value.tobytes() for value in values}) == 100, "every task has random numbers of its own"


@pytest.mark.usefixtures("session")
def test_tasks_can_call_remote_functions():
    @sundog.remote
    def sub_experiment(i, j):
        return i + j

    @sundog.remote
    def run_experiment(i):
        sub_results = []
        for j in range(10):
            sub_results.append(sub_experiment.remote(i, j))  # noqa: PERF401 (as the tutorial writes it)
        return sum(sundog.get(sub_results))

    results = [run_experiment.remote(i) for i in range(5)]
    assert sundog.get(results) == [45, 55, 65, 75, 85]


@pytest.mark.usefixtures("session")
def test_workers_can_put_and_the_object_outlives_the_task():
    @sundog.remote
    def put_in_a_worker():
        return [sundog.put({"large": np.arange(50_000)}), sundog.put("small")]

    large_id, small_id = sundog.get(put_in_a_worker.remote())
    assert sundog.get(small_id) == "small"
    assert sundog.get(large_id)["large"][49_999] == 49_999


@pytest.mark.usefixtures("session")
def test_arrays_are_shared_and_not_copied_on_the_way_into_a_task():
    array_id = sundog.put(np.arange(1_000_000))

    @sundog.remote
    def look(array):
        return array.flags.writeable, array.flags.owndata, int(array[-1])

    assert sundog.get(look.remote(array_id)) == (False, False, 999_999)


@pytest.mark.redis
@pytest.mark.real_processes
def test_redis_knows_where_objects_live_and_what_tasks_there_are(start: Callable[..., Any], gate: Gate):
    redis = pytest.importorskip("redis")
    try:
        find_server()
    except ControlStoreError as error:
        pytest.skip(str(error))
    start(num_workers=1, redis=True)

    @sundog.remote
    def when_told(x):
        gate.wait()
        return x

    x_id = sundog.put([1, 2, 3])
    pending = when_told.remote(x_id)
    pid = wait_until(lambda: list(workers()))[0]
    session = leaks.session_of(pid)
    socket = sessions_root() / session / "redis.sock"
    wait_until(socket.exists)
    with redis.Redis(unix_socket_path=str(socket), decode_responses=True) as client:
        found = wait_until(lambda: client.hgetall(f"sundog:{session}:object:{x_id.hex()}"))
        assert found["node"] == "0"
        assert found["made_by"] == "put"
        task = wait_until(lambda: client.hgetall(f"sundog:{session}:task:{pending.hex()[:32]}"))
        assert task["name"] == "when_told"
    gate.open()
    assert sundog.get(pending) == [1, 2, 3]


@pytest.mark.real_processes
def test_workers_are_killed_when_the_interpreter_exits(tmp_path: Path, backend: str):
    ended = run(
        f"""
        import os, time
        import sundog

        sundog.init(num_workers=10, backend={backend!r})

        @sundog.remote
        def who(path):
            with open(path, "a") as file:
                file.write("here\\n")
            while len(open(path).readlines()) < 10:
                time.sleep(0.005)
            return os.getpid()

        print("pids", *sundog.get([who.remote("present") for _ in range(10)]))
        """,
        tmp_path,
    )
    assert ended.code == 0, ended.err
    pids = [int(word) for word in ended.out.split()[1:]]
    assert len(set(pids)) == 10
    assert not [pid for pid in pids if is_alive(pid)]
