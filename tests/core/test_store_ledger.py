"""Who occupies which bytes (P9): room, an extent's life, grants."""

from __future__ import annotations

import pytest

from sundog.core.errors import InvariantViolation
from sundog.core.ids import Address
from sundog.core.store_ledger import Extent, ExtentState, StoreLedger
from tests.support.builders import AT_DRIVER, put_id, worker_at

W2, W3 = worker_at(2), worker_at(3)


def ledger(capacity: int = 1024, warm: int = 1024) -> StoreLedger:
    return StoreLedger(capacity, 64, warm)


def taken(store: StoreLedger, size: int, writer: Address = W2) -> Extent:
    extent = store.allocate(size, writer)
    assert extent is not None
    store.check_invariants()
    return extent


def sealed(store: StoreLedger, size: int, number: int) -> Extent:
    extent = taken(store, size)
    assert store.seal(extent.offset, put_id(number), W2)
    return extent


def places(store: StoreLedger) -> list[tuple[int, int, str]]:
    store.check_invariants()
    return [(e.offset, e.size, e.state.value) for e in store.extents()]


def test_extents_are_aligned_and_do_not_overlap() -> None:
    store = ledger()
    assert [taken(store, size).offset for size in (1, 64, 65, 0)] == [0, 64, 128, 256]
    assert places(store) == [(0, 64, "writing"), (64, 64, "writing"), (128, 128, "writing"), (256, 64, "writing")]
    assert store.used_bytes == 320
    assert store.largest_free() == 1024 - 320


def test_the_whole_arena_can_be_one_extent_and_no_more() -> None:
    store = ledger(1000)
    assert store.capacity == 960, "a rest smaller than the alignment is of no use"
    assert taken(store, 960).size == 960
    assert store.allocate(1, W2) is None
    assert ledger(0).allocate(1, W2) is None


def test_only_its_writer_seals_an_extent_and_only_once() -> None:
    store = ledger()
    extent = taken(store, 64)
    assert not store.seal(extent.offset, put_id(1), W3)
    assert not store.seal(64, put_id(1), W2)
    assert store.seal(extent.offset, put_id(1), W2)
    assert not store.seal(extent.offset, put_id(2), W2)
    assert extent.state is ExtentState.SEALED


def test_an_object_that_goes_leaves_its_room_warm_and_warm_room_is_handed_out_first() -> None:
    store = ledger()
    first = sealed(store, 128, 1)
    sealed(store, 64, 2)
    assert store.free(put_id(1)) == []
    again = taken(store, 64)
    assert (again.offset, again.warm) == (first.offset, True)
    assert (taken(store, 128).offset, taken(store, 64).offset) == (192, 64), "what does not fit there is cold, and then the rest"


def test_warm_room_beyond_its_bound_goes_back_to_the_system() -> None:
    store = ledger(warm=128)
    sealed(store, 128, 1)
    sealed(store, 64, 2)
    assert store.free(put_id(1)) == []
    assert store.free(put_id(2)) == [(128, 64)]
    assert not taken(store, 256).warm


def test_neighbours_of_both_kinds_are_joined_when_nothing_else_is_large_enough() -> None:
    store = ledger(warm=512)
    sealed(store, 512, 1)
    store.free(put_id(1))
    whole = taken(store, 1024)
    assert (whole.offset, whole.warm) == (0, False)


def test_room_between_extents_is_found_and_joined_with_its_neighbours() -> None:
    store = ledger(256)
    for number in range(4):
        sealed(store, 64, number)
    assert store.allocate(64, W2) is None
    store.free(put_id(1))
    assert store.allocate(65, W2) is None
    store.free(put_id(2))
    assert taken(store, 128).offset == 64


def test_an_object_with_grants_keeps_its_bytes_until_the_last_is_given_back() -> None:
    store = ledger()
    sealed(store, 64, 1)
    for process in (W2, W3, W3):
        store.grant(put_id(1), process)
    assert store.free(put_id(1)) == []
    assert places(store) == [(0, 64, "orphaned")]
    for process in (W3, W2):
        store.give_back(put_id(1), process)
        assert places(store) == [(0, 64, "orphaned")]
    store.give_back(put_id(1), W3)
    assert places(store) == []


def test_what_is_given_back_without_having_been_granted_counts_for_nothing() -> None:
    store = ledger()
    sealed(store, 64, 1)
    store.grant(put_id(1), W2)
    store.give_back(put_id(1), W3)
    store.give_back(put_id(2), W2)
    store.free(put_id(1))
    assert places(store) == [(0, 64, "orphaned")]
    store.grant(put_id(3), W2)


def test_a_writer_can_give_an_unsealed_extent_back_and_nobody_else() -> None:
    store = ledger()
    extent = taken(store, 64)
    store.abandon(extent.offset, W3, written=True)
    assert places(store) == [(0, 64, "writing")]
    store.abandon(extent.offset, W2, written=False)
    assert places(store) == []
    assert not taken(store, 64).warm
    assert store.abandon(0, W2, written=True) == [(0, 64)], "half of its pages are worse than none: the next writer would not ask"
    assert not taken(store, 64).warm
    store.seal(0, put_id(1), W2)
    assert store.abandon(0, W2, written=True) == []
    assert places(store) == [(0, 64, "sealed")], "a sealed extent is the object's"


def test_a_warm_extent_that_comes_back_unsealed_stays_warm() -> None:
    store = ledger()
    sealed(store, 64, 1)
    store.free(put_id(1))
    assert taken(store, 64).warm
    assert store.abandon(0, W2, written=True) == []
    assert taken(store, 64).warm
    assert store.process_lost(W2) == []
    assert taken(store, 64).warm


def test_what_a_dead_process_was_writing_goes_back_to_the_system() -> None:
    store = ledger()
    taken(store, 128)
    assert store.process_lost(W2) == [(0, 128)]
    assert not taken(store, 128).warm


def test_a_writer_gets_first_what_it_wrote_last() -> None:
    store = ledger()
    for number, writer in ((1, W2), (2, AT_DRIVER), (3, W3), (4, AT_DRIVER), (5, W2)):
        assert store.seal(taken(store, 128, writer).offset, put_id(number), writer)
    for number in (1, 3, 5):
        store.free(put_id(number))
    assert taken(store, 64, W3).offset == 256
    assert taken(store, 128, W2).offset == 0
    assert taken(store, 128, W3).offset == 512, "another's warm room is better than cold room"
    assert taken(store, 64, AT_DRIVER).offset == 320
    assert not taken(store, 64, AT_DRIVER).warm


def test_joined_room_is_that_of_who_wrote_most_of_it() -> None:
    store = ledger(448)
    for number, (size, writer) in enumerate([(64, W3), (128, W2), (64, AT_DRIVER), (192, W3)]):
        assert store.seal(taken(store, size, writer).offset, put_id(number), writer)
    for number in (0, 1, 3):
        store.free(put_id(number))
    assert taken(store, 64, W3).offset == 256
    assert taken(store, 64, W2).offset == 0


def test_ones_own_room_is_found_behind_any_number_of_others() -> None:
    count = 300
    store = ledger(2 * 64 * count, 2 * 64 * count)
    for number in range(2 * count):
        writer = W2 if number == 2 * (count - 1) else W3
        assert store.seal(taken(store, 64, writer).offset, put_id(number), writer)
    for number in range(0, 2 * count, 2):
        store.free(put_id(number))
    assert taken(store, 64, W2).offset == 64 * 2 * (count - 1)
    assert taken(store, 64, W2).offset == 0, "then the first of the others'"


def test_the_smallest_room_that_is_large_enough_is_taken_and_of_equals_the_first() -> None:
    store = ledger(2048)
    sizes = [256, 64, 128, 64, 192, 64, 128, 64]
    for number, size in enumerate(sizes):
        sealed(store, size, number)
    for number in (0, 2, 4, 6):
        store.free(put_id(number))
    assert [taken(store, size).offset for size in (128, 128, 128, 128, 128, 64)] == [320, 768, 512, 0, 128, 640]
    assert not taken(store, 64).warm, "all that was free and warm is taken"


def test_a_dead_process_loses_its_grants_and_unsealed_extents_and_nothing_else() -> None:
    store = ledger()
    sealed(store, 64, 1)
    sealed(store, 64, 2)
    taken(store, 64, W2)
    taken(store, 64, W3)
    store.grant(put_id(1), W2)
    store.grant(put_id(2), W2)
    store.grant(put_id(2), AT_DRIVER)
    store.free(put_id(1))
    store.free(put_id(2))
    store.process_lost(W2)
    assert places(store) == [(64, 64, "orphaned"), (192, 64, "writing")]
    store.give_back(put_id(2), AT_DRIVER)
    assert places(store) == [(192, 64, "writing")]


def test_an_impossible_state_is_found() -> None:
    store = ledger()
    sealed(store, 64, 1)
    store.extents()[0].state = ExtentState.ORPHANED
    with pytest.raises(InvariantViolation, match="orphaned extent at 0 has no grants"):
        store.check_invariants()
    store = ledger()
    taken(store, 64).size = 128
    with pytest.raises(InvariantViolation, match="S9"):
        store.check_invariants()
