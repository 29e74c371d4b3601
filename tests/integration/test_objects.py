"""Values in the object store: shared without a copy, read-only, alive as long as anybody looks, gone afterwards."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import sundog
from tests.support.files import Gate
from tests.support.inspection import store_bytes_used, table
from tests.support.leaks import arena_mappings
from tests.support.waiting import wait_until

shared = pytest.mark.usefixtures("session")
MB = 1 << 20


@sundog.remote
def make_zeros(count):
    return np.zeros(count)


@sundog.remote
def total_of(array):
    return float(array.sum())


def address_of(array: np.ndarray[Any, Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def lies_in_the_arena(array: np.ndarray[Any, Any]) -> bool:
    return any(start <= address_of(array) < end for start, end, _ in arena_mappings())


# -- views --------------------------------------------------------------------------------------------------------------------


@shared
@pytest.mark.real_processes
def test_arrays_are_read_only_views_of_the_arena():
    array_id = sundog.put(np.arange(1_000_000.0).reshape(1000, 1000))
    view = sundog.get(array_id)
    assert not view.flags.writeable
    assert not view.flags.owndata
    assert lies_in_the_arena(view)
    with pytest.raises(ValueError, match=r"WRITEABLE|writeable"):
        view.flags.writeable = True
    assert view[999, 999] == 999_999.0
    assert address_of(view) % 64 == 0


@shared
@pytest.mark.real_processes
def test_two_gets_are_views_of_the_same_memory():
    array_id = sundog.put(np.arange(1_000_000))
    first, second = sundog.get([array_id, array_id])
    third = sundog.get(array_id)
    assert address_of(first) == address_of(second) == address_of(third)


@shared
@pytest.mark.real_processes
def test_a_tasks_array_argument_and_return_lie_in_shared_memory():
    @sundog.remote
    def look(array):
        where = array.__array_interface__["data"][0]
        return array.flags.writeable, any(start <= where < end for start, end, _ in arena_mappings())

    assert sundog.get(look.remote(sundog.put(np.zeros(1_000_000)))) == (False, True)
    returned = sundog.get(make_zeros.remote(1_000_000))
    assert lies_in_the_arena(returned)
    assert not returned.flags.writeable


@shared
def test_arrays_inside_containers_are_views_too():
    value: dict[str, Any] = {"a": [np.arange(200_000), {"b": np.ones(300_000)}], "c": b"x" * 500_000, "d": "text"}
    back = sundog.get(sundog.put(value))
    assert not back["a"][0].flags.writeable
    assert not back["a"][1]["b"].flags.writeable
    np.testing.assert_array_equal(back["a"][0], value["a"][0])
    np.testing.assert_array_equal(back["a"][1]["b"], 1)
    assert (back["c"], back["d"]) == (value["c"], value["d"])


@shared
def test_small_arrays_are_read_only_too():
    with pytest.raises(ValueError, match="read-only"):
        sundog.get(sundog.put(np.zeros(10)))[0] = 1


def test_a_view_stays_valid_after_its_id_is_gone_and_others_want_the_room(start: Callable[..., Any]):
    start(num_workers=1, object_store_memory=64 * MB)
    view = sundog.get(sundog.put(np.full(MB, 7.0)))  # 8 MB
    part = view[1000:2000]
    for i in range(20):  # 8 MB each: four times the arena
        assert sundog.get(total_of.remote(sundog.put(np.full(MB, float(i))))) == i * MB
    assert (view == 7.0).all()
    del view
    for i in range(20):
        sundog.get(total_of.remote(sundog.put(np.full(MB, float(i)))))
    assert (part == 7.0).all(), "a slice of a view pins what it shows"
    del part
    wait_until(lambda: store_bytes_used() == 0)


def test_a_view_stays_valid_after_the_session_has_ended(start: Callable[..., Any]):
    start(num_workers=1)
    view = sundog.get(make_zeros.remote(1_000_000))
    sundog.shutdown()
    assert not view.any()
    with start(num_workers=1):
        sundog.put(np.ones(1_000_000))
        assert not view.any()
    del view
    gc.collect()


@shared
def test_a_view_outlives_its_id_and_frees_its_room_at_its_end():
    view = sundog.get(make_zeros.remote(1_000_000))
    # No object is held, and yet its bytes are.
    wait_until(lambda: not table("objects"))
    assert store_bytes_used() >= 8_000_000
    assert not view.any()
    del view
    wait_until(lambda: store_bytes_used() == 0)


@shared
def test_a_task_may_keep_a_view_from_one_call_to_the_next():
    @sundog.remote
    def keep(array):
        sys.modules["sundog"].__dict__["_kept_by_test"] = array
        return int(array[0])

    @sundog.remote
    def look_again():
        kept = sys.modules["sundog"].__dict__.pop("_kept_by_test", None)
        return None if kept is None else int(kept.sum())

    assert sundog.get(keep.remote(sundog.put(np.ones(100_000, dtype=int)))) == 1
    for _ in range(5):
        sundog.get(sundog.put(np.zeros(100_000)))
    sums: list[int] = []

    def found() -> bool:
        sums.extend(x for x in sundog.get([look_again.remote() for _ in range(4)]) if x is not None)
        return bool(sums)

    wait_until(found)
    assert sums == [100_000]


# -- kinds and sizes ----------------------------------------------------------------------------------------------------------


@shared
@pytest.mark.parametrize("size", [0, 1, 99_999, 102_400, 102_401, 1_000_003])
def test_bytes_and_bytearrays_of_all_sizes_go_there_and_back(size: int):
    @sundog.remote
    def same(x):
        return x

    value = bytes(i % 251 for i in range(1000)) * (size // 1000 + 1)
    value = value[:size]
    assert sundog.get(sundog.put(value)) == value
    assert sundog.get(same.remote(value)) == value
    back = sundog.get(same.remote(bytearray(value)))
    assert type(back) is bytearray
    assert back == value
    back.append(1)  # a bytearray is everybody's own


@shared
@pytest.mark.parametrize("dtype", ["float64", "int8", "complex128", "U5", "datetime64[s]", "bool", "object", "i4,f8"])
def test_arrays_of_all_types_go_there_and_back(dtype: str):
    array = np.zeros(40_000, dtype=dtype)
    for form in (array, array.reshape(200, 200), np.asfortranarray(array.reshape(100, 400)), array[::3], array[:0]):
        back = sundog.get(sundog.put(form))
        assert back.dtype == form.dtype
        assert back.shape == form.shape
        assert back.flags.f_contiguous == form.flags.f_contiguous or not form.flags.contiguous
        np.testing.assert_array_equal(back, form)


@shared
def test_a_hundred_megabytes_go_there_and_back():
    array = np.arange(100 * MB // 8, dtype=np.float64)
    array_id = sundog.put(array)

    @sundog.remote
    def look_and_return(x):
        return float(x[-1]), x * 2

    total, doubled = sundog.get(look_and_return.remote(array_id))
    assert total == array[-1]
    assert np.array_equal(doubled[-1000:], array[-1000:] * 2)
    assert np.array_equal(sundog.get(array_id), array)
    del doubled


@shared
def test_large_returns_of_several_values():
    @sundog.remote(num_returns=3)
    def several():
        return np.zeros(200_000), b"y" * 300_000, [np.ones(100_000)] * 2

    zeros, text, [first, second] = sundog.get(several.remote())
    assert not zeros.any()
    assert text == b"y" * 300_000
    assert first.sum() == second.sum() == 100_000


@shared
def test_one_object_is_read_by_many_tasks_at_once():
    array_id = sundog.put(np.ones(500_000))
    assert sundog.get([total_of.remote(array_id) for _ in range(100)]) == [500_000.0] * 100


# -- lives --------------------------------------------------------------------------------------------------------------------


@shared
def test_an_object_is_freed_when_its_last_reference_is_gone():
    x = sundog.put("x")
    also: list[Any] = [x, {"k": x}]
    wait_until(lambda: len(table("objects")) == 1)
    del x
    assert sundog.get(also[0]) == "x"
    del also
    wait_until(lambda: not table("objects"))


@shared
def test_returns_that_nobody_kept_are_freed():
    @sundog.remote(num_returns=3)
    def three():
        return 1, np.zeros(100_000), 3

    kept = [three.remote()[0] for _ in range(10)]
    assert sundog.get(kept) == [1] * 10
    wait_until(lambda: len(table("objects")) == 10)
    wait_until(lambda: store_bytes_used() == 0)


@shared
def test_an_argument_lives_until_the_task_that_wants_it_is_over(gate: Gate):
    @sundog.remote
    def read(holder, value):
        gate.wait()
        return sundog.get(holder[0]) + value

    reading = read.remote([sundog.put(1)], sundog.put(2))
    gc.collect()
    wait_until(lambda: len(table("objects")) == 3)
    gate.open()
    assert sundog.get(reading) == 3
    wait_until(lambda: len(table("objects")) == 1)


@shared
def test_nested_ids_are_freed_with_their_container_and_not_before():
    innermost = sundog.put("innermost")
    middle = sundog.put([innermost])
    outer = sundog.put({"m": middle})
    del innermost, middle
    gc.collect()
    wait_until(lambda: len(table("objects")) == 3)
    held = sundog.get(outer)["m"]
    del outer
    wait_until(lambda: len(table("objects")) == 2)
    assert sundog.get(sundog.get(held)[0]) == "innermost"
    del held
    wait_until(lambda: not table("objects"))


@shared
def test_references_of_many_threads_are_counted_right():
    x = sundog.put("shared by threads")

    def churn():
        for _ in range(300):
            copies: list[sundog.ObjectID[str]] = [sundog.ObjectID(x.binary()) for _ in range(5)]
            assert len(set(copies)) == 1

    threads = [threading.Thread(target=churn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sundog.get(x) == "shared by threads"


@shared
def test_ids_dropped_in_bulk_are_all_freed():
    ids = [sundog.put(i) for i in range(5000)]
    assert sundog.get(ids[::1000]) == [0, 1000, 2000, 3000, 4000]
    del ids
    wait_until(lambda: not table("objects"))


# -- a store that is full -----------------------------------------------------------------------------------------------------


def test_a_full_store_raises_after_a_grace_and_names_the_holders(start: Callable[..., Any]):
    start(num_workers=1, object_store_memory=32 * MB, config={"store_full_grace": 300_000_000})
    kept = [sundog.put(np.zeros(MB)) for _ in range(3)]
    with pytest.raises(sundog.ObjectStoreFull) as caught:
        sundog.put(np.zeros(2 * MB))
    for part in ("16,7", "8,388,", "put", "the driver", "0.3 s"):
        assert part in str(caught.value), str(caught.value)
    with pytest.raises(sundog.ObjectStoreFull):
        sundog.get(make_zeros.remote(MB * 3))
    assert sundog.get(sundog.put("small things need no room")) == "small things need no room"
    del kept, caught
    gc.collect()
    assert sundog.get(make_zeros.remote(2 * MB)).nbytes == 16 * MB


def test_a_value_that_could_never_fit_is_refused_at_once(start: Callable[..., Any]):
    start(num_workers=1, object_store_memory=16 * MB)
    with pytest.raises(sundog.ObjectStoreFull, match="object_store_memory"):
        sundog.put(np.zeros(4 * MB))
    with pytest.raises(MemoryError):
        sundog.get(make_zeros.remote(4 * MB))


def test_a_put_waits_for_room_that_somebody_is_about_to_give_back(start: Callable[..., Any]):
    start(num_workers=1, object_store_memory=32 * MB)
    kept = [sundog.put(np.zeros(MB)) for _ in range(3)]
    done: list[Any] = []
    putter = threading.Thread(target=lambda: done.append(sundog.put(np.ones(2 * MB))))
    putter.start()
    kept.clear()
    putter.join(20)
    assert sundog.get(done.pop()).all()


def test_a_freed_extent_is_used_again(start: Callable[..., Any]):
    start(num_workers=1, object_store_memory=64 * MB)
    where = set()
    for i in range(20):
        view = sundog.get(sundog.put(np.full(MB, i)))
        where.add(address_of(view))
        assert view[-1] == i
        del view
        wait_until(lambda: store_bytes_used() == 0)
    assert len(where) < 5
