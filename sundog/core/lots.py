"""Tasks that are alike travel together: what a burst submits, and what a worker says of a batch, in columns.

A message for each costs more than the work that it asks for: bytes are made and read, structs built, tables asked, once a task. In
a *lot* that is done once for all that they have in common. Nothing else changes: a lot means exactly what the messages mean of
which it was made, in their order, and a machine may always take it apart again (:func:`specs_of`, :func:`ends_of`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter

from sundog.core.machine import Fact
from sundog.core.messages import Result, TaskFinished, TasksFinished, TasksSubmitted, TaskSubmitted
from sundog.core.task import TaskSpec

#: Fewer than this travel on their own: taking them together has a price, too, which few do not repay.
LOT_MIN = 16
#: More than this are several lots: bounds what one event of a step may bring.
LOT_MAX = 1024

_function_of = attrgetter("spec.function_id")
#: All but what differs within a lot: names, and arguments as long as they are inline.
_common = attrgetter(
    "spec.name", "spec.contained", "spec.return_count", "spec.resources", "spec.retries_max", "spec.calls_max", "spec.priority",
    "spec.duration", "spec.arguments.offset",
)  # fmt: skip


def of_submissions(facts: Iterable[TaskSubmitted]) -> Iterator[TaskSubmitted | TasksSubmitted]:
    """Yield the same submissions, in their order, those that are alike in lots. Where tasks have dependencies, each has its own."""
    alone: list[TaskSubmitted] = []
    for fact in facts:
        if not fact.spec.dependencies:
            alone.append(fact)
            continue
        if alone:
            yield from _by_function(alone)
            alone = []
        yield fact
    yield from _by_function(alone)


def _by_function(facts: list[TaskSubmitted]) -> Iterable[TaskSubmitted | TasksSubmitted]:
    """Those of one function that come one after the other may be alike; to look at more of them costs more."""
    if len(facts) < LOT_MIN:
        return facts
    found: list[TaskSubmitted | TasksSubmitted] = []
    for _, group in groupby(facts, _function_of):
        same = list(group)
        if len(same) < LOT_MIN:
            found += same
            continue
        for _, alike in groupby(same, _common):
            found += _gathered(list(alike))
    return found


def _gathered(alike: list[TaskSubmitted]) -> Sequence[TaskSubmitted | TasksSubmitted]:
    first = alike[0].spec
    if len(alike) < LOT_MIN or first.return_count != 1 or first.contained or first.arguments.offset != -1:
        return alike
    lots = []
    for start in range(0, len(alike), LOT_MAX):
        specs = [fact.spec for fact in alike[start : start + LOT_MAX]]
        arguments = tuple([spec.arguments for spec in specs])
        first = specs[0]
        same = arguments.count(first.arguments) == len(arguments)  # most often there are none
        lots.append(TasksSubmitted(first, tuple([spec.task_id for spec in specs]), () if same else arguments))
    return lots


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
