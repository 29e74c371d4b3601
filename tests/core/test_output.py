"""The bound on workers' output: nothing vanishes without being counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sundog.core.config import Config
from sundog.core.ids import ProcessID
from sundog.core.output import OutputBudget
from sundog.core.units import MILLISECOND, SECOND

W = ProcessID(2)


def budget(rate: int) -> OutputBudget:
    return OutputBudget(Config(output_bytes_per_second_max=rate))


def test_what_fits_passes_as_it_is() -> None:
    bound = budget(100)
    assert bound.admit(0, W, "a line\nand a prompt: ") == ("a line\nand a prompt: ", 0)
    assert bound.next_deadline() is None


def test_a_flood_is_cut_at_a_line_and_counted_before_the_next_text() -> None:
    bound = budget(10)
    assert bound.admit(0, W, "12345\n789\nxyz\n") == ("12345\n789\n", 0)
    assert bound.admit(0, W, "more\n") == ("", 0)
    assert bound.admit(100 * MILLISECOND, W, "m\n") == ("", 0), "not yet: a quarter of the bucket, then blocks of lines"
    assert bound.admit(SECOND - 1, W, "again\n") == ("again\n", 4 + 5 + 2)
    assert bound.next_deadline() is None


def test_a_count_that_no_text_follows_is_told_by_itself() -> None:
    bound = budget(4)
    bound.admit(7, W, "abcdefgh\n")
    assert bound.next_deadline() == 7 + SECOND
    assert bound.expire(SECOND) == []
    assert bound.expire(7 + SECOND) == [(W, 9)]
    assert bound.next_deadline() is None
    bound.admit(7 + SECOND, W, "abcdefgh\n")
    assert bound.forget(W) == 9
    assert bound.forget(W) == 0


def test_bytes_are_counted_not_characters() -> None:
    bound = budget(4)
    assert bound.admit(0, W, "äö") == ("äö", 0)
    assert bound.admit(0, W, "\udc80") == ("", 0), "what could not be decoded is three bytes"
    assert bound.forget(W) == 3


@given(st.lists(st.tuples(st.integers(0, SECOND), st.integers(2, 4), st.text(alphabet="ab\nä", max_size=12)), max_size=60))
def test_every_byte_is_shown_or_counted_and_the_rate_holds(prints: list[tuple[int, int, str]]) -> None:
    rate = 16
    bound = budget(rate)
    now = written = shown_total = told = 0
    for pause, worker, text in prints:
        now += pause
        told += sum(count for _, count in bound.expire(now))
        shown, dropped = bound.admit(now, ProcessID(worker), text)
        assert text.startswith(shown)
        assert shown or not dropped
        written += len(text.encode())
        shown_total += len(shown.encode())
        told += dropped
        assert shown_total <= rate + rate * now // SECOND
    told += sum(bound.forget(ProcessID(worker)) for worker in range(2, 5))
    assert shown_total + told == written
    assert bound.next_deadline() is None
