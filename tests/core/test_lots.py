"""Lots: what is alike travels together, everything else on its own, and a lot says what the messages say of which it was made."""

from __future__ import annotations

from typing import Any

import pytest

from sundog.core import messages as msg
from sundog.core.lots import LOT_MAX, LOT_MIN, ends_of, of_ends, of_submissions, singly, specs_of
from tests.support.builders import CPUS_2, arena, error, inline, put_id, result, returned, submitted, task_id


def ended(number: int, *results: msg.Result, **fields: Any) -> msg.TaskFinished:
    return msg.TaskFinished(task_id(number), 1, results or (result(number),), 1000 + number, **fields)


def alike(first: int, count: int, **fields: Any) -> list[msg.TaskSubmitted]:
    return [submitted(number, name="f", **fields) for number in range(first, first + count)]


def test_a_burst_is_one_lot_and_means_the_same() -> None:
    burst = alike(1, LOT_MIN)
    [lot] = of_submissions(burst)
    assert isinstance(lot, msg.TasksSubmitted)
    assert lot.arguments == (), "they all have those of the first"
    assert singly(lot) == burst
    others = [submitted(number, name="f", arguments=inline(number)) for number in range(LOT_MIN)]
    [lot] = of_submissions(others)
    assert isinstance(lot, msg.TasksSubmitted)
    assert specs_of(lot) == [fact.spec for fact in others]
    assert specs_of(lot)[0].resources is specs_of(lot)[8].resources


@pytest.mark.parametrize(
    "odd",
    [
        {"return_count": 2}, {"return_count": 0}, {"contained": (put_id(1),)}, {"arguments": arena(0)},
        {"dependencies": (returned(9),)},
    ],
)  # fmt: skip
def test_what_needs_a_look_travels_on_its_own(odd: dict[str, Any]) -> None:
    dependencies = odd.pop("dependencies", ())
    facts = [submitted(number, *dependencies, name="f", **odd) for number in range(2 * LOT_MIN)]
    assert list(of_submissions(facts)) == facts


@pytest.mark.parametrize(
    "other", [{"name": "g"}, {"resources": CPUS_2}, {"retries_max": 0}, {"calls_max": 5}, {"priority": 1}, {"duration": 5}]
)
def test_what_differs_in_more_than_arguments_is_in_another_lot(other: dict[str, Any]) -> None:
    there = [submitted(number, **({"name": "f"} | other)) for number in range(100, 100 + LOT_MIN)]
    facts = [*alike(1, LOT_MIN), *there, *alike(200, LOT_MIN)]
    lots = list(of_submissions(facts))
    assert [type(lot) for lot in lots] == [msg.TasksSubmitted] * 3
    assert [one for lot in lots for one in singly(lot)] == facts


def test_few_travel_on_their_own_and_very_many_in_several_lots() -> None:
    assert list(of_submissions(alike(1, LOT_MIN - 1))) == alike(1, LOT_MIN - 1)
    many = alike(1, LOT_MAX + 1)
    lots = list(of_submissions(many))
    assert [len(lot.task_ids) for lot in lots if isinstance(lot, msg.TasksSubmitted)] == [LOT_MAX, 1]
    assert [one for lot in lots for one in singly(lot)] == many


def test_ends_with_one_small_value_are_a_lot_and_mean_the_same() -> None:
    ends = [ended(number) for number in range(LOT_MIN)]
    [lot] = of_ends(ends)
    assert isinstance(lot, msg.TasksFinished)
    assert singly(lot) == ends
    assert ends_of(lot, 7) == ends[7:]


@pytest.mark.parametrize(
    "odd",
    [
        ended(50, msg.Result(error())), ended(50, msg.Result(arena(0))), ended(50, result(1, put_id(1))),
        ended(50, result(1), result(2)), msg.TaskFinished(task_id(50), 1, (), 7), ended(50, retryable=True),
    ],
)  # fmt: skip
def test_an_end_that_needs_a_look_parts_a_lot(odd: msg.TaskFinished) -> None:
    ends = [*[ended(number) for number in range(LOT_MIN)], odd, *[ended(number) for number in range(60, 60 + LOT_MIN)]]
    lots = list(of_ends(ends))
    assert [type(lot) for lot in lots] == [msg.TasksFinished, msg.TaskFinished, msg.TasksFinished]
    assert [one for lot in lots for one in singly(lot)] == ends
