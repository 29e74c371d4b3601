"""How nodes of a cluster end: with the session, and when the others take them for lost."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from sundog.core import events as ev
from sundog.core import messages as msg
from sundog.core.actions import Dispatch
from sundog.core.cluster_tasks import ClusterScheduler
from sundog.core.ids import DRIVER, HOST, LOOP, NodeID, ObjectID, ProcessID, address
from sundog.core.task import Value
from sundog.core.units import MILLISECOND
from tests.core.test_several_nodes import ONLY_ON, cluster, on
from tests.support.builders import FUNCTION, config, inline, said, submitted
from tests.support.fleet import Execution, Work


def test_the_end_of_the_session_ends_every_node() -> None:
    made = cluster(3)
    made.head.driver.process.facts.append(msg.SessionEnding())
    made.run()
    assert made.nodes == [made.head]
    assert made.head.stopped


def test_what_a_task_creates_after_its_node_was_lost_has_other_names() -> None:
    """Also when it is placed where it was submitted: what is left of the first run elsewhere is not taken for the second's."""
    made = cluster(3)
    children: list[ObjectID] = []

    def parent(execution: Execution) -> Generator[Any, Any, Value]:
        children.append(execution.call("here", resources=ONLY_ON[0]))
        yield Work(50 * MILLISECOND)
        return inline(None)

    made.bodies["parent"] = parent
    span = made.head.driver.put(5 * MILLISECOND)
    busy = made.head.driver.call("lasting", span)
    result = made.head.driver.call("parent", retries_max=1)
    made.run(lambda: bool(children))
    runner = next(node for node in made.nodes if any(name == "parent" for *_, name, _ in node.starts))
    assert runner is not made.head
    other = next(node for node in made.nodes[1:] if node is not runner)
    made.kill(other)
    made.kill(runner)
    assert made.head.get(busy, result) == [0, None]
    assert len(set(children)) == 2
    made.drop_all()
    made.check_empty()


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
    made.run_for(1_200 * MILLISECOND)
    made.check_empty()


def test_a_task_that_comes_back_from_a_lost_node_counts_its_starts_from_beyond_those_there() -> None:
    """Else what its body creates here is named like what it created there, some of which may still be under way."""
    here, driver = address(NodeID(0), HOST), address(NodeID(0), DRIVER)
    scheduler = ClusterScheduler(
        config(cpus=1, workers=1, offer_after=0, backlog_max=0), NodeID(0), here, here, driver, ProcessID(2)
    )
    first, second = submitted(1), submitted(2)
    scheduler.step(1, [(here, msg.NodeJoined(NodeID(0), ())), (here, msg.NodeJoined(NodeID(1), ()))])
    scheduler.step(2, [(LOOP, ev.WorkerStarted(ProcessID(2), 1002)), (driver, msg.FunctionExported(FUNCTION, "f", inline()))])
    left = said(scheduler.step(3, [(driver, first), (driver, second)]), msg.TaskLeaving)
    assert [message.spec.task_id for message in left] == [second.spec.task_id]
    back = msg.TaskAssigned(second.spec, driver, 1 << 16)
    done = msg.TaskFinished(first.spec.task_id, 1, (msg.Result(inline()),), 5)
    actions = scheduler.step(4, [(here, back), (address(NodeID(0), ProcessID(2)), done)])
    [dispatch] = [action for action in actions if type(action) is Dispatch]
    assert [run.start for run in dispatch.tasks] == [(1 << 16) + 1]
