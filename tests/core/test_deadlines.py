"""Deadlines against a plain dict."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sundog.core.deadlines import Deadlines


def test_order_of_time_then_of_setting() -> None:
    deadlines: Deadlines[str] = Deadlines()
    for key, at in (("c", 5), ("a", 5), ("b", 1), ("late", 9)):
        deadlines.set(key, at)
    deadlines.set("c", 5)  # set again: now after "a"
    assert deadlines.next() == 1
    assert deadlines.pop_due(5) == ["b", "a", "c"]
    assert deadlines.next() == 9
    assert "late" in deadlines
    assert len(deadlines) == 1


def test_shift_moves_all_and_only_what_is_set_already() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.set("old", 10)
    deadlines.shift(5)
    deadlines.set("new", 11)
    assert deadlines.pop_due(14) == ["new"]
    assert deadlines.next() == 15


def test_garbage_is_bounded() -> None:
    deadlines: Deadlines[int] = Deadlines()
    deadlines.set(-1, 1)
    for at in range(10_000):
        deadlines.set(7, at)
        deadlines.set(8, at)
        deadlines.cancel(8)
    assert len(deadlines._heap) < 200


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("set"), st.integers(0, 5), st.integers(0, 20)),
            st.tuples(st.just("cancel"), st.integers(0, 5), st.just(0)),
            st.tuples(st.just("pop"), st.just(0), st.integers(0, 20)),
        )
    )
)
def test_agrees_with_a_dict(moves: list[tuple[str, int, int]]) -> None:
    deadlines: Deadlines[int] = Deadlines()
    model: dict[int, tuple[int, int]] = {}
    for number, (move, key, at) in enumerate(moves):
        if move == "set":
            deadlines.set(key, at)
            model[key] = (at, number)
        elif move == "cancel":
            deadlines.cancel(key)
            model.pop(key, None)
        else:
            due = sorted((k for k in model if model[k][0] <= at), key=lambda k: model[k])
            assert deadlines.pop_due(at) == due
            for done in due:
                del model[done]
        assert deadlines.next() == min((entry[0] for entry in model.values()), default=None)
        assert len(deadlines) == len(model)
