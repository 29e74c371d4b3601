"""What can be called, with what, and what comes back."""

from __future__ import annotations

import functools
import operator
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sundog
from tests.support.files import Gate, Notes
from tests.support.inspection import table
from tests.support.waiting import wait_until

shared = pytest.mark.usefixtures("session")


@sundog.remote
def add(a, b):
    return a + b


@sundog.remote
def call_of(*args, **kwargs):
    return args, kwargs


# -- arguments ----------------------------------------------------------------------------------------------------------------


@shared
@pytest.mark.parametrize("name", ["self", "args", "kwargs", "session", "options", "definition", "function"])
def test_no_keyword_of_a_function_is_taken_by_the_call_itself(name: str):
    assert sundog.get(call_of.remote(1, **{name: 2})) == ((1,), {name: 2})


@shared
def test_keyword_default_star_and_keyword_only_arguments_arrive_as_in_a_plain_call():
    @sundog.remote
    def shown(a, b=2, *rest, c, d=4, **others):
        return a, b, rest, c, d, others

    assert sundog.get(shown.remote(1, c=3)) == (1, 2, (), 3, 4, {})
    assert sundog.get(shown.remote(1, 20, 30, 40, c=3, d=5, e=6)) == (1, 20, (30, 40), 3, 5, {"e": 6})
    assert sundog.get(shown.remote(b=1, a=0, c=sundog.put(9))) == (0, 1, (), 9, 4, {})


@shared
def test_ids_at_the_top_level_become_values_and_ids_inside_containers_stay_ids():
    inner = sundog.put("inner")

    @sundog.remote
    def look(value, holder, *, named):
        [nested] = holder["ids"]
        return value, isinstance(nested, sundog.ObjectID), sundog.get(nested), named

    assert sundog.get(look.remote(inner, {"ids": [inner]}, named=inner)) == ("inner", True, "inner", "inner")


@shared
def test_the_same_id_may_be_given_twice():
    x = sundog.put(21)
    assert sundog.get(add.remote(x, x)) == 42
    assert sundog.get([x, x, x]) == [21, 21, 21]


@shared
def test_large_arguments_go_by_value():
    blob = os.urandom(3_000_000)
    back, length = sundog.get(call_of.remote(blob, size=len(blob)))
    assert back == (blob,)
    assert length == {"size": 3_000_000}


@shared
def test_values_of_every_common_kind_go_there_and_back():
    values: list[Any] = [
        None, True, 0, -1, 2**100, 1.5, 1j, "text", "\udc80", b"", b"bytes", bytearray(b"array"), [], (), {}, set(), {1, 2},
        frozenset({1}), [[1], [2, [3]]], {"a": {"b": (1, 2)}}, range(3), slice(1, 2), Ellipsis, NotImplemented, int, len,
        operator.add, Path("/a"), functools.partial(divmod, 7), "x" * 1_000_000, list(range(100_000)), ValueError("as a value"),
    ]  # fmt: skip
    for value, back in zip(values, sundog.get([call_of.remote(value) for value in values]), strict=True):
        expected: Any = ((value,), {})
        assert repr(back) == repr(expected)
        assert type(back[0][0]) is type(value)
    assert [repr(value) for value in sundog.get([sundog.put(value) for value in values])] == [repr(value) for value in values]


@shared
def test_recursive_and_shared_structure_survives():
    ring: list[Any] = [1]
    ring.append(ring)
    twin = [0]
    back, pair = sundog.get(sundog.put((ring, [twin, twin])))
    assert back[1] is back
    assert pair[0] is pair[1]


@shared
def test_what_a_class_defined_in_the_test_makes_goes_there_and_back():
    class Point:
        def __init__(self, x, y):
            self.x, self.y = x, y

        def length(self):
            return (self.x**2 + self.y**2) ** 0.5

    @sundog.remote
    def moved(point):
        return Point(point.x + 1, point.y + 1), point.length()

    point, length = sundog.get(moved.remote(Point(3, 4)))
    assert (type(point), point.x, point.y, length) == (Point, 4, 5, 5.0)


# -- options ------------------------------------------------------------------------------------------------------------------


@shared
def test_remote_works_with_and_without_arguments_and_options_override_it():
    @sundog.remote(num_returns=2, num_cpus=1, max_retries=0, name="pair")
    def two(x):
        return x, x + 1

    first, second = two.remote(1)
    assert sundog.get([first, second]) == [1, 2]
    one: Any = two.options(num_returns=1).remote(1)
    assert sundog.get(one) == (1, 2)
    a, b, c = two.options(num_return_vals=3).remote(1), two.remote(5), two.remote(7)
    with pytest.raises(ValueError, match="3"):
        sundog.get(a)
    assert sundog.get([*b, *c]) == [5, 6, 7, 8]


@shared
def test_options_that_mean_nothing_or_contradict_are_refused():
    with pytest.raises((TypeError, ValueError), match=r"num_cpu\b"):
        sundog.remote(num_cpu=1)(lambda: None)  # type: ignore[call-overload]
    with pytest.raises((TypeError, ValueError), match="num_returns"):
        sundog.remote(num_returns=2, num_return_vals=3)(lambda: None)
    for wrong in ({"num_cpus": -1}, {"num_gpus": -1}, {"resources": {"disk": -1}}):
        with pytest.raises(ValueError, match="negative"):
            sundog.remote(**wrong)(lambda: None).remote()
    with pytest.raises(ValueError, match="num_returns"):
        add.options(num_returns=-1).remote(1, 2)


@shared
def test_duration_is_accepted_and_means_nothing_here():
    assert sundog.get(add.options(duration=0.5).remote(1, 2)) == 3


@shared
@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_a_task_returns_as_many_objects_as_it_declares(count: int):
    @sundog.remote(num_returns=count)
    def several():
        return tuple(range(count)) if count > 1 else (0 if count else None)

    made: Any = several.remote()
    if count == 0:
        assert made is None
    elif count == 1:
        assert sundog.get(made) == 0
    else:
        assert len(set(made)) == count
        assert sundog.get(made) == list(range(count))
        assert sundog.get(made[count // 2]) == count // 2


@shared
def test_a_task_with_a_name_is_called_by_it(gate: Gate):
    @sundog.remote(name="by this name")
    def when_told():
        gate.wait()

    kept = [when_told.remote(), when_told.options(name="by that").remote()]
    wait_until(lambda: {row["name"] for row in table("tasks")} == {"by this name", "by that"})
    gate.open()
    sundog.get(kept)


def test_tasks_with_a_resource_run_at_most_as_many_at_once_as_there_is_of_it(start: Callable[..., Any]):
    start(num_workers=4, num_gpus=1, resources={"disk": 2})

    @sundog.remote
    def span(seconds):
        began = time.monotonic()
        time.sleep(seconds)
        return began, time.monotonic()

    def most_at_once(spans):
        return max(sum(b <= began < e for b, e in spans) for began, _ in spans)

    assert most_at_once(sundog.get([span.options(num_gpus=1).remote(0.02) for _ in range(6)])) == 1
    assert most_at_once(sundog.get([span.options(resources={"disk": 1}).remote(0.02) for _ in range(8)])) <= 2
    assert most_at_once(sundog.get([span.options(num_cpus=2).remote(0.02) for _ in range(8)])) <= 2
    assert most_at_once(sundog.get([span.options(num_cpus=0.5).remote(0.05) for _ in range(8)])) <= 8


def test_of_ready_tasks_the_one_with_the_highest_priority_goes_first(start: Callable[..., Any], gate: Gate, notes: Notes):
    start(num_workers=1)

    @sundog.remote
    def when_told():
        gate.wait()

    @sundog.remote
    def note(text):
        notes.write(text)

    sundog.get(note.remote("warm"))
    blocker = when_told.remote()
    wait_until(lambda: [row for row in table("workers") if row["running"] == "when_told"] or _running("when_told"))
    kept = [note.options(priority=priority).remote(priority) for priority in (0, 1, 5, 3)]
    gate.open()
    sundog.get([blocker, *kept])
    assert notes.lines() == ["warm", "5", "3", "1", "0"]


def _running(suffix: str) -> bool:
    return any(row["running"] and row["running"].endswith(suffix) for row in table("workers"))


@pytest.mark.real_processes
def test_a_worker_is_replaced_after_max_calls_of_a_function(start: Callable[..., Any]):
    start(num_workers=1)

    @sundog.remote(max_calls=2)
    def who():
        return os.getpid()

    pids = [sundog.get(who.remote()) for _ in range(6)]
    assert len(set(pids)) == 3
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [2, 2, 2]


# -- get ----------------------------------------------------------------------------------------------------------------------


@shared
def test_get_takes_an_id_a_list_a_tuple_and_a_dict():
    a, b = sundog.put(1), add.remote(1, 1)
    assert sundog.get(a) == 1
    assert sundog.get([a, b]) == [1, 2]
    assert sundog.get((b, a)) == (2, 1)
    assert sundog.get({"a": a, "b": b}) == {"a": 1, "b": 2}
    assert sundog.get([]) == []
    assert sundog.get(()) == ()
    assert sundog.get({}) == {}


@shared
def test_get_with_a_timeout_gives_the_value_if_it_is_there(gate: Gate):
    @sundog.remote
    def when_told():
        gate.wait()
        return "there"

    pending, ready = when_told.remote(), sundog.put(1)
    for timeout in (0, 0.05):
        with pytest.raises(sundog.GetTimeoutError):
            sundog.get(pending, timeout=timeout)
        with pytest.raises(TimeoutError):
            sundog.get([ready, pending], timeout=timeout)
    assert sundog.get(ready, timeout=0) == 1
    gate.open()
    assert sundog.get(pending, timeout=20) == "there"
    assert sundog.get([ready, pending], timeout=0) == [1, "there"]


@shared
def test_put_of_an_id_is_refused_and_says_why():
    x = sundog.put(1)
    with pytest.raises(TypeError, match="ObjectID"):
        sundog.put(x)


# -- IDs ----------------------------------------------------------------------------------------------------------------------


@shared
def test_ids_hash_compare_and_are_known_by_both_names():
    x, y = sundog.put(1), sundog.put(1)
    assert sundog.ObjectRef is sundog.ObjectID
    assert x != y
    assert x == sundog.ObjectID(x.binary())
    assert len({x, y, x}) == 2
    assert {x: "x"}[x] == "x"
    assert len(x.hex()) == 40


@shared
def test_an_id_that_comes_back_from_a_task_equals_the_one_that_went():
    x = sundog.put(1)
    [back] = sundog.get(call_of.remote([x]))[0][0]
    assert back == x
    assert hash(back) == hash(x)
    assert sundog.get(back) == 1


@shared
def test_ids_in_containers_keep_their_objects_alive():
    holder = sundog.put({"deep": [sundog.put("kept")]})
    wait_until(lambda: len(table("objects")) == 2)
    assert sundog.get(sundog.get(holder)["deep"][0]) == "kept"
    returned = call_of.remote([sundog.put("argument")])
    wait_until(lambda: not table("tasks"))
    assert sundog.get(sundog.get(returned)[0][0][0]) == "argument"


def test_an_id_in_a_closure_keeps_its_object_alive_as_long_as_the_function_is_known(start: Callable[..., Any]):
    start(num_workers=1)  # functions are known to the session's end, so a session of its own
    x = sundog.put("captured")

    @sundog.remote
    def look():
        return sundog.get(x)

    assert sundog.get([look.remote() for _ in range(3)]) == ["captured"] * 3


def test_an_id_pickled_by_somebody_else_stays_valid(start: Callable[..., Any]):
    start(num_workers=1)  # it is held to the session's end, so a session of its own
    frozen = pickle.dumps(sundog.put("escaped"))
    assert sundog.get(pickle.loads(frozen)) == "escaped"


# -- map, as_completed, cancel ------------------------------------------------------------------------------------------------


@shared
def test_map_gives_results_in_order():
    assert list(sundog.map(lambda x: x * x, range(1000))) == [x * x for x in range(1000)]
    assert list(sundog.map(lambda x: x, [])) == []

    @sundog.remote
    def remote_square(x):
        return x * x

    assert list(sundog.map(remote_square, iter([1, 2, 3]))) == [1, 4, 9]


@shared
def test_as_completed_gives_each_id_once_the_ready_ones_first(gate: Gate):
    @sundog.remote
    def when_told(i):
        gate.wait()
        return i

    slow, quick = when_told.remote(1), add.remote(1, 1)
    order = []
    for object_id in sundog.as_completed([slow, quick]):
        order.append(object_id)
        gate.open()
    assert order == [quick, slow]
    assert list(sundog.as_completed([])) == []


@shared
def test_cancel_stops_what_has_not_started_and_nothing_else(gate: Gate, notes: Notes):
    @sundog.remote
    def when_told(i):
        notes.write(i)
        gate.wait()
        return i

    running = [when_told.remote(i) for i in range(2)]
    wait_until(lambda: len(notes.lines()) == 2)
    waiting = [when_told.remote(i) for i in range(2, 30)]
    cancelled = [sundog.cancel(object_id) for object_id in (running[0], waiting[-1])]
    assert cancelled == [False, True]
    with pytest.raises(TypeError, match="cancel was given None"):
        sundog.cancel(None)  # type: ignore[call-overload]
    sundog.cancel(waiting[10])
    gate.open()
    assert sundog.get(running) == [0, 1]
    for object_id in (waiting[-1], waiting[10]):
        with pytest.raises(sundog.TaskCancelledError, match="cancel"):
            sundog.get(object_id)
    left = [object_id for object_id in waiting[:-1] if object_id != waiting[10]]
    assert sundog.get(left) == [i for i in range(2, 29) if i != 12]
    assert "29" not in notes.lines()
    assert sundog.cancel(running[0]) is False


# -- the cluster --------------------------------------------------------------------------------------------------------------


def test_many_tasks_want_what_only_one_can_have(start: Callable[..., Any]):
    start(num_workers=2, num_gpus=1, resources={"disk": 2})

    @sundog.remote(num_gpus=1)
    def on_the_gpu(x):
        time.sleep(0.001)
        return x

    @sundog.remote(resources={"disk": 1})
    def on_a_disk(x):
        return x

    for _ in range(2):
        both = [task.remote(x) for x in range(300) for task in (on_the_gpu, on_a_disk)]
        assert sundog.get(both) == [x for x in range(300) for _ in range(2)]


def test_nodes_and_resources_tell_what_there_is_and_what_is_free(start: Callable[..., Any], gate: Gate):
    start(num_workers=3, num_gpus=1, resources={"disk": 2.5})

    @sundog.remote(num_gpus=1, resources={"disk": 0.5})
    def when_told():
        gate.wait()

    assert len(sundog.nodes()) == 1
    assert sundog.nodes()[0]["alive"]
    everything = {"CPU": 3.0, "GPU": 1.0, "disk": 2.5}
    assert sundog.cluster_resources() == everything
    assert sundog.available_resources() == everything
    kept = when_told.remote()
    # A CPU comes with a task unless it says otherwise.
    wait_until(lambda: sundog.available_resources().get("GPU", 0.0) == 0.0)
    free = sundog.available_resources()
    assert free["disk"] == 2.0
    assert free["CPU"] == 2.0
    gate.open()
    sundog.get(kept)
    wait_until(lambda: sundog.available_resources() == everything)
