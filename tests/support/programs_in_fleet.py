"""Random programs of tasks, and what they mean: run in a :class:`~tests.support.fleet.Fleet`, or plainly, one call after another.

A program is a list of bodies; each is a list of operations on the references it has, and may call only bodies after it. The
plain interpretation has no tasks, no time and no failures but those that bodies raise; the fleet must come to the same values.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from random import Random
from typing import Any

import msgspec

from sundog.core import events as ev
from sundog.core import messages as msg
from sundog.core.ids import ObjectID
from sundog.core.resources import ONE_CPU, Shape
from sundog.core.units import MICROSECOND
from tests.support.builders import CPUS_2, GPU_1, inline, opened
from tests.support.fleet import Body, Execution, Fleet, Get, Raised, Refused, TaskFailed, Wait, Work

#: Every error has the same text: which of several reaches a dependent first is a matter of time.
BOOM = "boom"


class Call(msgspec.Struct, frozen=True):
    """Call body ``body``; ``dependencies`` and ``contained`` are places among the references, modulo their number."""

    body: int
    dependencies: tuple[int, ...] = ()
    contained: tuple[int, ...] = ()
    resources: Shape = ONE_CPU


class Put(msgspec.Struct, frozen=True):
    """Put a number, with references inside."""

    number: int
    contained: tuple[int, ...] = ()
    large: bool = False


class Fetch(msgspec.Struct, frozen=True):
    """Get values; what is inside them becomes references."""

    places: tuple[int, ...]


class Look(msgspec.Struct, frozen=True):
    """Wait, or get with a timeout, and do nothing with the outcome."""

    places: tuple[int, ...]
    count: int
    timeout: int | None
    get: bool = False


class Forget(msgspec.Struct, frozen=True):
    """Let a reference go."""

    place: int


class Cancelled(msgspec.Struct, frozen=True):
    """Call a body and try to cancel it; nobody looks at its result."""

    body: int


class Compute(msgspec.Struct, frozen=True):
    """Take time."""

    span: int


class Fail(msgspec.Struct, frozen=True):
    """Raise."""


Operation = Call | Put | Fetch | Look | Forget | Cancelled | Compute | Fail


class Routine(msgspec.Struct, frozen=True):
    """A body: what it does, and how many values it returns, each with a share of its references inside."""

    operations: tuple[Operation, ...]
    returns: int = 1
    large: bool = False


Program = tuple[Routine, ...]


# -- drawing one ------------------------------

_SPANS = (10 * MICROSECOND, 300 * MICROSECOND, 5_000 * MICROSECOND)
_TIMEOUTS = (None, 0, MICROSECOND, 2_000 * MICROSECOND)


def draw_program(rng: Random, bodies: int, operations: int, *, waiting_with_gpu: bool = False) -> Program:
    """Draw a program of ``bodies`` bodies with ``operations`` operations each; the first is the main one.

    ``waiting_with_gpu``: those that hold a GPU may wait for others that want it, which is a deadlock.
    """
    routines = []
    for index in range(bodies):
        after = range(index + 1, bodies)
        calls = 3 if index else 5
        drawn: list[Operation] = []
        for _ in range(operations):
            operation = _draw_operation(rng, after if calls else range(0))
            if index and not after and not waiting_with_gpu and isinstance(operation, Fetch | Look):
                operation = Forget(0)
            calls -= isinstance(operation, Call | Cancelled)
            drawn.append(operation)
        if index and not rng.randrange(10):
            drawn.insert(rng.randrange(len(drawn) + 1), Fail())
        returns = rng.choice((0, 1, 1, 2, 3) if index else (1, 1, 2, 3))
        routines.append(Routine(tuple(drawn), returns, not rng.randrange(3)))
    return tuple(routines)


def _draw_places(rng: Random, least: int, most: int) -> tuple[int, ...]:
    return tuple([rng.randrange(8) for _ in range(rng.randint(least, most))])


def _draw_operation(rng: Random, after: range) -> Operation:
    """Draw an operation of a body that may call those in ``after``; those that need a GPU call the last, which calls nobody."""
    kind = rng.randrange(12)
    if after and kind < 6:
        if kind == 0:
            return Cancelled(rng.choice(after))
        if kind == 1:
            return Call(after[-1], _draw_places(rng, 0, 2), (), GPU_1)
        shape = rng.choice((ONE_CPU, ONE_CPU, ONE_CPU, (), CPUS_2))
        return Call(rng.choice(after), _draw_places(rng, 0, 2), _draw_places(rng, 0, 2), shape)
    if kind < 8:
        return Put(rng.randrange(10), _draw_places(rng, 0, 2), not rng.randrange(2))
    if kind == 8:
        return Fetch(_draw_places(rng, 1, 3))
    if kind == 9:
        return Look(_draw_places(rng, 1, 3), rng.randint(1, 3), rng.choice(_TIMEOUTS), not rng.randrange(2))
    if kind == 10:
        return Forget(rng.randrange(8))
    return Compute(rng.choice(_SPANS))


# -- what a program means ------------------------------


class Box:
    """A value of the plain interpretation: a number, and what is inside; None instead of a number is an error."""

    def __init__(self, number: int | None, inside: Sequence[Box] = ()) -> None:
        self.number = number
        self.inside = tuple(inside)

    def told(self) -> Any:
        """Return it as plain data."""
        return BOOM if self.number is None else [self.number, [box.told() for box in self.inside]]


class _Failed(Exception):
    pass


def _at(references: Sequence[Any], places: Sequence[int], *, distinct: bool = False) -> list[Any]:
    """Return the references at ``places``."""
    if not references:
        return []
    found = [references[place % len(references)] for place in places]
    return list(dict.fromkeys(found)) if distinct else found


def _share(references: Sequence[Any], returns: int, index: int) -> list[Any]:
    """Return the references that go into the ``index``-th return: at most two."""
    return list(references[index::returns])[:2]


def _mixed(number: int, other: int) -> int:
    return (number * 31 + other) % 1_000_003


def plainly(program: Program, body: int = 0, numbers: Sequence[int] = (), references: Sequence[Box] = ()) -> tuple[Box, ...]:
    """Return what the body returns, given its dependencies' numbers and the references it is given."""
    routine = program[body]
    mine = list(references)
    number = body
    for each in numbers:
        number = _mixed(number, each)
    try:
        for operation in routine.operations:
            number = _do_plainly(program, operation, mine, number)
    except _Failed:
        return tuple([Box(None)] * routine.returns)
    return tuple([Box(_mixed(number, i), _share(mine, routine.returns, i)) for i in range(routine.returns)])


def _do_plainly(program: Program, operation: Operation, mine: list[Box], number: int) -> int:
    if isinstance(operation, Call):
        dependencies = _at(mine, operation.dependencies, distinct=True)
        if any(box.number is None for box in dependencies):
            mine += [Box(None)] * program[operation.body].returns
        else:
            given = [*_at(mine, operation.contained), *[inner for box in dependencies for inner in box.inside]]
            mine += plainly(program, operation.body, [box.number or 0 for box in dependencies], given)
    elif isinstance(operation, Put):
        mine.append(Box(operation.number, _at(mine, operation.contained)))
    elif isinstance(operation, Fetch):
        for box in _at(mine, operation.places):
            if box.number is None:
                raise _Failed
            number = _mixed(number, box.number)
            mine += box.inside
    elif isinstance(operation, Forget) and mine:
        mine.pop(operation.place % len(mine))
    elif isinstance(operation, Fail):
        raise _Failed
    return number


# -- the same, in a fleet ------------------------------


def bodies_of(program: Program, retries: int = 1000) -> dict[str, Body]:
    """Return the bodies of a fleet that runs the program, its tasks with so many retries."""
    return {f"body{index}": _body(program, index, retries) for index in range(len(program))}


def _body(program: Program, index: int, retries: int) -> Body:
    def body(execution: Execution) -> Generator[Any, Any, Any]:
        routine = program[index]
        number = index
        mine = list(execution.run.spec.contained)
        for value in execution.values:
            content, inside = execution.open(value)
            number = _mixed(number, content)
            mine += inside
        for operation in routine.operations:
            number = yield from _do(program, execution, operation, mine, number, retries)
        results = []
        for i in range(routine.returns):
            shared = tuple(_share(mine, routine.returns, i))
            value = inline(_mixed(number, i), *shared)
            if routine.large:
                value = yield from execution.large(value.size, _mixed(number, i), *shared)
            results.append(msg.Result(value, shared))
        return tuple(results)

    return body


def _do(
    program: Program, execution: Execution, operation: Operation, mine: list[ObjectID], number: int, retries: int
) -> Generator[Any, Any, int]:
    if isinstance(operation, Call):
        dependencies = tuple(_at(mine, operation.dependencies, distinct=True))
        contained = tuple(_at(mine, operation.contained))
        mine += execution.submit(
            f"body{operation.body}",
            *dependencies,
            contained=contained,
            return_count=program[operation.body].returns,
            resources=operation.resources,
            retries_max=retries,
        )
    elif isinstance(operation, Put):
        contained = tuple(_at(mine, operation.contained))
        value = inline(operation.number, *contained)
        if operation.large:
            value = yield from execution.large(value.size, operation.number, *contained)
        mine.append(execution.put(operation.number, *contained, value=value))
    elif isinstance(operation, Fetch):
        wanted = tuple(_at(mine, operation.places))
        for value in (yield Get(wanted)) if wanted else ():
            content, inside = execution.open(value)
            number = _mixed(number, content)
            mine += inside
    elif isinstance(operation, Look):
        yield from _look(operation, tuple(_at(mine, operation.places, distinct=True)))
    elif isinstance(operation, Forget) and mine:
        execution.drop(mine.pop(operation.place % len(mine)))
    elif isinstance(operation, Cancelled):
        returns = program[operation.body].returns
        made = execution.submit(f"body{operation.body}", return_count=returns, retries_max=retries)
        if made:
            execution.process.ask(lambda n: ev.Asked(n, msg.CancelRequested(n, (made[0],))))
    elif isinstance(operation, Compute):
        yield Work(operation.span)
    elif isinstance(operation, Fail):
        raise Raised(BOOM)
    return number


def _look(operation: Look, wanted: tuple[ObjectID, ...]) -> Generator[Any, Any, None]:
    if not wanted:
        return
    if not operation.get:
        yield Wait(wanted, min(operation.count, len(wanted)), operation.timeout)
    elif operation.timeout is not None:
        try:
            yield Get(wanted, operation.timeout)
        except Refused:
            pass


def outcome(fleet: Fleet, object_ids: Sequence[ObjectID], failures: Sequence[str] = (BOOM,)) -> list[Any]:
    """Return what the driver reads, down to the innermost reference, as :meth:`Box.told` says it.

    Errors must be among ``failures`` (texts, or kinds).
    """
    told: list[Any] = []
    for value in fleet.get_values(*object_ids):
        if value.error:
            text = opened(value.data)[0] if value.failure is None else value.failure.kind.value
            if text not in failures:
                raise TaskFailed(value)
            told.append(text)
        else:
            content, inside = fleet.driver.open(value)
            told.append([content, outcome(fleet, inside, failures)])
    return told
