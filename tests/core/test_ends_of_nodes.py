"""How nodes of a cluster end: with the session, and when the others take them for lost."""

from __future__ import annotations

from sundog.core import messages as msg
from sundog.core.units import MILLISECOND
from tests.core.test_several_nodes import cluster, on


def test_the_end_of_the_session_ends_every_node() -> None:
    made = cluster(3)
    made.head.driver.process.facts.append(msg.SessionEnding())
    made.run()
    assert made.nodes == [made.head]
    assert made.head.stopped


def test_a_lost_node_is_not_heard_by_anybody() -> None:
    """What it still asks for would be lent to it for ever."""
    made = cluster(3, inline_bytes_max=16, node_lost_after=100 * MILLISECOND)
    result = on(made.head, 1, "large")
    assert made.head.get(result) == [1]
    maker, other = made.nodes[1], made.nodes[2]
    maker.loop.append((made.head.host.here, msg.NodeLost(other.number)))
    made.run_for(MILLISECOND)
    maker.loop.append((other.host.here, msg.FetchRequested(result, 99)))
    made.run_for(MILLISECOND)
    assert not [extent for extent in maker.objects.ledger.extents() if extent.grants]
    made.kill(other)
    made.head.driver.drop_all()
    made.run()
    made.run_for(500 * MILLISECOND)
    made.check_empty()
