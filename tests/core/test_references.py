"""Who holds what (P4): an object lives while its count of holders is over 0."""

from __future__ import annotations

from sundog.core.references import References
from tests.support.builders import AT_DRIVER, put_id, worker_at

X, Y = put_id(1), put_id(2)
W2, W3 = worker_at(2), worker_at(3)


def test_a_process_counts_once_however_often_it_holds() -> None:
    references = References()
    references.declare(X, AT_DRIVER)
    references.declare(X, AT_DRIVER)
    assert references.process_holds(X, AT_DRIVER)
    assert references.counts == {X: 1}
    assert references.process_releases(X, AT_DRIVER)
    assert references.counts == {}


def test_a_task_or_container_counts_for_each_mention() -> None:
    references = References()
    references.declare(X, AT_DRIVER)
    references.hold(X)
    references.hold(X)
    assert references.counts == {X: 3}
    assert not references.process_releases(X, AT_DRIVER)
    assert not references.drop(X)
    assert references.drop(X)


def test_an_object_that_nobody_holds_is_never_resurrected() -> None:
    references = References()
    assert not references.process_holds(X, W2)
    assert references.counts == {}
    references.declare(X, W2)
    assert references.process_releases(X, W2)
    assert not references.process_holds(X, W3)
    assert references.counts == {}


def test_a_release_by_a_process_that_does_not_hold_counts_for_nothing() -> None:
    references = References()
    references.declare(X, AT_DRIVER)
    assert not references.process_releases(X, W2)
    assert not references.process_releases(Y, AT_DRIVER)
    assert references.counts == {X: 1}


def test_what_a_dead_process_held_alone_is_free_in_the_order_of_its_taking() -> None:
    references = References()
    references.declare(Y, W2)
    references.declare(X, W2)
    references.process_holds(X, W3)
    assert references.process_lost(W2) == [Y]
    assert references.process_lost(W2) == []
    assert references.holders(X) == [W3]


def test_what_escaped_is_held_once_and_for_good() -> None:
    references = References()
    references.escape(X)
    assert references.counts == {}, "what does not exist cannot be held"
    references.declare(X, W2)
    references.escape(X)
    references.escape(X)
    assert references.counts == {X: 2}
    assert references.process_lost(W2) == []
    assert references.counts == {X: 1}


def test_the_expected_counts_are_those_of_processes_mentions_and_escapes() -> None:
    references = References()
    references.declare(X, AT_DRIVER)
    references.process_holds(X, W2)
    references.hold(X)
    references.declare(Y, W2)
    references.escape(Y)
    assert references.expected([X]) == references.counts == {X: 3, Y: 2}
    assert list(references.held_by_processes()) == [(AT_DRIVER, 1), (W2, 2)]
    assert references.expected([]) != references.counts
