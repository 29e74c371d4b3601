"""Who holds what (P4): an object lives while its count of holders is over 0."""

from __future__ import annotations

from sundog.core.object_record import ObjectRecord
from sundog.core.references import References
from tests.support.builders import AT_DRIVER, put_id, worker_at

X, Y = put_id(1), put_id(2)
W2, W3 = worker_at(2), worker_at(3)


def test_a_process_counts_once_however_often_it_holds() -> None:
    references, x = References(), ObjectRecord()
    references.declare(X, x, AT_DRIVER)
    references.declare(X, x, AT_DRIVER)
    assert references.process_holds(X, x, AT_DRIVER)
    assert x.holders == 1
    assert references.holders(X) == [AT_DRIVER]


def test_an_object_that_nobody_holds_is_never_resurrected() -> None:
    references, unheld = References(), ObjectRecord()
    assert not references.process_holds(X, None, W2)
    assert not references.process_holds(X, unheld, W2)
    assert unheld.holders == 0
    assert references.holders(X) == []


def test_what_a_dead_process_held_is_told_in_the_order_of_its_taking() -> None:
    references, x, y = References(), ObjectRecord(), ObjectRecord()
    references.declare(Y, y, W2)
    references.declare(X, x, W2)
    references.process_holds(X, x, W3)
    assert list(references.process_lost(W2)) == [Y, X]
    assert list(references.process_lost(W2)) == []
    assert references.holders(X) == [W3]


def test_what_escaped_is_held_once_and_for_good() -> None:
    references, x = References(), ObjectRecord()
    references.escape(X, None)
    references.escape(X, x)
    assert x.holders == 0, "what does not exist, or is about to go, cannot be held"
    references.declare(X, x, W2)
    references.escape(X, x)
    references.escape(X, x)
    assert x.holders == 2


def test_the_expected_counts_are_those_of_processes_mentions_and_escapes() -> None:
    references, x, y = References(), ObjectRecord(), ObjectRecord()
    references.declare(X, x, AT_DRIVER)
    references.process_holds(X, x, W2)
    references.declare(Y, y, W2)
    references.escape(Y, y)
    assert references.expected([X]) == {X: x.holders + 1, Y: y.holders} == {X: 3, Y: 2}
