"""Who waits for which object."""

from __future__ import annotations

from benchmarks.operations import Operations
from sundog.core.dependencies import Dependencies
from sundog.core.ids import ObjectID

ONE, OTHER = ObjectID(b"one"), ObjectID(b"other")


class Waiter:
    """Anything that waits."""

    def __init__(self, order: int) -> None:
        self.order = order


def test_those_that_wait_are_told_in_the_order_of_their_asking_and_once() -> None:
    first, second, third = Waiter(1), Waiter(2), Waiter(3)
    waiting: Dependencies[Waiter] = Dependencies()
    for waiter in (first, second, third, first):
        waiting.add(ONE, waiter)
    waiting.add(OTHER, second)
    waiting.remove(ONE, second)
    waiting.remove(ONE, second)
    assert waiting.waiting_for(ONE) == [first, third]
    assert list(waiting.ready(ONE)) == [first, third]
    assert list(waiting.ready(ONE)) == []
    assert waiting.waiting_for(OTHER) == [second]
    waiting.remove(OTHER, second)
    assert len(waiting) == 0


def test_one_of_many_leaves_without_a_look_at_the_rest() -> None:
    def leaving(count: int) -> float:
        waiters = [Waiter(order) for order in range(count)]
        waiting: Dependencies[Waiter] = Dependencies()
        for waiter in waiters:
            waiting.add(ONE, waiter)
        operations = Operations()
        with operations.counted():
            for waiter in reversed(waiters):
                waiting.remove(ONE, waiter)
        return operations.total / count

    assert leaving(1000) < 1.5 * leaving(10)
