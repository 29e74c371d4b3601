"""Tasks that are alike travel together: what a burst submits, and what a worker says of a batch, in columns.

A message for each costs more than the work that it asks for: bytes are made and read, structs built, tables asked, once a task. In
a *lot* that is done once for all that they have in common. Nothing else changes: a lot means exactly what the messages mean of
which it was made, in their order, and a machine may always take it apart again (:func:`specs_of`, :func:`ends_of`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter, itemgetter

from sundog.core.machine import Fact
from sundog.core.messages import Result, TaskFinished, TasksFinished, TasksSubmitted, TaskSubmitted
from sundog.core.task import TaskSpec

#: Fewer than this travel on their own.
LOT_MIN = 4
#: More than this are several lots: bounds what one event of a step may bring.
LOT_MAX = 1024

#: All but what differs within a lot: names, and arguments as long as they are inline.
_common = attrgetter(
    "function_id", "name", "dependencies", "contained", "return_count", "resources", "retries_max", "calls_max", "priority",
    "duration", "arguments.offset",
)  # fmt: skip
_spec_of, _first, _second = attrgetter("spec"), itemgetter(0), itemgetter(1)


def of_submissions(facts: Sequence[TaskSubmitted]) -> Iterator[TaskSubmitted | TasksSubmitted]:
    """Yield the same submissions, in their order, those that are alike in lots."""
    for _, group in groupby(zip(map(_common, map(_spec_of, facts)), facts, strict=True), _first):
        alike: list[TaskSubmitted] = list(map(_second, group))
        first = alike[0].spec
        if (
            len(alike) < LOT_MIN or first.return_count != 1 or first.dependencies or first.contained or first.arguments.offset != -1
        ):  # fmt: skip
            yield from alike
            continue
        for start in range(0, len(alike), LOT_MAX):
            specs: list[TaskSpec] = list(map(_spec_of, alike[start : start + LOT_MAX]))
            arguments = tuple([spec.arguments for spec in specs])
            first = specs[0]
            same = arguments.count(first.arguments) == len(arguments)  # most often there are none
            yield TasksSubmitted(first, tuple([spec.task_id for spec in specs]), () if same else arguments)


def specs_of(lot: TasksSubmitted) -> list[TaskSpec]:
    """Return the tasks of ``lot``, in their order. What they have in common are the very same objects."""
    first = lot.spec
    function_id, name, resources, retries_max = first.function_id, first.name, first.resources, first.retries_max
    calls_max, priority, duration = first.calls_max, first.priority, first.duration
    arguments = lot.arguments or (first.arguments,) * len(lot.task_ids)
    return [
        TaskSpec(task_id, function_id, name, value, (), (), 1, resources, retries_max, calls_max, priority, duration)
        for task_id, value in zip(lot.task_ids, arguments, strict=True)
    ]


def _is_plain(fact: TaskFinished) -> bool:
    """Tell whether a task gave one value that travels inline, and nothing else is to be said of it."""
    results = fact.results
    if len(results) != 1 or fact.retryable:
        return False
    result = results[0]
    return not result.contained and result.value.offset == -1 and not result.value.error


def of_ends(facts: Iterable[TaskFinished]) -> Iterator[TaskFinished | TasksFinished]:
    """Yield the same ends of tasks, in their order, those that are plain in lots."""
    for plain, group in groupby(facts, _is_plain):
        alike = list(group)
        if not plain or len(alike) < LOT_MIN:
            yield from alike
            continue
        for start in range(0, len(alike), LOT_MAX):
            ends = alike[start : start + LOT_MAX]
            yield TasksFinished(
                tuple([end.task_id for end in ends]),
                tuple([end.attempt for end in ends]),
                tuple([end.results[0].value for end in ends]),
                tuple([end.duration for end in ends]),
            )


def ends_of(lot: TasksFinished, start: int = 0) -> list[TaskFinished]:
    """Return what ``lot`` says of each task from the ``start``-th on, in their order."""
    columns = zip(lot.task_ids, lot.attempts, lot.values, lot.durations, strict=True)
    ends = [TaskFinished(task_id, attempt, (Result(value),), duration) for task_id, attempt, value, duration in columns]
    return ends[start:]


def singly(fact: Fact) -> Sequence[Fact]:
    """Return the messages of which a lot was made; any other fact as it is."""
    if type(fact) is TasksSubmitted:
        return [TaskSubmitted(spec) for spec in specs_of(fact)]
    if type(fact) is TasksFinished:
        return ends_of(fact)
    return (fact,)
